"""Files that are written whole or not at all."""

import errno
import os

import pytest

from pystock.files import write_atomically


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_error_leaves_the_old_content(tmp_path, monkeypatch, call):
    file = tmp_path / "file"
    write_atomically(file, b"old")

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, b"new")
    monkeypatch.undo()
    assert file.read_bytes() == b"old"
    write_atomically(file, b"new")
    assert file.read_bytes() == b"new" and list(tmp_path.iterdir()) == [file]


def test_the_content_is_on_the_disk_before_the_name(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        call = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *of, name=name, call=call: calls.append(name) or call(*of))
    write_atomically(tmp_path / "file", b"new")
    assert calls == (["fsync", "replace", "fsync"] if os.name == "posix" else ["fsync", "replace"])
