"""The normal form is one, the angles are exact, and the geodesic is a geodesic."""

import dataclasses
import math
import re

import numpy as np
import pytest
import torch
import toroid
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import ALL, Apply, gap, network, random_element, random_state
from scipy.optimize import minimize
from toroid.torus import Torus

SEEDS, BIAS = st.integers(0, 10_000), st.sampled_from(["euclidean", "joint"])
EVERY = pytest.mark.parametrize("name", [n for n in ALL if not n.startswith("binary")])
QUIET = pytest.mark.filterwarnings("ignore:dead units")


def reference(state, bias):
    """The paper's normalisation of an MLP, weight by weight."""
    layers = [name.removesuffix(".weight") for name in state if name.endswith("weight")]
    state = {k: v.clone() for k, v in state.items()}
    for layer, reader in zip(layers, layers[1:], strict=False):
        for unit in range(len(state[f"{layer}.weight"])):
            numbers = [*state[f"{layer}.weight"][unit].tolist()]
            if bias == "joint":
                numbers.append(float(state[f"{layer}.bias"][unit]))
            norm = math.sqrt(sum(x * x for x in numbers))
            state[f"{layer}.weight"][unit] /= norm
            state[f"{layer}.bias"][unit] /= norm
            state[f"{reader}.weight"][:, unit] *= norm
    last = [state[f"{layers[-1]}.weight"], state[f"{layers[-1]}.bias"]]
    norm = math.sqrt(sum(float((x * x).sum()) for x in last))
    for x in last:
        x /= norm
    return state


@given(SEEDS, BIAS)
def test_normalize_is_the_papers_on_an_mlp(seed, bias):
    model, _, symmetry = network("mlp")
    state = random_state(model, seed)
    assert gap(toroid.normalize(state, symmetry, bias=bias), reference(state, bias)) < 1e-13


@QUIET
@EVERY
@given(seed=SEEDS, dead=st.booleans(), bias=BIAS)
def test_normalize_keeps_the_classifier(name, seed, dead, bias):
    model, example, symmetry = network(name)
    state = random_state(model, seed, dead)
    normal = toroid.normalize(state, symmetry, bias=bias)
    assert all(v.isfinite().all() for v in normal.values())
    assert toroid.same_function(model, state, normal, example, tolerance=1e-10)


@QUIET
@EVERY
@given(seed=SEEDS, dead=st.booleans(), bias=BIAS)
def test_normalize_is_idempotent_and_the_same_for_every_rescaling(name, seed, dead, bias):
    model, _, symmetry = network(name)
    state = random_state(model, seed, dead)
    normal = toroid.normalize(state, symmetry, bias=bias)
    assert gap(normal, toroid.normalize(normal, symmetry, bias=bias)) < 1e-10
    _, factors = random_element(symmetry, seed)
    scaled = toroid.rescale(state, factors, symmetry)
    assert gap(normal, toroid.normalize(scaled, symmetry, bias=bias)) < 1e-10


def sizes(state, scale):
    """The squares of the weights that make each unit, and of those that read it, (2, units)."""
    total = torch.zeros(2, len(scale.axes[0].index), dtype=torch.float64)
    for axis in (axis for axis in scale.axes if axis.weighs):
        total[int(axis.power < 0)] += axis.rows(state[axis.parameter]).double().square().sum(1)
    return total


@QUIET
@EVERY
@given(seed=SEEDS, dead=st.booleans())
@settings(max_examples=2)
def test_balance_is_the_same_function_and_the_same_for_every_rescaling(name, seed, dead):
    model, example, symmetry = network(name)
    state = random_state(model, seed, dead)
    even = toroid.balance(state, symmetry)
    assert toroid.same_function(model, state, even, example, tolerance=1e-10, output="keep")
    scales = dataclasses.replace(symmetry, output=None).scales
    _, factors = random_element(symmetry, seed)
    scaled = toroid.rescale(state, {s.name: factors[s.name] for s in scales}, symmetry)
    assert gap(even, toroid.balance(scaled, symmetry)) < 1e-6
    for made, read in (sizes(even, scale) for scale in scales):
        both = (made > 0) & (read > 0)
        assert torch.allclose(made[both], read[both], rtol=1e-7)


