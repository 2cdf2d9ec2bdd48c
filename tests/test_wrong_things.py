"""What is passed by mistake is one sentence that says what to do, never torch's raw error."""

import copy

import numpy as np
import pytest
import torch
import toroid
from networks import Apply
from torch import nn

torch.manual_seed(0)
X, Y = torch.randn(20, 5), torch.arange(20) % 3
MODEL, OTHER = (nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2))
SYMMETRY = toroid.find_symmetries(MODEL, X[:2])
A, B = (toroid.normalize(m.state_dict(), SYMMETRY) for m in (MODEL, OTHER))
DATA = toroid.data.Dataset(X, Y, 3)
WRONG = {
    "a model": (MODEL, r"\.state_dict\(\)"),
    "an Alignment": (toroid.align(B, A, SYMMETRY), r"Alignment: pass its \.state"),
    "a path of a file": ("a.pt", "load_file"),
    "a checkpoint": ({"state_dict": A, "epoch": 3}, r"pass its \['state_dict'\]"),
    "arrays": ({k: v.numpy() for k, v in A.items()}, "as_tensor"),
    "a list": ([A], r"not a list"),
    "DataParallel's": ({f"module.{k}": v for k, v in A.items()}, r"removeprefix\('module\.'\)"),
    "compile's": ({f"_orig_mod.{k}": v for k, v in A.items()}, r"removeprefix\('_orig_mod\.'\)"),
    "of two wrappers": (
        {f"ema.module.{k}": v for k, v in A.items()},
        r"removeprefix\('ema\.module\.'\)",
    ),
    "a wrapper's and more": (
        {**{f"net.{k}": v for k, v in A.items()}, "loss.weight": Y},
        r"removeprefix\('net\.'\)",
    ),
}
CALLS = {
    "normalize": lambda s: toroid.normalize(s, SYMMETRY),
    "align": lambda s: toroid.align(s, A, SYMMETRY),
    "align to": lambda s: toroid.align(A, s, SYMMETRY),
    "align_all": lambda s: toroid.align_all([s, A], SYMMETRY),
    "distance": lambda s: toroid.distance(A, s, SYMMETRY),
    "permute": lambda s: toroid.permute(s, {}, SYMMETRY),
    "Linear": lambda s: toroid.Linear(A, s),
    "Geodesic": lambda s: toroid.Geodesic(s, A, SYMMETRY),
    "evaluate": lambda s: toroid.evaluate(s, MODEL, DATA),
    "refresh": lambda s: toroid.refresh(s, MODEL, DATA),
    "hessian": lambda s: toroid.hessian(s, MODEL, DATA),
    "local_energy": lambda s: toroid.local_energy(s, MODEL, DATA, sigma=0.1),
    "same_function": lambda s: toroid.same_function(MODEL, s, A, X),
    "bend": lambda s: toroid.bend(s, A, MODEL, DATA, epochs=1, generator=torch.Generator()),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_state(what, call):
    wrong, told = WRONG[what]
    with pytest.raises(ValueError, match=told):
        CALLS[call](wrong)


SEEDED = {
    "direction": lambda seed: toroid.direction(A, MODEL, seed=seed),
    "hessian": lambda seed: toroid.hessian(A, MODEL, DATA, draws=2, seed=seed).trace,
    "spectrum": lambda seed: toroid.spectrum(A, MODEL, DATA, steps=2, draws=1, seed=seed).values,
    "local_energy": lambda seed: toroid.local_energy(A, MODEL, DATA, sigma=0.1, draws=2, seed=seed),
    "Hamming": lambda seed: toroid.Hamming(
        {"w": torch.ones(9)}, {"w": -torch.ones(9)}, seed=seed
    ).turns.tolist(),
}  # fmt: skip


@pytest.mark.parametrize("call", SEEDED)
def test_a_seed_is_an_integer_of_any_library(call):
    assert str(SEEDED[call](np.int64(3))) == str(SEEDED[call](3))
    with pytest.raises(ValueError, match=r"seed is 0\.5; it must be an integer"):
        SEEDED[call](0.5)


def test_batches_of_no_example_do_not_count():
    model = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 3))
    state = model.state_dict()
    full, none = (X, Y), (X[:0], Y[:0])
    wanted = toroid.evaluate(state, model, [full])
    assert toroid.evaluate(state, model, [none, full, none]) == wanted
    means = [
        toroid.refresh(state, model, data)["0.running_mean"] for data in ([full], [full, none])
    ]
    assert torch.equal(*means)
    with pytest.raises(ValueError, match="gave no batch of examples; are they empty"):
        toroid.evaluate(state, model, [none])


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, x):
        return self.layer(x) if x.sum() > 0 else x


