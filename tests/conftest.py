"""Every test runs on its own store and data folder, on one thread, with repeatable examples."""

import pytest
import torch
from hypothesis import settings

# programs of a test's own process: importing them changes torch
collect_ignore = ["device_steps.py", "elsewhere.py"]

settings.register_profile("book", max_examples=8, deadline=None, derandomize=True)
settings.load_profile("book")


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("TOROID_STORE", str(tmp_path / "minimizers"))
    monkeypatch.setenv("TOROID_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MPLBACKEND", "agg")


@pytest.fixture(scope="session", autouse=True)
def _threads():
    torch.set_num_threads(1)  # tensors are small: a second thread would mostly wait