@given(SEEDS)
@settings(max_examples=2)
def test_balance_has_the_least_norm_of_all_rescalings(seed):
    model, _, symmetry = network("mlp")
    state = random_state(model, seed)
    scales = dataclasses.replace(symmetry, output=None).scales
    counts = [len(scale.axes[0].index) for scale in scales]

    def norm(logs):
        parts = torch.as_tensor(logs).exp().split(counts)
        factors = {scale.name: part for scale, part in zip(scales, parts, strict=True)}
        moved = toroid.rescale(state, factors, symmetry)
        return sum(float(v.square().sum()) for k, v in moved.items() if k.endswith("weight"))

    least = minimize(norm, np.zeros(sum(counts)), method="BFGS").fun
    even = toroid.balance(state, symmetry)
    own = sum(float(v.square().sum()) for k, v in even.items() if k.endswith("weight"))
    assert own == pytest.approx(least, rel=1e-6)


def test_balance_leaves_what_is_not_connected():
    model, example, symmetry = network("mlp")
    state = random_state(model, 0)
    reader = [k for k in state if k.endswith("weight")][1]
    state[reader][:, 0] = 0  # nobody reads the first unit
    even, normal = toroid.balance(state, symmetry), toroid.normalize(state, symmetry)
    first = next(k for k in state if k.endswith("weight"))
    assert torch.allclose(even[first][0], normal[first][0])
    assert toroid.same_function(model, state, even, example, tolerance=1e-10, output="keep")


@EVERY
@given(seed=SEEDS, bias=BIAS)
def test_every_unit_is_on_its_sphere(name, seed, bias):
    model, _, symmetry = network(name)
    normal = toroid.normalize(random_state(model, seed), symmetry, bias=bias)
    for scale in symmetry.scales:
        assert torch.allclose(scale.vectors(normal, bias).norm(dim=1), torch.ones(1).double())


@EVERY
@given(seed=SEEDS)
def test_normalize_commutes_with_permutations(name, seed):
    model, _, symmetry = network(name)
    state = random_state(model, seed)
    permutations, _ = random_element(symmetry, seed)
    one = toroid.normalize(toroid.permute(state, permutations, symmetry), symmetry)
    other = toroid.permute(toroid.normalize(state, symmetry), permutations, symmetry)
    assert gap(one, other) < 1e-10


def test_gamma_keeps_its_sign():
    model, _, symmetry = network("vgg16_bn")
    state = random_state(model, 3)
    normal = toroid.normalize(state, symmetry)
    for name in (k for k in state if k.endswith("weight") and state[k].dim() == 1):
        assert torch.equal(state[name].sign(), normal[name].sign())


def test_dead_units_are_counted_and_stay_at_zero():
    model, example, symmetry = network("mlp")
    state = random_state(model, 0)
    state["1.weight"][3] = 0
    state["1.weight"][5], state["1.bias"][5] = 0, 0
    with pytest.warns(UserWarning, match=r"dead units.*\(1: 2\)"):
        normal = toroid.normalize(state, symmetry)
    assert not normal["1.weight"][3].any()
    assert normal["1.bias"][3].abs() == 1  # a constant: its scale is settled by the bias
    assert not normal["3.weight"][:, 5].any()  # nothing comes out of it: nothing reads it
    assert toroid.same_function(model, state, normal, example, tolerance=1e-12)


@QUIET
def test_a_dead_unit_that_only_later_weights_feed_is_named():
    model, example, symmetry = network("residual")
    state = random_state(model, 0)
    for name in ("start.weight", "start.bias", "write.bias"):
        state[name][2] = 0
    with pytest.warns(
        UserWarning, match="dead units of 'start' that only later weights.* of 1 stays"
    ):
        normal = toroid.normalize(state, symmetry)
    assert toroid.same_function(model, state, normal, example, tolerance=1e-10)


def test_a_joint_norm_of_a_residual_stream_need_not_exist():
    """The equation of the deviations page: x = c + (B∘B)(A∘A) x has no solution x > 0 for large weights."""
    state = random_state(network("residual")[0], 0)
    growth = (3 * state["write.weight"]) ** 2 @ (3 * state["read.weight"]) ** 2
    start = (state["start.weight"] ** 2).sum(1)
    assert torch.linalg.eigvals(growth).abs().max() > 1
    assert (torch.linalg.solve(torch.eye(7) - growth, start) < 0).any()


# --- geometry ---------------------------------------------------------------------------------------


