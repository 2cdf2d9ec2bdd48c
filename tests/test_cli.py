"""The command line, from a user's side."""

import csv
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from toroid.book import copies, notebooks, parameters, references
from toroid.book.cli import _from_here, main
from toroid.minimizers import Minimizer, Store, train_all


def invoke(*words):
    return CliRunner().invoke(main, list(words))


def test_list_names_every_figure_with_its_presets():
    result = invoke("list")
    assert result.exit_code == 0
    for name in parameters.names():
        assert name in result.output
    assert ", ".join(parameters.presets("connectivity")) in result.output


def test_explain_lists_every_parameter():
    result = invoke("explain", "connectivity")
    for parameter in parameters.declared("connectivity").values():
        assert parameter.name in result.output
        assert parameter.help in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "connectivty"), "Did you mean 'connectivity'"),
        (("run", "connectivity", "-p", "epoch=3"), "Did you mean 'epochs'"),
        (("run", "connectivity", "--preset", "huge"), "no preset 'huge'"),
        (
            ("run", "connectivity", "-p", "dataset=mnistt"),
            "dataset is 'mnistt'; it can be digits, m",
        ),
        (("explain", "x"), "no notebook 'x'"),
    ],
)
def test_a_mistake_is_a_message_not_a_traceback(words, message, monkeypatch):
    monkeypatch.setattr(notebooks, "run", lambda *words: pytest.fail("was run"))
    result = invoke(*words)
    assert result.exit_code == 2
    assert result.output.startswith("Error: ")
    assert message in result.output


