"""Networks of ±1: exact to the last bit, and every search beside all there is to search."""

import itertools

import numpy as np
import pytest
import torch
import toroid
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import random_element, random_signs
from torch.func import functional_call
from toroid import binary, data, models

SEEDS = st.integers(0, 10_000)


def fresh(maker, shape, seed, **options):
    """A network with fresh weights, and its state of ±1."""
    torch.manual_seed(seed)
    model = maker(shape, **options).eval()
    return model, binary.signs(model.state_dict())


def every_input(size):
    return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=size)))


@torch.no_grad()
def outputs(model, state, inputs):
    return functional_call(model, state, (inputs,))


NETWORKS = {
    "mlp": (models.binary_mlp, (9,), {"classes": 3, "hidden": (7, 5)}),
    "mlp of even size": (models.binary_mlp, (8,), {"classes": 2, "hidden": (5, 3)}),
    "committee": (models.binary_committee, (10,), {"hidden": 5}),
}


# --- symmetries ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@given(seed=SEEDS)
def test_a_permutation_and_flips_change_no_bit_of_any_output(name, seed):
    maker, shape, options = NETWORKS[name]
    model, state = fresh(maker, shape, seed, **options)
    symmetry = toroid.find_symmetries(model, every_input(*shape)[:2])
    permutations, _ = random_element(symmetry, seed)
    moved = toroid.permute(
        toroid.flip(state, random_signs(symmetry, seed), symmetry), permutations, symmetry
    )
    assert binary.hamming(state, moved) > 0
    inputs = every_input(*shape)
    assert torch.equal(outputs(model, moved, inputs), outputs(model, state, inputs))


@given(seed=SEEDS)
def test_the_same_for_convolutions_on_random_images(seed):
    model, state = fresh(models.binary_cnn, (1, 8, 8), seed, classes=3, width=0.3)
    generator = torch.Generator().manual_seed(seed)
    images = 2.0 * torch.randint(2, (50, 1, 8, 8), generator=generator) - 1
    symmetry = toroid.find_symmetries(model, images[:2])
    permutations, _ = random_element(symmetry, seed)
    moved = toroid.permute(
        toroid.flip(state, random_signs(symmetry, seed), symmetry), permutations, symmetry
    )
    assert binary.hamming(state, moved) > 0
    assert torch.equal(outputs(model, moved, images), outputs(model, state, images))


def test_units_flip_where_the_next_layer_can_follow():
    x = torch.ones(2, 9)
    mlp = toroid.find_symmetries(fresh(models.binary_mlp, (9,), 0, hidden=(7, 5))[0], x)
    assert [(g.size, g.flip is not None) for g in mlp.groups] == [(7, True), (5, True)]
    committee = toroid.find_symmetries(fresh(models.binary_committee, (9,), 0)[0], x)
    assert [(g.size, g.flip is not None) for g in committee.groups] == [(5, False)]
    for symmetry in (mlp, committee):  # a sign takes every scale away
        assert {s.fixed for g in symmetry.groups for s in g.scales} == {"sign"}
        assert symmetry.scales == ()
    state = {"1.weight": torch.ones(5, 9)}
    with pytest.raises(ValueError, match="no free scale, so there is no torus"):
        toroid.distance(state, state, committee)


def test_a_scale_ends_where_signs_begin():
    """What a binary layer reads or makes keeps its scale; a float layer further on has its own."""

    class Mixed(torch.nn.Sequential):
        pass

    model = Mixed(
        torch.nn.Linear(6, 5), torch.nn.ReLU(), models._BinaryLinear(5, 4, bias=False),
        torch.nn.ReLU(), torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2),
    )  # fmt: skip
    symmetry = toroid.find_symmetries(model, torch.randn(2, 6))
    fixed = {s.name: s.fixed for g in symmetry.groups for s in g.scales}
    assert fixed == {"0": "sign", "2": "sign", "4": ""}


# --- layers -------------------------------------------------------------------------------------


def test_training_and_evaluation_see_the_same_network():
    for maker, shape in ((models.binary_mlp, (1, 8, 8)), (models.binary_cnn, (1, 8, 8))):
        model, state = fresh(maker, shape, 0)
        images = data.load("digits-binary")[0].images[:20]
        expected = outputs(model, state, images)
        assert torch.equal(outputs(model, dict(model.state_dict()), images), expected)
        assert torch.equal(outputs(model.train(), dict(model.state_dict()), images), expected)


