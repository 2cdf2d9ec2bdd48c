"""Arguments of the wrong kind: one sentence that says what was given and what is wanted."""

import math

import numpy as np
import pytest
import torch
import toroid
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toroid import merging, paths
from toroid.data import Dataset

torch.manual_seed(0)
X, Y = torch.randn(12, 5, dtype=torch.float64), torch.arange(12) % 3
MODELS = [nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double() for _ in range(3)]
MODEL, DATA = MODELS[0], Dataset(X, Y, 3)
SYMMETRY = toroid.find_symmetries(MODEL, X[:2])
A, B, C = (toroid.normalize(m.state_dict(), SYMMETRY) for m in MODELS)
LOG = toroid.log(A, B, SYMMETRY)
WAY = toroid.direction(A, MODEL)
LINE = toroid.Linear(A, B)
PLUS, MINUS = {"w": torch.ones(4)}, {"w": -torch.ones(4)}
LINEAR = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
TURNING = toroid.find_symmetries(LINEAR, torch.randn(2, 4))
NUMBERS = {
    "Linear": LINE,
    "Geodesic": toroid.Geodesic(A, B, SYMMETRY),
    "geodesic": lambda t: toroid.geodesic(A, B, t, SYMMETRY),
    "Ray": paths.Ray(A, WAY),
    "Polygon": toroid.Polygon(A, C, B),
    "Joined": paths.Joined(LINE, LINE),
    "Hamming": toroid.Hamming(PLUS, MINUS),
    "renorm": lambda t: merging.renorm(A, [A, B], t, SYMMETRY),
}
NO_NUMBERS = {
    "a word": ("0.5", "t is '0.5'; it must be a finite number"),
    "nothing": (None, "t is None"),
    "a list": ([0.5], r"t is \[0\.5\]"),
    "a vector": (torch.tensor([0.2, 0.4]), r"t is tensor\(\[0\.2000, 0\.4000\]\)"),
    "a vector of one": (torch.tensor([0.5]), r"t is tensor\(\[0\.5000\]\)"),
    "a long array": (np.linspace(0, 1, 99), "t is a ndarray"),
    "a complex number": (1j, "t is 1j"),
    "no number": (math.nan, "t is nan"),
    "too large": (10**400, "t is a int"),
}


@pytest.mark.parametrize("what", NO_NUMBERS)
@pytest.mark.parametrize("path", NUMBERS)
def test_a_place_is_one_number(path, what):
    wrong, told = NO_NUMBERS[what]
    with pytest.raises(ValueError, match=told):
        NUMBERS[path](wrong)


@pytest.mark.parametrize("path", NUMBERS)
@pytest.mark.parametrize("kind", [np.float32, np.float64, torch.tensor])
def test_a_place_is_a_number_of_any_library(path, kind):
    wanted, found = NUMBERS[path](0.25), NUMBERS[path](kind(0.25))
    assert all(torch.allclose(v, found[k], rtol=0, atol=1e-9) for k, v in wanted.items())


@pytest.mark.parametrize("t", [-0.5, -1e-3, 1.5])
def test_a_path_of_flips_ends_at_its_ends(t):
    with pytest.raises(ValueError, match="goes from 0 to 1"):
        toroid.Hamming(PLUS, MINUS)(t)


def align(**options):
    return toroid.align(A, B, SYMMETRY, method="coordinate", **options)


def along(**options):
    return toroid.along(options.pop("path", LINE), MODEL, options.pop("data", DATA), **options)


def line(**options):
    return toroid.line(A, MODEL, DATA, **{"points": 3, **options})


def plane(states=(A, B, C), **options):
    return toroid.plane(states, MODEL, DATA, **{"points": 2, **options})


def bend(a=A, b=B, **options):
    options = {"epochs": 1, "generator": torch.Generator(), **options}
    return toroid.bend(a, b, MODEL, DATA, **options)


def rows(*shape, dtype=torch.float64):
    return torch.ones(shape, dtype=dtype)


def meta(state):
    return {k: v.to("meta") for k, v in state.items()}


def whole(state):
    return {k: v.long() for k, v in state.items()}


