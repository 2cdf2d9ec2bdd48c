"""Descriptions and the store."""

import dataclasses
import json
import multiprocessing
import os

import numpy as np
import pytest
import torch
import toroid
from networks import gap
from PIL import Image
from test_data import write_class_folders
from toroid import minimizers, training
from toroid.minimizers import Minimizer, Store, _batch, _store, train_all

SMALL = {"architecture": "mlp", "width": 0.02, "subset": 200, "settings": {"epochs": 1}}


def test_the_key_is_that_of_canonical_json():
    minimizer = Minimizer(**SMALL)
    assert (
        minimizer.key == Minimizer(**{**SMALL, "settings": {"lr": 0.1, "epochs": 1}}).key
    )  # a default, spelled out
    assert (
        minimizer.key == Minimizer(**{**SMALL, "settings": {"epochs": 1, "weight_decay": 5e-4}}).key
    )
    assert json.loads(minimizer.json)["settings"]["momentum"] == 0.9
    assert Minimizer(**{**SMALL, "width": 1}).key == Minimizer(**{**SMALL, "width": 1.0}).key


KEYS = {
    "sgd": "9278e1e41f75ad93", "replicated_sgd": "5c7f294e85927d58",
    "adversarial": "847ade077d586ddb", "sam": "69fe5121779557ac",
    "swa": "63fb2a9341766b13", "entropy_sgd": "9b2047254d368207",
}  # fmt: skip


OWN = {
    "sgd": {}, "replicated_sgd": {"replicas": 5, "gmax": 100},
    "adversarial": {"repeats": 2, "zeroed": 0, "confusion_epochs": 7, "confusion_lr": 1},
    "sam": {"rho": 0}, "swa": {"start": 0},
    "entropy_sgd": {"inner": 3, "inner_lr": 1, "averaging": 0.5, "noise": 0, "coupling": 1,
                    "growth": 0},
}  # fmt: skip
SHARED = {
    "batch_size": 64.0, "lr": 1, "momentum": 0, "nesterov": False, "weight_decay": 0,
    "schedule": "steps", "warmup": 2, "augment": True, "precision": "bfloat16",
}  # fmt: skip


def odd(algorithm):
    """Every setting at a value that is not its default, integers and floats mixed up."""
    every = {**SHARED, **OWN[algorithm]}
    changes = [{}, {"epochs": 3.0}, {"epochs": 0}, {"warmup": 0}, {"warmup": 0.0}]
    changes += [{k: v} for k, v in every.items()] + [every]
    for i, change in enumerate(changes):
        yield Minimizer(
            architecture="vgg16" if i % 3 == 2 else "mlp", width=0.02 if i % 2 else 1,
            subset=None if i % 2 else 200, seed=i, algorithm=algorithm,
            settings={"epochs": 1, **change},
        )  # fmt: skip


# By the code that read the settings off the signatures, before they had classes.
ODD = {
    "sgd": "2432c55e 3418f9ae afb5b264 d3858186 49d85228 a9b81f9a 6cf85ea4 3a146900 d32215ae 1ba4ea51 96aee2ad 8461d547 4acfa1b7 c3491152 c0813d3f",
    "replicated_sgd": "de0be0d3 15f261fc 8743aca1 14a64a91 6d71a82d c87915f4 57309147 fe818781 27225560 2cbdb0a4 5fdd286d 11f79f1c 7f021df1 ab867f9a 6774870f edc07df8 923e9565",
    "adversarial": "147b2317 0f0f615e a9d41b74 aea2f48d 2e55930e 79ad61a9 4c51890b 97271366 58cea421 84bd76fc 9ae70cde 8c2d3cb7 16266627 974cd22c abe1c4ff 1b53116b 3214ced7 f496469c f9e521c8",
    "sam": "9a19fe3b c5cd33c8 24a90b24 33df92ce f336ccf9 284fa09d d25f1675 01179d2a ebf2e424 d6b849d2 36ec7591 0ebea787 4d076ddb 416ddf59 158f583d 932fd186",
    "swa": "ec46fd02 85704f0a 4452ca07 cb8408df 70f9bfc2 eebac40b fbc82bfa a0ca5364 8cc826f8 9b57a2f7 c55897a6 88866b38 767757b7 9c5299a3 a60bd56a e1e27257",
    "entropy_sgd": "66b87670 6b7a3603 65d70944 f7915a3c 96b192e5 2fb9b6b2 2f7e872f f8b7235b 7b9ea963 b66bf90b 44712ca4 2d49bced 2229c75c 451749d4 51b55f6c 3362ecfa 5b66abb8 02511156 e69eeea0 d094750a c16f5c1f",
}  # fmt: skip


