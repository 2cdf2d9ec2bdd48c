"""Where a training that is cut off goes on from."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._files import DamagedError, leftovers, read_tensors, write_tensors

#: Names of the parts of trainings that have some.
PARTS = ("random", "true")


class Checkpoint:
    """A file that a training is cut off and goes on from, with the same final bits.

    It holds all that changes from epoch to epoch, is replaced as a whole at the end of one, and is
    not a pickle. A training with other settings, first weights or data, with a generator in another
    state, or with a network or a task whose first step is another one, does not go on from it: that
    is a ValueError (what a first step cannot tell apart, as ReLU and ReLU6, it does not see). Of a
    loader's batches the number counts, and the first step is not compared. From one that is damaged
    none goes on: that is a warning, and the training begins anew.

    Args:
        path: A safetensors file; it need not exist. Files of parts of a training have names that
            begin with its whole name.
        every: Seconds between two savings; 0 saves each epoch. Epochs may take less time than it
            takes to be sure that a file is on the disk.

    Raises:
        ValueError: If `every` is negative.

    Example:
        >>> import tempfile, torch, toroid
        >>> from toroid.training import Checkpoint, sgd
        >>> train, _ = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(8,))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpoint = Checkpoint(f"{folder}/run.safetensors")
        ...     options = {"epochs": 2, "checkpoint": checkpoint}
        ...     trained = sgd(model, train, generator=torch.Generator(), **options)
        ...     again = sgd(model, train, generator=torch.Generator(), **options)  # nothing to do
        >>> bool((trained.state["1.weight"] == again.state["1.weight"]).all())
        True
    """

    def __init__(self, path: str | os.PathLike[str], every: float = 0.0) -> None:
        """Name the file."""
        if not every >= 0:
            raise ValueError(f"every is {every}; it must be 0 or more seconds")
        self.path, self.every = Path(path), every
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() - self._last >= self.every

    def part(self, name: str) -> Checkpoint:
        """That of one part of a training."""
        return Checkpoint(self.path.with_name(f"{self.path.name}.{name}"), self.every)

    def remove(self) -> None:
        """Delete the file, those of parts, and what a killed run of this host left half written."""
        for path in (self.path, *(self.part(name).path for name in PARTS)):
            for found in (path, *leftovers(path)):
                found.unlink(missing_ok=True)

    def save(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Replace what is there."""
        write_tensors(self.path, tensors, record)
        self._last = time.monotonic()

    def load(self, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was saved; None if nothing was, or the file is damaged, which is a warning."""
        try:
            tensors, record = read_tensors(self.path)
        except FileNotFoundError:
            return None
        except DamagedError as error:
            warnings.warn(f"{error}; the training begins anew", stacklevel=2)
            return None
        return {k: v.to(device) for k, v in tensors.items()}, record
