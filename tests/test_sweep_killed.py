"""A sweep that is killed half way, and one on a cluster of which a worker is killed."""

import os
import signal
import subprocess
import sys
import threading
import time

import joblib
import pytest
from dask.distributed import Client, LocalCluster
from toroid.book import sweeps

#: Three runs of a page, some seconds each, whose tables hold nothing that a clock says.
WORDS = [
    "width=0.05,0.1,0.15", "algorithms=sgd", "epochs=1", "seeds=0,1", "points=3",
    "evaluate_on=100",
]  # fmt: skip

pytestmark = pytest.mark.slow  # minutes: every run starts a kernel


def grid(store):
    return sweeps.grid("connectivity", WORDS, store=str(store))


def command(out, store):
    words = [word for each in (*WORDS, f"store={store}") for word in ("-p", each)]
    return [sys.executable, "-m", "toroid", "sweep", "connectivity", *words, "-o", str(out)]


def finished(out):
    """When each run came to its end, by its folder: its record is written last of all."""
    return {
        path.parent.name: path.stat().st_mtime_ns
        for path in out.glob("*/run.json")
        if sweeps._info(path.parent)
    }


def tables(out):
    """The gathered tables, byte by byte."""
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.csv"))}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The tables of a sweep that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    found = sweeps.sweep(grid(folder / "store"), folder / "out", n_jobs=1, progress=False)
    assert found.failed == {}
    wanted = tables(folder / "out")
    assert {"barriers.csv", "minimizers.csv"} <= wanted.keys()
    assert len(found.tables["minimizers"]) == 3 * 2
    return wanted


def test_a_sweep_killed_half_way_and_gone_on_is_one_that_was_not(whole, tmp_path):
    out, words = tmp_path / "out", command(tmp_path / "out", tmp_path / "store")
    started = subprocess.Popen(
        words, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while started.poll() is None and len(finished(out)) < 1:
        time.sleep(0.05)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    before = finished(out)
    assert 1 <= len(before) < 3
    assert tables(out) == {}
    subprocess.run(words, check=True, capture_output=True)
    assert tables(out) == whole
    assert before.items() <= finished(out).items()  # what was finished was not run again


def kill_one(client, out, killed):
    """Kill a worker in the midst of a page, once a run of the sweep is finished."""
    pids = [*client.run(os.getpid).values()]
    for _ in range(6000):
        if finished(out):
            os.kill(pids[0], signal.SIGKILL)
            killed.append(pids[0])
            return
        time.sleep(0.05)


def test_a_cluster_of_which_a_worker_is_killed_leaves_the_same_tables(whole, tmp_path):
    out, killed = tmp_path / "out", []
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as workers,
        Client(workers) as client,
    ):
        killer = threading.Thread(target=kill_one, args=(client, out, killed))
        killer.start()
        with joblib.parallel_config(backend="dask"):
            found = sweeps.sweep(grid(tmp_path / "store"), out, progress=False)
        killer.join()
        assert killed[0] not in client.run(os.getpid).values()
    assert found.failed == {}
    assert len(finished(out)) == 3
    assert tables(out) == whole
