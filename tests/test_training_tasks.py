"""Training on any data and any task: the same numbers as on a `Dataset`, and what is refused."""

import copy

import pytest
import torch
import toroid
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from toroid.training import entropy_sgd, replicated_sgd, sam, sgd, sgd_many, swa

ALGORITHMS = [sgd, sam, swa, entropy_sgd, replicated_sgd]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def numbers() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(64, 5, generator=generator())
    return x, x.sum(1)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_regressor_learns_from_a_loader(algorithm, numbers):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1))
    loader = DataLoader(TensorDataset(*numbers), batch_size=16, shuffle=True)
    task = toroid.tasks.regression
    own = {replicated_sgd: {"gmax": 10.0}, entropy_sgd: {"inner": 2, "lr": 1.0}}
    trained = algorithm(
        model,
        loader,
        task=task,
        epochs=8,
        generator=generator(),
        **{"lr": 0.02, **own.get(algorithm, {})},
    )
    before = toroid.evaluate(model.state_dict(), model, loader, task=task).loss
    assert toroid.evaluate(trained.state, model, loader, task=task).loss < 0.9 * before
    assert trained.report["failed"] == "" or algorithm is replicated_sgd


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_head_that_is_not_in_the_loss_is_no_trouble(algorithm, numbers):
    """Its weights get no gradient; the others are those of the network without it."""
    torch.manual_seed(0)
    body = nn.Linear(5, 1)

    class Net(nn.Module):
        def __init__(self, *heads):
            super().__init__()
            self.body, self.heads = copy.deepcopy(body), nn.ModuleList(heads)

        def forward(self, x):
            return self.body(x), [head(x) for head in self.heads]

    task, rest = toroid.tasks.regression(outputs=0), {"epochs": 2, "lr": 0.01, "batch_size": 16}
    own = {replicated_sgd: {"gmax": 10.0}, entropy_sgd: {"inner": 2, "noise": 0.0}}
    with_head, without = (
        algorithm(
            model, [numbers], task=task, generator=generator(), **rest, **own.get(algorithm, {})
        ).state
        for model in (Net(nn.Linear(5, 2)), Net())
    )
    assert all(v.isfinite().all() for v in with_head.values())
    if algorithm is not replicated_sgd:  # whose replicas are drawn in another order
        assert torch.allclose(with_head["body.weight"], without["body.weight"])


def test_one_batch_is_a_dataset_of_one_batch():
    """The generic path and the resident one take the same steps."""
    x, y = torch.randn(20, 4, generator=generator()).double(), torch.arange(20) % 3
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).double()
    options = {"epochs": 4, "batch_size": 20}
    resident = sgd(model, toroid.data.Dataset(x, y, 3), generator=generator(), **options)
    listed = sgd(model, [(x, y)], generator=generator(), **options)
    for name, tensor in resident.state.items():
        torch.testing.assert_close(tensor, listed.state[name], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        torch.tensor(resident.history.to_numpy(float)),
        torch.tensor(listed.history.to_numpy(float)), rtol=1e-5, atol=1e-6,
    )  # fmt: skip


def test_a_dataset_with_a_task_of_ones_own():
    """Its images are drawn in the same order as by default; the same loss takes the same steps."""
    train, _ = toroid.data.load("digits")
    model = toroid.mlp(train.shape, classes=10, hidden=(8,))
    same = toroid.tasks.classification(outputs=lambda out: out)
    first = sgd(model, train, epochs=1, generator=generator())
    second = sgd(model, train, epochs=1, generator=generator(), task=same)
    for name, tensor in first.state.items():
        torch.testing.assert_close(tensor, second.state[name], rtol=1e-4, atol=1e-5)
    assert first.history["error"][0] == pytest.approx(second.history["error"][0], abs=1e-6)


