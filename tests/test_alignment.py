"""A planted permutation is found again; the assignment is the best there is."""

from itertools import permutations as every_permutation

import pytest
import torch
import toroid
from hypothesis import given
from hypothesis import strategies as st
from networks import ALL, BOOK, gap, network, random_element, random_state
from scipy.optimize import linear_sum_assignment

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


@pytest.mark.parametrize("name", BOOK)
@given(seed=SEEDS, bias=st.sampled_from(["euclidean", "joint"]))
def test_a_planted_permutation_and_rescaling_are_undone_exactly(name, seed, bias):
    model, example, symmetry = network(name)
    state = random_state(model, seed)
    permutations, factors = random_element(symmetry, seed)
    copy = toroid.permute(toroid.rescale(state, factors, symmetry), permutations, symmetry)
    a, b = (toroid.normalize(s, symmetry, bias=bias) for s in (state, copy))
    alignment = toroid.align(b, to=a, symmetry=symmetry)
    for group, planted in permutations.items():
        assert torch.equal(alignment.permutations[group], planted.argsort())
    assert gap(alignment.state, a) < 1e-10
    assert toroid.distance(a, alignment.state, symmetry, bias=bias) < 1e-10
    assert toroid.same_function(model, state, alignment.state, example, tolerance=1e-10)
    assert min(alignment.similarity.values()) == pytest.approx(1)


@pytest.mark.parametrize("name", ALL)
@given(seed=SEEDS)
def test_align_keeps_the_function_of_any_network(name, seed):
    model, example, symmetry = network(name)
    a, b = random_state(model, seed), random_state(model, seed + 1)
    alignment = toroid.align(b, to=a, symmetry=symmetry)
    assert toroid.same_function(model, b, alignment.state, example, tolerance=1e-10)
    assert alignment.permutations.keys() == {g.name for g in symmetry.groups}


@pytest.mark.parametrize("name", ALL)
@given(seed=SEEDS)
def test_align_is_done_after_one_pass_and_to_itself_nothing(name, seed):
    model, _, symmetry = network(name)
    nested = any(scale.fixed == "of its parts" for g in symmetry.groups for scale in g.scales)
    a, b = random_state(model, seed), random_state(model, seed + 1)
    assert gap(toroid.align(a, to=a, symmetry=symmetry).state, a) == 0
    if nested:  # sets are matched before the order inside them is settled
        return
    once = toroid.align(b, to=a, symmetry=symmetry).state
    assert gap(toroid.align(once, to=a, symmetry=symmetry).state, once) == 0


def test_running_statistics_travel_with_their_units():
    model, _, symmetry = network("vgg16_bn")
    a, b = random_state(model, 0), random_state(model, 1)
    alignment = toroid.align(b, to=a, symmetry=symmetry)
    pi = alignment.permutations["0"]
    for name in ("0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"):
        assert torch.equal(alignment.state[name], b[name][pi])


def test_a_zero_row_has_no_preference():
    a = torch.eye(3)
    b = torch.eye(3)[[1, 0, 2]]
    b[2] = 0
    assert toroid.match(a, b).tolist() == [1, 0, 2]


def test_bad_input_says_what_is_wrong():
    model, _, symmetry = network("mlp")
    state = random_state(model, 0)
    with pytest.raises(ValueError, match="method is 'magic'; it can be 'sequential'"):
        toroid.align(state, to=state, symmetry=symmetry, method="magic")
    with pytest.raises(ValueError, match=r"got \(3, 2\) and \(2, 2\)"):
        toroid.match(torch.ones(3, 2), torch.ones(2, 2))
    with pytest.raises(ValueError, match="NaN"):
        toroid.align(
            {**state, "1.weight": state["1.weight"] * float("nan")}, to=state, symmetry=symmetry
        )