def scripted():
    return torch.jit.script(copy.deepcopy(MODEL))


MODELS = {
    "data parallel": (lambda: nn.DataParallel(MODEL), r"model\.module"),
    "scripted": (scripted, "scripted or traced"),
    "lazy": (lambda: nn.LazyLinear(3), "run the model once"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", MODELS)
def test_what_is_no_model(what):
    make, told = MODELS[what]
    for call in (
        lambda m: toroid.find_symmetries(m, X),
        lambda m: toroid.evaluate(A, m, DATA),
        lambda m: toroid.same_function(m, A, A, X),
    ):
        with pytest.raises(ValueError, match=told):
            call(make())


class Alone(nn.Module):
    """A model of one layer, wrapped."""

    def __init__(self, model):
        super().__init__()
        self.inner = model

    def forward(self, x):
        return self.inner(x)


def replaced():
    """A layer whose forward is a function that calls the layer it had."""
    model = copy.deepcopy(MODEL)
    before = model[0].forward
    model[0].forward = lambda x: before(x) * 2
    return model


def written():
    """A buffer that is set without a gradient."""

    def forward(m, x):
        with torch.no_grad():
            m.mean.copy_(m.a(x).mean(0))
        return m.b((m.a(x) - m.mean).relu())

    return Apply(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 3), mean=torch.zeros(8))


OTHERS = {
    "no example": (lambda: toroid.find_symmetries(MODEL, X[:0]), r"\(0, 5\), no example at all"),
    "no example to compare on": (
        lambda: toroid.same_function(MODEL, A, B, X[:0]), r"\(0, 5\), no example at all",
    ),
    "a name of outputs": (
        lambda: toroid.find_symmetries(MODEL, X, outputs="logits"), "outputs is 'logits'; it takes",
    ),
    "a name of outputs to compare": (
        lambda: toroid.same_function(MODEL, A, B, X, outputs="logits"), "outputs is 'logits'; it",
    ),
    "outputs that there are not": (
        lambda: toroid.find_symmetries(MODEL, X, outputs=lambda out: out.logits),
        "outputs= fails on what the model says, a Tensor .AttributeError",
    ),
    "no numbers": (
        lambda: toroid.find_symmetries(copy.deepcopy(MODEL).to("meta"), X.to("meta")),
        "meta device.*verify=False",
    ),
    "a scripted part": (
        lambda: toroid.find_symmetries(nn.Sequential(MODEL[0], scripted()), X),
        "'1' of the model is a RecursiveScriptModule, a scripted or traced",
    ),
    "a forward that calls the model": (
        lambda: toroid.find_symmetries(replaced(), X), "'0' of the model has a function in place",
    ),
    "a forward that calls the model, compared": (
        lambda: toroid.same_function(replaced(), A, B, X), "'0' of the model has a function in",
    ),
    "a forward that calls the model, evaluated": (
        lambda: toroid.evaluate(A, replaced(), DATA), "'0' of the model has a function in place",
    ),
    "a forward that calls the model, measured": (
        lambda: toroid.sharpness(A, replaced(), DATA), "'0' of the model has a function",
    ),
    "a forward that calls the model, trained": (
        lambda: toroid.training.sgd(replaced(), DATA, epochs=1, generator=torch.Generator()),
        "'0' of the model has a function in place",
    ),
    "a wrapped model": (
        lambda: toroid.evaluate(A, Alone(MODEL), DATA),
        r"begin with 'inner\.', it is wrapped.*\{'inner\.' \+ k: v for",
    ),
    "another model of the same kind of layers": (
        lambda: toroid.evaluate(A, nn.Linear(5, 3), DATA), r"lacks bias, weight of the model$",
    ),
    "control flow": (lambda: toroid.find_symmetries(Branch(), X), "depends on numbers"),
    "an example that does not fit": (
        lambda: toroid.find_symmetries(MODEL, X[:, :3]), "does not run on the example",
    ),
    "a shape as example": (
        lambda: toroid.find_symmetries(MODEL, (1, 5)), "does not run on the example",
    ),
    "a NumPy example": (lambda: toroid.find_symmetries(MODEL, X.numpy()), "as_tensor"),
    "a state where a path is meant": (
        lambda: toroid.along(A, MODEL, DATA), r"toroid\.Linear\(a, b\)",
    ),
    "state and model exchanged": (lambda: toroid.evaluate(MODEL, A, DATA), "wrong order"),
    "labels in a list": (
        lambda: toroid.data.Dataset(X, Y.tolist(), 3), "labels are a list.*as_tensor",
    ),
    "labels of NumPy": (
        lambda: toroid.data.Dataset(X, Y.numpy(), 3), "labels are a ndarray.*as_tensor",
    ),
    "labels of NumPy in a batch": (
        lambda: toroid.evaluate(A, MODEL, [(X, np.asarray(Y))]), "targets are a ndarray",
    ),
    "a place that is no number": (lambda: toroid.Linear(A, B)(float("nan")), "t is nan"),
    "a place on the torus that is none": (
        lambda: toroid.geodesic(A, B, float("inf"), SYMMETRY), "t is inf",
    ),
    "an infinite radius": (
        lambda: toroid.sharpness(A, MODEL, DATA, radius=float("inf")), "radius is inf",
    ),
    "a batch of no example to train on": (
        lambda: toroid.training.sgd(
            MODEL, [(X, Y), (X[:0], Y[:0])], epochs=1, generator=torch.Generator()
        ),
        "a batch of the data has no example",
    ),
    "a symmetry of another file": (
        lambda: toroid.Symmetry.from_json("{}"), "not what Symmetry.to_json wrote",
    ),
    "a symmetry that is a list": (
        lambda: toroid.Symmetry.from_json("[1]"), "not what Symmetry.to_json wrote",
    ),
    "no data set": (lambda: toroid.minimizers.Minimizer(dataset=""), "dataset is ''"),
    "a flight without end": (
        lambda: toroid.shallow.billiard(
            X.double(), X[:1].double(), generator=torch.Generator(), length=float("inf")
        ),
        "length is inf",
    ),
    "no symmetry": (lambda: toroid.normalize(A, MODEL), "what find_symmetries returns"),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_other_slips(what):
    call, told = OTHERS[what]
    with pytest.raises((ValueError, NotImplementedError), match=told):
        call()


def test_a_buffer_that_is_set_moves_with_its_units():
    model = written().double()
    symmetry = toroid.find_symmetries(model, X.double())
    state = model.state_dict()
    moved = toroid.permute(state, {"a": torch.randperm(8)}, symmetry)
    moved = toroid.rescale(moved, {"a": torch.rand(8).double() + 0.5}, symmetry)
    assert toroid.same_function(model, state, moved, X.double(), tolerance=1e-10)
    assert not torch.equal(moved["a.bias"], state["a.bias"])


def test_an_unknown_keyword_is_named():
    with pytest.raises(TypeError, match="n_points"):
        toroid.along(toroid.Linear(A, B), MODEL, DATA, n_points=5)


GENERATOR = torch.Generator()


@pytest.mark.parametrize(
    "call",
    [
        lambda data: toroid.evaluate(A, MODEL, data),
        lambda data: toroid.along(toroid.Linear(A, B), MODEL, data, points=3),
        lambda data: toroid.hessian(A, MODEL, data),
        lambda data: toroid.training.sgd(MODEL, data, epochs=1, generator=GENERATOR),
        lambda data: toroid.find_symmetries(MODEL, data.images),
    ],
)
@pytest.mark.parametrize("images", [(10 * X).long(), torch.randn(20, 7)])
def test_images_that_the_network_does_not_take(images, call):
    shape = str(tuple(images.shape[1:])).strip("()").rstrip(",")
    told = rf"the model does not run on (what it is given, .*{shape}|the example)"
    with pytest.raises(ValueError, match=told):
        call(toroid.data.Dataset(images, Y, 3))


@pytest.mark.parametrize("train", ["sgd", "adversarial", "replicated_sgd"])
def test_outputs_that_are_no_classes(train):
    call, data = getattr(toroid.training, train), toroid.data.Dataset(torch.randn(20, 4, 5), Y, 3)
    with pytest.raises(ValueError, match=r"the outputs are \(20, 4, 3\)"):
        call(MODEL, data, epochs=1, generator=GENERATOR)


def test_a_state_with_too_much_or_too_little():
    with pytest.raises(ValueError, match=r"has total_ops, which the model has not; .*leave them"):
        toroid.evaluate({**A, "total_ops": torch.zeros(1)}, MODEL, DATA)
    with pytest.raises(ValueError, match=r"lacks 2\.bias of the model"):
        toroid.evaluate({k: v for k, v in A.items() if k != "2.bias"}, MODEL, DATA)
