"""The networks that come with the package: whole, small, and as good as they say."""

import hashlib
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
import toroid
from click.testing import CliRunner
from networks import gap
from toroid import zoo
from toroid.book.cli import main
from toroid.minimizers import DamagedError, Minimizer, Store

FOLDER = Path(zoo.__file__).parent


def test_every_described_network_is_here_and_no_other():
    assert zoo.names() == sorted(zoo.members())


def test_the_zoo_is_small():
    assert zoo.table()["bytes"].sum() < 8_000_000
    assert sum(path.stat().st_size for path in FOLDER.glob("*.safetensors")) < 8_000_000


@pytest.mark.parametrize("name", zoo.names())
def test_a_network_loads_and_says_what_it_is(name):
    model, state = zoo.load(name)
    assert gap(state, model.state_dict()) == 0
    assert all(v.dtype == torch.float32 for v in state.values())
    found, minimizer = zoo.record(name), zoo.members()[name]
    assert found["key"] == minimizer.key
    assert found["description"] == json.loads(minimizer.json)
    assert found["precision"] in ("float16", "bfloat16", "float32")
    example = torch.zeros(2, *found["shape"])
    assert model(example).shape == (2, found["classes"])
    assert {"device", "seconds", "versions"} <= found["from"].keys()


@pytest.mark.parametrize("name", [n for n in zoo.names() if n.startswith("digits")])
def test_the_errors_on_the_digits_are_the_recorded_ones(name):
    model, state = zoo.load(name)
    found = zoo.record(name)
    for part, data in zip(("train", "test"), toroid.data.load("digits"), strict=True):
        error = toroid.evaluate(state, model, data).error
        assert error == pytest.approx(found[f"{part}_error"], abs=1.5 / len(data))  # one near a tie


def test_what_is_loaded_belongs_to_the_caller():
    model, state = zoo.load("digits-mlp-sgd-0")
    next(iter(state.values())).zero_()
    assert gap(state, model.state_dict()) > 0
    assert gap(zoo.load("digits-mlp-sgd-0")[1], model.state_dict()) == 0


def test_networks_of_two_seeds_are_aligned_and_joined():
    """What the zoo is for: the example of the package, without a training."""
    (model, a), (_, b) = (zoo.load(f"digits-mlp-rsgd-{seed}") for seed in (0, 1))
    train, _ = toroid.data.load("digits")
    symmetry = toroid.find_symmetries(model, train.images[:2])
    a, b = (toroid.normalize(state, symmetry) for state in (a, b))
    moved = toroid.align(b, to=a, symmetry=symmetry).state
    barriers = [
        toroid.along(toroid.Geodesic(a, x, symmetry), model, train, points=5).barrier
        for x in (b, moved)
    ]
    assert barriers[1] < barriers[0]


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="digits-mlp-sgd-0"):
        zoo.load("digits-mlp-sgd-77")


def test_every_flipped_bit_of_a_file_is_told(tmp_path, monkeypatch):
    name = "digits-mlp-sgd-0"
    path, digests = tmp_path / f"{name}.safetensors", tmp_path / zoo.DIGESTS
    data, listed = (FOLDER / path.name).read_bytes(), (FOLDER / digests.name).read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    monkeypatch.setattr(zoo.resources, "files", lambda package: tmp_path)

    def told(file, bits, place):
        file.write_bytes(bits[:place] + bytes([bits[place] ^ 1]) + bits[place + 1 :])
        for read in (zoo.load, zoo.record):
            with pytest.raises(DamagedError, match="is damaged"):
                read(name)
        file.write_bytes(bits)

    path.write_bytes(data)
    digests.write_bytes(listed)
    for place in (*range(0, header, 7), header, len(data) - 1):
        told(path, data, place)
    for place in range(0, len(listed), 31):
        told(digests, listed, place)
    digests.unlink()
    with pytest.raises(DamagedError, match=f"the file of {name} is damaged"):
        zoo.load(name)
    digests.write_bytes(listed)
    zoo.load(name)


def test_loading_draws_nothing_from_the_callers_generator():
    before = torch.get_rng_state()
    zoo.load("digits-mlp-sgd-0")
    assert torch.equal(before, torch.get_rng_state())


# --- how they are made ---------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch):
    """A zoo of one network that is trained in no time."""
    minimizer = Minimizer(width=0.05, settings={"epochs": 2, "lr": 0.1})
    monkeypatch.setattr(zoo, "members", lambda: {"small": minimizer})
    return minimizer


def test_a_network_is_rounded_as_far_as_its_errors_stay(small, tmp_path):
    store = Store(tmp_path / "store")
    (path,) = zoo.make(tmp_path, store)
    stored, tensors = store.get(small), safetensors.torch.load_file(path)
    (precision,) = {v.dtype for v in tensors.values()}
    train, test = small.load()
    model = small.model(train.shape, train.classes)
    ahead = zoo.PRECISIONS[: zoo.PRECISIONS.index(precision) + 1]
    for dtype in ahead:
        state = {k: v.to(dtype).float() for k, v in stored.state.items()}
        errors = [toroid.evaluate(state, model, part).error for part in (train, test)]
        wanted = [stored.record["train_error"], stored.record["test_error"]]
        assert (errors == wanted) == (dtype == precision)
    assert gap({k: v.float() for k, v in tensors.items()}, stored.state) < 1e-2


def test_a_network_that_rounding_would_change_stays_in_float32(small, tmp_path):
    """Class 1 is ahead of class 0 by less than half precision holds: rounded, they are level."""
    store = Store(tmp_path / "store")
    zoo.make(tmp_path, store)
    found = store.get(small)
    weight, bias = found.state["5.weight"], found.state["5.bias"]
    assert (weight.dim(), len(bias)) == (2, 10)
    weight[1], bias[1] = weight[0] + 1e-6, bias[0]
    model, parts = (
        small.model((1, 8, 8), 10),
        dict(zip(("train", "test"), small.load(), strict=True)),
    )
    for split, part in parts.items():
        found.record[f"{split}_error"] = toroid.evaluate(found.state, model, part).error
    store.put(small, found)
    (path,) = zoo.make(tmp_path, store)
    assert gap(safetensors.torch.load_file(path), found.state) == 0


def test_the_command_lists_and_makes(small, tmp_path):
    listed = CliRunner().invoke(main, ["zoo", "list"])
    assert listed.exit_code == 0, listed.output
    assert "digits-mlp-rsgd-1" in listed.output
    place = ["-o", str(tmp_path / "out"), "--store", str(tmp_path / "store")]
    made = CliRunner().invoke(main, ["zoo", "make", "small", *place])
    assert made.exit_code == 0, made.output
    data = (tmp_path / "out" / "small.safetensors").read_bytes()
    assert zoo._digests(tmp_path / "out") == {"small": hashlib.sha256(data).hexdigest()}
    wrong = CliRunner().invoke(main, ["zoo", "make", "little", *place])
    assert wrong.exit_code == 2
    assert "small" in wrong.output
    assert "Traceback" not in wrong.output


def test_a_file_is_the_same_whenever_it_is_made(small, tmp_path):
    store = Store(tmp_path / "store")
    first, second = (
        hashlib.sha256(zoo.make(tmp_path / x, store)[0].read_bytes()).digest() for x in "ab"
    )
    assert first == second
