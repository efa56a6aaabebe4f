"""Batch jobs on a real store: what they write, log and say, when they are skipped, and how they resume."""

import csv
import hashlib
import os
import runpy
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from batch_jobs import NAME, ONE_WORKER, TIME, contents, run_job, with_bad_rows, write, write_partitions

from pystock import batch
from pystock.batch import BatchError, resume
from pystock.batch import job as batch_job

pytestmark = ONE_WORKER
PROJECT = Path(__file__).resolve().parents[4] / "projects" / "pystock-inference-batch"


def read(path):
    return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)


@pytest.fixture(scope="module")
def expected(champion, days):
    """What the first champion itself says about the days."""
    return mlflow.pyfunc.load_model(f"models:/{NAME}/1").predict(days.drop(columns="Date"))


@pytest.mark.parametrize(("form", "to"), [("csv", "parquet"), ("parquet", "csv"), ("csv", "csv")])
def test_a_file_is_scored_and_says_by_what(champion, days, expected, tmp_path, form, to):
    given = days.assign(note='a "quoted", text')[["Date", *reversed(days.columns[1:]), "note"]]
    result = run_job(write(given, tmp_path / f"days.{form}"), tmp_path / f"out.{to}")
    found = read(result.output)
    assert list(found) == ["Date", "note", *batch.WRITTEN]
    assert found["Date"].tolist() == days["Date"].tolist() and set(found["note"]) == {'a "quoted", text'}
    np.testing.assert_allclose(found["probability"], expected["probability"], rtol=1e-13)
    assert found["decision"].tolist() == expected["decision"].tolist()
    about = (NAME, 1, TIME, hashlib.sha256((tmp_path / f"days.{form}").read_bytes()).hexdigest())
    assert (result.model, result.version, result.run_time, result.input_digest) == about
    assert set(found[list(batch.WRITTEN[2:])].itertuples(index=False, name=None)) == {about}
    assert (result.outcome, result.rows, result.scored, result.quarantined) == ("done", 1006, 1006, 0)
    assert list(contents(tmp_path)) == [f"days.{form}", f"out.{to}", f"out.{to}.manifest.json"]  # and no partial work


def test_a_folder_becomes_a_folder_of_the_same_files(champion, days, expected, tmp_path):
    source, output = write_partitions(days, tmp_path / "in", "parquet"), tmp_path / "out"
    result = run_job(source, output, format="csv")
    names = [f"year={year}/part-0.csv" for year in (2015, 2016, 2017, 2018)]
    assert list(contents(output)) == ["_SUCCESS", "_manifest.json", *names]
    found = pd.concat([read(output / name) for name in names])
    assert found["Date"].tolist() == days["Date"].tolist()
    np.testing.assert_allclose(found["probability"], expected["probability"], rtol=1e-13)
    assert (result.rows, result.output, result.quarantine) == (1006, output, None)
    # again over itself, with a file more and one less
    write(days.head(3), source / "year=2019" / "x.csv")
    (source / "year=2015" / "part-0.parquet").unlink()
    assert run_job(source, output, format="csv").rows == 3 + sum(days["Date"] >= "2016")
    assert list(contents(output)) == ["_SUCCESS", "_manifest.json", *names[1:], "year=2019/x.csv"]


def test_bad_rows_go_to_the_quarantine_and_the_others_are_scored(champion, days, tmp_path):
    lines = days.to_csv(index=False).splitlines()
    lines[10], lines[500] = lines[10].rpartition(",")[0] + ",high", "cut"
    (tmp_path / "days.csv").write_text("\n".join(lines) + "\n")
    result = run_job(tmp_path / "days.csv", tmp_path / "out.csv")
    assert list(csv.reader(result.quarantine.read_text().splitlines())) == [
        ["file", "line", "reason", "text"],
        ["days.csv", "11", "volume_change is 'high', which is not a number", lines[10]],
        ["days.csv", "501", "it has 1 value, but the header has 13", "cut"],
    ]
    assert (result.rows, result.scored, result.quarantined) == (1006, 1004, 2)
    # a clean input, and the quarantine of the one before is gone
    assert run_job(write(days, tmp_path / "days.csv"), tmp_path / "out.csv").quarantine is None
    assert list(contents(tmp_path)) == ["days.csv", "out.csv", "out.csv.manifest.json"]


def test_all_rows_may_be_bad(champion, days, tmp_path):
    result = run_job(write(days.assign(momentum_5="x"), tmp_path / "days.csv"), tmp_path / "out.parquet")
    assert (result.scored, result.quarantined) == (0, 1006) and list(read(result.output)) == ["Date", *batch.WRITTEN]


def refused(message, *arguments, **options):
    with pytest.raises(BatchError) as error:
        run_job(*arguments, **options)
    text = str(error.value)
    assert message in text and "\n" not in text and text.endswith("."), text
    assert mlflow.last_active_run().data.tags["failed_because"] == text[:500]


