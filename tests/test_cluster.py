"""A store is filled by a real cluster, although one of its workers is killed."""

import os
import signal
import threading
import time

import joblib
import pytest
import toroid
from dask.distributed import Client, LocalCluster
from networks import gap
from toroid.minimizers import Minimizer, Store, train_all


@pytest.fixture(scope="module")
def cluster():
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as workers,
        Client(workers) as client,
    ):
        yield client


def kill_one(client, folder, killed):
    """Kill a worker in the midst of a training: after some epoch of its first run."""
    pids = [*client.run(os.getpid).values()]
    for _ in range(3000):
        if len(list(folder.glob("unfinished/*.safetensors"))) == 2:
            os.kill(pids[0], signal.SIGKILL)
            killed.append(pids[0])
            return
        time.sleep(0.01)


def test_a_worker_is_killed_and_the_store_is_filled(cluster, tmp_path):
    wanted = [
        Minimizer(architecture="lenet", settings={"epochs": 20, "lr": 0.01}, seed=seed)
        for seed in range(4)
    ]
    cluster.run(lambda: __import__("toroid").__version__)  # both are ready, and train side by side
    killed = []
    killer = threading.Thread(target=kill_one, args=(cluster, tmp_path, killed))
    killer.start()
    with joblib.parallel_config(backend="dask"):
        found = train_all(wanted, Store(tmp_path), device="cpu", progress=False)
    killer.join()
    assert killed
    assert killed[0] not in cluster.run(os.getpid).values()
    assert Store(tmp_path).verify() == {}
    assert list(tmp_path.glob("unfinished/*")) == []
    assert [m.record["description"]["seed"] for m in found] == [0, 1, 2, 3]
    for minimizer, stored in zip(wanted, found, strict=True):
        assert len(stored.record["history"]["epoch"]) == 20
        assert gap(stored.state, minimizer.train(device="cpu").state) < 1e-3  # threads differ


def test_the_key_is_the_same_on_every_worker(cluster):
    minimizer = Minimizer(settings={"epochs": 1})
    keys = cluster.run(lambda m: (m.key, m.json), minimizer)
    assert set(keys.values()) == {(minimizer.key, minimizer.json)}
    assert cluster.run(lambda: __import__("toroid").__version__).popitem()[1] == toroid.__version__
