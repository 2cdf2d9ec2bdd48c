"""Means of networks: on the torus and as they are."""

import pytest
import torch
import toroid
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import gap
from toroid.torus import Torus


def networks(count=2, seed=0):
    """Normalised float64 states, near the first one: random ones are aligned to nothing."""
    torch.manual_seed(seed)
    model, x = toroid.mlp((4,), classes=3, hidden=(6, 5)).double(), torch.randn(9, 4).double()
    symmetry = toroid.find_symmetries(model, x)
    first = model.state_dict()
    raw = [first] + [
        {k: v + 0.2 * torch.randn_like(v) for k, v in first.items()} for _ in range(count - 1)
    ]
    return model, x, symmetry, [toroid.normalize(s, symmetry) for s in raw]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0.01, 0.99))
def test_of_two_states_it_is_a_point_of_their_geodesic(seed, share):
    _, _, symmetry, (a, b) = networks(seed=seed)
    merged = toroid.merge([a, b], symmetry, weights=[1 - share, share])
    assert gap(merged, toroid.geodesic(a, b, share, symmetry)) < 1e-13
    assert merged.gradient_norm < 1e-13
    assert gap(toroid.merge([a, b], symmetry), toroid.geodesic(a, b, 0.5, symmetry)) < 1e-13


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(2, 5))
def test_of_many_it_has_the_least_mean_square_distance(seed, count):
    _, _, symmetry, states = networks(count, seed)
    merged = toroid.merge(states, symmetry)
    assert merged.gradient_norm < 1e-12

    def spread(state):
        return sum(toroid.distance(state, s, symmetry) ** 2 for s in states) / count

    least, torus = spread(merged), Torus(symmetry)
    for _ in range(3):
        moved = torus.project({k: v + 0.01 * torch.randn_like(v) for k, v in merged.items()})
        away = toroid.distance(merged, moved, symmetry)
        assert spread(moved) > least + 0.1 * away**2
    assert gap(toroid.merge(states[::-1], symmetry), merged) < 1e-12


def test_the_mean_is_that_of_each_unit_alone():
    """The slow reference: one vector at a time, the gradient followed in small steps."""
    _, _, symmetry, states = networks(3)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    merged = toroid.merge(states, symmetry, weights=[5, 3, 2])
    for unit, found in enumerate(merged["1.weight"]):
        points = torch.stack([s["1.weight"][unit] for s in states])
        mean = points[0]
        for _ in range(400):
            cosine = (points @ mean).clamp(-1, 1)
            across = points - cosine[:, None] * mean
            sine = across.norm(dim=1)
            angle = torch.atan2(sine, cosine)
            logs = across * torch.where(sine > 1e-14, angle / sine, 1.0)[:, None]
            mean = mean + 0.2 * (weights[:, None] * logs).sum(0)
            mean = mean / mean.norm()
        assert torch.allclose(mean, found, atol=1e-10)
    biases = torch.stack([s["1.bias"] for s in states])
    assert torch.allclose(merged["1.bias"], weights @ biases, atol=1e-14)


def test_raw_is_the_arithmetic_mean():
    model, _, symmetry, _ = networks()
    a = model.state_dict()
    b = {k: torch.randn_like(v) for k, v in a.items()}
    merged = toroid.merge([a, b], symmetry, on="raw", weights=(1, 3))
    assert gap(merged, {k: 0.25 * a[k] + 0.75 * b[k] for k in a}) < 1e-15
    assert merged.gradient_norm == 0


@pytest.mark.parametrize("on", ["torus", "raw"])
def test_a_state_and_a_moved_copy_of_it_have_that_state_as_their_mean(on):
    model, x, symmetry, (a, _) = networks()
    moves = {g.name: torch.randperm(g.size) for g in symmetry.groups}
    copy = toroid.permute(a, moves, symmetry)
    factors = {g.name: torch.rand(g.size).double() + 0.5 for g in symmetry.groups}
    copy = toroid.normalize(toroid.rescale(copy, factors, symmetry), symmetry)
    back = toroid.align(copy, to=a, symmetry=symmetry).state
    merged = toroid.merge([a, back, a], symmetry, on=on)
    assert gap(merged, a) < 1e-12
    assert toroid.same_function(model, a, merged, x)


