"""Batch inference: every row of a file, or of a folder of files, scored by one version of a registered model.

Rows go through memory in chunks, and finished chunks stay on the disk until the output is whole: a job that was killed
resumes there, and its output is the same, byte for byte, as if it had not been.
"""

import csv
import io
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
from mlflow.data.meta_dataset import MetaDataset
from mlflow.data.sources import LocalArtifactDatasetSource  # type: ignore[attr-defined]  # MLflow makes it at run time
from mlflow.entities import LoggedModelInput, Metric
from mlflow.exceptions import MlflowException
from tqdm import tqdm

from pystock import files, model_uri, runs
from pystock.batch import resume as work
from pystock.batch import rows
from pystock.batch.rows import FORMATS, BatchError, InputError, Part
from pystock.errors import PystockError, first_line, reason

if TYPE_CHECKING:  # at run time it is loaded with the model
    from pystock.models import LoadedModel

PIPELINE = "pystock-inference-batch"
MODEL = "models:/pystock-big-move@champion"
CHUNK_ROWS = 50_000
WRITTEN = ("probability", "decision", "model_name", "model_version", "run_time", "input_digest")
BINS = 1000  # of the histogram of probabilities; its quantiles are exact to one bin, 0.001
QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
SMALL = 10_000_000  # bytes; a larger quarantine file is not copied into the store
QUIET = 30  # seconds between two signs of progress if stderr is not a terminal
START: dict[str, Any] = {"rows": 0, "quarantined": 0, "decided": 0, "bins": [0] * BINS}
_MODULES = (sys.modules[__name__], work, rows, files)  # partial work of other code is not used
_CODE = runs.code_digest(*(Path(str(module.__file__)).read_bytes() for module in _MODULES))


class ServerGone(BatchError):
    """Raised if the tracking server does not respond: then nothing can be logged there either."""


@dataclass(frozen=True)
class JobResult:
    """What a job did. `outcome` is done or skipped, `said` one sentence about it.

    `rows` were read: `scored` + `quarantined`. `seconds` are those of reading, predicting and writing in this call.
    `input_digest` is a sha256, `run_time` when the job first began (ISO 8601, UTC). `quarantine` may be None.
    """

    outcome: str
    said: str
    rows: int
    scored: int
    quarantined: int
    seconds: float
    model: str
    version: int
    model_id: str
    input_digest: str
    run_time: str
    output: Path
    quarantine: Path | None


@dataclass(frozen=True)
class _Job:
    """The settings of a job.

    `outputs` are name and format of the output file of each of the `files`; `form` is csv or parquet, in a folder also
    "as input". `key` are the facts that identify an output: input_digest, model, version, model_id and format.
    `run_id` is the active run.
    """

    source: Path
    files: list[tuple[str, Path]]
    output: work.Output
    outputs: list[tuple[str, str]]
    form: str
    model: str
    chunk_rows: int
    run_time: str | None
    progress: bool
    run_id: str
    key: dict[str, Any]

    @property
    def version(self) -> str:
        return f"version {self.key['version']} of {self.key['model']}"


