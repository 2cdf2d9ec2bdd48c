"""Where a training that is cut off goes on from."""

from __future__ import annotations

import glob
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


class Checkpoint:
    """A file that a training is cut off and goes on from, with the same final bits.

    It holds all that changes from epoch to epoch, is replaced as a whole after each, and is not a
    pickle. A training with other settings or shapes does not go on from it: that is a ValueError.

    Args:
        path: A safetensors file; it need not exist.

    Example:
        >>> import tempfile, torch, toroid
        >>> from toroid.training import Checkpoint, sgd
        >>> train, _ = toroid.data.load("digits")
        >>> model = toroid.mlp(train.shape, classes=10, hidden=(8,))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpoint = Checkpoint(f"{folder}/run.safetensors")
        ...     options = {"generator": torch.Generator(), "checkpoint": checkpoint}
        ...     trained = sgd(model, train, epochs=2, **options)
        ...     again = sgd(model, train, epochs=2, **options)  # nothing is left to do
        >>> bool((trained.state["1.weight"] == again.state["1.weight"]).all())
        True
    """

    def __init__(self, path: str | os.PathLike) -> None:
        """Name the file."""
        self.path = Path(path)

    def part(self, name: str) -> Checkpoint:
        """That of one part of a training."""
        return Checkpoint(self.path.with_suffix(f".{name}{self._ending}"))

    @property
    def _ending(self) -> str:
        return self.path.suffix or ".safetensors"

    def remove(self) -> None:
        """Delete the file, those of parts, and what was only half written; nothing else."""
        stem = glob.escape(self.path.stem)
        for pattern in (f"{stem}.*{glob.escape(self._ending)}", f"{stem}.*-[0-9]*.part"):
            for path in self.path.parent.glob(pattern):
                path.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def save(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Replace what is there."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(f".{platform.node()}-{os.getpid()}.part")
        flat = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        save_file(flat, part, {"record": json.dumps(record, default=float)})
        part.replace(self.path)

    def load(self, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What was saved; None if nothing was, or the file cannot be read."""
        try:
            with safe_open(self.path, "pt") as file:
                tensors = {k: file.get_tensor(k).to(device) for k in file.keys()}  # noqa: SIM118
                return tensors, json.loads(file.metadata()["record"])
        except (FileNotFoundError, SafetensorError):
            return None
