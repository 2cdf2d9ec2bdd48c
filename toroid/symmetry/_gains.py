"""Signs that a gain takes up: (w, b, mean) and γ of a BatchNorm may change theirs together.

Signs are numbers of two values, 0 and 1, on the places of the graph; one that is frozen is 0. A
gain stands between two of them, what comes in and what goes out, and its own sign is their sum. So
gains are the edges of a graph whose nodes are signs: along a spanning tree, from what is frozen
outwards, each node has one edge to its parent, and flipping the node makes that gain positive.
Where nothing is frozen one sign is left over: the flip of all, which leaves every gain as it is
(`Group.flip`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order

from ._components import Components
from ._groups import POWERS, Axis, Scale
from ._labels import GAIN, Gain, Slot, Trace

Ints = NDArray[np.int64]
Flips = list[tuple[Slot, Ints, Ints]]  # a slot, places in it, and for each the number of its node


def gains(trace: Trace, whole: Components) -> tuple[Scale, ...]:
    """A sign for every unit of each gain that can be made positive, in the order of doing it.

    Args:
        trace: Of all of the graph.
        whole: The signs where gains let them through.
    """
    alone = _alone(trace)
    kept = [gain for gain, own in zip(trace.gains, alone, strict=True) if own]
    if not kept:
        return ()
    rest = [gain for gain, own in zip(trace.gains, alone, strict=True) if not own]
    signs = Components(trace, "sign", through=rest)
    slots = [slot for slot in trace.slots.values() if POWERS[slot.role] % 2]
    node = _nodes(signs, whole, slots, kept)  # label -> node, 0 what is frozen
    ends = [(node[g.before.numpy()], node[g.behind.numpy()]) for g in kept]
    flips = [(slot, *_moving(node[slot.ids])) for slot in slots]
    for gain, (a, b) in zip(kept, ends, strict=True):
        flips += [(trace.slots[gain.slot], *_moving(np.where(a != b, x, 0))) for x in (a, b)]
    return _named(
        scale
        for (number, depth), chosen in _bundles(ends).items()
        for scale in _scales(trace.slots[kept[number].slot], depth, chosen, flips)
    )


def _named(scales: Iterable[Scale]) -> tuple[Scale, ...]:
    """Names that tell those of one module apart."""
    counts: Counter[str] = Counter()
    found = []
    for scale in scales:
        counts[scale.name] += 1
        number = counts[scale.name]
        found.append(replace(scale, name=f"{scale.name}#{number}") if number > 1 else scale)
    return tuple(found)


def _alone(trace: Trace) -> list[bool]:
    """Which gains are a parameter's only use, and held by nothing else."""
    held = np.zeros(trace.count, bool)
    for labels, why in trace.frozen["sign"]:
        if why != GAIN:
            held[labels.numpy()] = True
    uses = Counter([name for name, *_ in trace.slots] + [gain.slot[0] for gain in trace.gains])
    return [
        uses[gain.slot[0]] == 2
        and gain.slot[0] not in trace.copies.values()
        and not held[trace.slots[gain.slot].ids].any()
        for gain in trace.gains
    ]


def _nodes(
    signs: Components, whole: Components, slots: Sequence[Slot], kept: Sequence[Gain]
) -> Ints:
    """The node of each label: 0 what is frozen, and of what is free one part of each tree.

    What is left over may flip as a whole, whatever part of it is held: best one that no gain
    follows, so that the weights before a gain take up its sign, and of those the largest.
    """
    size = np.zeros(signs.of.max() + 1, np.int64)
    for slot in slots:
        size += np.bincount(signs.of[slot.ids], minlength=len(size))
    before = np.concatenate([signs.of[gain.before.numpy()] for gain in kept])
    size[np.setdiff1d(np.arange(len(size)), before)] += 1 + size.max()
    tree = np.zeros_like(size)
    tree[signs.of] = whole.of
    by_tree = np.lexsort((size, tree))
    last = np.append(tree[by_tree][1:] != tree[by_tree][:-1], True)
    ground = np.zeros(len(size), bool)
    ground[by_tree[last]] = True  # of each tree the best
    fixed = np.zeros(whole.of.max() + 1, bool)
    fixed[whole.of[whole.frozen]] = True
    ground &= ~fixed[tree]
    ground[signs.of[signs.frozen]] = True
    return np.where(ground, 0, np.arange(1, len(size) + 1))[signs.of]


def _moving(nodes: Ints) -> tuple[Ints, Ints]:
    places = np.flatnonzero(nodes)
    return places, nodes[places]


def _bundles(ends: Sequence[tuple[Ints, Ints]]) -> dict[tuple[int, int], Ints]:
    """The nodes of the spanning tree, by the gain that leads to their parent, and by depth."""
    a, b = (np.concatenate(side) for side in zip(*ends, strict=True))
    size = int(max(a.max(), b.max())) + 1
    graph = coo_array((np.ones(len(a), bool), (a, b)), shape=(size, size)).tocsr()
    order, parents = breadth_first_order(graph, 0, directed=False)
    first: dict[tuple[int, int], int] = {}
    for edge, pair in enumerate(zip(a.tolist(), b.tolist(), strict=True)):
        first.setdefault((min(pair), max(pair)), edge)
    number = np.repeat(np.arange(len(ends)), [len(x) for x, _ in ends])  # edge -> gain
    depths, found = {0: 0}, defaultdict(list)
    for node in order[1:].tolist():
        parent = int(parents[node])
        depths[node] = depths[parent] + 1
        edge = first[min(node, parent), max(node, parent)]
        found[int(number[edge]), depths[node]].append((edge, node))
    ordered = sorted(found.items(), key=lambda item: item[0][1])
    return {key: np.array([node for _, node in sorted(pairs)]) for key, pairs in ordered}


def _scales(gain: Slot, depth: int, nodes: Ints, flips: Flips) -> list[Scale]:
    """The places that flip with each of some nodes, the gain's own first."""
    rank = np.full(max(nodes.max(), *(n.max(initial=0) for *_, n in flips)) + 1, -1)
    rank[nodes] = np.arange(len(nodes))
    own = [
        (slot, places[rank[moved] >= 0], rank[moved][rank[moved] >= 0])
        for slot, places, moved in flips
    ]
    own = [flip for flip in own if len(flip[1])]
    own.sort(key=lambda flip: flip[0] is not gain)
    counts = np.stack([np.bincount(ranks, minlength=len(nodes)) for *_, ranks in own], 1)
    found = []
    for alike in np.unique(counts, axis=0):  # as many places for each unit
        units = np.flatnonzero((counts == alike).all(1))
        axes = tuple(
            _axis(slot, places, ranks, units)
            for (slot, places, ranks), count in zip(own, alike, strict=True)
            if count
        )
        found.append(Scale(axes[0].module, axes, "", depth))
    return found


def _axis(slot: Slot, places: Ints, ranks: Ints, units: Ints) -> Axis:
    chosen = np.isin(ranks, units)
    order = np.lexsort((places[chosen], ranks[chosen]))
    index = places[chosen][order].reshape(len(units), -1)
    return Axis(
        slot.parameter, slot.dim, slot.role, tuple(map(tuple, index.tolist())), slot.eps, slot.span,
        extent=len(slot.ids),
    )  # fmt: skip
