"""Units that are mixed: found where nothing but sums is between, removed, planted and undone."""

from dataclasses import replace

import pytest
import torch
import toroid
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Apply, gap, network, random_state
from torch import nn
from torch.nn import functional as F
from toroid.symmetry._elements import Element, Step

SEEDS = st.integers(0, 10_000)
TURNING = ("attention", "biased", "odd", "stacked", "deep linear", "grouped queries", "shared keys")


def heads(x, count):
    return x.unflatten(-1, (count, -1)).transpose(-2, -3)


def grouped_queries(s, x):
    """Four heads of queries to two of keys and values."""
    q, k, v = heads(s.q(x), 4), heads(s.k(x), 2), heads(s.v(x), 2)
    y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    return s.o(y.transpose(-2, -3).flatten(-2)).mean(1)


def shared_keys(s, x):
    """The keys are the values too, and queries meet a position of their own as well."""
    q, k = s.q(x), s.k(x)
    scores = q @ k.transpose(-1, -2) + q @ s.place(x).transpose(-1, -2)
    return s.o(scores.softmax(-1) @ k).mean(1)


def case(name):
    """A network, an example and its symmetry."""
    if name in ("attention", "biased", "odd"):
        return network(name)
    layer = {"dim_feedforward": 10, "batch_first": True, "dropout": 0.0}
    models = {
        "stacked": lambda: nn.Sequential(
            nn.Linear(5, 8), nn.TransformerEncoderLayer(8, 2, norm_first=True, **layer),
            nn.TransformerEncoderLayer(8, 2, bias=False, **layer), nn.Linear(8, 3)),
        "deep linear": lambda: nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3), nn.Linear(3, 2)),
        "grouped queries": lambda: Apply(
            grouped_queries, q=nn.Linear(5, 12), k=nn.Linear(5, 6), v=nn.Linear(5, 6),
            o=nn.Linear(12, 3)),
        "shared keys": lambda: Apply(
            shared_keys, q=nn.Linear(5, 4), k=nn.Linear(5, 4, bias=False), place=nn.Linear(5, 4),
            o=nn.Linear(4, 3)),
    }  # fmt: skip
    model = models[name]().eval()
    example = torch.randn(4, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return model, example, toroid.find_symmetries(model, example.float())


CASES = {name: case(name) for name in TURNING}
EVERY = pytest.mark.parametrize("name", TURNING)


def turning(symmetry):
    return {group.name: group.size for group in symmetry.groups if group.turn}


def independent(group, state, bias="euclidean"):
    """Whether the vectors that make the units are; more units than numbers are not."""
    vectors = group.turn.vectors(state, bias)
    return torch.linalg.matrix_rank(vectors) == group.size


def test_values_queries_and_keys_of_every_head_turn():
    found = {name: turning(CASES[name][2]) for name in TURNING}
    assert sorted(found["attention"].values()) == [3] * 4  # two heads: queries and keys, values
    assert sorted(found["stacked"].values()) == [4] * 8
    assert found["deep linear"] == {"0": 4, "1": 3}
    assert sorted(found["grouped queries"].values()) == [3] * 4
    assert sorted(found["shared keys"].values()) == [4]
    assert "turns" in str(CASES["stacked"][2])


def attend(s, x, change=lambda z: z):
    q, k, v = change(s.q(x)), s.k(x), s.v(x)
    return s.o((q @ k.transpose(-1, -2)).softmax(-1) @ v).mean(1)


def rotated(x):
    """A rotary embedding."""
    angle = torch.arange(x.shape[-2])[:, None] * torch.tensor([1.0, 0.1])
    a, b = x.chunk(2, -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)


@pytest.mark.filterwarnings("ignore:.*hidden units stay")
@pytest.mark.parametrize(
    ("what", "left"),
    {
        "tanh": (torch.tanh, 1),
        "relu": (torch.relu, 1),
        "a norm": (lambda q: F.rms_norm(q, (4,)), 1),
        "a rotary embedding": (rotated, 1),
        "a number for each unit": (lambda q: q * torch.arange(1.0, 5.0), 1),
        "nothing": (lambda q: 2 * q, 2),
    }.values(),
)
def test_what_stands_between_holds_the_units(what, left):
    parts = {k: nn.Linear(5, 4) for k in "qkv"}
    model = Apply(lambda s, x: attend(s, x, what), **parts, o=nn.Linear(4, 3))
    assert len(turning(toroid.find_symmetries(model, torch.randn(2, 6, 5)))) == left


@pytest.mark.filterwarnings("ignore:forward does not run")
def test_what_meets_itself_or_is_chosen_unit_by_unit_does_not_turn():
    def itself(s, x):
        q = s.q(x)
        return s.o((q @ q.transpose(-1, -2)).softmax(-1) @ x).mean(1)

    def chosen(s, x):
        a, b = s.q(x), s.k(x)
        return s.o(torch.where(a + b > 0, a, b)).mean(1)

    for function, wide in ((itself, 5), (chosen, 4)):
        model = Apply(function, q=nn.Linear(5, 4), k=nn.Linear(5, 4), o=nn.Linear(wide, 3))
        assert not turning(toroid.find_symmetries(model, torch.randn(2, 6, 5)))


@EVERY
@given(seed=SEEDS)
@settings(max_examples=4)
def test_a_turn_multiplies_what_makes_and_divides_what_reads(name, seed):
    model, example, symmetry = CASES[name]
    state = random_state(model, seed)
    matrices = Element.random(symmetry, torch.Generator().manual_seed(seed)).turns
    turned = toroid.turn(state, matrices, symmetry)
    assert toroid.same_function(model, state, turned, example).difference < 1e-10
    back = toroid.turn(turned, {k: torch.linalg.inv(m) for k, m in matrices.items()}, symmetry)
    assert gap(back, state) < 1e-10
    for name, given_matrix in matrices.items():
        turned = toroid.turn(state, {name: given_matrix}, symmetry)
        for axis in symmetry[name].turn.axes:
            matrix = given_matrix if axis.power > 0 else torch.linalg.inv(given_matrix).T
            rows = axis.rows(state[axis.parameter])  # (units, numbers)
            expected = sum(matrix[:, [i]] * rows[i] for i in range(len(matrix)))
            assert torch.allclose(axis.rows(turned[axis.parameter]), expected)


@EVERY
@given(seed=SEEDS)
@settings(max_examples=3)
def test_steps_after_a_turn_are_the_steps_on_what_it_moved(name, seed):
    model, _, symmetry = CASES[name]
    moved, element = random_state(model, seed), Element.identity(symmetry)
    state = moved
    for k in range(2):  # the second time on units that are mixed, sets and what is inside them
        drawn = Element.random(symmetry, torch.Generator().manual_seed(seed + k))
        for group in symmetry.groups:
            own = [
                getattr(drawn, kind).get(group.name) for kind in ("permutations", "signs", "turns")
            ]
            element = element.then(group, Step(*own))
            moves = (toroid.permute, toroid.flip, toroid.turn)
            for move, what in zip(moves, own, strict=True):
                moved = moved if what is None else move(moved, {group.name: what}, symmetry)
            assert gap(element.act(state), moved) < 1e-9


@EVERY
@pytest.mark.parametrize("bias", ["euclidean", "joint"])
@given(seed=SEEDS)
@settings(max_examples=3)
def test_the_normal_form_is_orthonormal_exact_and_stays(name, bias, seed):
    model, example, symmetry = CASES[name]
    state = random_state(model, seed)
    how = {"bias": bias, "turns": "orthonormal"}
    normal = toroid.normalize(state, symmetry, **how)
    assert toroid.same_function(model, state, normal, example).difference < 1e-10
    assert gap(toroid.normalize(normal, symmetry, **how), normal) < 1e-10
    for group in symmetry.groups:
        if group.turn and independent(group, normal, bias):
            w = group.turn.vectors(normal, bias)
            assert torch.allclose(w @ w.T, torch.eye(group.size, dtype=w.dtype), atol=1e-9)
    factors = Element.random(symmetry, torch.Generator().manual_seed(seed)).factors
    scaled = toroid.normalize(toroid.rescale(state, factors, symmetry), symmetry, **how)
    assert gap(scaled, normal) < 1e-9


@EVERY
@pytest.mark.parametrize("method", ["sequential", "coordinate", "activation"])
@given(seed=SEEDS)
@settings(max_examples=3)
def test_planted_turns_permutations_and_factors_are_undone(name, method, seed):
    model, example, symmetry = CASES[name]
    state = random_state(model, seed)
    element = Element.random(symmetry, torch.Generator().manual_seed(seed))
    sure = {k: m for k, m in element.turns.items() if independent(symmetry[k], state)}
    moved = replace(element, turns=sure).act(state)
    a, b = (toroid.normalize(s, symmetry, turns="orthonormal") for s in (state, moved))
    data = {"model": model, "inputs": example} if method == "activation" else {}
    found = toroid.align(b, to=a, symmetry=symmetry, method=method, turns=True, **data)
    if method != "activation":  # units that are silent on six examples look alike
        assert gap(found.state, a) < 1e-8
    assert toroid.same_function(model, b, found.state, example).difference < 1e-10
    assert found.turns.keys() <= turning(symmetry).keys()
    again = Element(symmetry, found.permutations, found.signs, turns=found.turns).act(b)
    assert gap(again, found.state) == 0


@EVERY
def test_a_network_aligned_to_itself_stays(name):
    model, _, symmetry = CASES[name]
    a = toroid.normalize(random_state(model, 3), symmetry, turns="orthonormal")
    for method in ("sequential", "coordinate"):
        found = toroid.align(a, to=a, symmetry=symmetry, method=method, turns=True)
        assert gap(found.state, a) == 0
        assert not found.turns


@EVERY
@given(seed=SEEDS)
@settings(max_examples=3)
def test_turning_brings_networks_closer_than_exchanging(name, seed):
    model, _, symmetry = CASES[name]
    a, b = (
        toroid.normalize(random_state(model, s), symmetry, turns="orthonormal")
        for s in (seed, seed + 1)
    )
    for group in (g for g in symmetry.groups if g.turn):  # each alone, on the weights that make it
        weights = [x for x in group.turn.axes if not x.parameter.endswith("bias")]

        def rows(state, axes=weights):
            return torch.cat([x.rows(state[x.parameter]) for x in axes], 1)

        w, v, alone = rows(a), rows(b), replace(symmetry, groups=(group,))
        turned, exchanged = (
            toroid.align(b, to=a, symmetry=alone, turns=turns, method="coordinate").state
            for turns in (True, False)
        )
        apart = [float((rows(state) - w).norm()) for state in (turned, exchanged, b)]
        assert apart[0] <= min(apart[1:]) + 1e-9
        generator = torch.Generator().manual_seed(seed)
        for _ in range(5):  # none of these orthogonal matrices is better
            q = torch.linalg.qr(torch.randn(*[group.size] * 2, generator=generator).double())[0]
            assert apart[0] <= float((q @ v - w).norm()) + 1e-9


def test_vectors_that_are_not_independent_are_left():
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)).double()
    symmetry = toroid.find_symmetries(model, torch.randn(2, 3, dtype=torch.float64))
    state = random_state(model, 0)
    plain = toroid.normalize(state, symmetry)
    assert gap(toroid.normalize(state, symmetry, turns="orthonormal"), plain) == 0
    twice = dict(state, **{"0.weight": torch.ones(5, 3, dtype=torch.float64)})
    same = toroid.normalize(twice, symmetry, turns="orthonormal")
    assert gap(same, toroid.normalize(twice, symmetry)) == 0


def test_what_is_no_turn_is_told():
    model, _, symmetry = CASES["deep linear"]
    state = random_state(model, 0)
    for matrices, told in (
        ({"2": torch.eye(2)}, "no group '2' that turns; there are 0, 1"),
        ({"0": torch.eye(3)}, r"finite numbers, \(4, 4\), got shape \(3, 3\)"),
        ({"0": torch.full((4, 4), torch.nan)}, "finite numbers"),
        ({"0": torch.ones(4, 4)}, "cannot be inverted"),
    ):
        with pytest.raises(ValueError, match=told):
            toroid.turn(state, matrices, symmetry)
    with pytest.raises(ValueError, match="turns is 'all'"):
        toroid.normalize(state, symmetry, turns="all")


def test_turns_survive_json_and_float32():
    model, example, symmetry = CASES["stacked"]
    assert toroid.Symmetry.from_json(symmetry.to_json()) == symmetry
    state = {k: v.float() for k, v in random_state(model, 0).items()}
    normal = toroid.normalize(state, symmetry, turns="orthonormal")
    assert all(v.dtype == torch.float32 for v in normal.values())
    assert toroid.same_function(model, state, normal, example.float())
