"""Interactive figures: ``{explorer} NAME`` over a figure that says the same without a script."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx
from toroid.book import explorers


class Explorer(Directive):
    """A figure that a reader changes: its data as JSON, and below it what it is."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        self.state.document.settings.env.note_reread()  # kept runs are no part of the page
        data = explorers.FIGURES[name]()
        if not data:
            return []
        text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
        script = f'<script type="application/json">{text}</script>'
        box = nodes.container("", nodes.raw("", script, format="html"), classes=["explorer", name])
        self.state.nested_parse(self.content, self.content_offset, box)
        return [box]


def copy_library(app: Sphinx, failure: Exception | None) -> None:
    """Plotly's script out of the installed package, so that no page asks another host for it."""
    if failure is None and app.builder.format == "html":
        source = files("plotly") / "package_data" / "plotly.min.js"
        shutil.copyfile(str(source), Path(app.outdir) / "_static" / "plotly.min.js")


def setup(app: Sphinx) -> dict[str, bool]:
    """The directive, and the library that ``explorer.js`` loads where it is needed."""
    app.add_directive("explorer", Explorer)
    app.connect("build-finished", copy_library)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
