"""SGD against its formula, and the promises around it."""

import copy
import dataclasses
import functools
import inspect
import math
import os
import platform
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import toroid
import typing_extensions
from hypothesis import given
from hypothesis import strategies as st
from networks import gap
from torch.utils.checkpoint import checkpoint
from toroid import training
from toroid.data import Dataset
from toroid.training import _confusion, _loop, _replicas


@pytest.fixture(scope="module")
def digits():
    return toroid.data.load("digits")[0].take(200)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def by_hand(model, data, *, epochs, batch_size, lr, momentum, nesterov, weight_decay):
    """The update rule in numbers: g = ∇L + λ w; v = μ v + g; w -= η (g + μ v) or η v, η a cosine."""
    state = {k: v.detach().clone().requires_grad_() for k, v in model.state_dict().items()}
    velocity = dict.fromkeys(state)
    order, step = generator(), 0
    batches = len(data) // batch_size
    for _ in range(epochs):
        draw = torch.randperm(len(data), generator=order)
        for k in range(batches):
            batch = draw[k * batch_size : (k + 1) * batch_size]
            output = torch.func.functional_call(model, state, (data.images[batch],))
            loss = torch.nn.functional.cross_entropy(output, data.labels[batch])
            gradients = torch.autograd.grad(loss, list(state.values()))
            rate = lr * training.SCHEDULES["cosine"](step / (epochs * batches))
            for name, gradient in zip(state, gradients, strict=True):
                g = gradient + weight_decay * state[name].detach()
                velocity[name] = g if velocity[name] is None else momentum * velocity[name] + g
                move = g + momentum * velocity[name] if nesterov else velocity[name]
                state[name] = (state[name].detach() - rate * move).requires_grad_()
            step += 1
    return {k: v.detach() for k, v in state.items()}


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_its_update_rule(digits, nesterov):
    torch.manual_seed(0)
    model = toroid.mlp(digits.shape, hidden=(8,)).double()
    data = Dataset(digits.images.double(), digits.labels, 10)
    rule = {
        "epochs": 3,
        "batch_size": 64,
        "lr": 0.05,
        "momentum": 0.8,
        "nesterov": nesterov,
        "weight_decay": 0.01,
    }
    trained = training.sgd(model, data, generator=generator(), **rule)
    assert gap(trained.state, by_hand(model, data, **rule)) < 1e-12
    assert list(trained.history.columns) == ["epoch", "lr", "loss", "error"]
    assert trained.history["loss"].is_monotonic_decreasing


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("architecture", ["mlp", "lenet", "vgg16_bn", "resnet18"])
def test_many_at_once_are_the_same_as_one_by_one(digits, architecture, stacked):
    data = Dataset(digits.images.double(), digits.labels, 10)
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        models.append(toroid.models.build(architecture, data.shape, 10, 0.05).double())
    rule = {"epochs": 2, "batch_size": 50, "lr": 0.02, "augment": True}
    many = training.sgd_many(
        models, data, generators=[generator(s) for s in range(3)], stacked=stacked, **rule
    )
    for seed, (model, trained) in enumerate(zip(models, many, strict=True)):
        alone = training.sgd(model, data, generator=generator(seed), **rule)
        assert gap(trained.state, alone.state) < 1e-9
        assert trained.history["loss"].tolist() == pytest.approx(alone.history["loss"].tolist())


@pytest.mark.parametrize("architecture", list(toroid.models.ARCHITECTURES))
def test_every_architecture_learns_as_shipped(architecture):
    binary = architecture.startswith("binary")
    train, _ = toroid.data.load("digits-binary" if binary else "digits")
    if architecture == "binary_committee":
        train = Dataset(train.images, train.labels % 2, 2)
    torch.manual_seed(0)
    model = toroid.models.build(architecture, train.shape, train.classes, 1.0 if binary else 0.25)
    rule = {"epochs": 10, "batch_size": 64, "lr": 0.02, "warmup": 1, "schedule": "constant"}
    trained = training.sgd(model, train, generator=generator(), **rule)
    chance = math.log(train.classes)
    assert toroid.evaluate(trained.state, model, train).loss < 0.6 * chance


@pytest.mark.parametrize("size", [(32, 32), (8, 8), (7, 5)])
def test_fresh_weights_of_vgg16_keep_the_size_of_the_signal(size):
    torch.manual_seed(0)
    signal, sizes = torch.randn(32, 3, *size), []
    with torch.no_grad():
        for layer in toroid.vgg16((3, *size), width=0.5):
            signal = layer(signal)
            if isinstance(layer, torch.nn.ReLU):
                sizes.append(float(signal.square().mean().sqrt()))
    assert len(sizes) == 13
    assert min(sizes) > 0.5  # maxima of four let it grow, nothing lets it die
    assert max(sizes) < 10


def test_replicas_are_drawn_as_the_model_is():
    model = toroid.vgg16((3, 8, 8), width=0.25)
    other = _replicas.fresh(model, generator())
    for name, weight in model.state_dict().items():
        drawn = other.state_dict()[name]
        assert not torch.equal(drawn, weight) or (weight == 0).all()
        if weight.numel() > 1000:
            assert float(drawn.std() / weight.std()) == pytest.approx(1, abs=0.1)


