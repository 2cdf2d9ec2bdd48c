"""The site, built twice without a warning; then every page is looked at."""

import copy
import json
import re
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlparse

import pybtex.database
import pytest
import yaml
from bs4 import BeautifulSoup
from toroid.book import copies, explorers, notebooks, parameters

ROOT = Path(__file__).resolve().parents[1]
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
FILES = [TOC["root"], *(c["file"] for part in TOC["parts"] for c in part["chapters"])]
BUILD = "from jupyter_book.cli.main import main; main()"


@pytest.fixture(scope="session")
def html(tmp_path_factory):
    """The built pages; the second build reads what the first one left."""
    output = tmp_path_factory.mktemp("site")
    for _ in range(2):
        command = [sys.executable, "-c", BUILD, "build", str(ROOT), "-W", "--keep-going", "-q"]
        done = subprocess.run(
            [*command, "--path-output", str(output)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "WARNING" not in done.stdout + done.stderr
    yield output / "_build" / "html"
    shutil.rmtree(output)


@pytest.fixture(scope="session")
def pages(html):
    return {
        path: BeautifulSoup((html / f"{path}.html").read_text(), "html.parser") for path in FILES
    }


def test_every_page_exists(html):
    assert (html / "index.html").exists()
    for path in FILES:
        assert (html / f"{path}.html").exists()


def test_a_notebook_says_below_what_it_shows_and_offers_its_tables(html, pages):
    for path in FILES:
        name, page = Path(path).name, pages[path]
        if name not in parameters.names():
            assert not page.select(".run-info")
            continue
        (footer,) = page.select(".run-info")
        assert f"run in {notebooks.run_info(name)['seconds']:.0f} s" in footer.text
        assert bool(page.select("div.warning")) == (not notebooks.fresh(name))
        offered = [html / path / ".." / link["href"] for link in footer.select("a.download")]
        kept = sorted((ROOT / "book" / "reference").glob(f"{name}.*/*.*"))
        assert sorted(p.resolve().read_bytes() for p in offered) == sorted(
            p.read_bytes() for p in kept
        )


def test_links_inside_resolve(html, pages):
    ids = {path: {tag["id"] for tag in page.find_all(id=True)} for path, page in pages.items()}
    for path, page in pages.items():
        for link in page.select("article a[href], nav a[href]"):
            target = urlparse(link["href"])
            if target.scheme or target.netloc:
                continue
            file = (
                (html / path).parent / unquote(target.path)
                if target.path
                else html / f"{path}.html"
            )
            assert file.exists(), f"{path} links to {link['href']}"
            there = str(file.resolve().relative_to(html.resolve()).with_suffix(""))
            if target.fragment and there in ids:
                assert unquote(target.fragment) in ids[there], f"{path} links to {link['href']}"


def test_every_image_has_a_real_alternative_text(html, pages):
    count = 0
    for path, page in pages.items():
        for image in page.select("article img"):
            count += 1
            assert len(image.get("alt", "")) > 30, f"{path}: {image}"
            assert "_images/" not in image["alt"]
            assert ((html / path).parent / image["src"]).exists()
    assert count >= 5


def test_every_figure_page_ends_with_what_it_does_not_show(pages):
    for path, page in pages.items():
        if Path(path).name not in {*parameters.names()} - {"claims", "cluster"}:
            continue  # the one lists what was not run, the other measures nothing
        last = page.select("article section > h2")[-1]
        assert last.get_text().startswith("What it does not show"), path
        assert len(last.parent.p.get_text()) > 200
        command = last.parent.select_one("div.highlight-sh").get_text()
        assert f"toroid run {Path(path).name} -p " in command
        assert page.select(".run-info")


def test_nothing_is_left_unresolved(pages):
    for path, page in pages.items():
        shown = copy.copy(page)
        for code in shown.select("div.cell_input"):  # what a page computes, not what it shows
            code.decompose()
        text = shown.get_text()
        assert "Pending glue" not in text
        assert "glue:text" not in text
        assert not re.search(r"\bnan\b", text), path
        assert "problematic" not in str(page.article)


def test_mathematics_is_shown_without_a_network(html, pages):
    sources = [tag["src"] for tag in pages["book/symmetries"].find_all("script", src=True)]
    (mathjax,) = (s for s in sources if "mathjax" in s)
    assert (html / "book" / urlparse(mathjax).path).exists()


def test_the_verdicts_on_the_front_page_are_those_of_the_figures(pages):
    for name in ("symmetries", "connectivity"):
        (row,) = (r for r in pages["book/intro"].find_all("tr") if r.find("a", href=f"{name}.html"))
        verdict = row.find_all("td")[2].get_text().strip()  # page, claim, here, on more data
        assert verdict
        assert f": {verdict}" in pages[f"book/{name}"].get_text()


def test_every_public_name_is_documented(pages):
    import toroid

    reference = [page for path, page in pages.items() if path.startswith("book/api")]
    ids = {tag["id"] for page in reference for tag in page.find_all(id=True)}
    for name in toroid.__all__:
        thing = getattr(toroid, name)
        if getattr(thing, "__module__", None):
            assert any(i.endswith(f".{name}") for i in ids), name


def test_an_interactive_figure_stands_over_one_that_needs_no_script(pages):
    found = {box["class"][1]: box for page in pages.values() for box in page.select(".explorer")}
    assert found.keys() == explorers.FIGURES.keys()
    for name, box in found.items():
        assert json.loads(box.script.string) == json.loads(json.dumps(explorers.FIGURES[name]()))
        assert box.find_next("img").find_parent("figure").figcaption


def test_every_page_says_what_it_is_to_those_that_show_links(html, pages):
    described = {}
    for path, page in pages.items():
        said = {
            tag.get("property") or tag["name"]: tag["content"]
            for tag in page.select("meta[content]")
        }
        assert said["og:title"] in page.h1.text
        assert said["description"] == said["og:description"]
        assert ((html / path).parent / said["og:image"]).exists()
        described[path] = said["description"]
    assert len(set(described.values())) == len(FILES)
    assert "stale" not in " ".join(described.values())


def test_llms_txt_lists_every_page(html):
    text = (html / "llms.txt").read_text()
    assert text.startswith("# Deep Networks on Toroids")
    links = re.findall(r"\[[^\]]+\]\(([^)]*)\)", text)
    assert links == [f"{path}.html" for path in FILES]


def test_what_is_to_be_cited_is_the_paper_of_the_bibliography(pages):
    box = pages["book/intro"].select_one("div.highlight-bibtex").get_text()
    shown, listed = (pybtex.database.parse_string(text, "bibtex") for text in (
        box, (ROOT / "book" / "references.bib").read_text()
    ))  # fmt: skip
    assert shown.entries.keys() == {"pittorino2022", "toroid"}
    here, there = shown.entries["pittorino2022"], listed.entries["pittorino2022"]
    assert here.persons == there.persons
    for field in ("booktitle", "volume", "pages", "year", "eprint", "archiveprefix"):
        assert here.fields[field] == there.fields[field]
    assert here.fields["title"].strip("{}") == there.fields["title"]


def test_no_page_asks_another_host(html, pages):
    for path, page in pages.items():
        for tag in page.select("script[src], link[rel=stylesheet], img, iframe"):
            address = tag.get("src") or tag["href"]
            assert not urlparse(address).netloc, f"{path} loads {address}"


def test_no_page_is_heavier_than_a_megabyte(html, pages):
    for path, page in pages.items():
        images = {(html / path).parent / tag["src"] for tag in page.select("article img")}
        size = sum(file.stat().st_size for file in [html / f"{path}.html", *images])
        assert size < 1_000_000, f"{path}: {size} bytes"


# --- in a browser --------------------------------------------------------------------------------

CHROMIUM = copies.chromium()


@pytest.fixture(scope="session")
def opened(html):
    """Open a page of the site; at the end nothing was an error, and no other host was asked."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(html)))
    Thread(target=server.serve_forever, daemon=True).start()
    host = f"http://127.0.0.1:{server.server_port}"
    wrong = []
    flags = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)

        def opened(name, at=host, **how):
            page = browser.new_context(**how).new_page()
            page.on("console", lambda m: wrong.append(m.text) if is_error(m) else None)
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on(
                "request",
                lambda r: r.url.startswith((at, "data:", "blob:")) or wrong.append(r.url),
            )
            page.goto(f"{at}/book/{name}.html")
            return page

        yield opened
        browser.close()
    server.shutdown()
    server.server_close()
    assert not wrong


def is_error(message):
    """Not that the theme cannot load a font ahead from a file: its icons are drawn by a script."""
    ahead = "file:" in message.location["url"] and message.location["url"].endswith(".woff2")
    return message.type == "error" and not ahead and "/webfonts/" not in message.text


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def drawn(page):
    """The explorer of a page, once it is drawn."""
    page.locator(".explorer").scroll_into_view_if_needed()
    page.wait_for_selector(".explorer[data-drawn]", timeout=60_000)
    return page.locator(".explorer")


def test_a_choice_changes_the_curve_and_what_is_said_of_it(opened):
    page = opened("connectivity")
    box = drawn(page)

    def curves():
        return page.evaluate("document.querySelector('.explorer .drawing').data.map(d => d.y)")

    data, before, said = explorers.paths(), curves(), box.locator(".said").text_content()
    first = data["rows"][0]
    same = [row for row in data["rows"] if row["at"][:4] == first["at"][:4]]
    assert before == [row["error"] for row in same]
    path = box.locator("select[name=path]")
    path.focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_function(
        "said => document.querySelector('.explorer .said').textContent !== said", arg=said
    )
    page.wait_for_timeout(300)
    assert curves() != before
    box.locator("select[name=measure]").select_option("loss")
    page.wait_for_function("document.querySelector('.explorer .said').textContent.includes('loss')")
    box.locator("select[name=pair]").select_option("0")
    page.wait_for_function("document.querySelector('.explorer .drawing').data.length == 2")


def test_a_plane_is_turned_by_its_slider_and_drawn_for_the_dark(opened):
    page = opened("bend", color_scheme="dark")
    box = drawn(page)
    eye = (
        "JSON.stringify(document.querySelector('.explorer .drawing')._fullLayout.scene.camera.eye)"
    )
    before = page.evaluate(eye)
    box.locator("input[name=turn]").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"before => {eye} !== before", arg=before)
    ink = page.evaluate("document.querySelector('.explorer .drawing')._fullLayout.font.color")
    assert int(ink.lstrip("#")[:2], 16) > 128  # light on dark


def test_the_verdicts_are_read_with_the_arrows(opened):
    page = opened("claims")
    cell = page.locator("table.claim-matrix td[tabindex='0']")
    cell.focus()
    said = page.locator("table.claim-matrix + .said")
    before = said.text_content()
    assert before == cell.get_attribute("data-said")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    assert said.text_content() not in ("", before)


def test_without_a_script_only_the_printed_figure_is_there(opened):
    page = opened("connectivity", java_script_enabled=False)
    assert not page.locator(".explorer").is_visible()
    assert page.locator("figure img").first.is_visible()


def test_the_zip_is_read_without_a_server_or_a_network(opened, html, tmp_path):
    with zipfile.ZipFile(copies.zipped(html, tmp_path / "toroid.zip")) as made:
        made.extractall(tmp_path)
    assert sum(path.is_file() for path in (tmp_path / "toroid").rglob("*")) == sum(
        path.is_file() for path in html.rglob("*")
    )
    page = opened("connectivity", offline=True, at=(tmp_path / "toroid").as_uri())
    drawn(page)
    page.wait_for_selector("article mjx-container")
    assert page.locator("figure img").first.evaluate("image => image.naturalWidth") > 0
    page.locator("nav a", has_text="Distances").first.click()
    page.wait_for_url("**/book/distances.html")


PAPER = """
<h1>Book</h1><a href="https://example.org/x">away</a> <a href="_downloads/a.csv">a table</a>
<a href="book/intro.html#term-torus">torus</a> <a href="flatness.html">flatness</a>
<a href="book/intro.html#toroid.align">the reference</a>
<script>MathJax = {startup: {promise: Promise.resolve()}}</script>
<span id="document-book/flatness"></span><section><h2>Flatness</h2>
<p id="term-torus">torus</p>
<details class="hide"><summary>code</summary><p style="height: 900mm">code</p></details>
<details class="sd-dropdown"><summary>Answer</summary><p style="height: 300mm">answer</p></details>
</section>
<span id="document-book/api"></span><section><h2>API</h2><p id="toroid.align">align</p></section>
<span id="document-book/api-training"></span><section><h2>SGD</h2></section>
"""


def test_a_pdf_has_the_answers_and_links_that_lead_somewhere(tmp_path):
    pytest.importorskip("playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><html lang='en'><title>Book</title>{PAPER}</html>")
    with ThreadPoolExecutor(1) as alone:  # another browser is open in this thread
        content = alone.submit(copies.printed, page, tmp_path / "book.pdf").result().read_bytes()
    assert content.startswith(b"%PDF")
    assert content.rstrip().endswith(b"%%EOF")
    assert len(re.findall(rb"/Type /Page\b", content)) == 3  # a page of its own, and a long answer
    assert re.findall(rb"/URI \(([^)]*)\)", content) == [b"https://example.org/x"]
    assert len(re.findall(rb"/Subtype /Link", content)) == 3
    titles = re.findall(rb"/Title \(([^)]*)\)", content)  # of the document, and the outline's
    assert sorted(titles) == [b"Book", b"Book", b"Flatness"]


def test_without_a_browser_a_pdf_says_what_it_needs(tmp_path, monkeypatch):
    pytest.importorskip("playwright")
    monkeypatch.setattr(copies, "chromium", lambda: str(tmp_path / "none"))
    with ThreadPoolExecutor(1) as alone:
        done = alone.submit(copies.printed, tmp_path / "page.html", tmp_path / "book.pdf")
    with pytest.raises(parameters.ParameterError, match="printed by Chromium, and none starts"):
        done.result()
    monkeypatch.setitem(sys.modules, "playwright", None)
    with pytest.raises(parameters.ParameterError, match="pip install playwright"):
        copies.printed(tmp_path / "page.html", tmp_path / "book.pdf")
    assert not (tmp_path / "book.pdf").exists()
