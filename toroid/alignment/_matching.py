"""The ways to match: which unit of one network is which of the other.

Each takes two states and gives the `Element` that moves one of them. Front to back on incoming
weights (the paper's), from there on by coordinate descent, or by what the units do on data.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from .._batches import Data
from .._state import State, check_whole
from ..symmetry._elements import Element, Step
from ..symmetry._groups import Axis, Group, Scale, Symmetry, largest, widened
from ..tasks import Task
from ._overlaps import Overlap, Overlaps, Similarity, assign, polar
from ._values import Values, centred

Place = tuple[str, int, int]  # of an axis: its parameter, first dimension, dimensions
# for each parameter and place of it the axes of the groups that are not yet matched
Waiting = dict[str, dict[Place, dict[str, Axis]]]


def sequential(
    overlaps: Overlaps,
    keep: bool,
    start: Element | None = None,
    groups: Sequence[Group] | None = None,
) -> Element:
    """Match a group, permute its producers and consumers, go on to the next.

    All groups, or those that are left at a start.
    """
    symmetry = overlaps.symmetry
    element = Element.identity(symmetry) if start is None else start
    groups = symmetry.groups if groups is None else groups
    waiting = _waiting(groups)
    for group in groups:
        step = _chosen(group, symmetry, partial(_cosines, overlaps, element, waiting))
        element = element.then(group, step)
        for axis in group.axes:
            held = waiting[axis.parameter]
            held[axis.place].pop(group.name)
            if not held[axis.place]:
                held.pop(axis.place)
        if not keep:
            overlaps.forget(group)
    return element


def _chosen(group: Group, symmetry: Symmetry, similarity: Callable[..., Similarity]) -> Step:
    """The best permutation and signs of one group, or its best turn.

    Sets are compared by the best match of what is inside them.
    """
    kinds = symmetry.inside(group)
    if not kinds:
        turned = similarity(group, turns=True).turned() if group.turn else None
        return turned or similarity(group).step()
    score = torch.zeros(group.size, group.size)
    for parts in kinds:
        found = similarity(_joined(parts), sure=True)
        for i, j in torch.cartesian_prod(*[torch.arange(group.size)] * 2).tolist():
            score[i, j] += _alike(found.block(_block(parts[i], i), _block(parts[j], j)), parts[i])
    return Step(assign(score))


def _alike(found: Similarity, group: Group) -> float:
    """How alike two sets are: the sum of similarities after the best step of what is inside."""
    if group.turn is not None:
        return polar(found.here)[1]
    best, permutation = found.best, found.step().permutation
    return float(best[torch.arange(len(best)), permutation].sum())


def _block(part: Group, place: int) -> slice:
    """Where the units of a set are in the joined group of all."""
    return slice(place * part.size, (place + 1) * part.size)


def _joined(parts: Sequence[Group]) -> Group:
    """The units of several groups that lie in the same places, as one group."""

    def joined(scales: Sequence[Scale]) -> Scale:
        axes = zip(*(scale.axes for scale in scales), strict=True)
        return replace(
            scales[0],
            axes=tuple(replace(x[0], index=sum((axis.index for axis in x), ())) for x in axes),
        )

    scales = tuple(map(joined, zip(*(part.scales for part in parts), strict=True)))
    flips = [part.flip for part in parts if part.flip]
    name = " + ".join(part.name for part in parts)
    return Group(name, scales, joined(flips) if flips else None)


def _waiting(groups: Iterable[Group]) -> Waiting:
    """Where units that are not yet matched scramble parameters."""
    waiting: Waiting = defaultdict(lambda: defaultdict(dict))
    for group in groups:
        for axis in group.axes:
            waiting[axis.parameter][axis.place][group.name] = axis
    return waiting


def _in_order(overlaps: Overlaps, waiting: Waiting, axis: Axis) -> Tensor | None:
    """Which numbers of a unit are where they belong, (numbers,); None for all of them."""
    others = {k: v for k, v in waiting[axis.parameter].items() if k != axis.place}
    if not others:
        return None
    tensor = overlaps.a[axis.parameter]
    mask = torch.ones_like(tensor, dtype=torch.bool)
    for (_, dim, span), held in others.items():
        if dim < axis.dim + axis.span and axis.dim < dim + span:  # each unit has others in order
            return axis.rows(mask)[0] & False
        shape = tensor.shape[dim : dim + span]
        line = torch.ones(shape.numel(), dtype=torch.bool)
        line[torch.cat([x.positions.flatten() for x in held.values()])] = False
        rest = tensor.dim() - dim - span
        mask &= line.view([1] * dim + [*shape] + [1] * rest).to(mask.device)
    return axis.rows(mask)[0]


def _cosines(
    overlaps: Overlaps,
    element: Element,
    waiting: Waiting,
    group: Group,
    sure: bool = False,
    turns: bool = False,
) -> Similarity:
    """Cosines between all pairs of units: the mean over the group's vectors that are in order.

    Of a vector that is so in part (what reads an input and a state side by side) the part counts.
    If none is, all are taken as they are; or, to be `sure`, none. Of units that are mixed (`turns`)
    products, not cosines: a turn leaves no unit its norm. Of a unit with a single number a cosine
    is a sign; there the numbers count, those of largest size as 1.
    """
    makers = [(axis, _in_order(overlaps, waiting, axis)) for axes in group.makers for axis in axes]
    order = {axis.place: numbers for axis, numbers in makers}

    def ready(axis: Axis) -> bool:
        numbers = order[axis.place]
        return numbers is None or bool(numbers.any())

    vectors = [[axis for axis in axes if ready(axis)] for axes in group.makers]
    if not sure and not any(vectors):
        vectors, order = group.makers, dict.fromkeys(order)
    vectors = [axes for axes in vectors if axes]
    total = Similarity.zero(group, overlaps.like)
    for axes in vectors:
        products = Similarity.zero(group, overlaps.like)
        norms = overlaps.like.new_zeros(2, group.size)  # of the reference's units, the network's
        count = 0
        for axis in axes:
            overlap, numbers = overlaps.of(group, axis), order[axis.place]
            found = _compared(overlap, element, numbers)
            products.side(group, axis).add_(found[0])
            norms += found[1]
            every = axis.count(overlaps.a[axis.parameter])
            count += every if numbers is None else int(numbers.sum())
        norms = norms.amax(1, keepdim=True).expand_as(norms) if count == 1 else norms
        for whole, part in zip(total, products, strict=True):
            if whole is not None and part is not None:
                whole += part if turns else _over(part, *norms.sqrt()) / len(vectors)
    return total


def _compared(overlap: Overlap, element: Element, numbers: Tensor | None) -> tuple[Tensor, Tensor]:
    """Products of all pairs of units in one parameter, and squared norms; of some numbers only."""
    if numbers is None:
        return overlap.values(element), overlap.norms(element)
    a, b = overlap.axis.rows(overlap.a)[:, numbers], overlap.moved(element)[:, numbers]
    return a @ b.T, torch.stack([x.square().sum(1) for x in (a, b)])


def _over(products: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Products divided by both norms; 0 where a norm is."""
    a, b = (torch.where(norm > 0, norm, torch.inf) for norm in (a, b))
    return products / (a[:, None] * b)


def best_descent(overlaps: Overlaps, start: Element, restarts: int, seed: int) -> Element:
    """The best of several coordinate descents; never worse than the start."""
    generator = torch.Generator().manual_seed(check_whole("seed", seed))
    starts = [start, *[_restart(start)] * restarts]
    ends = [overlaps.descend(element, generator) for element in starts]
    return max(ends, key=overlaps.objective) if restarts else ends[0]


def _restart(start: Element) -> Element:
    """Nothing moves but the units that constants make: they say where."""
    constant = {group.name for group in start.symmetry.groups if group.constant}
    fresh = Element.identity(start.symmetry)
    return replace(
        fresh,
        permutations={**fresh.permutations, **{k: start.permutations[k] for k in constant}},
        signs={**fresh.signs, **{k: start.signs[k] for k in constant & start.signs.keys()}},
    )


def by_activation(
    state: State, to: State, symmetry: Symmetry, model: nn.Module, inputs: Data, task: Task
) -> Element:
    """Match the correlations of the units' values over data.

    Groups without values (none is seen, or it is the same on all data) are matched by their weights
    at last, front to back.
    """
    values = Values(model, (to, state), inputs, task, symmetry)
    element, inside, done = Element.identity(symmetry), set[str](), set[str]()
    for group in symmetry.groups:
        kinds = symmetry.inside(group)
        seen = [parts for parts in kinds if values.known(_joined(parts))]
        inside |= {part.name for parts in kinds for part in parts}
        if group.name in inside or not (seen if kinds else values.known(group)):
            continue
        step = _chosen(group, symmetry, partial(_correlations, values))
        element = element.then(group, step)
        done.add(group.name)
        for parts in seen:  # units of one set with those of its partner
            element = _inside(element, values, parts, element.permutations[group.name].tolist())
            done |= {part.name for part in parts}
    left = [group for group in symmetry.groups if group.name not in done]
    return sequential(Overlaps(to, state, symmetry), False, element, left) if left else element


def _inside(
    element: Element, values: Values, parts: Sequence[Group], sources: Sequence[int]
) -> Element:
    """Match what is inside sets that were moved: of each with the set that was at its source."""
    joined, turns = _joined(parts), parts[0].turn is not None
    alike = _correlations(values, joined)
    products = _correlations(values, joined, turns=True) if turns else alike
    for slot, (part, source) in enumerate(zip(parts, sources, strict=True)):
        where = _block(part, slot), _block(part, source)
        turned = products.block(*where).turned() if turns else None
        element = element.then(part, turned or alike.block(*where).step())
    return element


def _correlations(
    values: Values, group: Group, sure: bool = True, turns: bool = False
) -> Similarity:
    """Correlations between all pairs of units, over images and places; the mean over layers.

    Of units that are mixed (`turns`) covariances.
    """
    pairs = values.of(group)
    total = Similarity.zero(group, torch.empty(0, dtype=torch.float64))
    for odd, a, b in pairs:  # (units, images and places)
        if not (a.isfinite().all() and b.isfinite().all()):
            raise ValueError(
                f"the units of {group.name!r} compute NaN or infinite numbers on these inputs, "
                "which are not compared; look at the inputs, or at running variances below 0"
            )
        a, b = centred(a), centred(b)
        a, b = (a, b) if turns else (unit_length(a), unit_length(b))
        side = total.odd if odd and total.odd is not None else total.plain
        side += (a @ b.T).to(side) / len(pairs)
    return total


def unit_length(rows: Tensor) -> Tensor:
    """Rows divided by their norm, whatever their size; zero rows stay zero."""
    rows = widened(rows)
    return nn.functional.normalize(rows / largest(rows), dim=1)


def cosines_of_pairs(state: State, to: State, group: Group) -> Tensor:
    """The cosine of each unit with its partner: the mean over the group's vectors."""
    vectors = [axes for axes in group.makers if axes]
    if not vectors:
        return torch.zeros(group.size)

    def rows(s: State, axes: list[Axis]) -> Tensor:
        return torch.cat([axis.rows(s[axis.parameter]) for axis in axes], 1)

    pairs = [(rows(state, axes), rows(to, axes)) for axes in vectors]
    cosines = [(unit_length(a) * unit_length(b)).sum(1) for a, b in pairs]
    return torch.stack(cosines).mean(0).cpu()
