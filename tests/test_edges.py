"""Edges of the command line: what is wrong is one sentence, and nothing is written."""

import ast
import errno
import importlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from html import unescape
from pathlib import Path

import pandas as pd
import pytest
import toroid
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from toroid.book import notebooks, parameters, presets, relations, tables
from toroid.book.cli import main
from toroid.book.parameters import ParameterError

ROOT = Path(toroid.__file__).parents[1]
PAGES = ("bend", "binary", "classifiers", "flatness", "shallow")


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder with pages, to run in; a run fails the test."""
    here, there = parameters.root(), tmp_path / "clone"
    for path in ["_toc.yml", *(f"book/{page}.ipynb" for page in PAGES)]:
        (there / path).parent.mkdir(parents=True, exist_ok=True)
        (there / path).write_bytes((here / path).read_bytes())
    (there / "book" / "params").mkdir()
    monkeypatch.chdir(there)
    monkeypatch.setenv("TOROID_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(notebooks, "run", lambda *words: pytest.fail("was run"))
    return there


def invoke(*words):
    return CliRunner().invoke(main, list(words))


def contents(folder):
    return sorted(
        str(p.relative_to(folder)) for p in folder.parent.rglob("*") if folder in p.parents
    )


def refused(result, *told):
    """One sentence, the exit code of a wrong use, no traceback."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2, result.output
    (sentence,) = [x for x in result.output.splitlines() if x.startswith("Error: ")]
    assert result.output.splitlines()[-1] == sentence
    for words in told:
        assert words in sentence
    return sentence


