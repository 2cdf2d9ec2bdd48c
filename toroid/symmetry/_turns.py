"""Units that may be mixed: what makes them by a matrix, what reads them by its inverse.

Where units are only added up (weighted sums over places, whose weights are the same for all of
them) on their way to a layer that reads them, ``W' M⁻¹ (M W x) = W' W x`` for every invertible M:
the values of an attention head. Where two activations are summed over their units in a product,
``(M q) · (M⁻ᵀ k) = q · k``: its queries and keys. So one factor must be free for each unit and its
sign too, or be held by such products alone; then products are the edges of a graph of factors, and
what is an odd number of edges away is mixed by the inverse.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ._components import Components
from ._groups import Axis, Group, Scale
from ._labels import MET, Trace

Ints = NDArray[np.int64]
MIXED = ("out", "late", "bias", "in")


class Turns:
    """Finds `Group.turn`, where there is one; whether it is one is verified later.

    Args:
        trace: Of all of the graph.
        scale: The components of factors.
        sign: The components of signs.
    """

    def __init__(self, trace: Trace, scale: Components, sign: Components) -> None:
        self.trace, self.scale, self.sign = trace, scale, sign
        self.held = {
            component
            for labels, why in trace.frozen["scale"]
            if why != MET
            for component in np.unique(scale.of[labels.numpy()]).tolist()
        }
        self.across: dict[int, set[int]] = defaultdict(set)  # factor -> those it meets in products
        for a, b in trace.met:
            for one, other in zip(scale.of[a.numpy()], scale.of[b.numpy()], strict=True):
                self.across[int(one)].add(int(other))
                self.across[int(other)].add(int(one))

    def __call__(self, group: Group) -> Group:
        """The group with its turn."""
        axes = [axis for scale in group.scales for axis in scale.axes]
        if group.whole or group.size < 2 or any(axis.role not in MIXED for axis in axes):
            return group
        if not any(axis.role == "out" for axis in axes):  # no vectors to be turned
            return group
        factors = [self._factors(axis) for axis in axes]  # of each (units, block), -1 where fixed
        powers = self._powers(factors)
        if powers is None:
            return group
        parts = [x for axis, f in zip(axes, factors, strict=True) for x in _parts(axis, f, powers)]
        parts.sort(key=lambda axis: axis.role != "out")
        first = group.scales[0]
        return replace(group, turn=Scale(first.name, tuple(parts), "", first.order))

    def _factors(self, axis: Axis) -> Ints:
        slots, places = self.trace.slots, axis.positions.numpy()
        role = "out" if axis.role == "late" else axis.role
        ids = slots[axis.parameter, axis.dim, axis.span, role].ids[places]
        factors = self.scale.of[ids].astype(np.int64)
        return np.where(self.sign.frozen[ids], -1, factors)

    def _powers(self, factors: list[Ints]) -> dict[int, int] | None:
        """Of each factor 1 or -1, how the matrix acts; None if it does not for all of them."""
        every = {int(f) for part in factors for f in np.unique(part)}
        columns = np.concatenate(factors, 1)  # (units, places)
        if -1 in every or every & self.held or len(every) % len(columns):
            return None
        found: dict[int, int] = {}
        for start in columns[:, 0].tolist():
            if start in found:
                return None  # two units with one factor
            reached, found[start] = [start], 1
            for factor in reached:
                for other in self.across[factor] & every:
                    if other not in found:
                        found[other] = -found[factor]
                        reached.append(other)
        alike = all(len({found.get(f) for f in column}) == 1 for column in columns.T.tolist())
        odd = all(found[f] != found[g] for f in found for g in self.across[f] & every)
        return found if len(found) == len(every) and alike and odd else None


def _parts(axis: Axis, factors: Ints, powers: dict[int, int]) -> list[Axis]:
    """The axis, cut into what the matrix acts on and what its inverse does."""
    sides = [powers[factor] for factor in factors[0].tolist()]
    found = []
    for side in dict.fromkeys(sides):
        index = tuple(tuple(p for p, s in zip(unit, sides, strict=True) if s == side)
                      for unit in axis.index)  # fmt: skip
        # what reads what the inverse makes is multiplied by the matrix, and is no maker of units
        role = {1: axis.role, -1: "late" if axis.role == "in" else "in"}[side]
        found.append(replace(axis, role=role, index=index))
    return found
