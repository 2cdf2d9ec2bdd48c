"""From ties to groups: what the labels of a graph say once all of it was walked."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ._components import Components
from ._gains import gains
from ._groups import OF_PARTS, Axis, Group, Scale, Stay, Symmetry
from ._labels import (
    ALONE,
    CLASSES,
    FROZEN,
    IN_SETS,
    KINDS,
    OUTPUT,
    PLACES,
    SINGLE,
    UNREAD,
    WORDS,
    Slot,
    Trace,
)
from ._turns import Turns


def assemble(trace: Trace) -> Symmetry:
    """From ties to groups: units can be exchanged if they occur in the same places."""
    _settle_unread(trace)
    _settle_sets(trace)
    unit, scale, sign = (Components(trace, kind) for kind in KINDS)
    builder = _Builder(list(trace.slots.values()), unit, scale, sign)
    colours = _colours(trace, unit)
    found = _signatures(trace, builder, colours)
    parts = _parts(trace, unit)
    _hold_single(parts, found, unit)
    _flatten(parts, found)
    around: dict[int, set[int]] = defaultdict(set)  # unit -> the sets it is inside
    for whole, inside in parts.items():
        for part in inside:
            around[part].add(whole)
    # Units in the same places are alike, but not those inside different sets: one could take the
    # other's place only along with its whole set.
    alone = {u: places for u, places in found.items() if u not in parts}
    sets = _sets(parts, around, found, unit, colours)
    plain = [members for members in sets if _is_plain(members, around, found, builder)]
    sets = [members for members in sets if members not in plain]
    for u in (u for members in plain for inside in members for u in inside):
        alone.pop(u, None)
    builder.order = {u: i for members in sets for inside in members for i, u in enumerate(inside)}
    made = [
        builder.group([[u] for u in units], places)
        for (places, _), units in _alike(alone, lambda u: tuple(sorted(around[u]))).items()
    ]
    made = _several_alike(made, unit, colours, builder.order)
    made = _that_act(made, unit, around, builder.order)
    made += [
        builder.group(members, [p for u in members[0] for p in found[u]], members in sets)
        for members in (*plain, *sets)
    ]
    made.sort(key=lambda pair: _place(pair[0]))
    turned = Turns(trace, scale, sign)
    named = _named([turned(group) for group, _ in made])
    groups = tuple(map(builder.freed, _with_parts(named, [units for _, units in made])))
    grouped = {u for _, units in made for unit in units for u in unit} - unit.reasons.keys()
    return Symmetry(
        groups,
        builder.output(),
        tuple(trace.refused),
        _stays(trace, builder, grouped),
        gains(trace, sign),
    )


def _colours(trace: Trace, unit: Components) -> dict[int, list[Place]]:
    """What constants say of units: (2, constant, its numbers), for each that they meet.

    A unit that meets different numbers of one constant stays.
    """
    found: dict[int, list[Place]] = defaultdict(list)
    for number, (units, colours) in enumerate(trace.coloured):
        pairs = np.unique(np.stack([unit.of[units.numpy()], colours.numpy()]), axis=1)
        for component, colour in pairs.T.tolist():
            found[component].append((2, number, colour))
        components, counts = np.unique(pairs[0], return_counts=True)
        for component in components[counts > 1].tolist():
            unit.reasons.setdefault(component, PLACES)
    return found


def _several_alike(
    made: list[tuple[Group, Units]], unit: Components,
    colours: dict[int, list[Place]], within: Mapping[int, int],
) -> list[tuple[Group, Units]]:  # fmt: skip
    """The groups but for single units that a constant tells from all others: these stay.

    They are not lost where sets are exchanged that they are `within`.
    """
    kept = []
    for group, units in made:
        first = units[0][0]
        if len(units) > 1 or first not in colours:
            kept.append((group, units))
        else:
            unit.reasons.setdefault(first, IN_SETS if first in within else PLACES)
    return kept


def _that_act(
    made: list[tuple[Group, Units]], unit: Components, around: Mapping[int, set[int]],
    within: Mapping[int, int],
) -> list[tuple[Group, Units]]:  # fmt: skip
    """The groups but for single units that sets hold which stay, and that nothing acts on."""
    kept = []
    for group, units in made:
        first = units[0][0]
        free = group.flip or not all(scale.fixed for scale in group.scales)
        if len(units) > 1 or free or first in within or not around[first]:
            kept.append((group, units))
        else:
            whys = {unit.reasons.get(whole, SINGLE) for whole in around[first]} - {ALONE}
            unit.reasons.setdefault(first, min(whys, default=SINGLE))
    return kept


def _is_plain(
    members: Units, around: Mapping[int, set[int]], found: Mapping[int, Places], builder: _Builder
) -> bool:
    """Whether sets have no two parts that are alike, and one sign: then each is a unit of parts."""
    first = members[0]
    kinds = {(found[u], tuple(sorted(w for w in around[u] if w < 0))) for u in first}
    numbers = {place[1] for u in first for place in found[u] if place[0] == 0}
    if len(kinds) < len(first) or len(numbers) > len(builder.carrying(numbers)):
        return False
    places = ((n, builder.where[n].get(u, [])) for n in numbers for u in first)
    labels = np.concatenate([builder.slots[n].ids[p] for n, p in places])
    return len(np.unique(builder.sign.of[labels[~builder.sign.frozen[labels]]])) <= 1


def _stays(trace: Trace, builder: _Builder, grouped: set[int]) -> tuple[Stay, ...]:
    """The hidden units that are in no group, by where they are made first, and why."""
    unit, slots = builder.unit, builder.slots
    read = {c for slot in slots if slot.role == "in" for c in unit.of[slot.ids].tolist()}
    seen, input_ = set(grouped), int(unit.of[FROZEN])
    rest: dict[tuple[int, str], list[int]] = defaultdict(list)
    for number, slot in enumerate(slots):
        components = unit.of[slot.ids].tolist() if _makes(trace, slot) else []
        for position, component in enumerate(components):
            why = unit.reasons.get(component, SINGLE)
            hidden = component in read or why not in (CLASSES, WORDS)
            whole = component == input_ or why == UNREAD  # of tables the numbers are not counted
            if hidden and component not in seen and (not whole or slot.span == 1):
                rest[number, why].append(position)
        seen |= {*components} - {input_}  # what meets the input is one component, made everywhere
    return tuple(
        Stay(builder.axis(slots[number], [[p] for p in positions], number), why)
        for (number, why), positions in rest.items()
    )


def _makes(trace: Trace, slot: Slot) -> bool:
    """Whether it is a place where units are made, by the first name of its tensor."""
    return slot.role == "out" and slot.parameter not in trace.copies


def _settle_unread(trace: Trace) -> None:
    """What the graph leaves out of a parameter moves with what it reads, or stays.

    A table of positions is cut to the length of the example: a longer input reads the other rows in
    the same way.
    """
    partly = {place: seen for place, seen in trace.read.items() if not seen.all()}
    of = torch.from_numpy(Components(trace, "unit").of) if partly else torch.empty(0)
    for slot in trace.slots.values():
        seen = partly.get((slot.parameter, slot.dim, slot.span))
        if seen is None:
            continue
        ids = torch.from_numpy(slot.ids).view(seen.shape)
        like = _read_for(ids, seen) if seen.dim() > 1 else None  # of one line nothing stands for it
        if like is not None and (of[ids] == of[like])[seen].all():
            for kind in KINDS:
                trace.tie(kind, ids[~seen], like[~seen])
        else:
            trace.freeze("unit", ids[~seen], UNREAD)
            trace.fix(ids[~seen], UNREAD)


def _read_for(ids: Tensor, seen: Tensor) -> Tensor:
    """For each place of a table the first that is read along the dimensions that are cut."""
    for dim in range(seen.dim()):
        line = seen.movedim(dim, 0).flatten(1).any(1)
        if not line.all():
            ids = ids.index_select(dim, line.nonzero()[0])
    return ids.expand_as(seen)


def _settle_sets(trace: Trace) -> None:
    """A set in which all turn out to be one unit is that unit; sets of the same units are one."""
    while trace.inside:
        unit = Components(trace, "unit")
        found = [pair for pair in (*_single(trace, unit), *_same(trace, unit)) if len(pair[0])]
        if not found:
            return
        trace.ties["unit"] += found


def _single(trace: Trace, unit: Components) -> Iterator[tuple[Tensor, Tensor]]:
    """Ties of sets to the one unit that they hold."""
    for units, wholes in trace.inside:
        inside, around = unit.of[units.numpy()], unit.of[wholes[:, 0].numpy()]
        one = torch.from_numpy((inside == inside[:, :1]).all(1) & (inside[:, 0] != around))
        yield units[one, 0], wholes[one, 0]


def _same(trace: Trace, unit: Components) -> Iterator[tuple[Tensor, Tensor]]:
    """Ties of sets that hold the same units: a sum of them at one place, and at the next."""
    places = _places(trace, unit)
    several = {whole for place in places for whole in _several(place)}
    first: dict[frozenset[int], tuple[int, Tensor]] = {}
    for place, (_, wholes) in zip(places, trace.inside, strict=True):
        for (inside, whole), labels in zip(place, wholes, strict=True):
            held = frozenset(inside)
            if whole in held or whole in several or whole in unit.reasons:
                continue
            one, label = first.setdefault(held, (whole, labels[:1]))
            if one != whole:
                yield label, labels[:1]


def _place(group: Group) -> tuple[int, int, bool]:
    """Front to back; sets before what is inside them."""
    first = group.scales[0]
    return first.order, min(map(min, first.axes[0].index)), not group.whole


Place = tuple[Any, ...]
# of a unit: (0, slot, what is frozen, how often), (1, use) or (2, constant, its numbers)
Places = tuple[Place, ...]
Units = list[list[int]]  # of a group: for each unit the components that move together


def _alike(found: dict[int, Places], also: Callable[[int], Any]) -> dict[Any, list[int]]:
    """Units by where they occur and by what else they have in common."""
    members: dict[Any, list[int]] = defaultdict(list)
    for unit, places in found.items():
        members[places, also(unit)].append(unit)
    return members


def _parts(trace: Trace, unit: Components) -> dict[int, tuple[int, ...]]:
    """The sets and the units that are inside them, in the order in which a layer reads them.

    Sets that stay are one component, frozen, and so are sets that something makes one (heads that
    read the same places, say); each has a number below 0 here, or what is inside different ones
    would look alike.
    """
    found: dict[int, tuple[int, ...]] = {}
    stays: dict[frozenset[int], int] = {}
    places = _places(trace, unit)
    one = {whole for place in places for whole in _several(place)}
    for place in places:
        for inside, whole in place:
            if whole in unit.reasons or whole in one:
                why = unit.reasons.get(whole, SINGLE)
                whole = stays.setdefault(frozenset(inside), -1 - len(stays))
                unit.reasons.setdefault(whole, why)
            if parts := [u for u in inside if u != whole]:
                found[whole] = tuple(dict.fromkeys([*found.get(whole, ()), *parts]))
    return found


def _places(trace: Trace, unit: Components) -> list[list[tuple[tuple[int, ...], int]]]:
    """For each place where there are sets, the units that each set holds, and the set."""
    return [
        [
            (tuple(dict.fromkeys(row.tolist())), whole)
            for row, whole in zip(
                unit.of[units.numpy()], unit.of[wholes[:, 0].numpy()].tolist(), strict=True
            )
        ]
        for units, wholes in trace.inside
    ]


def _several(place: Sequence[tuple[tuple[int, ...], int]]) -> set[int]:
    """The components that are around different units at one place."""
    first: dict[int, set[int]] = {}
    return {whole for inside, whole in place if first.setdefault(whole, {*inside}) != {*inside}}


def _hold_single(
    parts: dict[int, tuple[int, ...]], found: dict[int, Places], unit: Components
) -> None:
    """A set stays that has no other like it, or a part that stays; it gets a number below 0.

    Its parts may be in sets that do move: weights of several layers' units, and then their sum.
    """
    while True:
        kinds: dict[Any, list[int]] = defaultdict(list)
        for whole in (whole for whole in parts if whole >= 0):
            everything = (whole, *parts[whole])
            fixed = any(u in unit.reasons for u in everything)
            kind = (whole,) if fixed else tuple(sorted(found[u] for u in everything if u in found))
            kinds[kind].append(whole)
        single = [wholes[0] for wholes in kinds.values() if len(wholes) == 1]
        for whole in single:
            unit.reasons.setdefault(whole, ALONE)
            found.pop(whole, None)
            stays = min(parts) - 1 if min(parts) < 0 else -1
            parts[stays] = parts.pop(whole)
            unit.reasons[stays] = unit.reasons[whole]
        if not single:
            return


def _flatten(parts: dict[int, tuple[int, ...]], found: Mapping[int, Places]) -> None:
    """Sets of sets are sets of all that is inside, if no two parts of one are alike."""
    flat = {
        whole: tuple(dict.fromkeys(x for u in inside for x in (u, *parts.get(u, ()))))
        for whole, inside in parts.items()
    }
    nested = {u for inside in parts.values() for u in inside if u in parts}
    for whole in (whole for whole, inside in parts.items() if not nested.isdisjoint(inside)):
        seen = [found[u] for u in flat[whole] if u in found]
        if len({*seen}) < len(seen) or whole in nested:
            return
    for whole in parts.keys() - nested:
        parts[whole] = flat[whole]
    for whole in nested:
        del parts[whole]


def _sets(
    parts: dict[int, tuple[int, ...]],
    around: dict[int, set[int]],
    found: dict[int, Places],
    unit: Components,
    colours: Mapping[int, list[Place]],
) -> list[Units]:
    """Sets that can be exchanged as wholes: for each kind, the units of every set in one order.

    Wholes around the same units are one set (a head's width in the keys and in the norm of the
    keys, say). A set moves only if all of it can, and what is around a part of it is part of it.
    """
    merged: dict[frozenset[int], list[int]] = defaultdict(list)
    for whole, inside in parts.items():
        merged[frozenset(inside)].append(whole)
    kinds: dict[Place, list[list[int]]] = defaultdict(list)
    for wholes in merged.values():
        inside = parts[wholes[0]]
        everything = [*wholes, *inside]
        # a set with a fixed part cannot move; sets inside sets are left as they are
        if any(u < 0 or u in unit.reasons for u in everything):
            continue
        if any(around[w] for w in wholes) or any(u in parts for u in inside):
            continue
        # a set that stays may hold one unit of each: who takes its place is inside it too; but a
        # part that another set holds that can move would be torn out of it
        others = {u: tuple(sorted(around[u] - set(wholes))) for u in inside}
        if any(w >= 0 for more in others.values() for w in more):
            continue
        # by their places first, so that the same kinds of parts stand at the same i in every set;
        # those of a kind in the order in which they are read: a shuffle of channels comes before
        members = sorted(
            (u for u in everything if u in found),
            key=lambda u: (_slots(found[u]), others.get(u, ())),
        )
        if members:
            seen = sorted(place for whole in wholes for place in colours.get(whole, ()))
            kind = tuple((found[u], others.get(u, ())) for u in members)
            kinds[kind, tuple(seen)].append(members)
    return [sets for sets in kinds.values() if len(sets) > 1]


def _slots(places: Places) -> Places:
    """Where a unit occurs, whatever constants it meets there."""
    return tuple(place for place in places if place[0] != 2)


def _signatures(
    trace: Trace, builder: _Builder, colours: Mapping[int, list[Place]]
) -> dict[int, Places]:
    """For every unit that can move, where it occurs: slots (how often, what is frozen), uses.

    And which numbers of constants it meets.
    """
    unit, scale, sign = builder.unit, builder.scale, builder.sign
    found: dict[int, list[Place]] = defaultdict(list)
    for number, slot in enumerate(builder.slots):
        ids = slot.ids
        # units whose factor or sign is fixed are not alike with those where it is free
        rows = np.stack([unit.of[ids], scale.frozen[ids] + 2 * sign.frozen[ids]])  # (2, positions)
        rows, counts = np.unique(rows, axis=1, return_counts=True)
        for component, fixed, count in zip(*rows.tolist(), counts.tolist(), strict=True):
            found[component].append((0, number, fixed, count))
    for number, use in enumerate(trace.uses):
        for component in np.unique(unit.of[use.numpy()]).tolist():
            found[component].append((1, number))
    return {
        component: (*places, *colours.get(component, ()))
        for component, places in found.items()
        if component not in unit.reasons and places[0][0] == 0
    }


class _Builder:
    """Makes groups of slots once the components are known."""

    def __init__(
        self, slots: list[Slot], unit: Components, scale: Components, sign: Components
    ) -> None:
        self.slots, self.unit, self.scale, self.sign = slots, unit, scale, sign
        self.number = {(s.parameter, s.dim, s.span, s.role): n for n, s in enumerate(slots)}
        self.total = Counter(c for slot in slots for c in scale.of[slot.ids].tolist())
        self.signs = Counter(c for slot in slots for c in sign.of[slot.ids].tolist())
        self.start: dict[int, int] = {}  # scale component -> the slot where it starts
        for number, slot in enumerate(slots):
            for component in scale.of[slot.ids].tolist():
                self.start.setdefault(component, number)
        # There may be as many groups as units: what each asks for is made once.
        self.where = [_where(unit.of[slot.ids]) for slot in slots]
        self.first: dict[int, tuple[int, int]] = {}  # unit -> the slot and position where it starts
        for number, places in enumerate(self.where):
            for component, positions in places.items():
                self.first.setdefault(component, (number, positions[0]))
        self.order: dict[int, int] = {}  # unit of a set that is exchanged -> its place there
        self.latest: dict[str, int] = {}  # parameter -> the latest start of a free scale it reads
        for slot in slots:
            if slot.role == "in":
                free = {*scale.of[slot.ids].tolist()} - scale.reasons.keys()
                starts = [self.latest.get(slot.parameter, -1), *(self.start[c] for c in free)]
                self.latest[slot.parameter] = max(starts)

    def group(
        self, members: Units, places: Sequence[Place], whole: bool = False
    ) -> tuple[Group, Units]:
        """The group of these units, and the units in its order: as their weights stand.

        But units of sets that are exchanged stand in the same order in each.
        """
        numbers = sorted({place[1] for place in places if place[0] == 0})
        numbers = self.carrying(numbers) if whole else numbers
        # Slots go together if one factor for each unit acts on them: a BatchNorm's input and its
        # affine pair hold the same units with other factors.
        by_scale: dict[bytes, list[tuple[int, NDArray[Any]]]] = defaultdict(list)
        members = sorted(members, key=self._standing)
        if not whole:
            members.sort(key=lambda unit: self.order.get(unit[0], 0))
        for number in numbers:
            where = self.where[number]
            # (units, block): of each of its components in turn, ascending
            positions = np.array([[p for c in unit for p in where.get(c, ())] for unit in members])
            ids = self.slots[number].ids[positions]
            factors = np.where(self.scale.frozen[ids], -1, self.scale.of[ids])
            same = (factors == factors[:, :1]).all()
            by_scale[(factors[:, 0] if same else factors).tobytes()].append((number, positions))
        scales = [self._scale(places) for places in by_scale.values()]
        if whole:
            scales = [replace(scale, fixed=OF_PARTS) for scale in scales]
        flip = None if whole else self._flip([p for places in by_scale.values() for p in places])
        return Group(scales[0].name, tuple(scales), flip), members

    def carrying(self, numbers: Collection[int]) -> list[int]:
        """These slots of sets without those that others carry: the rows of a block its columns."""
        made = {self.slots[n].parameter for n in numbers if self.slots[n].span == 1}
        return [
            n for n in numbers if self.slots[n].span == 1 or self.slots[n].parameter not in made
        ]

    def _standing(self, unit: list[int]) -> tuple[int, int]:
        """Where the first weights of a unit are."""
        return min(self.first[component] for component in unit)

    def _flip(self, places: list[tuple[int, NDArray[Any]]]) -> Scale | None:
        """The axes of one sign for each unit, if it is free and no other unit has a part in it."""
        free = [(n, p) for n, p in places if not self.sign.frozen[self.slots[n].ids[p]].any()]
        if not any(self.slots[n].role == "out" for n, _ in free):
            return None
        signs = np.concatenate([self.sign.of[self.slots[n].ids[p]] for n, p in free], 1)
        owned = [set(unit) for unit in signs.tolist()]
        own = set().union(*owned)
        # apart: no two units share a sign, and none is used outside of these places
        apart = sum(map(len, owned)) == len(own) and sum(self.signs[c] for c in own) == signs.size
        order = min(n for n, _ in free)
        axes = tuple(self.axis(self.slots[n], p.tolist(), order) for n, p in free)
        return Scale(axes[0].module, axes, "", order) if apart else None

    def _scale(self, places: list[tuple[int, NDArray[Any]]]) -> Scale:
        """The axes of one factor, and what fixes it if something does."""
        first = places[0][0]
        axes = tuple(self.axis(self.slots[number], p.tolist(), first) for number, p in places)
        return Scale(axes[0].module, axes, self._why(places), first)

    def _why(self, places: list[tuple[int, NDArray[Any]]]) -> str:
        """What fixes the factor that acts on some places; empty if nothing does."""
        first, positions = places[0]
        factors = np.unique(self.scale.of[self.slots[first].ids[positions]])
        reason = self.scale.reasons.get(int(factors[0]), "")
        # A factor is one unit's own if there is one for each and all its places are these.
        held = sum(p.size for _, p in places)
        if not reason and (
            len(factors) != len(positions) or held != sum(self.total[f] for f in factors.tolist())
        ):
            reason = "shared with other units"
        if not reason and not any(self.slots[n].role == "out" for n, _ in places):
            reason = "no weights make it"
        return reason

    def freed(self, group: Group) -> Group:
        """A group of sets, free where the parts of each have one factor (under a maximum, say)."""
        if not group.parts:
            return group
        return replace(group, scales=tuple(map(self._freed, group.scales)))

    def _freed(self, scale: Scale) -> Scale:
        roles = ("out" if a.role == "late" else a.role for a in scale.axes)
        where = [self.number[(*a.place, role)] for a, role in zip(scale.axes, roles, strict=True)]
        places = [(n, a.positions.numpy()) for n, a in zip(where, scale.axes, strict=True)]
        parts = {u for n, p in places for u in self.unit.of[self.slots[n].ids[p[0]]].tolist()}
        return replace(scale, fixed="") if len(parts) > 1 and not self._why(places) else scale

    def axis(self, slot: Slot, positions: list[list[int]], order: int) -> Axis:
        # normalising goes front to back: what these weights read is not settled yet
        late = slot.role == "out" and self._reads_from(slot.parameter, order)
        index = tuple(map(tuple, positions))
        role = "late" if late else slot.role
        return Axis(
            slot.parameter, slot.dim, role, index, slot.eps, slot.span, extent=len(slot.ids)
        )

    def _reads_from(self, parameter: str, order: int) -> bool:
        """Whether a weight reads units whose free scale starts at `order` or behind it."""
        return self.latest.get(parameter, -1) >= order

    def output(self) -> Group | None:
        """The last layer as one unit: all numbers that the outputs' common factor acts on."""
        component = self.scale.of[OUTPUT]
        order = self.start.get(component)
        if order is None or component in self.scale.reasons:
            return None
        places = ((s, np.flatnonzero(self.scale.of[s.ids] == component)) for s in self.slots)
        axes = (self.axis(slot, [p.tolist()], order) for slot, p in places if len(p))
        joined = tuple(
            replace(a, role="out") if a.role == "bias" else a for a in axes
        )  # one vector
        if not any(axis.role == "out" for axis in joined):  # constants make it
            return None
        return Group("output", (Scale("output", joined, "", order),))


