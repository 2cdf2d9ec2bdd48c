"""A planted permutation is found again; the assignment is the best there is."""

import dataclasses
import os
import subprocess
import sys
from itertools import permutations as every_permutation
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import toroid
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import ALL, Apply, gap, network, random_element, random_signs, random_state
from scipy.linalg import orthogonal_procrustes
from scipy.optimize import linear_sum_assignment
from torch import nn
from toroid.alignment._overlaps import Overlaps, assign
from toroid.symmetry._elements import Element

METHODS = ("sequential", "coordinate", "activation")
SEEDS = st.integers(0, 10_000)


def reference(state, to):
    """The slides' pseudo-code on an MLP: match layer l, permute its rows, permute the next layer's columns."""
    state = {k: v.clone() for k, v in state.items()}
    layers = [name.removesuffix(".weight") for name in state if name.endswith("weight")]
    for layer, reader in zip(layers, layers[1:], strict=False):
        a, b = to[f"{layer}.weight"], state[f"{layer}.weight"]
        cosines = [[float(u @ v / (u.norm() * v.norm())) for v in b] for u in a]
        pi = linear_sum_assignment(cosines, maximize=True)[1].tolist()
        state[f"{layer}.weight"], state[f"{layer}.bias"] = b[pi], state[f"{layer}.bias"][pi]
        state[f"{reader}.weight"] = state[f"{reader}.weight"][:, pi]
    return state


@given(SEEDS)
def test_sequential_is_the_slides_algorithm_on_an_mlp(seed):
    model, _, symmetry = network("mlp")
    a, b = (toroid.normalize(random_state(model, s), symmetry) for s in (seed, seed + 1))
    assert gap(toroid.align(b, to=a, symmetry=symmetry).state, reference(b, a)) == 0


@given(st.integers(1, 6), st.integers(1, 5), SEEDS)
def test_match_is_the_best_of_all_permutations(units, numbers, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, units, numbers, generator=generator, dtype=torch.float64)
    cosines = torch.nn.functional.normalize(a, dim=1) @ torch.nn.functional.normalize(b, dim=1).T
    best = max(
        sum(float(cosines[i, p]) for i, p in enumerate(pi))
        for pi in every_permutation(range(units))
    )
    found = toroid.match(a, b)
    assert float(cosines[torch.arange(units), found].sum()) == pytest.approx(best)


