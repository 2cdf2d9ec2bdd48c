"""The book to take away: the built site as one zip, its pages as one PDF."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from .._files import replacing
from .parameters import ParameterError

__all__ = ["chromium", "printed", "zipped"]

#: Readies the one long page for paper: answers open, and only links that lead somewhere. Left out
#: are code cells that the page hides too and the package's reference, which is as long as the rest.
_READY = """async () => {
  const named = (id) => document.getElementById(decodeURIComponent(id));
  const reference = document.querySelectorAll('[id^="document-book/api"]');
  for (const start of reference) start.nextElementSibling.remove();
  for (const fold of document.querySelectorAll("details.sd-dropdown")) fold.open = true;
  for (const link of document.querySelectorAll("a[href]")) {
    const [page, part] = link.getAttribute("href").split("#");
    if (/^[a-z]+:/.test(page)) continue;
    const goal = part ?? "document-book/" + page.replace(/^book\\/|\\.html$/g, "");
    if (goal && named(goal)) link.setAttribute("href", "#" + goal);
    else link.removeAttribute("href");
  }
  await MathJax.startup.promise;
  await Promise.all([...document.images].map((image) => image.decode()));
}"""

_PAPER = """
  details.hide:not([open]), .headerlink, .copybtn { display: none; }
  span[id^="document-"] + section { break-before: page; }
  h2, h3, h4 { break-after: avoid; }
  .text_html, .pst-scrollable-table-container { background: none !important; }
  figure, img, tr, div.cell_input, div.highlight { break-inside: avoid; }
"""


def zipped(site: Path, file: Path) -> Path:
    """Put a built site into one file, from which it opens without a network.

    Args:
        site: Folder of the built pages.
        file: The zip to write, whole or not at all; the folder in it has the file's name.

    Returns:
        `file`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     site = Path(folder) / "html"
        ...     site.mkdir()
        ...     _ = (site / "index.html").write_text("a page")
        ...     zipfile.ZipFile(zipped(site, Path(folder) / "toroid.zip")).namelist()
        ['toroid/index.html']
    """
    with replacing(file) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as made:
        for path in sorted(path for path in site.rglob("*") if path.is_file()):
            made.write(path, Path(file.stem, path.relative_to(site)))
    return file


def chromium() -> str | None:
    """Where this machine has a Chromium; None if it is Playwright's own that is to be used."""
    names = "chromium", "chromium-browser", "google-chrome", "chrome"
    return next(filter(None, map(shutil.which, names)), None)


def printed(page: Path, file: Path) -> Path:
    """Print the pages, built as a single one, with the mathematics set and an outline.

    Args:
        page: What ``jupyter-book build --builder singlehtml`` made, where its links hold.
        file: The PDF to write, whole or not at all.

    Returns:
        `file`.

    Raises:
        ParameterError: If Playwright or a Chromium for it is missing.
    """
    try:
        from playwright import sync_api
    except ModuleNotFoundError as error:
        raise ParameterError("a PDF needs Playwright: pip install playwright") from error
    with sync_api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=chromium())
        except sync_api.Error as error:
            raise ParameterError(
                "a PDF is printed by Chromium, and none starts: install one (playwright install "
                f"chromium); {error.message.splitlines()[0]}"
            ) from error
        opened = browser.new_page(color_scheme="light")
        opened.goto(page.resolve().as_uri())
        opened.add_style_tag(content=_PAPER)
        opened.evaluate(_READY)
        with replacing(file) as part:
            opened.pdf(
                path=part, format="A4", scale=0.8, print_background=True, outline=True, tagged=True,
                margin={"top": "14mm", "right": "14mm", "bottom": "14mm", "left": "14mm"},
            )  # fmt: skip
        browser.close()
    return file
