"""Which units of a network can be exchanged or rescaled without changing its function.

A `Symmetry` is data: groups of units, and for every group the places (axes) where its units appear
in the state dict. `find_symmetries` reads it off the network's graph; `permute` and `rescale`
apply an element of it to a whole state; `same_function` checks that nothing changed.
"""

from __future__ import annotations

import copy
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from . import _graph
from ._checks import State, check_state, check_units
from ._labels import OUTPUT, Slot, Trace, UnsupportedError

__all__ = [
    "Axis", "Group", "Report", "Scale", "Symmetry", "UnsupportedError", "find_symmetries",
    "permute", "rescale", "same_function",
]  # fmt: skip

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


# --- discovery -----------------------------------------------------------------------------------


def find_symmetries(
    model: nn.Module,
    example: Tensor | tuple[Any, ...],
    *,
    strict: bool = True,
    verify: bool = True,
) -> Symmetry:
    """Read the permutation and scale symmetries of a network off its graph.

    The ATen graph of ``torch.export.export`` (evaluation mode) is run on labels instead of numbers;
    what the operations tie together is a group. See `toroid._rules`.

    Args:
        model: Any module that exports; it is not changed.
        example: An input of the shape the model takes, batch first, or a tuple of inputs.
        strict: Refuse an operation without a rule. With False what meets there is left as it is,
            which is exact, and the place is listed in `Symmetry.refused`.
        verify: Move a copy with random weights, in float64, by a random element of what was found,
            and compare the outputs. It costs a few runs of the network on inputs like `example`.

    Returns:
        The groups of units, front to back, and the last layer's one factor.

    Raises:
        UnsupportedError: If an operation has no rule; names it, its module and its source line. If
            the outputs of the moved copy differ (with ``strict=False`` the groups that do it are
            left as they are and listed).

    Example:
        >>> import torch, toroid
        >>> model = toroid.lenet((1, 28, 28), classes=10)
        >>> symmetry = find_symmetries(model, torch.zeros(1, 1, 28, 28))
        >>> [(group.name, group.size) for group in symmetry.groups]
        [('0', 6), ('3', 16), ('7', 120), ('9', 84)]
        >>> len(symmetry["3"].axes[-1].index[0])  # a channel feeds 7 x 7 columns
        49
    """
    symmetry = _assemble(_graph.trace(model, example, strict))
    return _verified(symmetry, model, example, strict) if verify else symmetry


def _verified(symmetry: Symmetry, model: nn.Module, example: Any, strict: bool) -> Symmetry:
    """The symmetry without the groups that change what a network with random weights says."""
    generator = torch.Generator().manual_seed(0)
    network = copy.deepcopy(model).double().cpu().eval()
    state = {k: _random_like(k, v, generator) for k, v in network.state_dict().items()}
    size = sum(x.numel() for x in _tuple(example) if isinstance(x, Tensor))
    draws = 8 if size < 10_000 else 1  # a unit that is silent on one small input speaks on another
    inputs = [[_random_like("", x, generator) for x in _tuple(example)] for _ in range(draws)]
    before = torch.cat([_outputs(network, state, x) for x in inputs])

    def wrong(groups: Sequence[Group]) -> bool:
        part = Symmetry(tuple(groups), symmetry.output)
        moved = _random_element(state, part, generator)
        after = torch.cat([_outputs(network, moved, x) for x in inputs])
        return not _compare(before, after, tolerance=1e-6)

    if not wrong(symmetry.groups):
        return symmetry
    bad = [group for group in symmetry.groups if wrong([group])] or list(symmetry.groups)
    message = f"units that are not alike after all ({', '.join(g.name for g in bad)})"
    if strict:
        raise UnsupportedError(
            f"cannot read the symmetries of this network: {message}. The outputs of a random copy "
            "change when they are moved. Pass strict=False to leave them as they are."
        )
    kept = tuple(group for group in symmetry.groups if group not in bad)
    return replace(symmetry, groups=kept, refused=(*symmetry.refused, message))


def _random_like(name: str, tensor: Any, generator: torch.Generator) -> Any:
    """Random numbers of the size that keeps activations of order one; γ of both signs."""
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        return tensor
    numbers = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
    if name.endswith("running_var"):
        return numbers.abs() + 0.5
    return numbers / max(1, tensor[0].numel()) ** 0.5 if name and tensor.dim() > 1 else numbers


