"""Kept runs: what they are called, and that each says where it comes from."""

import json
import re

import numpy as np
import pytest
from test_data import write_class_folders
from toroid import data
from toroid._files import DamagedError
from toroid.book import parameters, references


def test_kept_runs_are_labelled_by_what_they_ran():
    found = references.kept("minimizers", "minimizers")
    titles = references.titles("minimizers")
    assert len(found) == len(titles) > 0
    for title in titles:
        table, info = references.reference("minimizers", title, "minimizers")
        (run,) = (run for run in found if run.table.equals(table))
        assert run.label.endswith(references.TITLES[info["parameters"]["dataset"]])
        assert f"{info['parameters'].get('subset') or 'all'}" in run.label.replace(",", "")
        assert info["device"] in run.made
        width = info["parameters"].get("width", 1.0)
        assert (f"width {width:g}" in run.label) == (width != 1)
        assert run.values["width"] == width
    order = [data.DATASETS.index(run.values["dataset"]) for run in found]
    assert order == sorted(order)
    assert references.kept("minimizers", "nothing") == []


@pytest.mark.parametrize(
    ("values", "label"),
    [
        ({"dataset": "mnist", "arch": "mlp", "width": 1.0, "subset": 0}, "MLP, all of MNIST"),
        (
            {"dataset": "cifar10", "archs": ["mlp", "lenet"], "widths": [0.5, 1.0], "subset": 9},
            "MLP, LeNet, widths 0.5 to 1, 9 images of CIFAR-10",
        ),
        (
            {"dataset": "hidden-manifold", "arch": "binary_mlp", "subset": 2000},
            "binary MLP, 2,000 patterns of the hidden manifold",
        ),
        ({"dataset": "photos", "arch": "own"}, "own, photos"),
        ({"patterns": 3}, ""),
    ],
)
def test_a_label_says_what_is_not_usual(values, label):
    assert references.label_of(values) == label


def test_the_larger_of_two_runs_has_the_wider_network():
    run = {"dataset": "cifar10", "subset": 2000}
    sizes = [references._size({**run, "width": width}) for width in (0.25, 0.5, 1.0)]
    assert sizes == sorted(sizes)
    assert sizes[-1] < references._size({"dataset": "cifar10", "subset": 0, "width": 0.25})


@pytest.mark.parametrize(("seconds", "words"), [(8.2, "8 s"), (119, "119 s"), (200, "3 min")])
def test_a_duration_is_in_the_unit_that_shows_it(seconds, words):
    assert references._duration(seconds) == words


def test_a_kept_run_has_the_command_that_makes_it():
    """Its preset, what was given beside it, and nothing else."""
    assert references.command("connectivity.cifar10-all") == (
        "toroid run connectivity --preset cifar10-all "
        "-p algorithms=replicated_sgd,sgd,sgd_decayed --reference"
    )
    for path in (parameters.root() / "book" / "reference").glob("*/provenance.json"):
        words = references.command(path.parent.name).split()
        info = json.loads(path.read_text())
        given = [words[i + 1] for i, word in enumerate(words) if word == "-p"]
        if words[1] == "sweep":
            assert {g.partition("=")[0] for g in given} == {*info["fixed"], *info["varied"]}
            continue
        name, title = words[2], words[4]
        usual = {key: p.default for key, p in parameters.declared(name).items()}
        found = usual | parameters.preset(name, title) | parameters.parse(name, given)
        known = {k: v for k, v in info["parameters"].items() if k in usual}
        assert {k: found[k] for k in known} == known, path.parent.name


