"""What stands in the head of every page, and ``llms.txt``, which lists the pages."""

from __future__ import annotations

import html
import re
import textwrap
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from sphinx.application import Sphinx

#: The picture of a page that has none of its own.
PREVIEW = "fig-barriers.png"


def describe(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """What a search engine or a messenger shows of a page: title, first sentences, picture."""
    if tree is None:
        return
    base, site = app.config.html_baseurl, app.config.html_title
    image = next((node["uri"] for node in tree.findall(nodes.image)), PREVIEW)
    picture = f"_images/{Path(image).name}"
    tags = {
        "og:title": _text(context["title"]),
        "og:description": description(tree) or site, "og:type": "article",
        "og:site_name": site,
        "og:image": f"{base}{picture}" if base else context["pathto"](picture, 1),
        **({"og:url": f"{base}{page}.html"} if base else {}),
    }  # fmt: skip
    found = [("name", "description", tags["og:description"])]
    found += [("property", key, value) for key, value in tags.items()]
    found.append(("name", "twitter:card", "summary_large_image"))
    context["metatags"] += "\n".join(
        f'<meta {kind}="{key}" content="{html.escape(value)}" />' for kind, key, value in found
    )


def _text(title: str) -> str:
    return html.unescape(re.sub("<[^>]*>", "", title))


def description(tree: nodes.document) -> str:
    """The first paragraph of a page, as far as two lines of a search engine go."""
    paragraphs = (p for p in tree.findall(nodes.paragraph) if isinstance(p.parent, nodes.section))
    first = next((paragraph.astext() for paragraph in paragraphs), "")
    return textwrap.shorten(first.removeprefix("What this shows. "), 220, placeholder=" …")


def drop_thebe(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Leave out the scripts of Thebe: no page runs code, and declared twice they are an error."""
    context["script_files"] = [
        script
        for script in context.get("script_files", [])
        if "thebe" not in f"{script} {getattr(script, 'attributes', {})}".lower()
    ]


#: Attributes that themes write and that say something false to a screen reader.
FALSE = {
    '<summary aria-label="Toggle hidden content">': "<summary>",  # its text says what it shows
    '<div role="list" class="citation-list">': '<div class="citation-list">',  # has no items
}


def mend(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Take away names and roles that are not those of what is seen."""
    for false, right in FALSE.items():
        context["body"] = context.get("body", "").replace(false, right)


def write_list(app: Sphinx, failure: Exception | None) -> None:
    """``llms.txt``: the book's pages as a list in Markdown (llmstxt.org), from what was built."""
    if failure is not None or app.builder.name != "html":
        return
    toc = yaml.safe_load((Path(app.srcdir) / "_toc.yml").read_text(encoding="utf-8"))
    head, _, about = _entry(app, toc["root"]).removeprefix("- ").partition(": ")
    lines = [f"# {app.config.html_title}", "", f"> {about}", "", f"The first page: {head}"]
    for part in toc["parts"]:
        lines += ["", f"## {part['caption']}", ""]
        lines += [_entry(app, chapter["file"]) for chapter in part["chapters"]]
    (Path(app.outdir) / "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _entry(app: Sphinx, page: str) -> str:
    """One page: its title, where it is, its description."""
    built = (Path(app.outdir) / f"{page}.html").read_text(encoding="utf-8")
    about = re.search('<meta name="description" content="([^"]*)"', built)
    title = _text(app.env.titles[page].astext())
    address = f"{app.config.html_baseurl}{page}.html"
    return f"- [{title}]({address}): {html.unescape(about[1]) if about else ''}"


def setup(app: Sphinx) -> dict[str, bool]:
    """After all that adds scripts."""
    app.connect("html-page-context", describe)
    app.connect("html-page-context", mend)
    app.connect("html-page-context", drop_thebe, priority=900)
    app.connect("build-finished", write_list)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
