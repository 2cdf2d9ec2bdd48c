"""Training, in plain PyTorch with the data resident: minimizers of chosen flatness.

Every algorithm starts from a model's own weights and returns a `Trained`. What they share is an
epoch's walk over the data; each has its own step. Several networks of one shape can share the walk:
the replicas of `replicated_sgd`, or the seeds of `sgd`.
"""

from __future__ import annotations

import copy
import json
import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy, pad
from tqdm.auto import tqdm

from ._checks import check_choice
from ._graph import structure
from .data import Dataset
from .landscape import evaluate, refresh

__all__ = [
    "SCHEDULES", "Checkpoint", "Trained", "adversarial", "entropy_sgd", "replicated_sgd", "sam",
    "sgd", "sgd_many", "swa",
]  # fmt: skip

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
            the epoch (of the moving weights, with augmentation), and what else an algorithm has to
            say.
        report: What an algorithm says of its end; ``"failed"`` is empty, or says why the result is
            not what was asked for.
    """

    state: dict[str, Tensor]
    history: pd.DataFrame
    report: dict[str, Any] = field(default_factory=lambda: {"failed": ""})


class Checkpoint:
    """A file that a training is cut off and goes on from, with the same final bits.

    It holds all that changes from epoch to epoch, is replaced as a whole after each, and is not a
    pickle.

    Args:
        path: A safetensors file; it need not exist.

    Example:
        >>> import tempfile, torch, toroid
        >>> train, _ = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(8,))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpoint = Checkpoint(f"{folder}/run.safetensors")
        ...     options = {"generator": torch.Generator(), "checkpoint": checkpoint}
        ...     trained = sgd(model, train, epochs=2, **options)
        ...     again = sgd(model, train, epochs=2, **options)  # nothing is left to do
        >>> bool((trained.state["1.weight"] == again.state["1.weight"]).all())
        True
    """

    def __init__(self, path: str | os.PathLike) -> None:
        """Name the file."""
        self.path = Path(path)

    def part(self, name: str) -> Checkpoint:
        """That of one part of a training."""
        return Checkpoint(self.path.with_suffix(f".{name}{self.path.suffix}"))

    def remove(self) -> None:
        """Delete the file, and those of parts."""
        for path in self.path.parent.glob(f"{self.path.stem}.*"):
            path.unlink(missing_ok=True)

    def save(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Replace what is there."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(f".{platform.node()}-{os.getpid()}.part")
        flat = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        save_file(flat, part, {"record": json.dumps(record)})
        part.replace(self.path)

    def load(self, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was saved; None if nothing was, or the file cannot be read."""
        try:
            with safe_open(self.path, "pt") as file:
                tensors = {k: file.get_tensor(k).to(device) for k in file.keys()}  # noqa: SIM118
                return tensors, json.loads(file.metadata()["record"])
        except (FileNotFoundError, SafetensorError):
            return None


