"""The book's notebooks: what they train, their runs, and whether what they show is fresh."""

from __future__ import annotations

import ast
import base64
import hashlib
import io
import json
import math
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from PIL import Image

from .._files import DamagedError, read_json, write, write_json
from ..minimizers import Minimizer, grid
from ..training import SETTINGS, Checkpoint, Settings
from .parameters import PLACES, ParameterError, declared, path_of, read, root, source, validate

__all__ = [
    "Parts", "described", "figures", "fresh", "glue", "pairs", "run", "run_info", "stamp", "title",
]  # fmt: skip


def stamp(name: str) -> str:
    """SHA-256 of what a page shows depends on: code cells, parameters, the library, kept runs.

    Of the library it is the code that the page imports, without docstrings and comments.
    """
    digest = hashlib.sha256()
    cells = [source(cell) for cell in read(name)["cells"] if cell["cell_type"] == "code"]
    for cell in cells:
        digest.update(cell.encode() + b"\0")
    for module, text in _reached(cells).items():
        digest.update(f"{module}\0{_parsed(text)[0]}\0".encode())
    runs = "*" if name == "claims" else f"{name}.*"
    for path in sorted((root() / "book" / "reference").glob(f"{runs}/*.*")):
        digest.update(path.relative_to(root()).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


@cache  # pages have most modules in common
def _parsed(text: str) -> tuple[str, list[ast.Import | ast.ImportFrom]]:
    """What a module says, and what it imports."""
    tree = ast.parse(text)
    imports = [x for x in ast.walk(tree) if isinstance(x, (ast.Import, ast.ImportFrom))]
    return _shape(tree), imports


def _reached(cells: Iterable[str]) -> dict[str, str]:
    """The modules of the package that a page imports, and those that they import: their texts."""
    package = Path(__file__).resolve().parents[1]
    found: dict[str, str] = {}
    ahead = [module for cell in cells for module in _imported(cell, "")]
    while ahead:
        module = ahead.pop()
        path = package.parent.joinpath(*module.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if module in found or module.split(".")[0] != package.name or not file.is_file():
            continue
        found[module] = file.read_text(encoding="utf-8")
        inside = module if file.name == "__init__.py" else module.rpartition(".")[0]
        ahead += _imported(found[module], inside)
    return dict(sorted(found.items()))


def _imported(text: str, package: str) -> list[str]:
    """The modules that a module of `package` may import: each name could be one."""
    found = []
    for node in _parsed(text)[1]:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        else:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    parents = [name.rpartition(".")[0] for name in found if "." in name]
    return [*found, *parents]


def _shape(node: Any) -> str:
    """A syntax tree as text, the same in every version of Python, without docstrings."""
    if isinstance(node, list):
        return f"[{' '.join(map(_shape, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    # whether a name is read or written, its place says
    fields: dict[str, Any] = {k: getattr(node, k, None) for k in node._fields if k != "ctx"}
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = fields["body"][1:]
    if isinstance(node, ast.JoinedStr):  # some versions end a format with an empty string
        fields["values"] = [x for x in node.values if getattr(x, "value", None) != ""]
    parts = [f"{k}={_shape(v)}" for k, v in fields.items() if v is not None and v != []]
    return f"{type(node).__name__}({' '.join(parts)})"


def fresh(name: str) -> bool:
    """Whether a page's stored outputs were made by its code and the library as they are now."""
    return run_info(name).get("stamp") == stamp(name)


def run_info(name: str) -> dict[str, Any]:
    """A page's last run: stamp, parameters, seconds, device, versions; else empty."""
    return read(name)["metadata"].get("toroid", {})


def title(name: str) -> str:
    """The heading of a notebook."""
    return source(read(name)["cells"][0]).splitlines()[0].lstrip("# ")


def run(name: str, values: Mapping[str, Any] | None = None, output: Path | None = None) -> Path:
    """Run a notebook.

    Args:
        name: Notebook.
        values: Parameters that differ from the notebook's.
        output: Where to write the notebook that was run; None renews the page itself, which takes
            its own parameters and nothing else. A page is replaced only after a run without error.

    Returns:
        The notebook that was written.

    Raises:
        ParameterError: As `validate`; before anything is run.
        papermill.PapermillExecutionError: If a cell fails; the notebook up to there is in `output`.
    """
    import papermill

    values = validate(name, values or {})
    page = path_of(name)
    if output is None and values:
        raise ParameterError("a page shows its own parameters; give an output to run with others")
    if output is not None and output.resolve() == page.resolve():
        raise ParameterError(f"{output} is the page itself; give another output")
    made_by = stamp(name)  # before the run: what is edited meanwhile is not what was run
    commit = {} if output is None else {"commit": _commit()}  # a page is part of its own commit
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        written = output or Path(folder) / page.name
        written.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(folder) / "fresh" / page.name
        write(fresh, json.dumps(_unrun(name)).encode())
        papermill.execute_notebook(
            _literal(fresh),
            _literal(written),
            parameters=values,
            cwd=str(page.parent),
            kernel_name="python3",
        )
        info = {
            "stamp": made_by, **commit, "parameters": values,
            "seconds": round(time.perf_counter() - start, 1),
            "python": platform.python_version(), "torch": torch.__version__, "device": _device(),
        }  # fmt: skip
        _tidy(written, info)
        if output is None:
            _publish(written, page)
    return output or page


def _unrun(name: str) -> dict[str, Any]:
    """A page without what its last run says of itself: one that is cut off is not finished."""
    notebook = read(name)
    notebook["metadata"].pop("toroid", None)
    return notebook


def _literal(path: Path) -> str:
    """A path for papermill, which takes braces for a parameter's place."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _publish(written: Path, page: Path) -> None:
    """Put a notebook that was run in the place of its page, and its figures beside it."""
    for label, image in figures(written).items():
        write(page.parent / "images" / f"{label}.png", image)
    write(page, written.read_bytes())


def figures(path: Path) -> dict[str, bytes]:
    """The named figures of a notebook that was run, as PNG."""
    found = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        label = cell["metadata"].get("mystnb", {}).get("figure", {}).get("name")
        images = [
            o["data"]["image/png"]
            for o in cell.get("outputs", [])
            if "image/png" in o.get("data", {})
        ]
        if label and images:
            found[label] = base64.b64decode(images[0])
    return found


def _device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"{platform.machine()} CPU, {threads} thread{'s' * (threads > 1)}"


def _commit() -> str:
    """The commit that is checked out, and whether code differs from it; empty if there is none."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(root()), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "toroid", "book/*.ipynb")
        return git("rev-parse", "HEAD") + (", with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _tidy(path: Path, info: Mapping[str, Any]) -> None:
    """Keep outputs and what was run; drop what changes with every run."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    notebook["metadata"] = {"kernelspec": notebook["metadata"]["kernelspec"], "toroid": info}
    for cell in notebook["cells"]:
        for key in ("papermill", "execution"):
            cell["metadata"].pop(key, None)
        if not cell["metadata"].get("tags", True):
            del cell["metadata"]["tags"]
        outputs = [o for o in cell.get("outputs", []) if o.get("name") != "stderr"]
        cell.get("outputs", [])[:] = outputs
        for data in (o["data"] for o in outputs if "image/png" in o.get("data", {})):
            data["image/png"] = _smaller(data["image/png"])
    write(path, f"{json.dumps(notebook, indent=1, ensure_ascii=False)}\n".encode())


class Parts:
    """What a long run has finished, so that the same run goes on where it was cut off.

    The files lie below the folder of the results, under a digest of the page's code, the library
    and all parameters: a run with others never sees them. A run that comes to its end removes them.

    Args:
        namespace: ``globals()`` of the notebook.
        name: The notebook's name.
    """

    def __init__(self, namespace: Mapping[str, Any], name: str) -> None:
        """Find the folder; nothing is written yet."""
        values = {key: namespace[key] for key in declared(name) if key not in PLACES}
        text = json.dumps([stamp(name), values], sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.folder = Path(namespace["results"]) / "parts" / key
        self.mine: set[Path] = set()

    def table(self, key: str, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """The table that `compute` returns, or has returned before.

        Args:
            key: Names it.
            compute: Called if it is not there.

        Returns:
            The table, as it was written: its numbers are the same to the last bit.
        """
        path = self.folder / f"{key}.json"
        self.mine.add(path)
        try:
            text = read_json(path)["csv"]
        except (FileNotFoundError, DamagedError):  # a damaged one is made again
            text = compute().to_csv(index=False)
            write_json(path, {"csv": text})
        return pd.read_csv(io.StringIO(text), float_precision="round_trip")

    def checkpoint(self, key: str) -> Checkpoint:
        """A file for a training that is part of the run."""
        path = self.folder / f"{key}.safetensors"
        self.mine.add(path)
        return Checkpoint(path, every=1.0)

    def remove(self) -> None:
        """Delete what this run has asked for, at its end; what another one is writing stays."""
        for path in self.mine:
            Checkpoint(path).remove()
        with suppress(OSError):  # nothing was kept, or another run's parts are still there
            self.folder.rmdir()
            self.folder.parent.rmdir()


def _smaller(image: str) -> str:
    """A figure in 256 colours: a third of the size, and no other to the eye."""
    written = io.BytesIO()
    figure = Image.open(io.BytesIO(base64.b64decode(image))).convert("RGB")
    figure.quantize(256).save(written, "png", optimize=True)
    return base64.b64encode(written.getvalue()).decode()


def glue(name: str, value: Any) -> None:
    """Keep a number or a word for the page's prose.

    Args:
        name: As ``{glue:text}`` calls it.
        value: A finite number or a string.

    Raises:
        ValueError: If a number is not finite.
    """
    from myst_nb import glue as keep

    if not isinstance(value, str):
        value = float(value) if not isinstance(value, int) else value
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}: not a number to print in a sentence")
    keep(name, value, display=False)


#: Settings that a page has for one algorithm under a name of their own.
RENAMED = {"adversarial": {"epochs": "bad_epochs"}, "entropy_sgd": {"epochs": "entropy_epochs"}}


def described(
    namespace: Mapping[str, Any], algorithms: Iterable[str]
) -> dict[tuple[str, int], Minimizer]:
    """The minimizers that a page's parameters speak of, the same for the same parameters.

    Args:
        namespace: ``globals()`` of a notebook whose parameters are named as those of the page
            ``minimizers``.
        algorithms: Names.

    Returns:
        Descriptions by algorithm and seed, see `toroid.minimizers.grid`.
    """
    algorithms, parameters = list(algorithms), declared("minimizers")

    def given(names: Iterable[str], renamed: Mapping[str, str]) -> dict[str, Any]:
        """The settings that the page has a parameter for."""
        called = {name: renamed.get(name, name) for name in names}
        return {k: namespace[v] for k, v in called.items() if v in parameters}

    shared = {f.name for f in fields(Settings)}
    added = {a: {*SETTINGS[a].own()} - shared | {*RENAMED.get(a, {})} for a in algorithms}
    return grid(
        algorithms,
        namespace["seeds"],
        given(shared, {"precision": "train_precision"}),
        {a: given(added[a], RENAMED.get(a, {})) for a in algorithms},
        dataset=namespace["dataset"],
        subset=namespace["subset"] or None,
        architecture=namespace["arch"],
        width=namespace["width"],
    )


End = tuple[str, int]


def pairs(first: str, second: str, seeds: Sequence[int]) -> list[tuple[End, End]]:
    """Pairs of minimizers of two algorithms: of different seeds before those of the same.

    Args:
        first: An algorithm.
        second: Another, or the same.
        seeds: Those of both.

    Example:
        >>> pairs("sgd", "sgd", [0, 1, 2])[:2]
        [(('sgd', 0), ('sgd', 1)), (('sgd', 0), ('sgd', 2))]
        >>> pairs("sgd", "sam", [0, 1])[1:3]
        [(('sgd', 1), ('sam', 0)), (('sgd', 0), ('sam', 0))]
    """
    if first == second:
        return [((first, a), (second, b)) for a, b in combinations(seeds, 2)]
    turns = [[*seeds[k:], *seeds[:k]] for k in (*range(1, len(seeds)), 0)]
    return [((first, a), (second, b)) for turn in turns for a, b in zip(seeds, turn, strict=True)]
