"""The command line: list, explain and rerun the figures; build the book."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import click
import joblib

from .. import data
from ..minimizers import Store
from . import notebooks, parameters, references, sweeps


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="toroid")
def main() -> None:
    """Rerun the figures of the book with parameters of your own, and build it."""


@main.command("list")
def list_() -> None:
    """The figures, their presets, and how long the quick one took."""
    for name in parameters.names():
        seconds = notebooks.run_info(name).get("seconds")
        took = f"{seconds:.0f} s" if seconds else "not run"
        stale = "" if notebooks.fresh(name) else ", stale"
        click.echo(f"{name:14}  {notebooks.title(name)}")
        click.echo(
            f"{'':14}  presets: {', '.join(parameters.presets(name))} (quick: {took}{stale})"
        )


@main.command()
@click.argument("name")
def explain(name: str) -> None:
    """The parameters of the figure NAME."""
    with _friendly():
        declared = parameters.declared(name).values()
    for p in declared:
        click.echo(f"{p.name} ({p.type}, {p.default!r})\n    {p.help}")


@main.command()
@click.argument("name")
@click.option(
    "-p",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter; give it as often as needed.",
)
@click.option(
    "--preset", "title", default="quick", help="Start from this preset.", show_default=True
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder to write to, instead of a new one in runs/.",
)
@click.option(
    "--reference",
    is_flag=True,
    help="Keep the results in book/reference/; given again, a run that was cut off goes on.",
)
def run(
    name: str, assignments: tuple[str, ...], title: str, output: Path | None, reference: bool
) -> None:
    """Run the figure NAME; the notebook and its results go into a new folder under runs/."""
    with _friendly():
        values = {**parameters.preset(name, title), **parameters.parse(name, list(assignments))}
        _check_dataset(values.get("dataset"))
        folder = (output or _folder(f"{name}-{title}", reference)).resolve()
        values = _from_here({"results": str(folder), **values})
        os.environ["TOROID_DATA"] = str(Path(os.environ.get("TOROID_DATA") or "data").resolve())
        before = _tables(values["results"])
        notebook = _executed(name, values, folder / f"{name}.ipynb")
        if reference:
            click.echo(f"kept in:  {references.keep(notebook, title)}")
    click.echo(f"notebook: {notebook}")
    for path, _ in sorted(_tables(values["results"]) - before):
        click.echo(f"results:  {path}")


def _check_dataset(name: str | None) -> None:
    """A mistyped name is found here, not minutes later in the notebook."""
    if name and name not in data.DATASETS and not Path(name).expanduser().is_dir():
        raise parameters.ParameterError(
            f"dataset is {name!r}; it can be {', '.join(data.DATASETS)}, or a folder of images"
        )


def _folder(name: str, reference: bool) -> Path:
    """A new folder in ``runs/``; of a run that is kept, always the same, without older tables."""
    folder = parameters.root() / "runs" / name
    if not reference:
        return _new(folder.with_name(f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"))
    for path in folder.glob("*.csv"):
        path.unlink()
    return folder


def _new(folder: Path, count: int = 1) -> Path:
    """Make a folder, numbered if another run that began in the same second has it."""
    numbered = folder if count == 1 else folder.with_name(f"{folder.name}-{count}")
    try:
        numbered.mkdir(parents=True)
    except FileExistsError:
        return _new(folder, count + 1)
    return numbered


def _tables(folder: str) -> set[tuple[Path, int]]:
    """The CSV files of a folder, and when each was written."""
    return {(path, path.stat().st_mtime_ns) for path in Path(folder).glob("*.csv")}


def _executed(name: str, values: dict[str, Any], output: Path) -> Path:
    """Run a notebook; of one that does not come to its end, say why and where it is."""
    from papermill.exceptions import PapermillExecutionError

    try:
        return notebooks.run(name, values, output)
    except PapermillExecutionError as error:
        raise click.ClickException(
            f"{error.ename}: {error.evalue}\nThe notebook up to there: {output}"
        ) from error
    except KeyboardInterrupt:
        click.echo(
            f"\nStopped. The notebook up to there: {output}\nWhat was finished is kept; to go on, "
            f"give the same command with -o {output.parent}",
            err=True,
        )
        raise SystemExit(130) from None


def _from_here(values: dict[str, Any]) -> dict[str, Any]:
    """Folders as the caller means them: a notebook runs in ``book/``."""
    folders = {key for key in ("results", "store") if values.get(key)}
    if Path(values.get("dataset") or "-").expanduser().is_dir():
        folders.add("dataset")
    return {
        k: str(Path(v).expanduser().resolve()) if k in folders else v for k, v in values.items()
    }


@main.command()
@click.argument("name")
@click.option(
    "-p",
    "assignments",
    multiple=True,
    metavar="NAME=VALUES",
    help="A parameter's values, divided by commas; lists are divided by semicolons.",
)
@click.option("--over", multiple=True, metavar="NAME", help="Run each entry of a list by itself.")
@click.option("--preset", "title", default="quick", help="What the runs share.")
@click.option("-j", "--jobs", default=1, help="Runs at once; -1 for one on each core.")
@click.option("--cluster", "where", help="'local', or a YAML file of a Dask cluster.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder to write to; by default one in runs/, the same for the same grid.",
)
@click.option("--reference", metavar="TITLE", help="Keep the tables in book/reference/.")
def sweep(
    name: str, assignments: tuple[str, ...], over: tuple[str, ...], title: str, jobs: int,
    where: str | None, output: Path | None, reference: str | None,
) -> None:  # fmt: skip
    """Run the figure NAME at every place of a grid of its parameters; given again, it goes on."""
    with _friendly():
        shared = _from_here(parameters.preset(name, title))
        found = sweeps.grid(name, assignments, over, **shared)
        folder = output or parameters.root() / "runs" / f"sweep-{name}-{found.digest}"
        click.echo(f"{len(found.places)} runs of {name}{_estimate(found, jobs)}; in {folder}")
        os.environ["TOROID_DATA"] = str(Path(os.environ.get("TOROID_DATA") or "data").resolve())
        with sweeps.cluster(where):
            swept = sweeps.sweep(found, folder, n_jobs=None if where else jobs)
    for table in swept.tables:
        click.echo(f"results:  {folder / table}.csv")
    if swept.failed:
        lines = [f"{place}: {error}" for place, error in swept.failed.items()]
        raise click.ClickException("\n".join(["these runs failed, the others are kept:", *lines]))
    if reference:
        click.echo(f"kept in:  {sweeps.keep(folder, reference)}")


def _estimate(grid: sweeps.Grid, jobs: int) -> str:
    """How long a sweep takes if its runs are as long as the page's own."""
    seconds = notebooks.run_info(grid.name).get("seconds")
    if seconds is None:
        return ""
    total = seconds * len(grid.places) / joblib.effective_n_jobs(jobs)
    return f", about {total / 60:.0f} min if each takes the {seconds:.0f} s of the page's own run"


