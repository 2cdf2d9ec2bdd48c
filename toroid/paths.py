"""A path between two networks is a function t -> state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn

from ._state import (
    State,
    between,
    check_binary,
    check_number,
    check_pair,
    check_step,
    check_tensor,
    check_whole,
    inexact,
    shown,
)
from .symmetry import Symmetry
from .torus import Torus

__all__ = ["Geodesic", "Hamming", "Joined", "Linear", "Path", "Polygon", "Ray"]


class Path(Protocol):
    """Anything that gives a state for t in [0, 1]."""

    def __call__(self, t: float) -> dict[str, Tensor]:
        """The state at `t`."""
        ...


def check_path(name: str, path: object) -> None:
    """A function of t."""
    if not callable(path) or isinstance(path, (nn.Module, type)):
        raise ValueError(
            f"{name} is {shown(path)}, not a function of t: make one of two states, "
            "toroid.Linear(a, b); around one state see toroid.line and toroid.plane"
        )


@dataclass(frozen=True)
class Linear:
    """The straight line ``(1 - t) a + t b`` between two states; integers and masks are `a`'s.

    Args:
        a: State at t = 0.
        b: State at t = 1.

    Raises:
        ValueError: If the states differ in names, shapes or infinite numbers.

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
        check_number("t", t)
        return {k: between(v, self.b[k], t) if inexact(v) else v for k, v in self.a.items()}


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
        return self._torus.shortest(self.a, self.b)

    @cached_property
    def _torus(self) -> Torus:
        return Torus.at_edge(self.symmetry, self.bias, self.a, self.b)

    def __post_init__(self) -> None:
        _ = self.angles  # an error now, if there is one

    def __call__(self, t: float) -> dict[str, Tensor]:
        """The state at `t`."""
        return self._torus.geodesic(self.a, self.b, check_number("t", t), self.angles)


@dataclass(frozen=True)
class Ray:
    """From a state into a direction: ``a + t v``, or on the torus `toroid.exp` of ``t v``.

    Args:
        a: State at t = 0; with a symmetry, normalised.
        v: A tensor for every floating tensor of `a`, as `toroid.direction` draws them; those that
            are left out do not move. With a symmetry, tangent to the torus.
        symmetry: From `find_symmetries`, for great circles.
        bias: As in `normalize`.

    Raises:
        ValueError: If `v` has other tensors or shapes than `a`, or `a` is not normalised.

    Example:
        >>> import torch
        >>> Ray({"w": torch.ones(2)}, {"w": torch.tensor([1.0, 0.0])})(-2)["w"]
        tensor([-1.,  1.])
    """

    a: State
    v: State
    symmetry: Symmetry | None = None
    bias: str = "euclidean"

    def __post_init__(self) -> None:
        check_step(self.a, self.v)
        _ = self._torus

    @cached_property
    def _torus(self) -> Torus | None:
        return None if self.symmetry is None else Torus.at_edge(self.symmetry, self.bias, self.a)

    def __call__(self, t: float) -> dict[str, Tensor]:
        """The state at `t`."""
        return moved(self.a, [(check_number("t", t), self.v)], self._torus)


def moved(a: State, steps: Sequence[tuple[float, State]], torus: Torus | None) -> dict[str, Tensor]:
    """A state after the sum of some steps, each a number times a direction."""
    v = {
        k: sum((t * step[k] for t, step in steps if k in step), torch.zeros_like(x))
        for k, x in a.items()
        if inexact(x)
    }
    return torus.exp(a, v) if torus else {k: x + v[k] if k in v else x for k, x in a.items()}


@dataclass(frozen=True)
class Joined:
    """One path after the other: the first up to t = 1/2, then the second.

    Args:
        first: A path.
        second: A path that begins where the first one ends.

    Example:
        >>> import torch
        >>> a, b, c = ({"w": torch.tensor([x])} for x in (0.0, 2.0, 1.0))
        >>> float(Joined(Linear(a, b), Linear(b, c))(0.75)["w"])
        1.5
    """

    first: Path
    second: Path

    def __post_init__(self) -> None:
        check_path("first", self.first)
        check_path("second", self.second)

    def __call__(self, t: float) -> dict[str, Tensor]:
        """The state at `t`."""
        check_number("t", t)
        return self.first(2 * t) if t <= 0.5 else self.second(2 * t - 1)


@dataclass(frozen=True)
class Hamming:
    """A shortest path between two states of ±1: the weights that differ, flipped one by one.

    At t the first ``round(t n)`` of the n differing weights are `b`'s, all others `a`'s.

    Args:
        a: State at t = 0.
        b: State at t = 1.
        order: A permutation of the differing weights, (n,), as they follow each other in the state
            dict; None for a random one. See `toroid.binary.greedy`.
        seed: Draws the random order.

    Raises:
        ValueError: If the states differ in names or shapes, a number is not ±1, or `order` is no
            permutation of the differing weights.

    Example:
        >>> import torch
        >>> a, b = {"w": torch.tensor([1.0, 1, 1])}, {"w": torch.tensor([-1.0, 1, -1])}
        >>> Hamming(a, b, order=torch.tensor([1, 0]))(0.5)["w"]
        tensor([ 1.,  1., -1.])
    """

    a: State
    b: State
    order: Tensor | None = None
    seed: int = 0

    @cached_property
    def differ(self) -> dict[str, Tensor]:
        """Where the states differ: a mask for each floating tensor."""
        return {k: v != self.b[k] for k, v in self.a.items() if v.is_floating_point()}

    @cached_property
    def count(self) -> int:
        """How many weights differ."""
        return sum(int(mask.sum()) for mask in self.differ.values())

    @cached_property
    def turns(self) -> Tensor:
        """The order in use."""
        generator = torch.Generator().manual_seed(check_whole("seed", self.seed))
        drawn = torch.randperm(self.count, generator=generator)
        return drawn if self.order is None else self.order

    def __post_init__(self) -> None:
        check_pair(self.a, self.b)
        for state in (self.a, self.b):
            check_binary(state)
        if self.order is not None:
            check_tensor("order", self.order, floating=False)
        if not torch.equal(self.turns.sort().values, torch.arange(self.count)):
            raise ValueError(
                f"order takes a permutation of the {self.count} weights that differ, got a tensor "
                f"of shape {tuple(self.turns.shape)}: {self.turns.tolist()[:8]}"
            )

    def flipped(self, which: Tensor) -> dict[str, Tensor]:
        """`a` with some of the differing weights flipped.

        Args:
            which: Their numbers, as in `order`.
        """
        chosen = torch.zeros(self.count, dtype=torch.bool)
        chosen[which] = True
        parts = chosen.split([int(mask.sum()) for mask in self.differ.values()])
        result = dict(self.a)
        for (name, mask), part in zip(self.differ.items(), parts, strict=True):
            taken = torch.zeros_like(mask)
            taken[mask] = part.to(mask.device)
            result[name] = torch.where(taken, self.b[name], self.a[name])
        return result

    def __call__(self, t: float) -> dict[str, Tensor]:
        """The state at `t`."""
        if not 0 <= check_number("t", t) <= 1:
            raise ValueError(f"t is {t}; a path of flips goes from 0 to 1")
        return self.flipped(self.turns[: round(float(t) * self.count)])


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
        return Joined(*self.segments)(t)
