"""Files that are whole or not there, and say whether they are what was written."""

import os
import stat
import threading

import pytest
import torch
from toroid import _files


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "note"
    _files.write(path, b"first")

    def cut_off():
        with _files.replacing(path) as part:
            part.write_bytes(b"sec")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        cut_off()
    assert path.read_bytes() == b"first"
    assert [p.name for p in path.parent.iterdir()] == ["note"]


def test_the_mode_is_that_of_the_umask(tmp_path):
    tensors = {"x": torch.ones(3)}
    for mask in (0o022, 0o002, 0o077):
        before = os.umask(mask)
        try:
            _files.write_tensors(tmp_path / "a", tensors, {})
            _files.write_json(tmp_path / "b", {})
        finally:
            os.umask(before)
        for name in "ab":
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~mask


def test_the_file_is_on_the_disk_before_it_has_its_name_and_then_the_folder(tmp_path, monkeypatch):
    synced = []

    def watched(handle):
        kind = "folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file"
        synced.append((kind, (tmp_path / "note").exists()))

    monkeypatch.setattr(_files.os, "fsync", watched)
    _files.write(tmp_path / "note", b"x")
    assert synced == [("file", False), ("folder", True)]


def test_threads_that_write_one_file_do_no_harm(tmp_path):
    texts, failed = [str(k).encode() * 10000 for k in range(8)], []

    def writer(text):
        try:
            for _ in range(5):
                _files.write(tmp_path / "one", text)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=writer, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert (tmp_path / "one").read_bytes() in texts
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


def test_what_was_written_is_read(tmp_path):
    tensors = {"x": torch.randn(3, 4).T, "n": torch.tensor(3), "e": torch.empty(0)}
    record = {"a": [1, 0.1, None], "b": {"ü": "x"}}
    _files.write_tensors(tmp_path / "a", tensors, record)
    found, beside = _files.read_tensors(tmp_path / "a")
    assert beside == record
    assert all(torch.equal(found[k], v) for k, v in tensors.items())
    _files.write_json(tmp_path / "b", record)
    assert _files.read_json(tmp_path / "b") == record
    with pytest.raises(FileNotFoundError):
        _files.read_json(tmp_path / "c")


@pytest.mark.parametrize("data", [b"", b"x", b'{"digest":"', b'{"digest":"' + b"0" * 64 + b'"}'])
def test_what_was_never_sealed_is_damaged(tmp_path, data):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(_files.DamagedError, match="is damaged: it is not what was written"):
        _files.read(tmp_path / "a")
