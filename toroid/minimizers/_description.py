"""A described minimizer, and its training."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from .. import data, models, training
from .._random import Drawing, redraw
from .._state import check_choice, check_whole, digest
from ..evaluation import evaluate


@dataclass(frozen=True)
class Stored:
    """A trained network and what is known of its training.

    Attributes:
        state: State dict, on the CPU.
        record: Description, errors and losses, the algorithm's report (``"failed"`` says why this
            is not what was asked for, or is empty), history, seconds (of the last start, if it was
            cut off before; a share of them if several were trained as one), a digest of the
            training images and one of the test images, device, threads (other numbers of them round
            otherwise), torch's default precision (on which nothing depends), how precisely products
            are taken, versions.
    """

    state: dict[str, Tensor]
    record: dict[str, Any]


#: The algorithms by name.
ALGORITHMS: dict[str, Callable[..., training.Trained]] = {
    "sgd": training.sgd, "replicated_sgd": training.replicated_sgd,
    "adversarial": training.adversarial, "sam": training.sam, "swa": training.swa,
    "entropy_sgd": training.entropy_sgd,
}  # fmt: skip


def canonical(description: Mapping[str, Any]) -> str:
    """A description as JSON in one way only: sorted, without spaces."""
    return json.dumps(description, sort_keys=True, separators=(",", ":"))


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
        folder = self.dataset and Path(self.dataset).is_dir()
        if Path(self.dataset).name == self.dataset and not folder:
            check_choice("dataset", self.dataset, data.DATASETS)
        if not 0 < self.width < math.inf:
            raise ValueError(f"width is {self.width}; it must be positive")
        subset = self.subset if self.subset is None else check_whole("subset", self.subset, 1)
        if not 0 <= (seed := check_whole("seed", self.seed)) < 2**32:
            raise ValueError(
                f"seed is {seed}; it must be from 0 to {2**32 - 1}: torch draws the same numbers "
                f"from it as from {seed % 2**32}"
            )
        for name, value in (
            ("settings", _complete(self.algorithm, self.settings)), ("width", float(self.width)),
            ("subset", subset), ("seed", seed),
        ):  # fmt: skip
            object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        """Settings that cannot be changed cannot be pickled; other processes get a dict."""
        fields = {**vars(self), "settings": dict(self.settings)}
        return Minimizer, tuple(fields.values())

    @property
    def json(self) -> str:
        """The description as canonical JSON: sorted, without spaces, every setting written out.

        But for what came later and changes nothing (no warm-up, PyTorch's own fresh weights): keys
        stay what they were.
        """
        settings = training.SETTINGS[self.algorithm](**self.settings)
        fields = {**vars(self), "settings": settings.described()}
        if self.architecture in models.INITIALIZATIONS:
            fields["initialization"] = models.INITIALIZATIONS[self.architecture]
        return canonical(fields)

    @property
    def key(self) -> str:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.json.encode()).hexdigest()

    def load(self) -> tuple[data.Dataset, data.Dataset]:
        """Training and test data."""
        return data.load(self.dataset, subset=self.subset)

    def model(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """The network with the weights that the training starts from."""
        with Drawing(torch.Generator()):  # what a layer draws as it is made does not count
            network = models.build(self.architecture, shape, classes, self.width)
        network = network.to(torch.float32)  # whatever torch's default is
        redraw(network, torch.Generator().manual_seed(self.seed))
        return network

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
        (stored,) = train_together([self], device, progress, checkpoint)
        return stored


def train_together(
    minimizers: Sequence[Minimizer],
    device: str | None,
    progress: bool,
    checkpoint: training.Checkpoint | None,
) -> list[Stored]:
    """Train one, or several of plain SGD that differ in nothing but the seed as one network."""
    device, first = device or best_device(), minimizers[0]
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
        **digests_of(parts["train"], parts["test"]),
        "device": _device(parts["train"].images.device.type),
        "threads": torch.get_num_threads(), "default_dtype": str(torch.get_default_dtype()),
        "products": torch.get_float32_matmul_precision(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "report": trained.report, "history": trained.history.to_dict("list"),
    }  # fmt: skip


def digests_of(train: data.Dataset, test: data.Dataset) -> dict[str, str]:
    """What tells the images and labels of both parts from others."""
    parts = {"images": train, "test images": test}
    return {k: digest({"images": x.images, "labels": x.labels}) for k, x in parts.items()}


def _complete(algorithm: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Every setting of an algorithm, in its declared type."""
    try:
        return MappingProxyType(vars(training.SETTINGS[algorithm].of(**settings)))
    except TypeError as error:  # a description is a value: what is wrong with it is a ValueError
        raise ValueError(str(error)) from None


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
        taken = training.SETTINGS[algorithm].own()
        shared = {k: v for k, v in settings.items() if k not in taken}
        for seed in seeds:
            chosen = {**shared, **own.get(algorithm, {})}
            found[algorithm, seed] = Minimizer(
                algorithm=algorithm, settings=chosen, seed=seed, **network
            )
    return found


def best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _device(name: str) -> str:
    return torch.cuda.get_device_name() if name.startswith("cuda") else f"{platform.machine()} CPU"