def _named(groups: list[Group]) -> tuple[Group, ...]:
    """Names that tell groups, and scales, of one module apart."""
    counts: Counter[tuple[str, str]] = Counter()

    def name(kind: str, module: str) -> str:
        counts[kind, module] += 1
        return module if counts[kind, module] == 1 else f"{module}#{counts[kind, module]}"

    return tuple(
        replace(
            g,
            name=name("group", g.name),
            scales=tuple(replace(s, name=name("scale", s.name)) for s in g.scales),
        )
        for g in groups
    )


def _with_parts(groups: Sequence[Group], members: Sequence[Units]) -> tuple[Group, ...]:
    """Tell sets what is inside them: for each kind of unit, the names of its groups, set by set."""

    def parts(group: Group, sets: Units) -> tuple[tuple[str, ...], ...]:
        where = {u: (k, i) for k, unit in enumerate(sets) for i, u in enumerate(unit)}
        kinds: dict[tuple[int, ...], dict[int, str]] = defaultdict(dict)
        for part, units in zip(groups, members, strict=True):
            spots = [] if part.whole else [where.get(u, (-1, -1)) for unit in units for u in unit]
            slots = {k for k, _ in spots}
            if len(slots) == 1 and min(slots) >= 0:  # at the same places i of each set k
                kinds[tuple(i for _, i in spots)][slots.pop()] = part.name
        full = [kind for kind in kinds.values() if len(kind) == group.size]
        return tuple(tuple(kind[k] for k in range(group.size)) for kind in full)

    pairs = zip(groups, members, strict=True)
    return tuple(replace(g, parts=parts(g, units)) if g.whole else g for g, units in pairs)


def _where(components: NDArray[Any]) -> dict[int, list[int]]:
    """The positions of each component along a slot, ascending."""
    where: dict[int, list[int]] = defaultdict(list)
    for position, component in enumerate(components.tolist()):
        where[component].append(position)
    return where