def score(
    input: str | Path,
    output: str | Path,
    *,
    model: str = MODEL,
    format: str | None = None,
    chunk_rows: int = CHUNK_ROWS,
    run_time: str | None = None,
    force: bool = False,
    progress: bool = True,
) -> JobResult:
    """Score the rows of `input` with one version of a registered model, write `output`, and log into the active run.

    `input` is a CSV or Parquet file, or a folder of them (names that begin with `_` or `.` are left out); the model's
    columns are found by name, all others are copied. `output` is a file or a folder likewise, in `format` (csv
    or parquet; None: as the output's suffix says, in a folder as each input file). It has the carried columns and
    `WRITTEN`: probability (double), decision (0 or 1) …. Rows that cannot be scored go to OUTPUT.quarantine.csv, in a
    folder `_quarantine.csv`; OUTPUT.manifest.json, `_manifest.json`, says what was done.

    `model` is models:/NAME@ALIAS or models:/NAME/VERSION, looked up once. `chunk_rows` rows (of CSV: about as many) are
    read, scored and kept in one go. `run_time` is an ISO 8601 time with its offset; None: when the job began first. A
    finished output of the same input, version and format is left alone (skipped) without `force`. A job that was
    killed resumes where it was, if input, version and settings are the same.

    Raises BatchError, one sentence, for anything that prevents it; the output is then unchanged.
    """
    if (run := mlflow.active_run()) is None:
        raise BatchError("no run is active: call score inside `with mlflow.start_run():`.")
    try:
        source, path = (Path(os.path.abspath(place)) for place in (input, output))  # noqa: PTH100 - links stay
        run_time, found, place = _utc(run_time), rows.files(source), work.Output(path, source.is_dir())
        _check_places(source, place)
        form = _output_format(format, place)
        if not isinstance(chunk_rows, int) or chunk_rows < 1:
            raise BatchError(f"chunk_rows is {chunk_rows!r}: give a whole number of rows, 1 or more.")
        key, model = _resolve(str(model)) | {"format": form}, str(model)
        with work.locked(place):
            begun, stamps = time.perf_counter(), _stamps(found)
            key = {"input_digest": work.digest(found, place.folder), **key}
            read, outputs = time.perf_counter() - begun, _outputs(found, place, form)
            job = _Job(source, found, place, outputs, form, model, chunk_rows, run_time, progress, run.info.run_id, key)
            _log_inputs(job)
            done = work.read_json(place.manifest)
            if force or not _is_complete(job, done):
                return _score(job, stamps, read)
            work.remove(place)
            said = f"skipped, because the {done['scored']:,} predictions of this input by {job.version} already exist"
            return _end("skipped", said, job, done, 0.0, made_by=done["run"])
    except ServerGone:
        raise
    except BatchError as error:
        with suppress(MlflowException):
            mlflow.set_tag("failed_because", first_line(error, most=500))
        raise


def _score(job: _Job, stamps: list[tuple[int, int] | None], read: float) -> JobResult:
    """Do a job. Its input had these stamps before its digest was computed, which took `read` seconds."""
    output = job.output
    if output.folder:
        work.files_of_jobs(output)
    loaded = _load(job)
    begun = time.perf_counter() - read
    parts = [rows.open_part(name, path, loaded.features, WRITTEN) for name, path in job.files]
    for part, (_, form) in zip(parts, job.outputs):
        if form == "csv":  # an error of its types comes before the work
            work.csv_bytes(part.carried.empty_table(), header=True)
    run_time, chunks, thrown = work.begin(output, job.key | {"chunk_rows": job.chunk_rows, "code": _CODE}, job.run_time)
    state = work.read_chunk(chunks[-1])[1] if chunks else START
    resumed = state["rows"]
    state = _score_chunks(job, loaded, parts, state)
    if _stamps(job.files) != stamps:
        raise InputError(f"the input {job.source} was changed while it was read: run again.")
    if not state["rows"]:
        raise InputError(f"the input {job.source} has columns but no rows: there is nothing to score.")
    made = _assemble(job, parts, run_time)
    seconds = time.perf_counter() - begun
    total, bad = state["rows"], state["quarantined"]
    facts = {"input": str(job.source), "run": job.run_id, "run_time": run_time}
    manifest = {**job.key, **facts, "rows": total, "scored": total - bad, "quarantined": bad, **made}
    _log_results(job, manifest, state, seconds, total - resumed)
    work.commit(output, manifest)
    work.remove(output)
    said = f"{total - bad:,} of {total:,} rows" if bad else f"{total:,} rows"
    said += f" scored by {job.version}" + (f", {bad:,} in quarantine" if bad else "")
    said += f", {resumed:,} of them before this job was resumed" if resumed else ""
    return _end("done", said + (f"; {thrown}" if thrown else ""), job, manifest, seconds)


# MLflow -----------------------------------------------------------------------------------------------------------