def test_a_kept_run_says_where_it_comes_from(tmp_path, monkeypatch):
    (tmp_path / "book").mkdir()
    (tmp_path / "_toc.yml").touch()
    run, results = tmp_path / "runs" / "minimizers.ipynb", tmp_path / "results"
    for place in (run.parent, results):
        place.mkdir()
    (results / "minimizers.csv").write_text("a\n1\n")
    here = {"results": str(results), "store": str(tmp_path / "store")}
    info = {"stamp": "s", "commit": "c", "parameters": {"width": 0.25, **here}}
    run.write_text(json.dumps({"metadata": {"toroid": info}, "cells": []}))
    page = (parameters.root() / "book" / "minimizers.ipynb").read_bytes()
    (tmp_path / "book" / "minimizers.ipynb").write_bytes(page)
    monkeypatch.chdir(tmp_path)
    older = tmp_path / "book" / "reference" / "minimizers.mine" / "older.csv"
    older.parent.mkdir(parents=True)
    older.touch()
    folder = references.keep(run, "mine")
    assert not older.exists()
    kept = json.loads((folder / "provenance.json").read_text())
    assert (folder / "minimizers.csv").read_text() == "a\n1\n"
    # all of them, as defaults may change, but no folder of the machine that ran it
    defaults = {key: p.default for key, p in parameters.declared("minimizers").items()}
    for place in ("results", "store", "n_jobs"):
        del defaults[place]
    assert kept["parameters"] == {**defaults, "width": 0.25}
    assert kept["data"] == {"name": "digits", "sha256": data.sha256("digits")}


def test_a_kept_run_without_a_data_set_is_labelled_by_its_preset():
    (run,) = references.kept("shallow", "predictions")
    assert run.label == "larger sizes"
    assert run.made.startswith("larger sizes: ")


def test_a_folder_of_images_is_kept_by_its_name(tmp_path, monkeypatch):
    write_class_folders(tmp_path / "insects")
    (tmp_path / "book").mkdir()
    (tmp_path / "_toc.yml").touch()
    (tmp_path / "book" / "bend.ipynb").write_bytes(parameters.path_of("bend").read_bytes())
    monkeypatch.chdir(tmp_path)
    values = {"dataset": str(tmp_path / "insects"), "results": str(tmp_path)}
    run = tmp_path / "bend.ipynb"
    run.write_text(json.dumps({"metadata": {"toroid": {"parameters": values}}, "cells": []}))
    text = (references.keep(run, "mine") / "provenance.json").read_text()
    assert str(tmp_path) not in text
    kept = json.loads(text)
    assert kept["parameters"]["dataset"] == "insects"
    assert kept["data"]["sha256"] == data.sha256(str(tmp_path / "insects"))


def test_a_kept_run_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    folder, new = tmp_path / "kept", tmp_path / "new.csv"
    new.write_text("a\n1\n")
    references.replace(folder, [new], {"run": 1})

    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(references, "write", full)
    with pytest.raises(OSError, match="No space"):
        references.replace(folder, [new], {"run": 2})
    tables, info = references.opened(folder)
    assert (tables["new"]["a"].tolist(), info["run"]) == ([1], 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept", "new.csv"]


def test_a_table_that_is_not_the_one_that_was_kept_is_refused(tmp_path):
    folder, paths = tmp_path / "kept", [tmp_path / "one.csv", tmp_path / "two.csv"]
    for path in paths:
        path.write_text("a,b\n" + "0.1,2\n" * 50)
    references.replace(folder, paths, {})
    table = folder / "one.csv"
    whole, places = table.read_bytes(), np.random.default_rng(0).integers(0, 8 * 304, 40)
    changed = [whole[:-6], b"", *(_flipped(whole, int(place)) for place in places)]
    for other in changed:
        table.write_bytes(other)
        with pytest.raises(DamagedError, match=r"kept is damaged: one\.csv is not what was kept"):
            references.opened(folder)
    table.write_bytes(whole)
    assert [len(found) for found in references.opened(folder)[0].values()] == [50, 50]
    table.unlink()
    with pytest.raises(DamagedError, match=r"one\.csv"):
        references.opened(folder)


def _flipped(data, place):
    byte, bit = divmod(place, 8)
    return data[:byte] + bytes([data[byte] ^ 1 << bit]) + data[byte + 1 :]


def test_kept_runs_speak_of_no_machine():
    paths = list((parameters.root() / "book" / "reference").glob("*/provenance.json"))
    assert paths
    for path in paths:
        assert not re.search(r'"(/|~|[A-Z]:)', path.read_text()), path