def images(example, seed):
    """Inputs of a network, to see its units at work."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(40, *example.shape[1:], generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ALL)
@given(seed=st.integers(0, 3), bias=st.sampled_from(["euclidean", "joint"]))
@settings(max_examples=3)
def test_a_planted_element_is_undone_exactly(name, method, seed, bias):
    if method == "activation" and name == "lenet":
        pytest.skip("six filters on images of 8 x 8: some units are alike on 40 of them")
    model, example, symmetry = network(name)
    state = random_state(model, seed)
    permutations, factors = random_element(symmetry, seed)
    copy = toroid.permute(toroid.rescale(state, factors, symmetry), permutations, symmetry)
    copy = toroid.flip(copy, random_signs(symmetry, seed), symmetry)
    a, b = (toroid.normalize(s, symmetry, bias=bias) for s in (state, copy))
    alignment = toroid.align(
        b, to=a, symmetry=symmetry, method=method, model=model, inputs=images(example, seed)
    )
    assert gap(alignment.state, a) < 1e-9
    if symmetry.scales:  # binary networks have no torus
        assert toroid.distance(a, alignment.state, symmetry, bias=bias) < 1e-9
    assert toroid.same_function(model, state, alignment.state, example, tolerance=1e-10)
    assert min(alignment.similarity.values(), default=1) == pytest.approx(1)
    back = toroid.permute(b, alignment.permutations, symmetry)
    assert gap(toroid.flip(back, alignment.signs, symmetry), alignment.state) == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ALL)
@given(seed=SEEDS)
@settings(max_examples=3)
def test_align_keeps_the_function_of_any_network(name, method, seed):
    model, example, symmetry = network(name)
    a, b = random_state(model, seed), random_state(model, seed + 1)
    inputs = images(example, seed)
    alignment = toroid.align(b, to=a, symmetry=symmetry, method=method, model=model, inputs=inputs)
    assert toroid.same_function(model, b, alignment.state, example, tolerance=1e-10)
    assert alignment.permutations.keys() == {g.name for g in symmetry.groups}
    assert alignment.signs.keys() == {g.name for g in symmetry.groups if g.flip}


@pytest.mark.parametrize("method", ["sequential", "coordinate"])
@pytest.mark.parametrize("name", ["mlp", "lenet", "depthwise", "odd"])
@given(seed=SEEDS)
@settings(max_examples=1)
def test_balanced_networks_are_compared_whatever_their_scales(name, method, seed):
    model, _, symmetry = network(name)
    a, b = random_state(model, seed), random_state(model, seed + 1)
    _, factors = random_element(symmetry, seed)
    scales = dataclasses.replace(symmetry, output=None).scales
    how = {"symmetry": symmetry, "method": method}
    found = toroid.align(b, to=a, balanced=True, **how)
    scaled = toroid.rescale(b, {s.name: factors[s.name] for s in scales}, symmetry)
    normal = toroid.normalize(a, symmetry, output="keep")
    again = toroid.align(scaled, to=normal, balanced=True, **how)
    own = toroid.align(toroid.balance(b, symmetry), to=toroid.balance(a, symmetry), **how)
    for group, permutation in found.permutations.items():
        assert torch.equal(permutation, again.permutations[group])
        assert torch.equal(permutation, own.permutations[group])
    there = toroid.flip(toroid.permute(b, found.permutations, symmetry), found.signs, symmetry)
    assert gap(found.state, there) == 0  # what is moved is what was given


@pytest.mark.parametrize("name", ALL)
@given(seed=SEEDS)
def test_to_align_with_itself_does_nothing(name, seed):
    model, _, symmetry = network(name)
    a = random_state(model, seed)
    assert gap(toroid.align(a, to=a, symmetry=symmetry).state, a) == 0


@pytest.mark.parametrize("name", ALL)
@given(seed=SEEDS)
def test_align_is_done_after_one_pass(name, seed):
    model, _, symmetry = network(name)
    if any(group.whole for group in symmetry.groups):
        pytest.skip("sets are matched before what is inside them")
    a, b = random_state(model, seed), random_state(model, seed + 1)
    once = toroid.align(b, to=a, symmetry=symmetry).state
    assert gap(toroid.align(once, to=a, symmetry=symmetry).state, once) == 0


def overlap(a, b, symmetry):
    """Sum of the products of all weights that make or read units."""
    names = {
        x.parameter for g in symmetry.groups for x in g.axes if x.role in ("out", "late", "in")
    }
    return sum(float((a[n] * b[n]).sum()) for n in names)


def plain_descent(state, to, symmetry, seed):
    """Coordinate descent as it is written down: move everything, compute everything again."""
    groups = [group for group in symmetry.groups if not group.constant]  # none has two alike
    generator = torch.Generator().manual_seed(seed)
    moved, stale = dict(state), True
    while stale:
        stale = False
        for i in torch.randperm(len(groups), generator=generator).tolist():
            group = groups[i]
            weights = [x for x in group.axes if x.role in ("out", "late", "in")]
            plain, odd = torch.zeros(2, group.size, group.size, dtype=torch.float64)
            for x in weights:
                products = x.rows(to[x.parameter]) @ x.rows(moved[x.parameter]).T
                plain, odd = (plain, odd + products) if group.flips(x) else (plain + products, odd)
            best = plain + odd.abs()
            if group.turn:  # the rows of products are a's units, of the closest turn b's
                turn, _ = orthogonal_procrustes((plain + odd).numpy(), np.eye(group.size))
                tried = toroid.turn(moved, {group.name: torch.from_numpy(turn).T}, symmetry)
            else:
                step = assign(best)
                signs = 1 - 2 * (odd[torch.arange(group.size), step] < 0).long()
                tried = toroid.permute(moved, {group.name: step}, symmetry)
                tried = toroid.flip(tried, {group.name: signs} if group.flip else {}, symmetry)
            gain = overlap(tried, to, symmetry) - overlap(moved, to, symmetry)
            if gain > torch.finfo(torch.float64).eps ** 0.75 * float(best.diagonal().abs().sum()):
                moved, stale = tried, True
    return moved


@pytest.mark.parametrize("name", ALL)
@given(seed=SEEDS, turns=st.booleans())
@settings(max_examples=4)
def test_the_overlaps_with_kept_products_is_the_plain_one(name, seed, turns):
    model, _, symmetry = network(name)
    symmetry = symmetry if turns else symmetry.still
    a, b = (toroid.normalize(random_state(model, s), symmetry) for s in (seed, seed + 1))
    overlaps = Overlaps(a, b, symmetry)
    element = overlaps.descend(Element.identity(symmetry), torch.Generator().manual_seed(seed))
    moved = element.act(b)
    plain = plain_descent(b, a, symmetry, seed)
    assert overlaps.objective(element) == pytest.approx(overlap(moved, a, symmetry))
    assert overlap(moved, a, symmetry) == pytest.approx(overlap(plain, a, symmetry))
    assert gap(moved, plain) <= (1e-6 if any(g.turn for g in symmetry.groups) else 0)


@pytest.mark.parametrize("name", ALL)
@given(seed=SEEDS)
def test_coordinate_overlaps_is_never_worse_than_its_start(name, seed):
    model, _, symmetry = network(name)
    a, b = random_state(model, seed), random_state(model, seed + 1)
    start, end, more = (
        overlap(toroid.align(b, to=a, symmetry=symmetry, **options).state, a, symmetry)
        for options in (
            {},
            {"method": "coordinate", "seed": seed},
            {"method": "coordinate", "seed": seed, "restarts": 2},
        )
    )
    assert start <= end + 1e-9
    assert end <= more + 1e-9


@given(st.integers(1, 4), SEEDS)
def test_one_odd_layer_has_the_best_of_all_signed_permutations(units, seed):
    model = torch.nn.Sequential(
        torch.nn.Linear(3, units), torch.nn.Tanh(), torch.nn.Linear(units, 2)
    )
    symmetry = toroid.find_symmetries(model, torch.zeros(2, 3))
    a, b = random_state(model, seed), random_state(model, seed + 1)
    found = toroid.align(b, to=a, symmetry=symmetry, method="coordinate")
    best = max(
        overlap(
            toroid.flip(
                toroid.permute(b, {"0": torch.tensor(pi)}, symmetry),
                {"0": torch.tensor(s)},
                symmetry,
            ),
            a,
            symmetry,
        )
        for pi in every_permutation(range(units))
        for s in product([1, -1], repeat=units)
    )
    assert overlap(found.state, a, symmetry) == pytest.approx(best)


AGAIN = """
import sys; sys.path.insert(0, sys.argv[1])
import torch
from networks import network, random_state, toroid
torch.set_num_threads(2)
for name in ("residual", "attention"):
    model, example, symmetry = network(name)
    print(symmetry.to_json())