def pair(name, seed, bias="euclidean"):
    model, _, symmetry = network(name)
    a, b = (toroid.normalize(random_state(model, s), symmetry, bias=bias) for s in (seed, seed + 1))
    for scale in symmetry.scales:  # a vector of one number is ±1, with no way from one to the other
        for axis in scale.sphere(bias):
            if scale.vectors(a, bias).shape[1] == 1:
                b[axis.parameter] = b[axis.parameter].abs() * a[axis.parameter].sign()
    return a, b, symmetry


@EVERY
@given(seed=SEEDS, bias=BIAS)
def test_distance_is_a_metric_that_arccos_agrees_with(name, seed, bias):
    a, b, symmetry = pair(name, seed, bias)
    assert toroid.distance(a, a, symmetry, bias=bias) == 0
    there = toroid.distance(a, b, symmetry, bias=bias)
    assert there == pytest.approx(toroid.distance(b, a, symmetry, bias=bias), rel=1e-12)
    total = 0.0
    for scale in symmetry.scales:
        for u, v in zip(scale.vectors(a, bias), scale.vectors(b, bias), strict=True):
            total += math.acos(max(-1.0, min(1.0, float(u @ v)))) ** 2
    assert there == pytest.approx(math.sqrt(total), rel=1e-6, abs=1e-6)


@given(st.floats(1e-12, math.pi - 1e-9), SEEDS)
def test_angles_are_exact_where_arccos_is_not(theta, seed):
    generator = torch.Generator().manual_seed(seed)
    u, v = torch.linalg.qr(torch.randn(9, 2, generator=generator, dtype=torch.float64))[0].T
    found = toroid.torus._angle(u[None], (math.cos(theta) * u + math.sin(theta) * v)[None])
    assert float(found) == pytest.approx(theta, rel=1e-3 if theta < 1e-9 else 1e-6)


@EVERY
@given(seed=SEEDS, t=st.floats(0, 1), bias=BIAS)
def test_geodesic_walks_at_constant_speed(name, seed, t, bias):
    a, b, symmetry = pair(name, seed, bias)
    point = toroid.geodesic(a, b, t, symmetry, bias=bias)
    whole = toroid.distance(a, b, symmetry, bias=bias)
    assert toroid.distance(a, point, symmetry, bias=bias) == pytest.approx(t * whole, abs=1e-7)
    assert toroid.distance(point, b, symmetry, bias=bias) == pytest.approx(
        (1 - t) * whole, abs=1e-7
    )


@EVERY
@given(seed=SEEDS, t=st.floats(0, 1))
def test_geodesic_exp_and_log_agree(name, seed, t):
    a, b, symmetry = pair(name, seed)
    tangent = toroid.log(a, b, symmetry)
    length = sum(float((s.vectors(tangent) ** 2).sum()) for s in symmetry.scales) ** 0.5
    assert length == pytest.approx(toroid.distance(a, b, symmetry), rel=1e-9, abs=1e-9)
    walked = toroid.exp(a, {k: t * v for k, v in tangent.items()}, symmetry)
    assert gap(walked, toroid.geodesic(a, b, t, symmetry)) < 1e-9
    assert gap(toroid.exp(a, tangent, symmetry), b) < 1e-9


def test_the_ends_of_a_geodesic_are_its_ends():
    a, b, symmetry = pair("resnet18", 0)
    assert gap(toroid.geodesic(a, b, 0.0, symmetry), a) < 1e-15
    assert gap(toroid.geodesic(a, b, 1.0, symmetry), b) < 1e-15


@QUIET
def test_a_geodesic_from_a_dead_unit_grows_out_of_zero():
    model, _, symmetry = network("mlp")
    a, b = random_state(model, 0), random_state(model, 1)
    a["1.weight"][2] = 0
    a, b = toroid.normalize(a, symmetry), toroid.normalize(b, symmetry)
    assert float(toroid.angles(a, b, symmetry)["1"][2]) == pytest.approx(math.pi / 2)
    middle = toroid.geodesic(a, b, 0.5, symmetry)["1.weight"][2]
    assert torch.allclose(middle, math.sin(math.pi / 4) * b["1.weight"][2])
    with pytest.raises(ValueError, match="'1' has units that are dead in one of the states"):
        toroid.log(a, b, symmetry)


def test_opposite_points_are_refused_by_unit():
    model, _, symmetry = network("mlp")
    a = toroid.normalize(random_state(model, 0), symmetry)
    b = {**a, "3.weight": a["3.weight"].clone()}
    b["3.weight"][1] *= -1
    with pytest.raises(ValueError, match="unit 1 of '3' has opposite vectors"):
        toroid.geodesic(a, b, 0.5, symmetry)


