"""The MLflow server or PostgreSQL is killed while a client logs: what was acknowledged is there afterwards."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from fake_course import clean_environment, until
from mlflow import MlflowClient

from course.session import QUIET_MLFLOW
from course.workbench import local as workbench

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="the workbench needs Linux or macOS"),
    pytest.mark.xdist_group("losses"),
]

# Logs without an end. A step is written to the file once the server has acknowledged it.
CLIENT = """
import sys, mlflow
mlflow.set_experiment("killed")
run = mlflow.start_run()
with open(sys.argv[1], "w", buffering=1) as told:
    print(run.info.run_id, file=told)
    for step in range(100_000):
        mlflow.log_metric("loss", step / 2, step=step)
        print(step, file=told)
"""


class Kept:
    """A workbench that runs before and after each test: started again on the same folder."""

    def __init__(self):
        self.bench = workbench.start_workbench()
        self.folder = self.bench.folder

    def start_again(self):
        self.bench.stop()
        self.bench = workbench.start_workbench(self.folder)


@pytest.fixture(scope="module")
def kept():
    kept = Kept()
    try:
        yield kept
    finally:
        kept.bench.discard()


def server_of(folder: Path) -> psutil.Process:
    """The process that answers for MLflow."""
    supervisor = psutil.Process(int((folder / "logs" / "supervisord.pid").read_text()))
    return next(one for one in supervisor.children(recursive=True) if "uvicorn" in one.cmdline())


def postmaster_of(folder: Path) -> psutil.Process:
    return psutil.Process(int((folder / "postgres" / "postmaster.pid").read_text().split()[0]))


@pytest.mark.parametrize("killed", [server_of, postmaster_of])
def test_nothing_acknowledged_is_lost(kept, tmp_path, killed):
    bench, told = kept.bench, tmp_path / "told"
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, told],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=clean_environment(MLFLOW_TRACKING_URI=bench.url, **QUIET_MLFLOW),
    )
    try:
        until(lambda: told.exists() and told.read_text().count("\n") > 100, 60, "a hundred acknowledged steps")
        supervisor = psutil.Process(int((kept.folder / "logs" / "supervisord.pid").read_text()))
        parts, start = supervisor.children(recursive=True), time.monotonic()
        os.kill(killed(kept.folder).pid, signal.SIGKILL)
        said = client.communicate(timeout=300)[0]
        print(f"the client ended {time.monotonic() - start:.1f} s after the kill: {said.splitlines()[-1][:200]}")
    finally:
        client.kill()
    assert client.returncode == 1
    assert said.splitlines()[-1].startswith("mlflow.exceptions.MlflowException: API request to http"), said
    until(lambda: not bench.running(), 60, "the end of the workbench")
    assert not psutil.wait_procs(parts, timeout=30)[1], "a part outlives the workbench"
    assert f"{'postgres' if killed is postmaster_of else 'mlflow'} ended by itself" in str(bench.why_it_ended())

    kept.start_again()
    run, *steps = told.read_text().splitlines()
    acknowledged = {int(step) for step in steps}
    found = {metric.step: metric.value for metric in MlflowClient(kept.bench.url).get_metric_history(run, "loss")}
    print(f"acknowledged {len(acknowledged)}, found {len(found)}")
    assert acknowledged <= found.keys() and len(found) <= len(acknowledged) + 1
    assert all(value == step / 2 for step, value in found.items())
