"""Trained minimizers in a folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch

from .._files import DamagedError, is_sealed, write, write_json
from ._description import Minimizer, Stored, canonical

#: Names of sidecars, and what is in each.
_KEY = re.compile("[0-9a-f]{64}")

#: Names of weights, and of what `toroid._files` writes before it has its name; others' files stay.
_LOOSE = re.compile(
    r"[0-9a-f]{64}\.([0-9a-f]{16}\.safetensors|(.*\.)?[^/]+-[0-9]+-[0-9a-f]{8}\.part)"
)

_WRITTEN = {
    "sha256", "description", "train_error", "test_error", "seconds", "device", "report",
}  # fmt: skip


class Store:
    """Minimizers in a folder: ``<key>.<digest>.safetensors`` and ``<key>.json`` for each.

    Files are written under a temporary name and renamed, the JSON, which names the weights' digest
    and holds its own, last: a reader never sees half of one, a killed run and a power cut lose
    nothing that was finished, and two writers do no harm, be they threads, processes or hosts. Who
    may read the files is a matter of the umask.

    Args:
        folder: By default ``$TOROID_STORE``, else ``~/.cache/toroid/minimizers``.

    Example:
        >>> import tempfile
        >>> minimizer = Minimizer(architecture="mlp", width=0.02, settings={"epochs": 1})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = Store(folder)
        ...     store.put(minimizer, minimizer.train())
        ...     minimizer in store, len(store.table())
        (True, 1)
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        """Name the folder; it is made when something is put."""
        default = os.environ.get("TOROID_STORE") or Path.home() / ".cache" / "toroid" / "minimizers"
        self.folder = Path(folder or default).expanduser()

    def __contains__(self, minimizer: Minimizer) -> bool:
        """Whether it has been trained."""
        return self._sidecar(minimizer).is_file()

    def _sidecar(self, minimizer: Minimizer) -> Path:
        return self.folder / f"{minimizer.key}.json"

    def _weights(self, key: str, digest: str) -> Path:
        return self.folder / f"{key}.{digest[:16]}.safetensors"

    def _sidecars(self) -> list[Path]:
        """Those that are there; another's JSON has no key for a name."""
        return [
            p for p in sorted(self.folder.glob("*.json")) if _KEY.fullmatch(p.stem) and p.is_file()
        ]

    def _record(self, path: Path) -> dict[str, Any]:
        """What a sidecar holds; a `DamagedError` if it is not one that was written for its key."""
        data = path.read_bytes()
        # Sidecars had no digest of their own until now: those hold the weights' digest, and the
        # description that belongs to the key. No single flip makes a new one look like that.
        if is_sealed(data) or data.startswith(b'{"description": '):
            with suppress(ValueError, TypeError, RecursionError):  # not JSON, or not text
                record = json.loads(data)
                if record.keys() >= _WRITTEN and _key(record["description"]) == path.stem:
                    record.pop("digest", None)
                    return dict(record)
        raise DamagedError(
            f"{path} is damaged: it is not what was written. Store.prune() sets it aside, so that "
            "it is trained again"
        )

    def _read(self, key: str, record: dict[str, Any]) -> bytes:
        """The file of the weights, read once; a `DamagedError` if it is another."""
        path, data = self._weights(key, record["sha256"]), b""
        with suppress(FileNotFoundError):
            data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() == record["sha256"]:
            return data
        raise DamagedError(
            f"{path} is damaged: its SHA-256 is not the recorded one. Store.prune() sets it "
            "aside, so that it is trained again"
        )

    def get(self, minimizer: Minimizer) -> Stored:
        """Read a minimizer.

        Raises:
            KeyError: If it is not there.
            DamagedError: If a file of it is not the one that was written.
        """
        try:
            record = self._record(self._sidecar(minimizer))
        except (FileNotFoundError, IsADirectoryError):
            raise KeyError(f"{minimizer.key} is not in {self.folder}: {minimizer.json}") from None
        return Stored(safetensors.torch.load(self._read(minimizer.key, record)), record)

    def put(self, minimizer: Minimizer, stored: Stored) -> None:
        """Write a minimizer; of two that are written, the last one counts."""
        data = safetensors.torch.save({k: v.contiguous() for k, v in stored.state.items()})
        record = {**stored.record, "sha256": hashlib.sha256(data).hexdigest()}
        write(self._weights(minimizer.key, record["sha256"]), data)
        write_json(self._sidecar(minimizer), record)

    def table(self) -> pd.DataFrame:
        """One row for each minimizer: key, description, errors, what failed, seconds, device.

        Warns:
            UserWarning: If one is damaged; it has no row.
        """
        rows = []
        for path in self._sidecars():
            try:
                record = self._record(path)
            except FileNotFoundError:  # set aside meanwhile
                continue
            except DamagedError as error:
                warnings.warn(str(error), stacklevel=2)
                continue
            scores = {k: record[k] for k in ("train_error", "test_error", "seconds", "device")}
            failed = record["report"]["failed"]
            rows.append({"key": path.stem, **record["description"], **scores, "failed": failed})
        return pd.DataFrame(rows)

    def verify(self) -> dict[str, str]:
        """What is wrong with the files, by the key of the minimizer; empty if all is well."""
        found = {path.stem: self._wrong(path) for path in self._sidecars()}
        return {key: what for key, what in found.items() if what}

    def _wrong(self, sidecar: Path) -> str:
        """What is wrong with the files of one minimizer; empty if nothing is, or it is gone."""
        try:
            record = self._record(sidecar)
        except FileNotFoundError:
            return ""
        except DamagedError:
            return f"{sidecar.name} cannot be read"
        with suppress(DamagedError):
            self._read(sidecar.stem, record)
            return ""
        weights = self._weights(sidecar.stem, record["sha256"])
        what = f"{weights.name} is not the file that was written"
        return what if weights.exists() else f"{weights} is missing"

    def set_aside(self, key: str) -> list[Path]:
        """Move a minimizer's files into ``damaged/``, so that it is trained again."""
        folder, moved = self.folder / "damaged", []
        folder.mkdir(exist_ok=True)
        for path in self.folder.glob(f"{key}.*"):
            with suppress(FileNotFoundError):  # another process was faster
                if path.suffix in (".json", ".safetensors"):
                    moved.append(path.replace(folder / path.name))
        return moved

    def prune(self) -> list[Path]:
        """Set damaged minimizers aside, and delete what no minimizer names.

        Files of the last day are not deleted: another process may be about to name them. Those
        that have no name of the store's own are not touched.

        Returns:
            The files that were moved, where they are now, and those that were deleted.
        """
        moved = []
        for path in self._sidecars():
            if self._wrong(path):  # looked at just before: it may be trained again meanwhile
                moved += self.set_aside(path.stem)
        found = (*self.folder.glob("*"), *self.folder.glob("unfinished/*.part"))
        loose = [path for path in found if _LOOSE.fullmatch(path.name)]
        old = [path for path in loose if _age(path) > 86400]
        named = set()  # read after the files were found: what is named by then stays
        for path in self._sidecars():
            with suppress(FileNotFoundError, DamagedError):
                named.add(self._record(path)["sha256"][:16])
        gone = [path for path in old if path.stem.rpartition(".")[2] not in named]
        for path in gone:
            path.unlink(missing_ok=True)
        return [*moved, *gone]


def _key(description: dict[str, Any]) -> str:
    return hashlib.sha256(canonical(description).encode()).hexdigest()


def _age(path: Path) -> float:
    """In seconds; that of a file that is gone is 0."""
    with suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime
    return 0.0
