"""The work of a batch job on disk: finished chunks, and an output that counts when it is whole.

    OUTPUT.partial/job.json         what the job is; the work of another job is thrown away
    OUTPUT.partial/00000000.arrow   a finished chunk: carried columns, probability, decision; and how far the job is
    OUTPUT.partial/00000000.csv     its bad rows, if it has any
    OUTPUT.partial/new/             the output, made from all chunks

An output file is replaced by one rename. In an output folder the files are replaced one by one, and a folder without
`_SUCCESS` is unfinished. The output is made from the chunks alone, so it does not depend on where a job was killed.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from pystock import runs
from pystock.batch.rows import BatchError
from pystock.files import flush_to_disk, write_atomically

MANIFEST, QUARANTINE, SUCCESS = "_manifest.json", "_quarantine.csv", "_SUCCESS"


class Output:
    """Where a job writes: a file or a folder, its manifest and quarantine, and partial work."""

    def __init__(self, path: Path, folder: bool):
        self.path, self.folder = path, folder
        self.manifest = path / MANIFEST if folder else path.with_name(path.name + ".manifest.json")
        self.quarantine = path / QUARANTINE if folder else path.with_name(path.stem + ".quarantine.csv")
        self.partial = path.with_name(path.name + ".partial")
        self.new = self.partial / "new"

    def file(self, name: str) -> Path:
        """Return the place of one of its data files."""
        return self.path / name if self.folder else self.path

    def is_whole(self) -> bool:
        """Return whether the output is there and finished."""
        return (self.path / SUCCESS).exists() if self.folder else self.path.exists()

    def chunks(self) -> list[Path]:
        """Return the finished chunks in order."""
        return sorted(self.partial.glob("[0-9]*.arrow"))


def read_json(path: Path) -> dict[str, Any] | None:
    """Return what a JSON file holds; None if it is missing or damaged, since then the work is done again."""
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        return content
    except (OSError, ValueError):
        return None


def digest(files: list[tuple[str, Path]], folder: bool) -> str:
    """Return the sha256 of a file's bytes; of a folder that of the lines NAME DIGEST of its files."""
    found = []
    for name, path in files:
        try:
            with path.open("rb") as file:
                found.append((name, hashlib.file_digest(file, "sha256").hexdigest()))
        except OSError as error:
            raise BatchError(
                f"the file {name} cannot be read ({runs.reason(error)}): fix it, or leave it out."
            ) from None
    if not folder:
        return found[0][1]
    return hashlib.sha256("".join(f"{name} {one}\n" for name, one in found).encode()).hexdigest()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock an output. Raises a BatchError that names the holder if another job has it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
        lock.acquire()
    except filelock.Timeout:
        job = read_json(Output(path, False).partial / "job.json") or {}
        who = f"process {job['process'].split('|')[1]}, since {job['since']}" if "process" in job else "another process"
        raise BatchError(
            f"a batch job is at work on {path} ({who}): wait until it has ended, or name another output."
        ) from None
    except OSError as error:
        raise BatchError(f"the output {path} cannot be written ({runs.reason(error)}): name another place.") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def disk_errors(output: Output) -> Iterator[None]:
    """Turn what the disk refuses into a BatchError, and remove what was half written."""
    try:
        yield
    except OSError as error:
        _sweep(output.partial)
        half = output.folder and output.path.exists() and not output.is_whole()
        state = f"is unfinished, without {SUCCESS}" if half else "is as it was before"
        raise BatchError(
            f"the output {output.path} cannot be written ({runs.reason(error)}), and {state}: make room or give "
            "rights, and run again."
        ) from None


