"""The book's notebooks: their parameters, their runs, and whether what they show is fresh.

The cell tagged ``parameters`` is the only declaration. Each of its lines reads
``name: type = default  # help (range)``: papermill lists it, command line and notebook check
against it. A range ends the help: ``(0.1 to 4)`` for numbers, and for each number in a list;
``(one of a, b)`` for words.
"""

from __future__ import annotations

import ast
import base64
import difflib
import hashlib
import inspect
import json
import math
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from . import data
from .minimizers import Minimizer, grid

__all__ = [
    "Kept", "Parameter", "ParameterError", "check", "declared", "described", "fresh", "kept",
    "kept_titles", "names", "parse", "run",
]  # fmt: skip

_TYPES: dict[str, Any] = {"int": int, "float": float, "str": str, "bool": bool}
_RANGE = re.compile(r"\((\S+) to (\S+)\)$")
_CHOICES = re.compile(r"\(one of ([^)]*)\)$")


class ParameterError(ValueError):
    """A parameter with an unknown name, another type, or out of range."""


@dataclass(frozen=True)
class Parameter:
    """A line of the parameters cell.

    Attributes:
        name: Its name.
        type: ``int``, ``float``, ``str``, ``bool``, or a list of them, ``list[int]``.
        default: Its value in the notebook.
        help: The comment.
    """

    name: str
    type: str
    default: Any
    help: str

    def convert(self, value: Any) -> Any:
        """The value in the declared type.

        Raises:
            ParameterError: If it is of another type or out of range.
        """
        if self.type.startswith("list["):
            if not isinstance(value, (list, tuple)) or not value:
                raise ParameterError(
                    f"{self.name} takes a {self.type} with at least one entry, got {value!r}"
                )
            return [self._one(entry, self.type[5:-1]) for entry in value]
        return self._one(value, self.type)

    def _one(self, value: Any, kind: str) -> Any:
        if kind == "float" and type(value) is int:
            value = float(value)
        if type(value) is not _TYPES[kind]:
            raise ParameterError(
                f"{self.name} takes {self.type}, got {value!r} ({type(value).__name__})"
            )
        if found := _RANGE.search(self.help):
            low, high = map(float, found.groups())
            if not low <= value <= high:
                raise ParameterError(
                    f"{self.name} is {value!r}; it can be {found[1]} to {found[2]}"
                )
        if found := _CHOICES.search(self.help):
            choices = [word.strip() for word in found[1].split(",")]
            if value not in choices:
                raise ParameterError(
                    f"{self.name} is {value!r}; it can be {', '.join(choices)}"
                    + _nearest(value, choices)
                )
        return value


def _nearest(word: str, choices: list[str]) -> str:
    close = difflib.get_close_matches(word, choices, n=1)
    return f". Did you mean {close[0]!r}?" if close else ""


# --- where things are ----------------------------------------------------------------------------


def root() -> Path:
    """The folder of ``_toc.yml`` and ``book/``: above the working folder, else in this clone.

    Raises:
        FileNotFoundError: If there is none.
    """
    places = [Path.cwd(), *Path.cwd().parents, Path(__file__).resolve().parents[1]]
    for place in places:
        if (place / "_toc.yml").is_file() and (place / "book").is_dir():
            return place
    raise FileNotFoundError("the book is not here: run this inside a clone of the repository")


def names() -> list[str]:
    """The notebooks of the book."""
    return sorted(path.stem for path in (root() / "book").glob("[!.]*.ipynb"))


def _path(name: str) -> Path:
    if name not in names():
        raise ParameterError(
            f"no notebook {name!r}; there are {', '.join(names())}{_nearest(name, names())}"
        )
    return root() / "book" / f"{name}.ipynb"


def _read(name: str) -> dict[str, Any]:
    return json.loads(_path(name).read_text(encoding="utf-8"))


def _source(cell: Mapping[str, Any]) -> str:
    return "".join(cell["source"])


# --- parameters ----------------------------------------------------------------------------------


def declared(name: str) -> dict[str, Parameter]:
    """The parameters of a notebook, in the order of its parameters cell.

    Args:
        name: Notebook, e.g. ``"connectivity"``.

    Raises:
        ParameterError: If there is no such notebook, or its parameters cell is not as it must be.
    """
    cells = [c for c in _read(name)["cells"] if "parameters" in c["metadata"].get("tags", [])]
    if len(cells) != 1:
        raise ParameterError(f"{name} has {len(cells)} cells tagged 'parameters', not one")
    source = _source(cells[0])
    lines, found = source.splitlines(), {}
    for node in ast.parse(source).body:
        if not (
            isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value
        ):
            raise ParameterError(
                f"{name}: a parameter reads 'name: type = default  # help', not "
                f"{lines[node.lineno - 1]!r}"
            )
        words = lines[(node.end_lineno or node.lineno) - 1].partition("#")[2].strip()
        kind = ast.unparse(node.annotation)
        found[node.target.id] = Parameter(node.target.id, kind, ast.literal_eval(node.value), words)
    return found


