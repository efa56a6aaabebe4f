"""Batch inference: every row of a file, or of a folder of files, scored by one version of a registered model.

The version is looked up once and stands beside each prediction, with the time of the job and a digest of its input. The
rows go through memory in chunks. What is done lies beside the output until all is: a job that was killed goes on
there, and its output is the same, byte for byte, as if it had not been. The output is replaced whole or not at all.
"""

import csv
import io
import itertools
import json
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
from mlflow.data.meta_dataset import MetaDataset
from mlflow.data.sources import LocalArtifactDatasetSource
from mlflow.entities import LoggedModelInput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from pystock import runs
from pystock.batch import resume as work
from pystock.batch.rows import FORMATS, BatchError, Chunk, InputError, Part, files, open_part

PIPELINE = "pystock-inference-batch"
MODEL = "models:/pystock-big-move@champion"
CHUNK_ROWS = 50_000
WRITTEN = ("probability", "decision", "model_name", "model_version", "run_time", "input_digest")
BINS = 1000  # of the histogram of probabilities; its quantiles are exact to one bin, 0.001
QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
SMALL = 10_000_000  # bytes; a larger quarantine file is not copied into the store
AHEAD = 4  # chunks that are scored before they are asked for
PLAIN = 30  # seconds between two lines of progress where stderr is no terminal
__all__ = ["BatchError", "Result", "check_server", "score"]


class _Gone(BatchError):
    """The tracking server does not answer: nothing can be written there either."""


@dataclass(frozen=True)
class Result:
    """What a job did. `outcome` is done or skipped, `said` one sentence about it.

    `rows` were read: `scored` + `quarantined`. `seconds` of reading, predicting and writing in this call, 0 where
    skipped. `version` of the registered `model` is the logged model `model_id`. `input_digest` is a sha256, `run_time`
    when the job began first (ISO 8601, UTC). `quarantine` is None where no row is bad.
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
    was done.

    `model` is models:/NAME@ALIAS or models:/NAME/VERSION, looked up once. `chunk_rows` rows (of CSV: about as many) are
    read, scored and kept in one go, and a few such chunks are in memory. `run_time` is an ISO 8601 time with its
    offset; None: when the job began first. A finished output of the same input, version and format is left alone
    (skipped) without `force`. A job that was killed goes on where it was, if input, version and settings are the same.

    BatchError in one sentence for whatever stands in the way; the output is then as it was before.
    """
    run = mlflow.active_run()
    if run is None:
        raise BatchError(
            "no run is active, and a batch job logs into one: call score inside `with mlflow.start_run():`."
        )
    try:
        # The product of a chunk and a dozen weights is too small to be shared: while BLAS's threads wait for more they
        # spin, and take the time of those that read and write
        with threadpool_limits(1, user_api="blas"):
            return _scored(run.info.run_id, input, output, model, format, chunk_rows, run_time, force, progress)
    except _Gone:
        raise
    except BatchError as error:
        with suppress(MlflowException):
            _tag(run.info.run_id, failed_because=runs.first_line(error, most=500))
        raise


def _scored(run_id, input, output, model, format, chunk_rows, run_time, force, progress) -> Result:
    source, target = Path(os.path.abspath(input)), Path(os.path.abspath(output))
    run_time, found = _utc(run_time), files(source)
    folder = source.is_dir()
    _check_places(source, target, folder)
    form = _format(format, target, folder)
    if not isinstance(chunk_rows, int) or chunk_rows < 1:
        raise BatchError(f"chunk_rows is {chunk_rows!r}: give a whole number of rows, 1 or more.")
    with _from_mlflow():
        _tag(run_id, pipeline=PIPELINE, git_commit=runs.git_commit())
        name, version, model_id = _resolve(model)
    with work.locked(target):
        with work.writing(target):
            work.restore(target)
        done, stamps = work.read_json(work.manifest_of(target, folder)), _stamps(found)
        with ThreadPoolExecutor(1) as thread:
            coming = thread.submit(work.digest, found, folder)
            loaded = None if done and not force else _load(name, version)  # while the input is read for its digest
            begun = time.perf_counter()
            early = None
            if loaded and not work.partial_of(target).exists():
                with suppress(BatchError):  # `_run` comes to the same
                    early = _answers(*loaded, _open(*found[0], loaded), None, chunk_rows)
            key = {"input_digest": coming.result(), "model": name, "version": version, "model_id": model_id}
        key["format"] = form
        job = _Job(run_id, source, target, folder, form, key, chunk_rows, found, stamps, progress, early)
        job.seconds = time.perf_counter() - begun
        params = {"model": model, "chunk_rows": chunk_rows, "input": source, "output": target, "format": form}
        with _from_mlflow():
            _log_about(job, params)
        if done and not force and _stands(job, done):
            with work.writing(target):
                work.remove(job.partial)
            return _skipped(job, done)
        if folder:
            work.check_replaceable(target)
        return _run(job, loaded or _load(name, version), done, run_time)


