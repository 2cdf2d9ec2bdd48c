"""Entropy-SGD: Langevin steps around the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Dataset
from ..evaluation import refresh
from ._checkpoint import Checkpoint
from ._settings import Settings
from ._trained import Trained, begin, finished


def entropy_sgd(
    model: nn.Module, train: Dataset, *, generator: torch.Generator, inner: int = 20,
    inner_lr: float = 0.1, averaging: float = 0.75, noise: float = 1e-4, coupling: float = 1e-4,
    growth: float = 1e-3, lr: float = 1.0, progress: bool = False,
    checkpoint: Checkpoint | None = None, **settings: Any,
) -> Trained:  # fmt: skip
    """Entropy-SGD: descends a local entropy, its gradient estimated by Langevin steps around w.

    From x = μ = w, `inner` times, on a batch each,
    ``x ← x - η (∇L(x) + λ x + γ (x - w)) + sqrt(η) ε ξ`` and ``μ ← α μ + (1 - α) x``; then w takes
    a step with ``w - μ`` as its gradient. γ grows by ``1 + growth`` with every such step (Chaudhari
    et al. 2017).

    Args:
        model: Where to start; it is not changed.
        train: As in `sgd`.
        generator: As in `sgd`; draws the noise too.
        inner: Langevin steps for each step of w.
        inner_lr: η.
        averaging: α.
        noise: ε.
        coupling: γ at the start.
        growth: How γ grows.
        lr: Learning rate of the steps of w.
        progress: As in `sgd`.
        checkpoint: As in `sgd`.
        **settings: The others of `Settings`: every inner step uses a batch, the momentum is that of
            the steps of w, the schedule that of both learning rates, the weight decay λ.

    Returns:
        The trained state and a history, with ``coupling`` γ; BatchNorm's statistics are estimated
        again on the training data.

    Raises:
        TypeError: As `sgd`.
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
    if inner < 1:
        raise ValueError(f"inner is {inner}; it must be positive")
    shared = Settings.of(lr=lr, **settings)
    outer = Settings(**{**vars(shared), "weight_decay": 0.0})
    own = {
        "algorithm": "entropy_sgd", "inner": inner, "inner_lr": inner_lr, "averaging": averaging,
        "noise": noise, "coupling": coupling, "growth": growth, "decay": shared.weight_decay,
    }  # fmt: skip
    loop = begin([model], train, [generator], outer, progress, checkpoint, own)
    networks = loop.networks
    weights = list(networks.weights.values())
    centre, mean = ([w.detach().clone() for w in weights] for _ in range(2))
    gamma, steps = torch.tensor(coupling, dtype=torch.float64), torch.zeros((), dtype=torch.long)
    loop.memory.update(
        {f"centre.{i}": c for i, c in enumerate(centre)},
        **{f"mean.{i}": m for i, m in enumerate(mean)}, coupling=gamma, steps=steps,
    )  # fmt: skip

    @torch.no_grad()
    def langevin(gradients: Sequence[Tensor]) -> None:
        rate = inner_lr * loop.optimizer.param_groups[0]["lr"] / lr
        for w, g, c, m in zip(weights, gradients, centre, mean, strict=True):
            kick = torch.randn(w.shape, generator=generator).to(w)
            force = g + shared.weight_decay * w + float(gamma) * (w - c)
            w += noise * rate**0.5 * kick - rate * force
            m.mul_(averaging).add_(w, alpha=1 - averaging)

    @torch.no_grad()
    def outwards() -> None:
        for w, c, m in zip(weights, centre, mean, strict=True):
            w.copy_(c)
            w.grad = c - m
        loop.optimizer.step()
        gamma.mul_(1 + growth)
        for w, c, m in zip(weights, centre, mean, strict=True):
            c.copy_(w)
            m.copy_(w)

    def step(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        losses, wrong = networks.losses(images, labels)
        langevin(torch.autograd.grad(losses.sum(), weights))
        if int(steps.add_(1)) % inner == 0:
            outwards()
        return losses, wrong

    (history,) = loop.run(step, after=lambda epoch: {"coupling": float(gamma)})
    end = networks.single() | {k: c[0] for k, c in zip(networks.weights, centre, strict=True)}
    return finished(refresh(end, model, train), history, model, train)