a, b = random_state(model, 0), random_state(model, 1)
inputs = torch.randn(40, *example.shape[1:], generator=torch.Generator().manual_seed(0)).double()
for method in sys.argv[2:]:
    found = toroid.align(b, to=a, symmetry=symmetry, method=method, model=model, inputs=inputs)
    print(method, [(k, p.tolist()) for k, p in found.permutations.items()])
"""


def test_the_result_is_the_same_again_and_whatever_the_hash_seed():
    command = [sys.executable, "-W", "ignore", "-c", AGAIN, str(Path(__file__).parent), *METHODS]
    runs = [
        subprocess.Popen(
            command, env={**os.environ, "PYTHONHASHSEED": seed}, stdout=subprocess.PIPE, text=True
        )
        for seed in ("0", "1")
    ]
    first, second = (run.communicate()[0].splitlines() for run in runs)
    assert first == second
    here = [network(name)[2].to_json() for name in ("residual", "attention")]
    assert first[:2] == here  # whose seed is another
    assert "attention#3" in first[-1]
    assert len(first) == len(here) + len(METHODS)


def test_units_that_are_alike_stay_where_they_are():
    model, _, symmetry = network("mlp")
    state = random_state(model, 0)
    for name in ("1.weight", "1.bias", "3.weight", "3.bias"):
        state[name] = state[name].clone()
        state[name][1::2] = state[name][0]
    for method in ("sequential", "coordinate"):
        found = toroid.align(state, to=state, symmetry=symmetry, method=method)
        assert all(torch.equal(p, torch.arange(len(p))) for p in found.permutations.values())


@pytest.mark.parametrize("method", ["sequential", "coordinate"])
@given(seed=SEEDS)
@settings(max_examples=4)
def test_many_networks_share_one_chart(method, seed):
    model, example, symmetry = network("odd")
    states = [toroid.normalize(random_state(model, seed + s), symmetry) for s in range(4)]

    def total(found):
        pairs = [(x.state, y.state) for x in found for y in found if x is not y]
        return sum(overlap(x, y, symmetry) for x, y in pairs)

    first = toroid.align_all(states, symmetry, to=states[0], method=method)
    mean = toroid.align_all(states, symmetry, method=method)
    assert gap(first[0].state, states[0]) == 0
    assert total(first) <= total(mean) + 1e-9
    for state, found in zip(states, mean, strict=True):
        assert toroid.same_function(model, state, found.state, example, tolerance=1e-10)


def test_many_networks_are_compared_balanced():
    model, _, symmetry = network("mlp")
    states = [random_state(model, s) for s in range(3)]
    even = [toroid.balance(state, symmetry) for state in states]
    for to in (None, 0):
        first, second = (
            toroid.align_all(x, symmetry, to=None if to is None else x[to], **how)
            for x, how in ((states, {"balanced": True}), (even, {}))
        )
        for state, found, other in zip(states, first, second, strict=True):
            assert all(torch.equal(p, other.permutations[k]) for k, p in found.permutations.items())
            moved = toroid.permute(state, found.permutations, symmetry)
            assert gap(found.state, toroid.flip(moved, found.signs, symmetry)) == 0


def test_copies_of_one_network_are_all_brought_together():
    model, _, symmetry = network("resnet18")
    state = random_state(model, 0)
    copies = [toroid.permute(state, random_element(symmetry, s)[0], symmetry) for s in range(4)]
    found = toroid.align_all(copies, symmetry)
    assert max(gap(found[0].state, other.state) for other in found) == 0


@pytest.mark.parametrize("table", [
    lambda x: 0 * x, lambda x: x[:, [0, 0]], lambda x: 1e-30 * x, lambda x: 1e30 * x,
])  # fmt: skip
def test_constants_that_are_alike_leave_it_to_what_reads_them(table):
    model, example, symmetry = network("positions")
    state = random_state(model, 0)
    state["table"] = table(state["table"])
    permutations, _ = random_element(symmetry, 5)
    copy = toroid.permute(state, permutations, symmetry)
    a, b = ({k: v.float() for k, v in s.items()} for s in (state, copy))
    found = toroid.align(b, to=a, symmetry=symmetry, method="coordinate", restarts=3)
    assert gap(found.state, a) < 1e-6
    assert toroid.same_function(model, state, found.state, example.float(), tolerance=1e-4)


@pytest.mark.parametrize("method", ["sequential", "coordinate"])
@given(seed=SEEDS)
def test_units_that_a_single_number_makes_are_found_by_its_size(method, seed):
    def forward(m, x):
        h = m.start.tanh().expand(len(x), -1)
        for step in x.unbind(1):
            h = torch.tanh(m.reads(step) + m.again(h))
        return m.end(h)

    parts = {"reads": nn.Linear(3, 6), "again": nn.Linear(6, 6), "end": nn.Linear(6, 2)}
    model = Apply(forward, start=nn.Parameter(torch.randn(6)), **parts).double()
    symmetry = toroid.find_symmetries(model, torch.randn(2, 3, 3).double())
    state = random_state(model, seed)
    permutations, _ = random_element(symmetry, seed)
    copy = toroid.flip(
        toroid.permute(state, permutations, symmetry), random_signs(symmetry, seed), symmetry
    )
    assert gap(toroid.align(copy, to=state, symmetry=symmetry, method=method).state, state) == 0


@pytest.mark.parametrize("method", ["sequential", "coordinate"])
@pytest.mark.parametrize("numbers", [1, 5])
@pytest.mark.parametrize("state_first", [False, True])
@given(seed=SEEDS)
@settings(max_examples=3)
def test_a_matrix_that_reads_an_input_and_its_own_units(method, numbers, state_first, seed):
    def forward(m, x):
        h = x.new_zeros(len(x), 6)
        for step in x.unbind(1):
            h = torch.tanh(m.reads(torch.cat([h, step] if state_first else [step, h], 1)))
        return m.end(h)

    model = Apply(forward, reads=nn.Linear(numbers + 6, 6), end=nn.Linear(6, 2)).double()
    symmetry = toroid.find_symmetries(model, torch.randn(2, 3, numbers).double())
    state = random_state(model, seed)
    copy = toroid.permute(state, random_element(symmetry, seed)[0], symmetry)
    copy = toroid.flip(copy, random_signs(symmetry, seed), symmetry)
    found = toroid.align(copy, to=state, symmetry=symmetry, method=method)
    assert gap(found.state, state) == 0
    assert found.similarity["reads"] == pytest.approx(1)


def test_the_report_says_which_groups_are_alike():
    model, _, symmetry = network("tanh")
    a, b = random_state(model, 0), random_state(model, 0)
    b["3.weight"] = torch.randn(b["3.weight"].shape, dtype=torch.float64)
    b = toroid.flip(b, {"3": torch.tensor([-1, 1, 1, 1, 1])}, symmetry)
    frame = toroid.align(b, to=a, symmetry=symmetry).frame.set_index("group")
    assert frame["units"].tolist() == [6, 5]
    assert frame.loc["1", ["moved", "flipped"]].tolist() == [0, 0]
    assert frame["similarity"]["1"] == pytest.approx(1)
    assert frame["least"]["3"] <= frame["similarity"]["3"] < 0.99


def test_running_statistics_travel_with_their_units():
    model, _, symmetry = network("vgg16_bn")
    a, b = random_state(model, 0), random_state(model, 1)
    alignment = toroid.align(b, to=a, symmetry=symmetry)
    pi = alignment.permutations["0"]
    for name in ("0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"):
        assert torch.equal(alignment.state[name], b[name][pi])


@pytest.mark.parametrize("method", ["sequential", "coordinate"])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("factors", [(1e-22, 1e-22), (1e-38, 1.0), (1e20, 1e20), (1.0, 1e37)])
def test_weights_of_any_size_are_matched(method, kind, factors):
    model = toroid.mlp((6,), classes=3, hidden=(9, 8))
    symmetry = toroid.find_symmetries(model, torch.randn(4, 6))
    orders = {"1": torch.randperm(9), "3": torch.randperm(8)}
    moved = toroid.permute(model.state_dict(), orders, symmetry)
    a, b = (
        {k: (v.double() * factor).to(kind) for k, v in state.items()}
        for state, factor in zip((model.state_dict(), moved), factors, strict=True)
    )
    found = toroid.align(b, to=a, symmetry=symmetry, method=method).permutations
    assert all(torch.equal(found[name], orders[name].argsort()) for name in orders)


@pytest.mark.parametrize("method", ["sequential", "coordinate"])
@pytest.mark.parametrize(
    "sizes",
    [
        (1, 1, 1e30),
        (1e-6, 1e-6, 1e17),
        (1e15, 1e-10, 1),
        (1, 1e-25, 1),
        (1e-25, 1e-25, 1),
        (1e-30, 1, 1e30),
    ],
)
def test_layers_of_other_sizes_are_matched(method, sizes):
    model = toroid.mlp((6,), classes=3, hidden=(9, 8))
    symmetry = toroid.find_symmetries(model, torch.randn(4, 6))
    orders = {"1": torch.randperm(9), "3": torch.randperm(8)}
    of = {"1": sizes[0], "3": sizes[1], "5": sizes[2]}
    state = {k: v * of[k[0]] for k, v in model.state_dict().items()}
    moved = toroid.permute(state, orders, symmetry)
    found = toroid.align(moved, to=state, symmetry=symmetry, method=method)
    assert all(torch.equal(found.permutations[k], v.argsort()) for k, v in orders.items())
    assert min(found.similarity.values()) > 0.999


def test_a_zero_row_has_no_preference():
    a = torch.eye(3)
    b = torch.eye(3)[[1, 0, 2]]
    b[2] = 0
    assert toroid.match(a, b).tolist() == [1, 0, 2]


@pytest.mark.parametrize("size", [1e-25, 1.0, 1e25])
def test_match_takes_rows_of_any_length(size):
    a = torch.tensor([[1.0, 0.0], [0.95, 0.312]]) * size
    assert toroid.match(a, a[[1, 0]]).tolist() == [1, 0]
    assert toroid.match(a[:0], a[:0]).tolist() == []
    if size == 1:
        assert toroid.match(a.bfloat16(), a[[1, 0]].bfloat16()).tolist() == [1, 0]


def test_a_mean_of_many_is_what_their_similarity_is_with():
    model, _, symmetry = network("mlp")
    states = [random_state(model, s) for s in range(3)]
    found = toroid.align_all(states, symmetry)
    mean = {k: sum(f.state[k] for f in found) / 3 for k in states[0]}
    for f in found:
        cosines = torch.cosine_similarity(f.state["1.weight"], mean["1.weight"])
        assert f.similarity["1"] == pytest.approx(float(cosines.mean()))


def test_activations_of_a_network_that_writes_into_its_input():
    first = nn.LeakyReLU(0.1, inplace=True)
    model = nn.Sequential(first, nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    inputs = torch.randn(30, 4).double()
    kept, state = inputs.clone(), random_state(model, 0)
    symmetry = toroid.find_symmetries(model, inputs)
    pi = torch.tensor([3, 1, 5, 0, 2, 4])
    moved = toroid.permute(state, {"1": pi}, symmetry)
    found = toroid.align(
        moved, to=state, symmetry=symmetry, method="activation", model=model, inputs=inputs
    )
    assert torch.equal(inputs, kept)
    assert gap(found.state, state) == 0


def test_activations_on_tokens():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    inputs = torch.randint(0, 9, (30, 5), generator=torch.Generator().manual_seed(0))
    symmetry = toroid.find_symmetries(model, inputs, strict=False)
    assert [g.size for g in symmetry.groups] == [4, 6]
    state, pi = random_state(model, 0), torch.tensor([3, 1, 5, 0, 2, 4])
    moved = toroid.permute(state, {"1": pi}, symmetry)
    found = toroid.align(
        moved, to=state, symmetry=symmetry, method="activation", model=model, inputs=inputs
    )
    assert gap(found.state, state) == 0


def test_bad_input_says_what_is_wrong():
    model, _, symmetry = network("mlp")
    state = random_state(model, 0)
    with pytest.raises(ValueError, match="method is 'magic'; it can be 'sequential', 'coordinate'"):
        toroid.align(state, to=state, symmetry=symmetry, method="magic")
    with pytest.raises(ValueError, match="needs the model, and inputs"):
        toroid.align(state, to=state, symmetry=symmetry, method="activation")
    with pytest.raises(ValueError, match="restarts is -1"):
        toroid.align(state, to=state, symmetry=symmetry, restarts=-1)
    with pytest.raises(ValueError, match=r"'1\.weight' is torch\.float64 on cpu in one .*float32"):
        toroid.align(state, to={k: v.float() for k, v in state.items()}, symmetry=symmetry)
    wide = random_state(toroid.mlp((1, 8, 8), classes=5, hidden=(90, 90)), 0)
    with pytest.raises(ValueError, match="was the symmetry found on another network"):
        toroid.align(wide, to=wide, symmetry=symmetry)
    nowhere_matched = {**state, "5.bias": state["5.bias"] * float("nan")}
    with pytest.raises(ValueError, match=r"'5\.bias' contains NaN"):
        toroid.align(nowhere_matched, to=state, symmetry=symmetry)
    with pytest.raises(ValueError, match="at least one state"):
        toroid.align_all([], symmetry)
    with pytest.raises(ValueError, match=r"got \(3, 2\) and \(2, 2\)"):
        toroid.match(torch.ones(3, 2), torch.ones(2, 2))
    with pytest.raises(ValueError, match="NaN"):
        toroid.align(
            {**state, "1.weight": state["1.weight"] * float("nan")}, to=state, symmetry=symmetry
        )