#: A preset of the page bend by what is wrong with it: its bytes, and words of the sentence.
MALFORMED = {
    # no mapping
    "empty": (b"", "is empty; write one NAME: VALUE in each line"),
    "blank": (b"  \n\n", "is empty"),
    "comment": (b"# nothing\n", "is empty"),
    "document mark": (b"---\n", "is no mapping"),
    "null": (b"null\n", "is no mapping"),
    "word": (b"epochs\n", "is no mapping of names to values; write one NAME: VALUE"),
    "number": (b"3\n", "is no mapping"),
    "list": (b"- epochs: 3\n", "is no mapping"),
    "ini": (b"[bend]\nepochs = 3\n", "not YAML"),
    "equals": (b"epochs=3\n", "is no mapping"),
    "two documents": (b"epochs: 3\n---\nepochs: 4\n", "line 2 is not YAML"),
    "ordered mapping": (b"!!omap\n- epochs: 3\n", "is no mapping"),
    "set": (b"!!set {epochs, lr}\n", "is no mapping"),
    # not YAML
    "open list": (b"seeds: [0, 1\n", "is not YAML"),
    "open quote": (b"dataset: 'digits\n", "is not YAML"),
    "open brace": (b"{epochs: 3\n", "is not YAML"),
    "tab": (b"epochs:\n\t3\n", "line 2 is not YAML"),
    "indent": (b"epochs: 3\n  lr: 0.1\n", "line 2 is not YAML"),
    "no space": (b"epochs:3\nlr:0.1\n", "is no mapping"),
    "colon in a value": (b"dataset: a: b\n", "line 1 is not YAML"),
    "percent": (b"%epochs: 3\n", "is not YAML"),
    "at": (b"epochs: @3\n", "is not YAML"),
    "unknown alias": (b"epochs: *other\n", "is not YAML"),
    "unknown tag handle": (b"epochs: !x!y 3\n", "is not YAML"),
    "unknown escape": (b'dataset: "\\q"\n', "is not YAML"),
    # not text
    "latin-1": ("# größer\nepochs: 3\n".encode("latin-1"), "is not UTF-8 at byte 4; save it as UTF-8"),
    "utf-16": ("epochs: 3\n".encode("utf-16"), "is not UTF-8"),
    "gzip": (b"\x1f\x8b\x08\x00\x00", "is not UTF-8"),
    "zero bytes": (b"epochs: 3\x00\n", "is not YAML"),
    "bell": (b"dataset: dig\x07its\n", "is not YAML"),
    # tags and kinds
    "python object": (b"epochs: !!python/object/apply:os.system ['touch owned']\n", "line 1: epochs is of the kind"),
    "python name": (b"epochs: !!python/name:os.system\n", "of the kind"),
    "python root": (b"!!python/object:os.system {}\n", "is no mapping"),
    "own tag": (b"epochs: !mine 3\n", "of the kind !mine; it takes a number, a word, true or false"),
    "binary": (b"dataset: !!binary aGVsbG8=\n", "of the kind binary"),
    "date": (b"epochs: 2026-01-01\n", "of the kind timestamp"),
    "no date": (b"epochs: 2026-13-45\n", "of the kind timestamp"),
    "no value": (b"epochs:\n", "of the kind null"),
    "nested": (b"epochs: {a: 3}\n", "of the kind map"),
    "list in a list": (b"seeds: [[0, 1]]\n", "of the kind seq"),
    "itself": (b"seeds: &a [*a]\n", "of the kind seq"),
    "deep": (b"seeds: " + b"[" * 1500, "nested too deeply"),
    "laughs": (b"a: &a [1,1]\nb: &b [*a,*a]\nseeds: [*b,*b]\n", "of the kind seq"),
    "merge": (b"a: &a {epochs: 3}\n<<: *a\n", "line 1: a is of the kind map"),
    "merge first": (b"<<: {epochs: 3}\n", "line 1 begins with something else than a name"),
    "no number": (b"epochs: !!int three\n", "line 1: epochs cannot be read; write a plain number"),
    "no truth": (b"augment: !!bool maybe\n", "cannot be read"),
    "hexadecimal": (b"epochs: 0x_\n", "cannot be read"),
    # names
    "twice": (b"epochs: 3\nlr: 0.1\nepochs: 4\n", "line 3 gives epochs a second time; keep one of them"),
    "number as name": (b"3: epochs\n", "line 1 begins with something else than a name"),
    "list as name": (b"? [a, b]\n: 3\n", "begins with something else"),
    "truth as name": (b"yes: 3\n", "begins with something else"),
    "unknown name": (b"epoch: 3\n", "bend has no parameter 'epoch'", "Did you mean 'epochs'?"),
    "other case": (b"Epochs: 3\n", "Did you mean 'epochs'?"),
    # values
    "word for a number": (b"epochs: many\n", "epochs takes int, got 'many' (str)"),
    "quoted number": (b"epochs: '3'\n", "in YAML a number stands without quotes"),
    "exponent": (b"lr: 1e-3\n", "one with an exponent has a point: 1.0e-3"),
    "fraction": (b"epochs: 1.5\n", "epochs takes int, got 1.5 (float)"),
    "yes for a number": (b"epochs: yes\n", "epochs takes int, got True (bool)"),
    "word for a truth": (b"augment: maybe\n", "augment takes bool"),
    "not a number": (b"width: .nan\n", "width is nan; it takes a finite number"),
    "infinite": (b"width: .inf\n", "width is inf; it takes a finite number"),
    "beyond floats": (b"width: 1" + b"0" * 400 + b"\n", "width takes float, got 1000"),
    "beyond integers": (b"epochs: 1" + b"0" * 5000 + b"\n", "epochs"),
    "out of range": (b"width: 100\n", "width is 100.0; it can be 0.02 to 8"),
    "one for a list": (b"seeds: 0\n", "seeds takes a list[int] with at least one entry, got 0"),
    "octal": (b"epochs: 010\n", "epochs is 010, which YAML reads as 8; write 8"),
    "sexagesimal": (b"epochs: 1:30\n", "epochs is 1:30, which YAML reads as 90; write 90"),
    "octal in a list": (b"seeds: [0, 0_7]\n", "seeds is 0_7, which YAML reads as 7; write 7"),
    "no entry": (b"seeds: []\n", "seeds takes a list[int] with at least one entry, got []"),
    "entry twice": (b"seeds: [0, 1, 0]\n", "seeds has 0 twice"),
    "no choice": (b"arch: vgg61\n", "Did you mean 'vgg16'?"),
    "empty data set": (b"dataset: ''\n", "dataset is empty; it takes digits, mnist"),
    "blank results": (b"results: ' '\n", "results is empty; it takes folder for"),
    "null in a path": (b'results: "a\\0b"\n', "results is 'a\\x00b'; it takes letters that can be printed"),
    "half a letter": (b'dataset: "\\ud800"\n', "it takes letters that can be printed"),
    "unknown home": (b"dataset: ~nobody-of-that-name/x\n", "no known home folder"),
}  # fmt: skip


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_preset_is_one_sentence(what, clone):
    text, *told = MALFORMED[what]
    (clone / "book" / "params" / "bend.bad.yaml").write_bytes(text)
    before = contents(clone)
    sentence = refused(invoke("run", "bend", "--preset", "bad"), *told)
    if what != "unknown home":  # found when the values are put together
        assert sentence.startswith(f"Error: {Path('book', 'params', 'bend.bad.yaml')}: ")
    assert len(sentence) < 500
    assert contents(clone) == before


