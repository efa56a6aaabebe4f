"""Measure the training pipeline: by `course mlflow run`, first and unchanged, and behind the data pipeline.

Part of `make bench`. Own work is what is left of an entry point when its imports are taken away: the script is called
by itself, and so is a program that only imports, nothing but what the script imports too.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from summary import summary

from course import store
from pystock.training import PIPELINE

PROJECTS = Path(__file__).parents[1] / "projects"
COURSE = Path(sys.executable).with_name("course")
RUNS = 3
# What an unchanged rerun imports; the steps that have something to do import more, and that counts as their work.
IMPORTS = """
import alembic.script, mlflow.data, pyarrow.parquet, pystock.training
import mlflow.store.tracking.sqlalchemy_store, mlflow.store.model_registry.sqlalchemy_store
"""


def timed(*command, cwd: Path, env: dict[str, str]) -> float:
    begun = time.monotonic()
    subprocess.run(command, cwd=cwd, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - begun


def mlflow_run(project: str) -> list:
    return [COURSE, "mlflow", "run", PROJECTS / project, "--env-manager", "local", "--experiment-name", project]


def measure() -> dict:
    """Seconds: the first run on an empty store, the unchanged rerun, and the rerun's own work; the same for both."""
    wall, own, figures = [], [], {}
    with tempfile.TemporaryDirectory(prefix="course-bench-") as folder:
        for number in range(RUNS):
            place = Path(folder) / str(number)
            env = os.environ | {"COURSE_STATE": str(place), "PYSTOCK_STAGES": str(place / "stages")}
            env.pop("COURSE_TRACKING_URI", None)
            store.ensure(place / "store")  # making it is not the pipeline's work
            wall.append([timed(*mlflow_run(PIPELINE), cwd=place, env=env) for _ in range(2)])
            env["MLFLOW_TRACKING_URI"] = store.uri(place / "store")
            script = timed(sys.executable, "main.py", cwd=PROJECTS / PIPELINE, env=env)
            own.append(script - timed(sys.executable, "-c", IMPORTS, cwd=place, env=env))
        figures["first run"] = summary([first for first, _ in wall], 1)
        figures["unchanged rerun"] = summary([again for _, again in wall], 1)
        figures["unchanged rerun, own work beyond imports"] = summary(own, 2)
        env.pop("MLFLOW_TRACKING_URI")
        whole = [timed(*mlflow_run("pystock-pipeline"), cwd=place, env=env) for _ in range(2)]
        figures["data pipeline, then training, new data run"], figures["both, unchanged"] = (
            round(each, 1) for each in whole
        )
    return figures


if __name__ == "__main__":
    print(measure())
