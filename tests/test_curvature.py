"""Hessian, sharpness and Fisher-Rao norm, each against a slow version or a closed form."""

import pytest
import torch
import toroid
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy


@pytest.fixture(scope="module")
def trained():
    digits = toroid.data.load("digits")[0].take(60)
    data = toroid.data.Dataset(digits.images.double(), digits.labels, 10)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 10)
    ).double()
    rule = {"epochs": 5, "batch_size": 20, "generator": torch.Generator().manual_seed(0)}
    state = toroid.training.sgd(model, data, **rule).state
    return model.eval(), data, state


def loss_of(model, data, state, factor=1.0):
    """The mean loss of one flat vector of parameters, written down."""
    names = [name for name, _ in model.named_parameters()]

    def loss(flat):
        parts = flat.split([state[k].numel() for k in names])
        weights = {k: p.view(state[k].shape) for k, p in zip(names, parts, strict=True)}
        output = functional_call(model, {**state, **weights}, (data.images,))
        return cross_entropy(factor * output, data.labels)

    return loss, torch.cat([state[k].flatten() for k in names])


def test_the_hessian_is_the_dense_one(trained):
    model, data, state = trained
    loss, weights = loss_of(model, data, state, factor=2.0)
    dense = torch.func.hessian(loss)(weights)
    found = toroid.hessian(
        state, model, data, draws=200, factor=2.0, tolerance=1e-10, batch_size=17
    )
    assert found.eigenvalue == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-8)
    assert abs(found.trace - float(dense.trace())) < 4 * found.trace_error
    assert found.trace_error < 0.1 * found.trace
    again = toroid.hessian(state, model, data, draws=200, factor=2.0, tolerance=1e-10)
    assert again == pytest.approx(found, rel=1e-8)


@pytest.mark.parametrize("adaptive", [False, True])
def test_sharpness_is_the_step_written_down(trained, adaptive):
    model, data, state = trained
    loss, weights = loss_of(model, data, state)
    slope = torch.func.grad(loss)(weights)
    size = weights.abs() if adaptive else torch.ones_like(weights)
    moved = weights + 0.1 * size**2 * slope / (size * slope).norm()
    found = toroid.sharpness(state, model, data, radius=0.1, adaptive=adaptive, batch_size=7)
    assert found == pytest.approx(float(loss(moved) - loss(weights)), rel=1e-10)


def test_fisher_rao_of_a_network_without_biases_has_a_closed_form():
    """Liang et al. (2019): the outputs are homogeneous of the degree of the depth."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 4, bias=False), nn.ReLU(),
        nn.Linear(4, 3, bias=False),
    ).double()  # fmt: skip
    data = toroid.data.Dataset(torch.randn(50, 6).double(), torch.randint(3, (50,)), 3)
    outputs = model(data.images).detach().requires_grad_()
    cross_entropy(outputs, data.labels, reduction="sum").backward()
    expected = 3 * (outputs * outputs.grad).sum(1).square().mean().sqrt()
    found = toroid.fisher_rao(model.state_dict(), model, data, batch_size=8)
    assert found == pytest.approx(float(expected.detach()), rel=1e-10)


def test_what_a_rescaling_changes():
    """One function written twice: Hessian and SAM see a difference, the others do not."""
    digits = toroid.data.load("digits")[0].take(60)
    data = toroid.data.Dataset(digits.images.double(), digits.labels, 10)
    torch.manual_seed(0)
    model = toroid.mlp(data.shape, hidden=(6, 5)).double()
    symmetry = toroid.find_symmetries(model, data.images[:2])
    state = model.state_dict()
    hidden = [s for s in symmetry.scales if s.name != "output"]  # not the temperature
    factors = {s.name: 5 * torch.rand(len(s.axes[0].index)).double() + 5 for s in hidden}
    other = toroid.rescale(state, factors, symmetry)
    assert toroid.same_function(model, state, other, data.images).factor == pytest.approx(1)

    def both(measure, **options):
        return [measure(s, model, data, **options) for s in (state, other)]

    one, two = both(toroid.hessian)
    assert one.eigenvalue != pytest.approx(two.eigenvalue, rel=0.1)
    assert one.trace != pytest.approx(two.trace, rel=0.1)
    one, two = both(toroid.sharpness)
    assert one != pytest.approx(two, rel=0.1)
    for measure, options in ((toroid.sharpness, {"adaptive": True}), (toroid.fisher_rao, {})):
        one, two = both(measure, **options)
        assert one == pytest.approx(two, rel=1e-9)


def test_a_network_that_writes_into_its_input_leaves_the_data_as_they_are(trained):
    data = trained[1]
    model = nn.Sequential(nn.LeakyReLU(0.1, inplace=True), nn.Flatten(), nn.Linear(64, 10)).double()
    state, kept = model.state_dict(), data.images.clone()
    once = toroid.curvature.fisher_rao(state, model, data)
    assert toroid.curvature.fisher_rao(state, model, data) == once
    toroid.curvature.sharpness(state, model, data)
    assert torch.equal(data.images, kept)


def test_bad_input(trained):
    model, data, state = trained
    with pytest.raises(ValueError, match="draws is 1"):
        toroid.hessian(state, model, data, draws=1)
    with pytest.raises(ValueError, match="radius is 0"):
        toroid.sharpness(state, model, data, radius=0)
    with pytest.raises(ValueError, match="1\\.weight"):
        toroid.fisher_rao({k: v for k, v in state.items() if k != "1.weight"}, model, data)
    empty = toroid.data.Dataset(data.images[:0], data.labels[:0], 10)
    with pytest.raises(ValueError, match="is empty"):
        toroid.fisher_rao(state, model, empty)