def test_arguments_that_cannot_be_are_refused(champion, days, tmp_path):
    few, output = days.head(5), tmp_path / "out.csv"  # chapter 16 names inputs that cannot be
    source, folder = write(few, tmp_path / "days.csv"), write(few, tmp_path / "in" / "days.csv").parent
    for place in ((source, source), (folder, folder / "out"), (folder, tmp_path)):
        refused("are the same, or one is inside the other", *place)
    refused("the input is a file but the output", source, folder)
    refused("the input is a folder but the output", folder, source)
    refused("does not end in .csv or .parquet", source, tmp_path / "out.txt")
    refused(" cannot be written (", source, source / "out.csv")
    write(few, folder / "days.parquet")
    refused("two input files would both become days.csv", folder, tmp_path / "out", format="csv")
    write(few, tmp_path / "mine" / "thesis.csv")
    refused("contains 'thesis.csv', which no batch job wrote", folder, tmp_path / "mine")
    for message, option in {
        "the format 'xml' is unknown": {"format": "xml"},
        "ends in .csv, but the format is parquet": {"format": "parquet"},
        "chunk_rows is 0": {"chunk_rows": 0},
        "run_time is 'today'": {"run_time": "today"},
        f"{NAME} has no version 99: it has 1": {"model": f"models:/{NAME}/99"},
        "write models:/NAME@ALIAS": {"model": NAME},
    }.items():
        refused(message, source, output, **option)
    with pytest.raises(BatchError, match="no run is active"):
        batch.score(source, output)
    assert not list(tmp_path.glob("out*"))


def test_columns_that_csv_cannot_hold_are_refused_for_csv_alone(champion, days, tmp_path):
    table = pa.Table.from_pandas(days).append_column("list", pa.array([[1]] * 1006))
    pa.parquet.write_table(table, tmp_path / "days.parquet")
    refused("have types that CSV cannot store", tmp_path / "days.parquet", tmp_path / "out.csv")
    assert run_job(tmp_path / "days.parquet", tmp_path / "out.parquet").rows == 1006


@pytest.mark.parametrize("folder", [False, True])
def test_the_same_input_and_version_are_scored_once(champion, days, tmp_path, folder):
    source = write_partitions(days, tmp_path / "in", "csv") if folder else write(days, tmp_path / "in.csv")
    output = tmp_path / ("out" if folder else "out.csv")
    file = output / "year=2015" / "part-0.csv" if folder else output
    first = run_job(source, output)
    before = file.stat().st_mtime_ns
    again = run_job(source, output, run_time=None, chunk_rows=17)
    assert again.outcome == "skipped" and again.run_time == TIME and file.stat().st_mtime_ns == before
    same = ("rows", "scored", "quarantined", "model", "version", "model_id", "input_digest", "output", "quarantine")
    assert all(getattr(again, name) == getattr(first, name) for name in same)
    kept = contents(output.parent)
    assert run_job(source, output, force=True).outcome == "done" and contents(output.parent) == kept
    damages = [lambda: file.write_bytes(file.read_bytes()[:-1]), file.unlink]
    for damage in [*damages, (output / "_SUCCESS").unlink] if folder else damages:
        damage()
        assert run_job(source, output).outcome == "done" and contents(output.parent) == kept
    with open(source / "year=2015" / "part-0.csv" if folder else source, "a") as changed:
        changed.write("cut\n")
    assert run_job(source, output).quarantined == 1 and run_job(source, output).outcome == "skipped"
    (output / "_quarantine.csv" if folder else tmp_path / "out.quarantine.csv").unlink()
    assert run_job(source, output).outcome == "done"


def before_each_chunk(monkeypatch, action):
    original = resume.write_chunk
    monkeypatch.setattr(resume, "write_chunk", lambda *arguments: (action(), original(*arguments))[1])


