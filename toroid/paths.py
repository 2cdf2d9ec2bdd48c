"""A path between two networks is a function t -> state."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from . import torus
from ._checks import State, check_pair
from .symmetry import Symmetry

__all__ = ["Geodesic", "Linear", "Path", "Polygon"]


class Path(Protocol):
    """Anything that gives a state for t in [0, 1]."""

    def __call__(self, t: float) -> dict[str, Tensor]:
        """The state at `t`."""
        ...


@dataclass(frozen=True)
class Linear:
    """The straight line ``(1 - t) a + t b`` between two states; integer buffers are `a`'s.

    Args:
        a: State at t = 0.
        b: State at t = 1.

    Raises:
        ValueError: If the states differ in names or shapes.

    Example:
        >>> import torch
        >>> Linear({"w": torch.zeros(2)}, {"w": torch.ones(2)})(0.25)["w"]
        tensor([0.2500, 0.2500])
    """

    a: State
    b: State

    def __post_init__(self) -> None:
        check_pair(self.a, self.b)

    def __call__(self, t: float) -> dict[str, Tensor]:
        """The state at `t`."""
        return {
            k: torch.lerp(v, self.b[k], t) if v.is_floating_point() else v
            for k, v in self.a.items()
        }


@dataclass(frozen=True)
class Geodesic:
    """The shortest path on the torus, see `toroid.geodesic`.

    Args:
        a: Normalised state at t = 0.
        b: Normalised state at t = 1.
        symmetry: From `find_symmetries`.
        bias: As in `normalize`.

    Raises:
        ValueError: If the states do not fit, are not normalised, or have opposite vectors.

    Example:
        >>> import torch, toroid
        >>> model, x = toroid.mlp((4,), classes=3, hidden=(5,)), torch.randn(7, 4)
        >>> symmetry = toroid.find_symmetries(model, x)
        >>> other = toroid.mlp((4,), classes=3, hidden=(5,))
        >>> a, b = (toroid.normalize(m.state_dict(), symmetry) for m in (model, other))
        >>> Geodesic(a, b, symmetry)(0.5)["1.weight"].norm(dim=1)
        tensor([1.0000, 1.0000, 1.0000, 1.0000, 1.0000])
    """

    a: State
    b: State
    symmetry: Symmetry
    bias: str = "euclidean"

    @cached_property
    def angles(self) -> dict[str, Tensor]:
        """The angle of each great circle, as in `toroid.angles`."""
        return torus.joinable(self.a, self.b, self.symmetry, self.bias)

    def __post_init__(self) -> None:
        _ = self.angles  # an error now, if there is one

    def __call__(self, t: float) -> dict[str, Tensor]:
        """The state at `t`."""
        return torus.great_circles(self.a, self.b, t, self.symmetry, self.angles, self.bias)


@dataclass(frozen=True)
class Polygon:
    """Two segments with one corner: from `a` to it up to t = 1/2, from it to `b` after.

    Args:
        a: State at t = 0.
        corner: State at t = 1/2.
        b: State at t = 1.
        symmetry: From `find_symmetries`: the segments are geodesics between normalised states; None
            for straight ones.
        bias: As in `normalize`.

    Raises:
        ValueError: As `Linear` or `Geodesic`.

    Example:
        >>> import torch
        >>> a, corner, b = ({"w": torch.tensor([x])} for x in (0.0, 2.0, 1.0))
        >>> [float(Polygon(a, corner, b)(t)["w"]) for t in (0.0, 0.25, 0.5, 0.75, 1.0)]
        [0.0, 1.0, 2.0, 1.5, 1.0]
    """

    a: State
    corner: State
    b: State
    symmetry: Symmetry | None = None
    bias: str = "euclidean"

    @cached_property
    def segments(self) -> tuple[Path, Path]:
        """From `a` to the corner, and from there to `b`."""
        ends = ((self.a, self.corner), (self.corner, self.b))
        if self.symmetry is None:
            first, second = (Linear(*pair) for pair in ends)
            return first, second
        one, two = (Geodesic(*pair, self.symmetry, self.bias) for pair in ends)
        return one, two

    def __post_init__(self) -> None:
        _ = self.segments  # an error now, if there is one

    def __call__(self, t: float) -> dict[str, Tensor]:
        """The state at `t`."""
        first, second = self.segments
        return first(2 * t) if t <= 0.5 else second(2 * t - 1)
