"""The commands that move and merge networks of files."""

import hashlib
import json
import sys

import pytest
import safetensors
import safetensors.torch
import torch
import toroid
from click.testing import CliRunner
from networks import gap
from toroid.book import checkpoints
from toroid.book.cli import main

MODEL = """
import sys, toroid
def net(): return toroid.mlp((4,), classes=3, hidden=(6, 5))
def fails(): raise RuntimeError("not today")
def leaves(): sys.exit(3)
"""
HOW = ["--model", "small_networks:net", "--example", "1,4"]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Two files of one function, its units in another order."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "small_networks", raising=False)
    (tmp_path / "small_networks.py").write_text(MODEL)
    torch.manual_seed(0)
    model = toroid.mlp((4,), classes=3, hidden=(6, 5))
    a = {k: v.clone() for k, v in model.state_dict().items()}
    symmetry = toroid.find_symmetries(model, torch.randn(3, 4))
    b = toroid.permute(a, {g.name: torch.randperm(g.size) for g in symmetry.groups}, symmetry)
    safetensors.torch.save_file(a, "a.safetensors")
    safetensors.torch.save_file(b, "b.safetensors")
    return tmp_path, model, a, b


def run(*words):
    return CliRunner().invoke(main, [*map(str, words)])


def test_align_undoes_a_permutation(files):
    folder, _, a, _ = files
    done = run("align", "a.safetensors", "b.safetensors", *HOW, "-o", "c.safetensors")
    assert done.exit_code == 0, done.output
    assert gap(safetensors.torch.load_file("c.safetensors"), a) == 0
    assert "moved" in done.output
    assert "c.safetensors" in done.output
    with safetensors.safe_open("c.safetensors", "pt") as file:
        metadata = file.metadata()
    digest = hashlib.sha256((folder / "b.safetensors").read_bytes()).hexdigest()
    assert metadata["input 2"] == f"b.safetensors sha256:{digest}"


def test_a_damaged_file_of_torch_is_told(files, monkeypatch):
    """Its bytes are read once, and whatever torch makes of them is said in one way."""
    folder, model, a, _ = files
    torch.save(a, "a.pt")
    data = (folder / "a.pt").read_bytes()
    start = data.index(b"data.pkl") + 8
    flipped = [data[:i] + bytes([data[i] ^ bit]) + data[i + 1 :]
               for i in range(start, start + 500) for bit in (1, 16)]  # fmt: skip
    told = 0
    for damaged in (b"", data[:100], data[:-50], b"\x80", *flipped):
        monkeypatch.setattr(checkpoints.Path, "read_bytes", lambda path, data=damaged: data)
        try:
            checkpoints.read(folder / "a.pt", model)
        except checkpoints.CheckpointError:
            told += 1
    assert told > 100


@pytest.mark.parametrize("on", ["torus", "raw"])
def test_the_mean_of_a_network_and_its_copy_is_the_network(files, on):
    _, model, a, _ = files
    done = run("merge", "a.safetensors", "b.safetensors", *HOW, "--on", on, "-o", "m.safetensors")
    assert done.exit_code == 0, done.output
    merged = safetensors.torch.load_file("m.safetensors")
    assert toroid.same_function(model, a, merged, torch.randn(20, 4))
    if on == "raw":
        assert gap(merged, a) < 1e-6


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"epoch": 3, "state_dict": {f"_orig_mod.module.{k}": v for k, v in s.items()}},
        lambda s: {"model": {"state_dict": s}, "optimizer": {"state": {}}},
    ],
)
def test_wrapped_files_of_torch_are_understood(files, wrap):
    _, _, a, b = files
    torch.save(wrap(b), "b.pt")
    done = run("align", "a.safetensors", "b.pt", *HOW, "-o", "c.safetensors")
    assert done.exit_code == 0, done.output
    assert gap(safetensors.torch.load_file("c.safetensors"), a) == 0


