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

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .._state import State
from ..symmetry._elements import Element, Step
from ..symmetry._groups import Axis, Group, Symmetry, doubled, widened

Acting = list[tuple[Group, Axis]]


def assign(similarity: Tensor) -> Tensor:
    """The permutation of the largest total similarity; between equals units stay in place."""
    if not similarity.isfinite().all():
        raise ValueError("the weights to match contain NaN or infinite numbers")
    matrix = similarity.detach().to("cpu", torch.float64, copy=True)  # (units, units)
    if not len(matrix):
        return torch.arange(0)
    # a little more for staying, by the rounding of the products: equals are told apart by it
    matrix.diagonal().add_(8 * torch.finfo(similarity.dtype).eps * float(matrix.abs().max()))
    return torch.from_numpy(linear_sum_assignment(matrix.numpy(), maximize=True)[1])


def polar(products: Tensor) -> tuple[Tensor | None, float]:
    """The orthogonal R of the largest ``Σ R · products``, and that sum: a Procrustes problem.

    ``products = a bᵀ`` (units of a, units of b), so that ``R b`` is closest to a. None where they
    do not say which one: where vectors are not independent.
    """
    left, values, right = torch.linalg.svd(products.double().cpu())
    certain = values[-1] > torch.finfo(products.dtype).eps ** 0.5 * values[0]
    return (left @ right if certain else None), float(values.sum())


class Similarity(NamedTuple):
    """Of all pairs of units: what a flip of one of them leaves as it is, and what it negates.

    Matrices (units, units), the reference's units first; no `odd` where no unit flips.
    """

    plain: Tensor
    odd: Tensor | None

    @property
    def best(self) -> Tensor:
        """With the better sign."""
        return self.plain if self.odd is None else self.plain + self.odd.abs()

    def signs(self, permutation: Tensor) -> Tensor | None:
        """The better sign of each pair."""
        if self.odd is None:
            return None
        negative = self.odd[torch.arange(len(permutation)), permutation] < 0
        return 1 - 2 * negative.long().cpu()

    @property
    def here(self) -> Tensor:
        """With the signs that units have."""
        return self.plain if self.odd is None else self.plain + self.odd

    def step(self) -> Step:
        """The best permutation, and signs."""
        permutation = assign(self.best)
        return Step(permutation, self.signs(permutation))

    def better(self) -> Step | None:
        """The best permutation and signs; None where what is gained over staying is rounding."""
        best, step = self.best, self.step()
        now = self.here.diagonal().double().sum()
        gain = best[torch.arange(len(best)), step.permutation].double().sum() - now
        rounding = torch.finfo(best.dtype).eps ** 0.75
        return None if gain <= rounding * best.diagonal().double().abs().sum() else step

    def turned(self) -> Step | None:
        """The best turn, none if what it gains is rounding; None if the products do not say."""
        turn, most = polar(self.here)
        if turn is None:
            return None
        rounding = torch.finfo(self.plain.dtype).eps ** 0.75
        gains = most - float(self.here.double().trace()) > rounding * most
        return Step(torch.arange(len(turn)), None, turn if gains else None)

    def among(self, allowed: Tensor) -> Similarity:
        """Where only some pairs (units, units) may be; no unit flips."""
        least = -2 * len(allowed) * self.here.abs().max() - 1  # less than all others together
        return Similarity(torch.where(allowed, self.here, least), None)

    def block(self, rows: slice, columns: slice) -> Similarity:
        """Of some of the pairs."""
        odd = None if self.odd is None else self.odd[rows, columns]
        return Similarity(self.plain[rows, columns], odd)

    @classmethod
    def zero(cls, group: Group, like: Tensor) -> Similarity:
        """What products are added to."""
        plain = like.new_zeros(group.size, group.size)
        return cls(plain, torch.zeros_like(plain) if group.flip else None)

    def side(self, group: Group, axis: Axis) -> Tensor:
        """The matrix to which the numbers at an axis contribute."""
        return self.odd if self.odd is not None and group.flips(axis) else self.plain


class Overlap:
    """Products of a group's units in one parameter, a's with those of the moved b.

    This one moves the whole parameter and multiplies anew each time. It is always right; its two
    kinds do less where that is enough.
    """

    def __init__(self, group: Group, axis: Axis, a: Tensor, b: Tensor, acting: Acting) -> None:
        self.group, self.axis, self.a, self.b, self.acting = group, axis, a, b, acting
        self.others = [(g, x) for g, x in acting if g is not group or x.place != axis.place]

    @staticmethod
    def of(group: Group, axis: Axis, a: Tensor, b: Tensor, acting: Acting) -> Overlap:
        """The kind that does least."""
        across = {x.dim for _, x in acting} - {axis.dim}
        if len(across) > 1 or any(x.span > 1 or g.turn for g, x in acting):
            return Overlap(group, axis, a, b, acting)
        alone = all(g is group for g, x in acting if x.dim == axis.dim)
        return (Kept if alone else Gathered)(group, axis, a, b, acting)

    @property
    def coupled(self) -> bool:
        """Whether the group indexes another dimension of the parameter as well."""
        return any(group is self.group for group, _ in self.others)

    def values(self, element: Element) -> Tensor:
        """``values[i, j]``: unit i of a with unit j of b as it is moved now."""
        return self.axis.rows(self.a) @ self.moved(element).T

    def norms(self, element: Element) -> Tensor:
        """Squared norms (2, units) of a's units and of b's as they are moved now."""
        pair = (self.axis.rows(self.a), self.moved(element))
        return torch.stack([x.square().sum(1) for x in pair])

    def moved(self, element: Element) -> Tensor:
        """The rows of b's units as they are moved now, (units, numbers)."""
        return self.axis.rows(element.moved(self.b, self.acting))


