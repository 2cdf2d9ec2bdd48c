"""Local energy: against slow versions, and what rescaling does to it."""

import numpy as np
import pytest
import torch
import toroid
from networks import gap
from torch import nn
from toroid import flatness
from toroid.torus import Torus


@pytest.fixture(scope="module")
def trained():
    data = toroid.data.load("digits")[0].take(300)
    torch.manual_seed(0)
    model = toroid.mlp(data.shape, hidden=(32, 16)).double()
    data = toroid.data.Dataset(data.images.double(), data.labels, 10)
    state = toroid.training.sgd(
        model, data, epochs=30, generator=torch.Generator().manual_seed(0)
    ).state
    symmetry = toroid.find_symmetries(model, data.images[:2])
    return model, data, symmetry, state, toroid.normalize(state, symmetry)


@pytest.mark.parametrize("noise", ["additive", "multiplicative"])
def test_the_energy_is_the_mean_growth_of_the_error(trained, noise):
    model, data, _, state, _ = trained
    found = toroid.local_energy(state, model, data, sigma=[0.2, 0.5], noise=noise, draws=4, seed=7)
    start = toroid.evaluate(state, model, data).error
    for row, size in enumerate([0.2, 0.5]):
        grown, generator = [], torch.Generator().manual_seed(7)
        for _ in range(4):
            moved = {}
            for k, v in state.items():
                z = torch.randn(v.shape, generator=generator).double()
                moved[k] = v + size * z * (v if noise == "multiplicative" else 1)
            grown.append(toroid.evaluate(moved, model, data).error - start)
        assert found["energy"][row] == pytest.approx(np.mean(grown))
        assert found["standard_error"][row] == pytest.approx(np.std(grown, ddof=1) / 2)
    assert found["energy"].min() > 0


def test_on_the_torus_units_walk_by_the_angle_that_is_asked_for(trained):
    model, _, symmetry, _, normal = trained
    names = [name for name, _ in model.named_parameters()]
    angles = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        walk = flatness._walk(normal, names, "torus", Torus(symmetry), generator)
        assert gap(walk(0.0), normal) < 1e-15
        moved = walk(0.3)
        for scale in symmetry.scales:
            assert scale.vectors(moved).norm(dim=1).numpy() == pytest.approx(1)
        angles.append(toroid.distance(normal, moved, symmetry, mean=True))
    assert np.mean(np.square(angles)) ** 0.5 == pytest.approx(0.3, rel=0.02)


def test_additive_noise_sees_a_rescaling_and_the_torus_does_not(trained):
    """What the paper argues: flatness means something only after the symmetry is removed."""
    model, data, symmetry, state, _ = trained
    generator = torch.Generator().manual_seed(0)
    factors = {
        s.name: (torch.randn(len(s.axes[0].index), generator=generator).double()).exp()
        for s in symmetry.scales
    }
    same = toroid.rescale(state, factors, symmetry)
    assert toroid.same_function(model, state, same, data.images, tolerance=1e-9)
    options = {"sigma": [0.15], "draws": 10}
    raw = [
        toroid.local_energy(s, model, data, noise="additive", **options)["energy"][0]
        for s in (state, same)
    ]
    assert raw[1] > 1.5 * raw[0]
    torus = [
        toroid.local_energy(
            toroid.normalize(s, symmetry), model, data, symmetry=symmetry, **options
        )["energy"][0]
        for s in (state, same)
    ]
    assert torus[0] == pytest.approx(torus[1], abs=1e-12)
    times = [
        toroid.local_energy(s, model, data, noise="multiplicative", **options)["energy"][0]
        for s in (state, same)
    ]
    assert times[0] == pytest.approx(times[1], abs=1e-12)


