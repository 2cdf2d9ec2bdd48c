"""An element of the symmetry group: which unit goes where, with which factor, sign and turn.

What arrives here is trusted. `permute`, `rescale`, `flip` and `turn` check what a user gives;
discovery and alignment make elements that need no check.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from .._state import State
from ._groups import Axis, Group, Scale, Symmetry


class Step(NamedTuple):
    """What one group's units do: they are exchanged, then flipped, then mixed."""

    permutation: Tensor
    signs: Tensor | None = None
    turn: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Element:
    """Units rescaled, then exchanged, then flipped, then mixed; what is not named stays as it is.

    Attributes:
        symmetry: The group of all such elements.
        permutations: For each group (units,): unit i becomes what unit ``permutations[group][i]``
            was, group by group in this order (sets before what is inside them).
        signs: For each group that can flip (units,), 1 or -1, of the units in their new places.
        factors: For each free scale (units,), positive, of the units in their old places.
        gains: For each of `Symmetry.gains` 1 or -1 for each unit, in the old places.
        turns: For each group that turns an invertible matrix (units, units), in the new places.
    """

    symmetry: Symmetry
    permutations: Mapping[str, Tensor] = field(default_factory=dict)
    signs: Mapping[str, Tensor] = field(default_factory=dict)
    factors: Mapping[str, Tensor] = field(default_factory=dict)
    gains: Mapping[str, Tensor] = field(default_factory=dict)
    turns: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def identity(cls, symmetry: Symmetry) -> Element:
        """Every unit as it is, every group named."""
        groups = symmetry.groups
        return cls(
            symmetry,
            {g.name: torch.arange(g.size) for g in groups},
            {g.name: torch.ones(g.size).long() for g in groups if g.flip},
        )

    @classmethod
    def random(cls, symmetry: Symmetry, generator: torch.Generator) -> Element:
        """A random cycle of every group, factors for every scale, signs where they are free."""
        permutations = {}
        for group in symmetry.groups:
            order = torch.randperm(group.size, generator=generator)
            permutations[group.name] = order.roll(1)[order.argsort()]  # no unit stays
        factors = {
            s.name: (0.3 * torch.randn(len(s.axes[0].index), generator=generator)).exp()
            for s in symmetry.scales
        }
        signs = {
            g.name: torch.randint(2, (g.size,), generator=generator) * 2 - 1
            for g in symmetry.groups
            if g.flip
        }
        gains = {
            s.name: torch.randint(2, (len(s.axes[0].index),), generator=generator) * 2 - 1
            for s in symmetry.gains
        }
        turns = {
            g.name: _near_identity(g.size, generator) for g in symmetry.groups if g.turn is not None
        }
        return cls(symmetry, permutations, signs, factors, gains, turns)

    def act(self, state: State) -> dict[str, Tensor]:
        """The moved state; tensors that nothing touches are shared with the one given."""
        result = dict(state)
        scales = {scale.name: scale for scale in self.symmetry.scales}
        for gain in self.symmetry.gains:
            if gain.name in self.gains:
                multiply(result, gain, self.gains[gain.name])
        for name, factor in self.factors.items():
            multiply(result, scales[name], factor)
        for name, permutation in self.permutations.items():
            for axis in self.symmetry[name].axes:
                result[axis.parameter] = axis.permuted(result[axis.parameter], permutation)
        for name, sign in self.signs.items():
            flip = self.symmetry[name].flip
            assert flip is not None
            multiply(result, flip, sign)
        for name, matrix in self.turns.items():
            mix(result, self.symmetry[name], matrix)
        return result

    def moved(self, tensor: Tensor, acting: Iterable[tuple[Group, Axis]]) -> Tensor:
        """One parameter with its units exchanged and flipped; `acting` is where groups index it."""
        for group, axis in acting:
            if group.name in self.permutations:
                tensor = axis.permuted(tensor, self.permutations[group.name])
            if group.name in self.signs and group.flips(axis):
                tensor = tensor * axis.spread(self.signs[group.name], tensor, fill=1.0)
            if group.name in self.turns and group.turn:
                parts = [part for part in group.turn.axes if part.place == axis.place]
                tensor = mixed(tensor, parts, self.turns[group.name])
        return tensor

    def then(self, group: Group, step: Step) -> Element:
        """This, and after it a step of one group.

        Where units are sets, a set takes along how what is inside it was moved: its parts' own
        permutations, signs and turns go to the place where the set goes.
        """
        order, name = step.permutation, group.name
        permutations, signs, turns = dict(self.permutations), dict(self.signs), dict(self.turns)
        permutations[name] = permutations[name][order]
        if step.signs is not None and group.flip:
            signs[name] = signs[name][order] * step.signs
        if name in turns:  # the step of what was mixed, as a mixture of what the step has moved
            sign = torch.ones(group.size) if step.signs is None else step.signs
            sign = sign.to(turns[name])
            turns[name] = sign[:, None] * turns[name][order][:, order] * sign
        if step.turn is not None:
            turns[name] = step.turn @ turns[name] if name in turns else step.turn
        for names in group.parts:
            for part, source in zip(names, (names[i] for i in order.tolist()), strict=True):
                for own, before in (
                    (permutations, self.permutations), (signs, self.signs), (turns, self.turns),
                ):  # fmt: skip
                    own.pop(part, None)
                    if source in before:
                        own[part] = before[source]
        return replace(self, permutations=permutations, signs=signs, turns=turns)


def _near_identity(size: int, generator: torch.Generator) -> Tensor:
    """A random matrix that is well invertible, (size, size)."""
    numbers = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return torch.linalg.matrix_exp(0.3 * numbers / size**0.5)


def multiply(state: dict[str, Tensor], scale: Scale, factor: Tensor) -> None:
    """Let a factor for each unit act on a scale's axes; replaces tensors in the dict."""
    for axis in scale.axes:
        if axis.power == 0:
            continue
        tensor = state[axis.parameter]
        # (1, ..., units, ..., 1): broadcasts against the parameter
        powers = axis.spread(factor.to(tensor) ** axis.power, tensor, fill=1.0)
        result = tensor * powers
        if axis.eps:  # (var + ε) λ² - ε, in a form that leaves var as it is where λ is 1
            result += axis.eps * (powers - 1)
        state[axis.parameter] = result


def mix(state: dict[str, Tensor], group: Group, matrix: Tensor) -> None:
    """Let a matrix act on what makes a group's units and its inverse on what reads them."""
    assert group.turn is not None
    for axis in group.turn.axes:
        state[axis.parameter] = mixed(state[axis.parameter], [axis], matrix)


def mixed(tensor: Tensor, axes: Iterable[Axis], matrix: Tensor) -> Tensor:
    """One parameter with its units mixed, at the axes of a turn; the product is in float64."""
    for axis in axes:
        matrix = matrix.to(tensor.device, torch.float64)
        acting = matrix if axis.power > 0 else torch.linalg.inv(matrix).T  # (units, units)
        tensor = axis.put(tensor, (acting @ axis.rows(tensor).double()).to(tensor))
    return tensor
