"""Batch inference: real files, a real champion, real errors; a killed job's output is that of an unbroken one."""

import codecs
import csv
import json
import os
import random
import runpy
import socket
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from batch_jobs import (
    NAME,
    TIME,
    add_version,
    champion,
    contents,
    days,
    die_at,
    in_a_process,
    job,
    partitions,
    with_little_room,
)

from pystock.batch import job as batch
from pystock.batch import resume as batch_work
from pystock.batch.job import BatchError
from pystock.batch.rows import open_part

__all__ = ["champion", "days"]  # fixtures
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*input example:UserWarning"),  # advice to those who log models
    pytest.mark.filterwarnings("ignore:Operation with range"),  # MLflow's own code on pandas 3
    pytest.mark.xdist_group("batch"),
]
needs_fork = pytest.mark.skipif(os.name == "nt", reason="processes that are killed, and limits of theirs")
PROJECT = Path(__file__).resolve().parents[3] / "projects" / "pystock-inference-batch"


def read(path):
    return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)


def write(table, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path, index=False)
    return path


@pytest.fixture(scope="module")
def expected(champion, days):
    """What the first champion itself says about the days."""
    return mlflow.pyfunc.load_model(f"models:/{NAME}/1").predict(days.drop(columns="Date"))


# The output -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("to", ["csv", "parquet"])
def test_a_file_is_scored_and_says_by_what(champion, days, expected, tmp_path, form, to):
    given = days.assign(note='a "quoted", text')[["Date", *reversed(days.columns[1:]), "note"]]
    result = job(write(given, tmp_path / f"days.{form}"), tmp_path / f"out.{to}")
    found = read(result.output)
    assert list(found) == ["Date", "note", *batch.WRITTEN]
    assert found["Date"].tolist() == days["Date"].tolist() and set(found["note"]) == {'a "quoted", text'}
    np.testing.assert_allclose(found["probability"], expected["probability"], rtol=1e-13)
    assert found["decision"].tolist() == expected["decision"].tolist()
    about = (result.model, result.version, result.run_time, result.input_digest)
    assert about[:3] == (NAME, 1, TIME) and len(about[3]) == 64
    assert set(found[list(batch.WRITTEN[2:])].itertuples(index=False, name=None)) == {about}
    assert (result.outcome, result.rows, result.scored, result.quarantined) == ("done", 1006, 1006, 0)
    assert list(contents(tmp_path)) == [f"days.{form}", f"out.{to}", f"out.{to}.manifest.json"]  # and no partial work


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_folder_becomes_a_folder_of_the_same_files(champion, days, expected, tmp_path, form):
    result = job(partitions(days, tmp_path / "in", form), tmp_path / "out", format="csv")
    names = [f"year={year}/part-0.csv" for year in (2015, 2016, 2017, 2018)]
    assert list(contents(tmp_path / "out")) == ["_manifest.json", *names]
    found = pd.concat([read(tmp_path / "out" / name) for name in names])
    assert found["Date"].tolist() == days["Date"].tolist()
    np.testing.assert_allclose(found["probability"], expected["probability"], rtol=1e-13)
    assert (result.rows, result.output, result.quarantine) == (1006, tmp_path / "out", None)
    # again over itself, and a file that the first did not have
    write(days.head(3), tmp_path / "in" / "year=2019" / "x.csv")
    assert job(tmp_path / "in", tmp_path / "out", format="csv").rows == 1009
    assert len(contents(tmp_path / "out")) == 6


def test_the_chunks_and_the_layout_of_the_file_do_not_show(champion, days, tmp_path):
    source = write(days, tmp_path / "days.csv")
    whole = read(job(source, tmp_path / "whole.csv", chunk_rows=50_000).output)
    for rows in (37, 333):
        found = read(job(source, tmp_path / f"{rows}.csv", chunk_rows=rows).output)
        pd.testing.assert_frame_equal(found, whole, rtol=1e-13)
    for rows in (70, 1000):
        days.to_parquet(tmp_path / "days.parquet", index=False, row_group_size=rows)
        found = read(job(tmp_path / "days.parquet", tmp_path / f"groups-{rows}.csv", chunk_rows=150).output)
        pd.testing.assert_frame_equal(
            found.drop(columns="input_digest"), whole.drop(columns="input_digest"), rtol=1e-13
        )