@dataclass
class _Job:
    run_id: str
    source: Path
    output: Path
    folder: bool
    form: str
    key: dict
    chunk_rows: int
    files: list[tuple[str, Path]]
    stamps: list[tuple[int, int]]
    progress: bool
    early: Iterator | None  # answers for the first file, begun while the input was read for its digest
    seconds: float = 0.0

    @property
    def partial(self) -> Path:
        return work.partial_of(self.output)

    def form_of(self, name: str) -> str:
        """The format of the output file that belongs to an input file."""
        return FORMATS[Path(name).suffix.lower()] if self.form == "as input" else self.form

    def name_of(self, name: str) -> str:
        """Its name in the output folder: the same, but for the suffix of another format."""
        same = FORMATS[Path(name).suffix.lower()] == self.form_of(name)
        return name if same else Path(name).with_suffix("." + self.form_of(name)).as_posix()


# Before ---------------------------------------------------------------------------------------------------------


def _utc(text: str | None) -> str | None:
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise BatchError(f"run_time is {text!r}: write a time with its offset, as in 2015-01-02T21:00:00+00:00.")
    return found.astimezone(UTC).isoformat(timespec="seconds")


def _format(asked: str | None, output: Path, folder: bool) -> str:
    if asked and asked not in FORMATS.values():
        raise BatchError(f"the format {asked!r} is unknown: choose csv or parquet.")
    if folder:
        return asked or "as input"
    suffix = FORMATS.get(output.suffix.lower())
    if suffix and asked and asked != suffix:
        raise BatchError(f"the output {output.name} is {suffix} by its name, and the format asked for is {asked}.")
    if not (suffix or asked):
        raise BatchError(
            f"the output {output.name} is neither .csv nor .parquet by its name: rename it, or say format."
        )
    return suffix or asked


def _check_places(source: Path, output: Path, folder: bool) -> None:
    here, there = source.resolve(), output.resolve()
    if here == there:
        raise BatchError(f"input and output are both {source}: name another output.")
    if folder and there.is_relative_to(here):
        raise BatchError(f"the output {output} lies inside the input folder {source}: name a place outside.")
    if here.is_relative_to(there):
        raise BatchError(f"the input {source} lies inside the output folder {output}: name another output.")
    if output.exists() and output.is_dir() != folder:
        kinds = ("folder", "file") if folder else ("file", "folder")
        raise BatchError(f"the input is a {kinds[0]} and the output {output} a {kinds[1]}: name another output.")


def _resolve(model: str) -> tuple[str, int, str]:
    """Name and version of a registered model, and the id of the logged model that it is."""
    asked = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/([0-9]+))", str(model))
    if not asked:
        raise BatchError(f"the model is {str(model)!r}: write models:/NAME@ALIAS or models:/NAME/VERSION.")
    name, alias, number = asked.groups()
    client = mlflow.MlflowClient()
    try:
        found = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, number)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        what = f"the model {name} has no {alias}" if alias else f"the model {name} has no version {number}"
        raise BatchError(f"{what} in this store: promote a version, or name another model.") from None
    return name, int(found.version), runs.model_id_of(found)