def _random_element(state: State, symmetry: Symmetry, generator: torch.Generator) -> State:
    """A state moved by a random cycle of every group and random factors for every scale."""
    permutations = {}
    for group in symmetry.groups:
        order = torch.randperm(group.size, generator=generator)
        permutations[group.name] = order.roll(1)[order.argsort()]  # no unit stays
    factors = {
        s.name: (0.3 * torch.randn(len(s.axes[0].index), generator=generator)).exp()
        for s in symmetry.scales
    }
    return permute(rescale(state, factors, symmetry), permutations, symmetry)


class _Components:
    """Connected components of one kind of label, and why some of them are frozen."""

    def __init__(self, trace: Trace, kind: str) -> None:
        a, b = (
            torch.cat([torch.empty(0).long(), *side])
            for side in zip(*trace.ties[kind], strict=True)
        )
        graph = coo_array((np.ones(len(a), bool), (a, b)), shape=(trace.count, trace.count))
        self.of = connected_components(graph, directed=False)[1]  # label -> component
        self.reasons: dict[int, str] = {}
        for labels, reason in trace.frozen[kind]:
            for component in np.unique(self.of[labels.numpy()]).tolist():
                self.reasons.setdefault(component, reason)
        self.frozen = np.isin(self.of, list(self.reasons))  # label -> whether it is frozen


def _assemble(trace: Trace) -> Symmetry:
    """From ties to groups: units can be exchanged if they occur in the same places."""
    unit, scale = _Components(trace, "unit"), _Components(trace, "scale")
    builder = _Builder(list(trace.slots.values()), unit, scale)
    found = _signatures(trace, builder)
    parts = _parts(trace, unit)
    around: dict[int, set[int]] = defaultdict(set)  # unit -> the sets it is inside
    for whole, inside in parts.items():
        for part in inside:
            around[part].add(whole)
    alone = {u: places for u, places in found.items() if u not in parts}
    groups = [
        builder.group([[u] for u in units], places)
        for (places, _), units in _alike(alone, lambda u: tuple(sorted(around[u]))).items()
    ]
    groups += [
        builder.group(members, [p for u in members[0] for p in found[u]], whole=True)
        for members in _sets(parts, around, found, unit)
    ]
    groups.sort(key=lambda g: (g.scales[0].order, g.scales[0].axes[0].index[0][0], -len(g.axes)))
    return Symmetry(_named(groups), builder.output(), tuple(trace.refused))


Places = tuple[tuple, ...]


def _alike(found: dict[int, Places], also: Callable[[int], Any]) -> dict[Any, list[int]]:
    """Units by where they occur and by what else they have in common."""
    members: dict[Any, list[int]] = defaultdict(list)
    for unit, places in found.items():
        members[places, also(unit)].append(unit)
    return members


def _parts(trace: Trace, unit: _Components) -> dict[int, frozenset[int]]:
    """The sets and the units that are inside them (a set of one unit is that unit)."""
    found: dict[int, set[int]] = defaultdict(set)
    for units, wholes in trace.inside:
        pairs = np.stack([unit.of[wholes.numpy()].ravel(), unit.of[units.numpy()].ravel()])
        for whole, part in np.unique(pairs, axis=1).T.tolist():
            if whole != part:
                found[whole].add(part)
    return {whole: frozenset(parts) for whole, parts in found.items()}


def _sets(
    parts: dict[int, frozenset[int]],
    around: dict[int, set[int]],
    found: dict[int, Places],
    unit: _Components,
) -> list[list[list[int]]]:
    """Sets that can be exchanged as wholes: for each kind, the units of every set in one order.

    Wholes around the same units are one set (a head's width in the keys and in the norm of the
    keys, say). A set moves only if all of it can, and what is around a part of it is part of it.
    """
    merged: dict[frozenset[int], list[int]] = defaultdict(list)
    for whole, inside in parts.items():
        merged[inside].append(whole)
    kinds: dict[tuple, list[list[int]]] = defaultdict(list)
    for inside, wholes in merged.items():
        everything = [*wholes, *inside]
        if any(u in unit.reasons for u in everything) or any(around[w] for w in wholes):
            continue
        if any(around[u] != set(wholes) for u in inside):
            continue
        members = sorted((u for u in everything if u in found), key=lambda u: (found[u], u))
        if members:
            kinds[tuple((found[u]) for u in members)].append(members)
    return [sets for sets in kinds.values() if len(sets) > 1]