def test_the_gradient_passes_straight_through():
    layer = models._BinaryLinear(4, 3, bias=False).train()
    x, activation = torch.tensor([[1.0, -1.0, 1.0, 1.0]]), models._Sign().train()
    layer(x).sum().backward()
    assert torch.allclose(layer.weight.grad, (x / 2).expand(3, 4))  # as if it were linear
    z = torch.tensor([-1.5, -0.5, 0.0, 0.5, 1.5], requires_grad=True)
    activation(z).sum().backward()
    assert z.grad.tolist() == [0, 1, 1, 1, 0]
    assert activation(z).tolist() == [-1, -1, 0, 1, 1]


def test_fresh_weights_have_a_sign(monkeypatch):
    zeros = torch.nn.init.zeros_
    monkeypatch.setattr(torch.nn.Linear, "reset_parameters", lambda layer: zeros(layer.weight))
    layer = models._BinaryLinear(4, 3, bias=False)
    assert (layer.weight == 0.5).all()
    with pytest.raises(ValueError, match=r"'w' holds 0, one of 2 numbers that are not 1 or -1"):
        binary.signs({"w": torch.tensor([0.0, 1.0, 0.0])})


def test_a_committee_votes_on_two_classes_and_hidden_sizes_are_odd():
    with pytest.raises(ValueError, match="votes on 2 classes, not 3"):
        models.build("binary_committee", (9,), 3)
    for width in (0.01, 0.5, 1.0, 2.0):
        sizes = [len(p) for p in models.binary_mlp((9,), width=width).parameters()][:-1]
        assert all(size % 2 for size in sizes)


def test_the_algorithms_of_training_take_binary_networks():
    train, _ = data.load("digits-binary", subset=150)
    model = fresh(models.binary_mlp, train.shape, 0, hidden=(31,))[0]
    options = {"epochs": 20, "lr": 1.0, "batch_size": 50, "weight_decay": 0.0}

    def run(algorithm, **more):
        given = {"generator": torch.Generator().manual_seed(0), **options, **more}
        return getattr(toroid.training, algorithm)(model, train, **given)

    start = toroid.evaluate(model.state_dict(), model, train).error
    found = {
        "sgd": run("sgd"), "replicated_sgd": run("replicated_sgd", gmax=10.0),
        "adversarial": run("adversarial", confusion_epochs=5),
    }  # fmt: skip
    errors = {k: toroid.evaluate(t.state, model, train).error for k, t in found.items()}
    assert start > 0.7
    assert all(error < 0.35 for error in errors.values())
    assert found["replicated_sgd"].report["distance"] < 0.01


# --- evaluation in 8-bit integers ---------------------------------------------------------------


@pytest.mark.parametrize("maker", [models.binary_mlp, models.binary_committee, models.binary_cnn])
@given(seed=SEEDS, count=st.integers(1, 40), batch_size=st.integers(1, 50))
@settings(max_examples=15)
def test_integers_give_the_same_error_and_loss(maker, seed, count, batch_size):
    """Beside float products; the inputs hold zeros, and weights may be the shadow ones."""
    torch.manual_seed(seed)
    model = maker((1, 5, 5), classes=2, width=0.5)
    images = torch.randint(-1, 2, (count, 1, 5, 5)).float()
    labelled = data.Dataset(images, torch.randint(2, (count,)), 2)
    for state in (model.state_dict(), binary.signs(model.state_dict())):
        expected = toroid.evaluate(state, model, labelled, batch_size=batch_size)
        found = toroid.evaluate(state, model, labelled, batch_size=batch_size, precision="int8")
        assert found == expected
        assert all(v.dtype == torch.float32 for v in state.values())


def test_integers_are_what_is_multiplied(monkeypatch):
    products, multiply = [], torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", lambda *x: products.append(x) or multiply(*x))
    train = data.load("digits-binary", subset=100)[0]
    model, state = fresh(models.binary_mlp, train.shape, 0)
    toroid.evaluate(state, model, train)
    assert not products
    toroid.evaluate(state, model, train, precision="int8")
    assert [x.dtype for pair in products for x in pair] == [torch.int8] * 6


def test_integers_are_refused_where_they_would_change_the_result():
    train = data.load("digits", subset=100)[0]
    model, state = fresh(models.binary_mlp, train.shape, 0)
    with pytest.raises(ValueError, match=r"images of 'digits/train' are not of ±1"):
        toroid.evaluate(state, model, train, precision="int8")
    other = models.mlp(train.shape, hidden=(4,))
    with pytest.raises(ValueError, match=r"'int8', but the network has no linear layer of ±1"):
        toroid.evaluate(other.state_dict(), other, train, precision="int8")


