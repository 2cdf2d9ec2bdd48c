"""Evaluation, BatchNorm's statistics and curves, each against a slow and obvious version."""

from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import toroid
from hypothesis import given
from hypothesis import strategies as st
from networks import gap, random_state
from torch import nn
from torch.optim.swa_utils import update_bn
from toroid import _relu
from toroid.data import Dataset
from toroid.evaluation import Evaluation, Evaluator
from toroid.landscape import Curve


@pytest.fixture(scope="module")
def digits():
    return toroid.data.load("digits")[0].take(300)


def test_evaluate_is_the_plain_loop_for_every_batch_size(digits):
    model = toroid.lenet(digits.shape, width=0.5).eval()
    with torch.no_grad():
        output = model(digits.images)
    error = float((output.argmax(1) != digits.labels).double().mean())
    loss = float(nn.functional.cross_entropy(output, digits.labels))
    for batch_size in (7, 100, 1000):
        score = toroid.evaluate(model.state_dict(), model, digits, batch_size=batch_size)
        assert score.error == pytest.approx(error)
        assert score.loss == pytest.approx(loss, rel=1e-5)


def test_evaluate_is_in_evaluation_mode_and_changes_nothing(digits):
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10), nn.Dropout(0.9)
    ).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    scores = {toroid.evaluate(before, model, digits) for _ in range(3)}
    toroid.refresh(before, model, digits)
    assert len(scores) == 1
    assert gap(before, model.state_dict()) == 0
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_network_that_writes_into_its_input_leaves_the_data_as_they_are(digits, channels_last):
    inplace = nn.LeakyReLU(0.1, inplace=True)
    model = nn.Sequential(inplace, nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(128, 10))  # fmt: skip
    state, kept = model.state_dict(), digits.images.clone()
    how = {"channels_last": channels_last}
    assert len({toroid.evaluate(state, model, digits, **how) for _ in range(3)}) == 1
    toroid.refresh(state, model, digits, **how)
    assert torch.equal(digits.images, kept)


class Watching(nn.Module):
    """Walks its sequence by itself, and uses what comes before ReLU as well."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 10), nn.ReLU())

    def forward(self, x):
        before = self.layers[0](x.flatten(1))
        return before + self.layers[1](before)


def hooked():
    """A hook keeps what comes before ReLU, another one adds it to the outputs."""
    seen = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU())
    model[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    model.register_forward_hook(lambda module, inputs, output: output + seen[-1])
    return model


def patched():
    """A ReLU whose call is another one."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU())
    model[2].forward = lambda x: x + x.relu()
    return model


@pytest.mark.parametrize(
    ("make", "overwrites"), [
        (lambda: toroid.mlp((64,), hidden=(8,)), True),
        (lambda: toroid.lenet((1, 8, 8), width=0.5), True),
        (lambda: toroid.models.vgg16_bn((1, 8, 8), width=0.1), True),
        (Watching, False), (hooked, False), (patched, False),
    ],
)  # fmt: skip
def test_relu_overwrites_only_what_nothing_else_sees(digits, make, overwrites):
    model = make().eval()
    data = digits.take(64)
    with torch.no_grad():
        expected = float(nn.functional.cross_entropy(model(data.images), data.labels))
    evaluator = Evaluator(model, Evaluation())
    kinds = [m.inplace for m in evaluator.network.modules() if isinstance(m, nn.ReLU)]
    assert kinds == [overwrites] * len(kinds)
    before = data.images.clone()
    assert evaluator.score(model.state_dict(), data).loss == expected  # to the last bit
    assert torch.equal(data.images, before)
    assert not any(m.inplace for m in model.modules() if isinstance(m, nn.ReLU))


CONVOLUTIONS = [
    {}, {"bias": False}, {"stride": 2, "padding": 1}, {"dilation": 2}, {"groups": 4},
    {"padding": "same"}, {"padding": 1, "padding_mode": "reflect"},
]  # fmt: skip