def _signatures(trace: Trace, builder: _Builder) -> dict[int, Places]:
    """For every unit that can move, where it occurs: slots (how often, scale free or not), uses."""
    unit, scale = builder.unit, builder.scale
    found: dict[int, list[tuple]] = defaultdict(list)
    for number, slot in enumerate(builder.slots):
        pairs = np.stack([unit.of[slot.ids], scale.frozen[slot.ids]])
        rows, counts = np.unique(pairs, axis=1, return_counts=True)
        for component, fixed, count in zip(*rows.tolist(), counts.tolist(), strict=True):
            found[component].append((0, number, fixed, count))
    for number, use in enumerate(trace.uses):
        for component in np.unique(unit.of[use.numpy()]).tolist():
            found[component].append((1, number))
    return {
        component: tuple(places)
        for component, places in found.items()
        if component not in unit.reasons and places[0][0] == 0
    }


class _Builder:
    """Makes groups of slots once the components are known."""

    def __init__(self, slots: list[Slot], unit: _Components, scale: _Components) -> None:
        self.slots, self.unit, self.scale = slots, unit, scale
        self.total = Counter(c for slot in slots for c in scale.of[slot.ids].tolist())
        self.start: dict[int, int] = {}  # scale component -> the slot where it starts
        for number, slot in enumerate(slots):
            for component in scale.of[slot.ids].tolist():
                self.start.setdefault(component, number)
        self.first: dict[int, tuple[int, int]] = {}  # unit -> the slot and position where it starts
        for number, slot in enumerate(slots):
            for position, component in enumerate(unit.of[slot.ids].tolist()):
                self.first.setdefault(component, (number, position))

    def group(
        self, members: list[list[int]], places: Sequence[tuple], whole: bool = False
    ) -> Group:
        """The group of these units; each is given as the components that move together."""
        numbers = sorted({place[1] for place in places if place[0] == 0})
        if whole:  # the rows of a block carry its columns along
            made = {self.slots[n].parameter for n in numbers if self.slots[n].span == 1}
            numbers = [
                n for n in numbers if self.slots[n].span == 1 or self.slots[n].parameter not in made
            ]
        by_scale: dict[bytes, list[tuple[int, np.ndarray]]] = defaultdict(list)
        members = sorted(members, key=lambda unit: min(self.first[c] for c in unit))
        for number in numbers:
            ids = self.slots[number].ids
            positions = _positions(self.unit.of[ids], members)  # (units, block)
            factors = np.where(self.scale.frozen[ids], -1, self.scale.of[ids])[positions]
            same = (factors == factors[:, :1]).all()
            by_scale[(factors[:, 0] if same else factors).tobytes()].append((number, positions))
        scales = [self._scale(places) for places in by_scale.values()]
        if whole:
            scales = [replace(scale, fixed="of its parts") for scale in scales]
        return Group(scales[0].name, tuple(scales))

    def _scale(self, places: list[tuple[int, np.ndarray]]) -> Scale:
        """The axes of one factor, and what fixes it if something does."""
        first, positions = places[0]
        factors = np.unique(self.scale.of[self.slots[first].ids][positions])
        reason = self.scale.reasons.get(int(factors[0]), "")
        held = sum(p.size for _, p in places)
        if not reason and (
            len(factors) != len(positions) or held != sum(self.total[f] for f in factors.tolist())
        ):
            reason = "shared with other units"
        if not reason and not any(self.slots[n].role == "out" for n, _ in places):
            reason = "no weights make it"
        axes = tuple(self._axis(self.slots[number], p.tolist(), first) for number, p in places)
        return Scale(axes[0].module, axes, reason, first)

    def _axis(self, slot: Slot, positions: list[list[int]], order: int) -> Axis:
        late = slot.role == "out" and self._reads_from(slot.parameter, order)
        index = tuple(map(tuple, positions))
        return Axis(
            slot.parameter, slot.dim, "late" if late else slot.role, index, slot.eps, slot.span
        )

    def _reads_from(self, parameter: str, order: int) -> bool:
        """Whether a weight reads units whose free scale starts at `order` or behind it."""
        read = [s.ids for s in self.slots if s.parameter == parameter and s.role == "in"]
        free = {c for ids in read for c in self.scale.of[ids].tolist()} - self.scale.reasons.keys()
        return any(self.start[c] >= order for c in free)

    def output(self) -> Group | None:
        """The last layer as one unit: all numbers that the outputs' common factor acts on."""
        component = self.scale.of[OUTPUT]
        order = self.start.get(component)
        if order is None or component in self.scale.reasons:
            return None
        places = ((s, np.flatnonzero(self.scale.of[s.ids] == component)) for s in self.slots)
        axes = (self._axis(slot, [p.tolist()], order) for slot, p in places if len(p))
        joined = (replace(a, role="out") if a.role == "bias" else a for a in axes)  # one vector
        return Group("output", (Scale("output", tuple(joined), "", order),))


