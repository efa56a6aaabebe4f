"""Batch inference, the long proofs: killed at many places, a full disk, a server that dies, `mlflow run`."""

import os
import random
import subprocess
import sys
import time

import mlflow
import numpy as np
import pandas as pd
import pytest
from batch_jobs import TIME, champion, contents, days, die_at, in_a_process, job, partitions
from fake_course import CHECKOUT, COURSE, clean_environment, until

from course import servers, store
from pystock.batch.rows import open_part

__all__ = ["champion", "days"]  # fixtures
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*input example:UserWarning"),  # advice to those who log models
    pytest.mark.filterwarnings("ignore:Operation with range"),  # MLflow's own code on pandas 3
]
PLACES = 20
PROJECT = CHECKOUT / "projects" / "pystock-inference-batch"


def spread(number, whole):
    """A place in each of so many equal parts of a whole, at random; the seed is printed."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    draw = random.Random(seed)
    return [(at + draw.random()) * whole / number for at in range(number)]


def with_bad_rows(days):
    return days.assign(momentum_5=days["momentum_5"].where(days.index % 97 != 5))


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_killed_at_twenty_places_a_job_makes_the_same_bytes(champion, days, tmp_path, folder, form):
    rows = with_bad_rows(days)
    if folder:
        source, name = partitions(rows, tmp_path / "in", form), "out"
    else:
        source, name = tmp_path / f"in.{form}", f"out.{form}"
        rows.to_csv(source, index=False) if form == "csv" else rows.to_parquet(source, index=False, row_group_size=70)
    old = days.head(500)
    if folder:
        before = partitions(old, tmp_path / "old", form)
    else:
        before = tmp_path / f"old.{form}"
        old.to_csv(before, index=False) if form == "csv" else old.to_parquet(before, index=False)
    job(source, tmp_path / "unbroken" / name)
    wanted = contents(tmp_path / "unbroken")
    job(before, tmp_path / "lives" / name)
    assert in_a_process(die_at, -1, tmp_path / "steps", source, tmp_path / "lives" / name) == 0
    resumed = 0
    for step in map(int, spread(PLACES, int((tmp_path / "steps").read_text()))):
        place = tmp_path / f"killed-{step}"
        job(before, place / name)  # an output is there already
        there = contents(place)
        assert in_a_process(die_at, step, "", source, place / name) == -9
        # whatever was there before stands, or all that is new does
        output = {file for file in wanted if file.startswith("out/") or file == name}
        now = {file: text for file, text in contents(place).items() if file in output}
        assert any(now == {file: whole[file] for file in output if file in whole} for whole in (there, wanted)), step
        result = job(source, place / name)
        assert contents(place) == wanted, step
        resumed += "resumed" in result.said
    assert resumed > PLACES / 4


def test_killed_at_any_time_a_job_makes_the_same_bytes(champion, days, tmp_path):
    large = pd.concat([with_bad_rows(days)] * 200, ignore_index=True)
    source = tmp_path / "in.csv"
    large.to_csv(source, index=False)
    options = {"chunk_rows": 10_000}
    job(source, tmp_path / "unbroken" / "out.csv", **options)
    wanted = contents(tmp_path / "unbroken")
    chunks, killed = len(large) // options["chunk_rows"], 0
    for number, done in enumerate(spread(PLACES, chunks)):
        place = tmp_path / f"killed-{number}"
        partial = place / "out.csv.partial"
        process = in_a_process(die_at, -1, tmp_path / "steps", source, place / "out.csv", wait=False, **options)
        while process.is_alive() and len(list(partial.glob("*.arrow"))) < done:
            time.sleep(0.001)
        process.join(random.random() / 50)
        process.kill()
        process.join()
        killed += process.exitcode == -9
        job(source, place / "out.csv", **options)
        assert contents(place) == wanted, done
    assert killed > PLACES / 2


def test_killed_again_and_again_a_job_comes_to_its_end(champion, days, tmp_path):
    source, options = partitions(with_bad_rows(days), tmp_path / "in", "parquet"), {"chunk_rows": 30}
    job(source, tmp_path / "unbroken" / "out", **options)
    calls = 1
    while in_a_process(die_at, 40, tmp_path / "steps", source, tmp_path / "killed" / "out", **options) != 0:
        calls += 1
        assert calls < 20
    assert calls > 3
    assert contents(tmp_path / "killed") == contents(tmp_path / "unbroken")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="mounts a small disk, for which it must be root")
@pytest.mark.parametrize("room", ["600k", "1600k"])
def test_a_disk_that_is_full_is_told_and_leaves_the_old_output(champion, days, tmp_path, room):
    """The smaller one is full before the chunks are done, the larger one before the output is."""
    large = pd.concat([days] * 10, ignore_index=True)
    source, small, disk = tmp_path / "in.csv", tmp_path / "small.csv", tmp_path / "disk"
    large.to_csv(source, index=False)
    days.head(100).to_csv(small, index=False)
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        job(small, disk / "out.csv")
        before = contents(disk)
        with pytest.raises(ValueError, match=r"cannot be written \(No space left on device\), and is as it was before"):
            job(source, disk / "out.csv", chunk_rows=2000)
        after = contents(disk)
        assert before.items() <= after.items()
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        assert "resumed" in job(source, disk / "out.csv", chunk_rows=2000).said
        job(source, tmp_path / "unbroken" / "out.csv", chunk_rows=2000)
        assert contents(disk) == contents(tmp_path / "unbroken")
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def script(uri, *arguments, **env):
    return subprocess.Popen(
        [sys.executable, "main.py", *map(str, arguments)],
        cwd=PROJECT,
        env=clean_environment(MLFLOW_TRACKING_URI=uri, **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_server_that_dies_in_the_middle_is_told_within_seconds(champion, days, tmp_path):
    """And when it is back the job goes on."""
    source, output = tmp_path / "in.csv", tmp_path / "out.csv"
    pd.concat([days] * 300, ignore_index=True).to_csv(source, index=False)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", "{port}", "--workers", "1"]
    command += ["--backend-store-uri", store.uri(champion), "--artifacts-destination", str(champion / "artifacts")]
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    arguments = ("--input", source, "--output", output, "--run_time", TIME, "--chunk_rows", "500")

    def start():
        return servers.launch(command, env=settings, cwd=tmp_path, log=tmp_path / "server.log").wait_until_healthy()

    server = start()
    try:
        process = script(server.url, *arguments)
        until(lambda: list((tmp_path / "out.csv.partial").glob("*.arrow")), 60, "the first chunk")
        server.stop()
        begun = time.monotonic()
        printed, said = process.communicate(timeout=600)
        seconds = time.monotonic() - begun
        assert process.returncode == 1
        assert said.splitlines()[-1].startswith(
            f"pystock-inference-batch: the MLflow server {server.url} does not answer (Connection refused)"
        ), said
        assert not output.exists() and seconds < 200
        print(f"{seconds:.0f} s")
    finally:
        server.stop()
    begun = time.monotonic()
    process = script(server.url, *arguments)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 1 and "does not answer (Connection refused)" in said and len(said.splitlines()) == 1
    assert time.monotonic() - begun < 100
    server = start()
    try:
        process = script(server.url, *arguments)
        printed, said = process.communicate(timeout=600)
        assert process.returncode == 0, said
        assert "of them before this job was resumed" in printed
    finally:
        server.stop()
    job(source, tmp_path / "unbroken" / "out.csv", chunk_rows=500)
    assert output.read_bytes() == (tmp_path / "unbroken" / "out.csv").read_bytes()


def test_mlflow_run_scores_and_tells_of_bad_rows(champion, days, tmp_path):
    days.to_csv(tmp_path / "in.csv", index=False)
    env = clean_environment(COURSE_STATE=champion.parent, COURSE_TRACKING_URI=store.uri(champion))
    command = [COURSE, "mlflow", "run", PROJECT, "--env-manager", "local", "--experiment-name", "batch"]

    def run(*parameters):
        words = [word for parameter in parameters for word in ("-P", parameter)]
        return subprocess.run([*command, *words], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=600)

    done = run(f"input={tmp_path / 'in.csv'}", f"output={tmp_path / 'out.csv'}")
    assert done.returncode == 0, done.stderr
    assert "1,006 rows scored by version 1 of pystock-big-move" in done.stdout
    with_bad_rows(days).to_csv(tmp_path / "in.csv", index=False)
    done = run(f"input={tmp_path / 'in.csv'}", f"output={tmp_path / 'out.csv'}")
    assert done.returncode == 1 and "11 in quarantine" in done.stdout  # MLflow knows no other code
    second, first = mlflow.search_runs(experiment_names=["batch"], output_format="list")
    for run, status, quarantined in ((first, "FINISHED", 0), (second, "FAILED", 11)):
        assert (run.info.status, run.info.run_name) == (status, "pystock-inference-batch")
        assert (run.data.tags["step"], run.data.tags["outcome"]) == ("main", "done")
        assert run.data.metrics["quarantined"] == quarantined
        assert run.data.params["output"] == str(tmp_path / "out.csv") and run.data.params["force"] == "no"


@pytest.mark.parametrize("bad", ["x", "", '"'])
def test_a_file_of_bad_rows_alone_is_read_in_seconds(tmp_path, bad):
    rows, path = 200_000, tmp_path / "bad.csv"
    path.write_text("Date,x,y\n" + f"2015-01-02,{bad},1.5\n" * rows)
    part = open_part(path.name, path, ["x", "y"], ())
    begun = time.monotonic()
    assert sum(len(chunk.bad) for chunk in part.chunks(None, 50_000)) == rows
    assert time.monotonic() - begun < 60  # about 1 where time grows as the rows do


def test_forty_seeds_of_odd_rows(tmp_path):
    """What becomes of a row does not depend on the rows beside it (as in test_batch, with more texts)."""
    letters = "0123456789+-.eEnNaAiIfF_ \t\"'x"
    for seed in range(40):
        draw = random.Random(seed)

        def text(draw=draw):
            if draw.random() < 0.995:
                return str(draw.gauss(0, 1))
            return "".join(draw.choice(letters) for _ in range(draw.randrange(6)))

        path = tmp_path / "odd.csv"
        path.write_text("x,date,y\n" + "".join(f"{text()},2015-01-02,{text()}\n" for _ in range(3000)))
        part = open_part(path.name, path, ["x", "y"], ())
        one, whole = (list(part.chunks(None, rows)) for rows in (1, 10_000))
        assert [bad for chunk in one for bad in chunk.bad] == [bad for chunk in whole for bad in chunk.bad], seed
        np.testing.assert_array_equal(
            *(np.concatenate([each.numbers for each in some], axis=1) for some in (one, whole))
        )
