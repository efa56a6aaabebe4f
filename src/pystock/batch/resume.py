"""The work of a batch job on disk: finished chunks, and an output that is replaced when the new one is whole.

    OUTPUT.partial/job.json             the settings of the job; the work of another job is discarded
    OUTPUT.partial/FILE-CHUNK.arrow     a finished chunk of an input file: carried columns, probability, decision
    OUTPUT.partial/new/                 the output, made from all chunks
    OUTPUT.partial/old/                 for a moment, the output folder that is being replaced

The output is made from the chunks alone, so it does not depend on where a job was killed. It is put in place by a
rename, a folder as a whole, with the empty file `_SUCCESS`.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from pystock.batch.rows import BatchError, InputError
from pystock.errors import reason
from pystock.files import flush_to_disk, write_atomically
from pystock.processes import this_process

MANIFEST, QUARANTINE, SUCCESS = "_manifest.json", "_quarantine.csv", "_SUCCESS"


class Output:
    """Where a job writes: a file or a folder, its manifest and quarantine, and partial work."""

    def __init__(self, path: Path, folder: bool):
        self.path, self.folder = path, folder
        self.manifest = path / MANIFEST if folder else path.with_name(path.name + ".manifest.json")
        self.quarantine = path / QUARANTINE if folder else path.with_name(path.stem + ".quarantine.csv")
        self.partial = path.with_name(path.name + ".partial")
        self.new, self.old = self.partial / "new", self.partial / "old"

    def file(self, name: str) -> Path:
        """Return the place of one of its data files."""
        return self.path / name if self.folder else self.path

    def chunks(self, file: str = "*") -> list[Path]:
        """Return the finished chunks in order, all or those of the input file of that number."""
        return sorted(self.partial.glob(f"{file}-*.arrow"))


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; nothing if it is missing or damaged, because then the work is redone."""
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        return content
    except (OSError, ValueError):
        return {}


def digest(files: list[tuple[str, Path]], folder: bool) -> str:
    """Return the sha256 of a file's bytes; of a folder that of the lines NAME DIGEST of its files."""
    found = []
    for name, path in files:
        try:
            with path.open("rb") as file:
                found.append((name, hashlib.file_digest(file, "sha256").hexdigest()))
        except OSError as error:
            raise BatchError(f"{name} cannot be read ({reason(error)}): check the file and its permissions.") from None
    if not folder:
        return found[0][1]
    return hashlib.sha256("".join(f"{name} {one}\n" for name, one in found).encode()).hexdigest()


@contextmanager
def locked(output: Output) -> Iterator[None]:
    """Lock an output. Raises BatchError, naming the holder, if another job has it, and for errors of the disk.

    After an error, half-written files are removed; if the input caused it, all partial work is removed.
    """
    path = output.path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_name(f".{path.name}.lock"), timeout=0):
            try:
                _sweep(output)  # first, because an error of the input removes all partial work
                yield
            except InputError:
                remove(output)
                raise
            except OSError:
                _sweep(output)
                raise
    except filelock.Timeout:
        job = read_json(output.partial / "job.json")
        who = f"process {job['process'].split('|')[1]}, since {job['since']}" if job else "another process"
        busy = f"another batch job is writing {path} ({who})"
        raise BatchError(f"{busy}: wait until it ends, or choose another output.") from None
    except OSError as error:
        problem = f"the output {path} cannot be written ({reason(error)}), so it is unchanged"
        raise BatchError(f"{problem}: free some space or fix the permissions, then run again.") from None