def _named(groups: list[Group]) -> tuple[Group, ...]:
    """Names that tell groups, and scales, of one module apart."""
    counts: Counter[tuple[str, str]] = Counter()

    def name(kind: str, module: str) -> str:
        counts[kind, module] += 1
        return module if counts[kind, module] == 1 else f"{module}#{counts[kind, module]}"

    return tuple(
        Group(
            name("group", g.name), tuple(replace(s, name=name("scale", s.name)) for s in g.scales)
        )
        for g in groups
    )


def _positions(components: np.ndarray, members: list[list[int]]) -> np.ndarray:
    """The positions of each unit along a slot: of each of its components in turn, ascending."""
    where: dict[int, list[int]] = defaultdict(list)
    for position, component in enumerate(components.tolist()):
        where[component].append(position)
    return np.array([[p for c in unit for p in where.get(c, ())] for unit in members])


# --- the engine ----------------------------------------------------------------------------------


def permute(
    state: State, permutations: Mapping[str, Tensor], symmetry: Symmetry
) -> dict[str, Tensor]:
    """Exchange units: unit i of a group becomes what unit ``permutations[group][i]`` was.

    Args:
        state: State dict; it is not changed.
        permutations: For each group to permute, an integer tensor (units,) that holds every unit
            once.
        symmetry: The network's groups.

    Returns:
        A state of the same function. Tensors that no permutation touches are shared with the input.

    Raises:
        ValueError: If a group is unknown, or a tensor is not a permutation of its units.

    Example:
        >>> import torch, toroid
        >>> model, x = toroid.mlp((4,), classes=3, hidden=(5,)), torch.randn(7, 4)
        >>> symmetry = toroid.find_symmetries(model, x)
        >>> moved = permute(model.state_dict(), {"1": torch.tensor([4, 3, 2, 1, 0])}, symmetry)
        >>> bool(toroid.same_function(model, model.state_dict(), moved, x))
        True
    """
    check_state(state, symmetry)
    result = dict(state)
    for name, permutation in permutations.items():
        move(result, check_units(symmetry, name, permutation), permutation)
    return result


def move(state: dict[str, Tensor], group: Group, permutation: Tensor) -> None:
    """Exchange the units of one group; replaces tensors in the dict."""
    for axis in group.axes:
        state[axis.parameter] = axis.permuted(state[axis.parameter], permutation)


def rescale(state: State, factors: Mapping[str, Tensor], symmetry: Symmetry) -> dict[str, Tensor]:
    """Multiply what units put out, and divide what reads them: ``f(λ z) = λ f(z)`` for λ > 0.

    Weights, biases and running means are multiplied by λ, the columns that read the unit by 1/λ;
    a running variance becomes ``(var + ε) λ² - ε``, which is exact in evaluation mode.

    Args:
        state: State dict; it is not changed.
        factors: For each scale (by name, `Symmetry.scales`) a positive tensor (units,).
        symmetry: The network's groups.

    Returns:
        A state of the same function (times the factor of ``"output"``, if that is given).

    Raises:
        ValueError: If a scale is unknown or fixed, or a factor is not positive and finite.

    Example:
        >>> import torch, toroid
        >>> model, x = toroid.mlp((4,), classes=3, hidden=(5,)), torch.randn(7, 4)
        >>> symmetry = toroid.find_symmetries(model, x)
        >>> scaled = rescale(model.state_dict(), {"1": torch.full((5,), 7.0)}, symmetry)
        >>> bool(toroid.same_function(model, model.state_dict(), scaled, x))
        True
    """
    check_state(state, symmetry)
    result = dict(state)
    scales = {scale.name: scale for scale in symmetry.scales}
    for name, factor in factors.items():
        if name not in scales:
            raise ValueError(f"no free scale {name!r}; there are {', '.join(scales)}")
        size = len(scales[name].axes[0].index)
        if factor.shape != (size,) or not (torch.isfinite(factor).all() and (factor > 0).all()):
            raise ValueError(
                f"scale {name!r} takes {size} positive finite factors, got shape "
                f"{tuple(factor.shape)} with minimum {factor.min() if factor.numel() else None}"
            )
        multiply(result, scales[name], factor)
    return result


