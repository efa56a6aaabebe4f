"""Chapters in a jupyter container: all with COURSE_ALL_CHAPTERS=1, else those that ask most of it.

01 and 05 use a server and a workbench inside it, and 11 has accounts, on stand-ins for runs of chapters 08 and 09.
"""

import os
import re

from docker_workbench import Workbench

from course.chapters import all_chapters

ALL = os.environ.get("COURSE_ALL_CHAPTERS") == "1"  # conftest.py unsets the variable later
SOME = ("01", "05", "11")
STAND_INS = """
import mlflow
from pystock import models, tuning

settings = {
    "logistic": {"C": 0.04, "class_weight": None, "years": 9.5},
    "xgboost": {"learning_rate": 0.07, "max_depth": 1, "min_child_weight": 9.3, "subsample": 0.64, "years": 10.7},
}
mlflow.set_experiment("tuning")
for family, best in settings.items():
    with mlflow.start_run(tags={"family": family, "trials": "1"}):
        with mlflow.start_run(nested=True, tags={"state": "complete"}):
            mlflow.log_params(best)
            mlflow.log_metric("skill", 0.1)
X, y = tuning.training_data("sp500", "big_move", "volatility")
past = slice(-round(252 * best["years"]), None)
mlflow.set_experiment("models")
tags = {"pilot": "model", "market": "sp500", "target": "big_move", "features": "volatility", "family": "xgboost"}
with mlflow.start_run(tags=tags | {"git_commit": "none"}):
    mlflow.log_metrics({f"brier_skill_{end}": 0.1 for end in ("value", "low", "high")})
    mlflow.log_input(mlflow.data.from_pandas(X[past].assign(big_move=y[past]), targets="big_move"), context="training")
    models.log_decision_model(tuning.build("xgboost", **best).fit(X[past], y[past]), X, threshold=0.25)
"""


def test_chapters_run_in_the_jupyter_container(tmp_path):
    chapters = [chapter for chapter in all_chapters() if ALL or chapter.number in SOME]
    with Workbench("chapters", tmp_path) as bench:
        bench.up("--build")
        if not ALL:
            bench.python(STAND_INS)
        for chapter in chapters:
            done = bench.run("jupyter", "course", "run", chapter.number, seconds=900)
            assert re.search(rf"^{chapter.name} +passed ", done.stdout, re.MULTILINE), done.stdout
        experiments = bench.python("import mlflow; print([e.name for e in mlflow.MlflowClient().search_experiments()])")
        assert "stockpred" in experiments  # on the server, not in the embedded store
        assert bench.run("jupyter", "sh", "-c", "ls .course/store", check=False).returncode != 0
