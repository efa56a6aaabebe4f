"""Files that survive a crash: written whole or not at all, and on the disk before anybody relies on them."""

import os
from pathlib import Path


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Replace the content of a file; a reader, or a crash at any moment, finds the old content or the new one, whole.

    The new content is written to PATH.new, which a killed process may leave behind, and renamed. Raises OSError.
    """
    new = path.with_name(path.name + ".new")
    with open(new, "wb") as file:  # noqa: PTH123 - the crash test replaces it with a file that stops halfway
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    flush_to_disk(path.parent)


def flush_to_disk(path: Path) -> None:
    """Wait until the disk holds a file's content, or the names of the files in a folder. Raises OSError."""
    folder = path.is_dir()
    if folder and os.name != "posix":  # Windows has no call for a folder
        return
    descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
