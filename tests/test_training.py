"""SGD against its formula, and the promises around it."""

import pytest
import torch
import toroid
from hypothesis import given
from hypothesis import strategies as st
from networks import gap
from toroid import training
from toroid.data import Dataset


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
    moved = training._augment(image.expand(4, 2, 6, 6), generator(seed), shift=2)
    padded = torch.nn.functional.pad(image, [2] * 4)[0, 0]
    views = [padded[y : y + 6, x : x + 6] for y in range(5) for x in range(5)]
    views += [view.flip(1) for view in views]
    for picture in moved:
        assert any(torch.equal(picture[0], view) for view in views)
        assert torch.equal(picture[0], picture[1])  # channels move together


def test_augmentation_reaches_every_view():
    image = torch.arange(1.0, 26).view(1, 1, 5, 5).expand(2000, 1, 5, 5)
    moved = training._augment(image, generator(), shift=1)
    assert len(moved.flatten(1).unique(dim=0)) == 9 * 2


def test_bad_input_says_what_is_wrong(digits):
    model = toroid.mlp(digits.shape, hidden=(8,))
    with pytest.raises(
        ValueError, match="schedule is 'linear'; it can be 'constant', 'cosine', 'steps'"
    ):
        training.sgd(model, digits, epochs=1, schedule="linear", generator=generator())
    with pytest.raises(ValueError, match="epochs is -1"):
        training.sgd(model, digits, epochs=-1, generator=generator())
    with pytest.raises(FloatingPointError, match=r"epoch .* smaller lr than 1000000"):
        training.sgd(model, digits, epochs=20, lr=1e6, generator=generator())
