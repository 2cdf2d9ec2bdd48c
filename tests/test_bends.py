"""Chains with a single bend: their gradient, their training, and what they reach."""

import numpy as np
import pytest
import torch
import toroid
from networks import gap
from toroid import training
from toroid.bends import bend
from toroid.torus import Torus


@pytest.fixture(scope="module")
def digits():
    return toroid.data.load("digits")[0].take(300)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def double(data):
    return toroid.data.Dataset(data.images.double(), data.labels, data.classes)


@pytest.fixture(scope="module")
def minimizers(digits):
    """Two trained networks, and how they look on the torus."""
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(toroid.mlp(digits.shape, hidden=(32, 16)).double())
    data = double(digits)
    states = [training.sgd(m, data, epochs=30, generator=generator()).state for m in models]
    symmetry = toroid.find_symmetries(models[0], data.images[:2])
    normal = [toroid.normalize(s, symmetry) for s in states]
    return models[0], data, symmetry, states, normal


def test_a_polygon_is_its_two_segments(minimizers):
    _, _, symmetry, (a, b), (p, q) = minimizers
    corner = {k: torch.randn_like(v) for k, v in a.items()}
    straight = toroid.Polygon(a, corner, b)
    assert gap(straight(0.0), a) == gap(straight(0.5), corner) == gap(straight(1.0), b) == 0
    assert gap(straight(0.2), toroid.Linear(a, corner)(0.4)) < 1e-15
    assert gap(straight(0.9), toroid.Linear(corner, b)(0.8)) < 1e-15
    corner = Torus(symmetry).project(corner)
    curved = toroid.Polygon(p, corner, q, symmetry)
    assert gap(curved(0.2), toroid.Geodesic(p, corner, symmetry)(0.4)) < 1e-15
    assert gap(curved(0.5 - 1e-9), curved(0.5 + 1e-9)) < 1e-7
    with pytest.raises(ValueError, match="not on the torus"):
        toroid.Polygon(a, corner, b, symmetry)


def test_project_is_the_nearest_point(minimizers):
    _, _, symmetry, _, (p, _) = minimizers
    moved = {k: v + 0.1 * torch.randn_like(v) for k, v in p.items()}
    back = Torus(symmetry).project(moved)
    for scale in symmetry.scales:
        vectors = scale.vectors(moved)
        assert torch.allclose(scale.vectors(back), vectors / vectors.norm(dim=1, keepdim=True))
    assert gap(Torus(symmetry).project(back), back) < 1e-15


@pytest.mark.parametrize("factor", [3.0, (2.0, 5.0)])
@pytest.mark.parametrize("on_torus", [False, True])
def test_a_step_goes_down_the_gradient_at_the_drawn_point(minimizers, on_torus, factor):
    """One step over all images, against finite differences of the loss at the drawn t."""
    model, data, symmetry, states, normal = minimizers
    a, b = normal if on_torus else states
    given = symmetry if on_torus else None
    draw = generator(3)
    torch.randperm(len(data), generator=draw)
    t = float(torch.rand((), generator=draw))
    start = toroid.Geodesic(a, b, symmetry)(0.5) if on_torus else toroid.Linear(a, b)(0.5)
    times = factor if isinstance(factor, float) else 2.0 * 2.5**t

    def loss(corner):
        corner = Torus(symmetry).project(corner) if on_torus else corner
        state = toroid.Polygon(a, corner, b, given)(t)
        output = times * torch.func.functional_call(model, state, (data.images,))
        return float(torch.nn.functional.cross_entropy(output, data.labels))

    moved = bend(
        a, b, model, data, generator=generator(3), symmetry=given, factor=factor, epochs=1,
        batch_size=len(data), lr=1e-3, momentum=0.0, schedule="constant",
    ).path.corner  # fmt: skip
    change = {k: moved[k] - start[k] for k in moved}  # -lr times the gradient, to first order
    for seed in range(3):
        way = {k: torch.randn(v.shape, generator=generator(seed)).double() for k, v in a.items()}
        up, down = ({k: start[k] + s * 1e-5 * way[k] for k in way} for s in (1, -1))
        slope = (loss(up) - loss(down)) / 2e-5
        found = -sum(float((change[k] * way[k]).sum()) for k in way) / 1e-3
        assert found == pytest.approx(slope, rel=2e-2, abs=1e-5)


