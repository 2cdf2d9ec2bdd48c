"""Sharpness-aware minimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from .._batches import Data
from ..tasks import Task, classification
from ._checkpoint import Checkpoint
from ._settings import Keywords, NotNegative, Settings
from ._trained import Trained, begin, finished

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True, kw_only=True)
class SAM(Settings):
    """`Settings` of `sam`.

    Args:
        rho: Length of the step uphill; not negative.
    """

    algorithm: ClassVar[str] = "sam"

    rho: NotNegative = 0.05


class SAMKeywords(Keywords, total=False):
    """`SAM` as keyword arguments."""

    rho: float


def sam(
    model: nn.Module, train: Data, *, generator: torch.Generator, task: Task = classification,
    progress: bool = False, checkpoint: Checkpoint | None = None, **settings: Unpack[SAMKeywords],
) -> Trained:  # fmt: skip
    """Sharpness-aware minimisation: SGD with the gradient at ``w + ρ ∇L / |∇L|``.

    After Foret et al. 2021. BatchNorm's running statistics are those of a step's first pass, at w.

    Args:
        model: Where to start; it is not changed.
        train: As in `sgd`.
        generator: As in `sgd`.
        task: As in `sgd`.
        progress: As in `sgd`.
        checkpoint: As in `sgd`.
        **settings: Those of `SAM`: ``rho``, ρ, and all of `Settings`.

    Returns:
        The trained state, the history and the report, as `sgd`.

    Raises:
        TypeError: As `sgd`.
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
    chosen = SAM.of(**settings)
    loop = begin([model], train, [generator], chosen, progress, checkpoint, task=task)
    networks = loop.networks
    weights, buffers = list(networks.weights.values()), list(networks.buffers.values())

    def step(images: Any, labels: Any) -> tuple[Tensor, Tensor]:
        losses, wrong = networks.losses(images, labels)
        uphill = torch.autograd.grad(losses.sum(), weights, materialize_grads=True)
        norm = torch.stack([g.square().sum() for g in uphill]).sum().sqrt()
        before, kept = ([x.detach().clone() for x in group] for group in (weights, buffers))
        with torch.no_grad():
            torch._foreach_add_(weights, [g * (chosen.rho / norm.clamp_min(1e-12)) for g in uphill])
        loop.optimizer.zero_grad()
        torch.autograd.backward(networks.losses(images, labels)[0].sum())
        with torch.no_grad():
            torch._foreach_copy_([*weights, *buffers], [*before, *kept])
        loop.optimizer.step()
        return losses, wrong

    (history,) = loop.run(step)
    return finished(networks.single(), history, model, train, task)