def begin(output: Output, key: dict[str, Any], run_time: str | None) -> tuple[str, list[Path], str]:
    """Begin or resume a job; return its time, its finished chunks, and what was thrown away and why ("" for nothing).

    `key` are the facts that an output depends on; chunks made with others are removed. The job's time is `run_time`,
    else that of the job that is resumed, else now.
    """
    partial = output.partial
    job, chunks, thrown = read_json(partial / "job.json") or {}, output.chunks(), ""
    if job.get("key") != key:
        if job and chunks:
            differ = [name for name in key if job["key"].get(name) != key[name]]
            thrown = f"partial work with another {' and '.join(differ).replace('_', ' ')} was thrown away"
        remove(partial, ignore_errors=False)  # a chunk that stays would be taken for one of this job
        job, chunks = {}, []
    partial.mkdir(exist_ok=True)
    _sweep(partial)
    time_of_job = run_time or job.get("run_time") or now()
    who = {"process": runs.this_process(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    write_atomically(partial / "job.json", json.dumps({"key": key, "run_time": time_of_job, **who}).encode())
    return time_of_job, chunks, thrown


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _sweep(partial: Path) -> None:
    """Remove what was being written when a job failed or was killed."""
    shutil.rmtree(partial / "new", ignore_errors=True)
    for left in partial.glob("*.new"):
        left.unlink(missing_ok=True)


def remove(partial: Path, ignore_errors: bool = True) -> None:
    """Remove partial work; first the file without which the rest counts for nothing."""
    (partial / "job.json").unlink(missing_ok=True)
    if partial.exists():
        shutil.rmtree(partial, ignore_errors)


# Chunks -----------------------------------------------------------------------------------------------------------


def write_chunk(path: Path, table: pa.Table, state: dict[str, Any], bad: str) -> None:
    """Keep a chunk, and the state of the job behind it; `bad` is its part of the quarantine file."""
    if bad:
        write_atomically(path.with_suffix(".csv"), bad.encode())
    # One piece: of a table whose first piece is empty pyarrow 25 writes leftover bytes into a CSV file
    table = table.combine_chunks().replace_schema_metadata({"state": json.dumps(state)})
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_file(buffer, table.schema) as writer:
        writer.write_table(table)
    write_atomically(path, memoryview(buffer.getvalue()))


def read_chunk(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    """Return a chunk, which stays on the disk until it is used, and the state of the job behind it."""
    try:
        with pa.memory_map(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
        return table, json.loads(table.schema.metadata[b"state"])
    except (pa.ArrowInvalid, ValueError, KeyError, TypeError) as error:
        raise BatchError(f"the partial work {path} is damaged ({runs.reason(error)}): remove its folder.") from None


# The output -------------------------------------------------------------------------------------------------------


def write_output(path: Path, form: str, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write tables of that schema as one file of the format csv or parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        if form == "parquet":
            with pa.parquet.ParquetWriter(file, schema) as writer:
                for table in tables:
                    writer.write_table(table, row_group_size=max(len(table), 1))
        else:
            file.write(csv_bytes(schema.empty_table(), header=True))
            for table in tables:
                file.write(csv_bytes(table))
    flush_to_disk(path)


def csv_bytes(table: pa.Table, header: bool = False, quotes: str = "none") -> pa.Buffer:
    """Return a table as CSV; its texts are quoted, all of them, if one has a comma, a quote or a line end."""
    buffer, rows = pa.BufferOutputStream(), max(len(table), 1)
    styles = {"quoting_style": quotes, "quoting_header": quotes}
    options = pa.csv.WriteOptions(include_header=header, batch_size=rows, **styles)
    try:
        pa.csv.write_csv(table, buffer, options)
    except pa.ArrowInvalid:
        if quotes == "needed":
            raise
        return csv_bytes(table, header, "needed")
    return buffer.getvalue()


def write_quarantine(output: Output) -> str | None:
    """Join the bad rows of all chunks in one new file; return its sha256, or None where no row is bad."""
    pieces = sorted(output.partial.glob("[0-9]*.csv"))
    if not pieces:
        return None
    path = output.new / QUARANTINE
    with path.open("wb") as file:
        file.write(b"file,line,reason,text\n")
        file.writelines(piece.read_bytes() for piece in pieces)
    flush_to_disk(path)
    return digest([(path.name, path)], folder=False)


def files_of_jobs(output: Output) -> set[str]:
    """Return the names of the data files that batch jobs have put into an output folder.

    Raises a BatchError if it holds other files too, because they would be removed.
    """
    path, names = output.path, set((read_json(output.manifest) or {}).get("files", []))
    found = {file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir()}
    if strange := sorted(found - names - {MANIFEST, QUARANTINE, SUCCESS}):
        raise BatchError(
            f"the output folder {path} holds {strange[0]!r}, which no batch job has put there, and it is replaced "
            "whole: name a new folder."
        )
    return names


def commit(output: Output, manifest: dict[str, Any]) -> None:
    """Put the new files in place, and last what says that the output is whole."""
    new, names = output.new, manifest["files"]
    write_atomically(new / MANIFEST, _json(manifest))
    if output.folder:
        (new / SUCCESS).touch()
        if not output.path.exists():
            new.replace(output.path)
            return
        old = files_of_jobs(output)
        (output.path / SUCCESS).unlink(missing_ok=True)
        # So that the next job, if this one is killed, knows whose files these are
        write_atomically(new / "unfinished", _json({"files": sorted(old.union(names))}))
        (new / "unfinished").replace(output.manifest)
        for name in old.difference(names):
            output.file(name).unlink(missing_ok=True)
            with suppress(OSError):  # it holds other files
                output.file(name).parent.rmdir()
    for name in names:
        output.file(name).parent.mkdir(parents=True, exist_ok=True)
        (new / name).replace(output.file(name))
    if manifest["quarantined"]:
        (new / QUARANTINE).replace(output.quarantine)
    else:
        output.quarantine.unlink(missing_ok=True)
    (new / MANIFEST).replace(output.manifest)
    if output.folder:
        (new / SUCCESS).replace(output.path / SUCCESS)
    flush_to_disk(output.manifest.parent)


def _json(facts: dict[str, Any]) -> bytes:
    return (json.dumps(facts, indent=2) + "\n").encode()
