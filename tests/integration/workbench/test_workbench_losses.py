"""The MLflow server or PostgreSQL is killed while a client logs: what was acknowledged is there afterwards."""

import os
import signal
import subprocess
import sys

import psutil
import pytest
from fake_course import clean_environment, until
from mlflow import MlflowClient

from course.environment import QUIET_MLFLOW
from course.workbench import local as workbench

pytestmark = [pytest.mark.skipif(os.name == "nt", reason="no PostgreSQL there"), pytest.mark.xdist_group("losses")]

# Logs without an end. A step is written to the file once the server has acknowledged it.
CLIENT = """
import sys, mlflow
mlflow.set_experiment("killed")
run = mlflow.start_run()
with open(sys.argv[1], "w", buffering=1) as acknowledged:
    print(run.info.run_id, file=acknowledged)
    for step in range(100_000):
        mlflow.log_metric("loss", step / 2, step=step)
        print(step, file=acknowledged)
"""


@pytest.mark.parametrize(("part", "is_main"), [  # of the part, the process with such a command line
    ("mlflow", lambda words: "uvicorn" in words),
    ("postgres", lambda words: "-D" in words and words[0].endswith("/postgres")),
])  # fmt: skip
def test_nothing_acknowledged_is_lost(tmp_path, part, is_main):
    bench, file = workbench.start_workbench(), tmp_path / "acknowledged"
    env = clean_environment(MLFLOW_TRACKING_URI=bench.url, **QUIET_MLFLOW)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    client = subprocess.Popen([sys.executable, "-c", CLIENT, file], env=env, **pipes)
    try:
        until(lambda: file.exists() and file.read_text().count("\n") > 100, 60, "a hundred acknowledged steps")
        supervisor = psutil.Process(int((bench.folder / "logs" / "supervisord.pid").read_text()))
        parts = supervisor.children(recursive=True)
        next(one for one in parts if is_main(one.cmdline())).send_signal(signal.SIGKILL)
        message = client.communicate(timeout=300)[0].splitlines()[-1]
        assert client.returncode == 1
        assert message.startswith("mlflow.exceptions.MlflowException: API request to http"), message
        until(lambda: not bench.running(), 60, "the end of the workbench")
        assert not psutil.wait_procs(parts, timeout=30)[1], "a part outlives the workbench"
        assert f"{part} exited unexpectedly" in str(bench.why_it_ended())
        bench.stop()

        bench = workbench.start_workbench(bench.folder)
        run, *steps = file.read_text().splitlines()
        found = {metric.step: metric.value for metric in MlflowClient(bench.url).get_metric_history(run, "loss")}
        assert {int(step) for step in steps} <= found.keys() and len(found) <= len(steps) + 1
        assert all(value == step / 2 for step, value in found.items())
    finally:
        client.kill()
        bench.discard()
