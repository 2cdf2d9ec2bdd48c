"""The package as it is built: one direction, and a wheel that holds all of it."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from importlinter import cli

ROOT = Path(__file__).resolve().parents[1]


def test_a_floor_imports_only_from_below(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert (
        cli.lint_imports(config_filename="pyproject.toml", no_cache=True) == cli.EXIT_STATUS_SUCCESS
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # building writes beside the sources
    shutil.copytree(
        ROOT / "toroid", source / "toroid", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(source)], check=True)
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = [n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n]
    zoo = ROOT / "toroid" / "zoo"
    kinds = [*(ROOT / "toroid").rglob("*.py"), *zoo.glob("*.safetensors"), *zoo.glob("*.json")]
    here = {p.relative_to(ROOT).as_posix() for p in kinds}
    assert set(names) == here | {"toroid/py.typed"}


def test_every_module_is_imported_from_the_wheel(wheel, tmp_path):
    program = """
import importlib, sys, pathlib
sys.path.insert(0, sys.argv[1])
import toroid
assert not {"matplotlib", "scipy.stats", "sympy", "torchvision"} & {*sys.modules}  # slow, for a few
place = pathlib.Path(sys.argv[1]) / "toroid"
assert pathlib.Path(toroid.__file__).parent == place, toroid.__file__
for path in sorted(place.rglob("*.py")):
    if path.stem != "__main__":
        name = ".".join(path.relative_to(place.parent).with_suffix("").parts)
        importlib.import_module(name.removesuffix(".__init__"))
        print(name)
"""
    zipfile.ZipFile(wheel).extractall(tmp_path)
    command = [
        sys.executable,
        "-P" if sys.version_info >= (3, 11) else "-B",
        "-c",
        program,
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "toroid.book.claims" in done.stdout