def test_states_off_the_torus_are_refused_with_what_to_do():
    model, _, symmetry = network("mlp")
    state = random_state(model, 0)
    normal = toroid.normalize(state, symmetry)
    with pytest.raises(ValueError, match=r"unit \d+ of '1' has norm .* Call normalize"):
        toroid.distance(normal, state, symmetry)
    with pytest.raises(ValueError, match="bias='joint'"):
        toroid.distance(normal, normal, symmetry, bias="joint")
    with pytest.raises(ValueError, match="bias is 'both'; it can be 'euclidean', 'joint'"):
        toroid.normalize(state, symmetry, bias="both")
    with pytest.raises(ValueError, match=r"only one of the two states has 5\.bias"):
        toroid.distance(normal, {k: v for k, v in normal.items() if k != "5.bias"}, symmetry)


def test_states_of_two_networks_are_told_apart_by_their_integers():
    model, _, symmetry = network("vgg16_bn")
    a = toroid.normalize(random_state(model, 0), symmetry)
    later = {k: v + 1 if k.endswith("num_batches_tracked") else v for k, v in a.items()}
    assert toroid.distance(a, later, symmetry) == 0  # a counter is no part of the function
    a, b = ({**a, "order": torch.tensor(order)} for order in ([0, 1], [1, 0]))
    for join in (toroid.distance, toroid.Geodesic, lambda a, b, _: toroid.Linear(a, b)):
        with pytest.raises(ValueError, match=r"'order' of .*int64 is not the same"):
            join(a, b, symmetry)


@pytest.mark.parametrize("size", [1e-30, 1e-25, 1e-18, 1e18, 1e25, 1e30])
def test_scales_of_any_size_are_removed(size):
    model, _, symmetry = network("mlp")
    state = {k: v.float() for k, v in random_state(model, 0).items()}
    state["1.weight"][3] = 0  # its bias settles its scale
    with pytest.warns(UserWarning, match=r"\(1: 1\)"):
        normal = toroid.normalize(state, symmetry)
    factors = {"1": torch.full((symmetry["1"].size,), size)}
    moved = toroid.rescale(state, factors, symmetry)
    with pytest.warns(UserWarning, match=r"\(1: 1\)"):
        again = toroid.normalize(moved, symmetry)
    assert gap(normal, again) < 1e-6
    with pytest.raises(ValueError, match="'1' has norm"):
        toroid.distance(normal, moved, symmetry)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["1.weight", "1.bias", "5.bias"])
def test_numbers_that_are_not_finite_are_refused(bad, name):
    model, _, symmetry = network("mlp")
    normal = toroid.normalize(random_state(model, 0), symmetry)
    other = {**normal, name: normal[name].clone()}
    other[name].view(-1)[1] = bad
    for join in (toroid.distance, toroid.log, toroid.Geodesic):
        for pair in ((normal, other), (other, normal)):
            with pytest.raises(ValueError, match=f"'{name}' contains NaN or infinite"):
                join(*pair, symmetry)
    with pytest.raises(ValueError, match=f"'{name}' contains NaN or infinite"):
        toroid.normalize(other, symmetry)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["mlp", "vgg16_bn", "resnet18"])
def test_the_torus_of_few_bits(name, dtype):
    model, _, symmetry = network(name)
    exact = [toroid.normalize(random_state(model, s), symmetry) for s in (0, 1)]
    states = [{k: v.to(dtype) for k, v in random_state(model, s).items()} for s in (0, 1)]
    a, b = (toroid.normalize(s, symmetry) for s in states)
    eps = torch.finfo(dtype).eps
    assert {v.dtype for v in a.values() if v.is_floating_point()} == {dtype}
    assert gap(toroid.normalize(a, symmetry), a) <= 2 * eps
    assert toroid.distance(a, a, symmetry) == 0
    assert toroid.distance(a, b, symmetry) == pytest.approx(
        toroid.distance(*exact, symmetry), rel=1e-2
    )
    for state in (toroid.geodesic(a, b, 0.3, symmetry), toroid.exp(a, toroid.log(a, b, symmetry), symmetry)):  # fmt: skip
        assert toroid.distance(a, state, symmetry) > 0  # it is on the torus