@pytest.mark.parametrize("on_torus", [False, True])
def test_a_bend_joins_what_a_segment_does_not(minimizers, on_torus):
    model, data, symmetry, states, normal = minimizers
    a, b = normal if on_torus else states
    given = symmetry if on_torus else None
    segment = toroid.Geodesic(a, b, symmetry) if on_torus else toroid.Linear(a, b)
    before = toroid.along(segment, model, data, points=21)
    chain = bend(
        a, b, model, data, generator=generator(), symmetry=given, epochs=60, batch_size=50,
        lr=0.05, factor=30.0 if on_torus else 1.0,
    )  # fmt: skip
    after = toroid.along(chain.path, model, data, points=21)
    assert before.barrier > 0.05
    assert after.barrier < 0.2 * before.barrier
    assert chain.history["error"].iloc[-1] < 0.5 * chain.history["error"].iloc[0]
    assert gap(chain.path(0.0), a) == gap(chain.path(1.0), b) == 0


def test_batchnorm_and_a_checkpoint(digits, tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = toroid.vgg16_bn(digits.shape, width=0.03)
    symmetry = toroid.find_symmetries(model, digits.images[:2])
    ends = [
        training.sgd(model, digits, epochs=2, generator=generator(s), lr=0.02).state for s in (0, 1)
    ]
    a, b = (toroid.normalize(s, symmetry) for s in ends)
    before = {k: v.clone() for k, v in a.items()}
    checkpoint = training.Checkpoint(tmp_path / "bend.safetensors")

    def run(**options):
        rule = {"epochs": 3, "batch_size": 50, "lr": 0.02, "symmetry": symmetry}
        return bend(a, b, model, digits, generator=generator(5), **rule, **options)

    whole = run()
    save, count = training.Checkpoint.save, 0

    def save_and_die(self, *args):
        nonlocal count
        save(self, *args)
        count += 1
        if count == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(training.Checkpoint, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=checkpoint)
    monkeypatch.setattr(training.Checkpoint, "save", save)
    assert gap(whole.path.corner, run(checkpoint=checkpoint).path.corner) == 0
    assert gap(before, a) == 0
    a, b = b, a
    with pytest.raises(ValueError, match="saved by another run: ends of digests"):
        run(checkpoint=checkpoint)
    a, b = b, a
    for scale in symmetry.scales:
        norms = scale.vectors(whole.path.corner).norm(dim=1)
        assert norms.numpy() == pytest.approx(np.ones(len(norms)), abs=1e-5)
    curve = toroid.along(whole.path, model, digits, points=3, refresh=digits)
    assert np.isfinite(curve.loss).all()


@pytest.mark.parametrize("on_torus", [False, True])
def test_a_bend_is_in_the_precision_of_the_states(digits, minimizers, on_torus):
    _, _, symmetry, states, normal = minimizers
    model = toroid.mlp(digits.shape, hidden=(32, 16))  # single precision, as the images
    before = {k: v.clone() for k, v in model.state_dict().items()}
    a, b = normal if on_torus else states
    given = symmetry if on_torus else None
    chain = bend(a, b, model, digits, generator=generator(), symmetry=given, epochs=1)
    assert {v.dtype for v in chain.path(0.5).values()} == {torch.float64}
    assert gap(before, model.state_dict()) == 0


def test_bad_input_says_what_is_wrong(minimizers):
    model, data, symmetry, (a, b), _ = minimizers
    with pytest.raises(ValueError, match="not on the torus"):
        bend(a, b, model, data, generator=generator(), symmetry=symmetry, epochs=1)
    with pytest.raises(ValueError, match="epochs is -1"):
        bend(a, b, model, data, generator=generator(), epochs=-1)
    with pytest.raises(ValueError, match="the state lacks"):
        bend({}, b, model, data, generator=generator(), epochs=1)


@pytest.mark.parametrize("on_torus", [False, True])
def test_a_chain_is_trained_on_from_its_corner(minimizers, on_torus):
    model, data, symmetry, raw, normal = minimizers
    (a, b), chosen = (normal, symmetry) if on_torus else (raw, None)
    how = {"generator": generator(), "symmetry": chosen, "batch_size": 100, "lr": 0.01}
    first = bend(a, b, model, data, epochs=2, **how)
    corner = first.path(0.5)
    kept = {k: v.clone() for k, v in corner.items()}
    still = bend(a, b, model, data, epochs=0, middle=corner, **how)
    assert gap(still.path(0.5), corner) < 1e-12
    further = bend(a, b, model, data, epochs=2, middle=corner, **how)
    assert gap(further.path(0.5), corner) > 1e-6
    assert gap(corner, kept) == 0
    assert further.history["loss"].mean() < first.history["loss"].mean()
