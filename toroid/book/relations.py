"""What the parameters of a page must be together, and with the data that they name."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .. import _torchvision, data, models

__all__ = ["check_data", "check_together", "expanded", "is_folder"]

#: Pairs of a page's parameters (of a list, its first entry) of which the first is the smaller.
_BELOW = {"binary": [("cold", "hot")], "shallow": [("margin", "robust")]}


def check_together(page: str, values: Mapping[str, Any]) -> None:
    """Relations between the parameters of a page; no data is read.

    Args:
        page: Notebook.
        values: All its parameters.

    Raises:
        ValueError: If one does not hold.

    Example:
        >>> check_together("binary", {"cold": 0.1, "hot": 1.0})
    """
    for low, high in _BELOW.get(page, []):
        first, second = values[low], values[high]
        second = second[0] if isinstance(second, list) else second
        if not first < second:
            raise ValueError(
                f"{low} is {first} and {high} is {values[high]}; {low} must be below {high}"
            )
    if page == "classifiers" and values["names"] != ["all"]:
        _check_classifiers(values["names"])


def _check_classifiers(names: list[str]) -> None:
    module = _torchvision.load().models
    known = module.list_models(module=module)
    if wrong := [name for name in names if name not in known]:
        raise ValueError(
            f"names has {wrong[0]!r}; it can be 'all' alone, or torchvision's classifiers: "
            f"{', '.join(known)}"
        )


def expanded(text: str) -> Path:
    """A folder as the caller means it: from the home folder, or from the working folder.

    Args:
        text: As it was typed.

    Raises:
        ValueError: If it begins with the home folder of somebody unknown.
    """
    try:
        return Path(text).expanduser().resolve()
    except RuntimeError as error:
        raise ValueError(f"{text!r} is in no known home folder; write the path out") from error


def is_folder(dataset: str) -> bool:
    """Whether a data set is a folder of images, not one of those with a name.

    Args:
        dataset: As it was typed.
    """
    return dataset not in data.DATASETS and expanded(dataset).is_dir()


def check_data(values: Mapping[str, Any]) -> None:
    """The data set of a run is there, is large enough, and fits its networks.

    Every network is built without memory and sees the shape of one batch.

    Args:
        values: All parameters of a page; one without a ``dataset`` has nothing to check.

    Raises:
        FileNotFoundError: If the data is not there; says how to get it.
        ValueError: If it cannot be read, the subset is larger, or a network cannot take it.

    Example:
        >>> check_data({"dataset": "digits", "subset": 100, "arch": "mlp"})
    """
    if not (name := values.get("dataset")):
        return
    folder = is_folder(name)
    if not folder and name not in data.DATASETS:
        raise ValueError(
            f"dataset is {name!r}; it can be {', '.join(data.DATASETS)}, or a folder of images"
        )
    known = _known(str(expanded(name)) if folder else name, os.environ.get("TOROID_DATA"))
    subset = max([values.get("subset") or known.images, *values.get("subsets", [])])
    if subset > known.images:
        raise ValueError(f"subset is {subset}; {name!r} has {known.images} training images")
    several = {"arch": "mlp", "width": 1.0, "batch_size": 128}  # flatness takes lists of them
    archs, widths, batches = (
        values.get(f"{key}s") or [values.get(key, usual)] for key, usual in several.items()
    )
    for arch, width, batch in product(archs, widths, batches):
        _check_fit(name, known, arch, width, min(batch, subset))


class _Known(NamedTuple):
    """What a network must fit."""

    shape: tuple[int, ...]
    classes: int
    images: int
    binary: bool


@cache
def _known(name: str, root: str | None) -> _Known:
    train, _ = data.load(name, root=root)
    return _Known(train.shape, train.classes, len(train), train.binary)


def _check_fit(name: str, train: _Known, arch: str, width: float, batch: int) -> None:
    """One network and one batch of its training, without a number computed."""
    if arch.startswith("binary") and not train.binary:
        binary = ", ".join([*data.PATTERNS, *data.THRESHOLDED])
        raise ValueError(f"dataset is {name!r}, whose numbers are not ±1; {arch} takes {binary}")
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of layers without a weight: the batch fails in them
            network = models.build(arch, train.shape, train.classes, width)
            network(torch.empty(batch, *train.shape))
    except (RuntimeError, ValueError, ArithmeticError) as error:
        shape = " x ".join(map(str, train.shape))
        raise ValueError(
            f"{arch} of width {width:g} cannot be trained on batches of {batch} from {name!r} "
            f"(images of {shape}, {train.classes} classes): {str(error).splitlines()[0]}"
        ) from error
