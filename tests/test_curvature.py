"""Hessian, sharpness and Fisher-Rao norm, each against a slow version or a closed form."""

import copy

import curvlinops
import numpy as np
import pytest
import torch
import toroid
from scipy.sparse.linalg import aslinearoperator
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from toroid import curvature


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
    assert (again.eigenvalue, again.trace) == pytest.approx((found.eigenvalue, found.trace))


def test_both_ends_of_the_spectrum_are_those_of_the_dense_hessian(trained):
    model, data, state = trained
    loss, weights = loss_of(model, data, state)
    dense = torch.func.hessian(loss)(weights)
    values, vectors = torch.linalg.eigh(dense)
    found = toroid.hessian(
        state, model, data, largest=3, smallest=2, draws=100, tolerance=1e-12, batch_size=17
    )
    assert found.largest == pytest.approx(values.flip(0)[:3].numpy(), rel=1e-8)
    assert found.smallest == pytest.approx(values[:2].numpy(), rel=1e-6)
    assert found.eigenvalue == found.largest[0]
    ends = [*found.largest_vectors, *found.smallest_vectors]
    for vector, expected in zip(ends, vectors[:, [-1, -2, -3, 0, 1]].T, strict=True):
        flat = torch.cat([v.flatten() for v in vector.values()])
        assert vector.keys() == dict(model.named_parameters()).keys()
        assert abs(float(flat @ expected)) == pytest.approx(1, abs=1e-6)
    start = 0
    for row in found.traces.itertuples():
        size = state[row.parameter].numel()
        block = float(dense.diagonal()[start : start + size].sum())
        assert abs(row.trace - block) < 4 * row.standard_error + 1e-12
        start += size
    assert found.traces["trace"].sum() == pytest.approx(found.trace)


def test_the_density_has_the_moments_of_the_dense_hessian(trained):
    """Quadrature is exact for polynomials: one draw against its own vector, many on the mean."""
    model, data, state = trained
    loss, weights = loss_of(model, data, state)
    dense = torch.func.hessian(loss)(weights).numpy()
    size, steps = len(dense), 6
    found = toroid.spectrum(state, model, data, steps=steps, draws=2, seed=5, batch_size=17)
    generator = torch.Generator().manual_seed(5)
    for values, shares in zip(found.values, found.weights, strict=True):
        z = torch.randint(2, (size,), generator=generator).numpy() * 2.0 - 1
        power = z
        for degree in range(2 * steps):
            assert shares @ values**degree == pytest.approx(z @ power / size, rel=1e-6, abs=1e-12)
            power = dense @ power
    whole = toroid.spectrum(state, model, data, steps=30, draws=20)
    exact = np.linalg.eigvalsh(dense)
    places, width = np.linspace(exact[0] - 1, exact[-1] + 1, 400), 0.2
    expected = np.exp(-(((places[:, None] - exact) / width) ** 2) / 2).mean(1)
    expected /= width * (2 * np.pi) ** 0.5
    density = whole.density(places, width)
    assert density.sum() * (places[1] - places[0]) == pytest.approx(1, abs=0.01)
    assert np.abs(density - expected).max() < 0.05 * expected.max()


def test_lanczos_stops_where_the_space_ends():
    """A start in two eigenvectors sees two eigenvalues; the rest of the weights is 0."""
    matrix = np.diag([3.0, 1.0, 0.5, -2.0])
    values, weights = curvature._lanczos(aslinearoperator(matrix), np.array([1.0, 0, 0, 1]), 4)
    assert values[:2] == pytest.approx([-2, 3])
    assert weights == pytest.approx([0.5, 0.5, 0, 0])


@pytest.mark.parametrize("steps", [5, 12])
def test_the_library_of_the_field_finds_the_same(trained, steps):
    model, data, state = trained
    network = copy.deepcopy(model)
    network.load_state_dict(state)
    network.eval()
    batches = [(data.images[:25], data.labels[:25]), (data.images[25:], data.labels[25:])]
    theirs = curvlinops.HessianLinearOperator(
        network, nn.CrossEntropyLoss(), [*network.parameters()], batches,
        progressbar=False,
    )  # fmt: skip
    ours = curvature._Loss(state, model, batches, toroid.tasks.classification, 1.0, 250)
    generator = torch.Generator().manual_seed(steps)
    for _ in range(3):
        z = torch.randn(theirs.shape[0], generator=generator).double()
        product = ours.operator.matvec(z.numpy())
        assert product == pytest.approx((theirs @ z).detach().numpy(), rel=1e-8, abs=1e-12)
    found = toroid.hessian(state, model, batches, largest=2, tolerance=1e-10)
    values = np.linalg.eigvalsh(np.stack([ours.operator.matvec(row) for row in np.eye(len(z))]))
    assert found.largest == pytest.approx(values[::-1][:2], rel=1e-8)


