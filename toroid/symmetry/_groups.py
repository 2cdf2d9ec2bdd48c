"""The data of a symmetry: axes, scales, groups; and what a state must have to fit one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .._state import State, check_tensors, inexact, prefixed, shown

#: What fixes the scale of units that are sets.
OF_PARTS = "of its parts"

#: What a unit's numbers are multiplied by, in each role, when its output is multiplied by λ:
#: λ^power.
POWERS = {"out": 1, "late": 1, "bias": 1, "mean": 1, "var": 2, "in": -1, "slope": 0}


def widened(x: Tensor) -> Tensor:
    """In float32, where a tensor is of less: norms and angles take more than 8 bits."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def doubled(state: State) -> dict[str, Tensor]:
    """In float64."""
    return {k: v.double() if v.is_floating_point() else v for k, v in state.items()}


def largest(rows: Tensor) -> Tensor:
    """The largest size of a number in each row, (rows, 1); 1 where all are zero."""
    size = rows.abs().amax(1, keepdim=True)
    return torch.where(size > 0, size, 1)


def lengths(rows: Tensor) -> Tensor:
    """The norm of each row, whatever the size of its numbers."""
    norms, limits = rows.norm(dim=1), torch.finfo(rows.dtype)
    if (norms < (limits.tiny / limits.eps) ** 0.5).any() or norms.isinf().any():
        size = largest(rows)  # the numbers' own squares are not representable
        norms = (rows / size).norm(dim=1) * size[:, 0]
    return norms


