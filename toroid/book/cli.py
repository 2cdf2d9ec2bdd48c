"""The command line: list, explain and rerun the figures; build the book."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import joblib

from .. import zoo as networks
from ..minimizers import Store
from . import checkpoints, copies, notebooks, parameters, references, relations, sweeps
from .checkpoints import CheckpointError
from .parameters import ParameterError


class Refused(click.ClickException):
    """What was asked for cannot be done as it was asked; nothing was written."""

    exit_code = 2


def _told(error: BaseException) -> str:
    """What the system says, without its number."""
    return getattr(error, "strerror", None) or str(error)


@contextmanager
def _friendly() -> Iterator[None]:
    """What the user can mend is a message, not a traceback; an interrupt is a word."""
    try:
        yield
    except (ParameterError, FileNotFoundError, CheckpointError) as error:
        raise Refused(str(error)) from error
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        raise click.ClickException(
            f"{place}{_told(error)}; what was finished is kept: mend it, and give the "
            "same command again"
        ) from error
    except KeyboardInterrupt:
        click.echo("\nStopped.", err=True)
        raise SystemExit(130) from None


class _Folder(click.Path):
    """A folder; an empty word, as of a variable that is not set, is not the working folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("it is empty; give a folder, or leave it out", param, ctx)
        try:
            return super().convert(str(relations.expanded(value)), param, ctx)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _title(ctx: click.Context, param: click.Parameter, title: str | None) -> str | None:
    """A name for what is kept; known before anything is run."""
    try:
        return title if title is None else sweeps.checked_title(title)
    except ParameterError as error:
        raise click.BadParameter(str(error), ctx, param) from error


def _count(ctx: click.Context, param: click.Parameter, jobs: int) -> int:
    """What joblib takes as a number of processes."""
    if jobs == 0:
        raise click.BadParameter("it is 0; it takes 1 or more, or -1 for all cores", ctx, param)
    return jobs


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="toroid")
def main() -> None:
    """Rerun the figures of the book with parameters of your own, and build it."""
    # Large pages of memory for large tensors, in the processes that run a page; torch's own switch.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


@main.command("list")
def list_() -> None:
    """The figures, their presets, and how long the quick one took."""
    with _friendly():
        for name in parameters.names():
            seconds = notebooks.run_info(name).get("seconds")
            took = f"{seconds:.0f} s" if seconds else "not run"
            stale = "" if notebooks.fresh(name) else ", stale"
            click.echo(f"{name:14}  {notebooks.title(name)}")
            presets = ", ".join(parameters.presets(name))
            click.echo(f"{'':14}  presets: {presets} (quick: {took}{stale})")


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
    type=_Folder(path_type=Path, file_okay=False),
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
    with _friendly(), ExitStack() as made:
        given = {**parameters.preset(name, title), **parameters.parse(name, list(assignments))}
        values = _checked(name, given)
        usual = parameters.root() / "runs" / f"{name}-{title}"
        if output is None and not reference:
            usual = usual.with_name(f"{usual.name}-{time.strftime('%Y%m%d-%H%M%S')}")
        folder = made.enter_context(_made(output or usual, new=not (output or reference)))
        values = {"results": str(folder), **values}
        for place in _places(values):
            made.enter_context(_made(place))
        if reference and not output:
            _forget_tables(folder)
        before = _tables(values["results"])
        notebook = _executed(name, values, folder / f"{name}.ipynb")
        if reference:
            click.echo(f"kept in:  {references.keep(notebook, title)}")
    click.echo(f"notebook: {notebook}")
    for path, _ in sorted(_tables(values["results"]) - before):
        click.echo(f"results:  {path}")


