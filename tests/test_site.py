"""The site, built twice without a warning; then every page is looked at."""

import copy
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
import yaml
from bs4 import BeautifulSoup
from toroid.book import notebooks, parameters

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

    ids = {tag["id"] for tag in pages["book/api"].find_all(id=True)}
    for name in toroid.__all__:
        thing = getattr(toroid, name)
        if getattr(thing, "__module__", None):
            assert any(i.endswith(f".{name}") for i in ids), name
