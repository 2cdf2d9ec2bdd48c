"""Directives of the book, and how docstrings are read for it."""

from __future__ import annotations

import json

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from toroid.book import notebooks, parameters


class _Table(Directive):
    """A Markdown table made when the site is built."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        container = nodes.container()
        lines = ["| " + " | ".join(row) + " |" for row in self.rows()]
        lines.insert(1, "|---" * lines[0].replace("\\|", "").count(" | ") + "|---|")
        self.state.nested_parse(StringList(lines, source="directives"), 0, container)
        return container.children

    def rows(self) -> list[list[str]]:
        raise NotImplementedError


class Parameters(_Table):
    """``{parameters} NAME``: the parameters of a notebook, from its parameters cell."""

    def rows(self) -> list[list[str]]:
        rows = [["parameter", "type", "default", "meaning"]]
        for p in parameters.declared(self.arguments[0]).values():
            rows.append([f"`{p.name}`", f"`{p.type}`", f"`{json.dumps(p.default)}`", p.help])
        return rows


class Runs(_Table):
    """``{runs}``: how long each page took, where, and with what."""

    def rows(self) -> list[list[str]]:
        rows = [["page", "seconds", "machine", "Python", "torch", "presets"]]
        for name in parameters.names():
            info = notebooks.run_info(name)
            what = [str(info.get(key, "-")) for key in ("seconds", "device", "python", "torch")]
            rows.append([f"[{name}]({name}.ipynb)", *what, ", ".join(parameters.presets(name))])
        return rows


def keep_colons(
    app: object, what: str, name: str, thing: object, options: object, lines: list
) -> None:
    """Let napoleon take no part of a property's docstring before a colon for a type."""
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]  # an empty comment


def skip_fields(
    app: object, what: str, name: str, thing: object, skip: bool, options: object
) -> bool | None:
    """Leave out a named tuple's fields: its docstring describes them."""
    return True if (getattr(thing, "__doc__", "") or "").startswith("Alias for field") else None


def setup(app: object) -> dict[str, bool]:
    """Register the directives, and what acts on docstrings before napoleon does."""
    app.add_directive("parameters", Parameters)
    app.add_directive("runs", Runs)
    app.connect("autodoc-process-docstring", keep_colons, priority=400)
    app.connect("autodoc-skip-member", skip_fields)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