@contextmanager
def mlflow_errors() -> Iterator[None]:
    """Turn errors of MLflow into a BatchError of one sentence, ServerGone if its server does not respond."""
    try:
        yield
    except PystockError as error:
        raise BatchError(str(error)) from error
    except MlflowException as error:
        uri = mlflow.get_tracking_uri()
        address = urlsplit(uri)
        if address.scheme in ("http", "https"):
            try:
                port = address.port or {"http": 80, "https": 443}[address.scheme]
                socket.create_connection((address.hostname, port), timeout=5).close()
            except OSError as gone:
                silent = f"the MLflow server {uri} does not respond ({gone.strerror or gone})"
                raise ServerGone(f"{silent}: start it, or set MLFLOW_TRACKING_URI to a running one.") from None
        raise BatchError(f"MLflow refused the request ({first_line(error)}).") from error
    except OSError as error:
        what = error.filename or "a file"
        raise BatchError(f"MLflow cannot read or write {what} ({reason(error)}).") from error


@mlflow_errors()
def check_server() -> None:
    """Raise a BatchError if the tracking server does not respond."""
    mlflow.MlflowClient().search_experiments(max_results=1)


@mlflow_errors()
def _resolve(uri: str) -> dict[str, Any]:
    """Return name and version of a registered model, and the id of the logged model that it is."""
    mlflow.set_tags({"pipeline": PIPELINE, "git_commit": runs.git_commit()})
    found = model_uri.resolve(uri)
    return {"model": found.name, "version": int(found.version), "model_id": model_uri.model_id_of(found)}


@mlflow_errors()
def _load(job: _Job) -> "LoadedModel":
    from pystock.models import load_decision_model  # late: MLflow's part for models takes a second to import

    return load_decision_model(f"models:/{job.key['model']}/{job.key['version']}", job.version)


@mlflow_errors()
def _log_inputs(job: _Job) -> None:
    """Log what is known before: parameters (unless `mlflow run` has logged them), tags, the input and the model."""
    logged = mlflow.get_run(job.run_id).data
    params = {"model": job.model, "chunk_rows": job.chunk_rows, "input": job.source, "output": job.output.path}
    params["format"] = job.form
    mlflow.log_params({name: value for name, value in params.items() if name not in logged.params})
    name, version, model_id, digest = (job.key[key] for key in ("model", "version", "model_id", "input_digest"))
    tags = {"step": logged.tags.get("step", "score"), "input_digest": digest}
    mlflow.set_tags(tags | {"model_name": name, "model_version": version, "model_id": model_id})
    source = LocalArtifactDatasetSource(str(job.source))  # MLflow takes a digest of 36 digits at most
    dataset = MetaDataset(source, job.source.name, digest[:32])  # type: ignore[abstract]  # MLflow's own
    mlflow.log_input(dataset, context="batch", model=LoggedModelInput(model_id) if model_id else None)


@mlflow_errors()
def _log_results(job: _Job, manifest: dict[str, Any], state: dict[str, Any], seconds: float, new: int) -> None:
    metrics = {name: manifest[name] for name in ("rows", "scored", "quarantined")}
    metrics |= {"seconds": seconds, "rows_per_second": new / seconds}
    if manifest["scored"]:
        metrics["decision_share"] = state["decided"] / manifest["scored"]
        metrics |= {f"probability_p{share * 100:02.0f}": _quantile(state["bins"], share) for share in QUANTILES}
    logged = [Metric(name, float(value), int(time.time() * 1000), 0) for name, value in metrics.items()]
    mlflow.MlflowClient().log_batch(job.run_id, metrics=logged)  # mlflow.log_metrics would log them with the model, too
    mlflow.log_dict(manifest, "manifest.json")
    bad = job.output.new / work.QUARANTINE
    if bad.exists() and bad.stat().st_size <= SMALL:
        mlflow.log_text(bad.read_text(encoding="utf-8"), "quarantine.csv")


