"""The pilot model in a fresh environment, made from its own requirements; and the record of it that chapter 06 shows.

The slow test is the proof, and writes the record where what it proved is no longer what the record says. The others
hold the record against requirements.lock.
"""

import datetime
import json
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import mlflow
import pytest
from environments import disagreements

from course import store
from course.paths import root
from pystock import models, tuning

RECORD = root() / "chapters" / "records" / "06_fresh_environment.json"
LOCK = root() / "requirements.lock"
COMMAND = "mlflow models predict --model-uri MODEL --input-path two_days.json --content-type json --env-manager uv"


@pytest.mark.skipif(os.environ.get("COURSE_COMPARE_OUTPUTS") == "no", reason="another lock than the one committed")
def test_the_record_agrees_with_the_lock():
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    mend = "`make test-slow` tries the model in a new environment and writes the record anew"
    assert disagreements(record, LOCK.read_text(encoding="utf-8")) == [], mend


def test_a_record_that_fell_behind_is_seen():
    record = {"packages": {"mlflow": "3.17.2", "pandas": "2.0.0", "nothing": "1.0"}}
    lock = "mlflow==3.17.2 \\\n    --hash=sha256:00\npandas==3.1.1 \\\n"
    assert disagreements(record, lock) == [
        "pandas 2.0.0 was tried, the lock has 3.1.1",
        "nothing 1.0 was tried, the lock has none",
    ]


def test_the_record_names_no_machine():
    text = RECORD.read_text(encoding="utf-8")
    assert not re.search(r"https?:|/(?:root|home|tmp|work|srv|Users|usr)/|[A-Z]:\\\\", text)


@pytest.fixture
def experiment(tmp_path, empty_store):
    """The id of an experiment in a store of this test's own."""
    store.copy(empty_store, tmp_path / "store")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store.uri(tmp_path / "store"))
    yield mlflow.create_experiment("models", artifact_location=store.artifact_root(tmp_path / "store"))
    mlflow.set_tracking_uri(before)


@pytest.mark.slow
def test_the_pilot_model_runs_in_a_fresh_environment(tmp_path, experiment):
    """`mlflow models predict` builds an environment from the model's requirements, from PyPI, and predicts in it."""
    X, y = tuning.training_data("sp500", "big_move", "volatility")
    classifier = tuning.build("xgboost", max_depth=2, learning_rate=0.1).fit(X, y)
    with mlflow.start_run(experiment_id=experiment):
        info = models.log_decision_model(classifier, X, threshold=0.2)
    folder = Path(mlflow.artifacts.download_artifacts(info.model_uri, dst_path=str(tmp_path / "model")))
    here = mlflow.pyfunc.load_model(str(folder)).predict(X.tail(2)).round(4).to_dict("records")

    (tmp_path / "two_days.json").write_text(json.dumps({"dataframe_split": X.tail(2).to_dict("split", index=False)}))
    words = COMMAND.replace("MODEL", str(folder)).split()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTHON", "VIRTUAL_"))}
    # `predict` makes its environment in the temporary folder, whatever MLFLOW_ENV_ROOT says, and removes it at its end.
    (tmp_path / "temporary").mkdir()
    env |= {"TMPDIR": str(tmp_path / "temporary"), "MLFLOW_DISABLE_TELEMETRY": "true"}
    # MLflow gives the path of its own package to a shell without quotes: where it holds a space, go round it
    (tmp_path / "here").symlink_to(sys.prefix)
    python = tmp_path / "here" / Path(sys.executable).relative_to(sys.prefix)
    env["PATH"] = os.pathsep.join([str(python.parent), env["PATH"]])
    command = [str(python), "-m", *words]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(re.search(r'\{"predictions".*\}', done.stdout)[0])["predictions"]
    there = [{name: round(value, 4) for name, value in row.items()} for row in answer]
    assert there == here

    assert "Creating a new environment in" in done.stderr
    # pip and the like come first, in a step of their own
    installed = max(map(int, re.findall(r"Installed (\d+) packages", done.stderr)))
    packages = dict(line.split("==") for line in (folder / "requirements.txt").read_text().split())
    assert packages == {package: version(package) for package in packages}
    write({"command": COMMAND, "packages": packages, "installed": installed, "output": {"predictions": there}})


def write(found: dict) -> None:
    """Renew the record where it says something else; the same facts on another day, or elsewhere, leave it alone."""
    before = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    same = ("command", "packages", "output")
    if {key: before.get(key) for key in same} == {key: found[key] for key in same}:
        return
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return
    today = datetime.date.today()
    RECORD.parent.mkdir(exist_ok=True)
    record = {"date": f"{today.day} {today:%B %Y}", **found}
    RECORD.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
