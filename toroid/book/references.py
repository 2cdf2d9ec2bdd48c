"""The numbers of large runs and their provenance, kept in ``book/reference/``."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from .. import data
from .._files import DamagedError, write
from .claims import TITLES, Run
from .parameters import PLACES, declared, preset, presets, root

__all__ = [
    "Kept", "anywhere", "command", "keep", "kept", "label_of", "opened", "reference", "replace",
    "runs", "titles",
]  # fmt: skip


def keep(notebook: Path, title: str) -> Path:
    """Keep the numbers of a run, and where they come from, in ``book/reference/``.

    All its parameters are kept, since defaults may change. A run that was kept under this name
    before is replaced.

    Args:
        notebook: A notebook that was run; its CSV files are where its ``results`` says.
        title: Name of its preset.

    Returns:
        The folder with the CSV files and ``provenance.json``.
    """
    info = json.loads(notebook.read_text(encoding="utf-8"))["metadata"]["toroid"]
    folder = root() / "book" / "reference" / f"{notebook.stem}.{title}"
    given = info["parameters"]
    results = given.get("results", notebook.parent)
    defaults = {k: p.default for k, p in declared(notebook.stem).items() if k not in PLACES}
    values = defaults | given
    if name := values.get("dataset"):
        info["data"] = {"name": Path(name).name, "sha256": data.sha256(name)}
    info["parameters"] = anywhere(values)
    replace(folder, Path(results).glob("*.csv"), info)
    return folder


def anywhere(values: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters without the folders of this machine; a folder of data has its name alone.

    Args:
        values: By name.

    Example:
        >>> anywhere({"dataset": "/home/me/photos", "store": "/scratch/me", "epochs": 5})
        {'dataset': 'photos', 'epochs': 5}
    """
    found = {k: v for k, v in values.items() if k not in ("results", "store")}
    return found | ({"dataset": Path(found["dataset"]).name} if "dataset" in found else {})


def replace(folder: Path, tables: Iterable[Path], info: Mapping[str, Any]) -> None:
    """Put a run in the place of a folder, which is as it was until all is written.

    Args:
        folder: What is replaced.
        tables: Files that are copied.
        info: Where they come from: ``provenance.json``, with a digest of each table.
    """
    copies = {path.name: path.read_bytes() for path in sorted(tables)}
    told = json.dumps({**info, "tables": _digests(copies)}, indent=1) + "\n"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as place:
        new, old = Path(place, "new"), Path(place, "old")
        new.mkdir()
        for name, text in (copies | {"provenance.json": told.encode()}).items():
            write(new / name, text)
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except BaseException:  # a key that was pressed, say
            if old.exists() and not folder.exists():
                old.rename(folder)
            raise


def opened(folder: Path) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """The tables of a kept run by name, and where they come from.

    Args:
        folder: In ``book/reference/``.

    Raises:
        DamagedError: If a table is not the one that was kept.
    """
    info = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    texts = {path.name: path.read_bytes() for path in sorted(folder.glob("*.csv"))}
    found, kept = _digests(texts), info["tables"]
    if other := sorted(k for k in found.keys() | kept.keys() if found.get(k) != kept.get(k)):
        raise DamagedError(
            f"{folder} is damaged: {', '.join(other)} is not what was kept. Put the folder back "
            "from the repository, or make the run again, as the foot of its page says"
        )
    tables = {
        name.removesuffix(".csv"): pd.read_csv(io.BytesIO(text), float_precision="round_trip")
        for name, text in texts.items()
    }
    return tables, info


def _digests(texts: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()}


class Kept(NamedTuple):
    """A table of a kept run.

    Attributes:
        label: Data set, network and its width, number of training images; of a page without them,
            the preset.
        table: The numbers.
        made: On which device and how long it took, without the networks that were trained before.
        values: All its parameters.
    """

    label: str
    table: pd.DataFrame
    made: str
    values: dict[str, Any]


def kept(name: str, table: str) -> list[Kept]:
    """A table of every kept run of a notebook that has it, the largest last.

    The order is that of the data sets in `toroid.data`, then of the training images, then of width.

    Args:
        name: Notebook.
        table: Name of the CSV file, without its ending.
    """
    found = []
    places = root() / "book" / "reference"
    for title in titles(name):
        if not (places / f"{name}.{title}" / f"{table}.csv").is_file():
            continue
        numbers, info = reference(name, title, table)
        values = {k: p.default for k, p in declared(name).items()} | info["parameters"]
        label = label_of(values) or TITLES.get(title, title)
        made = f"{label}: {info['device']}, {_duration(info['seconds'])}"
        found.append(Kept(label, numbers, made, values))
    return sorted(found, key=lambda run: _size(run.values))


