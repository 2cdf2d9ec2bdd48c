"""Units between two networks get the deviations back that they have at the ends."""

import copy

import pytest
import torch
import toroid
from networks import gap
from torch import nn


class Net(nn.Module):
    """Convolutions of both kinds, a layer that is called twice, and linear ones."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 4, 3, padding=1), nn.ConvTranspose2d(4, 6, 1, groups=2)
        self.again, self.end = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.up(self.down(x).relu()).relu().mean((2, 3))
        return self.end(self.again(self.again(x).relu()).relu())


@pytest.fixture(scope="module")
def digits():
    train, _ = toroid.data.load("digits")
    train = train.take(120)
    return toroid.data.Dataset(train.images.double(), train.labels, 10)


def pair(make):
    torch.manual_seed(0)
    models = [make().double() for _ in "ab"]
    return models[0], tuple(m.state_dict() for m in models)


def moments(model, state, data, names):
    """The slow reference: all data at once, a hook on each layer."""
    network, seen = copy.deepcopy(model), {}
    network.load_state_dict(state)
    for name in names:
        layer = network.get_submodule(name)
        dim = -1 if isinstance(layer, nn.Linear) else 1

        def keep(_, __, y, name=name, dim=dim):
            seen.setdefault(name, []).append(y.detach().movedim(dim, -1).flatten(0, -2))

        layer.register_forward_hook(keep)
    network(data.images)
    found = {k: torch.cat(v) for k, v in seen.items()}
    return {k: (v.mean(0), v.std(0, correction=0)) for k, v in found.items()}


@pytest.mark.parametrize("how", ["repair", "rescale"])
@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: toroid.mlp((1, 8, 8), classes=10, hidden=(9, 7)), ["1", "3"]),
        (Net, ["down", "up"]),
    ],
)
def test_units_have_the_moments_between_those_of_the_ends(digits, make, names, how):
    model, ends = pair(make)
    middle = toroid.Linear(*ends)(0.3)
    before = {k: v.clone() for k, v in middle.items()}
    result = toroid.repair(middle, model, ends, 0.3, digits, how, batch_size=50)
    assert gap(middle, before) == gap(model.state_dict(), ends[0]) == 0
    found, first, last = (moments(model, s, digits, names) for s in (result, *ends))
    for name in names:
        goals = [f.lerp(g, 0.3) for f, g in zip(first[name], last[name], strict=True)]
        assert torch.allclose(found[name][1], goals[1], rtol=1e-9)
        if how == "repair":
            assert torch.allclose(found[name][0], goals[0], rtol=1e-9, atol=1e-12)
    head = list(result)[-2]
    assert torch.equal(result[head], middle[head])


def test_a_layer_that_is_called_twice_has_moments_over_its_calls(digits):
    """They change by themselves when it changes: only the first layers are set exactly."""
    model, ends = pair(Net)
    middle = toroid.Linear(*ends)(0.5)
    result = toroid.repair(middle, model, ends, 0.5, digits)
    others = {k: middle[k] if k.startswith("again") else v for k, v in result.items()}
    own, first, last = (moments(model, s, digits, ["again"])["again"] for s in (others, *ends))
    factor = (first[1] + last[1]) / 2 / own[1]
    expected = middle["again.weight"] * factor[:, None]
    assert torch.allclose(result["again.weight"], expected, rtol=1e-9)


def test_a_layer_of_gaussians_in_closed_form():
    """``w·x + b`` of standard Gaussians has mean b and deviation |w|."""
    torch.manual_seed(0)
    x = torch.linalg.qr(torch.randn(4000, 6).double() - 0)[0] * 4000**0.5
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / len(x))).T  # exactly white
    data = toroid.data.Dataset(x, torch.zeros(len(x)).long(), 2)
    model, (a, b) = pair(lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)))
    middle = toroid.Linear(a, b)(0.5)
    result = toroid.repair(middle, model, (a, b), 0.5, data)
    norms = [s["0.weight"].norm(dim=1) for s in (a, b, middle)]
    factor = (norms[0] + norms[1]) / 2 / norms[2]
    assert (factor > 1).all()
    assert torch.allclose(result["0.weight"], factor[:, None] * middle["0.weight"], rtol=1e-9)
    assert torch.allclose(result["0.bias"], (a["0.bias"] + b["0.bias"]) / 2, rtol=1e-9)
    rescaled = toroid.repair(middle, model, (a, b), 0.5, data, how="rescale")
    assert torch.allclose(rescaled["0.bias"], factor * middle["0.bias"], rtol=1e-9)


@pytest.mark.parametrize("how", ["repair", "rescale"])
def test_nothing_changes_at_the_ends(digits, how):
    model, ends = pair(Net)
    for t, end in enumerate(ends):
        assert gap(toroid.repair(end, model, ends, t, digits, how), end) == 0


def test_with_batchnorm_it_is_refresh(digits):
    model, ends = pair(
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
        )
    )
    middle = toroid.Linear(*ends)(0.5)
    result = toroid.repair(middle, model, ends, 0.5, digits)
    assert gap(result, toroid.refresh(middle, model, digits)) == 0
    path = toroid.Linear(*ends)
    curves = [
        toroid.along(path, model, digits, points=3, refresh=digits, repair=how)
        for how in (None, "repair")
    ]
    assert (curves[0].loss == curves[1].loss).all()


def test_a_dead_unit_stays_and_a_task_is_taken():
    model, (a, b) = pair(lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)))
    for state in (a, b):
        state["0.weight"][1] = 0
    x = torch.randn(64, 3).double()
    data = [(x[:40], x[:40, :1]), (x[40:], x[40:, :1])]
    task = toroid.tasks.regression
    result = toroid.repair(toroid.Linear(a, b)(0.5), model, (a, b), 0.5, data, task=task)
    assert all(v.isfinite().all() for v in result.values())
    assert (result["0.weight"][1] == 0).all()
    assert torch.allclose(result["0.bias"][1], (a["0.bias"][1] + b["0.bias"][1]) / 2)


def test_along_a_path(digits):
    model, ends = pair(lambda: toroid.mlp((1, 8, 8), classes=10, hidden=(9, 7)))
    path = toroid.Linear(*ends)
    curve = toroid.along(path, model, digits, points=3, refresh=digits, repair="repair")
    plain = toroid.along(path, model, digits, points=3)
    middle = toroid.repair(path(0.5), model, ends, 0.5, digits)
    assert curve.loss[1] == toroid.evaluate(middle, model, digits).loss
    assert (curve.loss[[0, 2]] == plain.loss[[0, 2]]).all()
    assert curve.loss[1] != plain.loss[1]


def test_wrong_use_is_told(digits):
    model, ends = pair(lambda: toroid.mlp((1, 8, 8), classes=10, hidden=(9,)))
    path = toroid.Linear(*ends)
    with pytest.raises(ValueError, match="'repair', 'rescale'"):
        toroid.repair(path(0.5), model, ends, 0.5, digits, how="mend")
    with pytest.raises(ValueError, match="from 0 to 1"):
        toroid.repair(path(0.5), model, ends, 1.5, digits)
    with pytest.raises(ValueError, match="pass refresh="):
        toroid.along(path, model, digits, repair="rescale")
    with pytest.raises(ValueError, match="'repair', 'rescale'"):
        toroid.along(path, model, digits, refresh=digits, repair="mend")
    with pytest.raises(ValueError, match="places from 0 to 1"):
        toroid.along(path, model, digits, refresh=digits, repair="repair", points=[-0.5, 1])
    bare, both = pair(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 5, bias=False), nn.ReLU(), nn.Linear(5, 10)))  # fmt: skip
    with pytest.raises(ValueError, match="'1' has no bias"):
        toroid.repair(toroid.Linear(*both)(0.5), bare, both, 0.5, digits)
    toroid.repair(toroid.Linear(*both)(0.5), bare, both, 0.5, digits, how="rescale")
    binary = toroid.binary_mlp((1, 8, 8), classes=10, hidden=(9,))
    state = binary.state_dict()
    with pytest.raises(ValueError, match="to repair"):
        toroid.repair(state, binary, (state, state), 0.5, digits)
