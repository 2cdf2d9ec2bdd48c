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

Three units, worked out. Inputs have the label 0, which stays; every dimension of every parameter
gets its own: the three rows of the first layer 4, 5, 6, their biases 7, 8, 9, the columns that
read the units 10, 11, 12.

    >>> import torch
    >>> from toroid.symmetry import _graph
    >>> layers = torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)
    >>> model = torch.nn.Sequential(*layers)
    >>> trace = _graph.trace(_graph.export(model, torch.zeros(1, 2)), model)
    >>> for slot in trace.slots.values():
    ...     print(slot.parameter, slot.dim, slot.role, slot.ids.tolist())
    0.weight 1 in [2, 3]
    0.weight 0 out [4, 5, 6]
    0.bias 0 bias [7, 8, 9]
    2.weight 1 in [10, 11, 12]
    2.weight 0 out [13, 14]
    2.bias 0 bias [15, 16]

Tied are the columns of the first layer to the input, its biases to its rows, the columns of the
second to the units that they read, its biases to its rows:

    >>> ties = [list(zip(a.tolist(), b.tolist())) for a, b in trace.ties["unit"]]
    >>> ties[:3]
    [[(2, 0), (3, 0)], [(7, 4), (8, 5), (9, 6)], [(10, 4), (11, 5), (12, 6)]]

So {4, 7, 10} is the first unit: its row, its bias and its column move together. What is frozen says
what does not: classes keep their places, and no sign passes a ReLU.

    >>> [(labels.tolist(), why) for labels, why in trace.frozen["unit"]]
    [([0], 'the input'), ([13, 14], 'classes')]
    >>> [(labels.tolist(), why) for labels, why in trace.frozen["sign"]]
    [([0], 'constant'), ([4, 5, 6], 'relu'), ([13, 14], 'classes')]

`assemble` then asks for each unit where it occurs: 4, 5 and 6 in the same places of the same slots,
so that they are alike, and one group. Their scale is free, they do not flip:

    >>> from toroid.symmetry._assembly import assemble
    >>> print(assemble(trace))
    group   units  made by  read by  scale
    0           3  0        2        free
    output      1  2        -        one factor
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from .._network import UnsupportedError

FROZEN = 0  # the label of everything that cannot move: inputs, classes
OUTPUT = 1  # the label of the one factor that all outputs may share
FACTORS = ("scale", "sign")  # what multiplies a unit
KINDS = ("unit", *FACTORS)

# Why units stay where the function itself says so, and nothing is lost:
INPUT, CLASSES, WORDS = "the input", "classes", "words"
INDEX, CHOSEN = "an index", "chosen by an index"
ALONE, PLACES = "meets all units of a layer", "a constant that differs from place to place"
OUTER = "an outer product: each meets all units of a layer"
IN_SETS = "a constant has other numbers for each unit of a set, which moves as one"
UNREAD = "not read for the example"
IGNORED = "no output depends on it"
OWN = (INPUT, CLASSES, WORDS, INDEX, CHOSEN, ALONE, PLACES, IN_SETS, UNREAD, IGNORED)
SINGLE = "a set without another like it"
CONSTANT = "a constant with a number for each unit"

ACROSS = "a layer across places, which units pass"
GAIN = "a gain"
MET = "a product"
COMPUTED = "its weight is computed, not a parameter of the model"


class Label(NamedTuple):
    """The labels of one activation: integer tensors of its shape.

    Where one number stands again and again, as after an ``expand``, `numbers` has equal integers:
    along such a dimension an activation meets others as if it were broadcast. None if it is not
    known, or if no number is repeated.
    """

    unit: Tensor
    scale: Tensor
    sign: Tensor
    numbers: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """Shape of the activation."""
        return self.unit.shape

    @property
    def still(self) -> bool:
        """Whether nothing moves, multiplies or flips it."""
        return not any(squeeze(getattr(self, kind)).any() for kind in KINDS)

    def map(self, function: Callable[[Tensor], Tensor]) -> Label:
        """The same done to the labels of each kind."""
        return Label(*(function(getattr(self, kind)) for kind in KINDS))

    def moved(self, move: Callable[[Tensor], Tensor]) -> Label:
        """As `map`, where numbers are only moved."""
        numbers = None if self.numbers is None else move(self.numbers)
        return self.map(move)._replace(numbers=numbers)

    def expand(self, shape: Sequence[int]) -> Label:
        """Broadcast to a shape, without using memory; the numbers are repeated, and it is known."""
        size, rank = self.shape, len(shape) - len(self.shape)
        grows = rank > 0 or any(a != b for a, b in zip(size, shape, strict=True))
        if not grows:
            return self
        alike = torch.arange(size.numel()).view(size) if self.numbers is None else self.numbers
        return self._replace(numbers=alike).moved(lambda labels: labels.expand(tuple(shape)))

    def once(self, dim: int) -> bool:
        """Whether it is one number along a dimension (counted from the end, -1 the last)."""
        if -dim > len(self.shape) or self.shape[dim] == 1:
            return True
        return self.numbers is not None and not varies(self.numbers, dim % len(self.shape))