def check_server() -> None:
    """BatchError if the tracking server does not answer."""
    with _from_mlflow():
        mlflow.MlflowClient().search_experiments(max_results=1)


@contextmanager
def _from_mlflow() -> Iterator[None]:
    """What MLflow cannot do, in one sentence; that the server is gone in words of its own."""
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
                raise _Gone(
                    f"the MLflow server {uri} does not answer ({gone.strerror or gone}): start it, or set "
                    "MLFLOW_TRACKING_URI to one that runs."
                ) from None
        raise BatchError(f"MLflow refuses ({runs.first_line(error)}).") from error
    except OSError as error:
        raise BatchError(
            f"MLflow cannot read or write {error.filename or 'a file'} ({error.strerror or error})."
        ) from error


# The work ---------------------------------------------------------------------------------------------------------


def _load(name: str, version: int) -> tuple[mlflow.pyfunc.PyFuncModel, list[str]]:
    """The pinned version, and its columns in order."""
    what = f"version {version} of {name}"
    with _from_mlflow():
        try:
            model = mlflow.pyfunc.load_model(f"models:/{name}/{version}")
        except MlflowException:
            raise
        except Exception as error:  # whatever the model's own code and its libraries raise
            raise BatchError(f"{what} cannot be loaded here ({runs.first_line(error)}).") from error
    signature = model.metadata.signature
    inputs = signature.inputs if signature else None
    if not inputs or not inputs.has_input_names() or any(each.type.name != "double" for each in inputs):
        raise BatchError(f"{what} has no signature of named columns of doubles: log it with one.")
    return model, inputs.input_names()


def _run(job: _Job, loaded: tuple, done: dict | None, run_time: str | None) -> Result:
    model, features = loaded
    begun = time.perf_counter()
    parts = [_open(name, path, loaded) for name, path in job.files]
    _check_outputs(job, parts)
    key = job.key | {"chunk_rows": job.chunk_rows, "code": _CODE}
    there = work.read_json(job.partial / "job.json")
    if done and there and done["run_time"] == there["run_time"] and _stands(job, done):
        work.remove(job.partial)  # of the output that is there: its job was killed when it had only this left to do
    with work.writing(job.output):
        plan, chunks, thrown = work.begin(job.partial, key, run_time)
    resumed = work.read_chunk(chunks[-1])[1] if chunks else _nothing()
    try:
        with work.writing(job.output):
            finished = _finished(job, model, features, parts, chunks, resumed)
            made, state = _assemble(job, parts, plan["run_time"], work.ahead(finished))
        if _stamps(job.files) != job.stamps:
            raise InputError(f"the input {job.source} was changed while it was read: run again.")
        if not state["rows"]:
            raise InputError(f"the input {job.source} holds columns and no rows: there is nothing to score.")
    except InputError:
        work.remove(job.partial)
        raise
    job.seconds += time.perf_counter() - begun
    manifest = {
        **job.key,
        "input": str(job.source),
        "run": job.run_id,
        "run_time": plan["run_time"],
        **{name: state[name] for name in ("rows", "scored", "quarantined")},
        **made,
    }
    said = _said(manifest, resumed["rows"], thrown)
    with _from_mlflow():
        _log(job, manifest, state, resumed["rows"])
    with work.writing(job.output):
        _place(job, manifest)
    with _from_mlflow():
        _tag(job.run_id, outcome="done", said=said)
    return _result(job, "done", said, manifest)


def _nothing() -> dict:
    """The state of a job at its beginning: in which file it is, where there, and what it has counted."""
    return {"file": 0, "position": None, "rows": 0, "scored": 0, "quarantined": 0, "decided": 0, "bins": [0] * BINS}