def begin(output: Output, key: dict[str, Any], run_time: str | None) -> tuple[str, list[Path], str]:
    """Begin or resume a job; return its time, its finished chunks, and what was discarded and why ("" for nothing).

    Call it locked. `key` are the facts that an output depends on; chunks with a different key are removed. The job's
    time is `run_time`, or else that of the resumed job, or else now.
    """
    partial = output.partial
    job, chunks, thrown = read_json(partial / "job.json"), output.chunks(), ""
    if job.get("key") != key:
        if job and chunks:
            differ = [name for name in key if job["key"].get(name) != key[name]]
            thrown = f"partial work with another {' and '.join(differ).replace('_', ' ')} was discarded"
        remove(output, ignore_errors=False)  # a remaining chunk would be used as one of this job
        job, chunks = {}, []
    partial.mkdir(exist_ok=True)
    time_of_job = run_time or job.get("run_time") or now()
    who = {"process": this_process(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    write_atomically(partial / "job.json", json.dumps({"key": key, "run_time": time_of_job, **who}).encode())
    return time_of_job, chunks, thrown


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _sweep(output: Output) -> None:
    """Remove what was being written when a job failed or was killed; put back an output folder that was moved."""
    if output.old.exists() and not output.path.exists():
        output.old.replace(output.path)
    shutil.rmtree(output.new, ignore_errors=True)
    for left in output.partial.glob("*.new"):
        left.unlink(missing_ok=True)


def remove(output: Output, ignore_errors: bool = True) -> None:
    """Remove partial work; first the file without which the rest is ignored."""
    (output.partial / "job.json").unlink(missing_ok=True)
    if output.partial.exists():
        shutil.rmtree(output.partial, ignore_errors)


# Chunks -----------------------------------------------------------------------------------------------------------


def write_chunk(path: Path, table: pa.Table, state: dict[str, Any]) -> None:
    """Store a chunk, and the state of the job after it."""
    # One piece: of a table whose first piece is empty pyarrow 25 writes leftover bytes into a CSV file
    table = table.combine_chunks().replace_schema_metadata({"state": json.dumps(state)})
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_file(buffer, table.schema) as writer:
        writer.write_table(table)
    write_atomically(path, memoryview(buffer.getvalue()))


def read_chunk(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    """Return a chunk, which stays on the disk until it is used, and the state of the job after it."""
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
    return table, json.loads(table.schema.metadata[b"state"])


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
    """Return a table as CSV; its texts are quoted, all of them, if one has a comma, a quote or a line end.

    Raises BatchError for types that CSV cannot store.
    """
    buffer, rows = pa.BufferOutputStream(), max(len(table), 1)
    styles = {"quoting_style": quotes, "quoting_header": quotes}
    options = pa.csv.WriteOptions(include_header=header, batch_size=rows, **styles)
    try:
        pa.csv.write_csv(table, buffer, options)
    except pa.ArrowInvalid as error:
        if quotes == "needed":
            raise BatchError(f"columns have types that CSV cannot store ({reason(error)}): write parquet.") from None
        return csv_bytes(table, header, "needed")
    return buffer.getvalue()


def write_quarantine(output: Output) -> None:
    """Write the bad rows of all chunks to one new file, if there are any."""
    pieces = [read_chunk(path)[1]["bad"] for path in output.chunks()]
    if any(pieces):
        path = output.new / QUARANTINE
        path.write_bytes(f"file,line,reason,text\n{''.join(pieces)}".encode())
        flush_to_disk(path)


def files_of_jobs(output: Output) -> None:
    """Raise a BatchError if an output folder has files that no batch job wrote; they would be removed."""
    path, names = output.path, read_json(output.manifest).get("files", [])
    found = {file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir()}
    if strange := sorted(found.difference(names, {MANIFEST, QUARANTINE, SUCCESS})):
        others = f"{strange[0]!r}, which no batch job wrote and which would be removed"
        raise BatchError(f"the output folder {path} contains {others}: choose a new folder.")


def commit(output: Output, manifest: dict[str, Any]) -> None:
    """Put the new files in place; last comes the file that says that the output is complete."""
    new = output.new
    write_atomically(new / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
    if output.folder:
        (new / SUCCESS).touch()
        if output.path.exists():
            files_of_jobs(output)
            output.path.replace(output.old)
        new.replace(output.path)
    else:
        (new / manifest["files"][0]).replace(output.path)
        if manifest["quarantined"]:
            (new / QUARANTINE).replace(output.quarantine)
        else:
            output.quarantine.unlink(missing_ok=True)
        (new / MANIFEST).replace(output.manifest)
    flush_to_disk(output.path.parent)
