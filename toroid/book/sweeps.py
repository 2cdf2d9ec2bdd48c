"""A page run at every place of a grid of its parameters, and what it found as one table."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import pandas as pd
from tqdm.auto import tqdm

from .._files import DamagedError, read_json, write, write_json
from .._state import check_whole
from . import notebooks, references
from .parameters import ParameterError, declared, parse, root, validate

__all__ = [
    "Grid", "Swept", "checked_title", "cluster", "grid", "keep", "kept", "sweep", "together",
]  # fmt: skip

#: The name of a kept sweep is part of a folder's, and of the command that makes it again.
_TITLE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Grid:
    """A page, what every run of it takes, and what differs.

    Attributes:
        name: Notebook.
        fixed: Parameters that all runs share, where they are not the notebook's.
        varied: The values of each parameter that varies; the last one varies fastest.
    """

    name: str
    fixed: dict[str, Any]
    varied: dict[str, list[Any]]

    @property
    def places(self) -> list[dict[str, Any]]:
        """The values of the varied parameters, run by run."""
        rows = itertools.product(*self.varied.values())
        return [dict(zip(self.varied, row, strict=True)) for row in rows]

    @property
    def digest(self) -> str:
        """Of all that says what is run."""
        return _digest([self.name, self.fixed, self.varied])


def grid(name: str, assignments: Sequence[str], over: Sequence[str] = (), **fixed: Any) -> Grid:
    """The grid that the words of a command line describe; nothing is run.

    A semicolon divides the values of the grid: ``seeds=0,1;2,3`` is two lists. For a parameter that
    takes one value, which no comma can be part of, a comma does the same: ``lr=0.02,0.1``. A
    parameter with one value is the same in all runs.

    Args:
        name: Notebook.
        assignments: ``name=values``.
        over: Parameters that take a list: each entry of it is a run of its own.
        **fixed: Values that all runs share unless they are given, those of a preset say.

    Raises:
        ParameterError: As `toroid.book.parameters.validate`, for any place of the grid; if a
            parameter or a value is given twice, if `over` names no list, or if nothing varies.

    Example:
        >>> grid("minimizers", ["lr=0.02,0.1", "seeds=0,1"], over=["seeds"]).places[1]
        {'lr': 0.02, 'seeds': [1]}
    """
    known, values = declared(name), {}
    for word in assignments:
        key, equals, text = word.partition("=")
        if not equals:
            raise ParameterError(f"a parameter is given as name=values, not {word!r}")
        if key in values:
            raise ParameterError(f"{key} is given twice; write its values as one: {key}=a;b")
        divider = ";" if ";" in text or _is_list(known, key) else ","
        values[key] = [parse(name, [f"{key}={x.strip()}"])[key] for x in text.split(divider)]
    for key in over:
        values[key] = _entries(name, key, values.get(key))
    if "results" in values:
        raise ParameterError("a sweep has a folder of results for each run; -o says where they lie")
    for key, listed in values.items():
        if twice := [value for value in listed if listed.count(value) > 1]:
            raise ParameterError(f"{key} has {twice[0]!r} twice; the places of a grid are distinct")
    varied = {key: listed for key, listed in values.items() if len(listed) > 1}
    if not varied:
        raise ParameterError("nothing varies; give a parameter several values, e.g. -p width=0.5,1")
    shared = fixed | {key: listed[0] for key, listed in values.items() if len(listed) == 1}
    found = Grid(name, validate(name, shared), varied)
    for place in found.places:
        validate(name, place)
    return found


def _is_list(known: Mapping[str, Any], key: str) -> bool:
    return key in known and known[key].type.startswith("list[")


def _entries(name: str, key: str, lists: list[Any] | None) -> list[list[Any]]:
    """Each entry of a list parameter as a list of one."""
    if not _is_list(known := declared(name), key):
        lists_of = ", ".join(k for k in known if _is_list(known, k))
        raise ParameterError(f"over takes a parameter that is a list ({lists_of}), not {key!r}")
    if lists and len(lists) > 1:
        raise ParameterError(f"{key} has {len(lists)} lists already; over takes one")
    return [[entry] for entry in (lists[0] if lists else known[key].default)]


class Swept(NamedTuple):
    """What a sweep leaves.

    Attributes:
        tables: By name, the CSV files of all runs as one, the varied parameters first.
        failed: By the values of a run, as text, why it did not come to its end.
    """

    tables: dict[str, pd.DataFrame]
    failed: dict[str, str]


def sweep(grid: Grid, folder: Path, *, n_jobs: int | None = None, progress: bool = True) -> Swept:
    """Run a page at every place of a grid that has not been run, and gather what it found.

    Each run is one of the notebook, in a folder of its own, by joblib: in `n_jobs` processes, or by
    the backend of ``joblib.parallel_config``. One that fails is named and the others go on. A sweep
    that was cut off goes on in the same folder, and leaves the same tables; a run whose tables are
    not those that it wrote is run again.

    Args:
        grid: From `grid`.
        folder: Where to write: a folder for each run, the tables, and ``provenance.json``.
        n_jobs: How many runs at once.
        progress: Show a progress bar over the runs.

    Returns:
        The tables, which are in the folder as well, and what failed.
    """
    places = {place_key(grid, place): place for place in grid.places}
    made_by = notebooks.stamp(grid.name)
    ahead = [key for key in places if not _done(folder / key, made_by)]
    jobs = (joblib.delayed(_run)(grid, places[key], folder / key) for key in ahead)
    done = joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered")(jobs)
    failed = {}
    with tqdm(total=len(places), initial=len(places) - len(ahead), disable=not progress) as bar:
        for place, error in done:
            bar.update()
            if error:
                failed[_told(place)] = error
    finished = {key: p for key, p in places.items() if _done(folder / key, made_by)}
    tables = _gathered(folder, finished)
    for name, table in tables.items():
        write(folder / f"{name}.csv", table.to_csv(index=False).encode())
    _write_provenance(grid, folder, finished, failed)
    return Swept(tables, failed)


def place_key(grid: Grid, place: Mapping[str, Any]) -> str:
    """The name of a run's folder: the same in every grid that has the place."""
    return _digest([grid.name, {**grid.fixed, **place}])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _told(place: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in place.items())