def _finished(
    job: _Job, model, features: list[str], parts: list[Part], chunks: list[Path], state: dict
) -> Iterator[tuple[pa.Table, dict]]:
    """All chunks in order, each with the state behind it: those that are there, then the others, which are scored and
    brought to the disk one by one. `state` is that behind those that are there."""
    yield from map(work.read_chunk, chunks)
    number, sizes = len(chunks), [path.stat().st_size for _, path in job.files]
    with _progress(job, sum(sizes)) as show:
        for at in range(state["file"], len(parts)):
            position = state["position"] if at == state["file"] else None
            early, job.early = job.early, None
            answers = early or _answers(model, features, parts[at], position, job.chunk_rows)
            for chunk, probability, decision in answers:
                table = chunk.carried
                for name, values in (("probability", probability), ("decision", decision)):
                    table = _with(table, name, pa.array(values))
                state = _counted(state, at, chunk, probability, decision)
                path, bad = job.partial / f"{number:08d}.arrow", _lines(parts[at].name, chunk)
                yield work.write_chunk(path, table, state, bad), state
                number += 1
                show(sum(sizes[:at]) + chunk.share * sizes[at], state["rows"])


def _open(name: str, path: Path, loaded: tuple) -> Part:
    return open_part(name, path, loaded[1], WRITTEN)


def _answers(model, features: list[str], part: Part, position: list[int] | None, rows: int) -> Iterator[tuple]:
    """The chunks of a file with their probabilities and decisions; reading and predicting are a few chunks ahead."""
    chunks = work.ahead(part.chunks(position, rows))
    return work.ahead(((chunk, *_predict(model, features, chunk.numbers)) for chunk in chunks), most=AHEAD)


