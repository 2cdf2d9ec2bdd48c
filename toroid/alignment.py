"""The permutation symmetry removed, relative to a reference.

`match` finds which unit of one network is which of the other; `align` moves a network's units to
the places of their partners in the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ._checks import State, check_choice, check_pair, check_state
from ._groups import Axis, Group, move
from .symmetry import Symmetry, permute

__all__ = ["Alignment", "align", "match", "permute"]


@dataclass(frozen=True)
class Alignment:
    """A network moved onto a reference.

    Attributes:
        state: The aligned state, of the same function as before.
        permutations: For each group (units,): unit i of `state` was unit
            ``permutations[group][i]``, group by group in this order.
        signs: For each group whose activation is odd, ±1 for each unit; ReLU networks have none.
        similarity: For each group, the mean cosine similarity of the matched units.
    """

    state: dict[str, Tensor]
    permutations: dict[str, Tensor]
    signs: dict[str, Tensor]
    similarity: dict[str, float]


def match(a: Tensor, b: Tensor) -> Tensor:
    """The permutation that brings the rows of `b` closest to those of `a`.

    Solves ``max over π of Σ_i cos(a_i, b_π(i))`` exactly, as a linear assignment. A zero row has
    similarity 0 with everything.

    Args:
        a: Vectors (units, numbers), of any length.
        b: Vectors (units, numbers).

    Returns:
        π, integers (units,): ``b[π]`` is aligned to `a`.

    Raises:
        ValueError: If the shapes differ, or a number is not finite.

    Example:
        >>> import torch
        >>> match(torch.eye(3), 5 * torch.eye(3)[[2, 0, 1]])
        tensor([1, 2, 0])
    """
    if a.dim() != 2 or a.shape != b.shape:
        raise ValueError(
            f"match takes two matrices of one shape, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    return _assign(_cosines(a, b))


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    return torch.nn.functional.normalize(a, dim=1) @ torch.nn.functional.normalize(b, dim=1).T


def _assign(similarity: Tensor) -> Tensor:
    if not similarity.isfinite().all():
        raise ValueError("the weights to match contain NaN or infinite numbers")
    return torch.from_numpy(
        linear_sum_assignment(similarity.double().cpu().numpy(), maximize=True)[1]
    )


def align(state: State, to: State, symmetry: Symmetry, *, method: str = "sequential") -> Alignment:
    """Permute a network's units onto those of a reference.

    ``method="sequential"`` is the paper's: front to back, each group is matched on the cosine
    similarity of its units' incoming weights and permuted before the next group is matched; the
    classes keep their places. A residual stream is matched where it begins, on the weights whose
    inputs are matched already.

    Args:
        state: State dict of the network to move; it is not changed.
        to: State dict of the reference.
        symmetry: From `find_symmetries`.
        method: ``"sequential"``.

    Returns:
        The aligned state, the permutations, and how similar the matched units are.

    Raises:
        ValueError: If a state does not fit, holds NaN, or `method` is unknown.

    Example:
        >>> import torch, toroid
        >>> model, x = toroid.mlp((4,), classes=3, hidden=(5,)), torch.randn(7, 4)
        >>> symmetry = toroid.find_symmetries(model, x)
        >>> a = toroid.normalize(model.state_dict(), symmetry)
        >>> moved = toroid.permute(a, {"1": torch.tensor([4, 3, 2, 1, 0])}, symmetry)
        >>> align(moved, to=a, symmetry=symmetry).permutations["1"]
        tensor([4, 3, 2, 1, 0])
    """
    check_choice("method", method, tuple(METHODS))
    check_pair(state, to)
    check_state(state, symmetry)
    permutations, similarity = METHODS[method](state, to, symmetry)
    return Alignment(permute(state, permutations, symmetry), permutations, {}, similarity)


def _sequential(
    state: State, to: State, symmetry: Symmetry
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Match a group, permute its producers and consumers, go on to the next."""
    permutations: dict[str, Tensor] = {}
    similarity: dict[str, float] = {}
    moved = dict(state)
    for group in symmetry.groups:
        cosines = _similarity(moved, to, group, _waiting(symmetry, permutations.keys()))
        permutation = _assign(cosines)
        move(moved, group, permutation)
        permutations[group.name] = permutation
        similarity[group.name] = float(cosines[torch.arange(group.size), permutation].mean())
    return permutations, similarity


def _waiting(symmetry: Symmetry, matched: Collection[str]) -> set[tuple[str, int, int]]:
    """Parameters, and the dimension of each that units not yet matched still scramble."""
    unmatched = (group for group in symmetry.groups if group.name not in matched)
    return {(axis.parameter, axis.dim, axis.span) for group in unmatched for axis in group.axes}


def _similarity(
    state: State, to: State, group: Group, waiting: set[tuple[str, int, int]]
) -> Tensor:
    """Cosines between all pairs of units: the mean over the group's vectors that are in order."""

    def in_order(axis: Axis) -> bool:
        place = (axis.dim, axis.span)
        return not any(name == axis.parameter and tuple(other) != place for name, *other in waiting)

    makers = [[a for a in scale.axes if a.role in ("out", "late")] for scale in group.scales]
    ready = [[a for a in axes if in_order(a)] for axes in makers]
    vectors = [
        [torch.cat([axis.rows(s[axis.parameter]) for axis in axes], 1) for s in (to, state)]
        for axes in (ready if any(ready) else makers)
        if axes
    ]
    return torch.stack([_cosines(a, b) for a, b in vectors]).mean(0)


METHODS: dict[str, Callable] = {"sequential": _sequential}