def interrupted_after(monkeypatch, chunks, source, output, **options):
    """Do a job that is interrupted in the middle, as by Ctrl-C."""
    left = iter(range(chunks))

    def interrupt():
        if next(left, None) is None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        before_each_chunk(patch, interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_job(source, output, **options)
    assert not output.exists() and len(resume.Output(output, False).chunks()) == chunks


def test_a_resumed_job_does_not_score_again_and_keeps_its_time(champion, days, tmp_path, monkeypatch):
    source, output = write(days, tmp_path / "days.csv"), tmp_path / "out.csv"
    began = "2015-01-02T21:00:00+00:00"
    monkeypatch.setattr(resume, "now", lambda: began)
    interrupted_after(monkeypatch, 4, source, output, run_time=None)
    monkeypatch.setattr(resume, "now", lambda: TIME)
    result = run_job(source, output, run_time=None)
    before = int(result.said.partition(", ")[2].split()[0])
    assert 300 < before < 500 and "of them before this job was resumed" in result.said
    assert result.run_time == began and set(read(output)["run_time"]) == {began}
    assert (result.rows, len(read(output))) == (1006, 1006)


@pytest.mark.parametrize(("rows", "chunk_rows", "changed"), [(900, 100, "input digest"), (1006, 50, "chunk rows")])
def test_partial_work_of_another_job_is_thrown_away(days, expected, tmp_path, monkeypatch, rows, chunk_rows, changed):
    source, output = write(days, tmp_path / "days.csv"), tmp_path / "out.csv"
    interrupted_after(monkeypatch, 3, source, output)
    result = run_job(write(days.head(rows), source), output, chunk_rows=chunk_rows)
    assert f"partial work with another {changed} was discarded" in result.said and "resumed" not in result.said
    np.testing.assert_allclose(read(output)["probability"], expected["probability"].head(rows), rtol=1e-13)


def test_an_input_that_changes_while_it_is_read_is_refused(champion, days, tmp_path, monkeypatch):
    source, output = write(days, tmp_path / "days.csv"), tmp_path / "out.csv"
    before_each_chunk(monkeypatch, lambda: write(days.iloc[::-1], source))
    refused("was changed while it was read", source, output)
    assert not output.exists() and not resume.Output(output, False).partial.exists()


def test_a_job_without_a_terminal_shows_no_progress_for_half_a_minute(champion, days, tmp_path, capsys, monkeypatch):
    source = write(days, tmp_path / "days.csv")
    run_job(source, tmp_path / "out.csv", progress=True)
    assert "rows" not in capsys.readouterr().err
    monkeypatch.setattr(batch_job, "QUIET", 0)
    run_job(source, tmp_path / "out.csv", progress=True, force=True)
    assert "1,006 rows" in capsys.readouterr().err


def test_the_run_says_what_was_done_with_what(champion, days, tmp_path):
    source = write(with_bad_rows(days, 200), tmp_path / "days.csv")
    with mlflow.start_run() as run:
        result = batch.score(source, tmp_path / "out.csv", chunk_rows=100)
    found = mlflow.MlflowClient().get_run(run.info.run_id)
    tags, metrics, params = found.data.tags, found.data.metrics, found.data.params
    wanted = {"pipeline": "pystock-inference-batch", "step": "score", "outcome": "done", "said": result.said}
    wanted |= {"model_name": NAME, "model_version": "1", "model_id": result.model_id}
    assert (wanted | {"input_digest": result.input_digest}).items() <= tags.items() and "git_commit" in tags
    assert (metrics["rows"], metrics["scored"], metrics["quarantined"]) == (1006, 1000, 6)
    assert metrics["rows_per_second"] == pytest.approx(1006 / metrics["seconds"], rel=1e-6)
    output = read(result.output)
    for share, name in ((0.01, "p01"), (0.1, "p10"), (0.5, "p50"), (0.9, "p90"), (0.99, "p99")):
        # a bin is 0.001; the rest is the distance of neighbours among 1,000 values
        low, high = (np.quantile(output["probability"], share, method=way) for way in ("lower", "higher"))
        assert low - 0.001 <= metrics[f"probability_{name}"] <= high + 0.001
    assert metrics["decision_share"] == output["decision"].mean()
    given = {"input": str(source), "output": str(result.output), "format": "csv", "chunk_rows": "100"}
    assert params == given | {"model": batch.MODEL}
    (given,) = found.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("days.csv", result.input_digest[:32])
    assert [used.model_id for used in found.inputs.model_inputs] == [result.model_id]
    files = {"manifest.json": tmp_path / "out.csv.manifest.json", "quarantine.csv": result.quarantine}
    for name, path in files.items():
        assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/{name}").strip() == path.read_text().strip()
    with mlflow.start_run() as run:
        again = batch.score(source, tmp_path / "out.csv")
    tags = mlflow.MlflowClient().get_run(run.info.run_id).data.tags
    assert (tags["outcome"], tags["said"], tags["made_by"]) == ("skipped", again.said, found.info.run_id)


@pytest.mark.parametrize(("arguments", "code", "message"), [
    (["days.csv"], 2, "the following arguments are required: --output"),
    (["", "--output", "out.csv"], 2, "argument --input: the path is empty"),
    (["days.csv", "--output", "out.csv", "--format", "xml"], 2, "invalid choice: 'xml'"),
    (["none.csv", "--output", "out.csv"], 1, "pystock-inference-batch: the input"),
    (["days.csv", "--output", "out.csv"], 3, "1,005 of 1,006 rows scored by version 1"),
    (["good.csv", "--output", "out.csv", "--format", "", "--run_time", TIME], 0, "1,006 rows scored"),
])  # fmt: skip
def test_the_script_ends_with_a_code_and_line(days, expected, tmp_path, monkeypatch, capsys, arguments, code, message):
    write(with_bad_rows(days, 1006), tmp_path / "days.csv")
    write(days, tmp_path / "good.csv")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["main.py", "--input", *arguments])
    monkeypatch.setattr(os, "environ", os.environ | {})
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(PROJECT / "main.py"))
    printed = capsys.readouterr()
    if code == 1:  # Python itself prints the text
        assert ended.value.code.startswith(message) and "\n" not in ended.value.code
    else:
        assert ended.value.code == code and message in printed.out + printed.err
    assert (tmp_path / "out.csv").exists() == (code in (0, 3))
