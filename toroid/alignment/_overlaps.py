"""The overlap of two states, and how to raise it by moving the units of one.

It is the sum over their weights of the products ``a · (moved b)``: on the torus the sum of the
cosines of all angles, on raw weights a constant less half the squared distance. For one group, with
the others held where they are, it is a sum over pairs of units, and the best permutation is a
linear assignment (Ainsworth et al. 2023).

What costs are the matrices of products. So b is never moved, the matrices are kept, and after a
step only the products with units that changed place are renewed; groups whose neighbours did not
change are not visited.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .._state import State
from ..symmetry._groups import Axis, Group, Symmetry

Acting = list[tuple[Group, Axis]]


def _exact(state: State) -> State:
    """Numbers of half precision as float32: their sums would be too coarse."""
    half = (torch.bfloat16, torch.float16)
    return {k: v.float() if v.dtype in half else v for k, v in state.items()}


def assign(similarity: Tensor) -> Tensor:
    """The permutation of the largest total similarity; between equals units stay in place."""
    if not similarity.isfinite().all():
        raise ValueError("the weights to match contain NaN or infinite numbers")
    matrix = similarity.detach().double().cpu().clone()
    if not len(matrix):
        return torch.arange(0)
    matrix.diagonal().add_(8 * torch.finfo(similarity.dtype).eps * float(matrix.abs().max()))
    return torch.from_numpy(linear_sum_assignment(matrix.numpy(), maximize=True)[1])


@dataclass
class Moves:
    """What was done to each group: a permutation, and then signs."""

    permutations: dict[str, Tensor]
    signs: dict[str, Tensor]

    @classmethod
    def none(cls, symmetry: Symmetry) -> Moves:
        """Every unit as it is."""
        groups = symmetry.groups
        return cls(
            {g.name: torch.arange(g.size) for g in groups},
            {g.name: torch.ones(g.size).long() for g in groups if g.flip},
        )

    def then(self, group: Group, step: Tensor, signs: Tensor, inside: Sequence[list[str]]) -> Moves:
        """Also this step; where units are sets, what is inside them comes along."""
        permutations, turned = dict(self.permutations), dict(self.signs)
        permutations[group.name] = permutations[group.name][step]
        if group.flip:
            turned[group.name] = turned[group.name][step] * signs
        for parts in inside:
            for part, source in zip(parts, [parts[i] for i in step.tolist()], strict=True):
                permutations[part] = self.permutations[source]
                if source in self.signs:
                    turned[part] = self.signs[source]
        return Moves(permutations, turned)

    def apply(self, tensor: Tensor, acting: Acting) -> Tensor:
        """A parameter with these groups moved, one after the other."""
        for group, axis in acting:
            tensor = axis.permuted(tensor, self.permutations[group.name])
            if group.flips(axis):
                tensor = tensor * axis.spread(self.signs[group.name], tensor, fill=1.0)
        return tensor


class Overlap:
    """Products of a group's units in one parameter, a's with those of the moved b.

    Where no other group indexes the units' own dimension, the products are kept, for b's units in
    their first order, and renewed for the positions across that changed since.
    """

    def __init__(self, group: Group, axis: Axis, a: Tensor, b: Tensor, acting: Acting) -> None:
        self.group, self.axis, self.a, self.b, self.acting = group, axis, a, b, acting
        self.others = [(g, x) for g, x in acting if g is not group or x.place != axis.place]
        self.coupled = any(g.name == group.name for g, _ in self.others)
        across = {x.dim for _, x in self.others} - {axis.dim}
        self.across = across.pop() if across else None
        self.flat = not across and all(x.span == 1 for _, x in acting)
        self.simple = self.flat and all(x.dim != axis.dim for _, x in self.others)
        self.rows = axis.rows(a) if self.simple and axis.ordered else None
        self.kept: Tensor | None = None
        self.line: tuple[Tensor, Tensor] | None = None

    def values(self, moves: Moves) -> Tensor:
        """``values[i, j]``: unit i of a with unit j of b as it is moved now."""
        if not self.simple:
            return self.axis.rows(self.a) @ self._moved(moves).T
        self._renew(moves)
        assert self.kept is not None
        values = self.kept[:, moves.permutations[self.group.name]]
        flips = self.group.flips(self.axis)
        return values * moves.signs[self.group.name].to(values) if flips else values

    def norms(self, moves: Moves) -> Tensor:
        """Squared norms (2, units) of a's units and of b's as they are moved now."""
        if self.simple:  # moves across do not change them
            b = self.axis.rows(self.b)[moves.permutations[self.group.name]]
        else:
            b = self._moved(moves)
        return torch.stack([x.square().sum(1) for x in (self.axis.rows(self.a), b)])

    def _moved(self, moves: Moves) -> Tensor:
        """The rows of b's units as they are moved now."""
        if not self.flat:
            return self.axis.rows(moves.apply(self.b, self.acting))
        own, places = self.axis.dim, self.axis.positions.flatten()
        source, sign = self._sources(own, moves)
        taken = _taken(self.b, own, source[places], sign[places])
        if self.across is not None:
            taken = _taken(taken, self.across, *self._sources(self.across, moves))
        return taken.movedim(own, 0).reshape(self.group.size, -1)

    def _renew(self, moves: Moves) -> None:
        """Bring what is kept to where the others are now."""
        if self.across is None:
            self.kept = self._products(self.a, self.b) if self.kept is None else self.kept
            return
        old, line = self.line, self._sources(self.across, moves)
        new = line[0] if old is None else ((line[0] != old[0]) | (line[1] != old[1])).nonzero()
        if self.kept is None or old is None or 2 * len(new) >= len(line[0]):
            self.kept = self._products(self.a, _taken(self.b, self.across, *line))
        elif len(new):
            new = new.flatten()
            now, before = (_taken(self.b, self.across, *(x[new] for x in y)) for y in (line, old))
            here = self.a.index_select(self.across, new)
            self.kept = self.kept + self._products(here, now - before)
        self.line = line

    def _products(self, a: Tensor, b: Tensor) -> Tensor:
        rows = self.rows if a is self.a and self.rows is not None else self.axis.rows(a)
        return rows @ self.axis.rows(b).T

    def _sources(self, dim: int, moves: Moves) -> tuple[Tensor, Tensor]:
        """Where what stands at each position of a dimension comes from in b, and its sign."""
        size = self.b.shape[dim]
        source, sign = torch.arange(size), torch.ones(size)
        for group, axis in self.acting:  # sets before what is inside them
            if axis.dim == dim:
                places = axis.positions
                source[places] = source[places[moves.permutations[group.name]]]
                if group.flips(axis):
                    sign[places] = moves.signs[group.name][:, None].to(sign)
        return source.to(self.b.device), sign.to(self.b)