def test_flips_change_the_sign_of_that_share_of_the_weights(trained):
    model, data, _, state, _ = trained
    names = [name for name, _ in model.named_parameters()]
    walk = flatness._walk(state, names, "flips", None, torch.Generator().manual_seed(0))
    changed = {}
    for p in (0.0, 0.1, 0.3, 1.0):
        moved = walk(p)
        assert all(torch.equal(moved[k].abs(), v.abs()) for k, v in state.items())
        changed[p] = torch.cat([(moved[k] != state[k]).flatten() for k in names])
    shares = [float(v.double().mean()) for v in changed.values()]
    assert shares == pytest.approx([0, 0.1, 0.3, 1.0], abs=0.02)
    assert changed[0.3][changed[0.1]].all()  # the same draws for every p
    energy = toroid.local_energy(state, model, data, sigma=[0, 0.3], noise="flips", draws=2)
    assert energy["energy"][0] == 0 != energy["energy"][1]


def test_batchnorm_and_bad_input(trained):
    model, data, symmetry, state, _ = trained
    network = toroid.vgg16_bn(data.shape, width=0.03).double()
    network_symmetry = toroid.find_symmetries(network, data.images[:2])
    point = toroid.normalize(network.state_dict(), network_symmetry)
    energy = toroid.local_energy(
        point, network, data, sigma=0.1, symmetry=network_symmetry, draws=2, refresh=data
    )
    assert np.isfinite(energy["energy"]).all()
    with pytest.raises(ValueError, match="noise is 'gaussian'; it can be 'torus'"):
        toroid.local_energy(state, model, data, sigma=0.1, noise="gaussian")
    with pytest.raises(ValueError, match="probabilities, 0 to 1"):
        toroid.local_energy(state, model, data, sigma=1.5, noise="flips")
    for wrong in ([], float("nan"), [0.1, float("nan")], float("inf"), -1):
        with pytest.raises(
            ValueError, match=r"one or more sizes of \w+ noise, finite and not below 0"
        ):
            toroid.local_energy(state, model, data, sigma=wrong)
    with pytest.raises(ValueError, match="draws is 0"):
        toroid.local_energy(state, model, data, sigma=0.1, draws=0)
    with pytest.raises(ValueError, match="needs a symmetry"):
        toroid.local_energy(state, model, data, sigma=0.1, noise="torus")
    with pytest.raises(ValueError, match="not on the torus"):
        toroid.local_energy(state, model, data, sigma=0.1, symmetry=symmetry)
    for wrong in ("big", "0.1", None, [[0.1, 0.2]]):
        with pytest.raises(ValueError, match=r"sigma is .*; it takes one or more sizes"):
            toroid.local_energy(state, model, data, sigma=wrong)
    with pytest.raises(ValueError, match=r"draws is 2\.5; it must be an integer"):
        toroid.local_energy(state, model, data, sigma=0.1, draws=2.5)


class Features(nn.Module):
    """Random features: the first weights are a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("first", torch.randn(8, 5).double())
        self.last = nn.Linear(8, 3).double()

    def forward(self, x):
        return self.last(torch.relu(nn.functional.linear(x, self.first)))


def test_weights_that_are_a_buffer_have_no_noise():
    """The torus has their spheres too, where nothing moves."""
    torch.manual_seed(0)
    model, x = Features(), torch.randn(60, 5).double()
    data = toroid.data.Dataset(x, torch.randint(3, (60,)), 3)
    symmetry = toroid.find_symmetries(model, x[:2])
    state = toroid.normalize(model.state_dict(), symmetry)
    torus, generator = Torus(symmetry, "euclidean"), torch.Generator().manual_seed(0)
    names = [name for name, _ in model.named_parameters()]
    moved = flatness._walk(state, names, "torus", torus, generator)(0.3)
    assert torch.allclose(moved["first"], state["first"], rtol=0, atol=1e-15)
    assert toroid.angles(state, moved, symmetry)["output"].item() > 0.1
    energy = toroid.local_energy(state, model, data, sigma=[0, 0.5], symmetry=symmetry, draws=4)
    assert energy["energy"][0] == 0 != energy["energy"][1]
