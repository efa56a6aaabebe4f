"""Measure the workbench without Docker: start, memory, a call, a class of 30. Part of `make bench`."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import load_of_30
import psutil
from summary import summary

from course import workbench
from course.servers import start_server

CALLS = 300

CLIENT = """
import sys, time, mlflow
client = mlflow.MlflowClient(sys.argv[1])
run = client.create_run("0").info.run_id
times = []
for step in range(int(sys.argv[2])):
    start = time.perf_counter()
    client.log_metric(run, "loss", 0.5, step=step)
    times.append(time.perf_counter() - start)
print(sorted(times)[len(times) // 2] * 1000)
"""


def call(url: str, **env: str) -> float:
    """The median of a log_metric call at the client, in milliseconds; a process of its own, as a notebook is."""
    command = [sys.executable, "-c", CLIENT, url, str(CALLS)]
    done = subprocess.run(command, env={**os.environ, **env}, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def memory(folder: Path) -> float:
    """The memory of all processes of the workbench, each shared page counted once (PSS), in MiB."""
    first = psutil.Process(int((folder / "logs" / "supervisord.pid").read_text()))
    total = 0
    for process in [first.parent(), first, *first.children(recursive=True)]:
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total / 1024


def measure() -> dict:
    """All figures. The database has data in it before the starts that count."""
    figures, starts, here, default, asks = {}, [], [], [], []
    with tempfile.TemporaryDirectory(prefix="course-bench-", dir="/tmp") as name:
        folder = Path(name) / "workbench"
        folder.parent.chmod(0o755)
        with workbench.start(folder, jupyter=True) as bench:
            call(bench.url)
        for _ in range(3):
            begun = time.monotonic()
            with workbench.start(folder, jupyter=True) as bench:
                starts.append(time.monotonic() - begun)
                here.append(call(bench.url))
                time.sleep(5)
                figures["memory of the three parts at rest, MiB"] = round(memory(folder))
            plain = [sys.executable, "-m", "mlflow", "server", "--port", "{port}"]
            store = ["--backend-store-uri", f"sqlite:///{name}/mlflow.db", "--artifacts-destination", f"{name}/files"]
            with start_server([*plain, *store], log=Path(name) / "default.log", cwd=Path(name)) as server:
                default.append(call(server.url))
        figures["course workbench to all healthy, with data there, seconds"] = summary(starts)
        figures["log_metric at the client, workbench, ms"] = summary(here)
        figures["log_metric at the client, default mlflow server, ms"] = summary(default)
        figures["log_metric, workbench over default"] = summary([a / b for a, b in zip(here, default)])
        for _ in range(3):
            with workbench.start(folder, auth=True) as bench:
                name_, password = workbench.admin(folder)
                asks.append(call(bench.url, MLFLOW_TRACKING_USERNAME=name_, MLFLOW_TRACKING_PASSWORD=password))
        figures["log_metric at the client, workbench with authentication, ms"] = summary(asks)
        figures["log_metric, with authentication over without"] = summary([a / b for a, b in zip(asks, here)])
    return figures | class_of_30()


def class_of_30() -> dict:
    bench = workbench.start_workbench()
    try:
        return {f"class of 30, {name}": value for name, value in load_of_30.measure(bench).items()}
    finally:
        bench.discard()
