"""The work of a batch job on disk: chunks that are done, and the output, put in place whole or not at all.

    OUTPUT.partial/job.json         what the job is; work of another job is thrown away
    OUTPUT.partial/00000000.arrow   a finished chunk: carried columns, probability, decision; and how far the job is
    OUTPUT.partial/00000000.csv     its bad rows, where it has any
    OUTPUT.partial/new/             the output, made from all chunks

A chunk is written beside its name, brought to the disk, and renamed, so each that is there is whole. The output is made
from the chunks alone, in one go: it cannot depend on where a job was killed.
"""

import ctypes
import hashlib
import io
import json
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import filelock
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from pystock import runs
from pystock.batch.rows import BatchError
from pystock.data_pipeline.stages import replace

MANIFEST, QUARANTINE = "_manifest.json", "_quarantine.csv"


def manifest_of(output: Path, folder: bool) -> Path:
    return output / MANIFEST if folder else output.with_name(output.name + ".manifest.json")


def quarantine_of(output: Path, folder: bool) -> Path:
    return output / QUARANTINE if folder else output.with_name(output.stem + ".quarantine.csv")


def partial_of(output: Path) -> Path:
    return output.with_name(output.name + ".partial")


def read_json(path: Path) -> dict | None:
    """None where there is none, or where it is damaged: then the work is done again."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def digest(files: list[tuple[str, Path]], folder: bool) -> str:
    """The sha256 of a file's bytes; of a folder's that of the lines NAME DIGEST of its files."""
    try:
        found = []
        for name, path in files:
            with open(path, "rb") as file:
                found.append((name, hashlib.file_digest(file, "sha256").hexdigest()))
    except OSError as error:
        raise BatchError(f"the file {name} cannot be read ({runs.reason(error)}): mend it, or leave it out.") from None
    return of_folder(found) if folder else found[0][1]


def of_folder(digests: list[tuple[str, str]]) -> str:
    return hashlib.sha256("".join(f"{name} {one}\n" for name, one in digests).encode()).hexdigest()


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Be the only job at work on an output; a second one raises a BatchError that says who is."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(output.with_name(f".{output.name}.lock"), timeout=0)
        lock.acquire()
    except filelock.Timeout:
        job = read_json(partial_of(output) / "job.json") or {}
        who = f"process {job['process'].split('|')[1]}, since {job['since']}" if "process" in job else "another process"
        raise BatchError(
            f"a batch job is at work on {output} ({who}): wait until it has ended, or name another output."
        ) from None
    except OSError as error:
        raise BatchError(f"the output {output} cannot be written ({runs.reason(error)}): name another place.") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def writing(output: Path) -> Iterator[None]:
    """Whatever the disk refuses is a BatchError; what was half written then takes no room any more."""
    try:
        yield
    except OSError as error:
        _sweep(partial_of(output))
        raise BatchError(
            f"the output {output} cannot be written ({runs.reason(error)}), and is as it was before: make room or give "
            "rights, and run again."
        ) from None


def begin(partial: Path, key: dict, run_time: str | None) -> tuple[dict, list[Path], str]:
    """The job, the chunks that it has already, and what was thrown away and why ("" for nothing).

    `key` are the facts that an output depends on; chunks made with others are removed. The job's time is `run_time`,
    else that of the job that is resumed, else now.
    """
    there, thrown = read_json(partial / "job.json"), ""
    chunks = sorted(partial.glob("[0-9]*.arrow"))
    before = (there or {}).get("key", {})
    if before != key:
        if chunks:
            differ = [name for name in key if before.get(name) != key[name]]
            thrown = f"partial work with another {' and '.join(differ).replace('_', ' ')} was thrown away"
        shutil.rmtree(partial, ignore_errors=True)
        there, chunks = None, []
    partial.mkdir(exist_ok=True)
    _sweep(partial)
    job = {
        "key": key,
        "run_time": run_time or (there or {}).get("run_time") or now(),
        "process": runs.this_process(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    replace(partial / "job.json", json.dumps(job).encode())
    return job, chunks, thrown


def _sweep(partial: Path) -> None:
    """Remove what was being written when a job failed or was killed."""
    shutil.rmtree(partial / "new", ignore_errors=True)
    for left in partial.glob("*.new"):
        left.unlink(missing_ok=True)


def ahead(items: Iterator, most: int = 1) -> Iterator:
    """The same items, none of them None; up to `most` are made before they are asked for, from now on, in a thread."""
    thread = ThreadPoolExecutor(1)
    coming = deque(thread.submit(next, items, None) for _ in range(most))

    def handed_on():
        try:
            while (item := coming.popleft().result()) is not None:
                coming.append(thread.submit(next, items, None))
                yield item
        finally:
            thread.shutdown(cancel_futures=True)

    return handed_on()


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


# Chunks -----------------------------------------------------------------------------------------------------------


def write_chunk(path: Path, table: pa.Table, state: dict, bad: str) -> pa.Table:
    """Keep a chunk, and the state of the job behind it; `bad` is its part of the quarantine file. Returns the chunk as
    `read_chunk` would."""
    if bad:
        replace(path.with_suffix(".csv"), bad.encode())
    # One piece: of a table whose first piece is empty pyarrow 25 writes leftover bytes into a CSV file
    table = table.combine_chunks().replace_schema_metadata({"state": json.dumps(state)})
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_file(buffer, table.schema) as writer:
        writer.write_table(table)
    replace(path, buffer.getvalue())
    return table


def read_chunk(path: Path) -> tuple[pa.Table, dict]:
    try:
        with pa.memory_map(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
        return table, json.loads(table.schema.metadata[b"state"])
    except (pa.ArrowInvalid, ValueError, KeyError, TypeError) as error:
        raise BatchError(f"the partial work {path} is damaged ({runs.reason(error)}): remove its folder.") from None


# The output -------------------------------------------------------------------------------------------------------


class _Sink(io.RawIOBase):
    """A file that is written once from its beginning, with the sha256 of what was written."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file, self.sha, self.size = open(path, "wb"), hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self.file.write(data)
        self.sha.update(data)
        self.size += len(data)
        return len(data)

    def tell(self) -> int:
        return self.size

    def close(self) -> None:
        if not self.closed:
            try:
                self.file.flush()
                os.fsync(self.file.fileno())
            finally:
                self.file.close()
                super().close()