def test_counters_and_statistics_and_precision():
    model = toroid.vgg16_bn((3, 32, 32), classes=10, width=0.05)
    symmetry = toroid.find_symmetries(model, torch.randn(2, 3, 32, 32))
    a = toroid.normalize(model.state_dict(), symmetry)
    other = {
        k: v + 0.01 * torch.rand_like(v) if v.is_floating_point() else v + 7
        for k, v in model.state_dict().items()
    }
    b = toroid.normalize(other, symmetry)
    merged = toroid.merge([a, b], symmetry)
    name = next(k for k in a if k.endswith("running_var"))
    assert torch.allclose(merged[name], (a[name] + b[name]) / 2)
    counter = next(k for k in a if k.endswith("num_batches_tracked"))
    assert merged[counter] == a[counter]
    half = [{k: v.half() if v.is_floating_point() else v for k, v in s.items()} for s in (a, b)]
    coarse = toroid.merge(half, symmetry)
    assert coarse[name].dtype == torch.float16
    weight = next(k for k in a if k.endswith("weight"))
    assert torch.allclose(coarse[weight].float(), merged[weight], atol=2e-3)


def test_one_state_is_its_own_mean_and_nothing_given_is_changed():
    _, _, symmetry, states = networks(3)
    before = [{k: v.clone() for k, v in s.items()} for s in states]
    assert gap(toroid.merge(states[:1], symmetry), states[0]) < 1e-15
    merged = toroid.merge(states, symmetry)
    assert all(gap(s, t) == 0 for s, t in zip(states, before, strict=True))
    assert type(merged.state) is dict
    assert gap(merged.state, merged) == 0


def test_wrong_use_is_told():
    model, _, symmetry, (a, b) = networks()
    for wrong in ([1], [1, -1], [0, 0], [1, float("nan")], [1, 1, 1]):
        with pytest.raises(ValueError, match=r"weights are .* for 2 states"):
            toroid.merge([a, b], symmetry, weights=wrong)
    with pytest.raises(ValueError, match="takes a list"):
        toroid.merge([], symmetry)
    with pytest.raises(ValueError, match="takes a list"):
        toroid.merge(a, symmetry)
    with pytest.raises(ValueError, match="'torus', 'raw'"):
        toroid.merge([a, b], symmetry, on="sphere")
    with pytest.raises(ValueError, match="not on the torus"):
        toroid.merge([a, model.state_dict()], symmetry)
    opposite = {k: -v for k, v in a.items()}
    with pytest.raises(ValueError, match="opposite"):
        toroid.merge([a, opposite], symmetry)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), t=st.floats(0, 1))
def test_the_geodesic_needs_no_correction_of_its_norms(seed, t):
    """Its vectors are the corrected straight line's half way; only biases differ."""
    _, _, symmetry, (a, b) = networks(seed=seed)
    biases = {"1.bias", "3.bias"}
    middle = toroid.geodesic(a, b, t, symmetry)
    result = toroid.renorm(middle, (a, b), t, symmetry)
    weights = middle.keys() - biases
    assert gap({k: middle[k] for k in weights}, result) < 1e-13
    half, straight = toroid.geodesic(a, b, 0.5, symmetry), toroid.Linear(a, b)(0.5)
    corrected = toroid.renorm(straight, (a, b), 0.5, symmetry)
    assert gap({k: half[k] for k in weights}, corrected) < 1e-13
    shrunk = torch.cos(toroid.angles(a, b, symmetry)["1"] / 2)
    assert torch.allclose(straight["1.weight"].norm(dim=1), shrunk)
    assert torch.allclose(corrected["1.bias"], straight["1.bias"] / shrunk)


def test_no_norm_is_corrected_at_the_ends():
    model, _, symmetry, _ = networks()
    a = model.state_dict()
    b = {k: torch.randn_like(v) for k, v in a.items()}
    for t, end in enumerate((a, b)):
        assert gap(toroid.renorm(end, (a, b), t, symmetry), end) < 1e-15
    with pytest.raises(ValueError, match="from 0 to 1"):
        toroid.renorm(a, (a, b), -0.1, symmetry)
