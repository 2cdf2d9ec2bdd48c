"""A described, trained and stored minimizer; many of them at once.

A `Minimizer` says all that its weights depend on. Its key is the SHA-256 of that description, so
that the store never has to ask whether a file is the right one.
"""

from __future__ import annotations

import builtins
import hashlib
import inspect
import json
import math
import os
import platform
import re
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import joblib
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from . import data, models, training
from ._checks import check_choice, check_whole
from .landscape import evaluate

__all__ = ["Minimizer", "Store", "Stored", "grid", "train_all"]

#: The algorithms by name.
ALGORITHMS: dict[str, Callable[..., training.Trained]] = {
    "sgd": training.sgd, "replicated_sgd": training.replicated_sgd,
    "adversarial": training.adversarial, "sam": training.sam, "swa": training.swa,
    "entropy_sgd": training.entropy_sgd,
}  # fmt: skip

#: Settings that came later, with the value that changes nothing.
_NEUTRAL = {("warmup", 0)}
#: Arguments of a training that are not part of a description, or are given by it.
_NOT_SETTINGS = {"model", "train", "generator", "progress", "checkpoint", "settings"}


@dataclass(frozen=True)
class Minimizer:
    """What a trained network depends on, and nothing else.

    Args:
        dataset: As `toroid.data.load` takes it; a folder that is given as a path need not be here.
        architecture: A key of `toroid.models.ARCHITECTURES`.
        width: Factor on the hidden sizes.
        algorithm: A key of `ALGORITHMS`: ``"sgd"``, ``"replicated_sgd"``, ``"adversarial"``,
            ``"sam"``, ``"swa"``, ``"entropy_sgd"``.
        settings: Arguments of the algorithm, e.g. ``{"epochs": 30, "lr": 0.1}``; the others take
            the algorithm's defaults, which are written out, so that a changed default changes the
            key.
        subset: Number of training images, None for all.
        seed: Draws the first weights, the order of the images, and the augmentation.

    Raises:
        ValueError: If a name is unknown (names the valid ones), or a number is of another kind or
            out of range.

    Example:
        >>> minimizer = Minimizer(architecture="mlp", width=0.1, settings={"epochs": 2}, seed=3)
        >>> minimizer.settings["lr"], len(minimizer.key)
        (0.1, 64)
    """

    dataset: str = "digits"
    architecture: str = "mlp"
    width: float = 1.0
    algorithm: str = "sgd"
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    subset: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("architecture", self.architecture, tuple(models.ARCHITECTURES))
        check_choice("algorithm", self.algorithm, tuple(ALGORITHMS))
        if Path(self.dataset).name == self.dataset and not Path(self.dataset).is_dir():
            check_choice("dataset", self.dataset, data.DATASETS)
        if not 0 < self.width < math.inf:
            raise ValueError(f"width is {self.width}; it must be positive")
        subset = self.subset if self.subset is None else check_whole("subset", self.subset, 1)
        for name, value in (
            ("settings", _complete(self.algorithm, self.settings)), ("width", float(self.width)),
            ("subset", subset), ("seed", check_whole("seed", self.seed)),
        ):  # fmt: skip
            object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple:
        """Settings that cannot be changed cannot be pickled; other processes get a dict."""
        fields = {**vars(self), "settings": dict(self.settings)}
        return Minimizer, tuple(fields.values())

    @property
    def json(self) -> str:
        """The description as canonical JSON: sorted, without spaces, every setting written out.

        But for what came later and changes nothing (no warm-up, PyTorch's own fresh weights): keys
        stay what they were.
        """
        settings = {k: v for k, v in self.settings.items() if (k, v) not in _NEUTRAL}
        fields = {**vars(self), "settings": settings}
        if self.architecture in models.INITIALIZATIONS:
            fields["initialization"] = models.INITIALIZATIONS[self.architecture]
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))

    @property
    def key(self) -> str:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.json.encode()).hexdigest()

    def load(self) -> tuple[data.Dataset, data.Dataset]:
        """Training and test data."""
        return data.load(self.dataset, subset=self.subset)

    def model(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """The network with the weights that the training starts from."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return models.build(self.architecture, shape, classes, self.width)

    def train(
        self,
        *,
        device: str | None = None,
        progress: bool = False,
        checkpoint: training.Checkpoint | None = None,
    ) -> Stored:
        """Train it.

        Args:
            device: Where; by default on a GPU if there is one.
            progress: Show a progress bar over the epochs.
            checkpoint: Where to save each epoch, and to go on from.

        Returns:
            The state (on the CPU) and the record of the run.
        """
        (stored,) = _trained([self], device, progress, checkpoint)
        return stored


def _trained(
    minimizers: Sequence[Minimizer],
    device: str | None,
    progress: bool,
    checkpoint: training.Checkpoint | None,
) -> list[Stored]:
    """Train one, or several of plain SGD that differ in nothing but the seed as one network."""
    device, first = device or _best_device(), minimizers[0]
    train, test = (part.to(device) for part in first.load())
    models = [m.model(train.shape, train.classes) for m in minimizers]
    generators = [torch.Generator().manual_seed(m.seed) for m in minimizers]
    options = {**first.settings, "progress": progress, "checkpoint": checkpoint}
    start = time.perf_counter()
    if len(models) > 1:
        found = training.sgd_many(models, train, generators=generators, stacked=True, **options)
    else:
        algorithm = ALGORITHMS[first.algorithm]
        found = [algorithm(models[0], train, generator=generators[0], **options)]
    seconds = (time.perf_counter() - start) / len(models)
    parts = {"train": train, "test": test}
    return [
        Stored({k: v.cpu() for k, v in t.state.items()}, _record(m, t, model, parts, seconds))
        for m, t, model in zip(minimizers, found, models, strict=True)
    ]


def _record(
    minimizer: Minimizer,
    trained: training.Trained,
    model: nn.Module,
    parts: Mapping[str, data.Dataset],
    seconds: float,
) -> dict[str, Any]:
    """What is kept beside the weights."""
    scores = {
        f"{name}_{key}": value
        for name, part in parts.items()
        for key, value in evaluate(trained.state, model, part)._asdict().items()
    }
    return {
        "description": json.loads(minimizer.json), **scores, "seconds": round(seconds, 3),
        "device": _device(parts["train"].images.device.type),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "report": trained.report, "history": trained.history.to_dict("list"),
    }  # fmt: skip


def _complete(algorithm: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Every setting of an algorithm, in its declared type."""
    own = inspect.signature(ALGORITHMS[algorithm]).parameters
    shared = inspect.signature(training.Settings).parameters
    parameters = {**shared, **own}
    known = {name: p.default for name, p in parameters.items() if name not in _NOT_SETTINGS}
    if unknown := sorted(settings.keys() - known.keys()):
        raise ValueError(
            f"{algorithm} has no setting {', '.join(unknown)}; it has {', '.join(known)}"
        )
    complete = {**known, **settings}
    if missing := sorted(name for name, v in complete.items() if v is inspect.Parameter.empty):
        raise ValueError(f"{algorithm} needs the setting {', '.join(missing)}")
    kinds = {name: str(parameters[name].annotation) for name in complete}
    complete = {k: _typed(k, kinds[k], v) for k, v in complete.items()}
    training.Settings(**{k: v for k, v in complete.items() if k in shared})  # its own checks
    return MappingProxyType(complete)


def grid(
    algorithms: Iterable[str],
    seeds: Iterable[int],
    settings: Mapping[str, Any],
    own: Mapping[str, Mapping[str, Any]] | None = None,
    **network: Any,
) -> dict[tuple[str, int], Minimizer]:
    """A description for each algorithm and seed, which otherwise are alike.

    Args:
        algorithms: Names.
        seeds: Numbers.
        settings: For all algorithms. One for which an algorithm has a default of its own, as
            `adversarial` for all that regularises, does not reach it from here.
        own: Settings of single algorithms, which need not be among `algorithms`.
        **network: The other fields of `Minimizer`.

    Returns:
        By algorithm and seed.

    Raises:
        ValueError: As `Minimizer`.

    Example:
        >>> found = grid(["sgd", "adversarial"], [0, 1], {"epochs": 2, "weight_decay": 0.1})
        >>> len(found), found["adversarial", 0].settings["weight_decay"]
        (4, 0.0)
    """
    algorithms, seeds, own, found = list(algorithms), list(seeds), own or {}, {}
    for algorithm in (*algorithms, *own):
        check_choice("algorithm", algorithm, tuple(ALGORITHMS))
    for algorithm in algorithms:
        taken = inspect.signature(ALGORITHMS[algorithm]).parameters
        shared = {k: v for k, v in settings.items() if k not in taken}
        for seed in seeds:
            chosen = {**shared, **own.get(algorithm, {})}
            found[algorithm, seed] = Minimizer(
                algorithm=algorithm, settings=chosen, seed=seed, **network
            )
    return found


def _typed(name: str, kind: str, value: Any) -> Any:
    """A setting in its declared type: 1 and 1.0 are one description."""
    if kind == "float" and type(value) is int:
        value = float(value)
    if kind == "int" and type(value) is float and value.is_integer():
        value = int(value)
    if type(value).__name__ != kind:
        raise ValueError(f"{name} takes {kind}, got {value!r} ({type(value).__name__})")
    return value


def _best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _device(name: str) -> str:
    return torch.cuda.get_device_name() if name.startswith("cuda") else f"{platform.machine()} CPU"


#: Names of sidecars, and what is in each.
_KEY = re.compile("[0-9a-f]{64}")
_WRITTEN = {
    "sha256", "description", "train_error", "test_error", "seconds", "device", "report",
}  # fmt: skip


class DamagedError(ValueError):
    """A file of the store is not the one that was written."""


@dataclass(frozen=True)
class Stored:
    """A trained network and what is known of its training.

    Attributes:
        state: State dict, on the CPU.
        record: Description, errors and losses, the algorithm's report (``"failed"`` says why this
            is not what was asked for, or is empty), history, seconds (of the last
            start, if it was cut off before; a share of them if several were trained as one),
            device, versions.
    """

    state: dict[str, Tensor]
    record: dict[str, Any]


class Store:
    """Minimizers in a folder: ``<key>.<digest>.safetensors`` and ``<key>.json`` for each.

    Files are written under a temporary name and renamed, the JSON, which names the digest, last: a
    reader never sees half of one, a killed run loses nothing that was finished, and two
    writers do no harm.

    Args:
        folder: By default ``$TOROID_STORE``, else ``~/.cache/toroid/minimizers``.

    Example:
        >>> import tempfile
        >>> minimizer = Minimizer(architecture="mlp", width=0.02, settings={"epochs": 1})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = Store(folder)
        ...     store.put(minimizer, minimizer.train())
        ...     minimizer in store, len(store.list())
        (True, 1)
    """

    def __init__(self, folder: str | os.PathLike | None = None) -> None:
        """Name the folder; it is made when something is put."""
        default = os.environ.get("TOROID_STORE") or Path.home() / ".cache" / "toroid" / "minimizers"
        self.folder = Path(folder or default).expanduser()

    def __contains__(self, minimizer: Minimizer) -> bool:
        """Whether it has been trained."""
        return self._sidecar(minimizer).exists()

    def _sidecar(self, minimizer: Minimizer) -> Path:
        return self.folder / f"{minimizer.key}.json"

    def _weights(self, key: str, digest: str) -> Path:
        return self.folder / f"{key}.{digest[:16]}.safetensors"

    def _sidecars(self) -> builtins.list[Path]:
        """Those that are there; another's JSON has no key for a name."""
        return [p for p in sorted(self.folder.glob("*.json")) if _KEY.fullmatch(p.stem)]

    def _record(self, path: Path) -> dict[str, Any]:
        """What a sidecar holds; a `DamagedError` if it is not one that was written."""
        with suppress(ValueError):  # not JSON, or not text
            record = json.loads(path.read_text())
            if isinstance(record, dict) and record.keys() >= _WRITTEN:
                return record
        raise DamagedError(
            f"{path} is damaged: it is not what was written. Store.prune() sets it aside, so that "
            "it is trained again"
        )

    def get(self, minimizer: Minimizer) -> Stored:
        """Read a minimizer.

        Raises:
            KeyError: If it is not there.
            DamagedError: If a file of it is not the one that was written.
        """
        if minimizer not in self:
            raise KeyError(f"{minimizer.key} is not in {self.folder}: {minimizer.json}")
        record = self._record(self._sidecar(minimizer))
        path = self._weights(minimizer.key, record["sha256"])
        if not path.exists() or _digest(path) != record["sha256"]:
            raise DamagedError(
                f"{path} is damaged: its SHA-256 is not the recorded one. Store.prune() sets it "
                "aside, so that it is trained again"
            )
        return Stored(load_file(path), record)

    def put(self, minimizer: Minimizer, stored: Stored) -> None:
        """Write a minimizer; of two that are written, the last one counts."""
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f"{minimizer.key}.{platform.node()}-{os.getpid()}.part"
        save_file({k: v.contiguous() for k, v in stored.state.items()}, part)
        record = {**stored.record, "sha256": _digest(part)}
        part.replace(self._weights(minimizer.key, record["sha256"]))
        part.write_text(json.dumps(record))
        part.replace(self._sidecar(minimizer))

    def list(self) -> pd.DataFrame:
        """One row for each minimizer: key, description, errors, what failed, seconds, device.

        Warns:
            UserWarning: If one is damaged; it has no row.
        """
        rows = []
        for path in self._sidecars():
            try:
                record = self._record(path)
            except DamagedError as error:
                warnings.warn(str(error), stacklevel=2)
                continue
            scores = {k: record[k] for k in ("train_error", "test_error", "seconds", "device")}
            failed = record["report"]["failed"]
            rows.append({"key": path.stem, **record["description"], **scores, "failed": failed})
        return pd.DataFrame(rows)

    def verify(self) -> dict[str, str]:
        """What is wrong with the files, by the key of the minimizer; empty if all is well."""
        wrong = {}
        for path in self._sidecars():
            try:
                digest = self._record(path)["sha256"]
                weights = self._weights(path.stem, digest)
                if _digest(weights) != digest:
                    wrong[path.stem] = f"{weights.name} is not the file that was written"
            except FileNotFoundError as error:
                wrong[path.stem] = f"{error.filename} is missing"
            except DamagedError:
                wrong[path.stem] = f"{path.name} cannot be read"
        return wrong

    def set_aside(self, key: str) -> builtins.list[Path]:
        """Move a minimizer's files into ``damaged/``, so that it is trained again."""
        folder = self.folder / "damaged"
        folder.mkdir(exist_ok=True)
        found = [p for p in self.folder.glob(f"{key}.*") if p.suffix in (".json", ".safetensors")]
        return [path.replace(folder / path.name) for path in found]

    def prune(self) -> builtins.list[Path]:
        """Set damaged minimizers aside, and delete what no minimizer names.

        Files of the last day are not deleted: another process may be about to name them.

        Returns:
            The files that were moved, where they are now, and those that were deleted.
        """
        moved = [path for key in self.verify() for path in self.set_aside(key)]
        named = {self._record(path)["sha256"][:16] for path in self._sidecars()}
        loose = [
            path
            for path in self.folder.glob("*.*")
            if (path.suffix == ".safetensors" and path.stem.rpartition(".")[2] not in named)
            or path.suffix == ".part"
        ]
        old = [path for path in loose if path.stat().st_mtime < time.time() - 86400]
        for path in old:
            path.unlink()
        return [*moved, *old]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
    that all share. A damaged minimizer is set aside and trained again. Each epoch is saved in
    ``unfinished/``, and a run that was killed goes on from there.

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
    inside = (
        progress and joblib.effective_n_jobs(n_jobs) == 1
    )  # bars of several processes would overwrite each other
    if together is None:
        together = (device or _best_device()).startswith("cuda")
    teams = _teams(missing.values()) if together else [[m] for m in missing.values()]
    jobs = (joblib.delayed(_train)(team, store.folder, device, inside) for team in teams)
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


def _teams(minimizers: Iterable[Minimizer]) -> list[list[Minimizer]]:
    """Those that can be trained as one network, each of the others alone."""
    teams: dict[str, list[Minimizer]] = {}
    for minimizer in minimizers:
        alone = minimizer.algorithm != "sgd"
        key = minimizer.key if alone else replace(minimizer, seed=0).key
        teams.setdefault(key, []).append(minimizer)
    return list(teams.values())


def _train(team: Sequence[Minimizer], folder: Path, device: str | None, progress: bool) -> int:
    """Train those that no other process has trained meanwhile; how many were asked for."""
    store = Store(folder)
    if missing := [minimizer for minimizer in team if minimizer not in store]:
        keys = "".join(m.key for m in missing)
        name = keys if len(missing) == 1 else hashlib.sha256(keys.encode()).hexdigest()
        checkpoint = training.Checkpoint(folder / "unfinished" / f"{name}.safetensors")
        for minimizer, stored in zip(
            missing, _trained(missing, device, progress, checkpoint), strict=True
        ):
            store.put(minimizer, stored)
        checkpoint.remove()
    return len(team)
