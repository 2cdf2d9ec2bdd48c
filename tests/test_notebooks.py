"""The book's notebooks as they are stored, and their runs."""

import ast
import json
import pathlib
import re
import subprocess

import pandas as pd
import papermill
import pytest
from toroid.book import notebooks, parameters
from toroid.book.parameters import ParameterError, validate

ROOT = parameters.root()
NAMES = parameters.names()


def cells(name, kind="code"):
    found = json.loads((ROOT / "book" / f"{name}.ipynb").read_text())["cells"]
    return [c for c in found if c["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


@pytest.mark.parametrize("name", NAMES)
def test_the_page_is_fresh(name):
    assert notebooks.fresh(name), f"{name} is stale: run `toroid book`"


@pytest.mark.parametrize("name", NAMES)
def test_the_stored_outputs_are_those_of_one_run(name):
    code = cells(name)
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1))
    outputs = [o for c in code for o in c["outputs"]]
    assert not any(o["output_type"] == "error" or o.get("name") == "stderr" for o in outputs)
    assert notebooks.run_info(name)["parameters"] == {}
    assert notebooks.run_info(name)["seconds"] < 60


@pytest.mark.parametrize("name", NAMES)
def test_papermill_lists_every_parameter_in_full(name):
    declared = parameters.declared(name)
    inspected = papermill.inspect_notebook(str(ROOT / "book" / f"{name}.ipynb"))
    assert list(inspected) == list(declared)
    for key, parameter in declared.items():
        assert inspected[key]["inferred_type_name"] == parameter.type
        assert inspected[key]["help"] == parameter.help != ""
        assert ast.literal_eval(inspected[key]["default"]) == parameter.default
        assert "=" not in parameter.help


EXERCISED = [
    "bend", "binary", "connectivity", "dependence", "distances", "flatness", "merging",
    "minimizers", "shallow", "symmetries",
]  # fmt: skip


@pytest.mark.parametrize("name", EXERCISED)
def test_a_figure_page_has_three_exercises_whose_answers_are_computed(name):
    (text,) = (t for c in cells(name, "markdown") if "## Exercises" in (t := source(c)))
    questions = re.findall(r"^\*\*\d\.\*\* (.*)$", text, re.MULTILINE)
    answers = re.findall(r"```\{dropdown\} Answer \d\n(.*?)\n```", text, re.DOTALL)
    assert len(questions) == len(answers) == 3
    assert all("{glue:text}`" in answer for answer in answers)
    commands = [
        command for question in questions for command in re.findall("`toroid (.*?)`", question)
    ]
    assert commands, "one of them changes a parameter"
    for command in commands:
        run, page, *words = command.split()
        assert (run, page) == ("run", name)
        parameters.check_together(name, parameters.parse(name, words[1::2]))
        assert {*words[::2]} == {"-p"}


@pytest.mark.parametrize("name", NAMES)
def test_defaults_and_presets_are_valid(name):
    defaults = {key: p.default for key, p in parameters.declared(name).items()}
    assert validate(name, defaults) == defaults
    for title in parameters.presets(name):
        parameters.preset(name, title)


@pytest.mark.parametrize("name", NAMES)
def test_figures_have_a_caption_an_alternative_text_and_a_file(name):
    figures = notebooks.figures(ROOT / "book" / f"{name}.ipynb")
    pictures = [
        c for c in cells(name) if any("image/png" in o.get("data", {}) for o in c["outputs"])
    ]
    assert len(figures) == len(pictures)
    for cell in pictures:
        about = cell["metadata"]["mystnb"]
        assert len(about["figure"]["caption"]) > 40
        assert len(about["image"]["alt"]) > 40
    for label, image in figures.items():
        assert (ROOT / "book" / "images" / f"{label}.png").read_bytes() == image


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_small_and_speaks_of_no_machine(name):
    path = ROOT / "book" / f"{name}.ipynb"
    assert path.stat().st_size < 500_000
    text = path.read_text()
    assert not re.search(r"/home/|/root/|/tmp/|/Users/", text)
    assert "papermill" not in {k for c in cells(name) for k in c["metadata"]}


def glued(name):
    """What a page's run has glued, by key."""
    books = [
        (output["metadata"]["scrapbook"]["name"], next(iter(output["data"].values())))
        for cell in cells(name)
        for output in cell["outputs"]
        if output.get("metadata", {}).get("scrapbook")
    ]
    return dict(books)


@pytest.mark.parametrize("name", NAMES)
def test_prose_takes_its_numbers_from_the_run(name):
    """Every glued key is used, every used key is glued, here or there, and none is a NumPy repr."""
    prose = "\n".join(source(c) for c in cells(name, "markdown"))
    keys = re.findall(r"\{glue:text\}`([^`]*)`", prose)
    elsewhere = [key.split("::") for key in keys if "::" in key]
    here = {key.partition(":")[0] for key in keys if "::" not in key}
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "book").glob("*.md")]
    there = set(re.findall(rf"`{name}\.ipynb::(\w+)", "\n".join(texts)))
    assert here <= set(glued(name)) <= here | there
    for page, key in elsewhere:
        assert key.partition(":")[0] in glued(page.removesuffix(".ipynb"))
    assert not any("np." in str(value) for value in glued(name).values())


