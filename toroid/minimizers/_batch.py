"""Many minimizers at once, on one machine or a cluster."""

from __future__ import annotations

import hashlib
import os
import socket
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import joblib
import torch
from tqdm.auto import tqdm

from .. import data, training
from .._files import DamagedError
from ._description import Minimizer, Stored, best_device, digests_of, train_together
from ._store import Store
from ._worker import end_with_parent


def train_all(
    minimizers: Iterable[Minimizer],
    store: Store | None = None,
    *,
    n_jobs: int | None = None,
    device: str | None = None,
    together: bool | None = None,
    progress: bool = True,
) -> list[Stored]:
    """Every minimizer, from the store or trained and put there.

    What is missing is trained by joblib: in `n_jobs` processes, or by the backend that the caller
    has chosen with ``joblib.parallel_config``, on a cluster say, with the store on a file system
    that all share. A damaged minimizer is set aside and trained again. Epochs are saved in
    ``unfinished/``, and a run that was killed goes on from there; its processes end with it.

    Args:
        minimizers: Descriptions.
        store: Where to look and to write; by default ``Store()``.
        n_jobs: How many to train at once; -1 for one on each core; by default what
            ``joblib.parallel_config`` says, else one.
        device: Where to train; by default on a GPU if there is one.
        together: Train those of plain SGD that differ in nothing but the seed as one network of
            stacked tensors, with the same results within rounding; by default on a GPU, where that
            is faster (benchmarks/training.py).
        progress: Show a progress bar.

    Returns:
        One `Stored` for each description, in their order.

    Raises:
        ValueError: If a folder of images has others now than those that a minimizer of the store
            was trained on.

    Warns:
        UserWarning: If a damaged minimizer was set aside.

    Example:
        >>> import tempfile
        >>> seeds = [Minimizer(width=0.02, settings={"epochs": 1}, seed=seed) for seed in (0, 1)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     len(train_all(seeds, Store(folder), progress=False))
        2
    """
    store, minimizers = store or Store(), list(minimizers)
    missing = {m.key: m for m in minimizers if not _sound(store, m)}
    _check_images(store, [m for m in minimizers if m.key not in missing])
    inside = (
        progress and joblib.effective_n_jobs(n_jobs) == 1
    )  # bars of several processes would overwrite each other
    if together is None:
        together = (device or best_device()).startswith("cuda")
    teams = _teams(missing.values()) if together else [[m] for m in missing.values()]
    here = _Here.now()
    jobs = (joblib.delayed(_train)(team, store.folder, device, inside, here) for team in teams)
    done = joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered")(jobs)
    with tqdm(total=len(missing), desc="minimizers", disable=not progress, leave=False) as bar:
        for count in done:
            bar.update(count)
    return [store.get(minimizer) for minimizer in minimizers]


def _sound(store: Store, minimizer: Minimizer) -> bool:
    """Whether a minimizer can be read; a damaged one is set aside."""
    if minimizer not in store:
        return False
    try:
        store.get(minimizer)
    except DamagedError as error:
        store.set_aside(minimizer.key)
        warnings.warn(f"{error}; it was set aside and is trained again", stacklevel=3)
        return False
    return True


def _check_images(store: Store, minimizers: Iterable[Minimizer]) -> None:
    """The images that are here are those that their minimizers were trained and tested on."""
    now: dict[tuple[str, int | None], dict[str, str]] = {}
    for minimizer in minimizers:
        place = minimizer.dataset, minimizer.subset
        folder = data.class_folders(minimizer.dataset)
        if not folder or not (folder / "train").is_dir():
            continue
        if place not in now:
            now[place] = digests_of(*minimizer.load())
        record = store.get(minimizer).record
        if any(record.get(part, here) != here for part, here in now[place].items()):
            raise ValueError(
                f"minimizer {minimizer.key[:12]} of {store.folder} was trained or tested on other "
                f"images of {minimizer.dataset} than are there now. Give the changed folder "
                f"another name, or remove the files {minimizer.key[:12]}... from the store, to "
                "train it again"
            )


def _teams(minimizers: Iterable[Minimizer]) -> list[list[Minimizer]]:
    """Those that can be trained as one network, each of the others alone."""
    teams: dict[str, list[Minimizer]] = {}
    for minimizer in minimizers:
        alone = minimizer.algorithm != "sgd"
        key = minimizer.key if alone else replace(minimizer, seed=0).key
        teams.setdefault(key, []).append(minimizer)
    return list(teams.values())


class _Here(NamedTuple):
    """Where names of data are looked up, and how torch multiplies: workers may be of before."""

    host: str
    process: int
    folder: Path
    data: str | None
    precision: str  # of products

    @classmethod
    def now(cls) -> _Here:
        """Of this process."""
        precision, folder = torch.get_float32_matmul_precision(), os.environ.get("TOROID_DATA")
        return cls(socket.gethostname(), os.getpid(), Path.cwd(), folder, precision)

    def come(self) -> None:
        """Another process of this host looks where this one did."""
        if socket.gethostname() != self.host or os.getpid() == self.process:
            return
        torch.set_float32_matmul_precision(self.precision)
        os.chdir(self.folder)
        os.environ.pop("TOROID_DATA", None)
        if self.data is not None:
            os.environ["TOROID_DATA"] = self.data


def _train(
    team: Sequence[Minimizer], folder: Path, device: str | None, progress: bool, here: _Here
) -> int:
    """Train those that no other process has trained meanwhile; how many were asked for."""
    end_with_parent()
    here.come()
    store = Store(folder)
    if missing := [minimizer for minimizer in team if minimizer not in store]:
        keys = "".join(m.key for m in missing)
        name = keys if len(missing) == 1 else hashlib.sha256(keys.encode()).hexdigest()
        path = folder / "unfinished" / f"{name}.safetensors"
        checkpoint = training.Checkpoint(path, every=1.0)
        for minimizer, stored in zip(
            missing, train_together(missing, device, progress, checkpoint), strict=True
        ):
            store.put(minimizer, stored)
        checkpoint.remove()
    return len(team)