WRONG = {
    "restarts of a fraction": (lambda: align(restarts=1.5), "restarts is 1.5; it must be an int"),
    "restarts in words": (lambda: align(restarts="two"), "restarts is 'two'"),
    "restarts of the other method": (
        lambda: toroid.align(A, B, SYMMETRY, restarts=math.inf), "restarts is inf",
    ),
    "a seed in words": (lambda: toroid.align(A, B, SYMMETRY, seed="x"), "seed is 'x'"),
    "a seed of a line": (lambda: line(seed=None), "seed is None"),
    "a seed of many bits": (lambda: align(seed=2**64), "it must be an integer of 64 bits"),
    "rounds": (lambda: toroid.align_all([A, B], SYMMETRY, rounds=-1), "rounds is -1"),
    "turns in words": (lambda: align(turns="keep"), "turns is 'keep'; it must be True or False"),
    "balanced in words": (lambda: align(balanced="no"), "balanced is 'no'; it must be True"),
    "a mean in words": (lambda: toroid.distance(A, B, SYMMETRY, mean="no"), "mean is 'no'"),
    "networks that are one": (lambda: toroid.align_all(A, SYMMETRY), "takes a list of state dicts"),
    "networks that are none": (lambda: toroid.align_all(3, SYMMETRY), "states is 3"),
    "another architecture": (
        lambda: toroid.align(
            A, B, SYMMETRY, method="activation", model=nn.Linear(5, 3), inputs=X
        ),
        "the state lacks bias, weight of the model",
    ),
    "no model": (
        lambda: toroid.align(A, B, SYMMETRY, method="activation", model="m", inputs=X),
        "model is a str",
    ),
    "one example": (
        lambda: toroid.align(A, B, SYMMETRY, method="activation", model=MODEL, inputs=X[0, 0]),
        "a tensor of two or more",
    ),
    "rows in a list": (lambda: toroid.match([[1.0]], rows(1, 1)), "a is a list; it takes a tensor"),
    "rows that are complex": (
        lambda: toroid.match(rows(3, 2) + 1j, rows(3, 2)), "torch.complex128; it takes numbers",
    ),
    "rows that are masks": (lambda: toroid.match(rows(3, 2) > 0, rows(3, 2)), "torch.bool"),
    "rows of two precisions": (
        lambda: toroid.match(rows(3, 2), rows(3, 2).float()), "of one precision, got torch.float64",
    ),
    "rows elsewhere": (lambda: toroid.match(rows(3, 2), rows(3, 2).to("meta")), "on the meta device"),
    "rows of nothing": (lambda: toroid.match(rows(3, 0), rows(3, 0)), r"got \(3, 0\)"),
    "rows that are not finite": (lambda: toroid.match(rows(3, 2) / 0, rows(3, 2)), "'a' contains"),
    "points of two sides": (lambda: plane(points=(3, 4)), r"points is \(3, 4\); it must be an int"),
    "no points": (lambda: plane(points=0), "points is 0; it must be positive"),
    "a margin in words": (lambda: plane(margin="x"), "margin is 'x'; it must be a finite number"),
    "a margin of nan": (lambda: plane(margin=math.nan), "margin is nan"),
    "a margin that leaves nothing": (lambda: plane(margin=-0.5), "nothing is left of the map"),
    "a radius in words": (lambda: line(radius="x"), "radius is 'x'; it must be a positive finite"),
    "a radius around a state": (lambda: plane(A, radius=None), "radius is None"),
    "states that are one number": (lambda: plane(3), "states is 3; it takes a list of three states"),
    "directions that are none": (lambda: plane(A, directions=3), "directions is 3"),
    "a direction of other numbers": (
        lambda: line(direction={k: v.float() for k, v in WAY.items()}),
        r"torch\.float32 on cpu in the direction and torch\.float64",
    ),
    "a negative number of points": (lambda: along(points=-3), "points is -3; it takes at least"),
    "points in words": (lambda: along(points="many"), "points is 'many'; it takes at least two"),
    "points that are words": (lambda: along(points=["0", "1"]), "it takes at least two ascending"),
    "points that are complex": (lambda: along(points=[0, 1j]), "it takes at least two ascending"),
    "points of a generator": (lambda: along(points=iter([0, 1])), "it takes at least two"),
    "points of a dict": (lambda: along(points={0: 1}), "it takes at least two ascending"),
    "a factor in words": (lambda: along(factor="x"), "factor is 'x'; it must be a positive finite"),
    "a factor below 0": (lambda: along(factor=(1.0, -1.0)), "factor is -1.0"),
    "three factors": (lambda: along(factor=(1, 2, 3)), r"factor is \(1, 2, 3\); it takes a positive"),
    "no data": (lambda: along(data={}), "data is an empty mapping"),
    "ends in words": (lambda: along(ends="ab"), "ends are 'ab'; they are the"),
    "one end": (lambda: along(ends=[(0.1, 1.0)]), r"they are the \(error, loss\) of the first"),
    "ends of no mapping": (lambda: along(data={"x": DATA}, ends=3), r"ends are those of 3"),
    "a path in a list": (lambda: along(path=[A, B]), "not a function of t"),
    "a class of paths": (lambda: along(path=toroid.Linear), "not a function of t"),
    "joined states": (lambda: paths.Joined(A, LINE), "first is a dict, not a function of t"),
    "a joined model": (lambda: paths.Joined(LINE, MODEL), "second is a Sequential, not a function"),
    "an order in a list": (
        lambda: toroid.Hamming(PLUS, MINUS, order=[3, 2, 1, 0]), "order is a list; it takes a tensor",
    ),
    "no state of a ray": (lambda: paths.Ray(None, {}), "a state dict is wanted, not a NoneType"),
    "weights in words": (
        lambda: toroid.merge([A, B], SYMMETRY, weights="ab"), "weights is 'ab'; it takes a list",
    ),
    "weights that are words": (
        lambda: toroid.merge([A, B], SYMMETRY, weights=["1", "2"]),
        r"weights are \['1', '2'\] for 2 states",
    ),
    "weights that are one number": (
        lambda: toroid.merge([A, B], SYMMETRY, weights=0.5), "weights is 0.5; it takes a list",
    ),
    "weights of none": (
        lambda: toroid.merge([A, B], SYMMETRY, weights=[None, 1]), r"\[None, 1\] for 2 states",
    ),
    "states to merge that are one": (lambda: toroid.merge(A, SYMMETRY), "takes a list of state"),
    "states to merge that are none": (lambda: toroid.merge(None, SYMMETRY), "states is None"),
    "three ends": (lambda: merging.renorm(A, [A, B, C], 0.5, SYMMETRY), "ends are 3; they are"),
    "no ends": (lambda: merging.renorm(A, None, 0.5, SYMMETRY), "ends is None; it takes a list"),
    "permutations in a tensor": (
        lambda: toroid.permute(A, torch.randperm(4), SYMMETRY),
        r"permutations is tensor\(.*; it takes a dict from names to permutations",
    ),
    "factors in a list": (lambda: toroid.rescale(A, [1.0], SYMMETRY), "factors is .* a dict from"),
    "signs of none": (lambda: toroid.flip(A, None, SYMMETRY), "signs is None; it takes a dict"),
    "matrices in a tensor": (lambda: toroid.turn(A, torch.eye(4), SYMMETRY), "matrices is .* a dict"),
    "a permutation that is a number": (
        lambda: toroid.permute(A, {"0": torch.tensor(2)}, SYMMETRY), r"a tensor of shape \(\): \[2\]",
    ),
    "complex factors": (
        lambda: toroid.rescale(LINEAR.state_dict(), {"0": torch.ones(3) + 1j}, TURNING),
        "torch.complex64; it takes numbers",
    ),
    "no tangent": (lambda: toroid.exp(A, {}, SYMMETRY), "the tangent lacks 0.weight, 0.bias"),
    "a tangent that is no state": (lambda: toroid.exp(A, None, SYMMETRY), "not a NoneType"),
    "a tangent of another shape": (
        lambda: toroid.exp(A, {**LOG, "0.bias": torch.zeros(3).double()}, SYMMETRY),
        r"'0\.bias' of shape \(3,\), which has shape \(4,\)",
    ),
    "a tangent of too much": (
        lambda: toroid.exp(A, {**LOG, "more": torch.zeros(3)}, SYMMETRY), "does not exist",
    ),
    "a tangent of nan": (
        lambda: toroid.exp(A, {k: v * math.nan for k, v in LOG.items()}, SYMMETRY), "contains NaN",
    ),
    "a tangent of other numbers": (
        lambda: toroid.exp(A, {k: v.float() for k, v in LOG.items()}, SYMMETRY), r"with \.to\(\)",
    ),
    "a word that is an array": (
        lambda: toroid.normalize(A, SYMMETRY, bias=np.ones(3)), "bias is array.* it can be 'eucl",
    ),
    "no symmetry to balance": (lambda: toroid.torus.balance(A, None), "symmetry is None; it takes"),
    "names that are numbers": (
        lambda: toroid.normalize({0: A["0.bias"]}, SYMMETRY), "names are strings, not 0",
    ),
    "a state without numbers": (lambda: toroid.normalize(meta(A), SYMMETRY), "on the meta device"),
    "classes in words": (lambda: Dataset(X, Y, "3"), "classes is '3'; it must be an integer"),
    "classes of a fraction": (lambda: Dataset(X, Y, 3.5), "classes is 3.5; it must be an integer"),
    "classes without end": (lambda: Dataset(X, Y, math.inf), "classes is inf"),
    "images that are a number": (lambda: Dataset(X[0, 0], Y, 3), "1 images but 12 labels"),
    "a fraction of a data set": (lambda: DATA.take(2.5), "count is 2.5; it must be an integer"),
    "a subset in words": (lambda: toroid.data.load(subset="all"), "subset is 'all'; it must be"),
    "a factor of a bend": (lambda: bend(factor=0), "factor is 0; it must be a positive finite"),
    "factors of a bend": (lambda: bend(factor=(1, 2, 3)), "it takes a positive number, or two"),
    "no generator": (lambda: bend(generator=None), r"it takes a torch\.Generator"),
    "a seed as generator": (lambda: bend(generator=3), r"generator is 3; it takes a torch\.Gen"),
    "a bend from nan": (
        lambda: bend({k: v * math.nan for k, v in A.items()}), "contains NaN or infinite",
    ),
    "a middle of other numbers": (
        lambda: bend(middle={k: v.float() for k, v in A.items()}), r"bring them to one with \.to",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_argument_is_told(what):
    call, told = WRONG[what]
    with pytest.raises(ValueError, match=told):
        call()


@settings(max_examples=20, deadline=None)
@given(
    junk=st.none() | st.text(max_size=3) | st.binary(max_size=3) | st.complex_numbers()
    | st.lists(st.none() | st.text(max_size=2), max_size=3)
    | st.dictionaries(st.integers(), st.none(), max_size=2)
)  # fmt: skip
@pytest.mark.parametrize(
    "call",
    [
        lambda x: LINE(x),
        lambda x: align(restarts=x),
        lambda x: toroid.align_all([A, B], SYMMETRY, rounds=x),
        lambda x: along(points=x),
        lambda x: along(factor=(x, 1.0)),
        lambda x: plane(points=x),
        lambda x: plane(margin=x),
        lambda x: line(radius=x),
        lambda x: toroid.merge([A, B], SYMMETRY, weights=[x, 1.0]),
        lambda x: toroid.exp(A, x, SYMMETRY),
        lambda x: Dataset(X, Y, x),
    ],
)
def test_no_junk_is_taken(junk, call):
    with pytest.raises(ValueError, match=r"must be|takes|wanted|strings|lacks|are numbers|holds"):
        call(junk)


def test_what_can_be_walked_is_a_list():
    wanted = toroid.merge([A, B], SYMMETRY, weights=[1, 3])
    found = toroid.merge((s for s in (A, B)), SYMMETRY, weights=torch.tensor([1.0, 3.0]))
    assert all(torch.equal(v, found[k]) for k, v in wanted.items())
    assert np.array_equal(plane([A, B, C]).error, plane(s for s in (A, B, C)).error)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64])
