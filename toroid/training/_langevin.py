"""Entropy-SGD: Langevin steps around the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from .._batches import Data
from ..evaluation import refresh
from ..tasks import Task, classification
from ._checkpoint import Checkpoint
from ._settings import Keywords, Natural, NotNegative, Positive, Settings, Share
from ._trained import Trained, begin, finished

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True, kw_only=True)
class EntropySGD(Settings):
    """`Settings` of `entropy_sgd`.

    Args:
        lr: Learning rate of the steps of w; positive.
        inner: Langevin steps for each step of w; positive.
        inner_lr: η; positive.
        averaging: α, in [0, 1).
        noise: ε; not negative.
        coupling: γ at the start; not negative.
        growth: How γ grows; not negative.
    """

    algorithm: ClassVar[str] = "entropy_sgd"

    lr: Positive = 1.0
    inner: Natural = 20
    inner_lr: Positive = 0.1
    averaging: Share = 0.75
    noise: NotNegative = 1e-4
    coupling: NotNegative = 1e-4
    growth: NotNegative = 1e-3


class EntropySGDKeywords(Keywords, total=False):
    """`EntropySGD` as keyword arguments."""

    inner: int
    inner_lr: float
    averaging: float
    noise: float
    coupling: float
    growth: float


def entropy_sgd(
    model: nn.Module, train: Data, *, generator: torch.Generator, task: Task = classification,
    progress: bool = False, checkpoint: Checkpoint | None = None,
    **settings: Unpack[EntropySGDKeywords],
) -> Trained:  # fmt: skip
    """Entropy-SGD: descends a local entropy, its gradient estimated by Langevin steps around w.

    From x = μ = w, ``inner`` times, on a batch each,
    ``x ← x - η (∇L(x) + λ x + γ (x - w)) + sqrt(η) ε ξ`` and ``μ ← α μ + (1 - α) x``; then w takes
    a step with ``w - μ`` as its gradient. γ grows by ``1 + growth`` with every such step (Chaudhari
    et al. 2017).

    Args:
        model: Where to start; it is not changed.
        train: As in `sgd`.
        generator: As in `sgd`; draws the noise too.
        task: As in `sgd`.
        progress: As in `sgd`.
        checkpoint: As in `sgd`.
        **settings: Those of `EntropySGD`: ``inner``, ``inner_lr``, ``averaging``, ``noise``,
            ``coupling``, ``growth``, and all of `Settings`: every inner step uses a batch, learning
            rate and momentum are those of the steps of w, the schedule that of both learning rates,
            the weight decay λ.

    Returns:
        The trained state and a history, with ``coupling`` γ; BatchNorm's statistics are estimated
        again on the training data.

    Raises:
        TypeError: As `sgd`.
        ValueError: As `sgd`.
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
    chosen = EntropySGD.of(**settings)
    outer = replace(chosen, weight_decay=0.0)  # λ is a force on x
    loop = begin(
        [model], train, [generator], outer, progress, checkpoint, chosen.identity(), task=task
    )
    networks = loop.networks
    weights = list(networks.weights.values())
    centre, mean = ([w.detach().clone() for w in weights] for _ in range(2))
    gamma = torch.tensor(chosen.coupling, dtype=torch.float64)
    steps = torch.zeros((), dtype=torch.long)
    loop.memory.update(
        {f"centre.{i}": c for i, c in enumerate(centre)},
        **{f"mean.{i}": m for i, m in enumerate(mean)}, coupling=gamma, steps=steps,
    )  # fmt: skip

    @torch.no_grad()
    def langevin(gradients: Sequence[Tensor]) -> None:
        rate = chosen.inner_lr * loop.optimizer.param_groups[0]["lr"] / chosen.lr
        for w, g, c, m in zip(weights, gradients, centre, mean, strict=True):
            kick = torch.randn(w.shape, generator=generator, dtype=torch.float32).to(w)
            force = g + chosen.weight_decay * w + float(gamma) * (w - c)
            w += chosen.noise * rate**0.5 * kick - rate * force
            m.mul_(chosen.averaging).add_(w, alpha=1 - chosen.averaging)

    @torch.no_grad()
    def outwards() -> None:
        for w, c, m in zip(weights, centre, mean, strict=True):
            w.copy_(c)
            w.grad = c - m
        loop.optimizer.step()
        gamma.mul_(1 + chosen.growth)
        for w, c, m in zip(weights, centre, mean, strict=True):
            c.copy_(w)
            m.copy_(w)

    def step(images: Any, labels: Any) -> tuple[Tensor, Tensor]:
        losses, wrong = networks.losses(images, labels)
        langevin(torch.autograd.grad(losses.sum(), weights, materialize_grads=True))
        if int(steps.add_(1)) % chosen.inner == 0:
            outwards()
        return losses, wrong

    (history,) = loop.run(step, after=lambda epoch: {"coupling": float(gamma)})
    moved = {k: c[0] for k, c in zip(networks.weights, centre, strict=True)}
    end = networks.whole(networks.single() | moved)
    return finished(refresh(end, model, train, task=task), history, model, train, task)
