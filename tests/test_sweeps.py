"""Sweeps: their grids, their runs, what they leave."""

import json

import pandas as pd
import pytest
from click.testing import CliRunner
from toroid.book import notebooks, references, sweeps, tables
from toroid.book.cli import main
from toroid.book.parameters import ParameterError


def test_one_rule_for_values_and_for_lists():
    found = sweeps.grid("connectivity", ["width=0.25,0.5", "seeds=0,1;2,3", "epochs=5"], points=7)
    assert found.varied == {"width": [0.25, 0.5], "seeds": [[0, 1], [2, 3]]}
    assert found.fixed == {"points": 7, "epochs": 5}
    assert [p["width"] for p in found.places] == [0.25, 0.25, 0.5, 0.5]  # the last one is fastest
    assert [p["seeds"] for p in found.places] == [[0, 1], [2, 3]] * 2
    each = sweeps.grid("minimizers", ["seeds=3,4,5"], ["seeds"])
    assert each.varied == {"seeds": [[3], [4], [5]]}
    assert sweeps.grid("minimizers", [], ["seeds"]).varied == {"seeds": [[0], [1], [2]]}


@pytest.mark.parametrize(
    ("words", "over", "message"),
    [
        (["widht=0.5,1"], [], "no parameter 'widht'.*Did you mean 'width'"),
        (["width=0.5"], [], "nothing varies"),
        (["width=0.5,0.5"], [], r"width has 0\.5 twice"),
        (["width=0.5,1", "width=2"], [], "width is given twice"),
        (["width=0.5,-1"], [], "width is -1"),
        (["width"], [], "name=value"),
        (["width=0.5,1"], ["width"], "over takes a parameter that is a list .*seeds"),
        (["seeds=0,1;2,3"], ["seeds"], "seeds has 2 lists already"),
        (["seeds=0,1"], ["seeds"], "seeds takes a .* at least two"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_runs(words, over, message, monkeypatch):
    monkeypatch.setattr(notebooks, "run", lambda *words: pytest.fail("was run"))
    with pytest.raises(ParameterError, match=message):
        sweeps.grid("connectivity", words, over)


@pytest.fixture
def pages(monkeypatch):
    """Runs that only write what a notebook would; how often each place was run."""
    count = {}

    def run(name, values, output):
        width = values["width"]
        count[width] = count.get(width, 0) + 1
        output.parent.mkdir(parents=True, exist_ok=True)
        if width == 4.0 and count[width] == 1:
            output.write_text("{}")
            raise RuntimeError("no memory")
        pd.DataFrame({"error": [width / 3, 0.1]}).to_csv(output.parent / "errors.csv", index=False)
        info = {"stamp": notebooks.stamp(name), "commit": "c", "seconds": 1.0, "python": "3",
                "torch": "2", "device": "CPU", "parameters": values}  # fmt: skip
        output.write_text(json.dumps({"metadata": {"toroid": info}}))
        return output

    monkeypatch.setattr(notebooks, "run", run)
    return count


def test_a_failed_run_is_named_and_only_it_runs_again(pages, tmp_path):
    found = sweeps.grid("minimizers", ["width=4,1,0.5", "lr=0.1"])
    first = sweeps.sweep(found, tmp_path / "a", n_jobs=1, progress=False)
    assert first.failed == {"width 4.0": "RuntimeError: no memory"}
    assert first.tables["errors"]["width"].tolist() == [1.0, 1.0, 0.5, 0.5]
    second = sweeps.sweep(found, tmp_path / "a", n_jobs=1, progress=False)
    assert second.failed == {}
    assert pages == {4.0: 2, 1.0: 1, 0.5: 1}
    whole = sweeps.sweep(found, tmp_path / "b", n_jobs=1, progress=False)
    assert whole.failed == {}
    one, other = ((tmp_path / x / "errors.csv").read_bytes() for x in "ab")
    assert one == other
    assert second.tables["errors"]["width"].tolist() == [4.0, 4.0, 1.0, 1.0, 0.5, 0.5]
    told = json.loads((tmp_path / "a" / "provenance.json").read_text())
    assert told["varied"] == {"width": [4.0, 1.0, 0.5]}
    assert told["fixed"] == {"lr": 0.1}


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes().replace(b"0.3", b"0.2")),
        lambda path: path.write_bytes(path.read_bytes()[:-4]),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
        lambda path: path.with_name("more.csv").write_text("error\n1\n"),
        lambda path: path.with_name("run.json").write_text("{"),
    ],
)
def test_a_run_whose_tables_are_not_its_own_is_run_again(pages, tmp_path, damage):
    found = sweeps.grid("minimizers", ["width=1,0.5"])
    whole = sweeps.sweep(found, tmp_path, n_jobs=1, progress=False).tables
    place = sweeps.place_key(found, {"width": 1.0})
    damage(tmp_path / place / "errors.csv")
    again = sweeps.sweep(found, tmp_path, n_jobs=1, progress=False).tables
    assert pages == {1.0: 2, 0.5: 1}
    assert again.keys() == whole.keys() == {"errors"}
    assert again["errors"].equals(whole["errors"])
    sweeps.sweep(found, tmp_path, n_jobs=1, progress=False)
    assert pages == {1.0: 2, 0.5: 1}