# --- alignment ----------------------------------------------------------------------------------


def signed_permutations(units):
    for order in itertools.permutations(range(units)):
        for turned in itertools.product((-1, 1), repeat=units):
            yield torch.tensor(order), torch.tensor(turned)


@pytest.mark.parametrize("units", [1, 3, 5])
@given(seed=SEEDS)
@settings(max_examples=3)
def test_align_is_the_best_of_all_signed_permutations(units, seed):
    """With one hidden layer sequential matching is exact, in the overlap of the first layer."""
    (model, a), (_, b) = (
        fresh(models.binary_mlp, (11,), seed + k, classes=3, hidden=(units,)) for k in range(2)
    )
    symmetry = toroid.find_symmetries(model, torch.ones(2, 11))
    (group,) = symmetry.groups
    first = a["1.weight"].numpy(), b["1.weight"].numpy()
    best = max(
        (first[0] * (turned.numpy()[:, None] * first[1][order.numpy()])).sum()
        for order, turned in signed_permutations(units)
    )
    alignment = toroid.align(b, to=a, symmetry=symmetry)
    assert float((a["1.weight"] * alignment.state["1.weight"]).sum()) == best
    moved = toroid.permute(b, alignment.permutations, symmetry)
    moved = toroid.flip(moved, alignment.signs, symmetry)
    assert binary.hamming(moved, alignment.state) == 0
    assert binary.hamming(a, alignment.state) <= 0.5 + 0.5 * (units == 1)
    assert group.flip is not None


@given(seed=SEEDS)
def test_a_planted_element_is_undone(seed):
    model, state = fresh(models.binary_mlp, (31,), seed, hidden=(9, 7))
    symmetry = toroid.find_symmetries(model, torch.ones(2, 31))
    permutations, _ = random_element(symmetry, seed)
    moved = toroid.permute(
        toroid.flip(state, random_signs(symmetry, seed), symmetry), permutations, symmetry
    )
    back = toroid.align(moved, to=state, symmetry=symmetry).state
    assert binary.hamming(state, back) == 0


# --- paths --------------------------------------------------------------------------------------


@given(seed=SEEDS)
def test_a_hamming_path_flips_each_differing_weight_once(seed):
    (_, a), (_, b) = (fresh(models.binary_mlp, (9,), seed + k, hidden=(5, 3)) for k in range(2))
    path = toroid.Hamming(a, b, seed=seed)
    states = [path(k / path.count) for k in range(path.count + 1)]
    assert binary.hamming(a, states[0]) == binary.hamming(states[-1], b) == 0
    for k in range(path.count):
        changed = sum(int((states[k][n] != states[k + 1][n]).sum()) for n in a)
        assert changed == 1
        assert binary.hamming(a, states[k]) + binary.hamming(states[k], b) == pytest.approx(
            binary.hamming(a, b)
        )
    other = toroid.Hamming(a, b, seed=seed + 1)
    assert binary.hamming(path(0.5), other(0.5)) > 0


def test_an_order_is_followed_and_checked():
    a, b = {"u": torch.ones(2), "v": torch.ones(3)}, {"u": -torch.ones(2), "v": torch.ones(3)}
    b["v"][1] = -1
    path = toroid.Hamming(a, b, order=torch.tensor([2, 0, 1]))
    steps = [torch.cat([*path(k / 3).values()]).tolist() for k in range(4)]
    assert steps == [[1] * 5, [1, 1, 1, -1, 1], [-1, 1, 1, -1, 1], [-1, -1, 1, -1, 1]]
    with pytest.raises(ValueError, match=r"permutation of the 3 weights that differ.*\[0, 1\]"):
        toroid.Hamming(a, b, order=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"'u' holds 0.5, one of 2 numbers"):
        toroid.Hamming({**a, "u": torch.full((2,), 0.5)}, b)
    assert binary.hamming(a, b) == pytest.approx(3 / 5)


def small_task(seed, hidden=3, count=12):
    """A committee on few patterns, and two random states of it."""
    train, _ = data.load("teacher-student", subset=count)
    few = data.Dataset(train.images[..., :7].contiguous(), train.labels, 2, "few")
    (model, a), (_, b) = (
        fresh(models.binary_committee, few.shape, seed + k, hidden=hidden) for k in range(2)
    )
    return model, few, a, b