@dataclass(frozen=True, eq=False)
class Weight:
    """A parameter, or a buffer of floating numbers, on its way through the graph.

    Its dimensions may have been exchanged, cut or added: dimension d of what arrives is dimension
    ``dims[d]`` of what is stored (None where it is none), at the positions ``at[d]`` of it.
    Dimensions that are stored and do not arrive were selected, at `base`.
    """

    name: str
    stored: torch.Size
    buffer: bool = False
    signed: bool = False  # only its signs count: it can move and flip, but has no scale
    moved: torch.Size | None = None
    dims: tuple[int | None, ...] = ()
    at: tuple[Tensor | None, ...] = ()
    base: tuple[int, ...] = ()

    @property
    def shape(self) -> torch.Size:
        """Shape of what arrives."""
        return self.stored if self.moved is None else self.moved

    def carried(self, move: Callable[[Tensor], Tensor]) -> Weight | None:
        """The weight after an operation that only moves numbers.

        None if dimensions were mixed, so that it is no product of dimensions any more.
        """
        places = [move(c.expand(self.shape)) for c in self._coordinates()]
        shape = places[0].shape if places else move(torch.zeros(self.shape)).shape
        dims: list[int | None] = [None] * len(shape)
        at: list[Tensor | None] = [None] * len(shape)
        for k, place in enumerate(places):
            where = [d for d in range(len(shape)) if varies(place, d)]
            if len(where) > 1 or (where and dims[where[0]] is not None):
                return None
            for d in where:
                line = [slice(None) if e == d else 0 for e in range(len(shape))]
                dims[d], at[d] = k, place[tuple(line)]
        base = tuple(int(p[(0,) * p.dim()]) if p.numel() else 0 for p in places)
        return replace(self, moved=shape, dims=tuple(dims), at=tuple(at), base=base)

    def _coordinates(self) -> list[Tensor]:
        """For each stored dimension the place along it, broadcast against what arrives."""
        lines = []
        for k, size in enumerate(self.stored):
            if self.moved is None:
                lines.append(_along(torch.arange(size), k, len(self.stored)))
            elif k in self.dims:
                d = self.dims.index(k)
                place = self.at[d]
                assert place is not None
                lines.append(_along(place, d, len(self.shape)))
            else:
                lines.append(torch.full([1] * len(self.shape), self.base[k]))
        return lines

    def elements(self, stored: Tensor) -> Tensor:
        """A tensor of the stored shape, as it arrives."""
        if self.moved is None:
            return stored
        return stored[tuple(self._coordinates())].expand(self.shape)


def _along(line: Tensor, dim: int, rank: int) -> Tensor:
    return line.view([-1 if d == dim else 1 for d in range(rank)])


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
    ids: NDArray[Any]
    eps: float = 0.0


class Gain(NamedTuple):
    """A parameter behind a normalisation, and the sign labels on its two sides.

    Where one side flips and the other does not, the parameter flips.
    """

    slot: tuple[str, int, int, str]
    before: Tensor
    behind: Tensor


