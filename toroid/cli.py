"""The command line: list, explain and rerun the figures; build the book."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from . import notebooks, parameters, references
from .minimizers import Store


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
        when = "" if reference else f"-{time.strftime('%Y%m%d-%H%M%S')}"
        folder = (output or parameters.root() / "runs" / f"{name}-{title}{when}").resolve()
        if output is None:  # a folder of ours: what an older run left there is not of this one
            for path in folder.glob("*.csv"):
                path.unlink()
        values.setdefault("results", str(folder))
        values = _from_here(values)
        os.environ["TOROID_DATA"] = str(Path(os.environ.get("TOROID_DATA") or "data").resolve())
        notebook = notebooks.run(name, values, folder / f"{name}.ipynb")
        if reference:
            click.echo(f"kept in:  {references.keep(notebook, title)}")
    click.echo(f"notebook: {notebook}")
    for path in sorted(folder.glob("*.csv")):
        click.echo(f"results:  {path}")


def _from_here(values: dict[str, Any]) -> dict[str, Any]:
    """Folders as the caller means them: a notebook runs in ``book/``."""
    folders = {key for key in ("results", "store") if values.get(key)}
    if Path(values.get("dataset") or "-").is_dir():
        folders.add("dataset")
    return {k: str(Path(v).resolve()) if k in folders else v for k, v in values.items()}


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
    found = Store(folder).list()
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