def _checked(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What does not go together is found here, not minutes later; folders are the caller's."""
    complete = parameters.check_together(name, values)
    try:
        os.environ["TOROID_DATA"] = str(relations.expanded(os.environ.get("TOROID_DATA") or "data"))
        relations.check_data(complete)
        return _from_here(values)
    except ValueError as error:
        raise ParameterError(str(error)) from error


@contextmanager
def _made(folder: Path, new: bool = False) -> Iterator[Path]:
    """A folder that can be written to; after an error, what was made and is empty is not there.

    A new one has a number if another run that began in the same second has its name.
    """
    made: list[Path] = []
    try:
        folder = folder.resolve()
        ahead = folder.parents if new else (folder, *folder.parents)
        made = [place for place in ahead if not place.exists()]
        if new:
            folder = _claimed(folder)
            made.insert(0, folder)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError
        _remove_empty(made)
        why = "it is a file" if isinstance(error, FileExistsError) else _told(error)
        raise ParameterError(
            f"{folder} cannot be written to ({why}); give another folder, or make room"
        ) from error
    try:
        yield folder
    except BaseException:
        _remove_empty(made)
        raise


def _claimed(folder: Path) -> Path:
    """Make a folder that nobody else has made, under the first number that is free."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for count in itertools.count(2):
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
        folder = folder.with_name(f"{folder.name.removesuffix(f'-{count - 1}')}-{count}")
    raise AssertionError("there is always another number")


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _places(values: Mapping[str, Any]) -> list[Path]:
    """Where a run writes, beside its own folder."""
    store = [Store(values["store"] or None).folder] if "store" in values else []
    return [Path(values["results"]), *store]


def _forget_tables(folder: Path) -> None:
    """Of a run that is kept: tables of a run before it are not its own."""
    for path in folder.glob("*.csv"):
        path.unlink()


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
        click.echo(f"\nStopped. {_left(output)}", err=True)
        raise SystemExit(130) from None


def _left(output: Path) -> str:
    """What a run that was stopped has left."""
    if not output.exists():
        return "Nothing was written."
    return (
        f"The notebook up to there: {output}\nWhat was finished is kept; to go on, give the same "
        f"command with -o {output.parent}"
    )


def _from_here(values: Mapping[str, Any]) -> dict[str, Any]:
    """Folders as the caller means them: a notebook runs in ``book/``."""
    folders = {key for key in ("results", "store") if values.get(key)}
    if (name := values.get("dataset")) and relations.is_folder(name):
        folders.add("dataset")
    return {k: str(relations.expanded(v)) if k in folders else v for k, v in values.items()}


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
@click.option(
    "-j", "--jobs", default=1, callback=_count, help="Runs at once; -1 for one on each core."
)
@click.option("--cluster", "where", help="'local', or a YAML file of a Dask cluster.")
@click.option(
    "-o",
    "--output",
    type=_Folder(path_type=Path, file_okay=False),
    help="Folder to write to; by default one in runs/, the same for the same grid.",
)
@click.option(
    "--reference", metavar="TITLE", callback=_title, help="Keep the tables in book/reference/."
)
def sweep(
    name: str, assignments: tuple[str, ...], over: tuple[str, ...], title: str, jobs: int,
    where: str | None, output: Path | None, reference: str | None,
) -> None:  # fmt: skip
    """Run the figure NAME at every place of a grid of its parameters; given again, it goes on."""
    with _friendly(), ExitStack() as made:
        found = sweeps.grid(name, assignments, over, **parameters.preset(name, title))
        for place in found.places:
            _checked(name, {**found.fixed, **place})
        varied = {k: [_from_here({k: v})[k] for v in listed] for k, listed in found.varied.items()}
        found = replace(found, fixed=_from_here(found.fixed), varied=varied)
        usual = parameters.root() / "runs" / f"sweep-{name}-{found.digest}"
        folder = made.enter_context(_made(output or usual))
        click.echo(f"{len(found.places)} runs of {name}{_estimate(found, jobs)}; in {folder}")
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
@click.option("--zip", "packed", is_flag=True, help="Also the site as one file, to read offline.")
@click.option("--pdf", is_flag=True, help="Also the pages as one PDF, printed by a Chromium.")
def book(force: bool, packed: bool, pdf: bool) -> None:
    """Run what is stale at the quick preset, then build the site; warnings are errors."""
    with _friendly():
        for name in parameters.names():
            if force or not notebooks.fresh(name):
                click.echo(f"running {name} ...")
                notebooks.run(name)
        built = _built("html")
        click.echo(f"the book is at {(built / 'index.html').as_uri()}")
        if packed:
            click.echo(f"to read offline: {copies.zipped(built, built.with_name('toroid.zip'))}")
        if pdf:
            single = _built("singlehtml")  # its links are written for the folder above its file
            page = shutil.copyfile(single / "book" / "intro.html", single / "toroid.html")
            click.echo(f"as a PDF: {copies.printed(page, built.with_name('toroid.pdf'))}")


def _built(builder: str) -> Path:
    """The folder of the site that jupyter-book makes; the command ends here if it fails."""
    root = parameters.root()
    build = "from jupyter_book.cli.main import main; main()"  # the package has no __main__
    command = [sys.executable, "-c", build, "build", str(root), "-W", "--keep-going", "-q"]
    done = subprocess.run([*command, "--builder", builder], check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    return root / "_build" / builder


_FILE = click.Path(path_type=Path)
_MODEL = click.option(
    "--model", required=True, metavar="PACKAGE.MODULE:FUNCTION", help="What makes the network."
)
_EXAMPLE = click.option(
    "--example", required=True, metavar="SHAPE", help="Of its inputs, batch first: 1,3,32,32."
)
_METHOD = click.option(
    "--method", type=click.Choice(["sequential", "coordinate"]), default="sequential",
    help="How units are matched.", show_default=True,
)  # fmt: skip
_WRITTEN = click.option("-o", "--output", required=True, type=_FILE, help="A .safetensors file.")


@main.command("align")
@click.argument("first", metavar="A", type=_FILE)
@click.argument("second", metavar="B", type=_FILE)
@_MODEL
@_EXAMPLE
@_METHOD
@_WRITTEN
def align_(
    first: Path, second: Path, model: str, example: str, method: str, output: Path
) -> None:  # fmt: skip
    """Permute the network of file B onto that of file A: the same function, comparable weights.

    Files are safetensors, or what torch saved of weights alone.
    """
    with _friendly():
        checkpoints.check_output(output, [first, second])
        network, x = checkpoints.model_of(model), checkpoints.example_of(example)
        a, b = (checkpoints.read(path, network) for path in (first, second))
        state, moved = checkpoints.aligned(b, a, network, x, method)
        checkpoints.write(output, state, [a, b], f"align, {method}: input 2 onto input 1")
    click.echo(moved.to_string(index=False))
    click.echo(f"aligned:  {output}")


@main.command("merge")
@click.argument("files", metavar="A B...", type=_FILE, nargs=-1, required=True)
@_MODEL
@_EXAMPLE
@_METHOD
@click.option(
    "--on", type=click.Choice(["torus", "raw"]), default="torus", help="Where the mean is taken.",
    show_default=True,
)  # fmt: skip
@_WRITTEN
def merge_(
    files: tuple[Path, ...], model: str, example: str, method: str, on: str, output: Path
) -> None:
    """Align the networks of some files to the first, and write their mean.

    On the torus the outputs' size is arbitrary; raw keeps it. The statistics of a BatchNorm are to
    be estimated again on training data: toroid.refresh.
    """
    with _friendly():
        if len(files) < 2:
            raise CheckpointError(f"merge takes two files or more, got {files[0]}")
        checkpoints.check_output(output, files)
        network, x = checkpoints.model_of(model), checkpoints.example_of(example)
        given = [checkpoints.read(path, network) for path in files]
        mean, moved = checkpoints.merged(given, network, x, method, on)
        checkpoints.write(output, mean, given, f"merge on {on}, {method}")
    click.echo(moved.to_string(index=False))
    click.echo(f"merged:   {output} (gradient {mean.gradient_norm:.2g})")


@main.group()
def store() -> None:
    """The trained minimizers: what is there, whether it is sound."""


_FOLDER = click.option(
    "--folder", type=_Folder(file_okay=False), help="The store; by default the usual one."
)


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


@main.group()
def zoo() -> None:
    """Small trained networks that come with the package."""


@zoo.command("list")
def zoo_list() -> None:
    """What there is, with the errors."""
    click.echo(networks.table().to_string(index=False))


@zoo.command("make")
@click.argument("names", nargs=-1)
@click.option(
    "-o", "--output", type=_Folder(path_type=Path, file_okay=False),
    default=Path(networks.__file__).parent, help="Folder to write to; by default the package's.",
)  # fmt: skip
@click.option(
    "--store", "folder", type=_Folder(file_okay=False),
    help="Trained minimizers; by default the usual store.",
)  # fmt: skip
def zoo_make(names: tuple[str, ...], output: Path, folder: str | None) -> None:
    """Write the networks NAMES, or all; what the store does not have is trained."""
    with _friendly(), _made(output) as place:
        try:
            written = networks.make(place, Store(folder), names)
        except ValueError as error:
            raise ParameterError(str(error)) from error
    for path in written:
        click.echo(f"{path} ({path.stat().st_size / 1000:.0f} kB)")