def runs(name: str) -> list[Run]:
    """Every kept run of a notebook with all its tables, in the order of `kept`.

    Args:
        name: Notebook.
    """
    found = []
    for title in titles(name):
        folder = root() / "book" / "reference" / f"{name}.{title}"
        tables, info = opened(folder)
        values = {k: p.default for k, p in declared(name).items()} | info["parameters"]
        label = label_of(values) or TITLES.get(title, title)
        made = f"{label}: {info['device']}, {_duration(info['seconds'])}"
        found.append(Run.of(label, tables, values, info["stamp"], made))
    return sorted(found, key=lambda run: _size(run.values))


def titles(name: str) -> list[str]:
    """The presets of a notebook of which a run is kept.

    Args:
        name: Notebook.
    """
    folders = {path.parent.name for path in (root() / "book" / "reference").glob("*/*.json")}
    return [title for title in presets(name) if f"{name}.{title}" in folders]


def command(folder: str) -> str:
    """The command that makes a kept run again: its preset, and all that it had otherwise.

    Args:
        folder: In ``book/reference/``, ``"<notebook>.<preset>"`` or ``"sweep.<title>"``.

    Returns:
        One line; it keeps the new run in the old one's place.
    """
    path = root() / "book" / "reference" / folder / "provenance.json"
    info = json.loads(path.read_text(encoding="utf-8"))
    name, _, title = folder.partition(".")
    if name == "sweep":
        given = {k: _word(v, ";") for k, v in info["fixed"].items()}
        given |= {k: ",".join(_word(v, ";") for v in vs) for k, vs in info["varied"].items()}
        words = ["toroid sweep", info["page"], *_options(given), "--reference", title]
        return " ".join(words)
    usual = {k: p.default for k, p in declared(name).items()} | preset(name, title)
    given = {
        k: _word(v, ",") for k, v in info["parameters"].items() if k in usual and v != usual[k]
    }
    words = ["toroid run", name, "--preset", title, *_options(given), "--reference"]
    return " ".join(words)


def _options(given: Mapping[str, str]) -> list[str]:
    return [f"-p {name}={value}" for name, value in given.items()]


def _word(value: Any, between: str) -> str:
    return between.join(map(str, value)) if isinstance(value, list) else str(value)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _widths(values: Mapping[str, Any]) -> list[float]:
    return values.get("widths") or [values.get("width", 1.0)]


def label_of(values: Mapping[str, Any]) -> str:
    """What a run was about, as far as it has a data set, networks, a number of images.

    Args:
        values: Its parameters.

    Example:
        >>> label_of({"dataset": "mnist", "arch": "mlp", "width": 0.5, "subset": 0})
        'MLP, width 0.5, all of MNIST'
    """
    archs = [values["arch"]] if "arch" in values else values.get("archs", [])
    least, most = min(_widths(values)), max(_widths(values))
    widths = f"width {most:g}" if least == most else f"widths {least:g} to {most:g}"
    width = [widths] if archs and widths != "width 1" else []
    algorithms = values.get("algorithms", [])
    alone = algorithms if len(algorithms) == 1 else []
    archs, alone = ([TITLES.get(name, name) for name in names] for names in (archs, alone))
    return ", ".join([*archs, *width, *alone, *_data(values)])


def _data(values: Mapping[str, Any]) -> list[str]:
    """How many images of which data set, where a run has one."""
    if "dataset" not in values:
        return []
    name = TITLES.get(values["dataset"], values["dataset"])
    if "subset" not in values:
        return [name]
    kind = "patterns" if values["dataset"] in data.PATTERNS else "images"
    return [f"{values['subset']:,} {kind} of {name}" if values["subset"] else f"all of {name}"]


def _size(values: Mapping[str, Any]) -> tuple[int, int, float]:
    """The place of a data set among those of `toroid.data`, training images, width."""
    order = [*data.DATASETS, values.get("dataset")]
    return order.index(values.get("dataset")), values.get("subset") or 10**9, max(_widths(values))


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
    tables, info = opened(folder)
    return tables[table], info
