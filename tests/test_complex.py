"""Complex parameters are pairs of real ones: whatever moves, moves as those do."""

import pytest
import torch
import toroid
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toroid import merging
from toroid.paths import Ray


class Wave(nn.Module):
    """A complex layer, its modulus, and a real layer; `real` keeps the first as pairs."""

    def __init__(self, *, real=False):
        super().__init__()
        weight = torch.randn(4, 5, dtype=torch.complex128)
        self.real = real
        self.weight = nn.Parameter(torch.view_as_real(weight).clone() if real else weight)
        self.last = nn.Linear(4, 3).double()

    def forward(self, x):
        weight = torch.view_as_complex(self.weight) if self.real else self.weight
        return self.last((x.to(weight.dtype) @ weight.T).abs())


def pairs(state):
    """The state with complex numbers as pairs."""
    return {k: torch.view_as_real(v) if v.is_complex() else v for k, v in state.items()}


def setup(seed, count=2):
    torch.manual_seed(seed)
    models = [Wave() for _ in range(count)]
    data = toroid.data.Dataset(torch.randn(20, 5).double(), torch.arange(20) % 3, 3)
    symmetry = toroid.find_symmetries(models[0], data.images, strict=False)
    states = [toroid.normalize(m.state_dict(), symmetry) for m in models]
    return models[0], data, symmetry, states


def same(complex_, real):
    return all(torch.allclose(v, real[k], rtol=0, atol=1e-9) for k, v in pairs(complex_).items())


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), t=st.floats(-1, 2))
def test_paths_and_means_are_those_of_pairs(seed, t):
    _, _, symmetry, (a, b) = setup(seed)
    x, y = pairs(a), pairs(b)
    way = {k: b[k] - v for k, v in a.items()}
    for make in (
        lambda a, b, _: toroid.Linear(a, b)(t),
        lambda a, b, _: toroid.Geodesic(a, b, symmetry)(t),
        lambda a, b, _: toroid.merge([a, b], symmetry, weights=[1, 2]),
        lambda a, b, _: toroid.merge([a, b], symmetry, "raw", weights=[1, 2]),
        lambda a, b, _: toroid.log(a, b, symmetry),
        lambda a, b, _: toroid.exp(a, toroid.log(a, b, symmetry), symmetry),
        lambda a, b, way: Ray(a, way)(t),
        lambda a, b, _: merging.renorm(a, [a, b], 0.5, symmetry),
    ):
        assert same(make(a, b, way), make(x, y, pairs(way)))
    assert toroid.distance(a, b, symmetry) == toroid.distance(x, y, symmetry)


def test_a_direction_moves_both_parts_of_a_filter():
    model, data, _, (a, _) = setup(0)
    way = toroid.direction(a, model)
    assert torch.allclose(way["weight"].norm(dim=1), a["weight"].norm(dim=1), rtol=0, atol=1e-9)
    assert (way["weight"].imag.abs() > 0).all()
    assert len(toroid.line(a, model, data, points=3).t) == 3


def test_a_plane_and_a_bend_are_those_of_pairs():
    model, data, _, states = setup(1, 3)
    paired, other = [pairs(s) for s in states], Wave(real=True)
    found, wanted = (
        toroid.plane(s, m, data, points=3) for s, m in ((states, model), (paired, other))
    )
    assert found.corners == pytest.approx(wanted.corners, abs=1e-9)
    assert found.loss == pytest.approx(wanted.loss, abs=1e-9)
    chain, like = (
        toroid.bend(*s[:2], m, data, epochs=2, generator=torch.Generator().manual_seed(0))
        for s, m in ((states, model), (paired, other))
    )
    assert same(chain.path(0.3), like.path(0.3))


@pytest.mark.parametrize("part", ["real", "imag"])
def test_a_complex_number_that_is_not_finite_is_refused(part):
    _, _, symmetry, (a, b) = setup(2)
    broken = {k: v.clone() for k, v in a.items()}
    getattr(broken["weight"], part)[1, 2] = torch.nan
    with pytest.raises(ValueError, match="'weight' contains NaN"):
        toroid.merge([broken, b], symmetry, "raw")