class Harmful:
    def __reduce__(self):
        return open, ("harmed", "w")


def test_no_pickle_is_run(files):
    folder, _, a, _ = files
    torch.save({**a, "more": Harmful()}, "b.pt")
    done = run("align", "a.safetensors", "b.pt", *HOW, "-o", "c.safetensors")
    assert done.exit_code == 2
    assert "weights alone" in done.output
    assert not (folder / "harmed").exists()
    assert not (folder / "c.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a.safetensors", "none.safetensors", *HOW], "none.safetensors: No such file"),
        (["a.safetensors", "b.safetensors", *HOW[:2], "--example", "x"], "takes a shape"),
        (["a.safetensors", "b.safetensors", "--model", "net", *HOW[2:]], "package.module:function"),
        (["a.safetensors", "b.safetensors", "--model", "nowhere:net", *HOW[2:]], "nowhere"),
        (["a.safetensors", "b.safetensors", "--model", "json:dumps", *HOW[2:]], "json:dumps"),
        (["a.safetensors", "b.safetensors", *HOW[:2], "--example", "1,7"], "with this --example"),
        (["a.safetensors", "b.safetensors", *HOW[:2], "--example", "1" * 12 + ",4"], "of at most"),
        (["a.safetensors", "b.safetensors", *HOW[:2], "--example", "9" * 30], "of at most"),
        (["a.safetensors", "b.safetensors", "--model", "small_networks:fails", *HOW[2:]], "RuntimeError: not today"),
        (["a.safetensors", "b.safetensors", "--model", "small_networks:leaves", *HOW[2:]], "SystemExit: 3"),
        (["a.safetensors", "b.safetensors", *HOW, "-o", "folder.safetensors"], "a folder; give the name of a file"),
        (["a.safetensors", "nan.safetensors", *HOW], "contains NaN"),
        (["a.safetensors", "other.safetensors", *HOW], "does not fit the model"),
        (["a.safetensors", "text.safetensors", *HOW], "no safetensors file"),
        (["a.safetensors", "list.pt", *HOW], "holds no state dict"),
    ],
)  # fmt: skip
def test_wrong_use_is_told(files, words, told):
    folder, _, a, _ = files
    nan = {k: v / 0 - v / 0 for k, v in a.items()}
    safetensors.torch.save_file(nan, "nan.safetensors")
    safetensors.torch.save_file({"w": torch.zeros(2)}, "other.safetensors")
    (folder / "text.safetensors").write_text(json.dumps({}))
    (folder / "folder.safetensors").mkdir()
    torch.save([1, 2], "list.pt")
    done = run("align", "-o", "c.safetensors", *words)
    assert done.exit_code == 2
    assert told in done.output
    assert not (folder / "c.safetensors").exists()


def test_inputs_are_not_written_over(files):
    _, _, a, _ = files
    done = run("align", "b.safetensors", "a.safetensors", *HOW, "-o", "a.safetensors")
    assert done.exit_code == 2
    assert "one of the inputs" in done.output
    assert gap(safetensors.torch.load_file("a.safetensors"), a) == 0
    done = run("merge", "a.safetensors", "b.safetensors", *HOW, "-o", "c.pt")
    assert "ends in .safetensors" in done.output
    done = run("merge", "a.safetensors", *HOW, "-o", "c.safetensors")
    assert "two files or more" in done.output


def test_what_is_not_the_same_function_is_not_written(files, monkeypatch):
    folder, _, _, _ = files
    real = checkpoints.align

    def wrong(*args, **how):
        found = real(*args, **how)
        found.state["1.weight"] = found.state["1.weight"] + 0.1
        return found

    monkeypatch.setattr(checkpoints, "align", wrong)
    done = run("align", "a.safetensors", "b.safetensors", *HOW, "-o", "c.safetensors")
    assert done.exit_code == 2
    assert "not the function" in done.output
    assert not (folder / "c.safetensors").exists()
