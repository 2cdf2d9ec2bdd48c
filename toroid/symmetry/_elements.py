"""An element of the symmetry group: which unit goes where, with which factor and which sign.

What arrives here is trusted. `permute`, `rescale` and `flip` check what a user gives; discovery and
alignment make elements that need no check.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .._state import State
from ._groups import Axis, Group, Scale, Symmetry


@dataclass(frozen=True, eq=False)
class Element:
    """Units rescaled, then exchanged, then flipped; what is not named stays as it is.

    Attributes:
        symmetry: The group of all such elements.
        permutations: For each group (units,): unit i becomes what unit ``permutations[group][i]``
            was, group by group in this order (sets before what is inside them).
        signs: For each group that can flip (units,), 1 or -1, of the units in their new places.
        factors: For each free scale (units,), positive, of the units in their old places.
        gains: For each of `Symmetry.gains` 1 or -1 for each unit, in the old places.
    """

    symmetry: Symmetry
    permutations: Mapping[str, Tensor] = field(default_factory=dict)
    signs: Mapping[str, Tensor] = field(default_factory=dict)
    factors: Mapping[str, Tensor] = field(default_factory=dict)
    gains: Mapping[str, Tensor] = field(default_factory=dict)

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
        return cls(symmetry, permutations, signs, factors, gains)

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
        return result

    def moved(self, tensor: Tensor, acting: Iterable[tuple[Group, Axis]]) -> Tensor:
        """One parameter with its units exchanged and flipped; `acting` is where groups index it."""
        for group, axis in acting:
            if group.name in self.permutations:
                tensor = axis.permuted(tensor, self.permutations[group.name])
            if group.name in self.signs and group.flips(axis):
                tensor = tensor * axis.spread(self.signs[group.name], tensor, fill=1.0)
        return tensor

    def then(self, group: Group, permutation: Tensor, signs: Tensor | None = None) -> Element:
        """This, and after it one group's units exchanged and flipped.

        Where units are sets, a set takes along how what is inside it was moved: its parts' own
        permutations and signs go to the place where the set goes.
        """
        permutations, turned = dict(self.permutations), dict(self.signs)
        permutations[group.name] = permutations[group.name][permutation]
        if signs is not None and group.flip:
            turned[group.name] = turned[group.name][permutation] * signs
        for names in group.parts:
            for name, source in zip(names, (names[i] for i in permutation.tolist()), strict=True):
                permutations[name] = self.permutations[source]
                if source in self.signs:
                    turned[name] = self.signs[source]
        return replace(self, permutations=permutations, signs=turned)


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