def test_nothing_is_written_into_the_input():
    model, _, symmetry = network("resnet18")
    state = random_state(model, 0)
    copy = {k: v.clone() for k, v in state.items()}
    normal = toroid.normalize(state, symmetry)
    kept = {k: v.clone() for k, v in normal.items()}
    toroid.exp(normal, toroid.log(normal, normal, symmetry), symmetry)
    assert gap(state, copy) == 0
    assert gap(normal, kept) == 0


# --- the torus as one object ------------------------------------------------------------------------

NORMED = pytest.mark.parametrize("name", ["vgg16_bn", "resnet18", "norm1d", "residual"])


def twins(name, seed, dead, bias):
    """Two normal states of random BatchNorm statistics, γ of both signs; dead in the same units."""
    a, b, symmetry = pair(name, seed, bias)
    if dead:
        for scale in symmetry.scales[:-1]:
            for axis in scale.sphere(bias):
                for state in (a, b):
                    vectors = axis.rows(state[axis.parameter]).clone()
                    vectors[0] = 0
                    state[axis.parameter] = axis.put(state[axis.parameter], vectors)
    return a, b, symmetry


@QUIET
@NORMED
@given(seed=SEEDS, dead=st.booleans(), bias=BIAS)
@settings(max_examples=4)
def test_the_torus_does_what_the_functions_do(name, seed, dead, bias):
    a, b, symmetry = twins(name, seed, dead, bias)
    torus, state = Torus(symmetry, bias), random_state(network(name)[0], seed, dead)
    assert gap(torus.normalize(state), toroid.normalize(state, symmetry, bias=bias)) == 0
    assert gap(torus.angles(a, b), toroid.angles(a, b, symmetry, bias=bias)) == 0
    assert gap(torus.geodesic(a, b, 0.3), toroid.geodesic(a, b, 0.3, symmetry, bias=bias)) == 0
    assert gap(torus.geodesic(a, b, 0.3), toroid.Geodesic(a, b, symmetry, bias)(0.3)) == 0
    way = torus.log(a, b)
    assert gap(way, toroid.log(a, b, symmetry, bias=bias)) == 0
    assert gap(torus.exp(a, way), toroid.exp(a, way, symmetry, bias=bias)) == 0
    assert gap(torus.exp(a, way), b) < 1e-9


@NORMED
@given(seed=SEEDS, bias=BIAS)
@settings(max_examples=4)
def test_what_is_written_is_what_is_read(name, seed, bias):
    model, _, symmetry = network(name)
    torus, state = Torus(symmetry, bias), random_state(model, seed)
    for scale in symmetry.scales:
        result, vectors = dict(state), torus.vectors(state, scale)
        assert [axis.count(state[axis.parameter]) for axis in torus.sphere(scale)] == [
            axis.rows(state[axis.parameter]).shape[1] for axis in torus.sphere(scale)
        ]
        torus.write(result, scale, 2 * vectors)
        assert torch.equal(torus.vectors(result, scale), 2 * vectors)
        torus.write(result, scale, vectors)
        assert gap(result, state) == 0


@NORMED
@given(seed=SEEDS, dead=st.booleans(), bias=BIAS)
@settings(max_examples=4)
def test_the_nearest_point_divides_each_vector_alone(name, seed, dead, bias):
    model, _, symmetry = network(name)
    state = random_state(model, seed, dead)
    point = Torus(symmetry, bias).project(state)
    for scale in symmetry.scales:
        for u, v in zip(scale.vectors(state, bias), scale.vectors(point, bias), strict=True):
            norm = math.sqrt(sum(x * x for x in u.tolist()))
            assert v.tolist() == pytest.approx([x / (norm or 1) for x in u.tolist()])
    off = {x.parameter for scale in symmetry.scales for x in scale.sphere(bias)}
    assert all(point[k] is v for k, v in state.items() if k not in off)


@pytest.mark.parametrize("name", [n for n in ALL if not n.startswith("binary")])
@pytest.mark.parametrize("bias", ["euclidean", "joint"])
def test_a_parameter_is_covered_if_no_number_is_off_the_spheres(name, bias):
    model, _, symmetry = network(name)
    torus = Torus(symmetry, bias)
    ones = {k: torch.ones_like(v) for k, v in random_state(model, 0).items()}
    for scale in symmetry.scales:
        torus.write(ones, scale, torch.zeros_like(torus.vectors(ones, scale)))
    assert torus.covered == {k for k, v in ones.items() if not v.any()}


