"""Steps that are done on the CPU and elsewhere, with the same numbers; run by test_device.py."""

import json
import sys
import tempfile
import traceback
from functools import cache

import pytest
import torch
import toroid
from elsewhere import DEVICE, Elsewhere, Watch
from toroid import training
from toroid.training import _networks


def draw():
    return torch.Generator().manual_seed(0)


def network(seed=0):
    torch.manual_seed(seed)
    return toroid.models.build("vgg16_bn", (1, 8, 8), 10, 0.05)


def moved(state):
    return {k: v.to(DEVICE) for k, v in state.items()}


def same(here, away):
    assert here.keys() == away.keys()
    for k, v in away.items():
        assert isinstance(v, Elsewhere), k
        torch.testing.assert_close(here[k], v.inner)


def close(here, away):
    torch.testing.assert_close(torch.tensor(here), torch.tensor(away), rtol=1e-3, atol=1e-4)


@cache
def both():
    """Two states, a network and training data, here and elsewhere; and the symmetry."""
    train = toroid.data.load("digits")[0].take(40)
    symmetry = toroid.find_symmetries(network(), train.images[:2])
    states = [toroid.normalize(network(seed).state_dict(), symmetry) for seed in (1, 2)]
    here = states, network(), train
    return here, ([*map(moved, states)], network().to(DEVICE), train.to(DEVICE)), symmetry


def torus():
    here, away, symmetry = both()
    raw = network(1).state_dict()
    same(toroid.normalize(raw, symmetry), toroid.normalize(moved(raw), symmetry))
    for method in ("sequential", "coordinate", "activation"):
        aligned = [
            toroid.align(
                b, to=a, symmetry=symmetry, method=method, model=model, inputs=train.images
            ).state
            for (a, b), model, train in (here, away)
        ]
        same(*aligned)
    tangents = [toroid.log(a, b, symmetry) for (a, b), *_ in (here, away)]
    ends = [
        toroid.exp(x[0][0], step, symmetry) for x, step in zip((here, away), tangents, strict=True)
    ]
    same(*ends)
    close(*(toroid.distance(*states, symmetry) for states, *_ in (here, away)))


def landscape():
    here, away, symmetry = both()
    found = []
    for states, model, train in (here, away):
        path = toroid.Geodesic(*states, symmetry)
        how = {"symmetry": symmetry, "refresh": train}
        curve = toroid.along(path, model, train, points=3, refresh=train)
        plane = toroid.plane([*states, path(0.4)], model, train, points=2, **how)
        energy = toroid.local_energy(states[0], model, train, sigma=0.1, draws=2, **how)
        sharpness = toroid.sharpness(states[0], model, train, adaptive=True)
        found.append([*curve.loss, *plane.loss.flatten(), energy["energy"][0], sharpness])
    close(*found)


def trainings():
    (_, _, here), (_, _, away), _ = both()
    for name in ("sgd", "replicated_sgd", "adversarial", "sam", "swa", "entropy_sgd"):
        same(*(trained(name, data) for data in (here, away)))
    two = _networks.Networks([network(1), network(2)], DEVICE, "bfloat16", stacked=True)
    assert two.outputs(away.images[:6].expand(2, -1, -1, -1, -1)).device == DEVICE


def trained(name, data):
    """The state after an epoch; the second call goes on from the checkpoint."""
    own = {"confusion_epochs": 1} if name == "adversarial" else {}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = training.Checkpoint(f"{folder}/run.safetensors")
        for _ in range(2):
            found = getattr(training, name)(
                network(1), data, epochs=1, lr=1e-3, batch_size=20, augment=True,
                generator=draw(), checkpoint=checkpoint, **own,
            )  # fmt: skip
    return found.state


def bends():
    here, away, symmetry = both()
    chains = [
        toroid.bend(*states, model, train, symmetry=symmetry, epochs=1, lr=1e-3, generator=draw())
        for states, model, train in (here, away)
    ]
    same(*(chain.path.corner for chain in chains))


def binary():
    train = toroid.data.load("digits-binary")[0].take(60)
    networks = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        networks.append(toroid.binary_mlp(train.shape, 10, hidden=(9,)))
    symmetry = toroid.find_symmetries(networks[0], train.images[:2])
    found = []
    for data, place in ((train, "cpu"), (train.to(DEVICE), DEVICE)):
        model = networks[0].to(place)
        a, b = (toroid.binary.signs(x.to(place).state_dict()) for x in networks)
        b = toroid.align(b, to=a, symmetry=symmetry).state
        order = toroid.binary.greedy(a, b, model, data, steps=3, candidates=2)
        path = toroid.Hamming(a, b, order=order)
        curve = toroid.along(path, model, data, points=4, precision="int8")
        bent = toroid.binary.bend(a, b, model, data, generator=draw(), epochs=1)
        cold = toroid.binary.anneal(model, data, generator=draw(), sweeps=1, chains=2)
        found.append([*curve.error, bent.history["error"][0], cold[0].history["error"].iloc[-1]])
    close(*found)


def refusals():
    x = torch.ones(3).to(DEVICE)
    with pytest.raises(RuntimeError, match="two devices"):
        x + torch.ones(3)
    with pytest.raises(RuntimeError, match="generator of the CPU"):
        x.normal_(generator=draw())
    assert (x + 1).device == DEVICE
    assert (x[torch.tensor([0])] * torch.tensor(2.0)).tolist() == [2.0]


def failure(step):
    """Why a step fails; empty if it does not."""
    try:
        with Watch():
            globals()[step]()
    except Exception:
        return traceback.format_exc()
    return ""


if __name__ == "__main__":
    torch.set_num_threads(1)
    json.dump({step: failure(step) for step in sys.argv[1:]}, sys.stdout)