class Attending(nn.Module):
    """Attention that torch runs in a kernel without a second derivative."""

    def __init__(self):
        super().__init__()
        self.a, self.h = nn.Linear(4, 8), nn.Linear(8, 3)
        self.t = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x):
        return self.h(self.t(self.a(x.view(-1, 4, 4))).mean(1))


class Sampling(nn.Module):
    """An operation that has no derivative in forward mode."""

    def __init__(self):
        super().__init__()
        self.w, self.h = nn.Linear(16, 6), nn.Linear(16, 3)

    def forward(self, x):
        grid = F.affine_grid(self.w(x).view(-1, 2, 3), (len(x), 1, 4, 4), align_corners=False)
        seen = F.grid_sample(x.view(-1, 1, 4, 4), grid, align_corners=False)
        return self.h(seen.flatten(1))


@pytest.mark.parametrize("kind", [Attending, Sampling])
def test_networks_that_torch_differentiates_in_one_way_only(kind):
    torch.manual_seed(0)
    model, x, t = kind().double().eval(), torch.randn(12, 16).double(), torch.randint(3, (12,))
    state = model.state_dict()
    data = toroid.data.Dataset(x, t, 3)
    loss, weights = loss_of(model, data, state)
    vector = torch.randn(len(weights), generator=torch.Generator().manual_seed(1)).double()
    with sdpa_kernel(SDPBackend.MATH):
        weights.requires_grad_()
        (slope,) = torch.autograd.grad(loss(weights), weights, create_graph=True)
        try:
            (expected,) = torch.autograd.grad(slope @ vector, weights)
        except RuntimeError as error:  # torch 2.6 has no second derivative of grid_sample at all
            pytest.skip(str(error).splitlines()[0])
    ours = curvature._Loss(state, model, data, toroid.tasks.classification, 1.0, 5)
    assert ours.operator.matvec(vector.numpy()) == pytest.approx(expected.numpy(), rel=1e-8)
    assert ours.forward == (kind is Attending)
    each = []
    for i in range(12):
        single, _ = loss_of(model, toroid.data.Dataset(x[i : i + 1], t[i : i + 1], 3), state)
        (slope,) = torch.autograd.grad(single(weights), weights)
        each.append(float(slope @ weights.detach()))
    expected_norm = np.mean(np.square(each)) ** 0.5
    assert toroid.fisher_rao(state, model, data, batch_size=5) == pytest.approx(expected_norm)


def test_what_torch_cannot_differentiate_twice_is_named():
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return x * 2

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, slope):
            return slope * 2

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(5, 3)

        def forward(self, x):
            return F.hardtanh(Twice.apply(self.a(x)))

    model, x, t = Net(), torch.randn(6, 5), torch.randint(3, (6,))
    with pytest.raises(toroid.UnsupportedError, match="cannot differentiate twice"):
        toroid.hessian(model.state_dict(), model, [(x, t)])


class OldTanh(torch.autograd.Function):
    """As functions were written before there was torch.func."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.tanh(x)

    @staticmethod
    def backward(ctx, slope):
        return slope * (1 - torch.tanh(ctx.saved_tensors[0]) ** 2)


class Small(nn.Module):
    """Two layers, and what is between them."""

    def __init__(self, between=lambda self, x: torch.tanh(self.a(x))):
        super().__init__()
        self.a, self.h, self.between = nn.Linear(5, 6), nn.Linear(6, 3), between
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x):
        return self.h(self.between(self, x))


def written(self, x):
    h = torch.tanh(self.a(x))
    self.mean.lerp_(h.mean(0).detach(), 0.1)
    return h


def recomputed(self, x, use_reentrant=False):
    return checkpoint(lambda z: torch.tanh(self.a(z)), x, use_reentrant=use_reentrant)


def hooked():
    model = Small()
    model.h.register_full_backward_hook(lambda *args: None)
    return model


ALIKE = {
    "old function": lambda: Small(lambda self, x: OldTanh.apply(self.a(x))),
    "checkpoint": lambda: Small(recomputed),
    "hook": hooked,
    "buffer": lambda: Small(written),
}


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    x, t = torch.randn(20, 5).double(), torch.randint(3, (20,))
    model = Small().double()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    return model, state, toroid.data.Dataset(x, t, 3)


def measured(state, model, data, **options):
    """Four numbers of a state."""
    found = toroid.hessian(state, model, data, draws=2, tolerance=1e-12, **options)
    sharp = toroid.sharpness(state, model, data, radius=0.1, **options)
    lines = toroid.spectrum(state, model, data, steps=4, draws=1, **options).values.max()
    return found.eigenvalue, sharp, lines, toroid.fisher_rao(state, model, data, **options)


@pytest.mark.parametrize("kind", ALIKE)
def test_what_torch_func_refuses_is_differentiated_without_it(kind, small):
    """The same function, at a state that is not the model's own."""
    model, state, data = small
    other = ALIKE[kind]().double()
    expected = measured(state, model, data)
    assert measured(state, other, data, batch_size=7) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", ["weight_norm", "hardsigmoid", "heads"])
