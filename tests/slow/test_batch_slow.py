"""Batch inference with other processes: a server that dies in the middle of a job, and `mlflow run`."""

import subprocess
import sys

import mlflow
import pandas as pd
from batch_jobs import ONE_WORKER, TIME, champion, days, run_job, with_bad_rows, write
from fake_course import CHECKOUT, COURSE, clean_environment, until

from course import servers, store
from pystock.batch.resume import Output

__all__ = ["champion", "days"]  # fixtures
pytestmark = ONE_WORKER
PROJECT = CHECKOUT / "projects" / "pystock-inference-batch"


def script(uri, *arguments):
    command, env = [sys.executable, "main.py", *map(str, arguments)], clean_environment(MLFLOW_TRACKING_URI=uri)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=PROJECT, env=env, **pipes)


def test_a_job_whose_server_dies_says_so_and_resumes_when_it_is_back(champion, days, tmp_path):
    source, output = write(pd.concat([days] * 300, ignore_index=True), tmp_path / "in.csv"), tmp_path / "out.csv"
    command = servers.mlflow_server(store.uri(champion), "--artifacts-destination", str(champion / "artifacts"))
    arguments = ("--input", source, "--output", output, "--run_time", TIME, "--chunk_rows", "500")

    def start():
        env, log = servers.MLFLOW_SERVER_ENVIRONMENT, tmp_path / "server.log"
        return servers.launch(command, env=env, cwd=tmp_path, log=log).wait_until_healthy()

    with start() as server:
        process = script(server.url, *arguments)
        until(Output(output, False).chunks, 60, "the first chunk")
        server.stop()
        errors = process.communicate(timeout=600)[1]
    gone = f"pystock-inference-batch: the MLflow server {server.url} does not respond (Connection refused)"
    assert process.returncode == 1 and errors.splitlines()[-1].startswith(gone), errors
    assert not output.exists()
    process = script(server.url, *arguments)
    errors = process.communicate(timeout=600)[1]
    assert process.returncode == 1 and errors.startswith(gone) and len(errors.splitlines()) == 1
    with start() as server:
        process = script(server.url, *arguments)
        printed, errors = process.communicate(timeout=600)
    assert process.returncode == 0 and "of them before this job was resumed" in printed, errors
    run_job(source, tmp_path / "unbroken" / "out.csv", chunk_rows=500)
    assert output.read_bytes() == (tmp_path / "unbroken" / "out.csv").read_bytes()


def test_mlflow_run_fails_with_bad_rows_and_says_how_many(champion, days, tmp_path):
    source, output = write(with_bad_rows(days), tmp_path / "in.csv"), tmp_path / "out.csv"
    env = clean_environment(COURSE_STATE=champion.parent, COURSE_TRACKING_URI=store.uri(champion))
    command = [COURSE, "mlflow", "run", PROJECT, "--env-manager", "local", "--experiment-name", "batch"]
    command += ["-P", f"input={source}", "-P", f"output={output}"]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1 and "11 in quarantine" in done.stdout  # MLflow knows no other code
    (run,) = mlflow.search_runs(experiment_names=["batch"], output_format="list")
    assert (run.info.status, run.info.run_name) == ("FAILED", "pystock-inference-batch")
    assert (run.data.tags["step"], run.data.tags["outcome"]) == ("main", "done")
    assert run.data.metrics["quarantined"] == 11
    assert run.data.params["output"] == str(output) and run.data.params["force"] == "no"
