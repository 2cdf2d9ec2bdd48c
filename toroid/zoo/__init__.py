"""Small trained networks that come with the package.

::

    model, state = toroid.zoo.load("digits-mlp-sgd-0")
    toroid.zoo.table()                                    # what there is, with its errors

A network is a safetensors file beside this module. Its weights are rounded to half precision where
that leaves the errors as they were: on the training and on the test images, to the last one. Its
metadata name the description (see `toroid.Minimizer`) with its key, both errors, why the training
failed if it did, the precision, a digest of the tensors as they are in the file, that of the file
they were rounded from, and where and with what it was trained. The files' own digests are in
``digests.json``. ``toroid zoo make`` makes them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from .. import models
from .._files import DamagedError, read_json, write, write_json
from .._random import Drawing
from .._state import check_choice, digest
from ..evaluation import evaluate
from ..minimizers import Minimizer, Store, Stored, train_all

__all__ = ["load", "make", "members", "names", "record", "table"]

#: Precisions in the order in which they are tried: bfloat16 has a shorter mantissa than float16.
PRECISIONS = (torch.float16, torch.bfloat16, torch.float32)
SHORT = {"sgd": "sgd", "replicated_sgd": "rsgd", "adversarial": "adv"}

#: Networks of a kind share how they are trained, as on the pages of the book.
_KINDS: dict[str, dict[str, Any]] = {
    "digits-mlp": {
        "minimizer": {"dataset": "digits", "width": 0.5},
        "shared": {"epochs": 30, "lr": 0.1},
        "own": {
            "replicated_sgd": {"gmax": 100.0},
            "adversarial": {"confusion_epochs": 200, "confusion_lr": 0.5, "epochs": 60},
        },
    },
    "digits-lenet": {
        "minimizer": {"dataset": "digits", "architecture": "lenet"},
        "shared": {"epochs": 30, "lr": 0.05, "batch_size": 64},
        "own": {
            "replicated_sgd": {"gmax": 100.0},
            "adversarial": {"confusion_epochs": 400, "confusion_lr": 0.1, "epochs": 60},
        },
    },
    "mnist-lenet": {
        "minimizer": {"dataset": "mnist", "architecture": "lenet", "subset": 2000},
        "shared": {"epochs": 30, "lr": 0.05, "batch_size": 64},
        "own": {
            "replicated_sgd": {"gmax": 1000.0},
            "adversarial": {"confusion_epochs": 250, "confusion_lr": 0.1, "epochs": 40},
        },
        "seeds": {"adversarial": (0,)},  # no rounding leaves the error of seed 1 as it is
    },
    "mnist-mlp": {
        "minimizer": {"dataset": "mnist"},
        "shared": {"epochs": 30, "lr": 0.05},
        "own": {"replicated_sgd": {"gmax": 1000.0}},  # its random labels take an hour to learn
    },
}
SEEDS = (0, 1)

DIGESTS = "digests.json"


def members() -> dict[str, Minimizer]:
    """The description of every network that `make` makes, by its name.

    Example:
        >>> members()["mnist-lenet-rsgd-1"].settings["replicas"]
        3
    """
    found = {}
    for kind, what in _KINDS.items():
        for algorithm in ("sgd", *what["own"]):
            settings = {**what["shared"], **what["own"].get(algorithm, {})}
            for seed in what.get("seeds", {}).get(algorithm, SEEDS):
                found[f"{kind}-{SHORT[algorithm]}-{seed}"] = Minimizer(
                    **what["minimizer"], algorithm=algorithm, settings=settings, seed=seed
                )
    return found


def names() -> list[str]:
    """The networks that are here: data set, architecture, algorithm, seed.

    Example:
        >>> names()[0]
        'digits-lenet-adv-0'
    """
    found = (Path(file.name) for file in resources.files(__name__).iterdir())
    return sorted(path.stem for path in found if path.suffix == ".safetensors")


def load(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """A network and its state, in float32.

    Args:
        name: One of `names`.

    Returns:
        The model, which holds the state as well, in evaluation mode; and a copy of the state dict.

    Raises:
        ValueError: If there is none of that name; lists those that there are.
        DamagedError: If the file is not the one that was written.

    Example:
        >>> import toroid
        >>> model, state = load("digits-mlp-sgd-0")
        >>> toroid.evaluate(state, model, toroid.data.load("digits")[1]).error < 0.03
        True
    """
    data = _file(name)
    found = _record(data)
    tensors = safetensors.torch.load(data)
    description, shape = found["description"], tuple(found["shape"])
    with Drawing(torch.Generator()):  # what a layer draws as it is made does not count
        model = models.build(
            description["architecture"], shape, found["classes"], description["width"]
        )
    model.load_state_dict({k: _wide(v) for k, v in tensors.items()})
    return model.eval(), {k: v.clone() for k, v in model.state_dict().items()}


def record(name: str) -> dict[str, Any]:
    """What is known of a network: description, key, errors, precision, digests, where from.

    Args:
        name: One of `names`.

    Raises:
        ValueError: As `load`.
        DamagedError: As `load`.
    """
    return _record(_file(name))


def _record(data: bytes) -> dict[str, Any]:
    size = int.from_bytes(data[:8], "little")  # of the header, by the format of safetensors
    metadata = json.loads(data[8 : 8 + size])["__metadata__"]
    return {**json.loads(metadata["toroid"]), "bytes": len(data)}


def table() -> pd.DataFrame:
    """A row for each network.

    Returns:
        Columns ``name, dataset, subset, architecture, width, algorithm, seed, train_error,
        test_error, failed, precision, bytes``.
    """
    rows = []
    for name in names():
        found = record(name)
        keys = ("dataset", "subset", "architecture", "width", "algorithm", "seed")
        scores = ("train_error", "test_error", "failed", "precision", "bytes")
        rows.append({
            "name": name, **{k: found["description"][k] for k in keys},
            **{k: found[k] for k in scores},
        })  # fmt: skip
    return pd.DataFrame(rows)


def make(
    folder: str | os.PathLike[str], store: Store | None = None, only: Iterable[str] | None = None
) -> list[Path]:
    """Write the networks of the zoo; those that no store has are trained.

    Args:
        folder: Where to write ``<name>.safetensors``, and the digests.
        store: Where trained minimizers are looked for, and put; by default ``Store()``.
        only: Names of `members`; by default all.

    Returns:
        The files.

    Raises:
        ValueError: If `members` has no such name.
    """
    known = members()
    for name in only or ():
        check_choice("name", name, tuple(known))
    wanted = {name: known[name] for name in only or known}
    found = train_all(wanted.values(), store)
    written = []
    for (name, minimizer), stored in zip(wanted.items(), found, strict=True):
        path, data = Path(folder) / f"{name}.safetensors", _packed(minimizer, stored)
        digests = _digests(Path(folder)) | {name: hashlib.sha256(data).hexdigest()}
        write(path, data)
        write_json(path.with_name(DIGESTS), digests)
        written.append(path)
    return written


def _digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each network's file; of one that is not listed none."""
    try:
        return read_json(folder / DIGESTS)
    except FileNotFoundError:
        return {}