@main.command()
@click.option("--force", is_flag=True, help="Run every notebook, not only those that are stale.")
def book(force: bool) -> None:
    """Run what is stale at the quick preset, then build the site; warnings are errors."""
    with _friendly():
        for name in parameters.names():
            if force or not notebooks.fresh(name):
                click.echo(f"running {name} ...")
                notebooks.run(name)
        root = parameters.root()
    build = "from jupyter_book.cli.main import main; main()"  # the package has no __main__
    command = [sys.executable, "-c", build, "build", str(root), "-W", "--keep-going", "-q"]
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    click.echo(f"the book is at {(root / '_build' / 'html' / 'index.html').as_uri()}")


@main.group()
def store() -> None:
    """The trained minimizers: what is there, whether it is sound."""


_FOLDER = click.option("--folder", help="The store; by default the usual one.")


@store.command("list")
@_FOLDER
def store_list(folder: str | None) -> None:
    """Algorithm, network, errors, time and device of every minimizer."""
    with warnings.catch_warnings(record=True) as damaged:
        warnings.simplefilter("always")
        found = Store(folder).table()
    for warning in damaged:
        click.echo(warning.message, err=True)
    if found.empty:
        click.echo(f"nothing in {Store(folder).folder}")
        return
    found["key"] = found["key"].str[:12]
    columns = ["key", "dataset", "subset", "architecture", "width", "algorithm", "seed",
               "train_error", "test_error", "seconds", "device", "failed"]  # fmt: skip
    order = ["dataset", "architecture", "algorithm", "seed"]
    click.echo(found[columns].sort_values(order).to_string(index=False))


@store.command("verify")
@_FOLDER
def store_verify(folder: str | None) -> None:
    """Check every file against the digest that was written with it."""
    if not any(Store(folder).folder.glob("*.json")):
        raise click.ClickException(f"nothing in {Store(folder).folder}")
    wrong = Store(folder).verify()
    for key, what in wrong.items():
        click.echo(f"{key}: {what}")
    if wrong:
        raise SystemExit(1)
    click.echo("all files are those that were written")


@store.command("prune")
@_FOLDER
def store_prune(folder: str | None) -> None:
    """Set damaged minimizers aside, and delete files that no minimizer names."""
    for path in Store(folder).prune():
        click.echo(f"{'set aside' if path.exists() else 'deleted'}: {path}")


class _friendly:
    """A wrong parameter is the user's to mend: a message, no traceback."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (parameters.ParameterError, FileNotFoundError)):
            raise click.ClickException(str(error)) from error
