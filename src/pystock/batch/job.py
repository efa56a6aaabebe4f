"""Batch inference: every row of a file, or of a folder of files, scored by one version of a registered model.

The version is looked up once and written beside each prediction, with the time of the job and a digest of its input.
Rows go through memory in chunks, and finished chunks stay on the disk until the output is whole: a job that was killed
resumes there, and its output is the same, byte for byte, as if it had not been.
"""

import csv
import io
import os
import re
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

from pystock import files, runs
from pystock.batch import resume as work
from pystock.batch import rows
from pystock.batch.rows import FORMATS, BatchError, InputError, Part

if TYPE_CHECKING:  # at run time MLflow loads it when it is first used
    from mlflow.pyfunc import PyFuncModel

PIPELINE = "pystock-inference-batch"
MODEL = "models:/pystock-big-move@champion"
CHUNK_ROWS = 50_000
WRITTEN = ("probability", "decision", "model_name", "model_version", "run_time", "input_digest")
BINS = 1000  # of the histogram of probabilities; its quantiles are exact to one bin, 0.001
QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
SMALL = 10_000_000  # bytes; a larger quarantine file is not copied into the store
QUIET = 30  # seconds between two signs of progress if stderr is not a terminal
# Partial work of other code is not used
_CODE = runs.code_digest(
    *(Path(str(module.__file__)).read_bytes() for module in (sys.modules[__name__], work, rows, files))
)


class ServerGone(BatchError):
    """The tracking server does not answer: nothing can be logged there either."""