def _quantile(bins: list[int], share: float) -> float:
    """Return a quantile from the histogram, straight within a bin."""
    sums = np.cumsum(bins)
    wanted = share * sums[-1]
    at = int(np.searchsorted(sums, wanted))
    return float((at + 1 - (sums[at] - wanted) / bins[at]) / BINS)


@mlflow_errors()
def _end(outcome: str, said: str, job: _Job, manifest: dict[str, Any], seconds: float, **tags: str) -> JobResult:
    mlflow.set_tags({"outcome": outcome, "said": said, **tags})
    names = ("rows", "scored", "quarantined", "model", "version", "model_id", "input_digest", "run_time")
    facts = {name: manifest[name] for name in names}
    quarantine = job.output.quarantine if manifest["quarantined"] else None
    return JobResult(outcome, said, seconds=seconds, output=job.output.path, quarantine=quarantine, **facts)


# Before ---------------------------------------------------------------------------------------------------------


def _utc(text: str | None) -> str | None:
    if not text:
        return None
    with suppress(ValueError):
        if (moment := datetime.fromisoformat(text)).tzinfo:
            return moment.astimezone(UTC).isoformat(timespec="seconds")
    raise BatchError(f"run_time is {text!r}: write a time with its offset, such as 2015-01-02T21:00:00+00:00.")


def _check_places(source: Path, output: work.Output) -> None:
    path, here, there = output.path, source.resolve(), output.path.resolve()
    if here.is_relative_to(there) or (output.folder and there.is_relative_to(here)):
        places = f"the input {source} and the output {path} are the same, or one is inside the other"
        raise BatchError(f"{places}: choose another output.")
    if path.exists() and path.is_dir() != output.folder:
        kinds = ("folder", "file") if output.folder else ("file", "folder")
        raise BatchError(f"the input is a {kinds[0]} but the output {path} is a {kinds[1]}: choose another output.")


def _output_format(asked: str | None, output: work.Output) -> str:
    if asked and asked not in FORMATS.values():
        raise BatchError(f"the format {asked!r} is unknown: choose csv or parquet.")
    if output.folder:
        return asked or "as input"
    name, suffix = output.path.name, FORMATS.get(output.path.suffix.lower())
    if not suffix and not asked:
        raise BatchError(f"the output {name} does not end in .csv or .parquet: rename it, or give the format.")
    if suffix and asked and asked != suffix:
        raise BatchError(f"the output {name} ends in .{suffix}, but the format is {asked}: change one of them.")
    return suffix or str(asked)


def _outputs(files: list[tuple[str, Path]], output: work.Output, form: str) -> list[tuple[str, str]]:
    """Return name and format of the output file of each input file; in a folder the name stays but for the suffix."""
    if not output.folder:
        return [(output.path.name, form)]
    found: dict[str, str] = {}
    for name, path in files:
        given = FORMATS[path.suffix.lower()]
        wanted = given if form == "as input" else form
        name = name if wanted == given else Path(name).with_suffix(f".{wanted}").as_posix()
        if name in found:
            raise BatchError(f"two input files would both become {name}: rename one, or omit the format.")
        found[name] = wanted
    return list(found.items())


def _is_complete(job: _Job, done: dict[str, Any]) -> bool:
    """Return whether the output that a manifest describes is the one that this job would make, unchanged."""
    output, files = job.output, [(name, job.output.file(name)) for name in done.get("files", [])]
    whole = (output.path / work.SUCCESS).exists() or not output.folder
    if not whole or not job.key.items() <= done.items() or not all(path.exists() for _, path in files):
        return False
    return _digests(output, files, output.quarantine).items() <= done.items()


def _digests(output: work.Output, files: list[tuple[str, Path]], quarantine: Path) -> dict[str, str | None]:
    bad = work.digest([("", quarantine)], folder=False) if quarantine.exists() else None
    return {"output_digest": work.digest(files, output.folder), "quarantine_digest": bad}


def _stamps(files: list[tuple[str, Path]]) -> list[tuple[int, int] | None]:
    stats = (path.stat() if path.exists() else None for _, path in files)
    return [about and (about.st_size, about.st_mtime_ns) for about in stats]