class Gathered(Overlap):
    """Where one dimension at most lies across: only the numbers of the group's units are moved."""

    def __init__(self, group: Group, axis: Axis, a: Tensor, b: Tensor, acting: Acting) -> None:
        super().__init__(group, axis, a, b, acting)
        self.across = next((x.dim for _, x in acting if x.dim != axis.dim), None)

    def moved(self, element: Element) -> Tensor:
        own, places = self.axis.dim, self.axis.positions.flatten()
        source, sign = self.sources(own, element)
        taken = _taken(self.b, own, source[places], sign[places])
        if self.across is not None:
            taken = _taken(taken, self.across, *self.sources(self.across, element))
        return taken.movedim(own, 0).reshape(self.group.size, -1)

    def sources(self, dim: int, element: Element) -> tuple[Tensor, Tensor]:
        """Where what stands at each position of a dimension comes from in b, and its sign."""
        size = self.b.shape[dim]
        source, sign = torch.arange(size), torch.ones(size)
        for group, axis in self.acting:  # sets before what is inside them
            if axis.dim == dim:
                places = axis.positions  # (units, block)
                source[places] = source[places[element.permutations[group.name]]]
                if group.flips(axis):
                    sign[places] = element.signs[group.name][:, None].to(sign)
        return source.to(self.b.device), sign.to(self.b)


class Kept(Gathered):
    """Where the group is alone on its dimension: the products are kept, for b's units unmoved.

    Its own moves exchange columns of the products; those across renew what comes from the
    positions that changed since.
    """

    def __init__(self, group: Group, axis: Axis, a: Tensor, b: Tensor, acting: Acting) -> None:
        super().__init__(group, axis, a, b, acting)
        self.rows = axis.rows(a)  # (units, numbers)
        self.products: Tensor | None = None  # (units of a, units of b in their first order)
        self.line: tuple[Tensor, Tensor] | None = None  # the sources across of those products

    def values(self, element: Element) -> Tensor:
        values = self._renewed(element)[:, element.permutations[self.group.name]]
        flips = self.group.flips(self.axis)
        return values * element.signs[self.group.name].to(values) if flips else values

    def norms(self, element: Element) -> Tensor:
        # moves across do not change them
        b = self.axis.rows(self.b)[element.permutations[self.group.name]]
        return torch.stack([x.square().sum(1) for x in (self.rows, b)])

    def _renewed(self, element: Element) -> Tensor:
        """The products, where the others are now."""
        if self.across is None:
            self.products = self._anew(self.b) if self.products is None else self.products
            return self.products
        old, self.line = self.line, self.sources(self.across, element)
        if self.products is None or old is None:
            self.products = self._anew(_taken(self.b, self.across, *self.line))
            return self.products
        new = ((self.line[0] != old[0]) | (self.line[1] != old[1])).nonzero().flatten()
        if 2 * len(new) >= len(old[0]):  # all of it is less work than two times what is new
            self.products = self._anew(_taken(self.b, self.across, *self.line))
        elif len(new):
            now, before = (
                _taken(self.b, self.across, source[new], sign[new])
                for source, sign in (self.line, old)
            )
            here = self.axis.rows(self.a.index_select(self.across, new))
            self.products = self.products + here @ self.axis.rows(now - before).T
        return self.products

    def _anew(self, b: Tensor) -> Tensor:
        return self.rows @ self.axis.rows(b).T


def _taken(tensor: Tensor, dim: int, source: Tensor, sign: Tensor) -> Tensor:
    """Positions of one dimension, each with its sign."""
    taken = tensor.index_select(dim, source)
    shape = [-1 if d == dim else 1 for d in range(taken.dim())]
    return taken * sign.view(shape) if (sign < 0).any() else taken


def _ordinary(tensor: Tensor) -> bool:
    """Whether the products of its numbers, and their sums, are numbers of its precision."""
    most = float(tensor.detach().abs().max()) if tensor.numel() else 0.0
    return most == 0 or 2.0**-48 < most < 2.0**48