def _packed(minimizer: Minimizer, stored: Stored) -> bytes:
    """A file: the shortest precision that changes no error, and all that is known."""
    train, test = minimizer.load()
    model = minimizer.model(train.shape, train.classes)
    wanted = {f"{split}_error": stored.record[f"{split}_error"] for split in ("train", "test")}
    for precision in PRECISIONS:
        tensors = {k: v.to(precision) if _is_weight(v) else v for k, v in stored.state.items()}
        state = {k: _wide(v) for k, v in tensors.items()}
        errors = {
            f"{split}_error": evaluate(state, model, part).error
            for split, part in (("train", train), ("test", test))
        }
        if errors == wanted:
            break
    kept = ("sha256", "device", "seconds", "versions")
    about = {
        "description": json.loads(minimizer.json), "key": minimizer.key, **wanted,
        "failed": stored.record["report"]["failed"],
        "precision": str(precision).removeprefix("torch."),
        "rounding": "errors on all training and test images are those before rounding",
        "digest": digest(tensors), "shape": list(train.shape), "classes": train.classes,
        "from": {k: stored.record[k] for k in kept if k in stored.record},
    }  # fmt: skip
    metadata = {"toroid": json.dumps(about, sort_keys=True)}  # one: several are in no fixed order
    return safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()}, metadata)


def _is_weight(tensor: Tensor) -> bool:
    return tensor.is_floating_point()


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if _is_weight(tensor) else tensor


def _file(name: str) -> bytes:
    """The bytes of a network, read once; a `DamagedError` if they are not those it was made of."""
    check_choice("name", name, tuple(names()))
    with resources.as_file(resources.files(__name__)) as folder:
        data, digests = (folder / f"{name}.safetensors").read_bytes(), _digests(folder)
    if hashlib.sha256(data).hexdigest() != digests.get(name):
        raise DamagedError(f"the file of {name} is damaged; install the package again")
    return data
