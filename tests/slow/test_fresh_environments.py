"""A model and the training project in fresh environments, built from PyPI: they give what they give here."""

import json
import os
import re
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import mlflow
import pytest
from environments import IMPORTANT, INSTALLED, OPTIONS, check, check_training, locked, outcome
from fake_course import CHECKOUT, clean_environment
from promotions import own_store, using

from pystock import models, tuning

PREDICT = "mlflow models predict --model-uri MODEL --input-path two_days.json --content-type json --env-manager uv"
TRAIN = f"mlflow run projects/pystock-training {' '.join(OPTIONS)} --env-manager"


@pytest.fixture
def store_of_its_own(tmp_path, empty_store, monkeypatch):
    """The address of a store for this test, which is also this process's, with the experiments `local` and `uv`."""
    for uri in using(own_store(empty_store, tmp_path), tmp_path, monkeypatch):
        for name in ("local", "uv"):
            mlflow.create_experiment(name)
        yield uri


def test_the_pilot_model_predicts_in_a_fresh_environment(tmp_path, store_of_its_own):
    """`mlflow models predict` makes an environment from the model's requirements, and predicts in it."""
    X, y = tuning.training_data("sp500", "big_move", "volatility")
    classifier = tuning.build("xgboost", max_depth=2, learning_rate=0.1).fit(X, y)
    mlflow.set_experiment("local")
    with mlflow.start_run():
        info = models.log_decision_model(classifier, X, threshold=0.2)
    folder = Path(mlflow.artifacts.download_artifacts(info.model_uri, dst_path=str(tmp_path / "model")))
    here = mlflow.pyfunc.load_model(str(folder)).predict(X.tail(2)).round(4).to_dict("records")

    (tmp_path / "two_days.json").write_text(json.dumps({"dataframe_split": X.tail(2).to_dict("split", index=False)}))
    # `predict` makes its environment in the temporary folder, whatever MLFLOW_ENV_ROOT says, and removes it at its end.
    (tmp_path / "temporary").mkdir()
    env = clean_environment(TMPDIR=tmp_path / "temporary")
    env = {name: value for name, value in env.items() if not name.startswith(("PYTHON", "VIRTUAL_"))}
    # MLflow gives the path of its own package to a shell without quotes: where it holds a space, go round it
    (tmp_path / "here").symlink_to(sys.prefix)
    python = tmp_path / "here" / Path(sys.executable).relative_to(sys.prefix)
    env["PATH"] = os.pathsep.join([str(python.parent), env["PATH"]])
    command = [str(python), "-m", *PREDICT.replace("MODEL", str(folder)).split()]
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
    found = {"command": PREDICT, "packages": packages, "installed": installed, "output": {"predictions": there}}
    check("10_fresh_environment", found, ("command", "packages", "output"))


def test_training_in_a_fresh_environment_gives_the_same_results(tmp_path, store_of_its_own):
    """MLflow makes an environment from python_env.yaml, with pystock from this checkout, and trains in it."""
    activated = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    folder = tmp_path / "environments"
    env = clean_environment(PATH=activated, MLFLOW_TRACKING_URI=store_of_its_own, MLFLOW_ENV_ROOT=folder)
    seconds, log = {}, {}
    for name in ("local", "uv"):
        begun = time.monotonic()
        command = [*TRAIN.split(), name, "--experiment-name", name]
        done = subprocess.run(command, cwd=CHECKOUT, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        seconds[name], log[name] = time.monotonic() - begun, done.stderr
    assert outcome("uv") == outcome("local")  # every metric, and the file of predictions byte for byte
    assert "Creating a new environment in" in log["uv"] and "Creating" not in log["local"]
    (made,) = folder.iterdir()
    python = str(made / "bin/python")
    assert Path(ask(python, "import pystock; print(pystock.__file__)").strip()) == CHECKOUT / "src/pystock/__init__.py"
    for name, program, prefix in (("uv", python, made), ("local", sys.executable, Path(sys.prefix))):
        packages = json.loads(ask(program, INSTALLED))
        packages.pop("pystock", None)
        if name == "uv":
            assert packages == {package: locked()[package] for package in packages} and "tensorflow-cpu" not in packages
        check_training(
            name,
            command=f"{TRAIN} {name}",
            seconds=seconds[name],
            python=ask(program, "import platform; print(platform.python_version())").strip(),
            packages={package: packages[package] for package in IMPORTANT},
            installed=len(packages),
            megabytes=sum(path.lstat().st_size for path in prefix.rglob("*")) / 1e6,
            outcome=outcome(name),
        )


def ask(python: str, code: str) -> str:
    return subprocess.check_output([python, "-c", code], text=True)