@pytest.mark.parametrize("seed", [0])
def test_a_greedy_order_tries_what_it_says(seed):
    """With one weight for each part and very many candidates each flip is the best there is."""
    model, few, a, b = small_task(seed)
    count = toroid.Hamming(a, b).count
    order = binary.greedy(a, b, model, few, steps=count, candidates=5 * count, seed=seed)
    assert sorted(order.tolist()) == list(range(count))
    path = toroid.Hamming(a, b, order=order)
    for k in range(count):
        rest = [path.flipped(torch.cat([order[:k], order[j : j + 1]])) for j in range(k, count)]
        scores = [toroid.evaluate(state, model, few) for state in rest]
        assert scores[0].error == min(score.error for score in scores)
        assert scores[0].loss <= min(s.loss for s in scores if s.error == scores[0].error) + 1e-6


def test_greedy_paths_are_lower_on_average():
    heights = []
    for seed in range(5):
        model, few, a, b = small_task(seed, hidden=5)
        order = binary.greedy(a, b, model, few, steps=8, candidates=8)
        found = [toroid.Hamming(a, b, order=order)]
        found += [toroid.Hamming(a, b, seed=seed) for seed in range(3)]
        errors = [toroid.along(path, model, few, points=9).error.mean() for path in found]
        heights.append((errors[0], np.mean(errors[1:])))
    greedy, random = np.mean(heights, 0)
    assert greedy < random
    with pytest.raises(ValueError, match="candidates is 0"):
        binary.greedy(a, b, model, few, candidates=0)


# --- sampling -----------------------------------------------------------------------------------


def every_state(model):
    """All states of a small network, flat, and the names and shapes of its weights."""
    (name,) = model.state_dict()
    shape = model.state_dict()[name].shape
    return every_input(shape.numel()), name, shape


@pytest.mark.parametrize("flips", [1, 2])
def test_at_a_fixed_temperature_annealing_samples_boltzmanns_distribution(flips):
    train, _ = data.load("random-patterns", subset=8)
    few = data.Dataset(train.images[..., :3].contiguous(), train.labels, 2, "few")
    model, _ = fresh(models.binary_committee, few.shape, 0, hidden=3)
    flat, name, shape = every_state(model)
    errors = np.array(
        [8 * toroid.evaluate({name: row.view(shape)}, model, few).error for row in flat]
    )
    weights = np.exp(-errors / 1.5)
    expected = np.bincount(errors.round().astype(int), weights, minlength=9) / weights.sum()
    chains = 1000
    runs = binary.anneal(
        model, few, generator=torch.Generator().manual_seed(0), sweeps=4, chains=chains, hot=1.5,
        cold=1.5, flips=flips,
    )  # fmt: skip
    last = np.array([8 * run.history["error"].iloc[-1] for run in runs]).round().astype(int)
    found = np.bincount(last, minlength=9) / chains
    assert np.abs(found - expected).max() < 4 * 0.5 / chains**0.5
    assert np.abs(np.bincount(errors.round().astype(int), minlength=9) / 512 - expected).max() > 0.1


def test_annealing_cools_and_reports():
    model, few, _, _ = small_task(0, hidden=5, count=10)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    runs = binary.anneal(
        model, few, generator=torch.Generator().manual_seed(1), sweeps=10, chains=3, hot=2.0,
        cold=0.05,
    )  # fmt: skip
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    for run in runs:
        error = toroid.evaluate(run.state, model, few).error
        assert run.history["error"].iloc[-1] == pytest.approx(error)
        assert bool(run.report["failed"]) == (error > 0)
        assert run.history["temperature"].iloc[0] == pytest.approx(2.0, rel=0.5)
        assert run.history["temperature"].is_monotonic_decreasing
        assert run.history["temperature"].iloc[-1] == pytest.approx(0.05, rel=0.1)
    assert min(toroid.evaluate(run.state, model, few).error for run in runs) == 0
    assert binary.hamming(runs[0].state, runs[1].state) > 0
    with pytest.raises(ValueError, match=r"positive numbers, got \{'cold': 0\}"):
        binary.anneal(model, few, generator=torch.Generator(), sweeps=1, cold=0)


# --- one bend -----------------------------------------------------------------------------------


