"""Labels for every number of an exported graph: what is exchanged, and what is scaled, together.

The idea in one paragraph. Every dimension of every parameter gets fresh integer labels, one for
each position. The graph is then run on labels instead of numbers: an activation is a tensor of
labels that says, for each of its elements, which unit it belongs to. An operation that only moves
numbers (flatten, cat, slice, permute, ...) is simply *executed* on the label tensors; one that
computes *ties* labels: a linear layer ties its columns to its input, an addition ties its two
operands. Nothing is decided before the end, where the connected components of the ties are the
units.

Three kinds of labels travel together. ``unit`` answers "what must be permuted together", ``scale``
"what must be multiplied by the same positive factor", ``sign`` "what must change its sign
together". They differ at a BatchNorm, which keeps the units but absorbs the scale of its input and
starts a new one at its affine pair; a ReLU lets the scale through and not the sign, a tanh the
sign and not the scale.

Where an operation treats some units alike but as a set (the width of an attention head, the
channels of a GroupNorm's group, a block of a grouped convolution), the set is a unit of its own,
and the units are *inside* it: they can be exchanged among themselves, or with the whole set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._network import UnsupportedError

FROZEN = 0  # the label of everything that cannot move: inputs, classes
OUTPUT = 1  # the label of the one factor that all outputs may share
FACTORS = ("scale", "sign")  # what multiplies a unit
KINDS = ("unit", *FACTORS)


class Label(NamedTuple):
    """The labels of one activation: integer tensors of its shape."""

    unit: Tensor
    scale: Tensor
    sign: Tensor

    @property
    def shape(self) -> torch.Size:
        """Shape of the activation."""
        return self.unit.shape


class Weight(NamedTuple):
    """A parameter, or a buffer of floating numbers, on its way through the graph."""

    name: str
    shape: torch.Size
    buffer: bool = False
    signed: bool = False  # only its signs count: it can move and flip, but has no scale


@dataclass(frozen=True)
class Slot:
    """One dimension of one parameter in one role, and its labels.

    Attributes:
        parameter: Name in the state dict.
        dim: First dimension.
        span: How many dimensions, from `dim` on, are indexed as one.
        role: ``out`` the weights that make a unit, ``bias``, ``in`` the weights that read it,
            ``mean`` and ``var`` BatchNorm's statistics of it, ``slope`` a number of its activation.
        ids: One label for each position.
        eps: BatchNorm's ε where the role is ``var``.
    """

    parameter: str
    dim: int
    span: int
    role: str
    ids: np.ndarray
    eps: float = 0.0


@dataclass
class Trace:
    """The slots of a network and the ties between their labels, in the order of the graph."""

    slots: dict[tuple[str, int, int, str], Slot] = field(default_factory=dict)
    ties: dict[str, list[tuple[Tensor, Tensor]]] = field(
        default_factory=lambda: {k: [] for k in KINDS}
    )
    frozen: dict[str, list[tuple[Tensor, str]]] = field(
        default_factory=lambda: {k: [(torch.tensor([FROZEN]), "constant")] for k in KINDS}
    )
    inside: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # units, the unit around them
    uses: list[Tensor] = field(default_factory=list)  # the units that each computing operation sees
    refused: list[str] = field(default_factory=list)
    untouchable: dict[str, str] = field(
        default_factory=dict
    )  # parameter -> operation that reads it
    count: int = 2

    def fresh(self, size: int) -> Tensor:
        """New labels."""
        self.count += size
        return torch.arange(self.count - size, self.count)

    def slot(
        self,
        weight: Weight,
        dim: int,
        role: str,
        *,
        span: int = 1,
        eps: float = 0.0,
        roles: int = 1,
    ) -> Tensor:
        """Labels of one dimension of a parameter: made at its first use, shared by later ones.

        Places that are used in more roles than `roles` are one unit, and their factors are fixed.
        """
        if not isinstance(weight, Weight):
            raise UnsupportedError("its weight is computed, not a parameter of the model")
        key = (weight.name, dim, span, role)
        if key not in self.slots:
            ids = self.fresh(weight.shape[dim : dim + span].numel())
            others = [torch.from_numpy(s.ids) for k, s in self.slots.items() if k[:3] == key[:3]]
            for labels in others:
                self.tie("unit", ids, labels)
                if len(others) >= roles:
                    self.fix(torch.cat([ids, labels]), "a weight in two roles")
            self.slots[key] = Slot(*key, ids.numpy(), eps)
        if self.slots[key].eps != eps:
            raise UnsupportedError("running statistics that are read with two different ε")
        if weight.signed:
            self.freeze("scale", torch.from_numpy(self.slots[key].ids), "sign")
        return torch.from_numpy(self.slots[key].ids)

    def tie(self, kind: str, a: Tensor, b: Tensor) -> None:
        """Two label tensors (broadcast against each other) are the same, element by element."""
        if a is not b:
            self.ties[kind].append(distinct_pairs(a, b))

    def freeze(self, kind: str, labels: Tensor, reason: str) -> None:
        """These labels cannot be moved (``unit``), multiplied (``scale``) or flipped (``sign``)."""
        self.frozen[kind].append((distinct(labels), reason))

    def fix(self, labels: Label | Tensor, reason: str) -> None:
        """Neither multiplied nor flipped."""
        for kind in FACTORS:
            self.freeze(
                kind, labels if isinstance(labels, Tensor) else getattr(labels, kind), reason
            )

    def use(self, *labels: Label) -> None:
        """An operation that computes sees these units: it is part of what they are."""
        self.uses.append(torch.cat([distinct(label.unit) for label in labels]))

    def per_channel(self, labels: Label, dim: int) -> Label:
        """One label for each position along `dim`; what differs along the others is tied."""

        def channels(kind: str) -> Tensor:
            rows = squeeze(getattr(labels, kind), keep=dim).movedim(dim, 0)
            rows = rows.reshape(len(rows), -1)
            if rows.shape[1] > 1:
                self.tie(kind, rows[:, 1:], rows[:, :1])
            return rows[:, 0]

        return Label(*map(channels, KINDS))

    def around(self, units: Tensor) -> Tensor:
        """A unit around each row of `units` (sets, members): the same one for equal rows.

        A row that holds one unit only is that unit.
        """
        if (units == units[:, :1]).all():
            return units[:, 0]
        rows, which = torch.unique(units, dim=0, return_inverse=True)
        sets = self.fresh(len(rows))
        self.inside.append((rows, sets[:, None].expand_as(rows)))
        return sets[which]


def squeeze(labels: Tensor, keep: int | None = None) -> Tensor:
    """Drop repeats: a dimension along which nothing varies is left with size 1."""
    keep = None if keep is None else keep % labels.dim()
    for dim in range(labels.dim()):
        if dim != keep and labels.shape[dim] > 1 and not varies(labels, dim):
            labels = labels.narrow(dim, 0, 1)
    return labels


def distinct(labels: Tensor) -> Tensor:
    """Each label once."""
    return squeeze(labels).unique()


def distinct_pairs(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs of two label tensors that are broadcast together, without repeats."""
    a, b = torch.broadcast_tensors(squeeze(a), squeeze(b))
    return a.reshape(-1), b.reshape(-1)


def varies(labels: Tensor, dim: int) -> bool:
    """Whether the labels differ along a dimension."""
    if labels.stride(dim) == 0 or labels.shape[dim] == 1 or not labels.numel():
        return False
    return bool((labels != labels.narrow(dim, 0, 1)).any())


def spread(channels: Label, shape: Sequence[int], dim: int) -> Label:
    """Channel labels (C,) as the labels of an activation of `shape`, without using memory."""
    view = [1] * len(shape)
    view[dim] = -1
    return Label(*(x.view(view).expand(*shape) for x in channels))


def still(shape: Sequence[int]) -> Label:
    """The labels of an activation that nothing moves."""
    zeros = torch.zeros((), dtype=torch.long).expand(tuple(shape))
    return Label(zeros, zeros, zeros)
