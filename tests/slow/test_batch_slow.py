"""Batch inference, the long proofs: killed at many places and times, a server that dies, `mlflow run`."""

import random
import subprocess
import sys
import time

import mlflow
import pandas as pd
import pytest
from batch_jobs import (
    TIME,
    champion,
    contents,
    days,
    in_process,
    job_killed_at,
    needs_fork,
    run_job,
    with_bad_rows,
    write,
    write_partitions,
)
from fake_course import CHECKOUT, COURSE, clean_environment, until

from course import servers, store
from pystock.batch.resume import Output

__all__ = ["champion", "days"]  # fixtures
pytestmark = [
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


@needs_fork
@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_killed_at_twenty_places_a_job_makes_the_same_bytes(champion, days, tmp_path, folder):
    """Over an output that is there: a reader finds the old one or the new one, or no _SUCCESS in the folder."""
    if folder:
        source, name = write_partitions(with_bad_rows(days), tmp_path / "in", "parquet"), "out"
        before = write_partitions(days.head(500), tmp_path / "old", "parquet")
    else:
        source, name = write(with_bad_rows(days), tmp_path / "in.csv"), "out.csv"
        before = write(days.head(500), tmp_path / "old.csv")
    run_job(source, tmp_path / "unbroken" / name)
    wanted = contents(tmp_path / "unbroken")
    run_job(before, tmp_path / "lives" / name)
    assert in_process(job_killed_at, -1, tmp_path / "steps", source, tmp_path / "lives" / name) == 0
    data = {file for file in wanted if "part-0" in file or file == name}
    resumed, unfinished = 0, 0
    for step in map(int, spread(PLACES, int((tmp_path / "steps").read_text()))):
        place = tmp_path / f"killed-{step}"
        run_job(before, place / name)
        old = contents(place)
        assert in_process(job_killed_at, step, "", source, place / name) == -9
        if Output(place / name, folder).is_whole():
            now = {file: text for file, text in contents(place).items() if file in data}
            assert any(now == {file: whole[file] for file in data if file in whole} for whole in (old, wanted)), step
        else:
            unfinished += 1
        result = run_job(source, place / name)
        assert contents(place) == wanted, step
        resumed += "resumed" in result.said
    assert resumed > PLACES / 4 and (folder or not unfinished)


@needs_fork
def test_killed_at_any_time_a_job_makes_the_same_bytes(champion, days, tmp_path):
    source = write(pd.concat([with_bad_rows(days)] * 200, ignore_index=True), tmp_path / "in.csv")
    options = {"chunk_rows": 10_000}
    run_job(source, tmp_path / "unbroken" / "out.csv", **options)
    wanted, killed = contents(tmp_path / "unbroken"), 0
    for number, done in enumerate(spread(PLACES, 200 * len(days) // options["chunk_rows"])):
        place = tmp_path / f"killed-{number}"
        output = Output(place / "out.csv", False)
        process = in_process(job_killed_at, -1, tmp_path / "steps", source, output.path, wait=False, **options)
        while process.is_alive() and len(output.chunks()) < done:
            time.sleep(0.001)
        process.join(random.random() / 50)
        process.kill()
        process.join()
        killed += process.exitcode == -9
        run_job(source, output.path, **options)
        assert contents(place) == wanted, done
    assert killed > PLACES / 2


def script(uri, *arguments):
    return subprocess.Popen(
        [sys.executable, "main.py", *map(str, arguments)],
        cwd=PROJECT,
        env=clean_environment(MLFLOW_TRACKING_URI=uri),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_job_whose_server_dies_says_so_and_resumes_when_it_is_back(champion, days, tmp_path):
    source, output = write(pd.concat([days] * 300, ignore_index=True), tmp_path / "in.csv"), tmp_path / "out.csv"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", "{port}", "--workers", "1"]
    command += ["--backend-store-uri", store.uri(champion), "--artifacts-destination", str(champion / "artifacts")]
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    arguments = ("--input", source, "--output", output, "--run_time", TIME, "--chunk_rows", "500")

    def start():
        return servers.launch(command, env=settings, cwd=tmp_path, log=tmp_path / "server.log").wait_until_healthy()

    server = start()
    try:
        process = script(server.url, *arguments)
        until(Output(output, False).chunks, 60, "the first chunk")
        server.stop()
        errors = process.communicate(timeout=600)[1]
    finally:
        server.stop()
    gone = f"pystock-inference-batch: the MLflow server {server.url} does not answer (Connection refused)"
    assert process.returncode == 1 and errors.splitlines()[-1].startswith(gone), errors
    assert not output.exists()
    process = script(server.url, *arguments)
    errors = process.communicate(timeout=600)[1]
    assert process.returncode == 1 and errors.startswith(gone) and len(errors.splitlines()) == 1
    server = start()
    try:
        process = script(server.url, *arguments)
        printed, errors = process.communicate(timeout=600)
    finally:
        server.stop()
    assert process.returncode == 0 and "of them before this job was resumed" in printed, errors
    run_job(source, tmp_path / "unbroken" / "out.csv", chunk_rows=500)
    assert output.read_bytes() == (tmp_path / "unbroken" / "out.csv").read_bytes()


def test_mlflow_run_fails_with_bad_rows_and_says_how_many(champion, days, tmp_path):
    source, output = write(days, tmp_path / "in.csv"), tmp_path / "out.csv"
    env = clean_environment(COURSE_STATE=champion.parent, COURSE_TRACKING_URI=store.uri(champion))
    command = [COURSE, "mlflow", "run", PROJECT, "--env-manager", "local", "--experiment-name", "batch"]
    command += ["-P", f"input={source}", "-P", f"output={output}"]

    def run():
        return subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=600)

    done = run()
    assert done.returncode == 0 and "1,006 rows scored by version 1 of pystock-big-move" in done.stdout, done.stderr
    write(with_bad_rows(days), source)
    done = run()
    assert done.returncode == 1 and "11 in quarantine" in done.stdout  # MLflow knows no other code
    second, first = mlflow.search_runs(experiment_names=["batch"], output_format="list")
    for run, status, quarantined in ((first, "FINISHED", 0), (second, "FAILED", 11)):
        assert (run.info.status, run.info.run_name) == (status, "pystock-inference-batch")
        assert (run.data.tags["step"], run.data.tags["outcome"]) == ("main", "done")
        assert run.data.metrics["quarantined"] == quarantined
        assert run.data.params["output"] == str(output) and run.data.params["force"] == "no"
