"""What stands in the head of every page."""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx


def drop_thebe(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Leave out the scripts of Thebe: no page runs code, and declared twice they are an error."""
    context["script_files"] = [
        script
        for script in context.get("script_files", [])
        if "thebe" not in f"{script} {getattr(script, 'attributes', {})}".lower()
    ]


def setup(app: Sphinx) -> dict[str, bool]:
    """After all that adds scripts."""
    app.connect("html-page-context", drop_thebe, priority=900)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
