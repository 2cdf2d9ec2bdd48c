"""Files that are whole or not there, and say themselves whether they are what was written.

Every file that the package reads back is JSON or safetensors with the SHA-256 of all its other
bytes inside, under ``"digest"``. It is read once, then checked, then parsed: what another process
puts in its place meanwhile is never mixed in.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

_MARK, _BLANK = b'"digest":"', b"0" * 64


class DamagedError(ValueError):
    """A file is not the one that was written."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file that takes the place of `path`, whole, once the block has written it.

    Its name is its own among threads, processes and hosts; its mode is the umask's. It is on the
    disk before it gets the name, and the name is before the block is left: a power cut leaves the
    old file or the new one. An error in the block leaves the old one, and nothing else.

    Args:
        path: What is replaced; its folder is made.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "new" / "note") as part:
        ...         _ = part.write_text("whole")
        ...     [p.name for p in Path(folder).rglob("*")]
        ['new', 'note']
    """
    own = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"
    part = path.with_name(f"{path.name}.{own}.part")
    _create(part)
    try:
        yield part
        _sync(part)
        part.replace(path)
        _sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _create(part: Path) -> None:
    """An empty file; another process may delete an empty folder just before."""
    for _ in range(100):
        part.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            return part.touch(exist_ok=False)
    raise FileNotFoundError(f"{part.parent} is deleted as often as it is made")


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name != "posix":  # elsewhere a folder cannot be opened
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write(path: Path, data: bytes) -> None:
    """Replace a file by these bytes."""
    with replacing(path) as part:
        part.write_bytes(data)


def sealed(data: bytes) -> bytes:
    """With the digest of all other bytes, in the place that is kept for it."""
    start = data.index(_MARK) + len(_MARK)
    return data[:start] + _digest(data, start) + data[start + len(_BLANK) :]


def is_sealed(data: bytes) -> bool:
    """Whether these are, to the last bit, bytes that `sealed` returned."""
    start = data.find(_MARK) + len(_MARK)
    return data[start : start + len(_BLANK)] == _digest(data, start)


def _digest(data: bytes, start: int) -> bytes:
    """SHA-256, as if the place of the digest were blank."""
    view, digest = memoryview(data), hashlib.sha256()
    for piece in (view[:start], _BLANK, view[start + len(_BLANK) :]):
        digest.update(piece)
    return digest.hexdigest().encode()


def read(path: Path) -> bytes:
    """The bytes of a sealed file.

    Raises:
        FileNotFoundError: If there is none.
        DamagedError: If it is not the one that was written.
    """
    data = path.read_bytes()
    if not is_sealed(data):
        raise DamagedError(f"{path} is damaged: it is not what was written")
    return data


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Replace a file by a record, which has no entry ``"digest"``."""
    text = json.dumps({"digest": _BLANK.decode(), **record}, separators=(",", ":"), default=float)
    write(path, sealed(text.encode()))


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote; raises as `read`."""
    record: dict[str, Any] = json.loads(read(path))
    del record["digest"]
    return record


def write_tensors(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Replace a file by tensors, and a record beside them."""
    flat = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    header = {"digest": _BLANK.decode(), "record": json.dumps(record, default=float)}
    write(path, sealed(safetensors.torch.save(flat, header)))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write_tensors` wrote; raises as `read`."""
    data = read(path)
    size = int.from_bytes(data[:8], "little")  # of the header, as safetensors has it
    header = json.loads(data[8 : 8 + size])["__metadata__"]
    return safetensors.torch.load(data), json.loads(header["record"])


def leftovers(path: Path) -> list[Path]:
    """New files for `path` that nobody writes any more: of a process of this host that ended."""
    found = path.parent.glob(f"{_escaped(path.name)}.*.part")
    return [part for part in found if not _alive(part)]


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _alive(part: Path) -> bool:
    """Whether the writer of a new file may still be there: one of another host may."""
    host, _, rest = part.name.removesuffix(".part").rpartition("-")[0].rpartition("-")
    if not rest.isdigit() or not host.endswith(f".{platform.node()}"):
        return True
    try:
        os.kill(int(rest), 0)  # asks, and does no harm
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