def test_the_hessian_where_forward_mode_fails(kind):
    torch.manual_seed(0)
    x, t = torch.randn(20, 5).double(), torch.randint(3, (20,))
    task, data = toroid.tasks.classification, [(x, t)]
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    if kind == "weight_norm":
        nn.utils.parametrizations.weight_norm(model[0], dim=None)
    if kind == "hardsigmoid":
        model[1] = nn.Hardsigmoid()
    if kind == "heads":
        model, data = Heads().double(), [(x, (t, x.sum(1)))]
        task = toroid.Task(loss=both_losses, error=lambda out, y: out[0].argmax(1) != y[0])
    weights = [w.requires_grad_() for w in model.parameters()]
    loss = task.loss(model(x), data[0][1])
    slopes = torch.autograd.grad(loss, weights, create_graph=True)
    eps, rows = 1e-5, []
    for weight in weights:
        for i in range(weight.numel()):
            ends = []
            for way in (eps, -eps):
                with torch.no_grad():
                    weight.view(-1)[i] += way
                slope = torch.autograd.grad(task.loss(model(x), data[0][1]), weights)
                ends.append(torch.cat([s.flatten() for s in slope]))
                with torch.no_grad():
                    weight.view(-1)[i] -= way
            rows.append((ends[0] - ends[1]) / (2 * eps))
    dense = torch.stack(rows)
    assert len(slopes) == len(weights)
    state = {k: v.detach() for k, v in model.state_dict().items()}
    found = toroid.hessian(state, model, data, task=task, largest=2, draws=2, tolerance=1e-12)
    expected = torch.linalg.eigvalsh((dense + dense.T) / 2).flip(0)[:2]
    assert found.largest == pytest.approx(expected.numpy(), rel=1e-6)


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.c, self.g = nn.Linear(5, 4), nn.Linear(4, 3), nn.Linear(4, 1)

    def forward(self, x):
        h = torch.tanh(self.a(x))
        return self.c(h), self.g(h)[:, 0]


def both_losses(out, targets):
    return cross_entropy(out[0], targets[0]) + F.mse_loss(out[1], targets[1])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_loss_that_sees_no_weight_has_no_gradient(mode, small):
    _, state, data = small

    class Net(Small):
        def forward(self, x):
            with mode():
                return super().forward(x)

    for measure in (toroid.hessian, toroid.sharpness, toroid.spectrum, toroid.fisher_rao):
        with pytest.raises(ValueError, match="there is no gradient"):
            measure(state, Net().double(), data)


def test_a_checkpoint_that_keeps_the_gradient_back_is_named(small):
    model = Small(lambda self, x: recomputed(self, x, use_reentrant=True)).double()
    with pytest.raises(toroid.UnsupportedError, match="use_reentrant=False"):
        toroid.sharpness(small[1], model, small[2])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_caller_without_gradients_gets_the_same(mode, small):
    model, state, data = small
    expected = measured(state, model, data)
    with mode():
        copies = {k: v.clone() for k, v in state.items()}
        other = toroid.data.Dataset(data.images.clone(), data.labels.clone(), 3)
        assert measured(copies, model, other) == pytest.approx(expected, rel=1e-12)


