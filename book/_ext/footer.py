"""Under each page that is a notebook: its run, whether it is fresh, and the tables it draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from toroid.book import notebooks, parameters, references


def append(app: Sphinx, tree: nodes.document) -> None:
    """Add the footer; a page that is not a notebook has none."""
    name = Path(app.env.docname).name
    if name in parameters.names() and app.env.docname.startswith("book/"):
        app.env.note_reread()  # what it says depends on more files than the page
        if not notebooks.fresh(name):
            stale = "This page is stale: its code, the library or its kept runs have changed since."
            section = next(x for x in tree.children if isinstance(x, nodes.section))
            section.insert(1, nodes.warning("", nodes.paragraph(text=stale)))  # below its title
        kept = [_kept(name, title) for title in references.titles(name)]
        tree.append(nodes.container("", _run(name), *kept, classes=["run-info"]))


def _run(name: str) -> nodes.paragraph:
    info: dict[str, Any] = notebooks.run_info(name)
    text = (
        f"This page was run in {info['seconds']:.0f} s on {info['device']}, Python "
        f"{info['python']}, torch {info['torch']}; code and library {info['stamp'][:12]}. Again: "
    )
    command = nodes.literal(text=f"toroid run {name}")
    return nodes.paragraph("", text, command, nodes.Text("."))


def _kept(name: str, title: str) -> nodes.paragraph:
    """A kept run: its command, how long it took, its tables."""
    folder = parameters.root() / "book" / "reference" / f"{name}.{title}"
    info = json.loads((folder / "provenance.json").read_text())
    command = references.command(folder.name).removesuffix(" --reference")
    line = nodes.paragraph("", "", nodes.literal(text=command))
    line += nodes.Text(f" took {info['seconds']:.0f} s on {info['device']}, ")
    line += nodes.Text("without the networks that the store had already:")
    for path in [*sorted(folder.glob("*.csv")), folder / "provenance.json"]:
        line += [nodes.Text(" "), _download(path, folder.parent)]
    return line


def _download(path: Path, places: Path) -> addnodes.download_reference:
    target = f"/book/reference/{path.relative_to(places).as_posix()}"
    return addnodes.download_reference("", path.name, reftarget=target, refdoc="")


def setup(app: Sphinx) -> dict[str, bool]:
    """Before Sphinx collects the files that a page offers."""
    app.connect("doctree-read", append, priority=100)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