def _taken(tensor: Tensor, dim: int, source: Tensor, sign: Tensor) -> Tensor:
    """Positions of one dimension, each with its sign."""
    taken = tensor.index_select(dim, source)
    shape = [-1 if d == dim else 1 for d in range(taken.dim())]
    return taken * sign.view(shape) if (sign < 0).any() else taken


class Overlaps:
    """Products of two states for all groups, made when they are asked for, and kept.

    Args:
        a: The reference.
        b: The state to move; it is not changed.
        symmetry: Their groups.
    """

    def __init__(self, a: State, b: State, symmetry: Symmetry) -> None:
        self.symmetry, self.a, self.b = symmetry, _exact(a), _exact(b)
        self.acting: dict[str, Acting] = {}
        self.at: dict[tuple[str, int, int], list[int]] = {}  # who acts at one index of a dimension
        for group in symmetry.groups:
            for axis in group.axes:
                acting = self.acting.setdefault(axis.parameter, [])
                for index in axis.first_index(a[axis.parameter]):
                    where = axis.parameter, axis.dim, index
                    self.at.setdefault(where, []).append(len(acting))
                acting.append((group, axis))
        self.weights = sorted({x.parameter for g in symmetry.groups for x in g.axes if x.weighs})
        self.like = next(x for x in self.a.values() if x.is_floating_point())
        self.made: dict[tuple, Overlap] = {}
        self.inside = {
            group.name: [[part.name for part in parts] for parts in symmetry.inside(group)]
            for group in symmetry.groups
        }

    def of(self, group: Group, axis: Axis) -> Overlap:
        """The products of a group's units in one parameter."""
        key = group.name, axis.place
        if key not in self.made:
            a, b = (state[axis.parameter] for state in (self.a, self.b))
            acting = self.acting[axis.parameter]
            # other blocks of the same dimension do not move the numbers of this one
            near = {i for i, (_, x) in enumerate(acting) if x.dim != axis.dim}
            for index in axis.first_index(a):
                near.update(self.at[axis.parameter, axis.dim, index])
            self.made[key] = Overlap(group, axis, a, b, [acting[i] for i in sorted(near)])
        return self.made[key]

    def forget(self, group: Group) -> None:
        """Free what was kept for a group."""
        for axis in group.axes:
            self.made.pop((group.name, axis.place), None)

    def around(self, group: Group) -> list[Overlap]:
        """Those of all weights that make or read the units."""
        return [self.of(group, x) for x in group.axes if x.weighs]

    def objective(self, moves: Moves, weights: Iterable[str] | None = None) -> float:
        """The overlap of a and the moved b, over all weights or some."""
        names = self.weights if weights is None else weights
        moved = ((self.a[n], moves.apply(self.b[n], self.acting[n])) for n in names)
        return sum(float((x.double() * y.double()).sum()) for x, y in moved)

    def descend(self, moves: Moves, generator: torch.Generator) -> Moves:
        """Coordinate descent: visit groups in random order until none can be improved."""
        stale = {group.name for group in self.symmetry.groups}
        while stale:
            order = torch.randperm(len(self.symmetry.groups), generator=generator).tolist()
            for group in (self.symmetry.groups[i] for i in order):
                if group.name in stale:
                    stale.discard(group.name)
                    better = self._step(group, moves)
                    if better is not None:
                        moves = better
                        stale |= {g.name for o in self.around(group) for g, _ in o.others}
        return moves

    def _step(self, group: Group, moves: Moves) -> Moves | None:
        """The best permutation and signs of one group, if they are better than those it has."""
        overlaps = self.around(group)
        plain, odd = self.like.new_zeros(2, group.size, group.size)
        for overlap in overlaps:
            (odd if group.flips(overlap.axis) else plain).add_(overlap.values(moves))
        best = plain + odd.abs()
        step = assign(best)
        rows = torch.arange(group.size)
        now = (plain + odd).diagonal().double().sum()
        gain = best[rows, step].double().sum() - now
        rounding = torch.finfo(best.dtype).eps ** 0.75
        if gain <= rounding * best.diagonal().double().abs().sum():
            return None
        signs = 1 - 2 * (odd[rows, step] < 0).long().cpu()
        moved = moves.then(group, step, signs, self.inside[group.name])
        if group.whole or any(overlap.coupled for overlap in overlaps):  # not a sum over pairs
            names = {overlap.axis.parameter for overlap in overlaps}
            return moved if self.objective(moved, names) > self.objective(moves, names) else None
        return moved