def write_output(path: Path, form: str, schema: pa.Schema, tables: Iterator[pa.Table]) -> str:
    """Write tables of that schema as one file of the format csv or parquet; returns its sha256."""
    with _Sink(path) as sink:
        if form == "parquet":
            with pa.parquet.ParquetWriter(sink, schema) as writer:
                for table in tables:
                    writer.write_table(table.cast(schema), row_group_size=max(len(table), 1))
        else:
            sink.write(_csv(schema.empty_table(), header=True))
            for table in tables:
                sink.write(_csv(table))
        return sink.sha.hexdigest()


def _csv(table: pa.Table, header: bool = False) -> pa.Buffer:
    """Quotes stand only in the chunks (and there around every text) where a text has a comma, a quote or a line end."""
    for style in ("none", "needed"):
        buffer = pa.BufferOutputStream()
        options = pa.csv.WriteOptions(
            include_header=header, batch_size=max(len(table), 1), quoting_style=style, quoting_header=style
        )
        try:
            pa.csv.write_csv(table, buffer, options)
            return buffer.getvalue()
        except pa.ArrowInvalid:
            if style == "needed":
                raise


def writes_as_csv(schema: pa.Schema) -> bool:
    try:
        _csv(schema.empty_table(), header=True)
        return True
    except pa.ArrowException:
        return False


# In its place -----------------------------------------------------------------------------------------------------


def check_replaceable(output: Path) -> None:
    """BatchError for an output folder with files that no batch job has made: it is replaced whole, they would go."""
    found = [path for path in output.rglob("*") if not path.is_dir()] if output.is_dir() else []
    known = {MANIFEST, QUARANTINE, *(read_json(output / MANIFEST) or {}).get("files", [])}
    if strange := sorted(name for path in found if (name := path.relative_to(output).as_posix()) not in known):
        raise BatchError(
            f"the output folder {output} holds {strange[0]!r}, which no batch job has put there, and it is replaced "
            "whole: name a new folder."
        )


def place_folder(new: Path, output: Path, partial: Path) -> None:
    """Let the folder `new` be the output, in one step where the system can exchange two folders."""
    if not output.exists():
        os.replace(new, output)
    elif not _exchange(new, output):
        os.replace(output, partial / "old")
        os.replace(new, output)


def restore(output: Path) -> None:
    """Bring an old output folder back, if a job was killed between the two steps of `place_folder`."""
    old = partial_of(output) / "old"
    if old.exists() and not output.exists():
        os.replace(old, output)


def _exchange(one: Path, other: Path) -> bool:
    """renameat2 with RENAME_EXCHANGE, which Linux and most of its file systems have, and Python does not offer."""
    if not sys.platform.startswith("linux"):
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def remove(partial: Path) -> None:
    """First by one step under another name: what is half removed is no partial work."""
    gone = partial.with_name(partial.name + "-done")
    shutil.rmtree(gone, ignore_errors=True)
    if partial.exists():
        os.replace(partial, gone)
        shutil.rmtree(gone, ignore_errors=True)