@pytest.mark.parametrize("how", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("last", [False, True])
def test_relu_inside_a_convolution_has_the_bits_of_relu_after_it(
    digits, how, precision, last, monkeypatch
):
    inside = Mock(wraps=_relu._rectified)
    monkeypatch.setattr(_relu, "_rectified", inside)
    first = nn.Conv2d(1, 8, 3, padding=1)
    model = nn.Sequential(first, nn.ReLU(), nn.Conv2d(8, 12, 3, **how), nn.ReLU(), nn.Flatten())
    data = digits.take(50)
    model.append(nn.Linear(model(data.images[:1]).shape[1], 10))
    told = Evaluation(batch_size=20, precision=precision, channels_last=last)
    quick, plain = Evaluator(model, told), Evaluator(model, told)
    for module in plain.network.modules():
        vars(module).pop("forward", None)
    assert quick.score(model.state_dict(), data) == plain.score(model.state_dict(), data)
    assert inside.called == torch.backends.mkldnn.is_available()


@pytest.mark.parametrize("last", [False, True])
@given(seed=st.integers(0, 1000))
def test_a_batchnorm_inside_a_convolution_is_as_near_as_after_it(digits, last, seed):
    """In bfloat16, γ of both signs; statistics that are estimated again do not change at all."""
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, 2), nn.BatchNorm2d(8, affine=False), nn.ReLU(),
        nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    data, state = digits.take(50), random_state(model, seed)
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    told = Evaluation(precision="bfloat16", channels_last=last)
    quick, plain = Evaluator(model, told), Evaluator(model, told)
    for module in plain.network.modules():
        vars(module).pop("forward", None)
    exact = toroid.evaluate(state, model, data).loss
    error, usual = (abs(e.score(state, data).loss - exact) for e in (quick, plain))
    assert error < usual + 0.01 * exact
    assert gap(quick.refresh(state, data), plain.refresh(state, data)) == 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("where", ["0.weight", "2.bias", "image", "too large"])