def test_a_third_network_lowers_the_path():
    train, _ = data.load("hidden-manifold", subset=100)
    model, _ = fresh(models.binary_mlp, train.shape, 0, classes=2, hidden=(31,))
    options = {"lr": 3.0, "batch_size": 50, "weight_decay": 0.0}
    a, b = (
        binary.signs(
            toroid.training.sgd(
                fresh(models.binary_mlp, train.shape, seed, classes=2, hidden=(31,))[0], train,
                epochs=30, generator=torch.Generator().manual_seed(seed), **options,
            ).state
        )
        for seed in range(2)
    )  # fmt: skip
    chain = binary.bend(
        a, b, model, train, epochs=40, generator=torch.Generator().manual_seed(0), **options
    )
    corner = chain.path(0.5)
    for t, end in ((0.0, a), (0.5, corner), (1.0, b)):
        assert binary.hamming(chain.path(t), end) == 0
    for t in np.linspace(0, 0.5, 5):  # a shortest way to the corner
        there, rest = binary.hamming(a, chain.path(t)), binary.hamming(chain.path(t), corner)
        assert there + rest == pytest.approx(binary.hamming(a, corner))
    straight = toroid.along(toroid.Hamming(a, b), model, train, points=17)
    bent = toroid.along(chain.path, model, train, points=17)
    assert bent.error.max() < 0.5 * straight.error.max()
    assert toroid.evaluate(corner, model, train).error < 0.02
    a64, b64 = ({k: v.double() for k, v in end.items()} for end in (a, b))
    exact = binary.bend(a64, b64, model, train, epochs=1, generator=torch.Generator())
    assert exact.path(0.5)["1.weight"].dtype == torch.float64
    with pytest.raises(ValueError, match=r"toroid\.binary.signs makes"):
        binary.bend(model.state_dict(), b, model, train, epochs=1, generator=torch.Generator())


def test_a_checkpoint_of_a_bend_between_other_ends_is_refused(tmp_path):
    train, _ = data.load("hidden-manifold", subset=20)
    networks = [fresh(models.binary_mlp, train.shape, i, classes=2, hidden=(3,))[0] for i in (0, 1)]
    a, b = (binary.signs(network.state_dict()) for network in networks)
    options = {"epochs": 1, "checkpoint": toroid.training.Checkpoint(tmp_path / "bend")}

    def run(*ends):
        # the corner starts where the ends agree, which the order does not change
        return binary.bend(*ends, networks[0], train, generator=torch.Generator(), **options)

    first = run(a, b)
    assert binary.hamming(run(a, b).path(0.5), first.path(0.5)) == 0
    with pytest.raises(ValueError, match="saved by another run: ends of digests"):
        run(b, a)


# --- data ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", data.PATTERNS)
def test_patterns_are_always_the_same(name):
    train, test = data.load(name)
    assert (train.shape, len(train), len(test), train.classes) == ((1, 1, 201), 10_000, 2_000, 2)
    for part in (train, test):
        assert set(part.images.unique().tolist()) == {-1, 1}
        assert 0.4 < part.labels.double().mean() < 0.6
    again, _ = data.load(name, subset=100)
    assert torch.equal(again.images, train.take(100).images)
    assert len(train.images.unique(dim=0)) == len(train)


def test_patterns_are_what_they_are_called():
    shares = {}
    for name in data.PATTERNS:
        train, _ = data.load(name)
        x = train.images.flatten(1)
        spectrum = torch.linalg.eigvalsh(x.T @ x / len(x)).flip(0)
        shares[name] = float(spectrum[:25].sum() / spectrum.sum())
    assert shares["hidden-manifold"] > 0.6 > 0.2 > shares["random-patterns"]  # 25 directions of 201
    (train, test), (noise, _) = (data.load(n) for n in ("teacher-student", "random-patterns"))
    for part, learnable in ((train, True), (noise, False)):
        x, y = part.images.flatten(1), 2.0 * part.labels - 1
        rule = torch.linalg.lstsq(x[:8000], y[:8000, None]).solution[:, 0]
        agreement = ((x[8000:] @ rule) * y[8000:] > 0).double().mean()
        assert (agreement > 0.75) == learnable
        assert (agreement < 0.55) != learnable
    assert test.name == "teacher-student/test"


def test_thresholded_images_are_those_above_half():
    (grey, _), (black, _) = (data.load(n, subset=40) for n in ("digits", "digits-binary"))
    from sklearn.datasets import load_digits

    known = {tuple(np.where(i.ravel() > 8, 1, -1)) for i in load_digits().images}
    assert {tuple(i.flatten().int().tolist()) for i in black.images} <= known
    assert torch.equal(grey.labels, black.labels)
    assert black.classes == 10
    with pytest.raises(ValueError, match=r"no data set 'cifar10-binary'.*mnist-binary"):
        data.load("cifar10-binary")
