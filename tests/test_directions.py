"""Directions around one state, and error and loss along them."""

import numpy as np
import pytest
import torch
import toroid
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import SMALL, network, random_state
from torch import nn


@pytest.fixture(scope="module")
def digits():
    return toroid.data.load("digits")[0].take(120)


@pytest.fixture(scope="module")
def model(digits):
    torch.manual_seed(0)
    return toroid.mlp(digits.shape, classes=10, hidden=(12, 8)).double()


@settings(max_examples=30, deadline=None)
@given(name=st.sampled_from(SMALL), seed=st.integers(0, 10**6))
def test_every_filter_gets_its_own_size(name, seed):
    model, _, _ = network(name)
    state = random_state(model, seed)
    way = toroid.direction(state, model, seed=seed)
    parameters = {k for k, _ in model.named_parameters()}
    for k, v in way.items():
        if k not in parameters or v.dim() < 2:
            assert not v.any(), k
            continue
        sizes = [float(part.norm()) for part in v]  # one filter after the other
        assert sizes == pytest.approx([float(part.norm()) for part in state[k]], rel=1e-6), k


@settings(max_examples=30, deadline=None)
@given(name=st.sampled_from(SMALL), seed=st.integers(0, 10**6), dead=st.booleans())
@pytest.mark.filterwarnings("ignore:dead units")
def test_on_the_torus_every_unit_walks_as_far(name, seed, dead):
    model, _, symmetry = network(name)
    if not symmetry.scales:
        pytest.skip("no torus")
    state = toroid.normalize(random_state(model, seed, dead), symmetry)
    way = toroid.direction(state, model, symmetry=symmetry, seed=seed)
    there = toroid.Ray(state, way, symmetry)(0.3)
    for scale in symmetry.scales:
        a, b = (scale.vectors(s, "euclidean") for s in (state, there))
        moves = (a.norm(dim=1) > 0) & (a.shape[1] > 1)
        # through the chord 2 sin(θ/2), which is exact where an arc cosine is not
        angle = 2 * torch.asin((b - a).norm(dim=1) / 2)
        assert angle[moves].numpy() == pytest.approx(0.3, abs=1e-9)
        assert not angle[~moves].any()


def test_a_line_is_what_it_says(model, digits):
    state = model.state_dict()
    way = toroid.direction(state, model, seed=3)
    line = toroid.line(state, model, digits, seed=3, radius=0.5, points=5)
    assert line.t.tolist() == [-0.5, -0.25, 0, 0.25, 0.5]
    for i, t in enumerate(line.t):
        there = {k: v + t * way[k] for k, v in state.items()}
        assert (line.error[i], line.loss[i]) == pytest.approx(
            toroid.evaluate(there, model, digits), rel=1e-9
        )
    half = {k: v / 2 for k, v in way.items()}
    same = toroid.line(state, model, digits, direction=half, points=5)
    assert same.loss == pytest.approx(line.loss)


def test_a_line_along_an_eigenvector_bends_as_the_hessian_says(digits):
    torch.manual_seed(1)
    smooth = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 10)).double()
    state = smooth.state_dict()
    found = toroid.hessian(state, smooth, digits)
    line = toroid.line(
        state, smooth, digits, direction=found.largest_vectors[0], radius=1e-3, points=3
    )
    second = (line.loss[0] - 2 * line.loss[1] + line.loss[2]) / 1e-6
    assert second == pytest.approx(found.largest[0], rel=1e-4)


def test_a_plane_around_one_state(model, digits):
    state = model.state_dict()
    plane = toroid.plane(state, model, digits, seed=5, radius=0.4, points=3)
    ways = [toroid.direction(state, model, seed=s) for s in (5, 6)]
    for i, y in enumerate(plane.y):
        for j, x in enumerate(plane.x):
            there = {k: v + x * ways[0][k] + y * ways[1][k] for k, v in state.items()}
            score = toroid.evaluate(there, model, digits)
            assert (plane.error[i, j], plane.loss[i, j]) == pytest.approx(score, rel=1e-9)
    assert plane.corners.tolist() == [[0, 0]]
    assert plane.x.tolist() == plane.y.tolist() == [-0.4, 0, 0.4]


def test_a_plane_around_one_state_on_the_torus(model, digits):
    symmetry = toroid.find_symmetries(model, digits.images[:2].double())
    state = toroid.normalize(model.state_dict(), symmetry)
    plane = toroid.plane(state, model, digits, symmetry=symmetry, seed=5, radius=0.4, points=3)
    first = toroid.line(state, model, digits, symmetry=symmetry, seed=5, radius=0.4, points=3)
    second = toroid.line(state, model, digits, symmetry=symmetry, seed=6, radius=0.4, points=3)
    assert plane.loss[1] == pytest.approx(first.loss)
    assert plane.loss[:, 1] == pytest.approx(second.loss)
    assert np.ptp(plane.loss) > 0


def test_a_tied_tensor_moves_as_one():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7, bias=False))
    model[1].weight = model[0].weight
    way = toroid.direction(model.state_dict(), model)
    assert torch.equal(way["0.weight"], way["1.weight"])
    words = [(torch.arange(7), torch.arange(7))]
    assert len(toroid.line(model.state_dict(), model, words, points=3).t) == 3


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"radius": 0.0}, "radius is 0.0"),
        ({"radius": float("nan")}, "radius is nan"),
        ({"points": 0}, "points is 0"),
        ({"direction": {"other": torch.zeros(2)}}, "'other' of shape .* does not exist"),
        ({"direction": {"1.bias": torch.zeros(2)}}, r"'1.bias' of shape \(2,\), which has shape"),
        ({"direction": {"1.bias": torch.full((12,), torch.nan)}}, "NaN"),
    ],
)
def test_lines_that_cannot_be(model, digits, wrong, told):
    with pytest.raises(ValueError, match=told):
        toroid.line(model.state_dict(), model, digits, **wrong)


def test_planes_that_cannot_be(model, digits):
    state = model.state_dict()
    with pytest.raises(ValueError, match="directions are 1; around a state it takes 2"):
        toroid.plane(state, model, digits, directions=[state])
    with pytest.raises(ValueError, match="three states, or one state dict to go around; got 1"):
        toroid.plane([state], model, digits)
    symmetry = toroid.find_symmetries(model, digits.images[:2].double())
    with pytest.raises(ValueError, match="not on the torus"):
        toroid.plane(state, model, digits, symmetry=symmetry)


@pytest.mark.parametrize("power", [-38, -30, -22, 20, 30])
def test_filters_of_any_size_have_ways_of_their_own_size(power):
    model = toroid.mlp((6,), classes=3, hidden=(9,))
    state = {k: v * 10.0**power for k, v in model.state_dict().items()}
    plain, way = (toroid.direction(s, model, seed=3) for s in (model.state_dict(), state))
    for name, v in plain.items():
        assert torch.allclose(way[name].double() / 10.0**power, v.double(), rtol=1e-4, atol=1e-6)
