"""Chapters in a jupyter container: all with COURSE_ALL_CHAPTERS=1, else those that ask most of it.

01 and 05 use a server and a workbench inside it, and 12 one with accounts, on a stand-in for the run of chapter 10.
"""

import os
import re

from docker_workbench import Workbench

from course.chapters import all_chapters

ALL = os.environ.get("COURSE_ALL_CHAPTERS") == "1"  # conftest.py unsets the variable later
SOME = ("01", "05", "12")
STAND_IN = """
import mlflow
from pystock import models, tuning

X, y = tuning.training_data("sp500", "big_move", "volatility")
mlflow.set_experiment("models")
tags = {"pilot": "model", "market": "sp500", "target": "big_move", "features": "volatility"}
with mlflow.start_run(tags=tags):
    models.log_decision_model(tuning.build("logistic").fit(X, y), X, threshold=0.25)
"""


def test_chapters_run_in_the_jupyter_container(tmp_path):
    chapters = [chapter for chapter in all_chapters() if ALL or chapter.number in SOME]
    with Workbench("chapters", tmp_path) as bench:
        bench.up("--build")
        if not ALL:
            bench.python(STAND_IN)
        for chapter in chapters:
            done = bench.run("jupyter", "course", "run", chapter.number, seconds=900)
            assert re.search(rf"^{chapter.name} +passed ", done.stdout, re.MULTILINE), done.stdout
        experiments = bench.python("import mlflow; print([e.name for e in mlflow.MlflowClient().search_experiments()])")
        assert "stockpred" in experiments  # on the server, not in the embedded store
        assert bench.run("jupyter", "sh", "-c", "ls .course/store", check=False).returncode != 0