def validate(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values for a notebook's parameters, each in its declared type.

    Args:
        name: Notebook.
        values: Some or all parameters by name.

    Raises:
        ParameterError: For an unknown name (the nearest one is suggested), another type, or out of
        range.
    """
    known = declared(name)
    for key in values:
        if key not in known:
            raise ParameterError(
                f"{name} has no parameter {key!r}; it has {', '.join(known)}"
                + _nearest(key, [*known])
            )
    return {key: known[key].convert(value) for key, value in values.items()}


def check(namespace: dict[str, Any], name: str) -> None:
    """Check the parameters of the notebook that calls this, in the cell after its parameters.

    Every plain value in the namespace is taken for a parameter, so that one that was injected
    under a wrong name does not pass unseen.

    Args:
        namespace: ``globals()`` of the notebook; values are put back in their declared types.
        name: The notebook's name.

    Raises:
        ParameterError: As `validate`.
    """
    plain = (bool, int, float, str, list, tuple, dict)
    given = {
        key: value
        for key, value in namespace.items()
        if isinstance(value, plain) and not key.startswith("_") and key not in ("In", "Out")
    }
    namespace.update(validate(name, given))


def parse(name: str, assignments: list[str]) -> dict[str, Any]:
    """Values from ``name=value`` words, as the command line gives them.

    Args:
        name: Notebook.
        assignments: E.g. ``["width=0.5", "seeds=0,1,2"]``.

    Raises:
        ParameterError: As `validate`, and if a word cannot be read in the declared type.
    """
    known, values = declared(name), {}
    for word in assignments:
        key, equals, text = word.partition("=")
        if not equals:
            raise ParameterError(f"a parameter is given as name=value, not {word!r}")
        values[key] = _from_text(known[key], text) if key in known else text
    return validate(name, values)


def _from_text(parameter: Parameter, text: str) -> Any:
    kind = parameter.type.removeprefix("list[").removesuffix("]")
    words = (
        [w.strip().strip("'\"") for w in text.strip("[]").split(",")]
        if kind != parameter.type
        else [text]
    )
    try:
        if kind == "bool":
            found = [{"true": True, "false": False}[w.lower()] for w in words]
        else:
            found = [_TYPES[kind](w) for w in words]
    except (KeyError, ValueError):
        raise ParameterError(f"{parameter.name} takes {parameter.type}, got {text!r}") from None
    return found if kind != parameter.type else found[0]


def preset(name: str, title: str) -> dict[str, Any]:
    """The values of ``book/params/<name>.<title>.yaml``; ``quick`` is the notebook as it stands.

    Raises:
        ParameterError: If there is no such preset, or as `validate`.
    """
    import yaml

    if title == "quick":
        return {}
    path = root() / "book" / "params" / f"{name}.{title}.yaml"
    if not path.is_file():
        raise ParameterError(f"{name} has no preset {title!r}; it has {', '.join(presets(name))}")
    return validate(name, yaml.safe_load(path.read_text(encoding="utf-8")))


def presets(name: str) -> list[str]:
    """The presets of a notebook, ``quick`` first."""
    files = sorted((root() / "book" / "params").glob(f"{name}.*.yaml"))
    return ["quick", *(path.name.split(".")[1] for path in files)]


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
    own = {
        "replicated_sgd": {"gmax": "gmax"},
        "adversarial": {
            "epochs": "bad_epochs", "repeats": "repeats", "confusion_lr": "confusion_lr",
            "confusion_epochs": "confusion_epochs",
        },
        "entropy_sgd": {"inner": "inner", "epochs": "entropy_epochs"},
    }  # fmt: skip
    shared = ("epochs", "lr", "batch_size", "weight_decay", "schedule", "augment")
    settings = {name: namespace[name] for name in shared}
    algorithms = list(algorithms)
    return grid(
        algorithms,
        namespace["seeds"],
        {**settings, "precision": namespace["train_precision"]},
        {a: {k: namespace[v] for k, v in own[a].items()} for a in algorithms if a in own},
        dataset=namespace["dataset"],
        subset=namespace["subset"] or None,
        architecture=namespace["arch"],
        width=namespace["width"],
    )


# --- runs ----------------------------------------------------------------------------------------


def stamp(name: str) -> str:
    """SHA-256 of what a page shows depends on: code cells, parameters, the library, kept runs."""
    digest = hashlib.sha256()
    for cell in _read(name)["cells"]:
        if cell["cell_type"] == "code":
            digest.update(_source(cell).encode() + b"\0")
    for path in sorted(Path(inspect.getfile(check)).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    runs = "*" if name == "claims" else f"{name}.*"
    for path in sorted((root() / "book" / "reference").glob(f"{runs}/*.*")):
        digest.update(path.relative_to(root()).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def fresh(name: str) -> bool:
    """Whether a page's stored outputs were made by its code and the library as they are now."""
    return run_info(name).get("stamp") == stamp(name)


def run_info(name: str) -> dict[str, Any]:
    """A page's last run: stamp, parameters, seconds, device, versions; else empty."""
    return _read(name)["metadata"].get("toroid", {})


def title(name: str) -> str:
    """The heading of a notebook."""
    return _source(_read(name)["cells"][0]).splitlines()[0].lstrip("# ")


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
    page = _path(name)
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
        papermill.execute_notebook(
            str(page), str(written), parameters=values, cwd=str(page.parent), kernel_name="python3"
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


def _publish(written: Path, page: Path) -> None:
    """Put a notebook that was run in the place of its page, and its figures beside it."""
    (page.parent / "images").mkdir(exist_ok=True)
    for label, image in figures(written).items():
        (page.parent / "images" / f"{label}.png").write_bytes(image)
    part = page.with_name(f".{page.name}.part")
    shutil.copyfile(written, part)
    part.replace(page)


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
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


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
        cell.get("outputs", [])[:] = [
            o for o in cell.get("outputs", []) if o.get("name") != "stderr"
        ]
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def keep_reference(notebook: Path, title: str) -> Path:
    """Keep the numbers of a run, and where they come from, in ``book/reference/``.

    Args:
        notebook: A notebook that was run, with its CSV files beside it.
        title: Name of its preset.

    Returns:
        The folder with the CSV files and ``provenance.json``.
    """
    folder = root() / "book" / "reference" / f"{notebook.stem}.{title}"
    folder.mkdir(parents=True, exist_ok=True)
    for path in notebook.parent.glob("*.csv"):
        shutil.copyfile(path, folder / path.name)
    info = json.loads(notebook.read_text(encoding="utf-8"))["metadata"]["toroid"]
    info["parameters"].pop("results", None)  # a folder of the machine that ran it
    defaults = {key: p.default for key, p in declared(notebook.stem).items()}
    if name := {**defaults, **info["parameters"]}.get("dataset"):
        info["data"] = {"name": Path(name).name, "sha256": data.sha256(name)}
    (folder / "provenance.json").write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
    return folder


class Kept(NamedTuple):
    """A table of a kept run.

    Attributes:
        label: Data set, network, number of training images; of a page without them, the preset.
        table: The numbers.
        made: On which device and in how many minutes.
    """

    label: str
    table: pd.DataFrame
    made: str


def kept(name: str, table: str) -> list[Kept]:
    """A table of every kept run of a notebook that has it, the largest data set last.

    Args:
        name: Notebook.
        table: Name of the CSV file, without its ending.
    """
    found = []
    places = root() / "book" / "reference"
    for title in kept_titles(name):
        if not (places / f"{name}.{title}" / f"{table}.csv").is_file():
            continue
        numbers, info = reference(name, title, table)
        values = {k: p.default for k, p in declared(name).items()} | info["parameters"]
        label = _label(values) or title
        minutes = max(1, round(info["seconds"] / 60))
        made = f"{label}: {info['device']}, {minutes} min"
        found.append((_size(values), Kept(label, numbers, made)))
    return [run for _, run in sorted(found, key=lambda pair: pair[0])]


def kept_titles(name: str) -> list[str]:
    """The presets of a notebook of which a run is kept.

    Args:
        name: Notebook.
    """
    folders = {path.parent.name for path in (root() / "book" / "reference").glob("*/*.json")}
    return [title for title in presets(name) if f"{name}.{title}" in folders]


def _label(values: Mapping[str, Any]) -> str:
    """What a run was about: data set, network, number of training images, as far as it has them."""
    archs = [values["arch"]] if "arch" in values else values.get("archs", [])
    images = [f"{values['subset'] or 'all'} images"] if "subset" in values else []
    return ", ".join([*([values["dataset"]] if "dataset" in values else []), *archs, *images])


def _size(values: Mapping[str, Any]) -> tuple[int, int]:
    """Orders runs: data sets as `toroid.data` lists them, then the number of training images."""
    order = [*data.DATASETS, values.get("dataset")]
    return order.index(values.get("dataset")), values.get("subset") or 10**9


def reference(name: str, title: str, table: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The kept numbers of a run, and where they come from.

    Args:
        name: Notebook.
        title: Its preset.
        table: Name of the CSV file, without its ending.

    Raises:
        FileNotFoundError: If no such run was kept; says how to make it.
    """
    folder = root() / "book" / "reference" / f"{name}.{title}"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no reference run is kept; make it: toroid run {name} --preset {title} --reference"
        )
    return pd.read_csv(folder / f"{table}.csv"), json.loads(
        (folder / "provenance.json").read_text()
    )


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