@dataclass(frozen=True)
class Axis:
    """Where the units of a group appear: positions along one dimension of one parameter.

    Attributes:
        parameter: Name in the state dict.
        dim: Dimension that the units index.
        role: ``out``, the weights that make a unit (BatchNorm's γ and β among them); ``late``, the
            same, but reading units whose scale is settled after this one's (a residual stream
            without BatchNorm); ``bias``; ``mean`` and ``var``, BatchNorm's statistics; ``in``, the
            weights that read the unit; ``slope``, a number of its activation.
        index: The positions of each unit, one tuple for each; a flatten after a convolution gives
            every unit a block of H*W positions. Plain integers, a range say, are one for each unit.
        eps: BatchNorm's ε where the role is ``var``.
        span: How many dimensions, from `dim` on, are indexed as one (2 for a grouped convolution's
            inputs, all of them for a position embedding).
        extent: Number of positions there are; 0 if it is not known.
    """

    parameter: str
    dim: int
    role: str
    index: tuple[tuple[int, ...], ...]
    eps: float = 0.0
    span: int = 1
    extent: int = 0

    def __post_init__(self) -> None:
        units = tuple(u if isinstance(u, tuple) else (u,) for u in self.index)
        object.__setattr__(self, "index", units)
        sizes = {len(unit) for unit in units}
        if len(sizes) != 1 or not all(isinstance(p, int) and p >= 0 for u in units for p in u):
            raise ValueError(
                f"the index of {self.parameter!r} takes positions from 0 on, as integers, or as "
                "tuples of integers of one length, one for each unit"
            )
        if self.role not in POWERS:
            raise ValueError(f"role is {self.role!r}; it can be {', '.join(map(repr, POWERS))}")

    @property
    def module(self) -> str:
        """Path of the module that owns the parameter."""
        return self.parameter.rpartition(".")[0] or self.parameter

    @property
    def place(self) -> tuple[str, int, int]:
        """The parameter and the dimensions that are indexed."""
        return self.parameter, self.dim, self.span

    def overlaps(self, other: Axis) -> bool:
        """Whether both index one position of one dimension."""
        return self.place == other.place and bool(torch.isin(self.positions, other.positions).any())

    @property
    def weighs(self) -> bool:
        """Whether these are weights that make or read the units; only they are matched."""
        return self.role in ("out", "late", "in")

    @property
    def power(self) -> int:
        """Power of the unit's factor that acts on these numbers."""
        return POWERS[self.role]

    @cached_property
    def positions(self) -> Tensor:
        """The index as a tensor (units, block)."""
        return torch.tensor(self.index)

    def flat(self, tensor: Tensor) -> Tensor:
        """The parameter with the indexed dimensions as one."""
        return tensor if self.span == 1 else tensor.flatten(self.dim, self.dim + self.span - 1)

    def first_index(self, tensor: Tensor) -> list[int]:
        """Where the units are along `dim` of the parameter, each index once."""
        below = tensor.shape[self.dim + 1 : self.dim + self.span].numel()
        return (self.positions.flatten() // below).unique().tolist()

    @cached_property
    def ordered(self) -> bool:
        """Whether unit i is at position i, so that nothing has to be gathered."""
        return self.index == tuple((i,) for i in range(len(self.index)))

    def rows(self, tensor: Tensor) -> Tensor:
        """Each unit's numbers in the parameter `tensor`, as a matrix (units, numbers)."""
        flat = self.flat(tensor).movedim(self.dim, 0)
        if self.ordered:
            return flat[: len(self.index)].reshape(len(self.index), -1)
        return flat[self.positions.to(tensor.device)].flatten(1)

    def count(self, tensor: Tensor) -> int:
        """How many numbers each unit has there: the columns of `rows`."""
        places = tensor.shape[self.dim : self.dim + self.span].numel()
        return tensor.numel() // max(1, places) * len(self.index[0])

    def spread(self, values: Tensor, like: Tensor, fill: float) -> Tensor:
        """One value for each unit, laid along its positions: broadcasts against the parameter."""
        indexed = like.shape[self.dim : self.dim + self.span]
        line = like.new_full((indexed.numel(),), fill)
        line[self.positions.to(like.device)] = values.to(like)[:, None]
        rest = like.dim() - self.dim - self.span
        return line.view([1] * self.dim + list(indexed) + [1] * rest)

    def put(self, tensor: Tensor, vectors: Tensor) -> Tensor:
        """The parameter with `vectors` (units, numbers) where `rows` takes them from."""
        flat = self.flat(tensor).movedim(self.dim, 0)
        if self.ordered and len(flat) == len(self.index):
            return vectors.reshape(flat.shape).movedim(0, self.dim).reshape(tensor.shape)
        flat, positions = flat.clone(), self.positions.to(tensor.device)
        flat[positions] = vectors.reshape(*positions.shape, *flat.shape[1:])
        return flat.movedim(0, self.dim).reshape(tensor.shape)

    def permuted(self, tensor: Tensor, permutation: Tensor) -> Tensor:
        """The parameter with unit i where unit ``permutation[i]`` was."""
        flat = self.flat(tensor)
        index = torch.arange(flat.shape[self.dim])
        index[self.positions] = self.positions[permutation.cpu()]
        return flat.index_select(self.dim, index.to(tensor.device)).reshape(tensor.shape)


@dataclass(frozen=True)
class Scale:
    """Axes that one positive factor for each unit acts on; free unless `fixed` says why not.

    Attributes:
        name: The module that starts the scale.
        axes: Where the factor acts, and in which role.
        fixed: Empty where the factor is free, else what fixes it.
        order: Place in the graph, front to back.
    """

    name: str
    axes: tuple[Axis, ...]
    fixed: str = ""
    order: int = 0

    def sphere(self, bias: str = "euclidean") -> tuple[Axis, ...]:
        """The axes whose numbers, joined for each unit, are its vector on the sphere."""
        roles = ("out", "bias") if bias == "joint" else ("out",)
        return tuple(axis for axis in self.axes if axis.role in roles)

    def vectors(self, state: State, bias: str = "euclidean") -> Tensor:
        """The vector of each unit, (units, numbers), in float32 or better."""
        rows = [axis.rows(state[axis.parameter]) for axis in self.sphere(bias)]
        return widened(rows[0] if len(rows) == 1 else torch.cat(rows, 1))


@dataclass(frozen=True)
class Group:
    """Units that share one index: one permutation acts on all axes of the group.

    Attributes:
        name: The module that makes the units first.
        scales: The axes, sorted by the factor that acts on them; a BatchNorm divides a layer
            in two scales, what comes in and what its affine pair makes of it.
        flip: The axes that change sign with a unit where its activation is odd (tanh, sign, none);
            None where no sign is free.
        parts: Where the units are sets of others (heads, blocks): for each kind of unit inside
            them, the names of its groups, one for each set.
        turn: The axes on which any invertible matrix may act that mixes the units, where they are
            only added up on their way to what reads them (a head's values, its queries and keys);
            ``out`` is multiplied by it, ``in`` by its inverse transposed. None where none may.
    """

    name: str
    scales: tuple[Scale, ...]
    flip: Scale | None = None
    parts: tuple[tuple[str, ...], ...] = ()
    turn: Scale | None = None

    def __post_init__(self) -> None:
        sizes = {axis.parameter: len(axis.index) for scale in self.scales for axis in scale.axes}
        if len(set(sizes.values())) != 1:
            raise ValueError(
                f"group {self.name!r} needs axes with one number of units, got {sizes}"
            )
        if any(len(names) != self.size for names in self.parts):
            raise ValueError(
                f"group {self.name!r} has {self.size} sets; for each kind of unit inside them its "
                f"parts name a group for every set, got {self.parts}"
            )

    @property
    def size(self) -> int:
        """Number of units."""
        return len(self.scales[0].axes[0].index)

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """Every place where the units appear, each once."""
        places = {a.place: a for scale in self.scales for a in scale.axes}
        return tuple(places.values())

    @cached_property
    def makers(self) -> list[list[Axis]]:
        """For each scale the weights that make its units, or the constants where none does."""
        made = [[a for a in scale.axes if a.role in ("out", "late")] for scale in self.scales]
        constants = [[a for a in scale.axes if a.role == "mean"] for scale in self.scales]
        return made if any(made) else constants

    @property
    def constant(self) -> bool:
        """Whether constants alone make the units (the columns of a table of coordinates)."""
        return any(self.makers) and not any(axis.weighs for axes in self.makers for axis in axes)

    @property
    def whole(self) -> bool:
        """Whether the units are sets of others (heads, blocks)."""
        return bool(self.parts) or self.scales[0].fixed == OF_PARTS

    def flips(self, axis: Axis) -> bool:
        """Whether a unit's numbers there change their sign when it flips."""
        axes = self.flip.axes if self.flip else ()
        return sum(a.place == axis.place and a.power % 2 for a in axes) % 2 == 1


@dataclass(frozen=True)
class Stay:
    """Hidden units that are in no group: they stay where they are.

    Attributes:
        axis: The weights that make them, the first of each.
        why: What holds them.
    """

    axis: Axis
    why: str

    @property
    def size(self) -> int:
        """Number of units."""
        return len(self.axis.index)

    def without(self, groups: Iterable[Group]) -> Stay | None:
        """Those that no group moves; None if there are none."""
        axes = [a for group in groups for a in group.axes if a.place == self.axis.place]
        moved = {position for axis in axes for unit in axis.index for position in unit}
        left = tuple(unit for unit in self.axis.index if moved.isdisjoint(unit))
        return replace(self, axis=replace(self.axis, index=left)) if left else None


@dataclass(frozen=True)
class Symmetry:
    """The groups of a network's units, front to back; printable, comparable, JSON-able.

    Attributes:
        groups: Units that can be exchanged or rescaled.
        output: The last layer as a group of one unit: one positive factor on it changes no argmax.
            None where something after it fixes its scale.
        refused: Operations left as they are, with their place (only with ``strict=False``).
        stays: The hidden units that are in no group, and why.
        gains: Signs that a gain takes up: what comes before a BatchNorm may be negated, its running
            mean with it, if γ is. Each is a factor of 1 or -1 for every unit; γ is its first axis.
            `normalize` removes them with ``gains="positive"``.

    Example:
        >>> import torch, toroid
        >>> model = toroid.mlp((1, 8, 8), classes=10, hidden=(16, 12))
        >>> print(toroid.find_symmetries(model, torch.zeros(1, 1, 8, 8)))
        group   units  made by  read by  scale
        1          16  1        3        free
        3          12  3        5        free
        output      1  5        -        one factor
    """

    groups: tuple[Group, ...]
    output: Group | None = None
    refused: tuple[str, ...] = ()
    stays: tuple[Stay, ...] = ()
    gains: tuple[Scale, ...] = ()

    def __getitem__(self, name: str) -> Group:
        """The group of this name."""
        if name not in self._named:
            raise KeyError(f"no group {name!r}; there are {', '.join(self._named)}")
        return self._named[name]

    @cached_property
    def _named(self) -> dict[str, Group]:
        return {group.name: group for group in self.all_groups}

    @property
    def all_groups(self) -> tuple[Group, ...]:
        """The groups and the last layer."""
        return self.groups if self.output is None else (*self.groups, self.output)

    @cached_property
    def scales(self) -> tuple[Scale, ...]:
        """The free scales, the last layer's too, in the order of normalising: front to back."""
        free = [scale for group in self.all_groups for scale in group.scales if not scale.fixed]
        return tuple(sorted(free, key=lambda scale: scale.order))

    @cached_property
    def parameters(self) -> frozenset[str]:
        """The names of the tensors that it moves."""
        axes = [axis for group in self.all_groups for axis in group.axes]
        return frozenset(a.parameter for a in (*axes, *(a for g in self.gains for a in g.axes)))

    @cached_property
    def still(self) -> Symmetry:
        """The same without turns: units are exchanged, rescaled, flipped, and not mixed."""
        return replace(self, groups=tuple(replace(group, turn=None) for group in self.groups))

    def inside(self, group: Group) -> list[list[Group]]:
        """Where units are sets: for each kind of unit inside them, its group in every set."""
        return [[self[name] for name in names] for names in group.parts]

    def __or__(self, other: Symmetry) -> Symmetry:
        """Both symmetries; a place in a parameter belongs to a group of one of them only."""
        for a in self.all_groups:
            for b in other.all_groups:
                shared = {x.place for x in a.axes if any(x.overlaps(y) for y in b.axes)}
                if shared or a.name == b.name:
                    where = f" both act on {sorted(shared)[0][0]!r}" if shared else ""
                    raise ValueError(
                        f"groups {a.name!r} and {b.name!r} cannot be merged: they"
                        f"{where or ' have one name'}"
                    )
        groups = sorted((*self.groups, *other.groups), key=lambda g: g.scales[0].order)
        stays = [
            left
            for one, rest in ((self, other), (other, self))
            for stay in one.stays
            if (left := stay.without(rest.groups))
        ]
        refused = (*self.refused, *other.refused)
        return Symmetry(
            tuple(groups),
            self.output or other.output,
            refused,
            tuple(stays),
            self.gains + other.gains,
        )

    def __str__(self) -> str:
        """The groups as a table, and what is in none: every hidden unit is accounted for."""
        rows: list[Row] = [("group", "units", "made by", "read by", "scale")]
        for group in self.all_groups:
            rows += _table_rows(group, "one factor" if group is self.output else "free")
        rows += [("-", str(s.size), s.axis.module, "-", f"stays: {s.why}") for s in self.stays]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [
            f"{a:{widths[0]}}  {b:>{widths[1]}}  {c:{widths[2]}}  {d:{widths[3]}}  {e}"
            for a, b, c, d, e in rows
        ]
        return "\n".join([*lines, *(f"left as it is: {reason}" for reason in self.refused)])

    def to_json(self) -> str:
        """All of it as JSON; `from_json` reads it back."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Symmetry:
        """The symmetry that `to_json` wrote.

        Raises:
            ValueError: If it is something else.
        """
        try:
            data = json.loads(text)
            output = data["output"] and _group_from(data["output"])
            stays = tuple(Stay(_axis_from(stay["axis"]), stay["why"]) for stay in data["stays"])
            groups = tuple(map(_group_from, data["groups"]))
            gains = tuple(map(_scale_from, data["gains"]))
            return cls(groups, output, tuple(data["refused"]), stays, gains)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f"this is not what Symmetry.to_json wrote ({type(error).__name__}: {error})"
            ) from error


def _axis_from(data: dict[str, Any]) -> Axis:
    return Axis(**{**data, "index": tuple(map(tuple, data["index"]))})


def _scale_from(data: dict[str, Any]) -> Scale:
    return Scale(**{**data, "axes": tuple(map(_axis_from, data["axes"]))})


def _group_from(data: dict[str, Any]) -> Group:
    flip, turn = (data[key] and _scale_from(data[key]) for key in ("flip", "turn"))
    parts = tuple(map(tuple, data["parts"]))
    return Group(data["name"], tuple(map(_scale_from, data["scales"])), flip, parts, turn)


Row = tuple[str, str, str, str, str]


def _table_rows(group: Group, free: str) -> list[Row]:
    """One line for each scale of a group; the group's name stands on the first."""
    rows: list[Row] = []
    for i, scale in enumerate(group.scales):
        made = dict.fromkeys(a.module for a in scale.axes if a.role != "in")
        read = dict.fromkeys(a.module for a in scale.axes if a.role == "in")
        head = (group.name, str(group.size)) if i == 0 else ("", "")
        factor = f"fixed: {scale.fixed}" if scale.fixed else free
        flips = ", flips" if group.flip and group.flip.order == scale.order else ""
        turns = ", turns" if group.turn and group.turn.order == scale.order else ""
        rows.append((*head, _short(made), _short(read), factor + flips + turns))
    return rows


def _short(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    more = f", … {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "-") + more


def check_state(state: State, symmetry: Symmetry) -> None:
    """A state has every tensor that the symmetry speaks of, in the right size."""
    if not hasattr(symmetry, "all_groups"):
        raise ValueError(f"symmetry is {shown(symmetry)}; it takes what find_symmetries returns")
    check_tensors(state)
    for group in symmetry.all_groups:
        for axis in group.axes:
            if axis.parameter not in state:
                raise ValueError(
                    f"the state has no tensor {axis.parameter!r} for group {group.name!r}; "
                    "was the symmetry found on another network?"
                    f"{prefixed(state.keys(), symmetry.parameters)}"
                )
            shape = state[axis.parameter].shape
            found = shape[axis.dim : axis.dim + axis.span].numel()
            needed = axis.extent or max(found, 1 + int(axis.positions.max()))
            if found != needed:
                raise ValueError(
                    f"{axis.parameter!r} has shape {tuple(shape)}, but group {group.name!r} "
                    f"indexes {needed} places of dimension {axis.dim}; was the "
                    "symmetry found on another network?"
                )


def check_floating(state: State, scales: Iterable[Scale]) -> None:
    """Whatever factors act on is of numbers that they can act on, not of integers."""
    for axis in (axis for scale in scales for axis in scale.axes if axis.power):
        if not inexact(state[axis.parameter]):
            raise ValueError(
                f"{axis.parameter!r} is of {state[axis.parameter].dtype}: integers cannot be "
                "rescaled; make them floating: .float()"
            )