def test_a_run_never_writes_over_a_page():
    page = ROOT / "book" / "symmetries.ipynb"
    with pytest.raises(ParameterError, match="is the page itself"):
        notebooks.run("symmetries", {}, page)
    with pytest.raises(ParameterError, match="give an output"):
        notebooks.run("symmetries", {"epochs": 1})


def test_a_run_that_is_cut_off_does_not_say_that_it_is_finished(tmp_path, monkeypatch):
    """What is written on the way is no page's stamp, or a sweep would take it for done."""

    def cut_off(source, output, **others):
        pathlib.Path(output).write_text(pathlib.Path(source).read_text())
        raise KeyboardInterrupt

    monkeypatch.setattr(papermill, "execute_notebook", cut_off)
    output = tmp_path / "symmetries.ipynb"
    with pytest.raises(KeyboardInterrupt):
        notebooks.run("symmetries", {"epochs": 1}, output)
    left = json.loads(output.read_text())
    assert left["cells"]
    assert "toroid" not in left["metadata"]
    assert notebooks.run_info("symmetries") != {}


def test_the_stamp_changes_with_the_code_and_with_a_kept_run(tmp_path, monkeypatch):
    (tmp_path / "book" / "reference" / "symmetries.large").mkdir(parents=True)
    (tmp_path / "_toc.yml").touch()
    page = tmp_path / "book" / "symmetries.ipynb"
    text = (ROOT / "book" / "symmetries.ipynb").read_text()
    page.write_text(text)
    monkeypatch.chdir(tmp_path)
    first = notebooks.stamp("symmetries")
    assert first == notebooks.stamp("symmetries")
    page.write_text(text.replace("epochs: int = 15", "epochs: int = 16"))
    second = notebooks.stamp("symmetries")
    (tmp_path / "book" / "reference" / "symmetries.large" / "checks.csv").write_text("a\n1\n")
    assert len({first, second, notebooks.stamp("symmetries")}) == 3


def test_a_number_that_is_none_is_not_glued():
    with pytest.raises(ValueError, match="x is nan"):
        notebooks.glue("x", float("nan"))


def _shape(code):
    return notebooks._shape(ast.parse(code))


def test_the_stamp_sees_code_and_not_how_it_is_written():
    code = 'def f(x):\n    """Doubles."""\n    return 2 * x'
    assert _shape(code) == _shape("def f(x):\n    # twice\n    return (2 * x)")
    assert _shape(code) != _shape('def f(x):\n    """Doubles."""\n    return 3 * x')
    assert _shape("f(x, '')") != _shape("f(x)")
    assert _shape("'a'") == _shape('"a"')


def test_the_stamp_reaches_what_the_page_imports():
    cells = ["import toroid\nfrom toroid.book import claims"]
    reached = notebooks._reached(cells).keys()
    assert reached >= {
        "toroid",
        "toroid.book.claims",
        "toroid.symmetry._rules",
        "toroid.evaluation",
    }
    assert not reached & {"toroid.book.cli", "toroid.book.plotting", "toroid.__main__"}
    assert "toroid.book.plotting" in notebooks._reached(["from toroid.book.plotting import style"])
    assert notebooks._reached(["import torch"]) == {}


def test_the_commit_of_a_run_is_named(tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    (tmp_path / "book").mkdir()
    (tmp_path / "_toc.yml").touch()
    monkeypatch.chdir(tmp_path)
    assert notebooks._commit() == ""
    (tmp_path / "toroid").mkdir()
    (tmp_path / "toroid" / "code.py").write_text("1\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    assert re.fullmatch("[0-9a-f]{40}", notebooks._commit())
    (tmp_path / "toroid" / "code.py").write_text("2\n")
    assert notebooks._commit().endswith(", with changes")


def parts(folder, **values):
    defaults = {key: p.default for key, p in parameters.declared("connectivity").items()}
    return notebooks.Parts({**defaults, "results": str(folder), **values}, "connectivity")


def test_what_a_run_has_finished_is_found_again_by_the_same_run_only(tmp_path):
    table, calls = pd.DataFrame({"a": [1 / 3, 1e-17], "b": ["x", "y"]}), []

    def compute():
        calls.append(1)
        return table

    for _ in range(2):
        pd.testing.assert_frame_equal(
            parts(tmp_path).table("one", compute), table, check_exact=True
        )
    assert len(calls) == 1
    parts(tmp_path, n_jobs=2, store="elsewhere").table("one", compute)
    assert len(calls) == 1
    parts(tmp_path, points=7).table("one", compute)
    assert len(calls) == 2
    ended = parts(tmp_path)
    ended.table("one", compute)
    ended.remove()
    parts(tmp_path, points=7).table("one", compute)
    assert len(calls) == 2
    parts(tmp_path).table("one", compute)
    assert len(calls) == 3


def test_a_part_that_was_cut_off_is_made_again(tmp_path):
    def cut_off():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        parts(tmp_path).table("one", cut_off)
    made = parts(tmp_path).table("one", lambda: pd.DataFrame({"a": [1]}))
    assert made["a"].tolist() == [1]