def multiply(state: dict[str, Tensor], scale: Scale, factor: Tensor) -> None:
    """Let a factor for each unit act on a scale's axes; replaces tensors in the dict."""
    for axis in scale.axes:
        if axis.power == 0:
            continue
        tensor = state[axis.parameter]
        powers = axis.spread(factor.to(tensor) ** axis.power, tensor, fill=1.0)
        # (var + ε) λ² - ε, in a form that leaves var as it is, to the last bit, where λ is 1
        state[axis.parameter] = tensor * powers + axis.eps * (powers - 1)


@dataclass(frozen=True)
class Report:
    """How two states of one network compare on an input.

    Attributes:
        difference: Largest difference of the outputs, after the factor, over the largest output.
        factor: The positive factor between the outputs (least squares).
        agreement: Fraction of inputs with the same predicted class.
        tolerance: Largest `difference` that counts as the same function.
    """

    difference: float
    factor: float
    agreement: float
    tolerance: float

    def __bool__(self) -> bool:
        """Whether the outputs agree up to one positive factor."""
        return self.factor > 0 and self.difference <= self.tolerance


def same_function(
    model: nn.Module,
    before: State,
    after: State,
    example: Tensor,
    *,
    tolerance: float | None = None,
) -> Report:
    """Compare two states of a network on an input: equal up to one positive factor?

    Args:
        model: The network, run in evaluation mode; it is not changed.
        before: State dict.
        after: State dict to compare with it.
        example: Inputs, batch first, or a tuple of them; cast to the precision of the states.
        tolerance: Relative; by default the square root of the machine epsilon (1.5e-8 in float64).

    Returns:
        A `Report`, true if the outputs agree.

    Example:
        >>> import torch, toroid
        >>> model, x = toroid.mlp((4,), classes=3, hidden=(5,)), torch.randn(7, 4)
        >>> doubled = {k: 2 * v if k.startswith("3") else v for k, v in model.state_dict().items()}
        >>> report = same_function(model, model.state_dict(), doubled, x)
        >>> bool(report), round(report.factor, 3)
        (True, 2.0)
    """
    network = _graph.structure(model)
    floating = next(v for v in before.values() if v.is_floating_point())
    inputs = [x.to(floating) if x.is_floating_point() else x for x in _tuple(example)]
    first, second = (_outputs(network, state, inputs) for state in (before, after))
    return _compare(
        first, second, torch.finfo(first.dtype).eps ** 0.5 if tolerance is None else tolerance
    )


def _compare(first: Tensor, second: Tensor, tolerance: float) -> Report:
    dot, norm = (first * second).sum(), (first * first).sum()
    factor = float(dot / norm) if norm > 0 else 1.0
    size = float((factor * first).abs().max())
    difference = float((second - factor * first).abs().max()) / (size or 1.0)
    agreement = float((first.argmax(1) == second.argmax(1)).double().mean())
    return Report(difference, factor, agreement, tolerance)


def _tuple(example: Any) -> tuple[Any, ...]:
    return example if isinstance(example, tuple) else (example,)


@torch.no_grad()
def _outputs(network: nn.Module, state: State, inputs: Sequence[Any]) -> Tensor:
    """All outputs for each input, as a matrix (inputs, numbers)."""
    outputs = tree_leaves(torch.func.functional_call(network, dict(state), tuple(inputs)))
    return torch.cat([out.reshape(len(out), -1) for out in outputs if isinstance(out, Tensor)], 1)