def _done(folder: Path, made_by: str) -> bool:
    """Whether a run came to its end, with the code as it is now, and its tables are its own."""
    info = _info(folder)
    return info.get("stamp") == made_by and info["tables"] == _digests(folder)


def _info(folder: Path) -> dict[str, Any]:
    """What a run says of itself; nothing if it did not come to its end."""
    try:
        return read_json(folder / "run.json")
    except (FileNotFoundError, DamagedError):
        return {}


def _digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each table of a run."""
    paths = sorted(folder.glob("*.csv"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _run(grid: Grid, place: dict[str, Any], folder: Path) -> tuple[dict[str, Any], str]:
    """One run; where it stands, and why it failed if it did."""
    values = {**grid.fixed, **place, "results": str(folder.resolve())}
    try:
        for path in (folder / "run.json", *folder.glob("*.csv")):  # of a run before it
            path.unlink(missing_ok=True)
        written = notebooks.run(grid.name, values, folder.resolve() / f"{grid.name}.ipynb")
        info = json.loads(written.read_text(encoding="utf-8"))["metadata"]["toroid"]
        write_json(folder / "run.json", {**info, "tables": _digests(folder)})
    except Exception as error:  # whatever a cell raises is this run's alone
        kind = getattr(error, "ename", type(error).__name__)  # what a cell raised, by name
        return place, f"{kind}: {getattr(error, 'evalue', error)}"
    return place, ""


def _gathered(folder: Path, places: Mapping[str, Mapping[str, Any]]) -> dict[str, pd.DataFrame]:
    """The tables of all runs, in the order of the grid."""
    parts: dict[str, list[pd.DataFrame]] = {}
    for key, place in places.items():
        for path in sorted((folder / key).glob("*.csv")):
            table = pd.read_csv(path, float_precision="round_trip")
            own = {k: _cell(v) for k, v in place.items() if k not in table}
            columns = pd.DataFrame({k: [v] * len(table) for k, v in own.items()})
            parts.setdefault(path.stem, []).append(pd.concat([columns, table], axis=1))
    return {name: pd.concat(found, ignore_index=True) for name, found in parts.items()}


def _cell(value: Any) -> Any:
    """A parameter's value in one cell of a table."""
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _write_provenance(
    grid: Grid, folder: Path, places: Mapping[str, Mapping[str, Any]], failed: Mapping[str, str]
) -> None:
    infos = [_info(folder / key) for key in places]
    shared = (
        {key: infos[0][key] for key in ("stamp", "commit", "python", "torch", "device")}
        if (infos)
        else {}
    )
    record = {
        **shared, "page": grid.name, "fixed": grid.fixed, "varied": grid.varied,
        "seconds": [info["seconds"] for info in infos], "failed": failed,
    }  # fmt: skip
    write(folder / "provenance.json", f"{json.dumps(record, indent=1)}\n".encode())


