"""Directives of the book, and how docstrings are read for it."""

from __future__ import annotations

import html
import json
import re

import yaml
from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from toroid.book import cards, claims, notebooks, parameters, references


class _Table(Directive):
    """A Markdown table made when the site is built."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        container = nodes.container()
        lines = ["| " + " | ".join(row) + " |" for row in self.rows()]  # `plain` made the cells
        lines.insert(1, "|---" * lines[0].replace("\\|", "").count(" | ") + "|---|")
        self.state.nested_parse(StringList(lines, source="directives"), 0, container)
        return container.children

    def rows(self) -> list[list[str]]:
        raise NotImplementedError


def plain(text: object) -> str:
    """A text that Markdown and HTML show as it is, in one cell."""
    marked = re.sub(r"([\\`*_{}\[\]!|~$])", r"\\\1", " ".join(str(text).split()))
    return html.escape(marked, quote=False)


def code(text: object) -> str:
    """A text as code, in one cell."""
    shown = " ".join(str(text).split()).replace("|", "\\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{fence} {shown} {fence}" if "`" in shown else f"`{shown}`"


class Parameters(_Table):
    """``{parameters} NAME``: the parameters of a notebook, from its parameters cell."""

    def rows(self) -> list[list[str]]:
        rows = [["parameter", "type", "default", "meaning"]]
        for p in parameters.declared(self.arguments[0]).values():
            rows.append([code(p.name), code(p.type), code(json.dumps(p.default)), plain(p.help)])
        return rows


class Runs(_Table):
    """``{runs}``: how long each page took, where, and with what."""

    def rows(self) -> list[list[str]]:
        rows = [["page", "seconds", "machine", "Python", "torch", "presets"]]
        for name in parameters.names():
            info = notebooks.run_info(name)
            keys = ("seconds", "device", "python", "torch")
            what = [plain(info.get(key, "-")) for key in keys]
            presets = plain(", ".join(parameters.presets(name)))
            rows.append([f"[{plain(name)}](<{name}.ipynb>)", *what, presets])
        return rows


#: What an entry of the map comes to, where it is no claim.
STATUS = {"same": "as the source has it", "ours": "our reading"}


class PaperMap(_Table):
    """``{paper-map}``: where each thing of the paper is here, from ``book/paper-map.yaml``."""

    def run(self) -> list[nodes.Node]:
        (table,) = super().run()
        table["classes"].append("cards")
        return [table]

    def rows(self) -> list[list[str]]:
        text = (parameters.root() / "book" / "paper-map.yaml").read_text(encoding="utf-8")
        rows = [["in the paper", "from the", "page", "function", "test", "status"]]
        for entry in yaml.safe_load(text):
            claim = claims.CLAIMS.get(entry["status"])
            item = f"{entry['item']}: {claim.statement}" if claim else entry["item"]
            status = plain(STATUS.get(entry["status"], ""))
            if claim:
                status = f"{{glue:text}}`{verdict(entry['status'])}:s`"
            page, function = f"[](<{entry['page']}.ipynb>)", entry["function"]
            linked = f"{{py:obj}}`{function} <{function}>`"
            test = code(entry["test"])
            rows.append([plain(item), plain(entry["source"]), page, linked, test, status])
        return rows


class Verdicts(Directive):
    """``{verdicts}``: the claims in a line, each with the verdict of its decisive run."""

    def run(self) -> list[nodes.Node]:
        runs = {name: references.runs(c.page) for name, c in claims.CLAIMS.items()}
        decided = {name: claims.decide(name, found) for name, found in runs.items()}
        return [nodes.raw("", str(cards.strip(decided)), format="html")]


class Bibtex(Directive):
    """``{bibtex}``: what to cite, the paper and the software, from ``CITATION.cff``."""

    def run(self) -> list[nodes.Node]:
        cited = yaml.safe_load((parameters.root() / "CITATION.cff").read_text(encoding="utf-8"))
        text = "\n\n".join([bibtex(cited["preferred-citation"]), bibtex(cited)])
        return [nodes.literal_block(text, text, language="bibtex")]


def bibtex(cited: dict) -> str:
    """An entry of CITATION.cff as BibTeX."""
    people = [
        f"{a['family-names']}, {a['given-names']}" if "given-names" in a else f"{{{a['name']}}}"
        for a in cited["authors"]
    ]
    # what has a description is another version's
    numbers = {i["type"]: i["value"] for i in cited.get("identifiers", []) if len(i) == 2}
    paper = cited["type"] == "conference-paper"
    fields = {
        "title": f"{{{cited['title']}}}", "author": " and ".join(people),
        "booktitle": cited.get("collection-title"), "volume": cited.get("volume"),
        "pages": f"{cited['start']}--{cited['end']}" if "start" in cited else None,
        "year": cited.get("year"), "doi": numbers.get("doi"),
        "eprint": numbers.get("other", "").removeprefix("arXiv:"),
        "archiveprefix": "arXiv" if "other" in numbers else None,
        "version": cited.get("version"), "license": cited.get("license"),
    }  # fmt: skip
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    key = f"{people[0].split(',')[0].lower()}{cited['year']}" if paper else "toroid"
    return "\n".join([f"@{'inproceedings' if paper else 'software'}{{{key},", *lines, "}"])


def verdict(name: str) -> str:
    """Where the page of a claim glues its verdict."""
    return f"{claims.CLAIMS[name].page}.ipynb::verdict_{name.lower()}"


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
    app.add_directive("paper-map", PaperMap)
    app.add_directive("bibtex", Bibtex)
    app.add_directive("verdicts", Verdicts)
    app.connect("autodoc-process-docstring", keep_colons, priority=400)
    app.connect("autodoc-skip-member", skip_fields)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