@dataclass(frozen=True)
class Result:
    """What a job did. `outcome` is done or skipped, `said` one sentence about it.

    `rows` were read: `scored` + `quarantined`. `seconds` of reading, predicting and writing in this call, 0 if it was
    skipped. `version` of the registered `model` is the logged model `model_id`. `input_digest` is a sha256, `run_time`
    when the job began first (ISO 8601, UTC). `quarantine` is None if no row is bad.
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


@dataclass
class _Job:
    """What a job was asked to do.

    `form` is csv or parquet, in a folder also "as input"; `key` are the facts that make an output that of this job:
    input_digest, model, version, model_id and format. `run_id` is the active run.
    """

    source: Path
    files: list[tuple[str, Path]]
    output: work.Output
    form: str
    chunk_rows: int
    progress: bool
    key: dict[str, Any]
    run_id: str
    seconds: float = 0.0

    @property
    def version(self) -> str:
        return f"version {self.key['version']} of {self.key['model']}"

    def outputs(self) -> list[tuple[str, str]]:
        """Return name and format of the output file of each input file; in a folder the name stays but for the suffix.

        BatchError if two of them have one name.
        """
        if not self.output.folder:
            return [(self.output.path.name, self.form)]
        found: dict[str, str] = {}
        for name, path in self.files:
            given = FORMATS[path.suffix.lower()]
            form = given if self.form == "as input" else self.form
            name = name if form == given else Path(name).with_suffix(f".{form}").as_posix()
            if name in found:
                raise BatchError(f"two input files would both become {name}: rename one, or leave format out.")
            found[name] = form
        return list(found.items())

    @contextmanager
    def timed(self) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - begun


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
) -> Result:
    """Score the rows of `input` with one version of a registered model, write `output`, and log into the active run.

    `input` is a CSV or Parquet file, or a folder of them (names that begin with `_` or `.` are left out); the model's
    columns are found by name, all others are carried along. `output` is a file or a folder likewise, in `format` (csv
    or parquet; None: as the output's suffix says, in a folder as each input file). It has the carried columns,
    probability (double), decision (0 or 1), model_name, model_version, run_time, input_digest. Rows that cannot be
    scored go to OUTPUT.quarantine.csv, in a folder `_quarantine.csv`; OUTPUT.manifest.json, `_manifest.json`, says what
    was done. An output folder without `_SUCCESS` is unfinished.

    `model` is models:/NAME@ALIAS or models:/NAME/VERSION, looked up once. `chunk_rows` rows (of CSV: about as many) are
    read, scored and kept in one go. `run_time` is an ISO 8601 time with its offset; None: when the job began first. A
    finished output of the same input, version and format is left alone (skipped) without `force`. A job that was
    killed resumes where it was, if input, version and settings are the same.

    BatchError in one sentence for anything that prevents it; the output is then as it was before.
    """
    run = mlflow.active_run()
    if run is None:
        raise BatchError(
            "no run is active, and a batch job logs into one: call score inside `with mlflow.start_run():`."
        )
    try:
        source, path = (Path(os.path.abspath(place)) for place in (input, output))  # noqa: PTH100 - links stay
        run_time, found = _utc(run_time), rows.files(source)
        place = work.Output(path, source.is_dir())
        _check_places(source, place)
        form = _output_format(format, place)
        if not isinstance(chunk_rows, int) or chunk_rows < 1:
            raise BatchError(f"chunk_rows is {chunk_rows!r}: give a whole number of rows, 1 or more.")
        with mlflow_errors():
            mlflow.set_tags({"pipeline": PIPELINE, "git_commit": runs.git_commit()})
            key = _resolve(str(model)) | {"format": form}
        job = _Job(source, found, place, form, chunk_rows, progress, key, run.info.run_id)
        with work.locked(path):
            return _score(job, str(model), run_time, force)
    except ServerGone:
        raise
    except BatchError as error:
        with suppress(MlflowException):
            mlflow.set_tag("failed_because", runs.first_line(error, most=500))
        raise


def _score(job: _Job, model_uri: str, run_time: str | None, force: bool) -> Result:
    output, stamps = job.output, _stamps(job.files)
    with job.timed():
        job.key = {"input_digest": work.digest(job.files, output.folder), **job.key}
    with mlflow_errors():
        _log_inputs(job, model_uri)
    done = work.read_json(output.manifest)
    if done and not force and _is_complete(job, done):
        with work.disk_errors(output):
            work.remove(output.partial)
        said = f"skipped, the {done['scored']:,} predictions of this input by {job.version} are there already"
        return _end("skipped", said, output, done, 0.0, made_by=done["run"])
    if output.folder:
        work.files_of_jobs(output)
    model, features = _load(job)
    with job.timed():
        parts = [rows.open_part(name, path, features, WRITTEN) for name, path in job.files]
        _check_columns(job, parts)
        with work.disk_errors(output):
            work_key = job.key | {"chunk_rows": job.chunk_rows, "code": _CODE}
            run_time, chunks, thrown = work.begin(output, work_key, run_time)
        state: dict[str, Any] = {"file": 0, "position": None, "rows": 0, "quarantined": 0}
        if chunks:
            state = work.read_chunk(chunks[-1])[1]
        resumed = state["rows"]
        try:
            with work.disk_errors(output):
                state = _score_chunks(job, model, parts, len(chunks), state)
            if _stamps(job.files) != stamps:
                raise InputError(f"the input {job.source} was changed while it was read: run again.")
            if not state["rows"]:
                raise InputError(f"the input {job.source} holds columns and no rows: there is nothing to score.")
        except InputError:
            work.remove(output.partial)
            raise
        with work.disk_errors(output):
            made = _assemble(job, parts, run_time)
    total, bad = state["rows"], state["quarantined"]
    with mlflow_errors():
        facts = {"input": str(job.source), "run": job.run_id, "run_time": run_time}
        manifest = {**job.key, **facts, "rows": total, "scored": total - bad, "quarantined": bad, **made}
        _log_results(job, manifest, resumed)
    with work.disk_errors(output):
        work.commit(output, manifest)
        work.remove(output.partial)
    said = f"{total - bad:,} of {total:,} rows" if bad else f"{total:,} rows"
    said += f" scored by {job.version}" + (f", {bad:,} in quarantine" if bad else "")
    said += f", {resumed:,} of them before this job was resumed" if resumed else ""
    return _end("done", said + (f"; {thrown}" if thrown else ""), output, manifest, job.seconds)


def _end(outcome: str, said: str, output: work.Output, manifest: dict[str, Any], seconds: float, **tags: str) -> Result:
    with mlflow_errors():
        mlflow.set_tags({"outcome": outcome, "said": said, **tags})
    names = ("rows", "scored", "quarantined", "model", "version", "model_id", "input_digest", "run_time")
    facts = {name: manifest[name] for name in names}
    quarantine = output.quarantine if manifest["quarantined"] else None
    return Result(outcome, said, seconds=seconds, output=output.path, quarantine=quarantine, **facts)


# Before ---------------------------------------------------------------------------------------------------------


def _utc(text: str | None) -> str | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo:
            return moment.astimezone(UTC).isoformat(timespec="seconds")
    except ValueError:
        pass
    raise BatchError(f"run_time is {text!r}: write a time with its offset, as in 2015-01-02T21:00:00+00:00.")


def _output_format(asked: str | None, output: work.Output) -> str:
    if asked and asked not in FORMATS.values():
        raise BatchError(f"the format {asked!r} is unknown: choose csv or parquet.")
    if output.folder:
        return asked or "as input"
    name, suffix = output.path.name, FORMATS.get(output.path.suffix.lower())
    if suffix and asked and asked != suffix:
        raise BatchError(f"the output {name} is {suffix} by its name, and the format asked for is {asked}.")
    if form := suffix or asked:
        return form
    raise BatchError(f"the output {name} is neither .csv nor .parquet by its name: rename it, or say format.")


def _check_places(source: Path, output: work.Output) -> None:
    path, here, there = output.path, source.resolve(), output.path.resolve()
    if here.is_relative_to(there) or (output.folder and there.is_relative_to(here)):
        places = f"the input {source} and the output {path} are one place, or one is inside the other"
        raise BatchError(f"{places}: name another output.")
    if path.exists() and path.is_dir() != output.folder:
        kinds = ("folder", "file") if output.folder else ("file", "folder")
        raise BatchError(f"the input is a {kinds[0]} and the output {path} a {kinds[1]}: name another output.")


def _resolve(uri: str) -> dict[str, Any]:
    """Return name and version of a registered model, and the id of the logged model that it is."""
    asked = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/([0-9]+))", uri)
    if not asked:
        raise BatchError(f"the model is {uri!r}: write models:/NAME@ALIAS or models:/NAME/VERSION.")
    name, alias, number = asked.groups()
    client = mlflow.MlflowClient()
    try:
        version = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, number)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        what = f"the model {name} has no {alias or f'version {number}'} in this store"
        raise BatchError(f"{what}: promote a version, or name another model.") from None
    return {"model": name, "version": int(version.version), "model_id": runs.model_id_of(version)}


def check_server() -> None:
    """Raise a BatchError if the tracking server does not answer."""
    with mlflow_errors():
        mlflow.MlflowClient().search_experiments(max_results=1)


@contextmanager
def mlflow_errors() -> Iterator[None]:
    """Turn what MLflow cannot do into a BatchError of one sentence, ServerGone if its server does not answer."""
    try:
        yield
    except MlflowException as error:
        uri = mlflow.get_tracking_uri()
        address = urlsplit(uri)
        if address.scheme in ("http", "https"):
            try:
                port = address.port or {"http": 80, "https": 443}[address.scheme]
                socket.create_connection((address.hostname, port), timeout=5).close()
            except OSError as gone:
                raise ServerGone(
                    f"the MLflow server {uri} does not answer ({gone.strerror or gone}): start it, or set "
                    "MLFLOW_TRACKING_URI to one that runs."
                ) from None
        raise BatchError(f"MLflow refuses ({runs.first_line(error)}).") from error
    except OSError as error:
        what = error.filename or "a file"
        raise BatchError(f"MLflow cannot read or write {what} ({runs.reason(error)}).") from error


def _load(job: _Job) -> tuple["PyFuncModel", list[str]]:
    """Return the pinned version, and its columns in order."""
    with mlflow_errors():
        try:
            model = mlflow.pyfunc.load_model(f"models:/{job.key['model']}/{job.key['version']}")
        except MlflowException:
            raise
        except Exception as error:  # anything that the model's own code and its libraries raise
            raise BatchError(f"{job.version} cannot be loaded here ({runs.first_line(error)}).") from error
    signature = model.metadata.signature
    inputs = signature.inputs if signature else None
    if not inputs or not inputs.has_input_names() or any(each.type.name != "double" for each in inputs):
        raise BatchError(f"{job.version} has no signature of named columns of doubles: log it with one.")
    return model, inputs.input_names()


def _check_columns(job: _Job, parts: list[Part]) -> None:
    for part, (_, form) in zip(parts, job.outputs()):
        try:
            if form == "csv":
                work.csv_bytes(part.carried.empty_table(), header=True)
        except pa.ArrowException:
            what = f"the columns of {part.name} have types that CSV has no form for"
            raise BatchError(f"{what}: write parquet.") from None


def _is_complete(job: _Job, done: dict[str, Any]) -> bool:
    """Return whether the output that a manifest describes is the one that this job would make, unchanged."""
    output = job.output
    if any(done.get(name) != value for name, value in job.key.items()) or not output.is_whole():
        return False
    try:
        if done["quarantined"] and work.digest([("", output.quarantine)], folder=False) != done["quarantine_digest"]:
            return False
        digest = work.digest([(name, output.file(name)) for name in done["files"]], output.folder)
        return bool(digest == done["output_digest"])
    except BatchError:  # a file is gone
        return False


def _stamps(files: list[tuple[str, Path]]) -> list[tuple[int, int]]:
    return [(about.st_size, about.st_mtime_ns) for about in (path.stat() for _, path in files)]


# The work ---------------------------------------------------------------------------------------------------------


def _score_chunks(
    job: _Job, model: "PyFuncModel", parts: list[Part], number: int, state: dict[str, Any]
) -> dict[str, Any]:
    """Score what is not in the `number` finished chunks, behind which the job had that state; return its last state."""
    sizes = [path.stat().st_size for _, path in job.files]
    quiet: dict[str, Any] = {} if sys.stderr.isatty() else {"mininterval": QUIET, "delay": QUIET}
    with tqdm(total=sum(sizes), unit="B", unit_scale=True, disable=not job.progress, **quiet) as bar:
        for at in range(state["file"], len(parts)):
            position = state["position"] if at == state["file"] else None
            for chunk in parts[at].chunks(position, job.chunk_rows):
                probability, decision = _predict(model, parts[at].features, chunk.numbers)
                columns = [*chunk.carried.columns, pa.array(probability), pa.array(decision)]
                table = pa.Table.from_arrays(columns, [*chunk.carried.column_names, *WRITTEN[:2]])
                counts = {"rows": len(probability) + len(chunk.bad), "quarantined": len(chunk.bad)}
                counts = {name: state[name] + count for name, count in counts.items()}
                state = {"file": at, "position": chunk.position, **counts}
                lines = io.StringIO()
                csv.writer(lines, lineterminator="\n").writerows((parts[at].name, *bad) for bad in chunk.bad)
                work.write_chunk(job.output.partial / f"{number:08d}.arrow", table, state, lines.getvalue())
                number += 1
                bar.set_postfix_str(f"{state['rows']:,} rows", refresh=False)
                bar.update(int(sum(sizes[:at]) + chunk.share * sizes[at]) - bar.n)
    return state


def _predict(model: "PyFuncModel", features: list[str], numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not numbers.shape[1]:
        return np.empty(0), np.empty(0, "int64")
    try:
        answer: pd.DataFrame = model.predict(pd.DataFrame(numbers.T, columns=features))
        probability = np.asarray(answer["probability"], dtype="float64")
        decision = np.asarray(answer["decision"], dtype="int64")
    except Exception as error:  # anything that the model's own code raises
        raise BatchError(f"the model gives no probability and decision ({runs.first_line(error)}).") from error
    if not ((probability >= 0) & (probability <= 1)).all():
        raise BatchError("the model gives probabilities outside 0 to 1: name another model.")
    return probability, decision


def _assemble(job: _Job, parts: list[Part], run_time: str) -> dict[str, Any]:
    """Make the output files and the quarantine file from the chunks; return what the manifest says about them."""
    constants = (job.key["model"], job.key["version"], run_time, job.key["input_digest"])
    types = (pa.float64(), pa.int64(), pa.string(), pa.int64(), pa.string(), pa.string())
    chunks: list[list[Path]] = [[] for _ in parts]
    for path in job.output.chunks():
        chunks[work.read_chunk(path)[1]["file"]].append(path)

    def complete(path: Path, schema: pa.Schema) -> pa.Table:
        table = work.read_chunk(path)[0]
        repeated = [pa.repeat(pa.scalar(value), len(table)) for value in constants]
        return pa.Table.from_arrays([*table.columns, *repeated], schema=schema)

    outputs = job.outputs()
    for part, (name, form), paths in zip(parts, outputs, chunks):
        schema = pa.schema([*part.carried, *map(pa.field, WRITTEN, types)])
        work.write_output(job.output.new / name, form, schema, (complete(path, schema) for path in paths))
    made = [(name, job.output.new / name) for name, _ in outputs]
    return {
        "output_digest": work.digest(made, job.output.folder),
        "quarantine_digest": work.write_quarantine(job.output),
        "files": [name for name, _ in made],
    }


# What is logged -----------------------------------------------------------------------------------------------------


def _log_inputs(job: _Job, model_uri: str) -> None:
    """Log what is known before: parameters (those that `mlflow run` has logged stay), tags, the input and the model."""
    logged = mlflow.get_run(job.run_id).data
    params = {"model": model_uri, "chunk_rows": job.chunk_rows, "input": job.source, "output": job.output.path}
    params["format"] = job.form
    mlflow.log_params({name: value for name, value in params.items() if name not in logged.params})
    name, version, model_id, digest = (job.key[key] for key in ("model", "version", "model_id", "input_digest"))
    tags = {"step": logged.tags.get("step", "score"), "input_digest": digest}
    mlflow.set_tags(tags | {"model_name": name, "model_version": version, "model_id": model_id})
    source = LocalArtifactDatasetSource(str(job.source))
    # A digest of 36 digits at most
    dataset = MetaDataset(source, job.source.name, digest[:32])  # type: ignore[abstract]  # MLflow's own
    mlflow.log_input(dataset, context="batch", model=LoggedModelInput(model_id) if model_id else None)


def _log_results(job: _Job, manifest: dict[str, Any], resumed: int) -> None:
    metrics = {name: manifest[name] for name in ("rows", "scored", "quarantined")}
    metrics |= {"seconds": job.seconds, "rows_per_second": (manifest["rows"] - resumed) / job.seconds}
    if manifest["scored"]:
        decided, bins = 0, np.zeros(BINS, "int64")
        for path in job.output.chunks():
            table = work.read_chunk(path)[0]
            decided += table["decision"].to_numpy().sum()
            at = np.minimum((table["probability"].to_numpy() * BINS).astype("int64"), BINS - 1)
            bins += np.bincount(at, minlength=BINS)
        metrics["decision_share"] = decided / manifest["scored"]
        metrics |= {f"probability_p{share * 100:02.0f}": _quantile(bins, share) for share in QUANTILES}
    now = int(time.time() * 1000)
    # By the client: mlflow.log_metrics would log them with the model, too
    logged = [Metric(name, float(value), now, 0) for name, value in metrics.items()]
    mlflow.MlflowClient().log_batch(manifest["run"], metrics=logged)
    mlflow.log_dict(manifest, "manifest.json")
    bad = job.output.new / work.QUARANTINE
    if bad.exists() and bad.stat().st_size <= SMALL:
        mlflow.log_text(bad.read_text(encoding="utf-8"), "quarantine.csv")


def _quantile(bins: np.ndarray, share: float) -> float:
    """Return a quantile from the histogram, straight within a bin."""
    sums = np.cumsum(bins)
    wanted = share * sums[-1]
    at = int(np.searchsorted(sums, wanted))
    return float((at + 1 - (sums[at] - wanted) / bins[at]) / BINS)
