"""Networks as files: checkpoints read without pickle, moved, and written whole."""

from __future__ import annotations

import hashlib
import importlib
import io
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from .. import _files
from .._state import check_model
from ..alignment import align
from ..merging import Merged, merge
from ..symmetry import find_symmetries, same_function
from ..torus import normalize

PREFIXES = ("module.", "_orig_mod.")
LARGEST = 10**9  # numbers of an example, 4 GB of them
NESTED = ("state_dict", "model_state_dict", "model", "net", "network")


class CheckpointError(ValueError):
    """A file, a model or an example cannot be used as it was given; says which and why."""


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a file.

    Attributes:
        path: Where it is.
        state: State dict under the model's names.
        digest: SHA-256 of the file.
    """

    path: Path
    state: dict[str, Tensor]
    digest: str


def read(path: Path, model: nn.Module) -> Checkpoint:
    """A checkpoint that fits a model: safetensors, or what torch loads as weights alone.

    Prefixes that wrappers put before names (``module.``, ``_orig_mod.``) are taken off where the
    model has none, and a state dict inside of a larger record is found.

    Raises:
        CheckpointError: If the file is missing, is neither, holds more than weights, or does not
            fit the model.
    """
    try:
        data = path.read_bytes()
        tensors = _unwrapped(_tensors(path, data), model.state_dict().keys())
        check_model(tensors, model)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path} does not fit the model: {error}") from error
    return Checkpoint(path, tensors, hashlib.sha256(data).hexdigest())


def _tensors(path: Path, data: bytes) -> dict[str, Tensor]:
    """The state dict of a file."""
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load(data)
        except safetensors.SafetensorError as error:
            raise CheckpointError(f"{path} is no safetensors file: {error}") from error
    try:
        record = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # of damaged bytes, whatever torch's readers raise
        raise CheckpointError(
            f"{path} cannot be read as weights alone; nothing else is read, since a pickle runs "
            "code. Where it comes from, write it with "
            "safetensors.torch.save_file(model.state_dict(), ...)"
        ) from error
    while isinstance(record, Mapping):
        if record and all(isinstance(v, Tensor) for v in record.values()):
            return dict(record)
        inner = [record[k] for k in NESTED if isinstance(record.get(k), Mapping)]
        if not inner:
            break
        record = inner[0]
    keys = ", ".join(map(str, list(record)[:5])) if isinstance(record, Mapping) else ""
    raise CheckpointError(
        f"{path} holds no state dict: it is a {type(record).__name__}"
        f"{f' of {keys}' if keys else ''}; a state dict is looked for there and under "
        f"{', '.join(NESTED)}"
    )


def _unwrapped(tensors: Mapping[str, Tensor], names: Any) -> dict[str, Tensor]:
    """Without the prefixes that every name has and the model has not."""
    result = dict(tensors)
    while not result.keys() <= names:
        shared = [p for p in PREFIXES if all(k.startswith(p) for k in result)]
        if not shared:
            return result
        result = {k.removeprefix(shared[0]): v for k, v in result.items()}
    return result


def model_of(name: str) -> nn.Module:
    """The model that ``package.module:function`` makes; the working folder is on the path.

    Raises:
        CheckpointError: If there is no such function, or it makes no module.
    """
    place, _, function = name.partition(":")
    if not place or not function:
        raise CheckpointError(f"--model is {name!r}; it takes package.module:function")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        made = getattr(importlib.import_module(place), function)
        model = made if isinstance(made, nn.Module) else made()
    except (Exception, SystemExit) as error:  # whatever another's code does
        kind = "" if isinstance(error, (ImportError, AttributeError)) else type(error).__name__
        told = f"{kind}: {error}".removeprefix(": ")
        raise CheckpointError(f"--model {name}: {told}") from error
    if not isinstance(model, nn.Module):
        raise CheckpointError(
            f"--model {name} gives a {type(model).__name__}; it takes a function without arguments "
            "that returns a torch.nn.Module"
        )
    return model


def example_of(shape: str) -> Tensor:
    """Random inputs of a shape, given as ``1,3,32,32``; two examples at least.

    Raises:
        CheckpointError: If these are not positive integers.
    """
    try:
        sizes = [int(part) for part in shape.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1 or math.prod(sizes) > LARGEST:
        raise CheckpointError(
            f"--example is {shape!r}; it takes a shape, batch first: 1,3,32,32, of at most "
            f"{LARGEST:,} numbers"
        )
    generator = torch.Generator().manual_seed(0)
    return torch.randn(max(2, sizes[0]), *sizes[1:], generator=generator)


@contextmanager
def _refused(model: nn.Module) -> Iterator[None]:
    """What a network, an input or a state makes impossible, as a message of this module."""
    try:
        yield
    except CheckpointError:
        raise
    except (ValueError, RuntimeError) as error:  # torch's own, of inputs that do not fit
        raise CheckpointError(
            f"a {type(model).__name__} with this --example and these files: {error}"
        ) from error


def aligned(
    checkpoint: Checkpoint, to: Checkpoint, model: nn.Module, example: Tensor, method: str
) -> tuple[dict[str, Tensor], pd.DataFrame]:
    """A checkpoint permuted onto another, and what moved; the same function, or an error.

    Raises:
        CheckpointError: If the outputs on the example are not those from before.
    """
    with _refused(model):
        symmetry = find_symmetries(model, example, strict=False)
        found = align(checkpoint.state, to.state, symmetry, method=method)
        _check_same(model, checkpoint, found.state, example, "keep")
    return found.state, found.frame


def merged(
    checkpoints: Sequence[Checkpoint], model: nn.Module, example: Tensor, method: str, on: str
) -> tuple[Merged, pd.DataFrame]:
    """The mean of checkpoints, each aligned to the first, and what moved.

    Raises:
        CheckpointError: If a checkpoint, normalised and aligned, is not the function it was.
    """
    with _refused(model):
        symmetry = find_symmetries(model, example, strict=False)
        states: list[dict[str, Tensor]] = []
        tables: list[pd.DataFrame] = []
        for one in checkpoints:
            state = one.state if on == "raw" else normalize(one.state, symmetry)
            if states:
                found = align(state, states[0], symmetry, method=method)
                state = found.state
                tables.append(found.frame.assign(file=one.path.name))
            _check_same(model, one, state, example, "keep" if on == "raw" else "factor")
            states.append(state)
        return merge(states, symmetry, on), pd.concat(tables)


def _check_same(
    model: nn.Module, one: Checkpoint, state: dict[str, Tensor], example: Tensor, output: str
) -> None:
    """Moving changed nothing; in float32, sums in another order differ by rounding."""
    like = next((v for v in state.values() if v.is_floating_point()), example)
    report = same_function(model, one.state, state, example.to(like.dtype), output=output)
    if not report:
        raise CheckpointError(
            f"{one.path}, moved, is not the function that it was: outputs differ by "
            f"{report.difference:.2g} of their size, {report.tolerance:.2g} is allowed; nothing is "
            "written"
        )


def write(path: Path, state: Mapping[str, Tensor], inputs: Sequence[Checkpoint], how: str) -> None:
    """Replace a safetensors file, whole; its metadata name the files that it was made of.

    Raises:
        CheckpointError: If the name does not end in .safetensors, or it is one of the inputs.
    """
    check_output(path, [one.path for one in inputs])
    metadata = {"format": "pt", "toroid": how}
    metadata |= {f"input {i}": f"{c.path.name} sha256:{c.digest}" for i, c in enumerate(inputs, 1)}
    flat = {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}
    _files.write(path, safetensors.torch.save(flat, metadata))


def check_output(path: Path, inputs: Sequence[Path]) -> None:
    """A name that can be written to: known before anything is computed.

    Raises:
        CheckpointError: If it cannot.
    """
    if path.suffix != ".safetensors":
        raise CheckpointError(f"-o is {path}; the name of a file to write ends in .safetensors")
    if path.is_dir():
        raise CheckpointError(f"-o is {path}, a folder; give the name of a file")
    if path.resolve() in [one.resolve() for one in inputs]:
        raise CheckpointError(f"-o is {path}, one of the inputs; give another name")