@pytest.mark.parametrize("kind", ["folder", "dangling link", "not readable"])
def test_a_preset_that_is_no_file_is_one_sentence(kind, clone, monkeypatch):
    path = clone / "book" / "params" / "bend.bad.yaml"
    if kind == "folder":
        path.mkdir()
    elif kind == "dangling link":
        path.symlink_to(clone / "nothing")
    else:
        path.write_text("epochs: 3\n")
        monkeypatch.setattr(Path, "read_bytes", _no("Permission denied", errno.EACCES))
    told = (
        "cannot be read (Permission denied)"
        if kind == "not readable"
        else "bend has no preset 'bad'"
    )
    refused(invoke("run", "bend", "--preset", "bad"), told)


def _no(words, number):
    def fail(self, *_, **__):
        raise OSError(number, words, str(self))

    return fail


@pytest.mark.parametrize(
    "title", ["", ".", "..", "../bend", "a/b", "x" * 300, "a\0b", "*", "quick.yaml"]
)
def test_a_preset_is_a_name_and_no_path(title, clone):
    refused(invoke("run", "bend", "--preset", title), "bend has no preset")


def test_a_preset_with_a_point_in_its_name_is_found(clone):
    (clone / "book" / "params" / "bend.half.width.yaml").write_text("width: 0.25\n")
    assert parameters.presets("bend") == ["quick", "half.width"]
    assert parameters.preset("bend", "half.width") == {"width": 0.25}


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=st.binary(max_size=60) | st.text(max_size=60).map(lambda s: s.encode("utf-8", "replace"))
       | st.lists(st.sampled_from(["a", "epochs", ":", " ", "\n", "- ", "[", "]", "{", "}", "&a", "*a", "!!int", "!x", "'", '"', "|", ">", "1e400", ".nan", "<<", "?", "#", "%", "\t"]), max_size=12).map(lambda w: "".join(w).encode()))  # fmt: skip
def test_whatever_a_preset_holds_it_is_read_or_refused(text, tmp_path):
    path = tmp_path / "preset.yaml"
    path.write_bytes(text)
    try:
        found, told = presets.mapping(path), "read"
    except ValueError as error:
        found, told = {}, str(error)
    assert told
    assert "\n" not in told
    assert all(isinstance(key, str) for key in found)