def checked_title(title: str) -> str:
    """The name of a kept sweep, which is no path.

    Raises:
        ParameterError: If it is not a plain name.
    """
    if not _TITLE.fullmatch(title):
        raise ParameterError(
            f"a title is a plain name of at most 100 letters, digits, '.', '_' and '-', which does "
            f"not begin with a '.'; it is {title!r}: give another, e.g. recipe.vgg16"
        )
    return title


def keep(folder: Path, title: str) -> Path:
    """Keep the tables of a sweep with the book, in the place of one that was kept before.

    Args:
        folder: Where `sweep` has written.
        title: Names it in ``book/reference/``.

    Returns:
        The folder with the CSV files and ``provenance.json``.

    Raises:
        ParameterError: As `checked_title`; nothing is touched.
    """
    place = root() / "book" / "reference" / f"sweep.{checked_title(title)}"
    info = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    info["fixed"] = references.anywhere(info["fixed"])
    info["varied"] = {
        key: [references.anywhere({key: value}).get(key) for value in values]
        for key, values in info["varied"].items()
    }
    references.replace(place, folder.glob("*.csv"), info)
    return place


def kept(title: str, table: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A table of a sweep that is kept, and where it comes from.

    Args:
        title: As it was kept.
        table: Name of the CSV file, without its ending.

    Raises:
        FileNotFoundError: If no such sweep is kept.
    """
    place = root() / "book" / "reference" / f"sweep.{title}"
    if not place.is_dir():
        raise FileNotFoundError(f"no sweep is kept; make it: toroid sweep ... --reference {title}")
    tables, info = references.opened(place)
    return tables[table], info


def together(prefix: str, table: str, parameters: Sequence[str]) -> pd.DataFrame:
    """A table of all kept sweeps whose titles begin alike, the parameters of each row beside it.

    Args:
        prefix: Of the titles.
        table: As in `kept`.
        parameters: Those that become columns, where the table has not got them.
    """
    found = []
    for place in sorted((root() / "book" / "reference").glob(f"sweep.{prefix}*")):
        rows, info = kept(place.name.removeprefix("sweep."), table)
        known = {k: p.default for k, p in declared(info["page"]).items()} | info["fixed"]
        missing = [name for name in parameters if name not in rows]
        found.append(rows.assign(**{name: known[name] for name in missing}))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


@contextmanager
def cluster(where: str | None) -> Iterator[None]:
    """Let joblib run on a Dask cluster inside this context.

    Args:
        where: ``"local"``; a YAML file with the ``class`` of dask-jobqueue (``SLURMCluster``), the
            number of ``jobs``, and what else the class takes; None for joblib's own processes.

    Raises:
        ParameterError: If the file is not as it must be.
    """
    with ExitStack() as stack:
        if where is not None:
            from dask.distributed import Client

            stack.enter_context(Client(stack.enter_context(_cluster(where))))
            stack.enter_context(joblib.parallel_config(backend="dask"))
        yield


def _cluster(where: str) -> Any:
    import dask_jobqueue
    import yaml
    from dask.distributed import LocalCluster

    if where == "local":
        return LocalCluster(threads_per_worker=1, dashboard_address=None)
    try:
        told = yaml.safe_load(Path(where).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        why = str(error).splitlines()[0]
        raise ParameterError(
            f"--cluster is {where!r}, not 'local' and no YAML file that can be read ({why})"
        ) from error
    if not isinstance(told, dict) or not {"class", "jobs"} <= told.keys():
        raise ParameterError(f"{where} takes a mapping with 'class' (SLURMCluster) and 'jobs' (8)")
    made = getattr(dask_jobqueue, str(told.pop("class")), None)
    if made is None:
        raise ParameterError(f"{where}: dask_jobqueue has no such class, e.g. SLURMCluster")
    try:
        jobs = check_whole("jobs", told.pop("jobs"), 1)
        workers = made(**told)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"{where}: {error}") from error
    workers.scale(jobs=jobs)
    return workers
