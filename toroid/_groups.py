"""The data of a symmetry: axes, scales, groups, and how an element of it acts on a state."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ._checks import State

#: What a unit's numbers are multiplied by, in each role, when its output is multiplied by λ:
#: λ^power.
POWERS = {"out": 1, "late": 1, "bias": 1, "mean": 1, "var": 2, "in": -1, "slope": 0}


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
            every unit a block of H*W positions.
        eps: BatchNorm's ε where the role is ``var``.
        span: How many dimensions, from `dim` on, are indexed as one (2 for a grouped convolution's
            inputs, all of them for a position embedding).
    """

    parameter: str
    dim: int
    role: str
    index: tuple[tuple[int, ...], ...]
    eps: float = 0.0
    span: int = 1

    @property
    def module(self) -> str:
        """Path of the module that owns the parameter."""
        return self.parameter.rpartition(".")[0] or self.parameter

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

    def rows(self, tensor: Tensor) -> Tensor:
        """Each unit's numbers in the parameter `tensor`, as a matrix (units, numbers)."""
        return self.flat(tensor).movedim(self.dim, 0)[self.positions.to(tensor.device)].flatten(1)

    def spread(self, values: Tensor, like: Tensor, fill: float) -> Tensor:
        """One value for each unit, laid along its positions: broadcasts against the parameter."""
        indexed = like.shape[self.dim : self.dim + self.span]
        line = like.new_full((indexed.numel(),), fill)
        line[self.positions.to(like.device)] = values.to(like)[:, None]
        rest = like.dim() - self.dim - self.span
        return line.view([1] * self.dim + list(indexed) + [1] * rest)

    def put(self, tensor: Tensor, vectors: Tensor) -> Tensor:
        """The parameter with `vectors` (units, numbers) where `rows` takes them from."""
        flat = self.flat(tensor).movedim(self.dim, 0).clone()
        positions = self.positions.to(tensor.device)
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
        """The vector of each unit, (units, numbers)."""
        return torch.cat([axis.rows(state[axis.parameter]) for axis in self.sphere(bias)], 1)


@dataclass(frozen=True)
class Group:
    """Units that share one index: one permutation acts on all axes of the group.

    Attributes:
        name: The module that makes the units first.
        scales: The axes, sorted by the factor that acts on them; a BatchNorm divides a layer
            in two scales, what comes in and what its affine pair makes of it.
    """

    name: str
    scales: tuple[Scale, ...]

    @property
    def size(self) -> int:
        """Number of units."""
        return len(self.scales[0].axes[0].index)

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Every place where the units appear, each once."""
        places = {(a.parameter, a.dim, a.span): a for scale in self.scales for a in scale.axes}
        return tuple(places.values())


@dataclass(frozen=True)
class Symmetry:
    """The groups of a network's units, front to back; printable, comparable, JSON-able.

    Attributes:
        groups: Units that can be exchanged or rescaled.
        output: The last layer as a group of one unit: one positive factor on it changes no argmax.
            None where something after it fixes its scale.
        refused: Operations left as they are, with their place (only with ``strict=False``).

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

    def __getitem__(self, name: str) -> Group:
        """The group of this name."""
        for group in self.all_groups:
            if group.name == name:
                return group
        raise KeyError(f"no group {name!r}; there are {', '.join(g.name for g in self.all_groups)}")

    @property
    def all_groups(self) -> tuple[Group, ...]:
        """The groups and the last layer."""
        return self.groups if self.output is None else (*self.groups, self.output)

    @property
    def scales(self) -> tuple[Scale, ...]:
        """The free scales, the last layer's too, in the order of normalising: front to back."""
        free = [scale for group in self.all_groups for scale in group.scales if not scale.fixed]
        return tuple(sorted(free, key=lambda scale: scale.order))

    def __str__(self) -> str:
        """The groups as a table."""
        rows: list[Row] = [("group", "units", "made by", "read by", "scale")]
        for group in self.all_groups:
            rows += _table_rows(group, "one factor" if group is self.output else "free")
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
        """The symmetry that `to_json` wrote."""
        data = json.loads(text)
        output = data["output"] and _group_from(data["output"])
        return cls(tuple(map(_group_from, data["groups"])), output, tuple(data["refused"]))


def _group_from(data: dict[str, Any]) -> Group:
    def axis(fields: dict[str, Any]) -> Axis:
        return Axis(**{**fields, "index": tuple(map(tuple, fields["index"]))})

    scales = (Scale(**{**s, "axes": tuple(map(axis, s["axes"]))}) for s in data["scales"])
    return Group(data["name"], tuple(scales))


Row = tuple[str, str, str, str, str]


def _table_rows(group: Group, free: str) -> list[Row]:
    """One line for each scale of a group; the group's name stands on the first."""
    rows: list[Row] = []
    for i, scale in enumerate(group.scales):
        made = dict.fromkeys(a.module for a in scale.axes if a.role != "in")
        read = dict.fromkeys(a.module for a in scale.axes if a.role == "in")
        head = (group.name, str(group.size)) if i == 0 else ("", "")
        rows.append(
            (*head, _short(made), _short(read), f"fixed: {scale.fixed}" if scale.fixed else free)
        )
    return rows


def _short(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    more = f", … {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "-") + more


def move(state: dict[str, Tensor], group: Group, permutation: Tensor) -> None:
    """Exchange the units of one group; replaces tensors in the dict."""
    for axis in group.axes:
        state[axis.parameter] = axis.permuted(state[axis.parameter], permutation)


def multiply(state: dict[str, Tensor], scale: Scale, factor: Tensor) -> None:
    """Let a factor for each unit act on a scale's axes; replaces tensors in the dict."""
    for axis in scale.axes:
        if axis.power == 0:
            continue
        tensor = state[axis.parameter]
        powers = axis.spread(factor.to(tensor) ** axis.power, tensor, fill=1.0)
        # (var + ε) λ² - ε, in a form that leaves var as it is, to the last bit, where λ is 1
        state[axis.parameter] = tensor * powers + axis.eps * (powers - 1)