@pytest.mark.parametrize(
    "change",
    {
        "byte order mark": lambda text: codecs.BOM_UTF8 + text,
        "line ends of Windows": lambda text: text.replace(b"\n", b"\r\n"),
        "no last line end": lambda text: text[:-1],
        "empty lines": lambda text: text.replace(b"\n2016", b"\n\n2016") + b"\n\r\n",
        "quotes": lambda text: b'"' + text[:-1].replace(b",", b'","').replace(b"\n", b'"\n"') + b'"\n',
        "spaces": lambda text: text.replace(b",", b", ").replace(b", ", b",", 12),  # not in the header
        "plus": lambda text: text.replace(b",0.", b",+0."),
    }.items(),
    ids=lambda change: change[0],
)
def test_other_ways_to_write_the_same_csv(champion, days, expected, tmp_path, change):
    (tmp_path / "days.csv").write_bytes(change[1](days.to_csv(index=False).encode()))
    result = job(tmp_path / "days.csv", tmp_path / "out.csv")
    assert (result.scored, result.quarantined) == (1006, 0)
    found = read(result.output)
    assert found["Date"].tolist() == days["Date"].tolist()
    np.testing.assert_allclose(found["probability"], expected["probability"], rtol=1e-13)


@pytest.mark.parametrize("kind", ["float32", "int64", "string", "decimal"])
def test_other_types_of_numbers_in_parquet(champion, days, tmp_path, kind):
    numbers = days.drop(columns="Date").round(3) * (1000 if kind == "int64" else 1)
    types = {"float32": pa.float32(), "int64": pa.int64(), "string": pa.string(), "decimal": pa.decimal128(12, 3)}
    table = pa.table({name: pa.array(numbers[name].round(3)).cast(types[kind], safe=False) for name in numbers})
    pa.parquet.write_table(table, tmp_path / "days.parquet")
    result = job(tmp_path / "days.parquet", tmp_path / "out.csv")
    widened = table.cast(pa.schema([(name, pa.float64()) for name in table.column_names])).to_pandas()
    says = mlflow.pyfunc.load_model(f"models:/{NAME}/1").predict(widened)
    np.testing.assert_allclose(read(result.output)["probability"], says["probability"], rtol=1e-13)


# Bad rows ---------------------------------------------------------------------------------------------------------

BAD = {  # what stands in the last column, volume_change, and what is said of it
    "": "volume_change is missing",
    " ": "volume_change is missing",
    "NA": "volume_change is missing",
    "NaN": "volume_change is missing",
    "-nan": "volume_change is missing (-nan)",
    "null": "volume_change is missing",
    "inf": "volume_change is infinite (inf)",
    "-Infinity": "volume_change is infinite (-Infinity)",
    "1e999": "volume_change is infinite (1e999)",
    "abc": "volume_change is 'abc', which is no number",
    '"0,5"': "volume_change is '0,5', which is no number",
    "0,5": "it has 14 values, and the header has 13",
    "1_000": "volume_change is '1_000', which is no number",
    "0x10": "volume_change is '0x10', which is no number",
    '"1.5': "a quote is not closed in this line",
    "1.5\r2": "a carriage return stands within this line",
}


