"""Measure the data pipeline: first run and unchanged rerun, and how it grows with the rows. Part of `make bench`.

The prices of many markets are the embedded ones with seeded noise, 5,000 days each.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from summary import summary

from course import store

ROOT = Path(__file__).parents[1]
PROJECT = ROOT / "projects" / "pystock-data-features"
RUNS = 3
DAYS = 5_000
MARKETS = (1, 10, 50, 200)

# In a process of its own. Once on another market, after which everything is imported; then the pipeline, twice.
OWN_WORK = """
import json, runpy, sys, time
times = []
sys.path.insert(0, ".")
for market in ("nasdaq", "sp500", "sp500"):
    sys.argv = ["main.py", "--market", market]
    begun = time.perf_counter()
    runpy.run_path("main.py", run_name="__main__")
    times.append(time.perf_counter() - begun)
print("\\n" + json.dumps(times[1:]))
"""
# The whole pipeline on all markets of a folder, and the most memory that its process ever held
GROWTH = """
import json, resource, runpy, sys, time
from pystock import pipeline
from pystock.data_pipeline import tracking
sys.path.insert(0, ".")
sys.argv = ["main.py", "--market", "all", "--source", sys.argv[1], "--end", ""]
begun = time.perf_counter()
runpy.run_path("main.py", run_name="__main__")
print("\\n" + json.dumps([time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def write_markets(folder: Path, number: int) -> None:
    """`number` files of 5,000 days: each price times a factor of its day, 1 with a deviation of 0.1 %."""
    import numpy as np

    from pystock import data

    prices = data.load("nasdaq").iloc[:DAYS]
    rng = np.random.default_rng(0)
    folder.mkdir()
    for at in range(number):
        factor = np.exp(rng.normal(0, 0.001, len(prices)))
        noisy = prices.copy()
        noisy[data.PRICES] = prices[data.PRICES].mul(factor, axis=0).round(2)
        noisy.to_csv(folder / f"ticker{at:03d}.csv", float_format="%.2f", date_format="%Y-%m-%d")


@contextlib.contextmanager
def place():
    """A fresh embedded store and an empty folder of stages: the environment of a process that uses both."""
    with tempfile.TemporaryDirectory(prefix="course-bench-") as folder:
        state = Path(folder) / "state"
        store.ensure(state / "store")
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        yield os.environ | {
            "COURSE_STATE": str(state),
            "PYSTOCK_STAGES": str(Path(folder) / "stages"),
            "PATH": path,
            "MLFLOW_TRACKING_URI": store.uri(state / "store"),
            "_MLFLOW_SERVER_ARTIFACT_ROOT": store.artifact_root(state / "store"),
            "MLFLOW_EXPERIMENT_NAME": "bench",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }


def in_process(code: str, environment: dict, *arguments: str) -> list[float]:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def by_command(environment: dict) -> float:
    command = [Path(sys.executable).parent / "course", "mlflow", "run", PROJECT, "--env-manager", "local"]
    command += ["--experiment-name", "bench"]
    begun = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begun


def measure() -> dict:
    first, again, own_first, own_again = [], [], [], []
    for _ in range(RUNS):
        with place() as environment:
            first.append(by_command(environment))
            again.append(by_command(environment))
        with place() as environment:
            work = in_process(OWN_WORK, environment)
            own_first.append(work[0])
            own_again.append(work[1])
    figures = {
        "course mlflow run, first, s": summary(first, 1),
        "course mlflow run, unchanged, s": summary(again, 1),
        "own work of the first, beyond imports, s": summary(own_first),
        "own work of the unchanged, beyond imports, s": summary(own_again),
        "growth": {},
    }
    for number in MARKETS:
        with tempfile.TemporaryDirectory(prefix="course-bench-") as folder, place() as environment:
            write_markets(Path(folder) / "source", number)
            seconds, megabytes = in_process(GROWTH, environment, str(Path(folder) / "source"))
        figures["growth"][f"{number * DAYS:,} rows"] = {
            "seconds": round(seconds, 1),
            "peak memory, MiB": round(megabytes),
        }
    return figures


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