def test_a_permutation_is_of_any_integers(dtype):
    order = torch.tensor([2, 0, 3, 1])
    wanted, found = (toroid.permute(A, {"0": p}, SYMMETRY) for p in (order, order.to(dtype)))
    assert all(torch.equal(v, found[k]) for k, v in wanted.items())


def test_integers_are_not_rescaled():
    """They would be rounded, to zero most often."""
    state, eye = whole(LINEAR.state_dict()), {"0": 2 * torch.eye(3)}
    for call in (
        lambda: toroid.rescale(whole(A), {"output": torch.tensor([0.5])}, SYMMETRY),
        lambda: toroid.normalize({**A, "2.weight": A["2.weight"].long()}, SYMMETRY),
        lambda: toroid.distance(whole(A), whole(A), SYMMETRY),
        lambda: toroid.turn(state, eye, TURNING),
    ):
        with pytest.raises(ValueError, match=r"is of torch\.int64: integers cannot be rescaled"):
            call()
    moved = toroid.permute(state, {"0": torch.tensor([2, 0, 1])}, TURNING)
    assert torch.equal(moved["0.weight"], state["0.weight"][[2, 0, 1]])


class Counting(nn.Module):
    """A network with a parameter of integers, which no path and no noise moves."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(5, 4), nn.Linear(4, 3)
        self.times = nn.Parameter(torch.tensor([2]), requires_grad=False)

    def forward(self, x):
        return self.two(torch.relu(self.one(x))) * self.times


def test_a_parameter_of_integers_stays_where_it_is():
    model = Counting().double()
    symmetry = toroid.find_symmetries(model, X[:2])
    state = toroid.normalize(model.state_dict(), symmetry)
    for how in ({}, {"symmetry": symmetry}):
        energy = toroid.local_energy(state, model, DATA, sigma=0.0, draws=2, **how)
        assert energy["energy"].item() == 0
    measures = (toroid.sharpness, toroid.fisher_rao, lambda *a: toroid.hessian(*a).trace)
    assert all(np.isfinite(measure(state, model, DATA)) for measure in measures)
    ends = state, toroid.normalize(Counting().double().state_dict(), symmetry)
    assert torch.equal(toroid.Geodesic(*ends, symmetry)(0.5)["times"], state["times"])