def test_what_is_no_number_passes_a_relu(digits, precision, where):
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    data, state = digits.take(6), {k: v.clone() for k, v in model.state_dict().items()}
    images = data.images.clone()
    if where == "image":
        images[0] = torch.nan
    elif where == "too large":  # infinite, with both signs, and the sum of both is no number
        state["0.weight"] *= 1e30
        state["2.weight"] *= 1e30
        state["5.weight"].zero_()
    else:
        state[where].fill_(torch.nan)
    data = Dataset(images, data.labels, 10)
    together, alone = (
        toroid.evaluate(state, model, data, precision=precision, batch_size=size) for size in (6, 1)
    )
    assert np.isnan(together.loss)
    assert np.isnan(alone.loss)
    assert together.error == alone.error


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_torch_takes_is_taken_in_sequences_too(digits, precision):
    """Inputs by name, strides that are numbers, states in double precision, tuples on the way."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 10))
    model[0].stride = 2
    data = digits.take(50)
    exact = {k: v.double() for k, v in model.state_dict().items()}
    named = [({"input": data.images}, data.labels)]
    scores = [
        toroid.evaluate(exact, model, data, precision=precision),
        toroid.evaluate(model.state_dict(), model, named, precision=precision),
    ]
    assert scores[0].loss == pytest.approx(scores[1].loss, rel=1e-2)
    model = nn.Sequential(nn.LSTM(8, 5, batch_first=True), nn.Identity())
    task = replace(toroid.tasks.regression, outputs=lambda out: out[0].mean((1, 2))[:, None])
    pairs = [(data.images[:, 0], torch.zeros(50, 1))]
    assert (
        toroid.evaluate(model.state_dict(), model, pairs, task=task, precision=precision).loss > 0
    )


def test_what_looks_at_a_convolution_sees_what_is_before_the_relu(digits):
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    found = Evaluator(model, Evaluation()).moments(model.state_dict(), digits.take(50))["0"]
    with torch.no_grad():
        mean = model[0](digits.take(50).images).double().mean((0, 2, 3))
    assert mean.min() < 0
    assert torch.allclose(found.mean, mean)


@pytest.mark.parametrize("skip", [0, 1])
def test_data_of_any_alignment_give_the_same_bits(digits, skip):
    model = toroid.mlp(digits.shape, hidden=(8,))
    state, odd = model.state_dict(), torch.empty(digits.images.numel() + skip)[skip:]
    odd = odd.view_as(digits.images).copy_(digits.images)
    same = toroid.evaluate(state, model, Dataset(odd, digits.labels, 10))
    assert same == toroid.evaluate(state, model, digits)


def test_refresh_is_what_pytorch_does(digits):
    model = toroid.vgg16_bn(digits.shape, width=0.05)
    fresh = toroid.refresh(model.state_dict(), model, digits, batch_size=100)
    update_bn(digits.images.split(100), model)
    expected = model.state_dict()
    assert (
        gap(
            {k: v for k, v in fresh.items() if "running" in k},
            {k: v for k, v in expected.items() if "running" in k},
        )
        < 1e-6
    )


def test_refresh_with_one_batch_is_the_mean_and_variance(digits):
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 10))
    fresh = toroid.refresh(model.state_dict(), model, digits, batch_size=300)
    flat = digits.images.flatten(1)
    assert torch.allclose(fresh["1.running_mean"], flat.mean(0), atol=1e-6)
    assert torch.allclose(fresh["1.running_var"], flat.var(0), rtol=1e-4)
    assert not model.state_dict()["1.running_mean"].any()


def test_refresh_takes_any_number_of_images(digits):
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
    fresh = toroid.refresh(model.state_dict(), model, digits.take(251), batch_size=250)
    assert fresh["1.num_batches_tracked"] == 2
    assert fresh["1.running_var"].isfinite().all()


def test_refresh_without_batchnorm_gives_the_state_back(digits):
    model = toroid.mlp(digits.shape, hidden=(4,))
    assert gap(toroid.refresh(model.state_dict(), model, digits), model.state_dict()) == 0


# --- curves -----------------------------------------------------------------------------------------

VALUES = st.lists(st.floats(0, 1), min_size=3, max_size=9)


@given(VALUES)
def test_barrier_is_the_height_above_the_chord(values):
    t = np.linspace(0, 1, len(values))
    curve = Curve(t, np.array(values), np.array(values))
    expected = max(
        v - ((1 - s) * values[0] + s * values[-1]) for s, v in zip(t, values, strict=True)
    )
    assert curve.barrier == pytest.approx(expected, abs=1e-12)
    assert curve.barrier >= -1e-12
    assert curve.barrier_over_ends == max(values) - max(values[0], values[-1])
    assert curve.loss_barrier == curve.barrier


def test_along_evaluates_every_point(digits):
    models = [toroid.mlp(digits.shape, hidden=(8,)) for _ in range(2)]
    a, b = (m.state_dict() for m in models)
    curve = toroid.along(toroid.Linear(a, b), models[0], digits, points=3)
    middle = {k: (a[k] + b[k]) / 2 for k in a}
    expected = [toroid.evaluate(s, models[0], digits) for s in (a, middle, b)]
    assert curve.error.tolist() == pytest.approx([s.error for s in expected])
    assert curve.loss.tolist() == pytest.approx([s.loss for s in expected], rel=1e-5)
    assert list(curve.frame.columns) == ["t", "error", "loss"]


def test_along_walks_once_for_several_data_sets(digits):
    model = toroid.mlp(digits.shape, hidden=(8,))
    seen = []

    def path(t):
        seen.append(t)
        return model.state_dict()

    curves = toroid.along(path, model, {"few": digits.take(50), "all": digits}, points=[0, 0.3, 1])
    assert list(curves) == ["few", "all"]
    assert seen[1:] == [0, 0.3, 1]  # the first call checks the path


def test_known_ends_are_not_evaluated_again(digits):
    models = [toroid.mlp(digits.shape, hidden=(8,)) for _ in range(2)]
    path = toroid.Linear(*(m.state_dict() for m in models))
    data = {"few": digits.take(50), "all": digits}
    whole = toroid.along(path, models[0], data, points=4)
    ends = {name: curve.ends for name, curve in whole.items()}
    seen = []
    again = toroid.along(lambda t: seen.append(t) or path(t), models[0], data, points=4, ends=ends)
    assert seen[1:] == pytest.approx([1 / 3, 2 / 3])
    for name in data:
        assert again[name].loss.tolist() == whole[name].loss.tolist()
    marked = toroid.Score(0.125, 7.0)  # what is given is what is shown
    assert toroid.along(path, models[0], digits, points=3, ends=(marked, marked)).loss[2] == 7.0
    with pytest.raises(ValueError, match=r"ends are those of \['test'\], the data sets are"):
        toroid.along(path, models[0], data, ends={"test": (marked, marked)})


@pytest.mark.parametrize("arch", ["lenet", "vgg16_bn", "resnet18"])
def test_layout_changes_nothing_but_rounding(digits, arch):
    model = toroid.models.build(arch, digits.shape, 10, 0.1).double()
    state = toroid.refresh(model.state_dict(), model, digits)
    moved = toroid.refresh(model.state_dict(), model, digits, channels_last=True)
    assert gap(state, moved) < 1e-12
    plain = toroid.evaluate(state, model, digits)
    assert toroid.evaluate(state, model, digits, channels_last=True).loss == pytest.approx(
        plain.loss
    )
    assert all(v.is_contiguous() for v in state.values())


def test_bfloat16_is_close_and_keeps_the_precision_of_the_statistics(digits):
    model = toroid.vgg16_bn(digits.shape, width=0.1)
    how = {"precision": "bfloat16", "channels_last": True}
    fresh = toroid.refresh(model.state_dict(), model, digits, **how)
    assert all(v.dtype == model.state_dict()[k].dtype for k, v in fresh.items())
    exact = toroid.evaluate(fresh, model, digits).loss
    rough = toroid.evaluate(fresh, model, digits, **how).loss
    assert rough != exact
    assert rough == pytest.approx(exact, rel=1e-2)


def test_how_to_evaluate_is_checked(digits):
    model = toroid.mlp(digits.shape, hidden=(4,))
    with pytest.raises(ValueError, match=r"precision.*float16.*bfloat16"):
        toroid.evaluate(model.state_dict(), model, digits, precision="float16")
    with pytest.raises(ValueError, match="batch_size is 0"):
        toroid.along(lambda t: model.state_dict(), model, digits, batch_size=0)


def test_along_estimates_batchnorm_again_at_every_point(digits):
    model = toroid.vgg16_bn(digits.shape, width=0.05)
    state = model.state_dict()
    curve = toroid.along(lambda t: state, model, digits, points=2, refresh=digits)
    expected = toroid.evaluate(toroid.refresh(state, model, digits), model, digits)
    assert curve.loss.tolist() == pytest.approx([expected.loss] * 2, rel=1e-5)
    assert toroid.evaluate(state, model, digits).loss != pytest.approx(expected.loss, rel=1e-3)


def test_symmetric_copies_have_no_barrier_on_the_torus_only(digits):
    """The whole point, in one test: one function, written twice."""
    torch.manual_seed(0)
    model = toroid.mlp(digits.shape, hidden=(32, 32))
    trained = toroid.training.sgd(
        model, digits, epochs=20, generator=torch.Generator().manual_seed(0)
    )
    state = {k: v.double() for k, v in trained.state.items()}
    symmetry = toroid.find_symmetries(model, digits.images[:2])
    generator = torch.Generator().manual_seed(1)
    permutations = {g.name: torch.randperm(g.size, generator=generator) for g in symmetry.groups}
    factors = {g.name: torch.rand(g.size, generator=generator) * 3 + 0.2 for g in symmetry.groups}
    copy = toroid.permute(toroid.rescale(state, factors, symmetry), permutations, symmetry)
    raw = toroid.along(toroid.Linear(state, copy), model, digits, points=11)
    a, b = (toroid.normalize(s, symmetry) for s in (state, copy))
    b = toroid.align(b, to=a, symmetry=symmetry).state
    clean = toroid.along(toroid.Geodesic(a, b, symmetry), model, digits, points=11)
    assert raw.barrier > 0.1
    assert clean.barrier == 0


def test_images_whose_outputs_are_not_finite_are_wrong(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    state = model.state_dict()
    for bad in (float("nan"), float("inf")):
        broken = {**state, "1.bias": torch.full((10,), bad)}
        assert toroid.evaluate(broken, model, digits).error == 1


def test_bad_input_says_what_is_wrong(digits):
    model = toroid.mlp(digits.shape, hidden=(8,))
    state = model.state_dict()
    with pytest.raises(ValueError, match=r"the state lacks 3\.bias of the model"):
        toroid.evaluate({k: v for k, v in state.items() if k != "3.bias"}, model, digits)
    with pytest.raises(ValueError, match=r"'1\.bias' has shape \(8,\) in one state and \(7,\)"):
        toroid.evaluate({**state, "1.bias": torch.zeros(7)}, model, digits)
    with pytest.raises(ValueError, match="at least two ascending places"):
        toroid.along(toroid.Linear(state, state), model, digits, points=[0.5, 0.2])
    nan, inf = float("nan"), float("inf")
    for points in ([0, nan, 1], [nan, 1], [0, nan], [0, 1, inf], [[0, 1], [0, 1]], 0.5, [], 1):
        with pytest.raises(ValueError, match="it takes at least two ascending places"):
            toroid.along(toroid.Linear(state, state), model, digits, points=points)
    with pytest.raises(ValueError, match="'nothing' is empty"):
        toroid.evaluate(state, model, Dataset(digits.images[:0], digits.labels[:0], 10, "nothing"))
    with pytest.raises(ValueError, match="only one of the two states"):
        toroid.Linear(state, {})


# --- planes -----------------------------------------------------------------------------------------


def test_a_plane_goes_through_its_three_states(digits):
    networks = [toroid.mlp(digits.shape, hidden=(8,)).double() for _ in range(3)]
    states = [network.state_dict() for network in networks]
    plane = toroid.plane(states, networks[0], digits, points=7, margin=0.3)
    flat = torch.stack([torch.cat([v.flatten() for v in s.values()]) for s in states])
    there = np.linalg.norm(plane.corners[:, None] - plane.corners[None], axis=-1)
    assert there == pytest.approx(torch.cdist(flat, flat).numpy(), abs=1e-6)
    a, b, c = flat
    x = (b - a) / (b - a).norm()
    y = (c - a) - (c - a) @ x * x
    y /= y.norm()
    for i, j in ((0, 0), (3, 5), (6, 2)):  # each point is a + column x + row y
        point, state, start = a + plane.x[j] * x + plane.y[i] * y, {}, 0
        for k, v in states[0].items():
            state[k] = point[start : start + v.numel()].view_as(v)
            start += v.numel()
        assert plane.loss[i, j] == pytest.approx(toroid.evaluate(state, networks[0], digits).loss)
    assert len(plane.frame) == 49
    assert plane.frame["loss"].iloc[7 * 3 + 5] == plane.loss[3, 5]


def test_a_plane_on_the_torus_and_of_batchnorm(digits):
    torch.manual_seed(0)
    networks = [toroid.vgg16_bn(digits.shape, width=0.05).double() for _ in range(3)]
    symmetry = toroid.find_symmetries(networks[0], digits.images[:2].double())
    states = [toroid.normalize(n.state_dict(), symmetry) for n in networks]
    plane = toroid.plane(
        states, networks[0], digits, points=3, margin=0.0, symmetry=symmetry, refresh=digits
    )
    start = toroid.evaluate(toroid.refresh(states[0], networks[0], digits), networks[0], digits)
    end = toroid.evaluate(toroid.refresh(states[1], networks[1], digits), networks[0], digits)
    assert plane.x[[0, -1]].tolist() == plane.corners[:2, 0].tolist()  # the third is between them
    assert plane.loss[0, [0, -1]].tolist() == pytest.approx([start.loss, end.loss], rel=1e-6)
    assert np.isfinite(plane.loss).all()


def test_variances_beyond_the_states_of_a_plane_are_not_negative(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    states = [
        {
            k: torch.rand_like(v) if v.is_floating_point() else v
            for k, v in model.state_dict().items()
        }
        for _ in range(3)
    ]
    far = toroid.landscape._affine(states, -3.0, 2.0)
    assert far["2.running_var"].min() == 0 > far["1.weight"].min()
    plane = toroid.plane(states, model, digits, points=4, margin=2.0, refresh=False)
    assert np.isfinite(plane.loss).all()


def test_a_plane_needs_three_states_apart(digits):
    model = toroid.mlp(digits.shape, hidden=(8,))
    state, other = model.state_dict(), toroid.mlp(digits.shape, hidden=(8,)).state_dict()
    with pytest.raises(
        ValueError, match="takes three states, or one state dict to go around; got 2"
    ):
        toroid.plane([state, other], model, digits)
    with pytest.raises(ValueError, match="lie on one line"):
        toroid.plane([state, other, toroid.Linear(state, other)(0.3)], model, digits)


def test_disagreement_is_the_share_of_other_predictions():
    """Against the predictions themselves; copies of one classifier agree everywhere."""
    model = toroid.mlp((1, 4, 4), classes=3, hidden=(8,)).double()
    images = torch.randn(40, 1, 4, 4, dtype=torch.float64)
    data = toroid.data.Dataset(images, torch.zeros(40, dtype=torch.long), 3)
    a = model.state_dict()
    b = {k: v + torch.randn_like(v) for k, v in a.items()}
    x, y = (torch.func.functional_call(model, s, (images,)).argmax(1) for s in (a, b))
    assert toroid.disagreement(a, b, model, data) == float((x != y).double().mean()) > 0
    assert toroid.disagreement(a, b, model, data, batch_size=7) == toroid.disagreement(
        b, a, model, data
    )
    symmetry = toroid.find_symmetries(model, images[:2])
    moved = toroid.normalize(toroid.permute(a, {"1": torch.randperm(8)}, symmetry), symmetry)
    assert toroid.disagreement(a, moved, model, data) == 0
    broken = {k: torch.full_like(v, torch.nan) for k, v in a.items()}
    assert toroid.disagreement(broken, broken, model, data) == 1