@dataclass
class Trace:
    """The slots of a network and the ties between their labels, in the order of the graph."""

    slots: dict[tuple[str, int, int, str], Slot] = field(default_factory=dict)
    ties: dict[str, list[tuple[Tensor, Tensor]]] = field(
        default_factory=lambda: {k: [] for k in KINDS}
    )
    frozen: dict[str, list[tuple[Tensor, str]]] = field(
        default_factory=lambda: {
            k: [(torch.tensor([FROZEN]), INPUT if k == "unit" else "constant")] for k in KINDS
        }
    )
    read: dict[tuple[str, int, int], Tensor] = field(
        default_factory=dict
    )  # parameter, first dimension, dimensions -> which of its places the graph reads
    inside: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # units, the unit around them
    gains: list[Gain] = field(default_factory=list)
    searched: dict[Any, Label] = field(
        default_factory=dict
    )  # node that finds places -> the units among which it does
    met: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # scales summed over in products
    uses: list[Tensor] = field(default_factory=list)  # the units that each computing operation sees
    coloured: list[tuple[Tensor, Tensor]] = field(
        default_factory=list
    )  # units, and which of a constant's numbers each meets
    refused: list[str] = field(default_factory=list)
    untouchable: dict[str, str] = field(
        default_factory=dict
    )  # parameter -> operation that reads it
    pinned: dict[tuple[str, int], str] = field(
        default_factory=dict
    )  # parameter and dimension -> what its places stand for
    written: dict[int, tuple[Tensor, Label]] = field(
        default_factory=dict
    )  # address of a constant that activations are written into -> the constant, its labels
    copies: dict[str, str] = field(default_factory=dict)  # a second name of a tensor -> the first
    passing: bool = (
        True  # whether units pass what reads their places alike, and may be more than it
    )
    passed: bool = False  # whether there was such a layer that need not be one
    sized: bool = (
        False  # whether a constant met units: its numbers may depend on the example's size
    )
    count: int = 2  # labels so far

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
            raise UnsupportedError(COMPUTED)
        if weight.moved is None:
            self._reads((weight.name, dim, span), weight.stored[dim : dim + span])
            return self._slot(weight, dim, role, span, eps, roles)
        if span > 1:
            raise UnsupportedError("a weight in blocks that is moved before it is used")
        stored, places = weight.dims[dim], weight.at[dim]
        if stored is None or places is None:  # a dimension that was added: nothing is stored there
            ids = self.fresh(weight.shape[dim])
            self.freeze("unit", ids, "not stored")
            self.fix(ids, "not stored")
            return ids
        self._reads((weight.name, stored, 1), weight.stored[stored : stored + 1], places)
        return self._slot(weight, stored, role, 1, eps, roles)[places]

    def _reads(
        self, place: tuple[str, int, int], shape: torch.Size, where: Tensor | None = None
    ) -> None:
        """These dimensions of a parameter are read, at some of their places or at all."""
        seen = self.read.setdefault(place, torch.zeros(shape, dtype=torch.bool))
        seen.view(-1)[slice(None) if where is None else where] = True

    def _slot(
        self, weight: Weight, dim: int, role: str, span: int, eps: float, roles: int
    ) -> Tensor:
        """`slot` of what is stored."""
        key = (weight.name, dim, span, role)
        if key not in self.slots:
            ids = self.fresh(weight.stored[dim : dim + span].numel())
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

    def elements(self, weight: Weight, role: str) -> Tensor:
        """One label for each element of a weight that is used as numbers of its own."""
        where = None
        if weight.moved is not None:
            where = weight.elements(torch.arange(weight.stored.numel()).view(weight.stored))
        self._reads((weight.name, 0, len(weight.stored)), weight.stored, where)
        ids = self._slot(weight, 0, role, len(weight.stored), 0.0, 1)
        return weight.elements(ids.view(weight.stored))

    def constant(self, x: Tensor) -> Label:
        """Labels of a constant: its numbers stay, but where all are alike any of them may move.

        Zeros may be multiplied and flipped too: what starts at zero belongs to whatever it meets.
        """
        if not x.numel() or x.numel() > 1_000_000 or (x != x.flatten()[0]).any():
            return still(x.shape)
        ids = self.fresh(x.numel()).view(x.shape)
        return still(x.shape)._replace(unit=ids) if x.any() else Label(ids, ids, ids)

    def opened(self, x: Tensor, empty: bool) -> Label:
        """The labels of a constant that activations are written into, in part."""
        memory = x.untyped_storage()
        if memory.data_ptr() not in self.written:
            whole = x.as_strided((memory.nbytes() // x.element_size(),), (1,), 0)
            labels = self.constant(torch.zeros_like(whole) if empty else whole)
            self.written[memory.data_ptr()] = whole, labels.map(Tensor.contiguous)
        return self.current(x)

    def current(self, x: Any) -> Any:
        """A value as it is now: a constant that was written into is an activation."""
        key = x.untyped_storage().data_ptr() if self.written and isinstance(x, Tensor) else None
        if key not in self.written:
            return x
        place = x.shape, x.stride(), x.storage_offset()
        return self.written[key][1].map(lambda ids: ids.as_strided(*place))

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

    def gain(self, weight: Weight, ids: Tensor, sign: Tensor) -> Tensor:
        """The sign behind a gain: that before it, up to the gain's own.

        Two gains of one parameter, or one with another use, let the sign through as it is.
        """
        self.freeze("sign", ids, GAIN)
        if not sign.any() or weight.moved is not None:
            return sign
        behind = torch.where(sign != 0, self.fresh(sign.numel()).view(sign.shape), 0)
        key = next(k for k in self.slots if k[0] == weight.name)
        self.gains.append(Gain(key, sign.flatten(), behind.flatten()))
        return behind

    def colour(self, units: Tensor, numbers: Tensor) -> None:
        """Units are alike only where the constant that they meet has the same numbers for them."""
        moving = [d for d in range(units.dim()) if varies(units, d)]
        rest = [d for d in range(units.dim()) if d not in moving]
        for d in range(units.dim()):
            numbers = numbers if varies(numbers, d) else numbers.narrow(d, 0, 1)
        rows = numbers.permute(*moving, *rest)[..., None].flatten(len(moving))  # (moving…, places)
        flat = rows.flatten(0, len(moving) - 1)
        flat = bits(torch.view_as_real(flat).flatten(1)) if flat.is_complex() else flat
        colours = flat.unique(dim=0, return_inverse=True)[1].view(rows.shape[: len(moving)])
        for d in rest:
            units = units.narrow(d, 0, 1)
        units = units.permute(*moving, *rest)[..., None].flatten(len(moving))[..., 0]
        self.coloured.append((units.flatten(), colours.expand(units.shape).flatten()))

    def use(self, *labels: Label) -> None:
        """An operation that computes sees these units: it is part of what they are."""
        self.uses.append(torch.cat([distinct(label.unit) for label in labels]))

    def per_channel(self, labels: Label, dim: int) -> Label:
        """One label for each position along `dim`; what differs along the others is tied."""

        def channels(kind: str) -> Tensor:
            rows = squeeze(getattr(labels, kind), keep=dim).movedim(dim, 0)
            rows = rows.reshape(len(rows), -1)  # (channels, places)
            if rows.shape[1] > 1:
                self.tie(kind, rows[:, 1:], rows[:, :1])
            return rows[:, 0]

        return Label(*map(channels, KINDS))

    def along(self, labels: Label, dims: Sequence[int], kinds: Sequence[str] = KINDS) -> Label:
        """The labels without some dimensions (they are kept, with size 1); what differs is tied."""

        def first(kind: str) -> Tensor:
            one = every = getattr(labels, kind)
            for dim in dims:
                one = one.narrow(dim, 0, 1)
            if kind in kinds:
                self.tie(kind, every, one)
            return one

        return Label(*map(first, KINDS))

    def around(self, units: Tensor) -> Tensor:
        """A unit around each row of `units` (sets, members): the same one for equal rows.

        A row that holds one unit only is that unit. A set without another like it has nobody to be
        exchanged with: it stays, and says nothing of what is inside it.
        """
        if (units == units[:, :1]).all():
            return units[:, 0]
        rows, which = torch.unique(units, dim=0, return_inverse=True)
        if len(rows) == 1:
            return torch.full((len(units),), FROZEN)
        sets = self.fresh(len(rows))
        self.inside.append((rows, sets[:, None].expand_as(rows)))
        return sets[which]


def bits(numbers: Tensor) -> Tensor:
    """Integers, equal where numbers are to the sign of a zero; complex ones as they are."""
    numbers = numbers.detach().cpu()
    if numbers.is_floating_point():
        return numbers.double().contiguous().view(torch.int64)
    return numbers if numbers.is_complex() else numbers.long()


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
    return channels.map(lambda x: x.view(view).expand(tuple(shape)))


def still(shape: Sequence[int]) -> Label:
    """The labels of an activation that nothing moves."""
    zeros = torch.zeros((), dtype=torch.long).expand(tuple(shape))
    return Label(zeros, zeros, zeros)