class Overlaps:
    """Products of two states for all groups, made when they are asked for, and kept.

    Args:
        a: The reference.
        b: The state to move; it is not changed.
        symmetry: Their groups.
    """

    def __init__(self, a: State, b: State, symmetry: Symmetry) -> None:
        self.symmetry = symmetry
        # sums of products in half precision would be too coarse
        self.a, self.b = ({k: widened(v) for k, v in s.items()} for s in (a, b))
        for axis in {x for g in symmetry.groups if g.constant for axes in g.makers for x in axes}:
            most = max(float(s[axis.parameter].abs().max()) for s in (self.a, self.b)) or 1.0
            for state in (self.a, self.b):  # constants of any size: their squares are numbers too
                state[axis.parameter] = state[axis.parameter] / most
        self.acting: dict[str, Acting] = {}
        for group in symmetry.groups:
            for axis in group.axes:
                self.acting.setdefault(axis.parameter, []).append((group, axis))
        self.weights = sorted({x.parameter for g in symmetry.groups for x in g.axes if x.weighs})
        if not all(_ordinary(s[name]) for s in (self.a, self.b) for name in self.weights):
            self.a, self.b = doubled(self.a), doubled(self.b)
        self.like = next(x for x in self.a.values() if x.is_floating_point())
        self.made: dict[tuple[Any, ...], Overlap] = {}
        self.at: dict[tuple[str, int], dict[int, list[int]]] = {}

    def of(self, group: Group, axis: Axis) -> Overlap:
        """The products of a group's units in one parameter."""
        key = group.name, axis.place
        if key not in self.made:
            a, b = (state[axis.parameter] for state in (self.a, self.b))
            self.made[key] = Overlap.of(group, axis, a, b, self._near(axis))
        return self.made[key]

    def _near(self, axis: Axis) -> Acting:
        """Who acts on the same numbers.

        Other blocks of the same dimension (of a concatenation, say) do not move those of this one.
        """
        acting = self.acting[axis.parameter]
        same = {i for i, (_, x) in enumerate(acting) if x.dim == axis.dim}
        if len(same) > 1:
            at = self._indexed(axis.parameter, axis.dim)
            same = {i for index in axis.first_index(self.a[axis.parameter]) for i in at[index]}
        return [pair for i, pair in enumerate(acting) if pair[1].dim != axis.dim or i in same]

    def _indexed(self, parameter: str, dim: int) -> dict[int, list[int]]:
        """For each index of a dimension, the numbers in `acting` of who acts there."""
        if (parameter, dim) not in self.at:
            at = self.at[parameter, dim] = defaultdict(list)
            for i, (_, axis) in enumerate(self.acting[parameter]):
                if axis.dim == dim:
                    for index in axis.first_index(self.a[parameter]):
                        at[index].append(i)
        return self.at[parameter, dim]

    def forget(self, group: Group) -> None:
        """Free what was kept for a group."""
        for axis in group.axes:
            self.made.pop((group.name, axis.place), None)

    def around(self, group: Group) -> list[Overlap]:
        """Those of all weights that make or read the units."""
        return [self.of(group, x) for x in group.axes if x.weighs]

    def objective(self, element: Element, weights: Iterable[str] | None = None) -> float:
        """The overlap of a and the moved b, over all weights or some."""
        names = self.weights if weights is None else weights
        moved = ((self.a[n], element.moved(self.b[n], self.acting[n])) for n in names)
        return sum(float((x.double() * y.double()).sum()) for x, y in moved)

    def descend(self, element: Element, generator: torch.Generator) -> Element:
        """Coordinate descent: visit groups in random order until none can be improved."""
        stale = {group.name for group in self.symmetry.groups}
        while stale:
            order = torch.randperm(len(self.symmetry.groups), generator=generator).tolist()
            for group in (self.symmetry.groups[i] for i in order):
                if group.name in stale:
                    stale.discard(group.name)
                    better = self._step(group, element)
                    if better is not None:
                        element = better
                        stale |= {g.name for o in self.around(group) for g, _ in o.others}
        return element

    def _same(self, group: Group, element: Element) -> Tensor:
        """Which units (units, units) have the same constants: among them what reads them counts.

        Where constants differ they say which unit is which, and the weights that read it do not.
        """
        constants = [self.of(group, x) for axes in group.makers for x in axes]
        rows = torch.cat([overlap.moved(element) for overlap in constants], 1)
        return (rows[:, None] == rows).all(2)

    def _step(self, group: Group, element: Element) -> Element | None:
        """The best step of one group, if it is better than staying."""
        overlaps = self.around(group)
        found = Similarity.zero(group, self.like)
        for overlap in overlaps:
            found.side(group, overlap.axis).add_(overlap.values(element))
        if group.constant:
            found = found.among(self._same(group, element))
        turned = found.turned() if group.turn else None
        step = turned or found.better()
        if step is None or (turned and turned.turn is None):
            return None
        moved = element.then(group, step)
        if group.whole or any(overlap.coupled for overlap in overlaps):  # not a sum over pairs
            names = {overlap.axis.parameter for overlap in overlaps}
            return moved if self.objective(moved, names) > self.objective(element, names) else None
        return moved