def test_what_is_given_is_checked_once(monkeypatch):
    a, b, symmetry = pair("vgg16_bn", 0)
    model, example, _ = network("vgg16_bn")
    data = toroid.data.Dataset(example, torch.arange(len(example)) % 5, 5)
    checked = []
    monkeypatch.setattr(toroid.torus, "check_finite", lambda *given: checked.append("finite"))
    for module in (toroid.torus, toroid.alignment._align, toroid.symmetry._actions):
        monkeypatch.setattr(module, "check_state", lambda state, symmetry: checked.append("fits"))
    calls = {
        "local_energy": (lambda: toroid.local_energy(a, model, data, sigma=[0.1, 0.2], symmetry=symmetry, draws=3), 1),
        "path": (lambda: [toroid.Geodesic(a, b, symmetry)(t) for t in (0.5,)], 2),
        "plane": (lambda: toroid.plane([a, b, random_state(model, 5)], model, data, points=3, symmetry=symmetry, refresh=data), 3),
        "align": (lambda: toroid.align(b, to=a, symmetry=symmetry), 0),
    }  # fmt: skip
    for name, (call, states) in calls.items():
        checked.clear()
        call()
        assert checked.count("finite") == states, name
        assert checked.count("fits") == 1, name


def test_a_kept_output_says_what_it_said():
    """In float64 a regressor's outputs, on the torus of the units and along it to itself."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 7), torch.nn.ReLU(), torch.nn.Linear(7, 5), torch.nn.ReLU(),
        torch.nn.Linear(5, 1),
    ).double()  # fmt: skip
    x, state = torch.randn(9, 4).double(), model.state_dict()
    symmetry = toroid.find_symmetries(model, x)
    kept = toroid.normalize(state, symmetry, output="keep")
    report = toroid.same_function(model, state, kept, x, tolerance=1e-12, output="keep")
    assert report
    assert not toroid.same_function(
        model, state, toroid.normalize(state, symmetry), x, output="keep"
    )
    for name in ("0.weight", "2.weight"):
        torch.testing.assert_close(kept[name].norm(dim=1), torch.ones(len(kept[name])).double())
    again = toroid.normalize(kept, symmetry, output="keep")
    torch.testing.assert_close(again, kept, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="replace"):
        toroid.Geodesic(kept, kept, symmetry)
    flat = dataclasses.replace(symmetry, output=None)
    other = toroid.normalize({k: v + 0.1 for k, v in state.items()}, symmetry, output="keep")
    middle = toroid.Geodesic(kept, toroid.align(other, kept, flat).state, flat)(0.5)
    torch.testing.assert_close(middle["4.bias"], (kept["4.bias"] + other["4.bias"]) / 2)
    with pytest.raises(ValueError, match="output is 'all'"):
        toroid.normalize(state, symmetry, output="all")


# --- masks: what is infinite at both ends stays -----------------------------------------------------


def looking_back(seed):
    """A network of words whose attention has a mask in its state."""
    torch.manual_seed(seed)
    heads = torch.nn.MultiheadAttention(4, 2, batch_first=True)
    return Apply(
        lambda m, i: m.end(m.heads(*3 * (m.embed(i),), attn_mask=m.mask)[0].relu())[:, -1],
        embed=torch.nn.Embedding(7, 4), heads=heads, end=torch.nn.Linear(4, 3),
        mask=torch.full((5, 5), -math.inf).triu(1),
    ).double()  # fmt: skip


def finite(state):
    return {k: v for k, v in state.items() if k != "mask"}


WORDS = torch.randint(7, (6, 5), generator=torch.Generator().manual_seed(0))


def test_a_mask_of_infinite_numbers_stays_as_it_is():
    models = [looking_back(seed) for seed in range(3)]
    symmetry = toroid.find_symmetries(models[0], WORDS)
    assert "mask" not in symmetry.parameters
    raw = [m.state_dict() for m in models]
    a, b, c = (toroid.normalize(s, symmetry) for s in raw)
    assert toroid.same_function(models[0], raw[0], a, WORDS, tolerance=1e-10)
    data = toroid.data.Dataset(WORDS, torch.arange(6) % 3, 3)
    way = toroid.direction(a, models[0], symmetry=symmetry)
    found = [
        toroid.Linear(raw[0], raw[1])(0.5), toroid.Polygon(*raw)(0.25), toroid.Ray(a, way)(0.3),
        toroid.Geodesic(a, b, symmetry)(0.5), toroid.exp(a, way, symmetry),
        toroid.merge([a, b], symmetry).state, toroid.merge(raw, symmetry, on="raw").state,
        toroid.bend(*raw[:2], models[0], data, epochs=1, generator=torch.Generator()).path(0.25),
    ]  # fmt: skip
    for state in found:
        assert torch.equal(state["mask"], raw[0]["mask"])
        toroid.torus.check_finite(state, symmetry.parameters)
    for t, end in ((0, raw[0]), (1, raw[1])):
        assert gap(finite(toroid.Linear(*raw[:2])(t)), finite(end)) < 1e-15
    assert torch.equal(toroid.log(a, b, symmetry)["mask"], torch.zeros(5, 5).double())
    reached = toroid.exp(a, toroid.log(a, b, symmetry), symmetry)
    assert gap(finite(reached), finite(b)) < 1e-9
    for method in ("sequential", "coordinate", "activation"):
        how = {"model": models[0], "inputs": WORDS} if method == "activation" else {}
        again = toroid.align(b, to=a, symmetry=symmetry, method=method, **how).state
        assert toroid.same_function(models[0], b, again, WORDS, tolerance=1e-10)
    planes = [toroid.plane(s, models[0], data, points=2, symmetry=y).loss for s, y in (
        (raw, None), ([a, b, c], symmetry), (raw[0], None), (a, symmetry),
    )]  # fmt: skip
    assert all(np.isfinite(loss).all() for loss in planes)


def test_masks_that_differ_are_refused():
    a = looking_back(0).state_dict()
    other = {**a, "mask": torch.full((5, 5), -math.inf, dtype=torch.float64).tril(-1)}
    for pair in ((a, other), (other, a), (a, {**a, "mask": torch.zeros(5, 5).double()})):
        with pytest.raises(ValueError, match="'mask' contains NaN or infinite numbers that the"):
            toroid.Linear(*pair)


@pytest.mark.parametrize("call", [toroid.normalize, toroid.balance])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("power", [-39, -30, -22, -13, -5, 4, 13, 20, 30])
def test_states_of_any_size_have_their_normal_form_or_are_told(call, kind, power):
    model, x = toroid.mlp((6,), classes=3, hidden=(9, 8)), torch.randn(4, 6)
    symmetry = toroid.find_symmetries(model, x)
    state = {k: (v.double() * 10.0**power).to(kind) for k, v in model.state_dict().items()}
    if not all(v.isfinite().all() and v.any() for v in state.values()):
        pytest.skip("there are no such numbers")
    exact = call({k: v.double() for k, v in state.items()}, symmetry)
    limits, sizes = torch.finfo(kind), [float(v.abs().max()) for v in exact.values()]
    try:
        found = call(state, symmetry)
    except ValueError as error:
        told, found = str(error), None
    if found is None:
        assert re.search(r"would hold numbers of .* which torch\.\w+ does not have", told)
        assert min(sizes) < 64 * limits.tiny * limits.eps or max(sizes) > limits.max
        return
    for name, value in exact.items():
        error = (found[name].double() - value).abs()
        assert error.max() <= 64 * limits.eps * value.abs().max() + limits.tiny


def test_half_precision_holds_small_weights():
    model, x = toroid.mlp((64,), classes=10, hidden=(64,)), torch.randn(4, 64)
    symmetry = toroid.find_symmetries(model, x)
    state = {k: v.half() for k, v in model.state_dict().items()}
    state["3.weight"] = torch.full_like(state["3.weight"], 2e-5)
    normal = toroid.normalize(state, symmetry, output="keep")
    again = toroid.normalize(normal, symmetry, output="keep")
    assert gap(normal, again) < 1e-3
    balanced = toroid.balance(state, symmetry)
    assert toroid.same_function(model, state, balanced, x)


def test_of_vectors_of_one_number_the_way_out_is_named():
    model, x = toroid.mlp((1,), classes=2, hidden=(9,)), torch.randn(4, 1)
    symmetry = toroid.find_symmetries(model, x)
    a = toroid.normalize(model.state_dict(), symmetry)
    b = {**a, "1.weight": -a["1.weight"]}
    for call in (lambda: toroid.geodesic(a, b, 0.5, symmetry), lambda: toroid.log(a, b, symmetry)):
        with pytest.raises(ValueError, match='one number, 1 or -1: bias="joint" puts its bias'):
            call()
