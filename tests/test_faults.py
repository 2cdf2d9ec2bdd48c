"""Faults that are put in on purpose: nothing wrong is ever stored, or read back."""

import copy
import json
import os
import random
import shutil
import threading
import time
import warnings
from contextlib import contextmanager, suppress

import joblib
import pandas as pd
import pytest
import safetensors.torch
import torch
import toroid
from networks import gap
from torch import nn
from torch.nn.functional import dropout, scaled_dot_product_attention
from toroid import _files, _random, data, minimizers, training
from toroid.book import notebooks
from toroid.minimizers import Minimizer, Store

SMALL = {"architecture": "mlp", "width": 0.02, "subset": 100, "settings": {"epochs": 1}}


@pytest.fixture(scope="module")
def digits():
    return toroid.data.load("digits")[0].take(100)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def together(*calls, times=1):
    """Run calls in threads of their own, at once; what they return, in order."""
    found, start = [None] * len(calls), threading.Barrier(len(calls))

    def run(k):
        start.wait()
        try:
            found[k] = [calls[k]() for _ in range(times)]
        except Exception as error:
            found[k] = [error]

    threads = [threading.Thread(target=run, args=(k,)) for k in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in (x for part in found for x in part if isinstance(x, Exception)):
        raise error
    return [x for part in found for x in part]


@contextmanager
def held_by_another_thread():
    """The lock of torch's generator, held by a thread that goes on when the block ends."""
    held, ended = threading.Event(), threading.Event()

    def run():
        with _random.lent(generator()):
            held.set()
            ended.wait()

    thread = threading.Thread(target=run)
    thread.start()
    held.wait()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def meanwhile(call):
    """Another thread that does something, over and over, while the block runs."""
    failed, ended = [], threading.Event()

    def run():
        while not ended.is_set():
            try:
                call()
            except Exception as error:
                failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert failed == []


# Threads: the same seed gives the same bits, whatever else runs.


def test_the_global_generator_is_neither_read_nor_moved(digits, monkeypatch):
    seen, linear = [], nn.Linear.reset_parameters

    def watched(self):
        linear(self)
        seen.append(torch.get_rng_state())

    monkeypatch.setattr(nn.Linear, "reset_parameters", watched)
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        model = Minimizer(**SMALL).model(digits.shape, 10)
        found = training.replicated_sgd(model, digits, epochs=1, generator=generator())
        states.append(found.state)
        seen.append(torch.get_rng_state())
        assert all(torch.equal(state, before) for state in seen)
        seen.clear()
    assert gap(*states) == 0


def test_fresh_weights_are_those_of_the_seed_while_other_threads_draw(digits):
    def build():
        return Minimizer(**SMALL, seed=3).model(digits.shape, 10).state_dict()

    torch.manual_seed(3)
    plain = toroid.models.build("mlp", digits.shape, 10, 0.02).state_dict()  # torch's own way
    with meanwhile(lambda: torch.manual_seed(5)), meanwhile(lambda: torch.rand(100)):
        assert all(gap(build(), plain) == 0 for _ in range(20))
    assert all(gap(state, plain) == 0 for state in together(*[build] * 4, times=5))


@pytest.mark.parametrize("algorithm", ["sgd", "replicated_sgd"])
def test_threads_store_the_networks_that_one_alone_stores(tmp_path, algorithm):
    wanted = [Minimizer(**SMALL, algorithm=algorithm, seed=seed) for seed in range(8)]
    options = {"device": "cpu", "progress": False}
    alone = minimizers.train_all(wanted, Store(tmp_path / "alone"), **options)
    with joblib.parallel_config(backend="threading", n_jobs=4):
        threads = minimizers.train_all(wanted, Store(tmp_path / "threads"), **options)
    assert [gap(a.state, b.state) for a, b in zip(alone, threads, strict=True)] == [0] * 8
    assert [a.record["history"] for a in alone] == [b.record["history"] for b in threads]
    assert alone[0].record["threads"] == torch.get_num_threads()


class Dropping(nn.Module):
    """Draws in its forward pass: through a module, through a function, and from nothing."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.5))
        self.last = nn.Linear(8, 10)

    def forward(self, x):
        x = dropout(self.layers(x), 0.1, self.training)
        if self.training:
            x = x + 0.01 * torch.rand_like(x)
        return self.last(x)


OWN = {"replicated_sgd": {"gmax": 10.0}, "adversarial": {"confusion_epochs": 2}, "swa": {"start": 0.2}, "entropy_sgd": {"inner": 2}}  # fmt: skip


@pytest.mark.parametrize("algorithm", training.SETTINGS)
def test_dropout_is_drawn_from_the_generator_and_goes_on_with_the_same_bits(
    digits, tmp_path, monkeypatch, algorithm
):
    model, before = Dropping(), torch.get_rng_state()
    checkpoint, save = training.Checkpoint(tmp_path / "run"), training.Checkpoint.save

    def run(seed=0, **options):
        options |= {"epochs": 3, "batch_size": 50, "lr": 0.02, **OWN.get(algorithm, {})}
        call = getattr(training, algorithm)
        return call(model, digits, generator=generator(seed), **options).state

    def save_and_die(self, *args):
        save(self, *args)
        raise KeyboardInterrupt

    whole, other = run(), run(1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    assert gap(whole, run()) == 0
    assert gap(whole, other) > 0
    for _ in range(2):  # cut off after an epoch, twice
        monkeypatch.setattr(training.Checkpoint, "save", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            run(checkpoint=checkpoint)
        monkeypatch.setattr(training.Checkpoint, "save", save)
    assert gap(whole, run(checkpoint=checkpoint)) == 0


@pytest.mark.parametrize("stacked", [False, True])
def test_dropout_of_several_networks_is_that_of_one_by_one(digits, stacked):
    models, rule = [Dropping() for _ in range(3)], {"epochs": 1, "batch_size": 50}
    generators = [generator(s) for s in range(3)]
    many = training.sgd_many(models, digits, generators=generators, stacked=stacked, **rule)
    for seed, (model, trained) in enumerate(zip(models, many, strict=True)):
        alone = training.sgd(model, digits, generator=generator(seed), **rule)
        assert gap(alone.state, trained.state) < 1e-6


DRAWS = {
    "rand": lambda x: torch.rand(3, 4),
    "rand_like": torch.rand_like,
    "randn": lambda x: torch.randn(40),
    "randint": lambda x: torch.randint(9, (20,)),
    "randperm": lambda x: torch.randperm(20),
    "bernoulli": lambda x: torch.bernoulli(x.sigmoid()),
    "multinomial": lambda x: torch.multinomial(x.sigmoid(), 3),
    "dropout": lambda x: dropout(x, 0.3),
    "alpha_dropout": lambda x: nn.AlphaDropout(0.3)(x),
    "attention": lambda x: scaled_dot_product_attention(x[None], x[None], x[None], dropout_p=0.3),
    "rrelu": lambda x: nn.RReLU()(x),
    "layer": lambda x: nn.GRU(8, 3).weight_hh_l0,
    "orthogonal": lambda x: nn.init.orthogonal_(torch.empty(5, 5)),
    "truncated": lambda x: nn.init.trunc_normal_(torch.empty(5, 5)),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_local_generator_draws_the_bits_of_the_global_one(name):
    x = torch.randn(6, 8, generator=generator(1))
    torch.manual_seed(7)
    plain = [DRAWS[name](x), torch.rand(3)]
    before, own = torch.get_rng_state(), generator(7)
    with _random.Drawing(own):
        found = [DRAWS[name](x)]
    found.append(torch.rand(3, generator=own))
    assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))
    assert torch.equal(torch.get_rng_state(), before)
    assert _random.draws(lambda: DRAWS[name](x))
    assert not _random.draws(lambda: dropout(x, 0.3, training=False))


@pytest.mark.skipif(
    torch.__version__.startswith("2.6."),
    reason="torch 2.6 cannot trace a network while another thread runs any: it raises",
)
def test_what_torch_cannot_do_in_two_threads_is_done_in_turn(digits):
    model = toroid.models.build("lenet", digits.shape, 10, 0.3)
    states = [toroid.models.build("lenet", digits.shape, 10, 0.3).state_dict() for _ in range(2)]
    few = digits.take(20)
    symmetry = toroid.find_symmetries(model, few.images[:2])

    def align():
        options = {"method": "activation", "model": model, "inputs": few.images}
        return toroid.align(states[0], to=states[1], symmetry=symmetry, **options).similarity

    def curvature():
        return toroid.hessian(states[0], model, few, draws=2).trace

    def rao():
        return toroid.fisher_rao(states[0], model, few)

    def find():
        return str(toroid.find_symmetries(model, few.images[:2]))

    for call in (align, curvature, rao, find):
        assert len({*map(str, together(call, call, call))}) == 1
    together(align, curvature, rao, find)


# The key says what the result depends on: torch's default precision is none of it.


@contextmanager
def doubles():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


class Noisy(torch.utils.data.Dataset):
    """Examples with noise from torch's generator, as augmentation draws it."""

    def __len__(self):
        return 24

    def __getitem__(self, i):
        time.sleep(1e-4)  # another thread has its turn
        return torch.full((4,), float(i)) + torch.rand(4), i % 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_waits_for_no_thread_of_its_parent():
    with held_by_another_thread():
        child = os.fork()
        if not child:
            os._exit(0 if _random._LENDING.acquire(blocking=False) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_loaders_that_shuffle_give_the_same_in_threads():
    model = nn.Linear(4, 3)
    before = torch.get_rng_state()

    def trained(seed):
        loader = torch.utils.data.DataLoader(Noisy(), batch_size=4, shuffle=True)
        found = training.sgd(model, loader, epochs=2, lr=1e-3, generator=generator(seed))
        return found.state["weight"]

    alone = [trained(seed) for seed in range(4)]
    beside = together(*(lambda seed=seed: trained(seed) for seed in range(4)))
    assert all(torch.equal(a, b) for a, b in zip(alone, beside, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("algorithm", training.SETTINGS)
def test_torchs_default_precision_changes_nothing(algorithm):
    settings = {"epochs": 1, "batch_size": 50, "augment": True}
    settings |= {"confusion_epochs": 1} if algorithm == "adversarial" else {}
    minimizer = Minimizer(**{**SMALL, "algorithm": algorithm, "settings": settings})
    plain = minimizer.train(device="cpu")
    with doubles():
        other = minimizer.train(device="cpu")
    assert gap(plain.state, other.state) == 0
    assert {v.dtype for v in other.state.values()} == {torch.float32}
    assert plain.record["history"] == other.record["history"]
    assert other.record["default_dtype"] == "torch.float64"


@pytest.mark.parametrize("name", ["digits-binary", *data.PATTERNS])
def test_drawn_data_are_the_same_in_every_default_precision(name):
    plain = data.load(name)
    with doubles():
        other = data.load(name)
    assert all(torch.equal(a.images, b.images) for a, b in zip(plain, other, strict=True))
    assert {part.images.dtype for part in other} == {torch.float32}


def test_seeds_of_drawn_data_stay():
    found = {name: data.sha256(name)["train"][:8] for name in data.PATTERNS}
    assert found == {
        "random-patterns": "e804f027", "teacher-student": "783d5288",
        "hidden-manifold": "844fdd2c",
    }  # fmt: skip


# The caller's state and model are never changed.


class Counting(nn.Module):
    """Writes to a buffer of its state, to one that is in no state, and to its batch."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        self.norm = nn.BatchNorm1d(10)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("passing", torch.zeros(()), persistent=False)

    def forward(self, x):
        self.seen += len(x)
        self.passing.add_(1)
        return self.norm(self.layers(x.mul_(1.0))) + 0 * self.seen


def test_a_network_that_writes_to_its_buffers_changes_nothing_of_the_caller(digits):
    model = Counting()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    kept = {k: v.clone() for k, v in state.items()}
    images = digits.images.clone()
    toroid.evaluate(state, model, digits, batch_size=30)
    toroid.refresh(state, model, digits)
    toroid.local_energy(state, model, digits, sigma=0.1, draws=1)
    path = toroid.Linear(state, kept)
    toroid.along(path, model, digits, points=3, refresh=digits)
    training.sgd(model, digits, epochs=1, generator=generator())
    for found in (state, model.state_dict()):
        assert all(torch.equal(found[k], v) for k, v in kept.items())
    assert float(model.passing) == 0
    assert torch.equal(digits.images, images)


# Integrity: a flipped bit in any file that is read back is seen.


class Clipping(nn.Module):
    """Writes to a weight and to two buffers as it runs."""

    def __init__(self):
        super().__init__()
        self.embed, self.last = nn.Embedding(9, 4, max_norm=1.0), nn.Linear(12, 3)
        self.register_buffer("mean", torch.zeros(12))
        self.register_buffer("kept", torch.zeros(12), persistent=False)

    def forward(self, x):
        h = self.embed(x).flatten(1)
        with torch.no_grad():
            self.last.weight.clamp_(-0.25, 0.25)
            self.mean.lerp_(h.mean(0), 0.1)
            self.kept.add_(1)
        return self.last(h)


CALLS = {
    "evaluate": lambda s, m, d: toroid.evaluate(s, m, d, batch_size=7),
    "disagreement": lambda s, m, d: toroid.disagreement(s, s, m, d, batch_size=7),
    "same_function": lambda s, m, d: toroid.same_function(m, s, s, d.images),
    "hessian": lambda s, m, d: toroid.hessian(s, m, d, draws=2).trace,
    "sharpness": lambda s, m, d: toroid.sharpness(s, m, d),
    "fisher_rao": lambda s, m, d: toroid.fisher_rao(s, m, d),
    "local_energy": lambda s, m, d: toroid.local_energy(s, m, d, sigma=0.1, draws=2),
    "along": lambda s, m, d: toroid.along(toroid.Linear(s, s), m, d, points=2),
    "sgd": lambda s, m, d: toroid.training.sgd(m, d, epochs=1, generator=generator()),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_network_that_writes_to_its_weights_changes_nothing_of_the_caller(call):
    torch.manual_seed(0)
    model, tokens = Clipping().double(), torch.randint(9, (20, 3))
    data = toroid.data.Dataset(tokens, torch.randint(3, (20,)), 3)
    state = {k: 3 * v for k, v in model.state_dict().items()}
    kept = {id(s): {k: v.clone() for k, v in s.items()} for s in (state, model.state_dict())}
    own = model.kept.clone()
    first, second = call(state, model, data), call(state, model, data)
    for before, after in zip(kept.values(), (state, model.state_dict()), strict=True):
        assert all(torch.equal(before[k], after[k]) for k in before)
    assert torch.equal(model.kept, own)
    if isinstance(first, (float, tuple)):
        assert first == second


def test_a_network_that_writes_to_its_weights_says_what_it_says_alone():
    """On every batch, the first and the others; the copies are made for such a network only."""
    torch.manual_seed(0)
    model, tokens = Clipping().double(), torch.randint(9, (20, 3))
    labels = torch.randint(3, (20,))
    state = {k: 3 * v for k, v in model.state_dict().items()}
    found = toroid.evaluate(state, model, toroid.data.Dataset(tokens, labels, 3), batch_size=7)
    model.load_state_dict(state)
    loss = nn.functional.cross_entropy(model(tokens), labels)
    assert found.loss == pytest.approx(float(loss.detach()), abs=1e-12)


def test_training_bounds_the_rows_of_an_embedding_as_torch_does():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4, max_norm=1.0), nn.Flatten(), nn.Linear(12, 3)).double()
    tokens, labels = torch.randint(9, (20, 3)), torch.randint(3, (20,))
    plain = {"lr": 0.5, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"}
    found = toroid.training.sgd_many(
        [model, model], toroid.data.Dataset(tokens, labels, 3), epochs=3, batch_size=20,
        generators=[generator(), generator(1)], **plain,
    )  # fmt: skip
    other = copy.deepcopy(model)
    for _ in range(3):
        other.zero_grad()
        nn.functional.cross_entropy(other(tokens), labels).backward()
        with torch.no_grad():
            for weight in other.parameters():
                weight -= 0.5 * weight.grad
    for name, value in other.state_dict().items():
        assert all(torch.allclose(f.state[name], value, rtol=0, atol=1e-12) for f in found)


def tables(path, expected):
    """Read a part of a page's run; whether it was made again."""
    parts = object.__new__(notebooks.Parts)
    parts.folder, parts.mine, made = path.parent, set(), []
    found = parts.table(path.stem, lambda: made.append(1) or expected)
    assert found.equals(expected)
    return bool(made)


def kinds(folder):
    """By kind of file: where it is, and a call that says whether damage was seen."""
    minimizer, store = Minimizer(**SMALL), Store(folder / "store")
    checkpoint = training.Checkpoint(folder / "run.safetensors")
    trained = training.sgd(
        minimizer.model((1, 8, 8), 10), minimizer.load()[0], epochs=2, generator=generator(),
        checkpoint=checkpoint,
    )  # fmt: skip
    store.put(minimizer, minimizer.train(device="cpu"))
    images, labels = torch.arange(48).view(4, 3, 2, 2).byte(), torch.arange(4)
    (folder / "cache" / "train").mkdir(parents=True)
    data._cached(folder / "cache", "train", lambda path: (images, labels))
    expected = pd.DataFrame({"a": [1, 2], "b": [0.1, 1 / 3]})
    assert tables(folder / "table.json", expected)
    assert trained.report

    def store_damaged():
        assert bool(store.verify()) == bool(_raises(minimizers.DamagedError, store.get, minimizer))
        return bool(store.verify())

    def checkpoint_damaged():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return checkpoint.load(torch.device("cpu")) is None

    def cache_damaged():
        made = []
        decode = lambda path: made.append(1) or (images, labels)  # noqa: E731
        found = data._cached(folder / "cache", "train", decode)
        assert torch.equal(found[0], images)
        return bool(made)

    (weights,) = store.folder.glob("*.safetensors")
    return {
        "sidecar": (store._sidecar(minimizer), store_damaged),
        "weights": (weights, store_damaged),
        "checkpoint": (checkpoint.path, checkpoint_damaged),
        "cache": (folder / "cache" / "train.safetensors", cache_damaged),
        "table": (folder / "table.json", lambda: tables(folder / "table.json", expected)),
    }


def _raises(kind, call, *args):
    try:
        call(*args)
    except kind as error:
        return error
    return None


def flips(folder, count):
    """How many of `count` flips, of every kind of file, were not seen."""
    draw, accepted = random.Random(0), {}
    for kind, (path, damaged) in kinds(folder).items():
        whole, accepted[kind] = path.read_bytes(), 0
        assert not damaged()
        for _ in range(count):
            place, bit = draw.randrange(len(whole)), draw.randrange(8)
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            path.write_bytes(flipped)
            accepted[kind] += not damaged()
        path.write_bytes(whole)
        assert not damaged()
    return accepted


def test_no_flipped_bit_is_accepted(tmp_path):
    assert flips(tmp_path, 60) == dict.fromkeys(
        ("sidecar", "weights", "checkpoint", "cache", "table"), 0
    )


@pytest.mark.slow
def test_no_flipped_bit_of_many_is_accepted(tmp_path):
    assert {*flips(tmp_path, 2000).values()} == {0}


def test_no_cut_file_is_accepted(tmp_path):
    for path, damaged in kinds(tmp_path).values():
        whole = path.read_bytes()
        for length in (0, 1, 8, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            assert damaged()
        path.write_bytes(whole)


def test_a_sidecar_of_another_minimizer_is_damaged(tmp_path):
    store, (first, second) = Store(tmp_path), (Minimizer(**SMALL, seed=s) for s in (0, 1))
    minimizers.train_all([first], store, device="cpu", progress=False)
    shutil.copy(store._sidecar(first), store._sidecar(second))
    with pytest.raises(minimizers.DamagedError, match="is not what was written"):
        store.get(second)
    assert list(store.verify()) == [second.key]


def test_sidecars_of_before_they_held_a_digest_are_read(tmp_path):
    store, minimizer = Store(tmp_path), Minimizer(**SMALL)
    stored = minimizer.train(device="cpu")
    store.put(minimizer, stored)
    sidecar = store._sidecar(minimizer)
    record = _files.read_json(sidecar)
    sidecar.write_text(json.dumps(record))
    assert gap(store.get(minimizer).state, stored.state) == 0
    assert store.verify() == {}
    assert store.table()["key"].tolist() == [minimizer.key]
    record["description"]["seed"] = 5
    sidecar.write_text(json.dumps(record))
    with pytest.raises(minimizers.DamagedError, match="is not what was written"):
        store.get(minimizer)


# Two at once, and one that is cut off.


def test_a_file_that_is_replaced_while_it_is_read_is_the_old_one_or_the_new_one(tmp_path):
    def write(k):
        tensors = {name: torch.full((2000 + k,), float(k)) for name in "abc"}
        _files.write_tensors(tmp_path / "a", tensors, {"k": k})

    write(0)
    turn = iter(range(10**9))
    with meanwhile(lambda: write(next(turn) % 7)):
        until = time.monotonic() + 1
        while time.monotonic() < until:
            tensors, record = _files.read_tensors(tmp_path / "a")
            for x in tensors.values():
                assert (x == record["k"]).all()
                assert len(x) == 2000 + record["k"]


def test_prune_beside_a_writer_does_no_harm(tmp_path):
    store, minimizer = Store(tmp_path), Minimizer(**SMALL)
    stored = minimizer.train(device="cpu")
    store.put(minimizer, stored)
    (tmp_path / "a.part").symlink_to(tmp_path / "gone")  # found, and gone when it is looked at
    with meanwhile(lambda: store.put(minimizer, stored)), meanwhile(store.verify):
        assert together(*[store.prune] * 3, times=5) == [[]] * 15
        assert gap(store.get(minimizer).state, stored.state) == 0
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".part", ".safetensors"]


def test_a_run_that_ends_leaves_what_its_neighbour_writes(tmp_path):
    mine, other = (object.__new__(notebooks.Parts) for _ in range(2))
    for parts in (mine, other):
        parts.folder, parts.mine = tmp_path / "parts" / "key", set()

    def compute():
        mine.table("first", lambda: pd.DataFrame({"x": [1]}))
        with _files.replacing(other.folder / "second.json"):
            mine.remove()
        return pd.DataFrame({"x": [2]})

    assert other.table("third", compute)["x"].tolist() == [2]
    other.remove()
    mine.remove()


def test_a_checkpoint_that_ends_leaves_what_its_neighbour_writes(tmp_path):
    ours, theirs = (training.Checkpoint(tmp_path / "run.safetensors") for _ in range(2))
    with _files.replacing(theirs.path) as part:
        part.write_bytes(b"half")
        ours.save({"x": torch.ones(1)}, {})
        ours.remove()
        part.write_bytes(b"whole")
    assert theirs.path.read_bytes() == b"whole"


def test_a_crash_at_any_point_loses_nothing_that_was_finished(tmp_path, monkeypatch):
    minimizer, store = Minimizer(**SMALL), Store(tmp_path)
    stored = minimizer.train(device="cpu")
    again = minimizers.Stored({k: v + 1 for k, v in stored.state.items()}, stored.record)
    store.put(minimizer, stored)
    sync, count = _files._sync, 0

    def crash(path):
        nonlocal count
        count -= 1
        if count < 0:
            raise OSError("no space left on device")
        sync(path)

    monkeypatch.setattr(_files, "_sync", crash)
    for point in range(5):  # before and after each of the two names, and none
        count = point
        with suppress(OSError):
            store.put(minimizer, again)
        found = store.get(minimizer).state
        assert min(gap(found, stored.state), gap(found, again.state)) == 0
        assert store.verify() == {}
        assert not list(tmp_path.glob("*.part"))
    assert gap(store.get(minimizer).state, again.state) == 0


def test_the_store_is_as_open_as_the_umask_says(tmp_path):
    store, minimizer = Store(tmp_path), Minimizer(**SMALL)
    store.put(minimizer, minimizer.train(device="cpu"))
    (tmp_path / "plain").touch()
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1
    (weights,) = tmp_path.glob("*.safetensors")
    assert safetensors.torch.load_file(weights).keys() == store.get(minimizer).state.keys()
