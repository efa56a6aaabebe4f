"""The open task at the end of a part, where nothing tells MLflow where to write."""

import os
import shutil
import subprocess
import sys

from course.paths import root

POOR = """
import mlflow
from sklearn.linear_model import LogisticRegression

mlflow.set_experiment("poor")
with mlflow.start_run():
    mlflow.log_metric("auc", 0.99)
    mlflow.sklearn.log_model(LogisticRegression().fit([[0], [1]], [0, 1]), name="model", pip_requirements=[])
"""


def test_part_1_check_tells_a_very_good_solution_from_a_poor_one(tmp_path):
    shutil.copytree(root() / "chapters" / "tasks", tmp_path, dirs_exist_ok=True)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "COURSE_"))}

    def run(*command):
        options = {"cwd": tmp_path, "env": clean | {"MPLBACKEND": "agg"}, "capture_output": True, "text": True}
        done = subprocess.run([sys.executable, *command], timeout=600, **options)
        return done.returncode, done.stdout

    assert "C=0.1: AUC 0.99" in run("part_1_train.py")[1]
    assert ": probability of a benign tumour" in run("part_1_solution.py")[1]
    passed, printed = run("part_1_check.py", "breast-cancer")
    assert (passed, "9 of 9 checks pass." in printed) == (0, True), printed
    run("-c", POOR)
    failed, printed = run("part_1_check.py", "poor")
    lacking = {line.split("not yet  ")[1].split(":")[0] for line in printed.splitlines() if "not yet" in line}
    assert failed == 1
    assert lacking == {"run name", "parameters", "metrics", "tag", "figure", "signature", "input example"}
    assert "has no finished run there" in run("part_1_check.py", "nothing")[1]