def test_a_curvature_of_0_and_one_that_is_not_finite(small):
    model, state, data = small
    found = toroid.hessian(state, model, data, factor=0.0, largest=2, smallest=1, draws=2)
    assert (*found.largest, *found.smallest, found.trace) == (0, 0, 0, 0)
    assert [float(v["a.weight"][0].norm()) for v in found.largest_vectors] == [1, 1]
    broken = {**state, "a.weight": state["a.weight"] * torch.nan}
    holed = toroid.data.Dataset(data.images * torch.nan, data.labels, 3)
    for measure in (toroid.hessian, toroid.sharpness, toroid.spectrum, toroid.fisher_rao):
        for given in ((broken, model, data), (state, model, holed)):
            with pytest.raises(ValueError, match="not finite at this state"):
                measure(*given)
        with pytest.raises(ValueError, match="factor is nan"):
            measure(state, model, data, factor=float("nan"))


class Waves(nn.Module):
    """A complex weight; inputs stay real."""

    def __init__(self, weight):
        super().__init__()
        self.w = nn.Parameter(weight)

    def forward(self, x):
        assert not x.is_complex()
        weight = self.w if self.w.is_complex() else torch.view_as_complex(self.w)
        return (x.to(weight.dtype) @ weight.T).abs()


def test_a_complex_parameter_is_a_pair_of_real_ones(small):
    data = small[2]
    weight = torch.randn(3, 5, dtype=torch.complex128)
    models = Waves(weight), Waves(torch.view_as_real(weight))
    one, two = (measured(m.state_dict(), m, data) for m in models)
    assert one == pytest.approx(two, rel=1e-9)
    vector = toroid.hessian(models[0].state_dict(), models[0], data).largest_vectors[0]["w"]
    assert vector.shape == (3, 5)
    assert float(vector.norm()) == pytest.approx(1)


def test_one_output_without_a_dimension_of_its_own(small):
    data = small[2]
    y = (data.images[:, 0] > 0).double()
    column = nn.Sequential(nn.Linear(5, 1)).double()
    flat = nn.Sequential(column[0], nn.Flatten(0))
    found = [
        toroid.fisher_rao(m.state_dict(), m, [(data.images, y)], task=toroid.tasks.binary)
        for m in (column, flat)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_outputs_that_are_of_no_example(small):
    _, state, data = small
    task = toroid.Task(
        loss=lambda out, y: cross_entropy(out[0], y) + out[1],
        error=lambda out, y: out[0].argmax(1) != y,
    )

    class Total(Small):
        def forward(self, x):
            return (h := super().forward(x)), h.square().mean()

    with pytest.raises(ValueError, match="do not belong to 20 examples"):
        toroid.fisher_rao(state, Total().double(), data, task=task)


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
    with pytest.raises(ValueError, match="largest is 0; of 318 parameters it can be 1 to 317"):
        toroid.hessian(state, model, data, largest=0)
    with pytest.raises(ValueError, match="smallest is 318"):
        toroid.hessian(state, model, data, smallest=318)
    with pytest.raises(ValueError, match="steps is 319; it must be 1 to 318"):
        toroid.spectrum(state, model, data, steps=319)
    with pytest.raises(ValueError, match="draws is 0; it must be positive"):
        toroid.spectrum(state, model, data, draws=0)
    with pytest.raises(ValueError, match="width is 0"):
        curvature.Spectrum(np.zeros((1, 1)), np.ones((1, 1))).density([0], width=0)
    with pytest.raises(ValueError, match="radius is 0"):
        toroid.sharpness(state, model, data, radius=0)
    with pytest.raises(ValueError, match="1\\.weight"):
        toroid.fisher_rao({k: v for k, v in state.items() if k != "1.weight"}, model, data)
    empty = toroid.data.Dataset(data.images[:0], data.labels[:0], 10)
    with pytest.raises(ValueError, match="is empty"):
        toroid.fisher_rao(state, model, empty)
    for name, given in (("batch_size", 0), ("draws", 2.5), ("draws", "10"), ("largest", 1.5)):
        with pytest.raises(ValueError, match=f"{name} is {given!r}; it must be"):
            toroid.hessian(state, model, data, **{name: given})
    for given in (-1, "x"):
        with pytest.raises(ValueError, match=f"tolerance is {given}|'x'; it must be"):
            toroid.hessian(state, model, data, tolerance=given)
    with pytest.raises(ValueError, match="radius is 'x'; it must be a positive finite number"):
        toroid.sharpness(state, model, data, radius="x")
    each = toroid.Task(loss=lambda out, y: cross_entropy(out, y, reduction="none"))
    for measure in (toroid.hessian, toroid.sharpness, toroid.spectrum, toroid.fisher_rao):
        with pytest.raises(ValueError, match="loss gave \\(60,\\); it must give the mean"):
            measure(state, model, data, task=each)
