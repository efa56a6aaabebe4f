"""The open tasks at the end of the parts, where nothing but the learner tells MLflow where to write."""

import os
import shutil
import subprocess
import sys

import pytest

from course.paths import root
from course.servers import MLFLOW_SERVER_ENVIRONMENT, start_server

POOR_1 = """
import mlflow
from sklearn.linear_model import LogisticRegression

mlflow.set_experiment("poor")
with mlflow.start_run():
    mlflow.log_metric("auc", 0.99)
    mlflow.sklearn.log_model(LogisticRegression().fit([[0], [1]], [0, 1]), name="model", pip_requirements=[])
"""
POOR_2 = """
import mlflow

mlflow.set_experiment("poor")
with mlflow.start_run(run_name="search"):
    for trial in range(3):
        with mlflow.start_run(run_name=f"trial-{trial}", nested=True):
            mlflow.log_metric("test_mae", 44)
mlflow.MlflowClient().create_run(mlflow.get_experiment_by_name("poor").experiment_id, run_name="lost")
"""
POOR_3 = """
import mlflow
from sklearn.linear_model import LogisticRegression

with mlflow.start_run(tags={"registered_model": "poor", "outcome": "promoted"}):
    described = {"serialization_format": "cloudpickle", "pip_requirements": [], "registered_model_name": "poor"}
    mlflow.sklearn.log_model(LogisticRegression().fit([[0], [1]], [0, 1]), name="model", **described)
mlflow.MlflowClient().set_registered_model_alias("poor", "champion", "1")
"""
DISORDER_3 = """
import mlflow

client, order = mlflow.MlflowClient(), ["attributes.start_time"]
first, _, third, last = mlflow.search_runs(search_all_experiments=True, order_by=order, output_format="list",
                                           filter_string="tags.registered_model = 'eight'")
client.set_tag(first.info.run_id, "why", "ok")
client.set_tag(third.info.run_id, "from", "2")
client.delete_run(client.get_model_version("eight", "2").run_id)
client.set_model_version_tag("eight", "1", "validation_status", "rejected")
client.set_registered_model_alias("eight", "champion", "3")
"""


@pytest.fixture
def run(tmp_path):
    shutil.copytree(root() / "chapters" / "tasks", tmp_path, dirs_exist_ok=True)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "COURSE_"))}

    def run(*command, **environment):
        options = {"cwd": tmp_path, "env": clean | {"MPLBACKEND": "agg"} | environment, "capture_output": True}
        done = subprocess.run([sys.executable, *command], timeout=900, text=True, **options)
        return done.returncode, done.stdout

    return run


def test_part_1_check_tells_a_very_good_solution_from_a_poor_one(run):
    assert "C=0.1: AUC 0.99" in run("part_1_train.py")[1]
    assert ": probability of a benign tumour" in run("part_1_solution.py")[1]
    passed, printed = run("part_1_check.py", "breast-cancer")
    assert (passed, "9 of 9 checks pass." in printed) == (0, True), printed
    run("-c", POOR_1)
    failed, printed = run("part_1_check.py", "poor")
    wanted = {"run name", "parameters", "metrics", "tag", "figure", "signature", "input example"}
    lacking = {line.split("not yet  ")[1].split(":")[0] for line in printed.splitlines() if "not yet" in line}
    assert (failed, lacking) == (1, wanted)
    assert "has no finished run there" in run("part_1_check.py", "nothing")[1]


def test_part_2_check_tells_a_very_good_solution_from_a_poor_one(run, tmp_path):
    assert "ridge: mean absolute error 44.7 on 133 test rows" in run("part_2_train.py")[1]
    run("-c", POOR_2)
    failed, printed = run("part_2_check.py", "poor")
    assert (failed, "0 of 11 checks pass." in printed) == (1, True), printed
    assert "has no run there" in run("part_2_check.py", "nothing")[1]
    options = "--backend-store-uri sqlite:///server.db --artifacts-destination ./artifacts --port {port}"
    command = [sys.executable, "-m", "mlflow", "server", *options.split()]
    with start_server(command, env=MLFLOW_SERVER_ENVIRONMENT, cwd=tmp_path, log=tmp_path / "server.log") as server:
        there = {"MLFLOW_TRACKING_URI": server.url}
        assert "ridge: boosting minus ridge is 1." in run("part_2_solution.py", **there)[1]
        passed, printed = run("part_2_check.py", "diabetes", **there)
    assert (passed, "11 of 11 checks pass." in printed) == (0, True), printed


def test_part_3_check_tells_a_very_good_solution_from_a_poor_one(run):
    assert "XGBoost: Brier score 0.02" in run("part_3_train.py")[1]
    history = run("part_3_solution.py")[1]
    assert "1 to 2, refused" in history and "champion: version 1" in history, history
    passed, printed = run("part_3_check.py", "eight")
    assert (passed, "14 of 14 checks pass." in printed) == (0, True), printed
    run("-c", DISORDER_3)
    failed, printed = run("part_3_check.py", "eight")
    wanted = [
        "source runs: version 2: call log_model inside a run",
        "status: version 1: set the tag validation_status",
        "records: the record eight-1 has why='ok': give the reason",
        "order of the records: eight-3 says from 2, but the champion was 1. Was the alias moved",
        "champion as recorded: the champion is version 3, and the records say 1: record each move.",
    ]
    lacking = [line.partition("not yet  ")[2] for line in printed.splitlines() if "not yet" in line]
    missing = [line for line in wanted if not any(each.startswith(line) for each in lacking)]
    assert (failed, missing) == (1, []), printed
    run("-c", POOR_3)
    failed, printed = run("part_3_check.py", "poor")
    fine = [line.split()[1:] for line in printed.splitlines() if line.startswith("  ok")]
    assert (failed, fine) == (1, [["source", "runs"], ["champion"]]), printed
    assert "There is no version" in run("part_3_check.py", "nothing")[1]