@pytest.mark.parametrize("algorithm", OWN)
def test_keys_of_odd_settings_stay(algorithm):
    found = list(odd(algorithm))
    assert [m.key[:8] for m in found] == ODD[algorithm].split()
    assert {*found[0].settings} == {"epochs", *SHARED, *OWN[algorithm]}  # none was forgotten


@pytest.mark.parametrize(("algorithm", "key"), KEYS.items())
def test_keys_of_stored_minimizers_stay(algorithm, key):
    minimizer = Minimizer(**SMALL, algorithm=algorithm)
    assert minimizer.key.startswith(key)
    assert "warmup" not in minimizer.json  # what came later and changes nothing


def test_fresh_weights_that_are_not_the_defaults_are_part_of_the_description():
    vgg16, plain = (
        json.loads(Minimizer(architecture=name, settings={"epochs": 1}).json)
        for name in ("vgg16", "vgg16_bn")
    )
    assert vgg16["initialization"] == "kaiming_normal"
    assert "initialization" not in plain


def test_every_field_and_setting_changes_the_key():
    base = Minimizer(**SMALL)
    others = [
        dataclasses.replace(base, **change)
        for change in (
            {"dataset": "mnist"},
            {"architecture": "lenet"},
            {"width": 0.03},
            {"subset": None},
            {"seed": 1},
        )
    ]
    changes = {"epochs": 2, "batch_size": 64, "lr": 0.2, "momentum": 0.5, "nesterov": False, "weight_decay": 0.0,
               "schedule": "steps", "warmup": 1, "augment": True, "precision": "bfloat16"}  # fmt: skip
    assert changes.keys() == base.settings.keys()
    others += [
        dataclasses.replace(base, settings={**base.settings, k: v}) for k, v in changes.items()
    ]
    assert len({m.key for m in [base, *others]}) == 1 + len(others)


def test_a_grid_shares_what_an_algorithm_has_no_default_of_its_own_for():
    shared = {"epochs": 2, "lr": 0.3, "weight_decay": 0.1}
    found = minimizers.grid(
        ["sgd", "adversarial", "entropy_sgd"], [0, 1], shared, {"sgd": {"lr": 0.2}}, width=0.02
    )
    assert [*found] == [(a, s) for a in ("sgd", "adversarial", "entropy_sgd") for s in (0, 1)]
    sgd, adversarial, entropy = (
        found[a, 1].settings for a in ("sgd", "adversarial", "entropy_sgd")
    )
    assert (sgd["lr"], adversarial["lr"], entropy["lr"]) == (0.2, 0.3, 1.0)
    assert (sgd["weight_decay"], adversarial["weight_decay"], entropy["weight_decay"]) == (
        0.1,
        0.0,
        0.1,
    )
    assert {m.width for m in found.values()} == {0.02}
    with pytest.raises(ValueError, match="algorithm is 'adam'"):
        minimizers.grid(["adam"], [0], shared)
    with pytest.raises(ValueError, match="sgd has no setting rho"):
        minimizers.grid(["sgd"], [0], shared, {"sgd": {"rho": 1.0}})
    with pytest.raises(ValueError, match="algorithm is 'sdg'; it can be 'sgd'"):
        minimizers.grid(["sgd"], [0], shared, {"sdg": {"lr": 0.2}})
    names, seeds = (x for x in ("sgd", "sam")), (x for x in (0, 1))
    assert len(minimizers.grid(names, seeds, shared)) == 4


