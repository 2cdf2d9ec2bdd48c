"""Paths with a single bend: two segments whose one free corner is trained.

Garipov et al. (2018) join minimizers by chains along which the loss stays low; the paper claims
that one bend is enough for an error of zero.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd
import torch
from torch import Tensor, nn

from ._batches import Data
from ._state import (
    State,
    between,
    check_factor,
    check_finite,
    check_generator,
    check_model,
    check_pair,
    digest,
    first_names,
    inexact,
)
from .paths import Geodesic, Linear, Path, Polygon
from .symmetry import Symmetry
from .tasks import Task, checked_task, classification
from .torus import Torus
from .training import Checkpoint, Settings
from .training._loop import Loop
from .training._networks import Networks
from .training._settings import Keywords, NotNegative
from .training._trained import device_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Bend", "bend"]


@dataclass(frozen=True)
class Bend:
    """A chain with a trained corner.

    Attributes:
        path: The chain; the corner is ``path(0.5)``.
        history: One row for each epoch: epoch, learning rate, mean loss and error at the drawn
            places while the corner moved.
    """

    path: Path
    history: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class Corner(Settings):
    """`Settings` of `bend`: without weight decay, unless it is asked for."""

    algorithm: ClassVar[str] = "bend"

    weight_decay: NotNegative = 0.0


def bend(
    a: State, b: State, model: nn.Module, train: Data, *, generator: torch.Generator,
    task: Task = classification, symmetry: Symmetry | None = None, bias: str = "euclidean",
    middle: State | None = None,
    factor: float | tuple[float, float] = 1.0, progress: bool = False,
    checkpoint: Checkpoint | None = None, **settings: Unpack[Keywords],
) -> Bend:  # fmt: skip
    """Two segments from `a` to `b`, their corner trained so that the error along both is small.

    Descends the mean over t, uniform in [0, 1], of the task's loss at the chain's point t
    (Garipov et al. 2018), from the middle of the one segment between the ends. On the torus the
    segments are geodesics and the corner returns to its spheres after every step. BatchNorm takes
    the statistics of each batch; estimate them again where the chain is evaluated.

    Args:
        a: State at t = 0; with a symmetry, normalised.
        b: State at t = 1.
        model: The network; it is not changed, and its own weights do not matter.
        train: Training data, as in `toroid.training.sgd`, on the device of the states.
        generator: Draws t and the order of the images.
        task: As in `toroid.training.sgd`.
        symmetry: From `find_symmetries`, for a chain on the torus; None for straight segments.
        bias: As in `normalize`.
        middle: Where the corner starts, e.g. that of a chain that is trained on; None for the
            middle of the one segment.
        factor: Times the outputs, in the loss: the outputs of normalised networks are small, and
            the loss depends on that, the error does not. Two numbers are those of the ends, between
            which it goes evenly on a logarithmic scale.
        progress: Show a progress bar.
        checkpoint: Where to save each epoch, and to go on from.
        **settings: Those of `toroid.training.Settings`; ``epochs`` is needed. ``weight_decay``, by
            default 0, is times the corner, added to the gradient; it does not move the spheres.

    Returns:
        The chain and the history.

    Raises:
        TypeError: As `toroid.training.sgd`.
        ValueError: As `toroid.training.sgd`, and if the states do not fit, or are not normalised
            with a symmetry given.
        FloatingPointError: If the loss is no longer finite.

    Example:
        >>> import torch, toroid
        >>> train, _ = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(32,))
        >>> options = {"epochs": 5, "generator": torch.Generator()}
        >>> a, b = (toroid.training.sgd(model, train, **options).state for _ in range(2))
        >>> chain = bend(a, b, model, train, epochs=5, generator=torch.Generator())
        >>> chain.path(0.5).keys() == a.keys()
        True
    """
    for state in (a, b, *([] if middle is None else [middle])):
        check_model(state, model)
        check_pair(a, state)
        check_finite(state, {name for name, _ in model.named_parameters()})
    check_generator(generator)
    a, b = ({k: v.detach() for k, v in state.items()} for state in (a, b))
    path = Linear(a, b) if symmetry is None else Geodesic(a, b, symmetry, bias)
    torus = None if symmetry is None else Torus(symmetry, bias)  # a geodesic has checked both
    start = copy.deepcopy(model)
    first = path(0.5) if middle is None else {k: v.detach().clone() for k, v in middle.items()}
    start.load_state_dict(first, assign=True)  # in the precision of the states
    _tie(start, model)
    chosen = Corner.of(**settings)
    ends = check_factor(factor)
    chain = {"on torus": symmetry is not None, "bias": bias, "factor": [*ends]}
    device, drawn = device_of(train, start), [generator]
    networks = Networks(
        [start], device, chosen.precision, generators=drawn, task=checked_task(task)
    )
    if checkpoint:
        chain["ends"] = f"of digests {digest(a)[:16]} and {digest(b)[:16]}"
    identity = {**chosen.identity(), **chain}
    loop = Loop(networks, train, drawn, chosen, progress, checkpoint, identity)

    def corner() -> dict[str, Tensor]:
        bent = networks.whole({k: v[0] for k, v in networks.state.items()})
        return bent if torus is None else torus.project(bent)

    def step(images: Any, labels: Any) -> tuple[Tensor, Tensor]:
        t = 2 * float(torch.rand((), generator=generator, dtype=torch.float32))
        first, second, share = (a, corner(), t) if t <= 1 else (corner(), b, t - 1)
        point = _between(first, second, share, torus)
        found = networks.losses(images, labels, point, _power(ends, t / 2))
        loop.optimizer.zero_grad()
        torch.autograd.backward(found[0].sum())
        loop.optimizer.step()
        if torus is not None:
            with torch.no_grad():
                projected = corner()
                for k, v in networks.state.items():
                    v[0] = projected[k]
        return found

    (history,) = loop.run(step)
    bent = Polygon(a, {k: v.detach() for k, v in corner().items()}, b, symmetry, bias)
    return Bend(bent, history)


def _tie(network: nn.Module, like: nn.Module) -> None:
    """Make one tensor of those that are one in another network, in place."""
    for name, first in first_names(like).items():
        if name != first:
            (owner, _, leaf), (other, _, same) = name.rpartition("."), first.rpartition(".")
            tensor = getattr(network.get_submodule(other), same)
            setattr(network.get_submodule(owner), leaf, tensor)


def _power(ends: tuple[float, float], t: float) -> float:
    """From the first to the second number, evenly on a logarithmic scale."""
    return ends[0] ** (1 - t) * ends[1] ** t


def _between(a: State, b: State, t: float, torus: Torus | None) -> dict[str, Tensor]:
    """A point of a segment, as a stack of one network; its buffers may be written to."""
    if torus is None:
        point = {k: between(v, b[k], t) if inexact(v) else v for k, v in a.items()}
    else:
        point = torus.geodesic(a, b, t)
    # (1, ...): networks are trained side by side, along the first dimension
    return {k: (v if inexact(v) else v.clone())[None] for k, v in point.items()}