def test_bad_rows_of_csv_are_put_aside_with_line_and_reason(champion, days, expected, tmp_path):
    lines = days.to_csv(index=False).splitlines()
    where = random.Random(0).sample(range(1, len(lines)), len(BAD) + 1)
    reasons = {}
    for at, (text, reason) in zip(where, BAD.items()):
        lines[at] = lines[at].rpartition(",")[0] + "," + text
        reasons[at + 1] = (reason, lines[at])
    lines[where[-1]] = "cut"
    reasons[where[-1] + 1] = ("it has 1 value, and the header has 13", "cut")
    (tmp_path / "days.csv").write_bytes(("\n".join(lines) + "\n").encode())
    result = job(tmp_path / "days.csv", tmp_path / "out.csv")
    with open(result.quarantine, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["file", "line", "reason", "text"]
    assert {int(line): (reason, text) for _, line, reason, text in rows} == reasons
    assert [int(row[1]) for row in rows] == sorted(reasons) and {row[0] for row in rows} == {"days.csv"}
    assert (result.rows, result.scored, result.quarantined) == (1006, 1006 - len(reasons), len(reasons))
    good = [at for at in range(1006) if at + 2 not in reasons]
    found = read(result.output)
    assert found["Date"].tolist() == days["Date"].iloc[good].tolist()
    np.testing.assert_allclose(found["probability"], expected["probability"].iloc[good], rtol=1e-13)
    # a clean input, and the quarantine of the one before is gone
    assert job(write(days, tmp_path / "days.csv"), tmp_path / "out.csv").quarantine is None
    assert list(contents(tmp_path)) == ["days.csv", "out.csv", "out.csv.manifest.json"]


def test_bad_rows_of_parquet_are_put_aside_with_row_and_reason(champion, days, tmp_path):
    table = pa.Table.from_pandas(days, preserve_index=False)
    momentum = days["momentum_5"].tolist()
    momentum[2], momentum[700], momentum[701] = None, float("inf"), float("nan")
    texts = days["volume_change"].astype(str).tolist()
    texts[3], texts[701] = "n.a.", "NA"
    for name, values in (("momentum_5", momentum), ("volume_change", texts)):
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    pa.parquet.write_table(table, tmp_path / "days.parquet")
    result = job(tmp_path / "days.parquet", tmp_path / "out.csv")
    with open(result.quarantine, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {int(row["line"]): row["reason"] for row in rows} == {
        3: "momentum_5 is missing",
        4: "volume_change is 'n.a.', which is no number",
        701: "momentum_5 is infinite (inf)",
        702: "momentum_5 is missing; volume_change is missing",
    }
    assert json.loads(rows[2]["text"]) == {**days.iloc[700].to_dict(), "volume_change": texts[700], "momentum_5": "inf"}
    assert (result.scored, result.quarantined, len(read(result.output))) == (1002, 4, 1002)


def test_what_becomes_of_a_row_does_not_depend_on_those_beside_it(tmp_path):
    """Rows of odd texts, read one by one and all at once: blocks without mistakes take another way through the code."""
    draw = random.Random(1)
    odd = [*BAD, "1", "-1.5e-7", "+.5", "5.", " 2\t", '"3"', '" 4 "', "+-1", "--1", "1e", "e5", ".", "-", "infinity!"]
    odd += ["nan(1)", "1.5f", "1d5", "٣", "1 2", '1"2', '"1"2', "NULL ", "None", "true", "1e-999", "00012", "1\x002"]
    lines = []
    for _ in range(3000):
        share = draw.choice([0, 0.001, 0.3])
        value = [draw.choice(odd) if draw.random() < share else str(draw.random()) for _ in range(3)]
        lines.append(",".join([draw.choice(["day", "", '"a,b"', " x "]), *value]))
    path = tmp_path / "odd.csv"
    path.write_bytes(("date,x,y,z\n" + "\n".join(lines) + "\n").encode())
    part = open_part(path.name, path, ["y", "x", "z"], ())

    def everything(rows):
        chunks = list(part.chunks(None, rows))
        bad = [one for chunk in chunks for one in chunk.bad]
        dates = [date for chunk in chunks for date in chunk.carried["date"].to_pylist()]
        return np.concatenate([chunk.numbers for chunk in chunks], axis=1), dates, bad

    one, all_of_them = everything(1), everything(100_000)
    assert one[1:] == all_of_them[1:]
    np.testing.assert_array_equal(one[0], all_of_them[0])
    assert len(one[1]) + len(one[2]) == len(lines) and len(one[2]) > 500 and all(bad.reason for bad in one[2])


def test_all_rows_may_be_bad(champion, days, tmp_path):
    result = job(write(days.assign(momentum_5="x"), tmp_path / "days.csv"), tmp_path / "out.parquet")
    assert (result.scored, result.quarantined) == (0, 1006) and list(read(result.output)) == ["Date", *batch.WRITTEN]


# Errors -----------------------------------------------------------------------------------------------------------


def utf16(days, path):
    days.to_csv(path, index=False, encoding="utf-16")


def latin(days, path):
    text = days.assign(Date="Jänner").to_csv(index=False).replace("Jänner", "day", 400)
    path.write_bytes(text.encode("latin-1"))


def cut(days, path):
    days.to_parquet(path)
    path.write_bytes(path.read_bytes()[:-100])


ERRORS = {
    "days.csv is empty or begins with an empty line": ("csv", lambda days, path: path.touch()),
    "holds columns and no rows": ("csv", lambda days, path: write(days.head(0), path)),
    "holds columns and no rows: ": ("parquet", lambda days, path: write(days.head(0), path)),
    "days.csv lacks 'momentum_5' of the model's 12 columns": (
        "csv",
        lambda days, path: write(days.drop(columns="momentum_5"), path),
    ),
    "days.parquet lacks 'abs_return', 'realised_5', 'realised_10' and 9 more of the model's 12 columns": (
        "parquet",
        lambda days, path: write(days[["Date"]], path),
    ),
    "its values seem to be separated by ';'": ("csv", lambda days, path: days.to_csv(path, sep=";", index=False)),
    "days.csv is not UTF-8 in line 1:": ("csv", utf16),
    "days.csv is not UTF-8 in line 402:": ("csv", latin),
    "days.parquet is no whole Parquet file": ("parquet", cut),
    "days.parquet is no whole Parquet file (": ("parquet", lambda days, path: days.to_csv(path)),
    "days.csv is Parquet inside": ("csv", lambda days, path: days.to_parquet(path)),
    "has the column 'Date' twice": (
        "csv",
        lambda days, path: days.assign(x=1).rename(columns={"x": "Date"}).to_csv(path),
    ),
    "has a column 'probability', and so will the output": (
        "csv",
        lambda days, path: write(days.assign(probability=1), path),
    ),
    "the column 'momentum_5' of days.parquet is of type bool": (
        "parquet",
        lambda days, path: write(days.assign(momentum_5=True), path),
    ),
    "has a line of more than 1 MB": (
        "csv",
        lambda days, path: path.write_text(days.to_csv(index=False) + "9" * 3_000_000),
    ),
    "does not exist: name a CSV or Parquet file": ("csv", lambda days, path: None),
    "is a folder without files": ("csv", lambda days, path: path.mkdir()),
}


@pytest.mark.parametrize("said", ERRORS)
def test_an_input_that_cannot_be_read_is_told_in_a_sentence(champion, days, tmp_path, said):
    form, make = ERRORS[said]
    make(days, tmp_path / f"days.{form}")
    before = contents(tmp_path)
    told(said, tmp_path / f"days.{form}", tmp_path / "out.csv")
    assert contents(tmp_path) == before


def told(said, *arguments, **options):
    with pytest.raises(BatchError) as error:
        job(*arguments, **options)
    text = str(error.value)
    assert said in text and "\n" not in text and text.endswith("."), text
    assert mlflow.last_active_run().data.tags["failed_because"] == text[:500]


def test_places_that_cannot_be_are_told(champion, days, tmp_path):
    source = write(days.head(5), tmp_path / "days.csv")
    folder = write(days.head(5), tmp_path / "in" / "days.csv").parent
    told("input and output are both", source, source)
    told("lies inside the input folder", folder, folder / "out")
    told("lies inside the output folder", folder, tmp_path)
    told("the input is a file and the output", source, folder)
    told("the input is a folder and the output", folder, source)
    told("neither .csv nor .parquet", source, tmp_path / "out.txt")
    told("the format 'xml' is unknown", source, tmp_path / "out.csv", format="xml")
    told("is csv by its name, and the format asked for is parquet", source, tmp_path / "out.csv", format="parquet")
    told(" cannot be written (", source, source / "out.csv")
    told("chunk_rows is 0", source, tmp_path / "out.csv", chunk_rows=0)
    told("run_time is 'today'", source, tmp_path / "out.csv", run_time="today")
    (folder / "notes.txt").touch()
    told("notes.txt is neither .csv nor .parquet", folder, tmp_path / "out")
    (folder / "notes.txt").rename(folder / "_notes.txt")
    write(days.head(5), folder / "days.parquet")
    told("two input files would both become days.csv", folder, tmp_path / "out", format="csv")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    told("holds 'thesis.tex', which no batch job has put there", folder, tmp_path / "mine")
    with pytest.raises(BatchError, match="no run is active"):
        batch.score(source, tmp_path / "out.csv")
    pa.parquet.write_table(
        pa.Table.from_pandas(days).append_column("list", pa.array([[1]] * 1006)), tmp_path / "l.parquet"
    )
    told("have types that CSV has no form for", tmp_path / "l.parquet", tmp_path / "out.csv")
    assert job(tmp_path / "l.parquet", tmp_path / "out.parquet").rows == 1006


def test_a_model_that_is_not_there_is_told(champion, days, tmp_path):
    source, output = write(days, tmp_path / "days.csv"), tmp_path / "out.csv"
    told("the model nobody has no champion in this store", source, output, model="models:/nobody@champion")
    told(f"the model {NAME} has no rival in this store", source, output, model=f"models:/{NAME}@rival")
    told(f"the model {NAME} has no version 99 in this store", source, output, model=f"models:/{NAME}/99")
    told("write models:/NAME@ALIAS", source, output, model=NAME)
    assert list(contents(tmp_path)) == ["days.csv"]


def test_a_server_that_is_gone_is_told(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    before = mlflow.get_tracking_uri()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        mlflow.set_tracking_uri(f"http://127.0.0.1:{free.getsockname()[1]}")
        try:
            with pytest.raises(
                BatchError, match=r"the MLflow server http://127.0.0.1:\d+ does not answer \(Connection"
            ):
                batch.check_server()
        finally:
            mlflow.set_tracking_uri(before)


# Twice, and after an interruption ---------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [False, True])
def test_the_same_input_and_version_are_scored_once(champion, days, tmp_path, folder):
    source = partitions(days, tmp_path / "in", "csv") if folder else write(days, tmp_path / "in.csv")
    output = tmp_path / ("out" if folder else "out.csv")
    file = output / "year=2015" / "part-0.csv" if folder else output
    first = job(source, output)
    before = file.stat().st_mtime_ns
    again = job(source, output, run_time=None, chunk_rows=17)
    assert again.outcome == "skipped" and again.run_time == TIME and file.stat().st_mtime_ns == before
    same = ("rows", "scored", "quarantined", "model", "version", "model_id", "input_digest", "output", "quarantine")
    assert all(getattr(again, name) == getattr(first, name) for name in same)
    kept = contents(output.parent)
    assert job(source, output, force=True).outcome == "done" and contents(output.parent) == kept
    for damage in (lambda: file.write_bytes(file.read_bytes()[:-1]), file.unlink):
        damage()
        assert job(source, output).outcome == "done" and contents(output.parent) == kept
    with open(source / "year=2015" / "part-0.csv" if folder else source, "a") as changed:
        changed.write("cut\n")
    assert job(source, output).quarantined == 1
    assert job(source, output).outcome == "skipped"
    (output / "_quarantine.csv" if folder else tmp_path / "out.quarantine.csv").unlink()
    assert job(source, output).outcome == "done"


@needs_fork
@pytest.mark.parametrize("folder", [False, True])
def test_a_killed_job_goes_on_and_makes_the_same_bytes(champion, days, tmp_path, folder):
    rows = days.assign(momentum_5=days["momentum_5"].astype(str).where(days.index % 97 != 5, "x"))
    source = partitions(rows, tmp_path / "in", "csv") if folder else write(rows, tmp_path / "in.csv")
    name = "out" if folder else "out.csv"
    job(source, tmp_path / "unbroken" / name)
    wanted = contents(tmp_path / "unbroken")
    assert in_a_process(die_at, -1, tmp_path / "steps", source, tmp_path / "lives" / name) == 0
    steps = int((tmp_path / "steps").read_text())
    seed = random.randrange(10**6)
    step = random.Random(seed).randrange(steps)
    print(f"seed {seed}: killed before step {step} of {steps}")
    assert in_a_process(die_at, step, "", source, tmp_path / "killed" / name) == -9
    result = job(source, tmp_path / "killed" / name)
    assert contents(tmp_path / "killed") == wanted
    assert result.rows == 1006


@needs_fork
def test_a_resumed_job_does_not_score_again_and_keeps_its_time(champion, days, tmp_path, monkeypatch):
    source, output = write(days, tmp_path / "days.csv"), tmp_path / "out.csv"
    began = "2015-01-02T21:00:00+00:00"
    monkeypatch.setattr(batch_work, "now", lambda: began)
    interrupted_after(monkeypatch, 4, source, output, run_time=None)
    monkeypatch.setattr(batch_work, "now", lambda: TIME)
    result = job(source, output, run_time=None)
    before = int(result.said.partition(", ")[2].split()[0])
    assert 300 < before < 500 and "of them before this job was resumed" in result.said
    assert result.run_time == began and set(read(output)["run_time"]) == {began}
    assert (result.rows, len(read(output))) == (1006, 1006)


def interrupted_after(monkeypatch, chunks, *arguments, **options):
    """A job that is interrupted in the middle, as by Ctrl-C."""
    left = chunks
    original = batch_work.write_chunk

    def interrupted(*of):
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        return original(*of)

    with monkeypatch.context() as patch:
        patch.setattr(batch_work, "write_chunk", interrupted)
        with pytest.raises(KeyboardInterrupt):
            job(*arguments, **options)
    assert not arguments[1].exists() and len(list(batch_work.partial_of(arguments[1]).glob("*.arrow"))) == chunks


@pytest.mark.parametrize(
    "change, said",
    [
        ("version", "another version and model id"),
        ("input", "another input digest"),
        ("chunk_rows", "another chunk rows"),
    ],
)
def test_partial_work_of_another_job_is_thrown_away_and_that_is_said(
    champion, days, tmp_path, monkeypatch, change, said
):
    source, output = write(days, tmp_path / "days.csv"), tmp_path / "out.csv"
    interrupted_after(monkeypatch, 3, source, output)
    version = add_version(strength=0.001) if change == "version" else 1
    if change == "input":
        write(days.head(900), source)
    try:
        result = job(source, output, chunk_rows=50 if change == "chunk_rows" else 100)
        assert f"partial work with {said} was thrown away" in result.said and "resumed" not in result.said
        assert result.version == version
        found = read(output)
        says = mlflow.pyfunc.load_model(f"models:/{NAME}/{version}").predict(days.drop(columns="Date"))
        np.testing.assert_allclose(found["probability"], says["probability"].head(len(found)), rtol=1e-13)
        assert set(found["model_version"]) == {version}
    finally:
        mlflow.MlflowClient().set_registered_model_alias(NAME, "champion", "1")


def test_the_alias_may_move_while_a_job_runs(champion, days, expected, tmp_path, monkeypatch):
    source, output = write(days, tmp_path / "days.csv"), tmp_path / "out.csv"
    original, client, other = batch_work.begin, mlflow.MlflowClient(), add_version(strength=0.001)
    client.set_registered_model_alias(NAME, "champion", "1")

    def moved(*arguments):
        client.set_registered_model_alias(NAME, "champion", str(other))
        return original(*arguments)

    monkeypatch.setattr(batch_work, "begin", moved)
    try:
        assert job(source, output).version == 1
        np.testing.assert_allclose(read(output)["probability"], expected["probability"], rtol=1e-13)
    finally:
        client.set_registered_model_alias(NAME, "champion", "1")


def test_an_input_that_changes_while_it_is_read_is_told(champion, days, tmp_path, monkeypatch):
    source, output = write(days, tmp_path / "days.csv"), tmp_path / "out.csv"
    original = batch_work.write_chunk

    def changed(*of):
        write(days.iloc[::-1], source)
        return original(*of)

    monkeypatch.setattr(batch_work, "write_chunk", changed)
    told("was changed while it was read", source, output)
    assert not output.exists()


def test_a_second_job_on_one_output_is_told(champion, days, tmp_path):
    source, output = write(days, tmp_path / "days.csv"), tmp_path / "out.csv"
    with batch_work.locked(output):
        told("a batch job is at work on", source, output)
    assert job(source, output).outcome == "done"


@needs_fork
def test_a_full_disk_is_told_and_the_next_call_goes_on(champion, days, tmp_path):
    database = champion / "mlflow.db"
    large = pd.concat([days] * (3 * database.stat().st_size // 140_000 + 1))
    source, output = write(large, tmp_path / "days.csv"), tmp_path / "out.csv"
    output.write_text("the old output\n")
    room = database.stat().st_size + 200_000
    assert in_a_process(with_little_room, room, tmp_path / "said", source, output, chunk_rows=1000) == 0
    said = (tmp_path / "said").read_text()
    assert (
        f"the output {output} cannot be written (File too large), and is as it was before" in said and "\n" not in said
    )
    assert output.read_text() == "the old output\n" and not (tmp_path / "out.csv.partial" / "new").exists()
    result = job(source, output, chunk_rows=1000)
    assert "of them before this job was resumed" in result.said
    job(source, tmp_path / "unbroken" / "out.csv", chunk_rows=1000)
    assert output.read_bytes() == (tmp_path / "unbroken" / "out.csv").read_bytes()


# The run, and the script ------------------------------------------------------------------------------------------


def test_the_run_says_what_was_done_with_what(champion, days, tmp_path):
    source = write(days.assign(momentum_5=days["momentum_5"].where(days.index > 5)), tmp_path / "days.csv")
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
        # a bin is 0.001; the rest is that of 1,000 values neighbours lie apart
        low, high = (
            np.quantile(output["probability"], share, method="lower"),
            np.quantile(output["probability"], share, method="higher"),
        )
        assert low - 0.001 <= metrics[f"probability_{name}"] <= high + 0.001
    assert metrics["decision_share"] == output["decision"].mean()
    assert params == {
        "input": str(source),
        "output": str(result.output),
        "model": batch.MODEL,
        "format": "csv",
        "chunk_rows": "100",
    }
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


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        (["--input", "days.csv"], 2, "the following arguments are required: --output"),
        (["--input", "", "--output", "out.csv"], 2, "argument --input: it is empty"),
        (["--input", "days.csv", "--output", "out.csv", "--chunk_rows", "few"], 2, "'few' is no whole number"),
        (["--input", "days.csv", "--output", "out.csv", "--format", "xml"], 2, "invalid choice: 'xml'"),
        (["--input", "none.csv", "--output", "out.csv"], 1, "pystock-inference-batch: the input"),
        (["--input", "days.csv", "--output", "out.csv"], 3, "1,005 of 1,006 rows scored by version 1"),
        (["--input", "good.csv", "--output", "out.csv", "--format", "", "--run_time", TIME], 0, "1,006 rows scored"),
    ],
)
def test_the_script_ends_with_a_code_and_a_line(champion, days, tmp_path, monkeypatch, capsys, arguments, code, said):
    write(days.assign(momentum_5=days["momentum_5"].where(days.index != 5)), tmp_path / "days.csv")
    write(days, tmp_path / "good.csv")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["main.py", *arguments])
    monkeypatch.syspath_prepend(PROJECT)
    monkeypatch.delitem(sys.modules, "arguments", raising=False)
    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", os.environ | {})
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(PROJECT / "main.py"))
    monkeypatch.delitem(sys.modules, "arguments", raising=False)
    printed = capsys.readouterr()
    if code == 1:  # Python itself prints the text
        assert ended.value.code.startswith(said) and "\n" not in ended.value.code
    else:
        assert ended.value.code == code
        assert said in printed.out + printed.err
    assert (tmp_path / "out.csv").exists() == (code in (0, 3))