def test_unknown_words_are_refused():
    with pytest.raises(ValueError, match="architecture is 'vgg'; it can be 'mlp'"):
        Minimizer(architecture="vgg")
    with pytest.raises(ValueError, match="algorithm is 'adam'"):
        Minimizer(algorithm="adam")
    with pytest.raises(ValueError, match="dataset is 'mnistt'; it can be 'digits', 'mnist'"):
        Minimizer(dataset="mnistt", settings={"epochs": 1})
    assert Minimizer(dataset="/no/such/folder", settings={"epochs": 1}).key
    with pytest.raises(ValueError, match="sgd has no setting learning_rate; it has epochs"):
        Minimizer(settings={"epochs": 1, "learning_rate": 0.1})
    with pytest.raises(ValueError, match="sgd needs the setting epochs"):
        Minimizer(settings={})


def test_numbers_are_of_their_kind_and_in_range():
    numpy = Minimizer(
        **{**SMALL, "subset": np.int64(200), "width": np.float64(0.02)}, seed=np.int64(3)
    )
    assert numpy.key == Minimizer(**SMALL, seed=3).key
    for name, value, what in (
        ("seed", 0.5, "an integer"),
        ("seed", 1.0, "an integer"),
        ("subset", 0, "positive"),
        ("subset", 1.5, "an integer"),
        ("width", 0, "positive"),
    ):
        with pytest.raises(ValueError, match=f"{name} is {value}; it must be {what}"):
            Minimizer(**{**SMALL, name: value})


def test_one_network_has_one_key():
    """Torch counts seeds modulo 2**32, and a zero has no sign."""
    same = [torch.rand(3, generator=torch.Generator().manual_seed(s)) for s in (5, 2**32 + 5)]
    assert torch.equal(*same)
    for seed, like in ((2**32 + 5, 5), (-1, 2**32 - 1)):
        with pytest.raises(
            ValueError, match=rf"seed is {seed}; .* the same numbers .* from {like}$"
        ):
            Minimizer(seed=seed, settings={"epochs": 1})
    signed, plain = (
        Minimizer(settings={"epochs": 1, "weight_decay": zero}) for zero in (-0.0, 0.0)
    )
    assert signed.key == plain.key


def test_keys_are_those_of_before():
    """Descriptions of the first networks that were stored, and their keys."""
    keys = [
        Minimizer(settings={"epochs": 30, "lr": 0.05}, seed=1).key,
        Minimizer(width=0.5, algorithm="replicated_sgd", seed=1,
                  settings={"epochs": 30, "lr": 0.05, "gmax": 100}).key,
        Minimizer("cifar10", "resnet18", 0.25, "adversarial", subset=2000, seed=1, settings={
            "epochs": 20, "batch_size": 64, "lr": 0.02, "confusion_epochs": 60,
            "confusion_lr": 0.02, "precision": "bfloat16"}).key,
    ]  # fmt: skip
    assert [key[:16] for key in keys] == [
        "05121f5e65bb85e4",
        "0a4c51290803dd9c",
        "00d1811f666b53fe",
    ]


def test_settings_have_their_declared_type():
    assert Minimizer(settings={"epochs": 3.0}).key == Minimizer(settings={"epochs": 3}).key
    with pytest.raises(ValueError, match="epochs is '3'; it must be an integer"):
        Minimizer(settings={"epochs": "3"})
    with pytest.raises(ValueError, match="schedule is 'bad'"):
        Minimizer(settings={"epochs": 3, "schedule": "bad"})
    with pytest.raises(TypeError):
        Minimizer(settings={"epochs": 3}).settings["epochs"] = 4