def test_a_warm_up_raises_the_rate_step_by_step(digits):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).double()
    data = Dataset(digits.images.double(), digits.labels, 10)
    rule = {"batch_size": 100, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"}
    warm = training.sgd(model, data, epochs=2, lr=0.4, warmup=2, generator=generator(), **rule)
    state, order = dict(model.state_dict()), generator()
    walk = Walk(data, 100, 2)
    for step, batch in enumerate(walk(order)):  # 4 steps, of rates 0.1 to 0.4
        gradient = walk.gradient(model, state, batch)
        state = {k: w - 0.1 * (step + 1) * gradient[k] for k, w in state.items()}
    assert gap(warm.state, state) < 1e-12


def test_a_training_that_learns_nothing_says_so(digits):
    model = toroid.mlp(digits.shape, hidden=(8,))
    for algorithm in (training.sgd, training.sam, training.swa, training.entropy_sgd):
        report = algorithm(model, digits, epochs=0, generator=generator()).report
        assert (
            report["failed"].startswith("the training error is ")
            or "nothing was" in report["failed"]
        )
    dead = toroid.mlp(digits.shape, hidden=(8,))
    torch.nn.init.zeros_(dead[1].weight)
    torch.nn.init.constant_(dead[1].bias, -1.0)
    report = training.sgd(dead, digits, epochs=2, generator=generator()).report
    assert report["failed"].startswith("nothing was learnt: the training error is ")


@pytest.mark.parametrize("stacked", [False, True])
def test_bfloat16_is_near_and_leaves_the_weights_in_their_precision(digits, stacked):
    torch.manual_seed(0)
    models = [toroid.vgg16_bn(digits.shape, width=0.05) for _ in range(2)]
    rule = {"epochs": 2, "batch_size": 50, "lr": 0.02, "stacked": stacked}

    def run(precision):
        generators = [generator(0), generator(1)]
        return training.sgd_many(models, digits, generators=generators, precision=precision, **rule)

    for exact, rough in zip(run("float32"), run("bfloat16"), strict=True):
        assert rough.state["0.weight"].dtype == torch.float32
        assert gap(exact.state, rough.state) > 0
        assert rough.history["loss"].tolist() == pytest.approx(exact.history["loss"], rel=0.05)


class Walk:
    """What the slow references share: batches in the order that training takes them, gradients."""

    def __init__(self, data, batch_size, epochs):
        self.data, self.size, self.epochs = data, batch_size, epochs
        self.batches = len(data) // batch_size

    def __call__(self, order):
        for _ in range(self.epochs):
            draw = torch.randperm(len(self.data), generator=order)
            for k in range(self.batches):
                yield draw[k * self.size : (k + 1) * self.size]

    def rate(self, step, lr):
        return lr * training.SCHEDULES["cosine"](step / (self.epochs * self.batches))

    def gradient(self, model, state, batch):
        state = {k: v.detach().requires_grad_() for k, v in state.items()}
        output = torch.func.functional_call(model, state, (self.data.images[batch],))
        loss = torch.nn.functional.cross_entropy(output, self.data.labels[batch])
        return dict(zip(state, torch.autograd.grad(loss, list(state.values())), strict=True))


class Momentum:
    """SGD with momentum in numbers: v = μ v + g + λ w; w -= η v."""

    def __init__(self, momentum, decay):
        self.momentum, self.decay, self.velocity = momentum, decay, {}

    def __call__(self, state, gradient, lr):
        for k, w in state.items():
            g = gradient[k] + self.decay * w
            self.velocity[k] = self.momentum * self.velocity[k] + g if k in self.velocity else g
            state[k] = w - lr * self.velocity[k]


@pytest.fixture
def problem(digits):
    torch.manual_seed(0)
    model = toroid.mlp(digits.shape, hidden=(8,)).double()
    data = Dataset(digits.images.double(), digits.labels, 10)
    return model, data, {k: v.clone() for k, v in model.state_dict().items()}


RULE = {"epochs": 3, "batch_size": 64, "lr": 0.05, "momentum": 0.8, "nesterov": False, "weight_decay": 0.01}  # fmt: skip


def test_sam_is_its_update_rule(problem):
    model, data, state = problem
    walk, update = Walk(data, 64, 3), Momentum(0.8, 0.01)
    for step, batch in enumerate(walk(generator())):
        g = walk.gradient(model, state, batch)
        norm = sum(float((x**2).sum()) for x in g.values()) ** 0.5
        uphill = {k: w + 0.1 * g[k] / norm for k, w in state.items()}
        update(state, walk.gradient(model, uphill, batch), walk.rate(step, 0.05))
    trained = training.sam(model, data, generator=generator(), rho=0.1, **RULE)
    assert gap(trained.state, state) < 1e-12


def test_sam_without_a_step_uphill_is_sgd(problem):
    model, data, _ = problem
    first = training.sam(model, data, generator=generator(), rho=0.0, **RULE).state
    assert gap(first, training.sgd(model, data, generator=generator(), **RULE).state) < 1e-14


def test_swa_is_the_mean_of_the_last_epochs(problem):
    model, data, _ = problem
    rule = {**RULE, "schedule": "constant"}
    ends = [
        training.sgd(model, data, generator=generator(), **{**rule, "epochs": e}).state
        for e in (3, 4)
    ]
    trained = training.swa(model, data, generator=generator(), start=0.5, **{**rule, "epochs": 4})
    mean = {k: (ends[0][k] + ends[1][k]) / 2 for k in ends[0]}
    assert gap(trained.state, mean) < 1e-12


def test_entropy_sgd_is_its_update_rule(problem):
    model, data, w = problem
    walk, update, draw = Walk(data, 64, 3), Momentum(0.8, 0.0), generator()
    x, mean, coupling = dict(w), dict(w), 0.2
    for step, batch in enumerate(walk(draw)):
        eta = walk.rate(step, 0.1)
        g = walk.gradient(model, x, batch)
        for k in x:
            pull = g[k] + 0.01 * x[k] + coupling * (x[k] - w[k])
            kick = torch.randn((1, *x[k].shape), generator=draw)[0].double()
            x[k] = x[k] - eta * pull + 0.3 * eta**0.5 * kick
            mean[k] = 0.6 * mean[k] + 0.4 * x[k]
        if step % 4 == 3:
            update(w, {k: w[k] - mean[k] for k in w}, walk.rate(step, 0.5))
            x, mean, coupling = dict(w), dict(w), coupling * 1.5
    trained = training.entropy_sgd(
        model, data, generator=generator(), inner=4, inner_lr=0.1, averaging=0.6, noise=0.3,
        coupling=0.2, growth=0.5, **{**RULE, "lr": 0.5},
    )  # fmt: skip
    assert gap(trained.state, w) < 1e-12


def test_replicated_sgd_is_its_update_rule(problem):
    model, data, own = problem
    first = generator()

    def seed():
        return int(torch.randint(2**62, (), generator=first))

    def drawn_afresh():
        torch.manual_seed(seed())
        layers = [torch.nn.Linear(*size, dtype=torch.float64) for size in ((64, 8), (8, 10))]
        return {
            f"{place}.{name}": weight.detach()
            for place, layer in zip((1, 3), layers, strict=True)
            for name, weight in layer.named_parameters()
        }

    states = [own, drawn_afresh(), drawn_afresh()]
    orders = [generator(seed()) for _ in states]
    walk, updates = Walk(data, 64, 3), [Momentum(0.8, 0.01) for _ in states]

    def centre():
        return {k: sum(s[k] for s in states) / 3 for k in states[0]}

    def distance():
        c = centre()
        return sum(float(((s[k] - c[k]) ** 2).sum()) for s in states for k in c) / 3

    losses = [toroid.evaluate(s, model, data).loss for s in states]
    coupling = sum(losses) / 3 / distance()
    for step, batches in enumerate(zip(*(walk(o) for o in orders), strict=True)):
        c = centre()
        for state, batch, update in zip(states, batches, updates, strict=True):
            g = walk.gradient(model, state, batch)
            pull = {k: g[k] / 3 + coupling * 2 / 3 * (state[k] - c[k]) for k in c}
            update(state, pull, walk.rate(step, 3 * 0.05))
        if (step + 1) % walk.batches == 0:
            coupling *= 10 ** (1 / 3)
    trained = training.replicated_sgd(model, data, generator=generator(), gmax=10.0, **RULE)
    assert gap(trained.state, centre()) < 1e-10
    assert "not collapsed" in trained.report["failed"]
    assert trained.history["coupling"].iloc[-1] == pytest.approx(coupling / 10 ** (1 / 3))


def test_replicas_collapse(digits):
    torch.manual_seed(0)
    model = toroid.mlp(digits.shape, hidden=(64,))
    rule = {"epochs": 60, "batch_size": 20, "gmax": 100.0}
    trained = training.replicated_sgd(model, digits, generator=generator(), **rule)
    assert trained.report["failed"] == ""
    assert trained.report["distance"] < 0.01
    assert trained.history["distance"].iloc[0] > 0.3
    assert trained.report["centre_error"] == pytest.approx(
        sum(trained.report["replica_errors"]) / 3, abs=0.02
    )
    assert trained.report["centre_error"] == toroid.evaluate(trained.state, model, digits).error


def test_replicas_that_are_near_but_not_alike_have_failed(digits, monkeypatch):
    """Most weights may agree where the few that matter do not."""
    monkeypatch.setattr(_replicas, "_relative", lambda networks: 0.005)
    torch.manual_seed(0)
    model = toroid.mlp(digits.shape, hidden=(64,))
    trained = training.replicated_sgd(model, digits, epochs=40, gmax=1e-3, generator=generator())
    assert trained.report["centre_error"] > max(trained.report["replica_errors"]) + 0.01
    assert "the centre errs on" in trained.report["failed"]


def test_an_adversarial_start_generalises_worse():
    train, test = toroid.data.load("digits")
    few = train.take(300)
    torch.manual_seed(0)
    model = toroid.mlp(train.shape, hidden=(64,))
    bad = training.adversarial(model, few, epochs=60, generator=generator(), confusion_lr=0.5)
    good = training.sgd(model, few, epochs=60, generator=generator())
    assert bad.report["failed"] == ""
    assert bad.report["confusion_error"] <= 1e-4
    assert toroid.evaluate(bad.state, model, few).error == 0
    errors = [toroid.evaluate(s.state, model, test).error for s in (bad, good)]
    assert errors[0] > 1.3 * errors[1]
    assert set(bad.history["labels"]) == {"random", "true"}


def test_the_confusion_set_has_holes_and_labels_that_mean_nothing(digits):
    few = training.Adversarial(epochs=1, repeats=3, zeroed=0.25)
    confusion = _confusion._random_labels(digits, few, generator())
    assert len(confusion) == 3 * len(digits)
    changed = confusion.images != digits.images.repeat_interleave(3, 0)
    assert (confusion.images[changed] == 0).all()
    assert float(changed[digits.images.repeat_interleave(3, 0) != 0].float().mean()) == pytest.approx(0.25, abs=0.02)  # fmt: skip
    right = (confusion.labels == digits.labels.repeat_interleave(3)).float().mean()
    assert float(right) == pytest.approx(0.1, abs=0.05)


ALGORITHMS = {
    "sgd": {"augment": True},
    "replicated_sgd": {"gmax": 10.0},
    "adversarial": {"confusion_epochs": 4, "confusion_lr": 0.5},
    "sam": {},
    "swa": {"start": 0.25},
    "entropy_sgd": {"inner": 3},
}


@pytest.mark.parametrize("saves", [1, 3, 5])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_training_that_was_cut_off_goes_on_with_the_same_bits(
    digits, tmp_path, monkeypatch, algorithm, saves
):
    if saves > 4 and algorithm != "adversarial":
        pytest.skip("it saves once in each of four epochs")
    torch.manual_seed(0)
    model = toroid.vgg16_bn(digits.shape, width=0.02)
    checkpoint = training.Checkpoint(tmp_path / "new" / "run.safetensors")

    def run(**options):
        rule = {"epochs": 4, "batch_size": 50, "lr": 0.02, **ALGORITHMS[algorithm]}
        return getattr(training, algorithm)(model, digits, generator=generator(), **rule, **options)

    whole = run()
    save, count = training.Checkpoint.save, 0

    def save_and_die(self, *args):
        nonlocal count
        save(self, *args)
        count += 1
        if count == saves:
            raise KeyboardInterrupt

    monkeypatch.setattr(training.Checkpoint, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=checkpoint)
    monkeypatch.setattr(training.Checkpoint, "save", save)
    resumed = run(checkpoint=checkpoint)
    assert gap(whole.state, resumed.state) == 0
    assert whole.history.equals(resumed.history)
    assert whole.report == resumed.report
    checkpoint.remove()
    assert list(checkpoint.path.parent.iterdir()) == []


def test_a_checkpoint_removes_its_own_files_only(tmp_path):
    host, dead = platform.node(), subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    others = [
        "run.csv", "run.json", "run.txt.part", "run[1].safetensors", "run1.safetensors",
        "run.true.safetensors", f"run.safetensors.{host}-{os.getpid()}-1f.part",
        f"run.safetensors.elsewhere-{dead.pid}-1f.part",
    ]  # fmt: skip
    mine = [
        "run.safetensors", "run.safetensors.true", f"run.safetensors.{host}-{dead.pid}-1f.part",
        f"run.safetensors.random.{host}-{dead.pid}-1f.part",
    ]  # fmt: skip
    for name in (*others, *mine):
        (tmp_path / name).touch()
    training.Checkpoint(tmp_path / "run.safetensors").remove()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(others)
    training.Checkpoint(tmp_path / "run[1].safetensors").remove()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted({*others} - {"run[1].safetensors"})
    training.Checkpoint(tmp_path / "run").remove()  # a name without an ending
    assert (tmp_path / "run.csv").exists()


@pytest.mark.parametrize(
    ("algorithm", "change", "message"),
    [
        ("sgd", {"epochs": 3}, "epochs 2, now 3"),
        ("sgd", {"lr": 0.2}, r"lr 0\.02, now 0\.2"),
        ("sam", {"rho": 0.2}, r"rho 0\.05, now 0\.2"),
        ("adversarial", {"confusion_lr": 0.2}, r"confusion_lr 0\.1, now 0\.2"),
        ("replicated_sgd", {"replicas": 4}, r"state\.1\.bias \[3, 8\], now \[4, 8\]"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(digits, tmp_path, algorithm, change, message):
    model, file = toroid.mlp(digits.shape, hidden=(8,)), tmp_path / "run.safetensors"
    rule = {"epochs": 2, "batch_size": 50, "lr": 0.02}
    rule |= {"confusion_epochs": 2} if algorithm == "adversarial" else {}
    options = {"generator": generator(), "checkpoint": training.Checkpoint(file)}
    train = getattr(training, algorithm)
    train(model, digits, **rule, **options)
    with pytest.raises(ValueError, match=rf"was saved by another run: .*{message}.* remove that"):
        train(model, digits, **{**rule, **change}, **options)
    with pytest.raises(ValueError, match="images 200, now 100"):
        train(model, digits.take(100), **rule, **options)
    for hidden in ((8, 8), (9,), ()):
        with pytest.raises(ValueError, match=r"saved by another run: state\.\d\.bias"):
            train(toroid.mlp(digits.shape, hidden=hidden), digits, **rule, **options)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("other", ["generator", "first weights", "data"])
def test_a_checkpoint_from_another_beginning_is_refused(digits, tmp_path, algorithm, other):
    begins = {"first weights": toroid.mlp(digits.shape, hidden=(8,)), "generator": 0,
              "data": digits}  # fmt: skip
    labels = digits.labels.clone()
    labels[3] = (labels[3] + 1) % digits.classes
    others = {"first weights": toroid.mlp(digits.shape, hidden=(8,)), "generator": 1,
              "data": dataclasses.replace(digits, labels=labels)}  # fmt: skip
    rule = {"epochs": 2, "batch_size": 50, **ALGORITHMS[algorithm]}
    checkpoint = training.Checkpoint(tmp_path / "run.safetensors")

    def train(begun):
        drawn = torch.Generator().manual_seed(begun["generator"])
        options = {"generator": drawn, "checkpoint": checkpoint}
        return getattr(training, algorithm)(
            begun["first weights"], begun["data"], **rule, **options
        )

    first = train(begins)
    with pytest.raises(ValueError, match=rf"saved by another run: .*{other} of digest"):
        train(begins | {other: others[other]})
    assert gap(train(begins).state, first.state) == 0


def smoothed(amount, kind=torch.nn.functional.cross_entropy):
    return lambda outputs, targets: kind(outputs, targets.long(), label_smoothing=amount)


class Smoothed:
    def __init__(self, amount):
        self.amount = amount

    def __call__(self, outputs, targets):
        return smoothed(self.amount)(outputs, targets)


def other_tasks():
    """Two losses each time, of one name."""
    entropy, classes = torch.nn.functional.cross_entropy, torch.ones(10)
    yield smoothed(0.0), smoothed(0.1)
    yield Smoothed(0.0), Smoothed(0.1)
    yield torch.nn.CrossEntropyLoss(), torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    yield torch.nn.CrossEntropyLoss(classes), torch.nn.CrossEntropyLoss(torch.arange(10.0))
    yield functools.partial(entropy, reduction="mean"), functools.partial(entropy, reduction="sum")
    yield Smoothed(0.0).__call__, Smoothed(0.1).__call__
    yield (lambda out, y: entropy(out, y.long())), (lambda out, y: 2 * entropy(out, y.long()))


@pytest.mark.parametrize("index", range(7))
def test_a_checkpoint_of_another_task_of_the_same_name_is_refused(digits, tmp_path, index):
    model, checkpoint = toroid.mlp(digits.shape, hidden=(4,)), training.Checkpoint(tmp_path / "run")

    def train(loss):
        return training.sgd(
            model, digits, epochs=1, generator=generator(), checkpoint=checkpoint,
            task=toroid.tasks.classification(loss=loss),
        )  # fmt: skip

    first = train([*other_tasks()][index][0])
    again, other = [*other_tasks()][index]
    assert gap(train(again).state, first.state) == 0
    with pytest.raises(ValueError, match="saved by another run: "):
        train(other)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_checkpoint_of_another_network_of_the_same_shapes_is_refused(digits, tmp_path, algorithm):
    checkpoint = training.Checkpoint(tmp_path / "run")

    def train(change):
        torch.manual_seed(0)
        model = toroid.mlp(digits.shape, hidden=(4,))
        change(model)
        options = {"epochs": 1, "generator": generator(), "checkpoint": checkpoint}
        return getattr(training, algorithm)(model, digits, **options, **ALGORITHMS[algorithm])

    def frozen(model):
        model[1].weight.requires_grad_(False)

    def tanh(model):
        model[2] = torch.nn.Tanh()

    def hooked(model):
        model[2].register_forward_hook(lambda module, inputs, outputs: 2 * outputs)

    first = train(lambda model: None)
    assert gap(train(lambda model: model.eval()).state, first.state) == 0
    for change in (tanh, hooked, frozen):
        with pytest.raises(ValueError, match="saved by another run: "):
            train(change)


def test_a_checkpoint_tells_what_is_trained_and_how_statistics_move(tmp_path):
    """A bias of many inputs, and a momentum of BatchNorm, are little of a step."""
    images = 2 * torch.rand(48, 1, 28, 28, generator=generator())
    train = Dataset(images, torch.arange(48) % 3, 3)
    options = {"epochs": 1, "batch_size": 16, "lr": 0.1}

    def run(**change):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(784, 32),
            torch.nn.BatchNorm1d(32, momentum=change.get("momentum", 0.1)), torch.nn.Linear(32, 3),
        )  # fmt: skip
        model[1].bias.requires_grad_(not change.get("frozen"))
        checkpoint = training.Checkpoint(tmp_path / "run")
        return training.sgd(model, train, generator=generator(), checkpoint=checkpoint, **options)

    run()
    for change, told in (
        ({"frozen": True}, "what is trained 6 tensors"),
        ({"momentum": 0.5}, "its first"),
    ):
        with pytest.raises(ValueError, match=f"saved by another run: {told}"):
            run(**change)


def test_what_draws_from_elsewhere_goes_on(digits, tmp_path):
    def noisy(outputs, targets):
        return torch.nn.functional.cross_entropy(outputs + torch.randn_like(outputs), targets)

    def train():
        torch.manual_seed(1)
        model = toroid.mlp(digits.shape, hidden=(4,))
        torch.seed()
        task = toroid.tasks.classification(loss=noisy)
        options = {"generator": generator(), "checkpoint": training.Checkpoint(tmp_path / "run")}
        return training.sgd(model, digits, epochs=2, task=task, **options)

    first = train()
    assert gap(train().state, first.state) == 0


def test_what_counts_as_it_runs_goes_on(digits, tmp_path):
    """The run itself is not refused, in this process or in another."""
    seen = []

    def counted():
        calls = 0

        def loss(outputs, targets):
            nonlocal calls
            calls += 1
            seen.append(calls)
            return torch.nn.functional.cross_entropy(outputs, targets)

        return toroid.tasks.classification(loss=loss)

    class Counting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.calls = toroid.mlp(digits.shape, hidden=(4,)), 0
            self.act = self.own

        def own(self, x):
            self.calls += 1
            return x

        def forward(self, x):
            return self.act(self.layers(x))

    def train(task):
        torch.manual_seed(0)
        options = {"generator": generator(), "checkpoint": training.Checkpoint(tmp_path / "run")}
        return training.sgd(Counting(), digits, epochs=2, task=task, **options)

    same = counted()
    first = train(same)
    for task in (same, counted()):
        assert gap(train(task).state, first.state) == 0
    assert len(seen) > 4


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_cannot_be_trained_is_told(digits, algorithm):
    def model():
        return toroid.mlp(digits.shape, hidden=(4,))

    def train(network, data):
        options = {"epochs": 1, "generator": generator(), **ALGORITHMS[algorithm]}
        return getattr(training, algorithm)(network, data, **options)

    empty, broken = Dataset(digits.images[:0], digits.labels[:0], 10, "few"), model()
    with torch.no_grad():
        broken[1].weight[0, 0] = torch.nan
    for network, data, told in (
        (model().requires_grad_(False), digits, "every weight is frozen"),
        (model().to("meta"), digits, "on the meta device, where it has no numbers"),
        (broken, digits, "'1.weight' contains NaN"),
        (model(), empty, "the data set 'few' is empty"),
    ):
        with pytest.raises(ValueError, match=told):
            train(network, data)


@pytest.mark.parametrize(
    ("models", "generators", "told"),
    [
        (0, 0, "takes at least one model"),
        (2, 1, "2 models, but 1 generators"),
        (1, None, "generators is None; it takes a list"),
        (1, torch.Generator(), "it takes a list of torch.Generator"),
    ],
)
def test_many_models_take_as_many_generators(digits, models, generators, told):
    several = [toroid.mlp(digits.shape) for _ in range(models)]
    given = [generator()] * generators if isinstance(generators, int) else generators
    with pytest.raises(ValueError, match=told):
        training.sgd_many(several, digits, generators=given, epochs=1)


def test_a_buffer_that_is_no_number_is_trained_beside(digits):
    model = toroid.mlp(digits.shape, hidden=(4,))
    model.register_buffer("unread", torch.tensor(torch.nan))
    trained = training.sgd(model, digits, epochs=1, generator=generator())
    assert trained.state["unread"].isnan()


@pytest.mark.parametrize("wrong", [None, 0, "numpy"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_generator_is_wanted(digits, algorithm, wrong):
    model = toroid.mlp(digits.shape)
    before, drawn = torch.get_rng_state(), np.random.default_rng() if wrong == "numpy" else wrong
    with pytest.raises(ValueError, match=r"takes a torch\.Generator on the CPU, e\.g\."):
        getattr(training, algorithm)(
            model, digits, epochs=1, generator=drawn, **ALGORITHMS[algorithm]
        )
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("task", [toroid.tasks.classification, toroid.tasks.regression])
def test_no_gradient_reaches_what_the_caller_gave(digits, task):
    model, images = toroid.mlp(digits.shape, hidden=(4,)), digits.images.clone().requires_grad_()
    number = task is toroid.tasks.regression
    targets = torch.rand(200, 10, requires_grad=True) if number else digits.labels
    held = [images, *([targets] if number else []), *model.parameters()]
    data = [(images, targets)]
    kinds = [data] if number else [data, dataclasses.replace(digits, images=images)]
    a, b = (toroid.mlp(digits.shape, hidden=(4,)).state_dict(keep_vars=True) for _ in range(2))
    held += [*a.values(), *b.values()]
    for kind in kinds:
        options = {"epochs": 1, "task": task}
        training.sgd(model, kind, generator=generator(), **options)
        toroid.bend(a, b, model, kind, generator=generator(), **options)
    assert [x.grad for x in held] == [None] * len(held)


def test_batches_of_another_run_are_refused(digits, tmp_path):
    model, checkpoint = toroid.mlp(digits.shape, hidden=(8,)), training.Checkpoint(tmp_path / "run")
    batches = [(digits.images[i::4], digits.labels[i::4]) for i in range(4)]
    options = {"epochs": 1, "checkpoint": checkpoint}
    training.sgd(model, batches, generator=generator(), **options)
    batches[2] = (batches[2][0] + 1, batches[2][1])
    with pytest.raises(ValueError, match="saved by another run: data of digest"):
        training.sgd(model, batches, generator=generator(), **options)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_training_is_in_the_precision_of_the_weights(digits, algorithm):
    model = toroid.mlp(digits.shape, hidden=(8,)).double()
    rule = {"epochs": 1, "batch_size": 50, **ALGORITHMS[algorithm]}
    found = getattr(training, algorithm)(model, digits, generator=generator(), **rule)
    assert found.state["1.weight"].dtype == torch.float64


def test_a_checkpoint_that_cannot_be_read_is_begun_again(digits, tmp_path):
    model = toroid.mlp(digits.shape, hidden=(8,))
    checkpoint = training.Checkpoint(tmp_path / "run.safetensors")
    checkpoint.path.write_bytes(b"half a file")
    options = {"epochs": 2, "batch_size": 50}
    with pytest.warns(UserWarning, match="run.safetensors is damaged.* the training begins anew"):
        found = training.sgd(model, digits, generator=generator(), checkpoint=checkpoint, **options)
    assert (
        gap(found.state, training.sgd(model, digits, generator=generator(), **options).state) == 0
    )


def test_what_did_not_work_is_said(digits):
    model = toroid.mlp(digits.shape, hidden=(8,))
    failed = training.adversarial(
        model, digits, epochs=1, confusion_epochs=1, generator=generator()
    ).report["failed"]
    assert failed.startswith("the random labels were not learnt: ")
    with pytest.raises(ValueError, match="replicas is 1; it must be at least 2"):
        training.replicated_sgd(model, digits, epochs=1, replicas=1, generator=generator())
    with pytest.raises(ValueError, match="2 models, but 1 generators"):
        training.sgd_many([model, model], digits, epochs=1, generators=[generator()])
    with pytest.raises(ValueError, match=r"start is 1\.0; it must be in"):
        training.swa(model, digits, epochs=1, start=1.0, generator=generator())
    with pytest.raises(ValueError, match="inner is 0"):
        training.entropy_sgd(model, digits, epochs=1, inner=0, generator=generator())


class Bare(torch.nn.Module):
    """A weight in no layer."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(10, 64))

    def forward(self, x):
        return x.flatten(1) @ self.weight.T


def test_weights_that_cannot_be_drawn_afresh_are_named(digits):
    for model, name in ((Bare(), "the model itself"), (torch.nn.Sequential(Bare()), "'0'")):
        with pytest.raises(ValueError, match=rf"^{name} \(Bare\) has weights and no reset_.* give"):
            training.replicated_sgd(model, digits, epochs=1, generator=generator())


def test_the_same_seed_gives_the_same_bits_and_another_another(digits):
    torch.manual_seed(0)
    model = toroid.resnet18(digits.shape, width=0.05)
    first, again, other = (
        training.sgd(model, digits, epochs=1, augment=True, generator=generator(s)).state
        for s in (0, 0, 1)
    )
    assert gap(first, again) == 0
    assert gap(first, other) > 0


def test_the_model_is_not_changed(digits):
    model = toroid.vgg16_bn(digits.shape, width=0.05).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    trained = training.sgd(model, digits, epochs=1, generator=generator())
    assert gap(before, model.state_dict()) == 0
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
    assert trained.state["1.num_batches_tracked"] == len(digits) // 128
    assert not any(v.requires_grad for v in trained.state.values())


def test_no_epochs_give_the_start_back(digits):
    model = toroid.mlp(digits.shape, hidden=(8,))
    assert (
        gap(training.sgd(model, digits, epochs=0, generator=generator()).state, model.state_dict())
        == 0
    )


def test_a_training_inside_no_grad_is_the_same(digits):
    model = toroid.mlp(digits.shape, hidden=(8,))
    plain = {"epochs": 1, "batch_size": 50}
    expected = training.sgd(model, digits, generator=generator(), **plain).state
    with torch.no_grad():
        found = training.sgd(model, digits, generator=generator(), **plain).state
    assert all(torch.equal(found[k], expected[k]) for k in expected)
    with torch.inference_mode(), pytest.raises(ValueError, match="train outside of it"):
        training.sgd(model, digits, generator=generator(), **plain)


def test_sparse_gradients_are_those_of_dense_ones():
    """With momentum and weight decay, which torch offers for dense ones only."""
    torch.manual_seed(0)
    tokens, labels = torch.randint(9, (20, 3)), torch.randint(3, (20,))
    dense = torch.nn.Sequential(
        torch.nn.Embedding(9, 4), torch.nn.Flatten(), torch.nn.Linear(12, 3)
    )
    sparse = copy.deepcopy(dense)
    sparse[0].sparse = True
    data = toroid.data.Dataset(tokens, labels, 3)
    one, two = (
        training.sgd(m, data, epochs=2, batch_size=10, generator=generator()).state
        for m in (dense, sparse)
    )
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert sparse[0].sparse


class Recomputing(torch.nn.Module):
    """Runs its second layer again on the way back, or not."""

    def __init__(self, reentrant=None, drop=0.0):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(6, 6) for _ in range(3)).double()
        self.reentrant, self.drop = reentrant, torch.nn.Dropout(drop)

    def middle(self, x):
        return self.drop(torch.tanh(self.layers[1](torch.tanh(x))))

    def forward(self, x):
        x = self.layers[0](x)
        if self.reentrant is None:
            return self.layers[2](self.middle(x))
        return self.layers[2](checkpoint(self.middle, x, use_reentrant=self.reentrant))


@pytest.mark.filterwarnings("ignore:None of the inputs")  # of the evaluation at the end
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("batches", [True, False])
def test_what_runs_again_on_the_way_back_finds_the_weights(reentrant, batches):
    torch.manual_seed(0)
    plain, other = Recomputing(), Recomputing(reentrant)
    other.load_state_dict(plain.state_dict())
    x, t = torch.randn(30, 6).double(), torch.randint(6, (30,))
    data = [(x[:20], t[:20]), (x[20:], t[20:])] if batches else Dataset(x, t, 6)
    options = {"epochs": 3, "batch_size": 10}
    expected, found = (
        training.sgd_many([m, m], data, generators=[generator(), generator(1)], **options)
        for m in (plain, other)
    )
    for one, two in zip(expected, found, strict=True):
        assert all(torch.allclose(one.state[k], v, rtol=0) for k, v in two.state.items())


@pytest.mark.parametrize("reentrant", [True, False])
def test_what_would_draw_again_on_the_way_back_is_refused(reentrant):
    data = Dataset(torch.randn(20, 6).double(), torch.randint(6, (20,)), 6)
    with pytest.raises(ValueError, match="train it without checkpoints"):
        training.sgd(Recomputing(reentrant, 0.5), data, epochs=1, generator=generator())
    training.sgd(Recomputing(None, 0.5), data, epochs=1, generator=generator())


def test_a_forward_without_gradients_is_not_trained():
    class Net(Recomputing):
        @torch.no_grad()
        def forward(self, x):
            return super().forward(x)

    x, t = torch.randn(20, 6).double(), torch.randint(6, (20,))
    for data in ([(x, t)], Dataset(x, t, 6)):
        with pytest.raises(ValueError, match="there is no gradient"):
            training.sgd(Net(), data, epochs=1, generator=generator())


def test_a_batch_of_one_example_has_no_variance():
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.BatchNorm1d(4))
    x, t = torch.randn(11, 5), torch.randint(4, (11,))
    data = [(x[:10], t[:10]), (x[10:], t[10:])]
    with pytest.raises(ValueError, match=r"a batch has one example.*drop_last=True"):
        training.sgd(model, data, epochs=1, generator=generator())
    with pytest.raises(ValueError, match=r"a batch has one example.*drop_last=True"):
        toroid.refresh(model.state_dict(), model, data)


def test_schedules_start_at_one_and_fall():
    for name, schedule in training.SCHEDULES.items():
        values = [schedule(k / 300) for k in range(300)]
        assert values[0] == 1
        assert sorted(values, reverse=True) == values
        if name == "steps":  # the authors': divided by 5 at epochs 150 and 225 of 300
            assert values[149:151] == pytest.approx([1, 0.2])
            assert values[224:226] == pytest.approx([0.2, 0.04])


@given(st.integers(0, 1000))
def test_augmentation_shifts_and_flips(seed):
    image = torch.arange(1.0, 37).view(1, 1, 6, 6)
    moved = _loop.augment(image.expand(4, 2, 6, 6), generator(seed), shift=2)
    padded = torch.nn.functional.pad(image, [2] * 4)[0, 0]
    views = [padded[y : y + 6, x : x + 6] for y in range(5) for x in range(5)]
    views += [view.flip(1) for view in views]
    for picture in moved:
        assert any(torch.equal(picture[0], view) for view in views)
        assert torch.equal(picture[0], picture[1])  # channels move together


def test_augmentation_reaches_every_view():
    image = torch.arange(1.0, 26).view(1, 1, 5, 5).expand(2000, 1, 5, 5)
    moved = _loop.augment(image, generator(), shift=1)
    assert len(moved.flatten(1).unique(dim=0)) == 9 * 2


def test_bad_input_says_what_is_wrong(digits):
    model = toroid.mlp(digits.shape, hidden=(8,))
    with pytest.raises(
        ValueError, match="schedule is 'linear'; it can be 'constant', 'cosine', 'steps'"
    ):
        training.sgd(model, digits, epochs=1, schedule="linear", generator=generator())
    with pytest.raises(ValueError, match="precision is 'half'; it can be 'float32', 'bfloat16'"):
        training.sgd(model, digits, epochs=1, precision="half", generator=generator())
    with pytest.raises(ValueError, match="batch_size is 0; it must be positive"):
        training.sgd(model, digits, epochs=1, batch_size=0, generator=generator())
    for name, value, what in (
        ("epochs", -1, "0 or more"),
        ("epochs", 1.5, "an integer"),
        ("batch_size", "8", "an integer"),
        ("lr", 0, "positive"),
        ("lr", float("nan"), "positive"),
        ("momentum", 1.0, r"in \[0, 1\)"),
        ("momentum", -0.1, r"in \[0, 1\)"),
        ("weight_decay", -1e-3, "0 or positive"),
    ):
        for train in (training.sgd, training.entropy_sgd):
            with pytest.raises(ValueError, match=f"{name} is {value!r}; it must be {what}"):
                train(model, digits, **{"epochs": 1, name: value}, generator=generator())
    with pytest.raises(
        TypeError, match="sam has no setting learning_rate; it has epochs, batch_size"
    ):
        training.sam(model, digits, epochs=1, learning_rate=0.1, generator=generator())
    with pytest.raises(TypeError, match="sgd needs the setting epochs"):
        training.sgd(model, digits, generator=generator())
    flat = Dataset(digits.images.flatten(1), digits.labels, 10)
    with pytest.raises(ValueError, match=r"augment shifts .* shape \(200, 64\): .*augment=False"):
        training.sgd(toroid.mlp((64,)), flat, epochs=1, augment=True, generator=generator())
    with pytest.raises(FloatingPointError, match=r"epoch .* smaller lr than 1000000"):
        training.sgd(model, digits, epochs=20, lr=1e6, generator=generator())


def declared(cls):
    """Fields of a class of settings, or keywords, with their plain types."""
    hints = typing_extensions.get_type_hints(cls, localns={"Required": typing_extensions.Required})
    return {k: v for k, v in hints.items() if k != "algorithm"}


@pytest.mark.parametrize("algorithm", training.SETTINGS)
def test_settings_and_keywords_are_the_same(algorithm):
    """What an editor completes is what an algorithm takes, and its call has no other names."""
    settings, call = training.SETTINGS[algorithm], getattr(training, algorithm)
    signature = inspect.signature(call)
    hints = signature.parameters["settings"].annotation
    keywords = getattr(inspect.getmodule(call), hints.removeprefix("Unpack[").removesuffix("]"))
    assert declared(keywords) == declared(settings)
    assert [*signature.parameters] == [
        "model", "train", "generator", "task", "progress", "checkpoint", "settings",
    ]  # fmt: skip
    assert settings.algorithm == algorithm


RANGES = {
    "replicated_sgd": {"replicas": (1, 2.5, True), "gmax": (0, -1.0, math.inf, "1")},
    "adversarial": {
        "repeats": (0, 1.5), "zeroed": (2, -0.1, 1, math.nan), "confusion_epochs": (-1, 0.5),
        "confusion_lr": (0, math.nan), "momentum": (1,), "augment": (1, "yes"),
    },
    "sam": {"rho": (-1, math.nan, math.inf, None)},
    "swa": {"start": (1, -0.1, "half")},
    "entropy_sgd": {
        "inner": (0, 1.5), "inner_lr": (0,), "averaging": (1, -1), "noise": (-1,),
        "coupling": (-1e-9,), "growth": (-0.1, math.nan), "lr": (0,),
    },
    "sgd": {"nesterov": (0,), "schedule": (1, "linear"), "warmup": (-1,), "batch_size": (True,)},
}  # fmt: skip


@pytest.mark.parametrize(
    ("algorithm", "name"), [(a, name) for a, names in RANGES.items() for name in names]
)
def test_an_algorithms_own_settings_have_ranges(algorithm, name):
    settings = training.SETTINGS[algorithm]
    for value in RANGES[algorithm][name]:
        with pytest.raises(
            ValueError, match=rf"^{name} is {re.escape(repr(value))}; it (must|can)"
        ):
            settings(epochs=1, **{name: value})
        with pytest.raises(ValueError, match=rf"^{name} is "):
            toroid.Minimizer(algorithm=algorithm, settings={"epochs": 1, name: value})


def test_settings_are_pythons_own_numbers():
    found = training.SAM(epochs=np.int64(3), lr=1, rho=np.float32(0.5), nesterov=np.bool_(True))
    plain = training.SAM(epochs=3, lr=1.0, rho=0.5, nesterov=True)
    assert found == plain
    assert [type(v) for v in vars(found).values()] == [type(v) for v in vars(plain).values()]
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.lr = 2.0


@pytest.mark.parametrize(
    ("algorithm", "change"),
    [(a, name) for a, cls in training.SETTINGS.items() for name in cls.own()],
)
def test_every_setting_of_its_own_refuses_anothers_checkpoint(digits, tmp_path, algorithm, change):
    checkpoint = training.Checkpoint(tmp_path / "run.safetensors")
    model, train = toroid.mlp(digits.shape, hidden=(2,)), digits.take(20)
    options = {"generator": generator(), "checkpoint": checkpoint, "epochs": 1}
    options |= {"confusion_epochs": 1} if algorithm == "adversarial" else {}
    getattr(training, algorithm)(model, train, **options)
    value = getattr(training.SETTINGS[algorithm](epochs=1), change)
    other = {bool: lambda x: not x, str: lambda x: "steps", int: lambda x: x + 1}
    other = other.get(type(value), lambda x: x / 2 + 0.01)(value)
    with pytest.raises(ValueError, match=rf"saved by another run: .*{change} "):
        getattr(training, algorithm)(model, train, **{**options, change: other})