# The work ---------------------------------------------------------------------------------------------------------


def _score_chunks(job: _Job, loaded: "LoadedModel", parts: list[Part], state: dict[str, Any]) -> dict[str, Any]:
    """Score the rows after the finished chunks, at whose end the job had that state; return its last state."""
    quiet: dict[str, Any] = {} if sys.stderr.isatty() else {"mininterval": QUIET, "delay": QUIET}
    form = "{percentage:3.0f}%|{bar}|{postfix} [{elapsed}<{remaining}]"
    with tqdm(total=len(parts), bar_format=form, disable=not job.progress, **quiet) as bar:
        for at, part in enumerate(parts):
            done = len(job.output.chunks(f"{at:06d}"))
            for number, chunk in enumerate(part.chunks(job.chunk_rows, done), done):
                probability, decision = _predict(loaded, chunk.numbers)
                columns = [*chunk.carried.columns, pa.array(probability), pa.array(decision)]
                table = pa.Table.from_arrays(columns, [*chunk.carried.column_names, *WRITTEN[:2]])
                lines = io.StringIO()
                csv.writer(lines, lineterminator="\n").writerows((part.name, *bad) for bad in chunk.bad)
                bins = np.minimum((probability * BINS).astype("int64"), BINS - 1)
                state = {
                    "rows": state["rows"] + len(probability) + len(chunk.bad),
                    "quarantined": state["quarantined"] + len(chunk.bad),
                    "bad": lines.getvalue(),
                    "decided": state["decided"] + int(decision.sum()),
                    "bins": (np.bincount(bins, minlength=BINS) + state["bins"]).tolist(),
                }
                work.write_chunk(job.output.partial / f"{at:06d}-{number:08d}.arrow", table, state)
                bar.set_postfix_str(f"{state['rows']:,} rows", refresh=False)
                bar.update(at + chunk.share - bar.n)
    return state


def _predict(loaded: "LoadedModel", numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not numbers.shape[1]:
        return np.empty(0), np.empty(0, "int64")
    try:
        if loaded.probability and loaded.threshold is not None:  # a third of the time, because all is checked already
            probability = loaded.probability(numbers.T)
            decision = (probability > loaded.threshold).astype("int64")
        else:
            answer: pd.DataFrame = loaded.model.predict(pd.DataFrame(numbers.T, columns=loaded.features))
            probability = np.asarray(answer["probability"], dtype="float64")
            decision = np.asarray(answer["decision"], dtype="int64")
    except Exception as error:  # anything that the model's own code raises
        raise BatchError(f"the model did not return a probability and a decision ({first_line(error)}).") from error
    if not ((probability >= 0) & (probability <= 1)).all():
        raise BatchError("the model returned probabilities outside 0 to 1: use another model.")
    return probability, decision


def _assemble(job: _Job, parts: list[Part], run_time: str) -> dict[str, Any]:
    """Make the output files and the quarantine file from the chunks; return what the manifest says about them."""
    constants = (job.key["model"], job.key["version"], run_time, job.key["input_digest"])
    types = (pa.float64(), pa.int64(), pa.string(), pa.int64(), pa.string(), pa.string())

    def complete(path: Path, schema: pa.Schema) -> pa.Table:
        table = work.read_chunk(path)[0]
        repeated = [pa.repeat(pa.scalar(value), len(table)) for value in constants]
        return pa.Table.from_arrays([*table.columns, *repeated], schema=schema)

    output = job.output
    made = [(name, output.new / name) for name, _ in job.outputs]
    for at, (part, (name, form)) in enumerate(zip(parts, job.outputs)):
        schema, chunks = pa.schema([*part.carried, *map(pa.field, WRITTEN, types)]), output.chunks(f"{at:06d}")
        work.write_output(output.new / name, form, schema, (complete(path, schema) for path in chunks))
    work.write_quarantine(output)
    return {**_digests(output, made, output.new / work.QUARANTINE), "files": [name for name, _ in made]}