class _Networks:
    """Networks of one shape that are trained together: each its own weights and buffers.

    On a GPU they run as one (`vmap` over stacked tensors), elsewhere one after the other, which
    there is faster (benchmarks/training.py). The results are the same within rounding.
    """

    def __init__(
        self, models: Sequence[nn.Module], device: torch.device, stacked: bool | None = None
    ) -> None:
        states = [m.state_dict() for m in models]
        self.state = {
            k: torch.stack([s[k].detach().to(device) for s in states]) for k in states[0]
        }  # each (networks, ...)
        free = [k for k, p in models[0].named_parameters() if p.requires_grad]
        self.weights = {k: self.state[k].requires_grad_() for k in free}
        self.module = structure(models[0]).train()
        self.stacked = device.type == "cuda" and len(models) > 1 if stacked is None else stacked

    def outputs(self, images: Tensor) -> Tensor:
        """(networks, batch, classes) for images (networks, batch, ...)."""

        def one(state: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(self.module, state, (x,))

        if self.stacked:
            return vmap(one, randomness="different")(self.state, images)
        count = len(images)
        return torch.stack(
            [one({k: v[i] for k, v in self.state.items()}, images[i]) for i in range(count)]
        )

    def losses(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss of each network, and how many it gets wrong."""
        outputs = self.outputs(images)
        losses = cross_entropy(outputs.flatten(0, 1), labels.flatten(), reduction="none")
        wrong = (outputs.detach().argmax(2) != labels).sum(1)
        return losses.view(labels.shape).mean(1), wrong

    def single(self, index: int = 0) -> dict[str, Tensor]:
        """The state of one network."""
        return {k: v[index].detach() for k, v in self.state.items()}


def _walk(
    networks: _Networks,
    train: Dataset,
    generators: Sequence[torch.Generator],
    optimizer: torch.optim.Optimizer,
    step: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    *,
    epochs: int,
    batch_size: int,
    rate: Callable[[float], float],
    augment: bool = False,
    progress: bool = False,
    after: Callable[[int], dict[str, float] | None] = lambda epoch: {},
    checkpoint: Checkpoint | None = None,
    memory: Mapping[str, Tensor] | None = None,
) -> list[pd.DataFrame]:
    """Epochs over the data, each network in its own order; `after` an epoch None ends the walk.

    `memory` is what an algorithm remembers from epoch to epoch, changed in place.

    Returns:
        The history of each network.
    """
    count, device = len(generators), train.images.device
    batch_size = min(batch_size, len(train))
    batches = len(train) // batch_size  # an epoch leaves out the remainder, another one each time
    steps = max(1, epochs * batches)
    group = optimizer.param_groups[0]
    first = group["lr"]
    rows: list[list[dict]] = [[] for _ in generators]
    saved = checkpoint and checkpoint.load(device)
    if saved:
        _restore(saved[0], networks, optimizer, generators, memory or {})
        rows = saved[1]["rows"]
    done = len(rows[0]) * batches
    ahead = range(len(rows[0]), epochs if not saved or not saved[1]["ended"] else 0)
    for epoch in tqdm(ahead, disable=not progress, leave=False):
        loss, wrong = torch.zeros(2, count, device=device)
        lr = first * rate(done / steps)
        orders = torch.stack([torch.randperm(len(train), generator=g) for g in generators])
        for batch in orders[:, : batches * batch_size].to(device).split(batch_size, 1):
            images, labels = train.images[batch], train.labels[batch]
            if augment:
                pairs = zip(images, generators, strict=True)
                images = torch.stack([_augment(x, g) for x, g in pairs])
            group["lr"] = first * rate(done / steps)
            losses, errors = step(images, labels)
            done += 1
            loss += losses.detach() / batches
            wrong += errors / (batches * batch_size)
        if not loss.isfinite().all():
            raise FloatingPointError(
                f"the loss is {float(loss.max())} in epoch {epoch}; a smaller lr than {first} may "
                "help"
            )
        more = after(epoch)
        for history, mean, error in zip(rows, loss.tolist(), wrong.tolist(), strict=True):
            history.append({"epoch": epoch, "lr": lr, "loss": mean, "error": error, **(more or {})})
        if checkpoint:
            tensors = _all_that_changes(networks, optimizer, generators, memory or {})
            checkpoint.save(tensors, {"rows": rows, "ended": more is None})
        if more is None:
            break
    columns = ["epoch", "lr", "loss", "error"]
    return [pd.DataFrame(h) if h else pd.DataFrame(columns=columns) for h in rows]


def _all_that_changes(
    networks: _Networks,
    optimizer: torch.optim.Optimizer,
    generators: Sequence[torch.Generator],
    memory: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """By name: weights and buffers, momenta, the generators' states, an algorithm's memory."""
    momenta = {k: optimizer.state[w].get("momentum_buffer") for k, w in networks.weights.items()}
    return {
        **{f"state.{k}": v for k, v in networks.state.items()},
        **{f"momentum.{k}": v for k, v in momenta.items() if v is not None},
        **{f"generator.{i}": g.get_state() for i, g in enumerate(generators)},
        **{f"memory.{k}": v for k, v in memory.items()},
    }


@torch.no_grad()
def _restore(
    saved: Mapping[str, Tensor],
    networks: _Networks,
    optimizer: torch.optim.Optimizer,
    generators: Sequence[torch.Generator],
    memory: Mapping[str, Tensor],
) -> None:
    """Put back what `_all_that_changes` gave."""
    for k, v in networks.state.items():
        v.copy_(saved[f"state.{k}"])
    for k, w in networks.weights.items():
        if f"momentum.{k}" in saved:
            optimizer.state[w]["momentum_buffer"] = saved[f"momentum.{k}"]
    for i, generator in enumerate(generators):
        generator.set_state(saved[f"generator.{i}"].cpu())
    for k, v in memory.items():
        v.copy_(saved[f"memory.{k}"])


def _plain(networks: _Networks, optimizer: torch.optim.Optimizer) -> Callable:
    """A step down the gradient; the networks do not see each other."""

    def step(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        losses, wrong = networks.losses(images, labels)
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
        return losses, wrong

    return step


def _check(schedule: str, epochs: int) -> None:
    check_choice("schedule", schedule, tuple(SCHEDULES))
    if epochs < 0:
        raise ValueError(f"epochs is {epochs}; it must not be negative")


def _optimizer(
    networks: _Networks, lr: float, momentum: float, nesterov: bool, decay: float
) -> torch.optim.SGD:
    return torch.optim.SGD(
        networks.weights.values(), lr, momentum, weight_decay=decay,
        nesterov=nesterov and momentum > 0,
    )  # fmt: skip


def sgd(
    model: nn.Module, train: Dataset, *, epochs: int, generator: torch.Generator,
    batch_size: int = 128, lr: float = 0.1, momentum: float = 0.9, nesterov: bool = True,
    weight_decay: float = 5e-4, schedule: str = "cosine", augment: bool = False,
    progress: bool = False, checkpoint: Checkpoint | None = None,
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
        checkpoint: Where to save each epoch, and to go on from.

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
    (trained,) = sgd_many(
        [model], train, epochs=epochs, generators=[generator], batch_size=batch_size, lr=lr,
        momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, schedule=schedule,
        augment=augment, progress=progress, checkpoint=checkpoint,
    )  # fmt: skip
    return trained


def sgd_many(
    models: Sequence[nn.Module], train: Dataset, *, generators: Sequence[torch.Generator],
    epochs: int, batch_size: int = 128, lr: float = 0.1, momentum: float = 0.9,
    nesterov: bool = True, weight_decay: float = 5e-4, schedule: str = "cosine",
    augment: bool = False, progress: bool = False, stacked: bool | None = None,
    checkpoint: Checkpoint | None = None,
) -> list[Trained]:  # fmt: skip
    """`sgd` for several models of one shape at once, each with its own generator.

    The results are those of one by one, within rounding.

    Args:
        models: Where to start; they are not changed.
        train: As in `sgd`.
        generators: One for each model.
        epochs: As in `sgd`.
        batch_size: As in `sgd`.
        lr: As in `sgd`.
        momentum: As in `sgd`.
        nesterov: As in `sgd`.
        weight_decay: As in `sgd`.
        schedule: As in `sgd`.
        augment: As in `sgd`.
        progress: As in `sgd`.
        checkpoint: As in `sgd`.
        stacked: Run them as one network of stacked tensors; by default on a GPU.

    Returns:
        One `Trained` for each model.

    Raises:
        ValueError: As `sgd`, and if there is not one generator for each model.
        FloatingPointError: As `sgd`.

    Example:
        >>> import torch, toroid
        >>> train, test = toroid.data.load("digits")
        >>> models = [toroid.mlp(train.shape, classes=10, hidden=(8,)) for _ in range(2)]
        >>> generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
        >>> len(sgd_many(models, train, generators=generators, epochs=1))
        2
    """
    _check(schedule, epochs)
    if len(models) != len(generators):
        raise ValueError(f"{len(models)} models, but {len(generators)} generators")
    networks = _Networks(models, train.images.device, stacked)
    optimizer = _optimizer(networks, lr, momentum, nesterov, weight_decay)
    histories = _walk(
        networks, train, generators, optimizer, _plain(networks, optimizer), epochs=epochs,
        batch_size=batch_size, rate=SCHEDULES[schedule], augment=augment, progress=progress,
        checkpoint=checkpoint,
    )  # fmt: skip
    return [Trained(networks.single(i), history) for i, history in enumerate(histories)]


def replicated_sgd(
    model: nn.Module, train: Dataset, *, epochs: int, generator: torch.Generator,
    replicas: int = 3, gmax: float = 1e4, batch_size: int = 128, lr: float = 0.1,
    momentum: float = 0.9, nesterov: bool = True, weight_decay: float = 5e-4,
    schedule: str = "cosine", augment: bool = False, progress: bool = False,
    checkpoint: Checkpoint | None = None,
) -> Trained:  # fmt: skip
    """Replicas that are drawn together while they train: SGD that looks for flat minima.

    Descends ``mean_a L(w_a) + g mean_a |w_a - c|²`` with the centre ``c = mean_a w_a`` held fixed
    in the gradient, and the learning rate times the number of replicas. g starts at the mean
    training loss over the mean squared distance and grows by one factor each epoch, `gmax` in all.
    The result is the centre, with BatchNorm's statistics estimated again on the training data
    (Pittorino et al. 2021, arXiv 2006.07897, and their code).

    Args:
        model: The first replica starts from it; the others from fresh weights of its layers.
        train: As in `sgd`.
        epochs: As in `sgd`.
        generator: Draws the fresh weights and, for each replica, order and augmentation.
        replicas: How many.
        gmax: How much g grows over the training. The pull is a step of ``2 lr g``, which must stay
            below 1 or so: a small network, whose g starts high, needs a smaller one.
        batch_size: As in `sgd`.
        lr: As in `sgd`; multiplied by `replicas`.
        momentum: As in `sgd`.
        nesterov: As in `sgd`.
        weight_decay: As in `sgd`.
        schedule: As in `sgd`.
        augment: As in `sgd`.
        progress: As in `sgd`.
        checkpoint: As in `sgd`.

    Returns:
        The centre; a history (the mean over the replicas) with ``coupling`` g and ``distance``, the
        root mean square distance of the replicas from the centre over the centre's norm; and a
        report of the end, which says so if that distance is above 0.01.

    Raises:
        ValueError: As `sgd`, and if there are fewer than two replicas.
        FloatingPointError: As `sgd`.

    Example:
        >>> import torch, toroid
        >>> train, test = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(32,))
        >>> generator = torch.Generator().manual_seed(0)
        >>> trained = replicated_sgd(model, train, epochs=15, gmax=100.0, generator=generator)
        >>> trained.report["distance"] < 0.01
        True
    """
    _check(schedule, epochs)
    if replicas < 2:
        raise ValueError(f"replicas is {replicas}; it must be at least 2")
    models = [model, *(_fresh(model, generator) for _ in range(replicas - 1))]
    generators = [_spawn(generator) for _ in models]
    networks = _Networks(models, train.images.device)
    optimizer = _optimizer(networks, lr * replicas, momentum, nesterov, weight_decay)
    losses = [evaluate(networks.single(i), model, train).loss for i in range(replicas)]
    coupling = torch.tensor(
        sum(losses) / replicas / _distance(networks).item(), dtype=torch.float64
    )

    def step(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        losses, wrong = networks.losses(images, labels)
        optimizer.zero_grad()
        (losses.mean() + float(coupling) * _distance(networks)).backward()
        optimizer.step()
        return losses, wrong

    def after(epoch: int) -> dict[str, float]:
        now = {"coupling": float(coupling), "distance": _relative(networks)}
        coupling.mul_(gmax ** (1 / epochs))
        return now

    histories = _walk(
        networks, train, generators, optimizer, step, epochs=epochs, batch_size=batch_size,
        rate=SCHEDULES[schedule], augment=augment, progress=progress, after=after,
        checkpoint=checkpoint, memory={"coupling": coupling},
    )  # fmt: skip
    centre = refresh(_mean([networks.single(i) for i in range(replicas)]), model, train)
    distance = _relative(networks)
    report = {
        "failed": ""
        if distance < 0.01
        else f"the replicas are {distance:.2g} apart, not collapsed",
        "distance": distance,
        "replica_errors": [
            evaluate(networks.single(i), model, train).error for i in range(replicas)
        ],
        "centre_error": evaluate(centre, model, train).error,
    }
    history = pd.concat(histories).groupby("epoch", as_index=False).mean()
    return Trained(centre, history, report)


def _distance(networks: _Networks) -> Tensor:
    """Mean over the networks of the squared distance from their centre, which is held fixed."""
    squares = [(w - w.detach().mean(0)).square().sum() / len(w) for w in networks.weights.values()]
    return torch.stack(squares).sum()


def _relative(networks: _Networks) -> float:
    """Root mean square distance from the centre, over the centre's norm."""
    with torch.no_grad():
        centre = [w.mean(0).square().sum() for w in networks.weights.values()]
        return float((_distance(networks) / torch.stack(centre).sum()).sqrt())


def _mean(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {
        k: torch.stack([s[k] for s in states]).mean(0) if v.is_floating_point() else v
        for k, v in states[0].items()
    }


def _spawn(generator: torch.Generator) -> torch.Generator:
    """A generator of its own, drawn from another."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator)))


def _fresh(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy with freshly drawn weights."""
    other = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        for name, module in other.named_modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
            elif next(module.parameters(recurse=False), None) is not None:
                raise ValueError(f"{name!r} ({type(module).__name__}) has no reset_parameters()")
    return other


def adversarial(
    model: nn.Module, train: Dataset, *, epochs: int, generator: torch.Generator,
    repeats: int = 1, zeroed: float = 0.1, confusion_epochs: int = 350, confusion_lr: float = 0.1,
    batch_size: int = 128, lr: float = 0.1, momentum: float = 0.0, schedule: str = "constant",
    progress: bool = False, checkpoint: Checkpoint | None = None,
) -> Trained:  # fmt: skip
    """SGD from an adversarial initialisation: a minimum that generalises badly.

    First random labels are learnt: every image `repeats` times, a random tenth of its entries set
    to zero, with a label drawn at random, by plain SGD until 99.99 % are right. From there the true
    labels, with nothing that regularises (Liu, Papailiopoulos, Achlioptas 2020, arXiv 1906.02613).

    Args:
        model: Where to start; it is not changed.
        train: As in `sgd`.
        epochs: On the true labels.
        generator: Draws the confusion set, its labels, and the order of the images.
        repeats: Copies of each image in the confusion set (the source: 1 to 10).
        zeroed: Fraction of their entries that are set to zero.
        confusion_epochs: On the random labels, at most.
        confusion_lr: Learning rate there, divided by 10 at 3/7 and 5/7 (epochs 150 and 250 of 350).
        batch_size: As in `sgd`.
        lr: As in `sgd`.
        momentum: As in `sgd`.
        schedule: As in `sgd`.
        progress: As in `sgd`.
        checkpoint: As in `sgd`.

    Returns:
        The trained state; a history of both parts (column ``labels``: random, true); and a report
        that says so if the random labels were not learnt, or the true ones not all.

    Raises:
        ValueError: As `sgd`.
        FloatingPointError: As `sgd`.

    Example:
        >>> import torch, toroid
        >>> train, test = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(32,))
        >>> generator = torch.Generator().manual_seed(0)
        >>> trained = adversarial(model, train, epochs=1, confusion_epochs=1, generator=generator)
        >>> trained.report["failed"]
        'the random labels were not learnt: ...
    """
    _check(schedule, epochs)
    confusion = _confusion(train, repeats, zeroed, generator)
    networks = _Networks([model], train.images.device)
    optimizer = _optimizer(networks, confusion_lr, 0.0, False, 0.0)

    def learnt(epoch: int) -> dict[str, float] | None:
        error = evaluate(networks.single(), model, confusion).error
        return None if error <= 1e-4 else {}

    (first,) = _walk(
        networks, confusion, [generator], optimizer, _plain(networks, optimizer),
        epochs=confusion_epochs, batch_size=batch_size, progress=progress, after=learnt,
        rate=lambda done: 0.1 ** ((done >= 3 / 7) + (done >= 5 / 7)),
        checkpoint=checkpoint and checkpoint.part("random"),
    )  # fmt: skip
    confused = evaluate(networks.single(), model, confusion).error
    optimizer = _optimizer(networks, lr, momentum, False, 0.0)
    (second,) = _walk(
        networks, train, [generator], optimizer, _plain(networks, optimizer), epochs=epochs,
        batch_size=batch_size, rate=SCHEDULES[schedule], progress=progress,
        checkpoint=checkpoint and checkpoint.part("true"),
    )  # fmt: skip
    error = evaluate(networks.single(), model, train).error
    failed = f"the random labels were not learnt: {confused:.2%} wrong" if confused > 1e-4 else ""
    if error > 0 and not failed:
        failed = f"the true labels were not all learnt: {error:.2%} wrong"
    report = {"failed": failed, "confusion_error": confused, "confusion_epochs": len(first)}
    history = pd.concat([first.assign(labels="random"), second.assign(labels="true")])
    return Trained(networks.single(), history.reset_index(drop=True), report)


def _confusion(train: Dataset, repeats: int, zeroed: float, generator: torch.Generator) -> Dataset:
    """Copies of the images with holes, and labels that mean nothing."""
    images = train.images.repeat_interleave(repeats, 0)
    holes = torch.rand(images.shape, generator=generator).to(images.device) < zeroed
    labels = torch.randint(train.classes, (len(images),), generator=generator)
    return Dataset(images.masked_fill(holes, 0.0), labels.to(images.device), train.classes)


def sam(
    model: nn.Module, train: Dataset, *, epochs: int, generator: torch.Generator,
    rho: float = 0.05, batch_size: int = 128, lr: float = 0.1, momentum: float = 0.9,
    nesterov: bool = True, weight_decay: float = 5e-4, schedule: str = "cosine",
    augment: bool = False, progress: bool = False, checkpoint: Checkpoint | None = None,
) -> Trained:  # fmt: skip
    """Sharpness-aware minimisation: SGD with the gradient at ``w + ρ ∇L / |∇L|``.

    After Foret et al. 2021. BatchNorm's running statistics are those of a step's first pass, at w.

    Args:
        model: Where to start; it is not changed.
        train: As in `sgd`.
        epochs: As in `sgd`.
        generator: As in `sgd`.
        rho: Length of the step uphill.
        batch_size: As in `sgd`.
        lr: As in `sgd`.
        momentum: As in `sgd`.
        nesterov: As in `sgd`.
        weight_decay: As in `sgd`.
        schedule: As in `sgd`.
        augment: As in `sgd`.
        progress: As in `sgd`.
        checkpoint: As in `sgd`.

    Returns:
        The trained state and the history.

    Raises:
        ValueError: As `sgd`.
        FloatingPointError: As `sgd`.

    Example:
        >>> import torch, toroid
        >>> train, test = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(32,))
        >>> trained = sam(model, train, epochs=5, generator=torch.Generator().manual_seed(0))
        >>> toroid.evaluate(trained.state, model, test).error < 0.2
        True
    """
    _check(schedule, epochs)
    networks = _Networks([model], train.images.device)
    optimizer = _optimizer(networks, lr, momentum, nesterov, weight_decay)
    weights = list(networks.weights.values())
    buffers = [v for k, v in networks.state.items() if k not in networks.weights]

    def step(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        losses, wrong = networks.losses(images, labels)
        uphill = torch.autograd.grad(losses.sum(), weights)
        norm = torch.stack([g.square().sum() for g in uphill]).sum().sqrt()
        before, kept = ([x.detach().clone() for x in group] for group in (weights, buffers))
        with torch.no_grad():
            torch._foreach_add_(weights, [g * (rho / norm.clamp_min(1e-12)) for g in uphill])
        optimizer.zero_grad()
        networks.losses(images, labels)[0].sum().backward()
        with torch.no_grad():
            torch._foreach_copy_([*weights, *buffers], [*before, *kept])
        optimizer.step()
        return losses, wrong

    (history,) = _walk(
        networks, train, [generator], optimizer, step, epochs=epochs, batch_size=batch_size,
        rate=SCHEDULES[schedule], augment=augment, progress=progress, checkpoint=checkpoint,
    )  # fmt: skip
    return Trained(networks.single(), history)


def swa(
    model: nn.Module, train: Dataset, *, epochs: int, generator: torch.Generator,
    start: float = 0.75, batch_size: int = 128, lr: float = 0.1, momentum: float = 0.9,
    nesterov: bool = True, weight_decay: float = 5e-4, schedule: str = "cosine",
    augment: bool = False, progress: bool = False, checkpoint: Checkpoint | None = None,
) -> Trained:  # fmt: skip
    """Stochastic weight averaging: the mean of SGD's weights over its last epochs.

    The learning rate stays where it is at `start`; the result is the mean of the weights after each
    epoch from there on, with BatchNorm's statistics estimated again on the training data (Izmailov
    et al. 2018).

    Args:
        model: Where to start; it is not changed.
        train: As in `sgd`.
        epochs: As in `sgd`.
        generator: As in `sgd`.
        start: Fraction of the epochs before the averaging begins.
        batch_size: As in `sgd`.
        lr: As in `sgd`.
        momentum: As in `sgd`.
        nesterov: As in `sgd`.
        weight_decay: As in `sgd`.
        schedule: As in `sgd`, up to `start`.
        augment: As in `sgd`.
        progress: As in `sgd`.
        checkpoint: As in `sgd`.

    Returns:
        The averaged state and the history.

    Raises:
        ValueError: As `sgd`, and if `start` is not in [0, 1).
        FloatingPointError: As `sgd`.

    Example:
        >>> import torch, toroid
        >>> train, test = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(32,))
        >>> trained = swa(model, train, epochs=8, generator=torch.Generator().manual_seed(0))
        >>> toroid.evaluate(trained.state, model, test).error < 0.2
        True
    """
    _check(schedule, epochs)
    if not 0 <= start < 1:
        raise ValueError(f"start is {start}; it must be in [0, 1)")
    networks = _Networks([model], train.images.device)
    optimizer = _optimizer(networks, lr, momentum, nesterov, weight_decay)
    total = {k: torch.zeros_like(w[0]) for k, w in networks.weights.items()}
    count = torch.zeros((), dtype=torch.long)

    def after(epoch: int) -> dict[str, float]:
        if epoch + 1 > start * epochs:
            count.add_(1)
            for name, weight in networks.weights.items():
                total[name] += weight[0].detach()
        return {}

    (history,) = _walk(
        networks, train, [generator], optimizer, _plain(networks, optimizer), epochs=epochs,
        batch_size=batch_size, rate=lambda done: SCHEDULES[schedule](min(done, start)),
        augment=augment, progress=progress, after=after, checkpoint=checkpoint,
        memory={**total, "count": count},
    )  # fmt: skip
    mean = (
        {**networks.single(), **{k: v / count for k, v in total.items()}}
        if count
        else networks.single()
    )
    return Trained(refresh(mean, model, train), history)


def entropy_sgd(
    model: nn.Module, train: Dataset, *, epochs: int, generator: torch.Generator,
    inner: int = 20, inner_lr: float = 0.1, averaging: float = 0.75, noise: float = 1e-4,
    coupling: float = 1e-4, growth: float = 1e-3, batch_size: int = 128, lr: float = 1.0,
    momentum: float = 0.9, nesterov: bool = True, weight_decay: float = 5e-4,
    schedule: str = "cosine", augment: bool = False, progress: bool = False,
    checkpoint: Checkpoint | None = None,
) -> Trained:  # fmt: skip
    """Entropy-SGD: descends a local entropy, its gradient estimated by Langevin steps around w.

    From x = μ = w, `inner` times, on a batch each,
    ``x ← x - η (∇L(x) + λ x + γ (x - w)) + sqrt(η) ε ξ`` and ``μ ← α μ + (1 - α) x``; then w takes
    a step with ``w - μ`` as its gradient. γ grows by ``1 + growth`` with every such step (Chaudhari
    et al. 2017).

    Args:
        model: Where to start; it is not changed.
        train: As in `sgd`.
        epochs: As in `sgd`; every inner step uses a batch.
        generator: As in `sgd`; draws the noise too.
        inner: Langevin steps for each step of w.
        inner_lr: η.
        averaging: α.
        noise: ε.
        coupling: γ at the start.
        growth: How γ grows.
        batch_size: As in `sgd`.
        lr: As in `sgd`, of the steps of w.
        momentum: As in `sgd`, of the steps of w.
        nesterov: As in `sgd`.
        weight_decay: λ.
        schedule: As in `sgd`, of both learning rates.
        augment: As in `sgd`.
        progress: As in `sgd`.
        checkpoint: As in `sgd`.

    Returns:
        The trained state and a history, with ``coupling`` γ; BatchNorm's statistics are estimated
        again on the training data.

    Raises:
        ValueError: As `sgd`, and if `inner` is not positive.
        FloatingPointError: As `sgd`.

    Example:
        >>> import torch, toroid
        >>> train, test = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(32,))
        >>> generator = torch.Generator().manual_seed(0)
        >>> trained = entropy_sgd(model, train, epochs=10, inner=5, generator=generator)
        >>> toroid.evaluate(trained.state, model, test).error < 0.3
        True
    """
    _check(schedule, epochs)
    if inner < 1:
        raise ValueError(f"inner is {inner}; it must be positive")
    networks = _Networks([model], train.images.device)
    optimizer = _optimizer(networks, lr, momentum, nesterov, 0.0)
    weights = list(networks.weights.values())
    centre, mean = ([w.detach().clone() for w in weights] for _ in range(2))
    gamma, steps = torch.tensor(coupling, dtype=torch.float64), torch.zeros((), dtype=torch.long)

    def step(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        losses, wrong = networks.losses(images, labels)
        gradients = torch.autograd.grad(losses.sum(), weights)
        rate = inner_lr * optimizer.param_groups[0]["lr"] / lr
        with torch.no_grad():
            for w, g, c, m in zip(weights, gradients, centre, mean, strict=True):
                kick = torch.randn(w.shape, generator=generator).to(w)
                w += noise * rate**0.5 * kick - rate * (
                    g + weight_decay * w + float(gamma) * (w - c)
                )
                m.mul_(averaging).add_(w, alpha=1 - averaging)
            if int(steps.add_(1)) % inner == 0:
                for w, c, m in zip(weights, centre, mean, strict=True):
                    w.copy_(c)
                    w.grad = c - m
                optimizer.step()
                gamma.mul_(1 + growth)
                for w, c, m in zip(weights, centre, mean, strict=True):
                    c.copy_(w)
                    m.copy_(w)
        return losses, wrong

    (history,) = _walk(
        networks, train, [generator], optimizer, step, epochs=epochs, batch_size=batch_size,
        rate=SCHEDULES[schedule], augment=augment, progress=progress,
        after=lambda epoch: {"coupling": float(gamma)}, checkpoint=checkpoint,
        memory={
            "coupling": gamma, "steps": steps,
            **{f"centre.{i}": c for i, c in enumerate(centre)},
            **{f"mean.{i}": m for i, m in enumerate(mean)},
        },
    )  # fmt: skip
    end = networks.single() | {k: c[0] for k, c in zip(networks.weights, centre, strict=True)}
    return Trained(refresh(end, model, train), history)


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
