"""Training, in plain PyTorch with the data resident."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, pad
from tqdm.auto import trange

from ._checks import check_choice
from ._graph import structure
from .data import Dataset

__all__ = ["SCHEDULES", "Trained", "sgd"]

#: Factor on the learning rate as a function of the fraction of the training that is done.
SCHEDULES = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "steps": lambda done: 0.2 ** ((done >= 1 / 2) + (done >= 3 / 4)),  # epochs 150 and 225 of 300
}


@dataclass(frozen=True)
class Trained:
    """What a training leaves.

    Attributes:
        state: The final state dict.
        history: One row for each epoch: epoch, learning rate, mean training loss and error during
            the epoch (of the moving weights, with augmentation).
    """

    state: dict[str, Tensor]
    history: pd.DataFrame


def sgd(
    model: nn.Module, train: Dataset, *, epochs: int, generator: torch.Generator,
    batch_size: int = 128, lr: float = 0.1, momentum: float = 0.9, nesterov: bool = True,
    weight_decay: float = 5e-4, schedule: str = "cosine", augment: bool = False,
    progress: bool = False,
) -> Trained:  # fmt: skip
    """Stochastic gradient descent on the cross-entropy, from the model's own weights.

    The settings of the paper's authors (their code for arXiv 2006.07897) are the defaults, but for
    the schedule, which is theirs with ``"steps"``.

    Args:
        model: Where to start; it is not changed.
        train: Training data; the training runs on its device.
        epochs: Passes over the data; 0 returns the start.
        generator: Draws the order of the images and the augmentation (on the CPU).
        batch_size: Images in a step, at most all of them; an epoch leaves out the remainder
            (another one each time).
        lr: Learning rate at the start.
        momentum: In [0, 1).
        nesterov: Nesterov's momentum (ignored without momentum).
        weight_decay: Times the weights, added to the gradient.
        schedule: ``"cosine"`` to 0, ``"steps"`` (divided by 5 at 1/2 and 3/4 of the epochs),
            ``"constant"``.
        augment: Shift by up to 4 pixels (an eighth of a CIFAR image) and flip left and right.
        progress: Show a progress bar.

    Returns:
        The trained state and the history.

    Raises:
        ValueError: If the schedule is unknown or epochs negative.
        FloatingPointError: If the loss is no longer finite; names the epoch.

    Example:
        >>> import torch, toroid
        >>> train, test = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(32,))
        >>> trained = sgd(model, train, epochs=5, generator=torch.Generator().manual_seed(0))
        >>> toroid.evaluate(trained.state, model, test).error < 0.2
        True
    """
    check_choice("schedule", schedule, tuple(SCHEDULES))
    if epochs < 0:
        raise ValueError(f"epochs is {epochs}; it must not be negative")
    device = train.images.device
    state = {k: v.detach().to(device, copy=True) for k, v in model.state_dict().items()}
    weights = {k: state[k].requires_grad_() for k, p in model.named_parameters() if p.requires_grad}
    network = structure(model).train()
    optimizer = torch.optim.SGD(
        weights.values(),
        lr,
        momentum,
        weight_decay=weight_decay,
        nesterov=nesterov and momentum > 0,
    )
    batch_size = min(batch_size, len(train))
    batches = len(train) // batch_size
    steps = max(1, epochs * batches)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: SCHEDULES[schedule](step / steps)
    )
    rows = []
    for epoch in trange(epochs, disable=not progress, leave=False):
        loss, wrong, rate = (
            torch.zeros((), device=device),
            torch.zeros((), device=device),
            scheduler.get_last_lr()[0],
        )
        order = torch.randperm(len(train), generator=generator)[: batches * batch_size].to(device)
        for batch in order.split(batch_size):
            images, labels = train.images[batch], train.labels[batch]
            output = functional_call(
                network, state, (_augment(images, generator) if augment else images,)
            )
            step_loss = cross_entropy(output, labels)
            optimizer.zero_grad()
            step_loss.backward()
            optimizer.step()
            scheduler.step()
            loss += step_loss.detach() * len(batch)
            wrong += (output.argmax(1) != labels).sum()
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {float(loss)} in epoch {epoch}; a smaller lr than {lr} may help"
            )
        rows.append((epoch, rate, float(loss) / len(order), float(wrong) / len(order)))
    history = pd.DataFrame(rows, columns=["epoch", "lr", "loss", "error"])
    return Trained({k: v.detach() for k, v in state.items()}, history)


def _augment(images: Tensor, generator: torch.Generator, shift: int = 4) -> Tensor:
    """Each image moved by up to `shift` pixels (zeros come in) and flipped, at random."""
    count, _, height, width = images.shape
    draw = torch.randint(0, 2 * shift + 1, (2, count), generator=generator).to(images.device)
    flip = torch.rand(count, generator=generator).to(images.device) < 0.5
    padded = pad(images, [shift] * 4)  # (N, C, H + 2s, W + 2s)
    rows = draw[0][:, None] + torch.arange(height, device=images.device)  # (N, H)
    across = torch.arange(width, device=images.device).expand(count, -1)
    columns = draw[1][:, None] + torch.where(flip[:, None], across.flip(1), across)  # (N, W)
    index = torch.arange(count, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )
