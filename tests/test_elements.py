"""An element of the symmetry does what permute, rescale and flip do, and composes as they do."""

from dataclasses import replace

import pytest
import torch
import toroid
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import ALL, gap, network, random_element, random_signs, random_state
from toroid.symmetry._discovery import _without
from toroid.symmetry._elements import Element, Step

SEEDS = st.integers(0, 10_000)
EVERY = pytest.mark.parametrize("name", ALL)


def element_of(symmetry, seed):
    permutations, factors = random_element(symmetry, seed)
    return Element(symmetry, permutations, random_signs(symmetry, seed), factors)


@EVERY
@given(seed=SEEDS, dead=st.booleans())
@settings(max_examples=3)
def test_an_element_rescales_then_exchanges_then_flips(name, seed, dead):
    model, _, symmetry = network(name)
    state, element = random_state(model, seed, dead), element_of(symmetry, seed)
    kept = {k: v.clone() for k, v in state.items()}
    step = toroid.rescale(state, element.factors, symmetry)
    step = toroid.permute(step, element.permutations, symmetry)
    assert gap(element.act(state), toroid.flip(step, element.signs, symmetry)) == 0
    assert gap(state, kept) == 0
    assert all(state[k] is v for k, v in Element(symmetry).act(state).items())
    assert gap(Element.identity(symmetry).act(state), state) == 0


@EVERY
@given(seed=SEEDS)
@settings(max_examples=3)
def test_a_step_after_an_element_is_the_step_on_what_it_moved(name, seed):
    model, _, symmetry = network(name)
    state, element = random_state(model, seed), element_of(symmetry, seed)
    moved = element.act(state)
    permutations, signs = random_element(symmetry, seed + 1)[0], random_signs(symmetry, seed + 1)
    generator = torch.Generator().manual_seed(seed)
    for i in torch.randperm(len(symmetry.groups), generator=generator).tolist():
        group = symmetry.groups[i]  # parts of a set before the set as well
        own = {k: v for k, v in signs.items() if k == group.name}
        element = element.then(group, Step(permutations[group.name], own.get(group.name)))
        moved = toroid.permute(moved, {group.name: permutations[group.name]}, symmetry)
        moved = toroid.flip(moved, own, symmetry)
        assert gap(element.act(state), moved) < 1e-12


@EVERY
@given(seed=SEEDS)
@settings(max_examples=3)
def test_one_parameter_moves_as_in_the_whole_state(name, seed):
    model, _, symmetry = network(name)
    state, element = random_state(model, seed), replace(element_of(symmetry, seed), factors={})
    whole = element.act(state)
    for parameter, tensor in state.items():
        acting = [(g, x) for g in symmetry.groups for x in g.axes if x.parameter == parameter]
        assert torch.equal(element.moved(tensor, acting), whole[parameter])


@EVERY
@given(seed=SEEDS)
@settings(max_examples=3)
def test_a_random_element_moves_every_unit_and_keeps_the_function(name, seed):
    model, example, symmetry = network(name)
    state = random_state(model, seed)
    element = Element.random(symmetry, torch.Generator().manual_seed(seed))
    for group in symmetry.groups:
        assert (
            group.size == 1 or (element.permutations[group.name] != torch.arange(group.size)).all()
        )
    assert toroid.same_function(model, state, element.act(state), example)


# --- sets of units ----------------------------------------------------------------------------------


def parts_by_place(symmetry, group):
    """What lies inside the sets of a group, seen from where the numbers are alone."""
    where = {
        (axis.place, p): (k, i)
        for axis in group.axes
        for k, unit in enumerate(axis.index)
        for i, p in enumerate(unit)
    }
    kinds = {}
    for part in symmetry.groups:
        axis = part.axes[0]
        spots = [where.get((axis.place, p), (-1, -1)) for unit in axis.index for p in unit]
        slots = {k for k, _ in spots}
        if part is not group and len(slots) == 1 and min(slots) >= 0:
            kind = tuple(a.place for a in part.axes), tuple(i for _, i in spots)
            kinds.setdefault(kind, {})[slots.pop()] = part.name
    return tuple(
        tuple(kind[k] for k in range(group.size))
        for kind in kinds.values()
        if len(kind) == group.size
    )


@EVERY
def test_sets_know_what_is_inside_them(name):
    symmetry = network(name)[2]
    for group in symmetry.groups:
        assert group.parts == (parts_by_place(symmetry, group) if group.whole else ())
        assert [[g.name for g in parts] for parts in symmetry.inside(group)] == [
            list(names) for names in group.parts
        ]


def test_heads_are_sets_and_stay_so_in_json_and_beside_other_groups():
    symmetry = network("attention")[2]
    (heads,) = (group for group in symmetry.groups if group.whole)
    assert heads.parts
    assert toroid.Symmetry.from_json(symmetry.to_json()) == symmetry
    assert replace(heads, parts=()) != heads
    axis = toroid.Axis("elsewhere", 0, "out", range(2))
    other = toroid.Symmetry((toroid.Group("other", (toroid.Scale("other", (axis,)),)),))
    joined = symmetry | other
    assert joined[heads.name].parts == heads.parts
    assert [[g.name for g in parts] for parts in joined.inside(joined[heads.name])] == [
        list(names) for names in heads.parts
    ]


def test_a_kind_of_unit_that_one_set_lost_is_no_kind():
    symmetry = network("attention")[2]
    (heads,) = (group for group in symmetry.groups if group.whole)
    lost = symmetry[heads.parts[0][1]]
    left = _without(symmetry, [lost])
    assert left[heads.name].parts == heads.parts[1:]
    assert lost.name not in {group.name for group in left.groups}


def test_parts_that_are_no_groups_are_refused():
    symmetry = network("attention")[2]
    (heads,) = (group for group in symmetry.groups if group.whole)
    with pytest.raises(
        ValueError, match=r"has 2 sets; .* a group for every set, got \(\('a',\),\)"
    ):
        replace(heads, parts=(("a",),))
    axis = toroid.Axis("start.weight", 0, "out", range(2))
    scales = (toroid.Scale("x", (axis,), fixed="?"),)
    wrong = toroid.Symmetry((toroid.Group("x", scales, parts=(("a", "b"),)),))

    class Bessel(torch.nn.Module):
        """An activation without a rule: nothing is found at what comes before it."""

        def __init__(self):
            super().__init__()
            self.start, self.end = torch.nn.Linear(4, 2), torch.nn.Linear(2, 3)

        def forward(self, x):
            return self.end(torch.special.i0e(self.start(x)))

    with pytest.raises(ValueError, match="'x' has parts that are no groups: a, b; there are x"):
        toroid.find_symmetries(Bessel(), torch.zeros(2, 4), strict=False, given=wrong)