# --- words of the command line -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("bend", "-p", "width=1", "-p", "width=2"), "width is given twice; give it once"),
        (("bend", "-p", "results="), "results is empty"),
        (("bend", "-p", "dataset="), "dataset is empty; it takes digits"),
        (("bend", "-p", "dataset=  "), "dataset is empty"),
        (("bend", "-p", "=3"), "bend has no parameter ''"),
        (("bend", "-p", ""), "given as name=value, not ''; `toroid explain bend` lists them"),
        (("bend", "-p", "width=nan"), "width is nan; it takes a finite number"),
        (("bend", "-p", "epochs=" + "9" * 5000), "epochs"),
        (("bend", "-o", ""), "it is empty; give a folder, or leave it out"),
        (("bend", "-o", "_toc.yml"), "is a file"),
        (("bend", "-o", "_toc.yml/below"), "cannot be written to"),
        (("bend", "-o", "x" * 300), "cannot be written to (File name too long)"),
        (("bend", "-p", "results=_toc.yml"), "cannot be written to (it is a file)"),
        (("bend", "-p", "store=_toc.yml"), "cannot be written to (it is a file)"),
        (("bend", "-p", "results=~nobody-of-that-name/x"), "no known home folder"),
        # relations
        (("shallow", "-p", "sizes=160,80"), "sizes is [160, 80]; its entries must ascend"),
        (("shallow", "-p", "robust=-0.1,-0.3"), "its entries must ascend"),
        (("shallow", "-p", "margin=-0.2"), "margin must be below robust"),
        (("binary", "-p", "cold=2"), "cold is 2.0 and hot is 1.0; cold must be below hot"),
        (("bend", "-p", "subset=2000"), "subset is 2000; 'digits' has 1297 training images"),
        (("bend", "-p", "dataset=book"), "has no folder 'train'"),
        (("bend", "-p", "dataset=hidden-manifold", "-p", "arch=lenet"), "lenet of width 0.5 cannot be trained"),
        (("flatness", "-p", "archs=mlp,vgg16_bn", "-p", "batch_sizes=1"), "vgg16_bn of width 0.25 cannot be trained on batches of 1"),
        (("binary", "-p", "dataset=digits"), "whose numbers are not ±1; binary_mlp takes random-patterns"),
        (("binary", "-p", "dataset=digits-binary", "-p", "arch=binary_committee"), "a committee votes on 2 classes, not 10"),
        (("binary", "-p", "arch=binary_cnn"), "binary_cnn of width 1 cannot be trained"),
        (("classifiers", "-p", "names=resnet19"), "names has 'resnet19'; it can be 'all' alone, or"),
        (("classifiers", "-p", "names=all,resnet18"), "names has 'all'; it can be 'all' alone"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_leaves_nothing(words, told, clone):
    before = contents(clone.parent)
    refused(invoke("run", *words), told)
    assert contents(clone.parent) == before


def test_a_missing_data_set_is_found_before_anything_is_written(clone, monkeypatch):
    monkeypatch.setenv("TOROID_DATA", str(clone / "none"))
    before = contents(clone.parent)
    refused(invoke("run", "bend", "-p", "dataset=mnist"), "mnist is not in", "download=True")
    assert contents(clone.parent) == before


def test_a_sweep_is_checked_at_every_place(clone):
    before = contents(clone.parent)
    words = ["sweep", "bend", "-p", "dataset=digits,hidden-manifold", "-p", "arch=mlp,lenet"]
    refused(invoke(*words), "lenet of width 0.5 cannot be trained")
    assert contents(clone.parent) == before


def test_a_notebook_that_is_empty_is_named(clone):
    (clone / "book" / "bend.ipynb").write_bytes(b"")
    refused(invoke("list"), "bend.ipynb is no notebook", "restore it from git")


@pytest.mark.parametrize("words", [("store", "list"), ("store", "verify"), ("store", "prune")])
def test_a_store_in_no_home_folder_is_refused(words):
    refused(invoke(*words, "--folder", "~nobody-of-that-name/x"), "no known home folder")


def test_data_in_no_home_folder_are_refused(clone, monkeypatch):
    monkeypatch.setenv("TOROID_DATA", "~nobody-of-that-name/x")
    refused(invoke("run", "bend", "-p", "dataset=mnist"), "no known home folder")


@pytest.mark.parametrize("page", [p for p in parameters.names() if p != "cluster"])
def test_the_pages_own_parameters_go_together(page):
    relations.check_data(parameters.check_together(page, {}))


def test_a_notebook_checks_what_goes_together():
    defaults = {key: p.default for key, p in parameters.declared("shallow").items()}
    with pytest.raises(ParameterError, match=r"margin is 0\.0|margin is -0\.1 "):
        parameters.check({**defaults, "margin": -0.1}, "shallow")


@pytest.mark.parametrize("name", ["a{b}", "{width}", "{", "a b", "ä", "-x", "%s"])
def test_a_folder_may_have_any_name(name, clone, monkeypatch):
    seen = []
    monkeypatch.setattr(notebooks, "run", lambda page, values, path: seen.append(path) or path)
    result = invoke("run", "bend", f"--output={name}")
    assert result.exit_code == 0, result.output
    assert seen == [clone / name / "bend.ipynb"]


@pytest.mark.parametrize("name", ["a{b}", "{width}", "{", "}{"])
def test_a_notebook_is_written_where_it_should_be(name, tmp_path, monkeypatch):
    def execute(source, target, **_):  # as papermill reads paths
        Path(target.format()).write_bytes(Path(source.format()).read_bytes())

    monkeypatch.setattr("papermill.execute_notebook", execute)
    output = tmp_path / name / "bend.ipynb"
    assert notebooks.run("bend", {}, output) == output
    assert contents(tmp_path) == [name, f"{name}/bend.ipynb"]


# --- folders that do not take what is written ----------------------------------------------------


@pytest.fixture(params=[errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def full(request, monkeypatch):
    """No file can be made any more, whoever runs the tests."""

    def fail(*_, **__):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(tempfile, "TemporaryFile", fail)
    return os.strerror(request.param)


@pytest.mark.parametrize("words", [(), ("-o", "mine/below"), ("-p", "results=there/below")])
def test_a_folder_that_takes_no_file_is_found_first_and_not_left(words, full, clone):
    before = contents(clone.parent)
    refused(invoke("run", "bend", *words), f"cannot be written to ({full}); give another folder")
    assert contents(clone.parent) == before


def test_a_disk_that_is_full_half_way_is_a_sentence(clone, monkeypatch):
    def run(page, values, path):
        path.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(notebooks, "run", run)
    result = invoke("run", "bend", "-o", "mine")
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 1
    assert "bend.ipynb: No space left on device; what was finished is kept" in result.output
    assert contents(clone / "mine") == ["bend.ipynb"]


@pytest.mark.parametrize("option", ["size=0,nr_inodes=2", "ro"])
def test_a_disk_that_is_really_full_or_read_only(option, clone):
    disk = clone / "disk"
    disk.mkdir()
    options = "size=4k,nr_inodes=1" if option != "ro" else "ro"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("only root mounts a disk")
    try:
        refused(invoke("run", "bend", "-o", "disk/mine"), "cannot be written to (")
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_run_that_stops_before_it_writes_leaves_no_folder(clone, monkeypatch):
    def stop(*words):
        raise KeyboardInterrupt

    monkeypatch.setattr(notebooks, "run", stop)
    before = contents(clone.parent)
    result = invoke("run", "bend")
    assert result.exit_code == 130
    assert "Stopped. Nothing was written." in result.output
    assert contents(clone.parent) == before


# --- names that are HTML -------------------------------------------------------------------------

EVIL = '<img src=x onerror="alert(1)">|`{x}`_*$'


def test_the_words_of_a_table_are_no_html():
    frame = pd.DataFrame({EVIL: [EVIL, 1.5], "plain": [1, 2]}, index=pd.Index([EVIL, 3], name=EVIL))
    both = frame.set_index(frame.index.rename("other"), append=True).T
    for table in (frame, both, frame.iloc[:0], pd.DataFrame(columns=[EVIL])):
        shown = tables.styled(table, EVIL).format(precision=2).to_html()
        assert "<img" not in shown
        assert "&lt;img src=x" in shown
    assert tables.styled(frame[["plain"]]).data["plain"].dtype == frame["plain"].dtype


@pytest.mark.parametrize("page", parameters.names())
def test_a_page_shows_no_table_whose_words_could_be_html(page):
    code = [
        "".join(c["source"]) for c in parameters.read(page)["cells"] if c["cell_type"] == "code"
    ]
    nodes = [node for cell in code for node in ast.walk(ast.parse(cell))]
    styles = [n for n in nodes if isinstance(n, ast.Attribute) and n.attr in ("style", "to_html")]
    assert [ast.unparse(n) for n in styles if ast.unparse(n) != "plotting.style"] == []


@pytest.fixture
def directives(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_ext"))
    return importlib.import_module("directives")


def test_the_cells_of_a_directive_are_no_html(directives):
    markdown = MarkdownIt("commonmark").enable("table")
    for made in (directives.plain(EVIL), directives.code(EVIL), directives.code("a`b``c|")):
        table = f"| a | b |\n|---|---|\n| {made} | end |"
        html = markdown.render(table)
        assert "<img" not in html
        assert html.count("<td") == 2
        assert "<td>end</td>" in html
    shown = re.search(
        "<td>(.*?)</td>", markdown.render(f"| a |\n|---|\n| {directives.plain(EVIL)} |")
    )
    assert unescape(shown[1]) == EVIL


# --- processes -----------------------------------------------------------------------------------

#: Imports take seconds: an interrupt that comes after some of them, from inside.
INTERRUPTED = """
import os, signal, sys, threading
sys.path.insert(0, {root!r})
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Timer({after}, os.kill, (os.getpid(), signal.SIGINT)).start()
from toroid_command import main
sys.argv = ["toroid", "list"]
main()
"""


@pytest.mark.parametrize("after", [0.01, 0.3])
def test_an_interrupt_in_the_first_seconds_is_quiet(after):
    code = INTERRUPTED.format(root=str(ROOT), after=after)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode in (-signal.SIGINT, 130)
    assert done.stderr.strip() in ("", "Stopped.")


def test_the_command_is_the_quiet_one():
    assert (
        '[project.scripts]\ntoroid = "toroid_command:main"' in (ROOT / "pyproject.toml").read_text()
    )


WORKER = """
import importlib.util, multiprocessing, os, sys, time

def work(path, told):
    spec = importlib.util.spec_from_file_location("worker", path)
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    worker.end_with_parent()
    with open(told, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(60)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    context.Process(target=work, args=sys.argv[1:], daemon=True).start()
    time.sleep(60)
"""


def test_a_worker_ends_with_the_process_that_was_killed(tmp_path):
    (tmp_path / "script.py").write_text(WORKER)
    told, worker = tmp_path / "pid", ROOT / "toroid" / "minimizers" / "_worker.py"
    command = [sys.executable, str(tmp_path / "script.py"), str(worker), str(told)]
    with subprocess.Popen(command) as parent:
        _until(lambda: told.exists() and told.read_text())
        parent.kill()
    _until(lambda: not _alive(int(told.read_text())))


def _until(holds, seconds=30.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def _alive(pid):
    """A process that has not ended; one that ended and that nobody has waited for has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_training_watches_over_its_workers(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr("toroid.minimizers._batch.end_with_parent", lambda: called.append(1))
    minimizer = toroid.Minimizer(width=0.02, subset=100, settings={"epochs": 1})
    toroid.train_all([minimizer], toroid.Store(tmp_path), device="cpu", progress=False)
    assert called == [1]