def test_training_is_repeatable_and_recorded():
    first, again = (Minimizer(**SMALL).train(device="cpu") for _ in range(2))
    assert gap(first.state, again.state) == 0
    other = Minimizer(**{**SMALL, "seed": 1}).train(device="cpu")
    assert gap(first.state, other.state) > 0
    model = Minimizer(**SMALL).model((1, 8, 8), 10)
    train, test = Minimizer(**SMALL).load()
    assert first.record["test_error"] == toroid.evaluate(first.state, model, test).error
    assert first.record["train_error"] == toroid.evaluate(first.state, model, train).error
    assert len(train) == 200


def test_store_keeps_every_bit(tmp_path):
    store, minimizer = Store(tmp_path / "new" / "store"), Minimizer(**SMALL)
    stored = minimizer.train(device="cpu")
    store.put(minimizer, stored)
    found = store.get(minimizer)
    assert gap(found.state, stored.state) == 0
    assert found.record.items() >= stored.record.items()
    assert sorted(p.suffix for p in store.folder.iterdir()) == [".json", ".safetensors"]
    assert store.table()[["key", "architecture", "seed"]].to_numpy().tolist() == [
        [minimizer.key, "mlp", 0]
    ]


def test_what_is_not_there_or_damaged_is_refused(tmp_path):
    store, minimizer = Store(tmp_path), Minimizer(**SMALL)
    with pytest.raises(KeyError, match="is not in"):
        store.get(minimizer)
    assert store.table().empty
    store.put(minimizer, minimizer.train(device="cpu"))
    (path,) = tmp_path.glob(f"{minimizer.key}.*.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(minimizers.DamagedError, match="is damaged"):
        store.get(minimizer)
    assert store.verify() == {minimizer.key: f"{path.name} is not the file that was written"}


def test_a_sidecar_that_was_cut_off_and_anothers_json(tmp_path):
    store, (first, second) = Store(tmp_path), (Minimizer(**{**SMALL, "seed": s}) for s in (0, 1))
    train_all([first, second], store, device="cpu", progress=False)
    (tmp_path / "notes.json").write_text('{"mine": 1}')
    sidecar = store._sidecar(first)
    for text in (sidecar.read_text()[:99], "[]", "{}"):
        sidecar.write_text(text)
        with pytest.raises(minimizers.DamagedError, match=f"{sidecar.name} is damaged"):
            store.get(first)
        with pytest.warns(UserWarning, match=f"{sidecar.name} is damaged"):
            assert store.table()["key"].tolist() == [second.key]
        assert store.verify() == {first.key: f"{sidecar.name} cannot be read"}
    with pytest.warns(UserWarning, match="is damaged.* set aside and is trained again"):
        train_all([first, second], store, device="cpu", progress=False)
    assert len(store.table()) == 2
    assert store.verify() == {}
    assert store.prune() == []
    assert (tmp_path / "notes.json").exists()


def test_a_folder_of_a_minimizers_name_and_json_without_end_are_no_minimizers(tmp_path):
    store, minimizer = Store(tmp_path), Minimizer(width=0.02, settings={"epochs": 1})
    sidecar = tmp_path / f"{minimizer.key}.json"
    sidecar.mkdir()
    assert minimizer not in store
    assert (store.table().empty, store.verify(), store.prune()) == (True, {}, [])
    with pytest.raises(KeyError, match="is not in"):
        store.get(minimizer)
    sidecar.rmdir()
    sidecar.write_text('{"description": ' + "[" * 100_000)
    with pytest.raises(minimizers.DamagedError, match="is damaged"):
        store.get(minimizer)
    assert store.verify() == {minimizer.key: f"{sidecar.name} cannot be read"}


def test_a_damaged_minimizer_is_set_aside_and_trained_again(tmp_path):
    store, (first, second) = Store(tmp_path), (Minimizer(**{**SMALL, "seed": s}) for s in (0, 1))
    bits = [stored.state for stored in train_all([first, second], store, progress=False)]
    (path,) = tmp_path.glob(f"{first.key}.*.safetensors")
    path.write_bytes(b"x" + path.read_bytes()[1:])
    with pytest.warns(UserWarning, match="is damaged.* set aside and is trained again"):
        found = train_all([first, second], store, device="cpu", progress=False)
    assert all(gap(a, b.state) == 0 for a, b in zip(bits, found, strict=True))
    assert store.verify() == {}
    assert (tmp_path / "damaged" / path.name).read_bytes()[:1] == b"x"


def test_prune_leaves_what_is_sound_and_what_is_new(tmp_path):
    store, minimizer = Store(tmp_path), Minimizer(**SMALL)
    other = Minimizer(**{**SMALL, "seed": 1})
    train_all([minimizer, other], store, device="cpu", progress=False)
    store._sidecar(other).write_text("{")
    weights, part = f"{'a' * 64}.{{}}.safetensors", f"{'a' * 64}.json.my-host.of-mine-12-{{}}.part"
    names = [weights.format("b" * 16), part.format("c" * 8)]
    names += [weights.format("d" * 16), part.format("e" * 8)]
    others = ["model.safetensors", "film.part", f"{'a' * 64}.safetensors", "ab/film.part"]
    others += [f"ab/{names[1]}", f"{'a' * 64}.film.part"]
    (tmp_path / "ab").mkdir()
    for name in (*names, *others):
        (tmp_path / name).touch()
    for name in (*names[:2], *others):
        os.utime(tmp_path / name, (0, 0))
    assert store.verify() == {other.key: f"{other.key}.json cannot be read"}
    gone = sorted(path.name for path in store.prune() if path.parent == tmp_path)
    assert gone == sorted(names[:2])
    assert sorted(p.name for p in tmp_path.iterdir() if p.name in names) == sorted(names[2:])
    assert all((tmp_path / name).exists() for name in others)
    assert minimizer in store
    assert other not in store
    assert store.prune() == []


@pytest.mark.parametrize("algorithm", minimizers.ALGORITHMS)
def test_every_algorithm_is_stored_with_its_report(tmp_path, algorithm):
    settings = {"epochs": 2, "batch_size": 50}
    settings |= {"confusion_epochs": 2} if algorithm == "adversarial" else {}
    minimizer = Minimizer(**{**SMALL, "algorithm": algorithm, "settings": settings})
    (stored,) = train_all([minimizer], Store(tmp_path), device="cpu", progress=False)
    assert set(stored.record["report"]) >= {"failed"}
    assert stored.record["test_error"] <= 1
    assert Store(tmp_path).table()["algorithm"].tolist() == [algorithm]
    assert gap(minimizer.train(device="cpu").state, stored.state) == 0


def test_several_processes_fill_one_store(tmp_path):
    wanted = [Minimizer(**{**SMALL, "seed": seed}) for seed in range(3)]
    found = train_all([*wanted, wanted[0]], Store(tmp_path), n_jobs=2, device="cpu", progress=False)
    assert [m.record["description"]["seed"] for m in found] == [0, 1, 2, 0]
    assert len(Store(tmp_path).table()) == 3


def test_a_half_trained_minimizer_under_anothers_key_is_refused(tmp_path, monkeypatch):
    first, second = (Minimizer(**{**SMALL, "seed": seed}) for seed in (0, 1))
    place = tmp_path / "unfinished"
    with monkeypatch.context() as patch:
        patch.setattr(training.Checkpoint, "remove", lambda self: None)
        patch.setattr(training.Checkpoint, "due", True)
        train_all([second], Store(tmp_path), device="cpu", progress=False)
    (place / f"{second.key}.safetensors").rename(place / f"{first.key}.safetensors")
    with pytest.raises(ValueError, match="saved by another run: first weights"):
        train_all([first], Store(tmp_path), device="cpu", progress=False)


def test_half_a_write_is_never_seen(tmp_path, monkeypatch):
    store, minimizer = Store(tmp_path), Minimizer(**SMALL)
    stored = minimizer.train(device="cpu")
    monkeypatch.setattr(
        _store.json, "dumps", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full"))
    )
    key = "0" * 64
    monkeypatch.setattr(Minimizer, "key", key)
    with pytest.raises(OSError, match="disk full"):
        store.put(minimizer, stored)
    assert minimizer not in store


def _write(folder, stored):
    for _ in range(20):
        Store(folder).put(Minimizer(**SMALL), stored)


def test_two_writers_do_no_harm(tmp_path):
    stored = Minimizer(**SMALL).train(device="cpu")
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(tmp_path, stored)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert gap(Store(tmp_path).get(Minimizer(**SMALL)).state, stored.state) == 0
    assert not list(tmp_path.glob("*.part"))


def test_train_all_trains_what_is_missing(tmp_path, monkeypatch):
    store = Store(tmp_path)
    wanted = [Minimizer(**{**SMALL, "seed": seed}) for seed in range(3)]
    train_all(wanted[:2], store, device="cpu", progress=False)
    trained = []
    original = _batch.train_together

    def watched(team, *options):
        trained.extend(m.seed for m in team)
        return original(team, *options)

    monkeypatch.setattr(_batch, "train_together", watched)
    found = train_all(wanted, store, device="cpu", progress=False)
    assert trained == [2]
    assert [m.record["description"]["seed"] for m in found] == [0, 1, 2]


def test_seeds_trained_as_one_network_are_those_trained_alone(tmp_path, monkeypatch):
    seeds = [Minimizer(**SMALL, seed=s) for s in range(3)]
    others = [
        Minimizer(**SMALL, seed=3, algorithm="sam"),
        Minimizer(**{**SMALL, "width": 0.03}, seed=4),
    ]
    teams = []
    original = _batch.train_together

    def watched(team, *options):
        teams.append(len(team))
        return original(team, *options)

    monkeypatch.setattr(_batch, "train_together", watched)
    stores = [Store(tmp_path / name) for name in ("alone", "together")]
    alone = train_all([*seeds, *others], stores[0], together=False, progress=False)
    assert teams == [1, 1, 1, 1, 1]
    teams.clear()
    stacked = train_all([*seeds, *others], stores[1], together=True, progress=False)
    assert teams == [3, 1, 1]
    for a, b in zip(alone, stacked, strict=True):
        assert gap(a.state, b.state) < 1e-5
        assert a.record["description"] == b.record["description"]
        assert a.record["train_error"] == pytest.approx(b.record["train_error"], abs=0.01)
    assert stores[1].verify() == {}
    assert not list((stores[1].folder / "unfinished").glob("*"))


@pytest.mark.parametrize("name", ["", "mnist"])
@pytest.mark.parametrize("part", ["train", "test"])
def test_a_folder_of_other_images_than_a_minimizer_was_trained_or_tested_on_is_told(
    tmp_path, monkeypatch, name, part
):
    monkeypatch.setenv("TOROID_DATA", str(tmp_path))
    shown = tmp_path / (name or "data")
    write_class_folders(shown)
    store = Store(tmp_path / "store")
    minimizer = Minimizer(name or str(shown), width=0.05, settings={"epochs": 1, "batch_size": 2})
    (first,) = train_all([minimizer], store, progress=False)
    assert train_all([minimizer], store, progress=False)[0].record == first.record
    image = next((shown / part).rglob("*.png"))
    Image.fromarray(255 - np.asarray(Image.open(image))).save(image)
    with pytest.raises(ValueError, match=r"trained or tested on other images of .* than are"):
        train_all([minimizer], store, progress=False)
    shown.rename(tmp_path / "elsewhere")  # nothing to compare with
    assert train_all([minimizer], store, progress=False)[0].record == first.record
    shown.mkdir()  # where it is mounted, say
    assert train_all([minimizer], store, progress=False)[0].record == first.record