def _with(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    # A table without columns has no rows either, and takes none
    return table.append_column(name, values) if table.num_columns else pa.table({name: values})


def _predict(model, features: list[str], numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not numbers.shape[1]:
        return np.empty(0), np.empty(0, "int64")
    try:
        if native := getattr(model.unwrap_python_model(), "probability", None):
            # Past MLflow's checks of names and types, which these rows have behind them
            probability = native(numbers.T)
            decision = (probability > model.metadata.signature.params.params[0].default).astype("int64")
        else:
            answer = model.predict(pd.DataFrame(numbers.T, columns=features))
            probability = np.asarray(answer["probability"], dtype="float64")
            decision = np.asarray(answer["decision"], dtype="int64")
    except Exception as error:  # whatever the model's own code raises
        raise BatchError(f"the model gives no probability and decision ({runs.first_line(error)}).") from error
    if not ((probability >= 0) & (probability <= 1)).all():
        raise BatchError("the model gives probabilities outside 0 to 1: name another model.")
    return probability, decision


def _counted(state: dict, at: int, chunk: Chunk, probability: np.ndarray, decision: np.ndarray) -> dict:
    bins = np.bincount(np.minimum((probability * BINS).astype("int64"), BINS - 1), minlength=BINS)
    more = {"scored": len(probability), "quarantined": len(chunk.bad), "decided": int(decision.sum())}
    more["rows"] = more["scored"] + more["quarantined"]
    return {
        "file": at,
        "position": chunk.position,
        **{name: state[name] + value for name, value in more.items()},
        "bins": (np.array(state["bins"]) + bins).tolist(),
    }


def _lines(name: str, chunk: Chunk) -> str:
    """The part of the quarantine file that belongs to a chunk."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows((name, *bad) for bad in chunk.bad)
    return text.getvalue()


@contextmanager
def _progress(job: _Job, total: int):
    """A bar on a terminal; elsewhere a line now and then."""
    terminal = sys.stderr.isatty()
    with tqdm(total=total, unit="B", unit_scale=True, disable=not (job.progress and terminal)) as bar:
        said = time.monotonic()

        def show(done: float, rows: int) -> None:
            nonlocal said
            bar.set_postfix_str(f"{rows:,} rows", refresh=False)
            bar.update(int(done) - bar.n)
            if job.progress and not terminal and time.monotonic() - said > PLAIN:
                said = time.monotonic()
                print(f"{done / total:.0%}, {rows:,} rows", file=sys.stderr, flush=True)

        yield show


# The output -------------------------------------------------------------------------------------------------------


def _check_outputs(job: _Job, parts: list[Part]) -> None:
    names = [job.name_of(part.name) for part in parts]
    if job.folder and (twice := next((name for name in names if names.count(name) > 1), None)):
        raise BatchError(f"two input files would both become {twice}: rename one, or leave format out.")
    for part in parts:
        if job.form_of(part.name) == "csv" and not work.writes_as_csv(part.carried):
            raise BatchError(f"the columns of {part.name} have types that CSV has no form for: write parquet.")


def _schema(part: Part) -> pa.Schema:
    written = [("probability", pa.float64()), ("decision", pa.int64()), ("model_name", pa.string())]
    written += [("model_version", pa.int64()), ("run_time", pa.string()), ("input_digest", pa.string())]
    return pa.schema([*part.carried, *(pa.field(*each) for each in written)])


def _assemble(job: _Job, parts: list[Part], run_time: str, finished: Iterator) -> tuple[dict, dict]:
    """Make the output files and the quarantine file from the chunks as they are finished; returns what the manifest
    says about them, and the last state."""
    new, written, state = job.partial / "new", [], _nothing()
    chunks = itertools.groupby(finished, key=lambda chunk: chunk[1]["file"])
    at, mine = next(chunks, (None, ()))
    constant = (job.key["model"], job.key["version"], run_time, job.key["input_digest"])

    def complete(chunks):
        nonlocal state
        for table, state in chunks:  # noqa: B007 - the last one is what counts
            yield _complete(table, constant)

    for number, part in enumerate(parts):
        rows = complete(mine) if at == number else iter(())
        name = job.name_of(part.name) if job.folder else job.output.name
        written.append((name, work.write_output(new / name, job.form_of(part.name), _schema(part), rows)))
        if at == number:
            at, mine = next(chunks, (None, ()))
    about = {"output_digest": work.of_folder(written) if job.folder else written[0][1], "quarantine_digest": None}
    bad = sorted(job.partial.glob("[0-9]*.csv"))
    if bad:
        path = new / work.QUARANTINE
        with open(path, "wb") as file:
            file.write(b"file,line,reason,text\n")
            for each in bad:
                file.write(each.read_bytes())
            file.flush()
            os.fsync(file.fileno())
        about["quarantine_digest"] = work.digest([(path.name, path)], folder=False)
    return about | {"files": [name for name, _ in written]}, state


def _complete(table: pa.Table, constant: tuple) -> pa.Table:
    for name, value in zip(WRITTEN[2:], constant):
        table = table.append_column(name, pa.repeat(pa.scalar(value), len(table)))
    return table.replace_schema_metadata()


def _place(job: _Job, manifest: dict) -> None:
    """The output, the quarantine file, and last the manifest: without it the job is not done, and the next goes on."""
    new, text = job.partial / "new", (json.dumps(manifest, indent=2) + "\n").encode()
    if job.folder:
        work.replace(new / work.MANIFEST, text)
        work.check_replaceable(job.output)
        work.place_folder(new, job.output, job.partial)
    else:
        quarantine = work.quarantine_of(job.output, folder=False)
        os.replace(new / job.output.name, job.output)
        if manifest["quarantined"]:
            os.replace(new / work.QUARANTINE, quarantine)
        else:
            quarantine.unlink(missing_ok=True)
        work.replace(work.manifest_of(job.output, folder=False), text)
    work.remove(job.partial)


def _stands(job: _Job, done: dict) -> bool:
    """Whether the output that a manifest tells of is what this job would make, and still there."""
    if any(done.get(name) != value for name, value in job.key.items()):
        return False
    names = done["files"]
    there = [(name, job.output / name if job.folder else job.output) for name in names]
    quarantine = work.quarantine_of(job.output, job.folder)
    try:
        if done["quarantined"] and work.digest([("", quarantine)], folder=False) != done["quarantine_digest"]:
            return False
        return work.digest(there, job.folder) == done["output_digest"]
    except BatchError:  # a file is gone
        return False


def _stamps(files: list[tuple[str, Path]]) -> list[tuple[int, int]]:
    return [(about.st_size, about.st_mtime_ns) for about in (path.stat() for _, path in files)]


# What is said -----------------------------------------------------------------------------------------------------


def _said(manifest: dict, resumed: int, thrown: str) -> str:
    scored, rows, bad = manifest["scored"], manifest["rows"], manifest["quarantined"]
    by = f"scored by version {manifest['version']} of {manifest['model']}"
    said = f"{scored:,} of {rows:,} rows {by}, {bad:,} in quarantine" if bad else f"{rows:,} rows {by}"
    if resumed:
        said += f", {resumed:,} of them before this job was resumed"
    return f"{said}; {thrown}" if thrown else said


def _skipped(job: _Job, done: dict) -> Result:
    by = f"version {done['version']} of {done['model']}"
    said = f"skipped, the {done['scored']:,} predictions of this input by {by} are there already"
    with _from_mlflow():
        _tag(job.run_id, outcome="skipped", said=said, made_by=done["run"])
    job.seconds = 0.0
    return _result(job, "skipped", said, done)


def _result(job: _Job, outcome: str, said: str, manifest: dict) -> Result:
    names = ("rows", "scored", "quarantined", "model", "version", "model_id", "input_digest", "run_time")
    quarantine = work.quarantine_of(job.output, job.folder) if manifest["quarantined"] else None
    return Result(
        outcome,
        said,
        seconds=job.seconds,
        output=job.output,
        quarantine=quarantine,
        **{name: manifest[name] for name in names},
    )


def _tag(run_id: str, **tags: str) -> None:
    mlflow.MlflowClient().log_batch(run_id, tags=[RunTag(name, str(value)) for name, value in tags.items()])


def _log_about(job: _Job, params: dict) -> None:
    """What is known before: parameters (those that `mlflow run` has logged stay), tags, and the input and the model."""
    client = mlflow.MlflowClient()
    there = client.get_run(job.run_id).data
    new = [Param(name, str(value)) for name, value in params.items() if name not in there.params]
    client.log_batch(job.run_id, params=new)
    about = {"model_name": job.key["model"], "model_version": job.key["version"], "model_id": job.key["model_id"]}
    _tag(job.run_id, step=there.tags.get("step", "score"), input_digest=job.key["input_digest"], **about)
    source = LocalArtifactDatasetSource(str(job.source))
    dataset = MetaDataset(source, job.source.name, job.key["input_digest"][:32])  # MLflow keeps no more than 36
    used = LoggedModelInput(job.key["model_id"]) if job.key["model_id"] else None
    mlflow.log_input(dataset, context="batch", model=used)


def _log(job: _Job, manifest: dict, state: dict, resumed: int) -> None:
    metrics = {name: state[name] for name in ("rows", "scored", "quarantined")}
    metrics |= {"seconds": job.seconds, "rows_per_second": (state["rows"] - resumed) / job.seconds}
    if state["scored"]:
        metrics["decision_share"] = state["decided"] / state["scored"]
        metrics |= {f"probability_p{share * 100:02.0f}": _quantile(state["bins"], share) for share in QUANTILES}
    now = int(time.time() * 1000)
    logged = [Metric(name, float(value), now, 0) for name, value in metrics.items()]
    mlflow.MlflowClient().log_batch(job.run_id, metrics=logged)
    mlflow.log_dict(manifest, "manifest.json")
    bad = job.partial / "new" / work.QUARANTINE
    if bad.exists() and bad.stat().st_size <= SMALL:
        mlflow.log_text(bad.read_text(encoding="utf-8"), "quarantine.csv")


def _quantile(bins: list[int], share: float) -> float:
    """A quantile from the histogram, straight within a bin."""
    sums = np.cumsum(bins)
    wanted = share * sums[-1]
    at = int(np.searchsorted(sums, wanted))
    return float((at + 1 - (sums[at] - wanted) / bins[at]) / BINS)


_MODULES = (__file__, work.__file__, sys.modules[Part.__module__].__file__)
_CODE = runs.code_digest(*(Path(module).read_bytes() for module in _MODULES))  # no partial work of other code is used
