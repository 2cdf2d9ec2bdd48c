"""The repository's files agree with each other."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from matplotlib import pyplot
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def locked():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {r.name.lower().replace("_", "-"): r for r in found}


def test_the_lock_holds_every_dependency_within_its_range():
    lock = locked()
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    for requirement in (Requirement(line) for group in groups for line in group):
        if requirement.name == "toroid":
            continue
        (pin,) = lock[requirement.name.lower()].specifier
        assert pin.operator == "=="
        assert requirement.specifier.contains(Version(pin.version)), f"{requirement} but {pin}"
        assert len(requirement.specifier), f"{requirement} has no range"


def test_conda_installs_the_same_pins():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (python,) = (
        d.removeprefix("python=") for d in conda if isinstance(d, str) and d.startswith("python=")
    )
    assert SpecifierSet(PROJECT["requires-python"]).contains(python)
    (pip,) = (d["pip"] for d in conda if isinstance(d, dict))
    assert pip == ["-r requirements.lock", "-e ."]


def test_the_continuous_integration_runs_the_readmes_commands():
    readme, ci = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    for command in ("make book", "make test"):
        assert command in readme
        assert f"run: {command}" in workflow
    assert "make test" in ci
    pythons = yaml.safe_load(workflow)["jobs"]["test"]["strategy"]["matrix"]["python-version"]
    takes = SpecifierSet(PROJECT["requires-python"])
    assert pythons == [f"3.{k}" for k in range(30) if takes.contains(f"3.{k}")]
    assert f"Python {pythons[0]} to {pythons[-1]} " in readme
    assert f"Python {pythons[0]} to {pythons[-1]}:" in (ROOT / "requirements.lock").read_text()


def test_make_clean_leaves_results():
    command = ["make", "--no-print-directory", "-n", "clean"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["rm", "-rf", "_build", ".venv"]


def test_the_readmes_example_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it saves a network and a figure
    torch.manual_seed(0)
    readme = (ROOT / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    pyplot.close("all")
    assert printed.startswith("group")
    assert {path.name for path in tmp_path.iterdir()} == {"aligned.safetensors", "barrier.png"}
    found, aligned = (float(line.split()[-1]) for line in printed.splitlines()[-2:])
    assert aligned < found


BENCHMARKS = {
    "alignment": (["--networks", "lenet", "--repeats", "1", "--cores", "1"],
                  ["plain loop", "rebasin", "times the bound", "normalize", "GB/s"]),
    "binary": (["--repeats", "1", "--networks", "2"], ["float32, ms", "int8, ms", "ratio"]),
    "flatness": (["--networks", "lenet", "--images", "20", "--repeats", "1", "--draws", "2"],
                 ["plain", "multiplicative", "plain torus", "last", "draws at once", "ratio"]),
    "layers": (["--network", "vgg16_bn", "--width", "0.05", "--repeats", "1", "--batches", "1"],
               ["inside, folded", "inside, fused", "blocked", "the bound", "of the bound"]),
    "paths": (["--networks", "lenet", "--images", "4", "--repeats", "1", "--batch", "2"],
              ["plain", "along", "channels last", "bfloat16", "points at once", "of the peak"]),
    "planted": (["--networks", "lenet", "--width", "0.2", "--seeds", "1", "--noise", "0"],
                ["sequential, torus", "activation", "and scale", "outputs off"]),
    "training": (["--networks", "mlp", "--width", "0.05", "--repeats", "1", "--dataset", "digits",
                  "--images", "40", "--batch", "10"],
                 ["plain", "one by one", "stacked", "bfloat16", "images/s", "of the peak", "test error"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_benchmark_runs(name, monkeypatch, capsys):
    arguments, words = BENCHMARKS[name]
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # they import each other
    threads, cores = torch.get_num_threads(), os.sched_getaffinity(0)
    try:
        runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"), run_name="__main__")
    finally:  # what comes behind in this process has them all again
        torch.set_num_threads(threads)
        os.sched_setaffinity(0, cores)
    printed = capsys.readouterr().out
    for word in words:
        assert word in printed


def test_every_benchmark_is_run():
    assert {path.stem for path in (ROOT / "benchmarks").glob("*.py")} == BENCHMARKS.keys()


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()


def test_every_promise_names_tests_that_exist():
    text = (ROOT / "book" / "promises.md").read_text()
    rows = [row for row in re.findall(r"^\|(.+)\|$", text, re.MULTILINE) if "---" not in row]
    promises = [row for row in rows if "promise | tests" not in row]
    assert len(promises) > 15
    for row in promises:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row)
        assert named, f"without a test: {row}"
        for file, test in named:
            code = (ROOT / "tests" / file).read_text()
            assert re.search(rf"^def {test}\(", code, re.MULTILINE), f"{file}::{test} is no test"


def test_every_page_is_in_the_table_of_contents():
    toc = (ROOT / "_toc.yml").read_text()
    for page in [*(ROOT / "book").glob("*.md"), *(ROOT / "book").glob("*.ipynb")]:
        assert f"book/{page.stem}" in toc
