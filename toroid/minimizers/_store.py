"""Trained minimizers in a folder."""

from __future__ import annotations

import builtins
import hashlib
import json
import os
import platform
import re
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import load_file, save_file

from ._description import Minimizer, Stored

#: Names of sidecars, and what is in each.
_KEY = re.compile("[0-9a-f]{64}")


_WRITTEN = {
    "sha256", "description", "train_error", "test_error", "seconds", "device", "report",
}  # fmt: skip


class DamagedError(ValueError):
    """A file of the store is not the one that was written."""


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