def test_run_leaves_a_notebook_and_its_numbers_in_a_folder(tmp_path):
    before = (parameters.root() / "book" / "connectivity.ipynb").read_bytes()
    words = ["algorithms=sgd", "seeds=0,1", "epochs=1", "width=0.05", "points=3", "evaluate_on=100",
             "n_jobs=1"]  # fmt: skip
    result = invoke(
        "run", "connectivity", "-o", str(tmp_path / "out"), *(x for w in words for x in ("-p", w))
    )
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "barriers.csv", "biases.csv", "connectivity.ipynb", "curves.csv", "minimizers.csv",
        "scale.csv", "temperatures.csv",
    ]  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "out" / "curves.csv").read_text().splitlines()))
    assert len(rows) == 1 * 6 * 2 * 3  # pairs, treatments, parts of the data, points
    info = json.loads((tmp_path / "out" / "connectivity.ipynb").read_text())["metadata"]["toroid"]
    assert info["parameters"]["width"] == 0.05
    assert (parameters.root() / "book" / "connectivity.ipynb").read_bytes() == before


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder with the page of bends, to run in."""
    here = parameters.root()
    for part in ("book/bend.ipynb", "book/params/bend.mnist.yaml", "_toc.yml"):
        (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / part).write_bytes((here / part).read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_pages_run_with_large_pages_of_memory(clone, monkeypatch):
    page = clone / "book" / "bend.ipynb"
    notebook = json.loads(page.read_text())
    cell = next(c for c in notebook["cells"] if "Page(" in "".join(c["source"]))
    cell["source"] = ['{}[__import__("os").environ["THP_MEM_ALLOC_ENABLE"]]']
    page.write_text(json.dumps(notebook))
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    assert "KeyError: '1'" in invoke("run", "bend", "-o", "mine").output
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")  # the caller's word counts
    assert "KeyError: '0'" in invoke("run", "bend", "-o", "mine").output


def test_runs_that_start_in_one_second_have_a_folder_each(clone, monkeypatch):
    def run(name, values, path):
        assert not list(path.parent.iterdir())
        (path.parent / "chains.csv").touch()
        return path

    monkeypatch.setattr(notebooks, "run", run)
    monkeypatch.setattr("toroid.book.cli.time.strftime", lambda form: "now")
    for _ in range(3):
        assert invoke("run", "bend").exit_code == 0
    names = [f"bend-quick-now{ending}" for ending in ("", "-2", "-3")]
    assert sorted(p.name for p in (clone / "runs").iterdir()) == names
    assert all((clone / "runs" / name / "chains.csv").exists() for name in names)


def test_a_run_lists_what_it_has_written_where_it_has(clone, monkeypatch):
    def run(name, values, path):
        Path(values["results"], "chains.csv").write_text("a")
        return path

    monkeypatch.setattr(notebooks, "run", run)
    for folder in ("mine", "results"):
        (clone / folder).mkdir()
        (clone / folder / "older.csv").touch()
    for words in (["-o", "mine"], ["-o", "mine"], ["-o", "mine", "-p", "results=results"]):
        listed = [w for w in invoke("run", "bend", *words).output.splitlines() if "results:" in w]
        folder = "results" if "-p" in words else "mine"
        assert listed == [f"results:  {clone / folder / 'chains.csv'}"]


def test_a_run_that_fails_says_why_and_where(clone):
    page = clone / "book" / "bend.ipynb"
    page.write_text(page.read_text().replace('pages.Page(globals(), \\"bend\\")', "1 / 0"))
    result = invoke("run", "bend", "-o", "mine")
    assert result.exit_code == 1
    assert "Error: ZeroDivisionError: division by zero" in result.output
    assert f"The notebook up to there: {clone / 'mine' / 'bend.ipynb'}" in result.output
    assert (clone / "mine" / "bend.ipynb").exists()
    assert "Traceback" not in result.output


def test_a_run_that_is_stopped_says_how_to_go_on(clone, monkeypatch):
    def run(name, values, path):
        path.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(notebooks, "run", run)
    result = invoke("run", "bend", "-o", "mine")
    assert result.exit_code == 130
    assert f"give the same command with -o {clone / 'mine'}" in result.output


def python(*words):
    return subprocess.run([sys.executable, *words], capture_output=True, text=True)


def test_the_book_is_also_one_file(clone, monkeypatch):
    def built(command, check):
        (folder := clone / "_build" / command[-1] / "book").mkdir(parents=True)
        (folder / "intro.html").write_text(command[-1])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", built)
    monkeypatch.setattr(notebooks, "fresh", lambda name: True)
    monkeypatch.setattr(copies, "printed", lambda page, file: file.write_text(page.read_text()))
    result = invoke("book", "--zip", "--pdf")
    assert result.exit_code == 0, result.output
    with zipfile.ZipFile(clone / "_build" / "toroid.zip") as made:
        assert made.namelist() == ["toroid/book/intro.html"]
    assert (clone / "_build" / "toroid.pdf").read_text() == "singlehtml"


def test_without_its_packages_the_command_says_how_to_get_them(tmp_path):
    for missing, words in (("click", []), ("papermill", ["run", "bend", "-o", str(tmp_path)])):
        code = f"import sys; sys.modules[{missing!r}] = None; sys.argv[1:] = {words}; "
        done = python("-c", code + "from toroid.__main__ import main; main()")
        assert done.returncode == 1
        assert 'pip install "toroid[book]"' in done.stderr
        assert "Traceback" not in done.stderr


def test_the_package_runs_as_a_module():
    assert python("-m", "toroid", "--help").stdout.startswith("Usage: toroid ")


def test_a_reference_run_that_is_given_again_goes_on_in_its_folder(clone, monkeypatch):
    tmp_path, written = clone, []
    (clone / "book" / "params" / "bend.mnist.yaml").write_text("epochs: 3\n")  # without its data
    folder = tmp_path / "runs" / "bend-mnist"
    (folder / "parts").mkdir(parents=True)
    for part in ("older.csv", "parts/done.csv"):
        (folder / part).touch()
    monkeypatch.setattr(notebooks, "run", lambda name, values, path: written.append(path) or path)
    monkeypatch.setattr(references, "keep", lambda notebook, title: tmp_path)
    for words in (["--reference"], ["--reference"], []):
        assert invoke("run", "bend", "--preset", "mnist", *words).exit_code == 0
    assert written[0] == written[1] == folder / "bend.ipynb" != written[2]
    assert (folder / "parts" / "done.csv").exists()
    assert not (folder / "older.csv").exists()  # a table of a run before this one


def test_folders_are_the_callers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "insects").mkdir()
    given = {"results": "new", "store": "", "dataset": "digits", "width": 2.0}
    assert _from_here(given) == {**given, "results": str(tmp_path / "new")}
    assert _from_here({"store": "s", "dataset": "insects"}) == {
        "store": str(tmp_path / "s"),
        "dataset": str(tmp_path / "insects"),
    }


def test_the_store_is_shown_checked_and_pruned(tmp_path):
    folder = ["--folder", str(tmp_path)]
    for word, code in (("list", 0), ("verify", 1)):
        for place in (folder, [*folder[:1], str(tmp_path / "none")]):
            result = invoke("store", word, *place)
            assert "nothing in" in result.output
            assert result.exit_code == code
    minimizer = Minimizer(width=0.02, subset=200, settings={"epochs": 1})
    train_all([minimizer], Store(tmp_path), device="cpu", progress=False)
    listed = invoke("store", "list", *folder).output
    for word in ("algorithm", "sgd", "test_error", minimizer.key[:12]):
        assert word in listed
    assert "all files are" in invoke("store", "verify", *folder).output
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(b"x" + path.read_bytes()[1:])
    result = invoke("store", "verify", *folder)
    assert result.exit_code == 1
    assert f"{path.name} is not the file that was written" in result.output
    sidecar = tmp_path / f"{minimizer.key}.json"
    text = sidecar.read_text()
    sidecar.write_text(text[:50])
    listed = invoke("store", "list", *folder)
    assert listed.exit_code == 0
    assert f"{sidecar} is damaged" in listed.output
    sidecar.write_text(text)
    assert "set aside: " in invoke("store", "prune", *folder).output
    assert "nothing in" in invoke("store", "list", *folder).output