def test_the_command_says_how_much_it_is_and_where(pages, tmp_path, monkeypatch):
    words = ["sweep", "minimizers", "-p", "width=1,0.5", "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert "2 runs of minimizers, about" in done.output
    assert "errors.csv" in done.output
    failing = CliRunner().invoke(main, [*words[:-3], "width=1,4", "-o", str(tmp_path / "other")])
    assert failing.exit_code == 1
    assert "width 4.0: RuntimeError: no memory" in failing.output
    assert "Traceback" not in failing.output


@pytest.mark.parametrize("title", ["", "x/..", "../x", "/tmp", ".x", "a b", "a\n", "x" * 101])
def test_a_title_that_is_no_plain_name_touches_nothing(pages, tmp_path, monkeypatch, title):
    monkeypatch.setattr(sweeps, "root", lambda: tmp_path)
    (tmp_path / "book" / "reference" / "run.kept").mkdir(parents=True)
    words = ["sweep", "minimizers", "-p", "width=1,0.5", "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(main, [*words, "--reference", title])
    assert done.exit_code == 2
    assert "Invalid value for '--reference'" in done.output
    assert pages == {}
    with pytest.raises(ParameterError, match="plain name"):
        sweeps.keep(tmp_path / "out", title)
    assert [p.name for p in (tmp_path / "book" / "reference").iterdir()] == ["run.kept"]


@pytest.fixture
def finished(pages, tmp_path, monkeypatch):
    """A sweep over folders of this machine that came to its end, and where it is kept."""
    monkeypatch.setattr(sweeps, "root", lambda: tmp_path)
    found = sweeps.Grid(
        "minimizers",
        {"store": str(tmp_path / "store"), "epochs": 3, "dataset": str(tmp_path / "photos")},
        {"width": [1.0, 0.5]},
    )
    sweeps.sweep(found, tmp_path / "out", n_jobs=1, progress=False)
    return tmp_path / "out", tmp_path / "book" / "reference" / "sweep.mine"


def test_a_kept_sweep_names_no_folder_of_this_machine(finished, tmp_path):
    out, place = finished
    assert sweeps.keep(out, "mine") == place
    text = (place / "provenance.json").read_text()
    assert str(tmp_path) not in text
    assert json.loads(text)["fixed"] == {"epochs": 3, "dataset": "photos"}
    assert json.loads(text)["varied"] == {"width": [1.0, 0.5]}


def test_a_sweep_that_is_kept_half_leaves_the_one_before(finished, monkeypatch):
    out, place = finished
    sweeps.keep(out, "mine")
    (out / "errors.csv").write_text("other")
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(references, "write", lambda *x: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            sweeps.keep(out, "mine")
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    sweeps.keep(out, "mine")
    assert (place / "errors.csv").read_text() == "other"
    assert [path.name for path in place.parent.iterdir()] == ["sweep.mine"]


def test_no_jobs_are_refused_before_anything_runs(pages, tmp_path):
    words = ["sweep", "minimizers", "-p", "width=1,0.5", "-o", str(tmp_path / "out"), "-j", "0"]
    done = CliRunner().invoke(main, words)
    assert (done.exit_code, pages) == (2, {})
    assert "-1 for all cores" in done.output


def test_a_real_page_is_swept(tmp_path):
    words = ["algorithms=sgd", "epochs=1", "seeds=0", "width=0.05,0.1"]
    found = sweeps.grid("minimizers", words, store=str(tmp_path / "store"))
    swept = sweeps.sweep(found, tmp_path / "out", n_jobs=1, progress=False)
    assert swept.failed == {}
    table = swept.tables["minimizers"]
    assert table.groupby("width")["seed"].count().to_dict() == {0.05: 1, 0.1: 1}


# what dask-jobqueue does not make to the end complains as it is collected
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed cluster:ResourceWarning")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1", "takes a mapping"),
        ("class: Nothing\njobs: 1", "has no such class"),
        ("jobs: 2", "takes a mapping"),
        ("class: SLURMCluster\njobs: 1", "specify how much cores and memory"),
        ("class: SLURMCluster\njobs: 1\nsize: 3", "unexpected keyword argument 'size'"),
        ("class: SLURMCluster\njobs: many", "jobs is 'many'; it must be an integer"),
    ],
)
def test_a_cluster_that_is_not_described_is_refused(text, message, tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(ParameterError, match=message), sweeps.cluster(str(path)):
        pass


def test_sweeps_that_are_kept_come_together_with_what_they_share(monkeypatch, tmp_path):
    for title, fixed, rates in (
        ("r.a", {"epochs": 5}, [0.1, 0.2]),
        ("r.b", {"augment": True}, [0.3]),
    ):
        place = tmp_path / "book" / "reference" / f"sweep.{title}"
        rows = pd.DataFrame({"lr": rates, "train_error": 0.001, "test_error": rates})
        rows.to_csv(tmp_path / "minimizers.csv", index=False)
        info = {"page": "minimizers", "fixed": fixed}
        references.replace(place, [tmp_path / "minimizers.csv"], info)
    monkeypatch.setattr(sweeps, "root", lambda: tmp_path)
    found = sweeps.together("r.", "minimizers", ["epochs", "augment", "lr"])
    assert found["epochs"].tolist() == [5, 5, 30]
    assert found["augment"].tolist() == [False, False, True]
    assert found["lr"].tolist() == [0.1, 0.2, 0.3]
    assert sweeps.together("other", "minimizers", []).empty


def test_the_recipe_is_the_best_of_those_that_fit():
    table = pd.DataFrame({
        "epochs": 30, "augment": [True, False, False], "lr": 0.1, "weight_decay": 0.0,
        "train_error": [0.07, 0.005, 0.0], "test_error": [0.1, 0.2, 0.3],
    })  # fmt: skip
    found = tables.recipes(table, 0.005)
    assert found["taken"].tolist() == [False, True, False]
    assert not tables.recipes(table, -1)["taken"].any()


@pytest.mark.parametrize("word", ["results=a,b", "results=a"])
def test_a_sweep_takes_no_folder_of_results(word):
    with pytest.raises(ParameterError, match="-o says where they lie"):
        sweeps.grid("minimizers", [word, "width=0.5,1"])