def test_the_order_is_the_generators_and_the_loaders_own_is_left_alone(numbers):
    own = generator(7)
    loader = DataLoader(TensorDataset(*numbers), batch_size=16, shuffle=True, generator=own)
    model, before = nn.Linear(5, 1), own.get_state()
    options = {"epochs": 2, "lr": 0.01, "task": toroid.tasks.regression}
    one, again, other = (
        sgd(model, loader, generator=generator(seed), **options).state["weight"]
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    many = sgd_many([model] * 2, loader, generators=[generator(0), generator(1)], **options)
    torch.testing.assert_close(many[0].state["weight"], one)
    torch.testing.assert_close(many[1].state["weight"], other)
    assert torch.equal(own.get_state(), before)


class Stream(IterableDataset):
    """Examples that nobody has counted, with noise from torch's generator."""

    def __init__(self, numbers):
        self.numbers = numbers

    def __iter__(self):
        yield from ((x + torch.randn(()), y) for x, y in zip(*self.numbers, strict=True))


@pytest.mark.parametrize("bare", [True, False])
def test_a_stream_leaves_the_global_generator_alone(bare, numbers):
    stream = Stream(numbers)
    data, model = stream if bare else DataLoader(stream, batch_size=20), nn.Linear(5, 1)
    before = torch.get_rng_state()
    plain = {"epochs": 1, "batch_size": 20, "task": toroid.tasks.regression}
    first, second = (
        toroid.training.sgd(model, data, generator=generator(), **plain).state for _ in "ab"
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_it_goes_on_from_a_checkpoint(numbers, tmp_path):
    data = TensorDataset(*numbers)
    checkpoint = toroid.training.Checkpoint(tmp_path / "run.safetensors")
    calls = {"done": 0}
    model = nn.Linear(5, 1)

    class Cut(Exception):
        pass

    def loss(outputs, targets):
        calls["done"] += 1
        if calls["done"] == 11 + 16:  # the run that is not cut takes 16 steps
            raise Cut
        return toroid.tasks.regression.loss(outputs, targets)

    task = toroid.tasks.regression(loss=loss)
    options = {"lr": 0.01, "batch_size": 16, "task": task}
    whole = sgd(model, data, epochs=4, schedule="constant", generator=generator(), **options)
    with pytest.raises(Cut):
        sgd(
            model, data, epochs=4, schedule="constant", generator=generator(),
            checkpoint=checkpoint, **options,
        )  # fmt: skip
    rest = sgd(
        model, data, epochs=4, schedule="constant", generator=generator(),
        checkpoint=checkpoint, **options,
    )  # fmt: skip
    assert torch.equal(whole.state["weight"], rest.state["weight"])


def test_bend_of_a_regressor(numbers):
    model, loader = nn.Linear(5, 1), DataLoader(TensorDataset(*numbers), batch_size=16)
    a, b = ({"weight": torch.full((1, 5), w), "bias": torch.zeros(1)} for w in (0.0, 2.0))
    chain = toroid.bend(
        a, b, model, loader, task=toroid.tasks.regression, epochs=20, lr=0.02,
        generator=generator(),
    )  # fmt: skip
    corner = toroid.evaluate(chain.path(0.5), model, loader, task=toroid.tasks.regression)
    assert corner.loss < 0.5
    assert len(chain.history) == 20


def test_named_inputs(numbers):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(5, 3)

        def forward(self, x, shift):
            return {"logits": self.head(x + shift)}

    x, _ = numbers
    batch = {"x": x, "shift": 0 * x, "labels": (x.sum(1) > 0).long()}
    task = toroid.tasks.classification(outputs="logits")
    trained = sgd(Two(), [batch], task=task, epochs=100, generator=generator())
    assert trained.history["error"].iloc[-1] < 0.1


def test_what_only_a_dataset_can_offer_is_refused(numbers):
    model, data = nn.Linear(5, 1), [numbers]
    with pytest.raises(ValueError, match="augment=False"):
        sgd(
            model, data, task=toroid.tasks.regression, epochs=1, augment=True, generator=generator()
        )
    two = [(torch.zeros(4, 5), torch.zeros(4, n)) for n in (1, 2)]
    with pytest.raises(ValueError, match="targets of the batches have different shapes"):
        toroid.training.adversarial(
            model, two, task=toroid.tasks.regression, epochs=1, generator=generator()
        )
    with pytest.raises(ValueError, match="walked once only"):
        sgd(model, iter(data), epochs=1, generator=generator())


@pytest.mark.parametrize("resident", [False, True])
def test_an_adversarial_start_of_any_task_learns_others_targets(resident):
    """What it learns first is nothing, of which the true targets know nothing."""
    x = torch.randn(40, 6, generator=generator())
    y = (x[:, :1] > 0).float()
    model = toroid.mlp((6,), classes=1, hidden=(64,))
    data = [(x[:25], y[:25]), (x[25:], y[25:])]
    if resident:
        model, data = toroid.mlp((6,), classes=2, hidden=(64,)), [
            (part, targets[:, 0].long()) for part, targets in data
        ]  # fmt: skip
    task = toroid.tasks.classification if resident else toroid.tasks.binary
    trained = toroid.training.adversarial(
        model, data, task=task, generator=generator(), epochs=40, lr=0.05, confusion_epochs=300,
        confusion_lr=0.5,
    )  # fmt: skip
    first = trained.history.query("labels == 'random'")
    assert first["error"].iloc[-1] < 0.1  # memorised, holes and all
    assert toroid.evaluate(trained.state, model, data, task=task).error <= 0.1
    gone = toroid.training.adversarial(
        model, data, task=task, generator=generator(), epochs=0, confusion_epochs=300,
        confusion_lr=0.5,
    )  # fmt: skip
    assert toroid.evaluate(gone.state, model, data, task=task).error > 0.2


def test_a_checkpoint_is_of_one_task(tmp_path, numbers):
    checkpoint = toroid.training.Checkpoint(tmp_path / "run.safetensors")
    options = {"generator": generator(), "checkpoint": checkpoint, "epochs": 1}
    x, y = numbers
    model, data = nn.Linear(5, 1), [(x, (y > 0).float())]
    sgd(model, data, task=toroid.tasks.binary, **options)
    with pytest.raises(ValueError, match=r"another run: .*task\.loss .*binary.*now .*squares"):
        sgd(model, data, task=toroid.tasks.regression, **options)


def test_activations_are_matched_on_batches(numbers):
    """A planted permutation is undone on a loader, the same as on one tensor of its inputs."""
    torch.manual_seed(0)
    x, _ = numbers
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 1))
    symmetry, state = toroid.find_symmetries(model, x), model.state_dict()
    order = torch.randperm(6, generator=generator())
    moved = toroid.permute(state, {symmetry.groups[0].name: order}, symmetry)
    options = {"method": "activation", "model": model}
    for inputs in (x, DataLoader(TensorDataset(*numbers), batch_size=24), [numbers]):
        found = toroid.align(moved, state, symmetry, inputs=inputs, **options)
        torch.testing.assert_close(found.state, dict(state), rtol=0, atol=0)
