"""The stages of the data on disk: tables in parts that never change, and a manifest that lists the current parts.

    STAGES/MARKET/raw, STAGES/MARKET/staging, STAGES/MARKET/training/TARGET-FEATURES

Each holds Parquet files and `manifest.json`, which names the parts that make the table and is replaced atomically and
last: a reader finds the old table or the new one, also after a crash.
"""

import hashlib
import io
import json
import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import pandas as pd

from pystock.errors import reason
from pystock.files import write_atomically
from pystock.pipeline import PipelineError

SCHEMA_VERSION = "1"  # of the tables and the manifest; a new version rebuilds every stage
MOST_PARTS = 30  # then they are written as one again, so that a year of daily appends does not end in 250 files


def stage_folder(stages: str | Path, market: str, stage: str, question: str | None = None) -> Path:
    """Return the folder of a stage of a market; in the stage training, that of a `question`, TARGET-FEATURES.

    Raises PipelineError for a market that cannot be the name of a folder.
    """
    if not re.fullmatch(r"[A-Za-z0-9^][A-Za-z0-9._-]*", market):
        raise PipelineError(f"{market!r} is not a market name: use letters, digits, dots, hyphens and underscores.")
    return Path(stages) / market / stage / (question or "")


def manifest(folder: Path) -> dict[str, Any] | None:
    """Return the content of `manifest.json`; None if there is none. Raises PipelineError if it cannot be read."""
    path = Path(folder) / "manifest.json"
    try:
        content: dict[str, Any] | None = json.loads(path.read_bytes()) if path.exists() else None
    except (OSError, ValueError) as error:
        fix = "remove it, and the next run rebuilds the stage"
        raise PipelineError(f"{path} cannot be read ({reason(error)}): {fix}.") from None
    return content


def read(folder: Path) -> pd.DataFrame:
    """Return the table of a stage: all parts that its manifest names, in order.

    raw has the index `line` (the line in the source) and text in the columns `Date`, `Open` …, `Volume`; staging and
    training have the DatetimeIndex `Date`, in order. Raises PipelineError if there is no table or a part is damaged.
    """
    folder = Path(folder)
    found = manifest(folder)
    if found is None:
        raise PipelineError(f"{folder} has no table yet: run the step of the data pipeline that makes it.")
    try:
        return pd.concat([_read_part(folder / part["file"], part["sha256"]) for part in found["parts"]])
    except OSError as error:
        if manifest(folder) != found:  # the table was replaced, and the old parts removed, while we read
            return read(folder)
        fix = "run the step that makes it with --force, or check the disk"
        raise PipelineError(f"{error.filename} cannot be read ({reason(error)}): {fix}.") from None


def _read_part(path: Path, sha256: str) -> pd.DataFrame:
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise PipelineError(f"{path} is damaged (wrong checksum): run the step that makes it with --force.")
    return pd.read_parquet(io.BytesIO(data))


def intact(folder: Path, manifest: dict[str, Any]) -> bool:
    """Return whether all parts that a manifest names exist with the right size; their bytes are not read."""
    sizes = {path.name: path.stat().st_size for path in folder.glob("part-*.parquet")}
    return all(sizes.get(part["file"]) == part["bytes"] for part in manifest["parts"])


def digest(table: pd.DataFrame) -> str:
    """Return 32 hexadecimal digits for the names, types and values of a table with its index; parts do not matter."""
    sha = hashlib.sha256()
    for name, column in {"": table.index, **{name: table[name] for name in table}}.items():
        values = column.to_numpy()
        if values.dtype == object:
            lengths = [len(value) for value in values]  # with them "ab", "c" differs from "a", "bc"
            content = f"{lengths}{''.join(values)}".encode("utf-8", "surrogatepass")
        else:
            content = values.tobytes()
        sha.update(f"{name}|{values.dtype}|{len(values)}|".encode() + content)
    return sha.hexdigest()[:32]


def write(
    folder: Path, table: pd.DataFrame, about: dict[str, Any], *, kept: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Make `table` the table of a stage, and return its manifest: `about`, rows, digest, and the parts.

    With `kept`, the existing manifest, only the rows beyond those that it names are written, as one more part; the
    others must be the same. Raises PipelineError if a file cannot be written; the old table is then unchanged.
    """
    old = kept["parts"] if kept and len(kept["parts"]) < MOST_PARTS else []
    rows = sum(part["rows"] for part in old)
    with refusals(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _clear(folder)
        parts = [*old, _write_part(folder, table.iloc[rows:])] if rows < len(table) else old
        whole = {**about, "rows": len(table), "digest": digest(table), "schema_version": SCHEMA_VERSION, "parts": parts}
        write_atomically(folder / "manifest.json", (json.dumps(whole, indent=2) + "\n").encode())
    return whole


@contextmanager
def refusals(path: Path) -> Iterator[None]:
    """Turn an OSError while `path` is written into a PipelineError."""
    try:
        yield
    except OSError as error:
        problem = f"{path} cannot be written ({reason(error)}), so it is unchanged"
        raise PipelineError(f"{problem}: free some space or fix the permissions, then run again.") from None


def _write_part(folder: Path, rows: pd.DataFrame) -> dict[str, Any]:
    data: bytes = rows.to_parquet()
    sha = hashlib.sha256(data).hexdigest()
    labels = rows.index.strftime("%Y%m%d") if isinstance(rows.index, pd.DatetimeIndex) else rows.index
    name = f"part-{labels[0]}-{labels[-1]}-{sha[:12]}.parquet"
    write_atomically(folder / name, data)
    return {"file": name, "rows": len(rows), "bytes": len(data), "sha256": sha}


def _clear(folder: Path) -> None:
    """Remove the files of an interrupted write, and the parts of tables that were replaced."""
    named = {part["file"] for part in (manifest(folder) or {"parts": []})["parts"]}
    for path in [*folder.glob("part-*.parquet"), *folder.glob("*.new")]:
        if path.name not in named:
            path.unlink()


@contextmanager
def locked(stages: str | Path) -> Iterator[None]:
    """Lock a folder of stages. Raises a PipelineError that names the holder if another process has it.

    May be nested within one thread. The lock is the operating system's: it ends with the process that holds it.
    """
    owner = Path(stages) / ".lock-owner"
    try:
        owner.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(owner.with_name(".lock"), timeout=0, is_singleton=True)
        lock.acquire()
    except filelock.Timeout:
        busy = f"{stages} is in use by a data pipeline ({owner.read_text() if owner.exists() else 'another process'})"
        raise PipelineError(f"{busy}: wait until it ends, or choose another folder.") from None
    except OSError as error:
        raise PipelineError(f"{stages} cannot be used ({reason(error)}): choose another folder of stages.") from None
    try:
        if lock.lock_counter == 1:
            owner.write_text(f"process {os.getpid()} on {platform.node()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        yield
    finally:
        lock.release()
