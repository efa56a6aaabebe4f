"""The training project in a fresh environment, built from its python_env.yaml; and the record of all environments.

The slow test is the proof. The others hold the record that chapter 09 shows against requirements.lock, and the files
that describe the environment against the checkout.
"""

import json
import os
import re
import subprocess
import sys
import time
import tomllib
from importlib.metadata import version
from pathlib import Path

import mlflow
import pytest
from environments import IMPORTANT, INSTALLED, LOCK, OPTIONS, RECORD, disagreements, locked, outcome, record
from fake_course import CHECKOUT, clean_environment
from mlflow.projects import load_project

from course import store

BATCHES = ("pystock-data-features", "pystock-inference-batch", "pystock-pipeline", "pystock-training")
PROJECTS = (*BATCHES, "pystock-inference-api")
SERVES = 'extras = ["serve"]\n'  # what a service needs beside
compares = pytest.mark.skipif(
    os.environ.get("COURSE_COMPARE_OUTPUTS") == "no", reason="another lock than the one committed"
)


# The record


@compares
def test_the_record_agrees_with_the_lock():
    tried = json.loads(RECORD.read_text(encoding="utf-8"))
    assert sorted(tried) == ["docker", "local", "uv"]
    mend = "`make test-slow` and `make test-docker` try the project again, and write the record anew"
    for environment, found in tried.items():
        assert set(found["packages"]) == set(IMPORTANT)
        assert disagreements(found, LOCK.read_text(encoding="utf-8")) == [], f"{environment}: {mend}"


@compares
def test_the_environments_on_record_gave_the_same_predictions_and_scores():
    tried = json.loads(RECORD.read_text(encoding="utf-8")).values()
    assert len({found["predictions"] for found in tried}) == 1
    assert len({str(sorted(found["metrics"].items())) for found in tried}) == 1


def test_the_record_names_no_machine():
    text = RECORD.read_text(encoding="utf-8")
    assert not re.search(r"https?:|/(?:root|home|tmp|work|srv|Users|usr)/|[A-Z]:\\\\", text)


# The files that describe the environment


@pytest.mark.parametrize("project", PROJECTS)
def test_a_project_describes_its_environment(project):
    folder = CHECKOUT / "projects" / project
    assert load_project(str(folder)).env_config_path == str(folder / "python_env.yaml")
    for name in ("python_env.yaml", "environment/pyproject.toml"):  # one text, but MLflow reads it in each project
        text = (folder / name).read_text()
        assert text.replace(SERVES, "") == (CHECKOUT / "projects" / PROJECTS[0] / name).read_text()
        assert (SERVES in text) == (project not in BATCHES and name.endswith("toml"))
    described = tomllib.loads((folder / "environment/pyproject.toml").read_text())["tool"]["hatch"]
    (source,) = described["build"]["dev-mode-dirs"]
    assert (folder / "environment" / source / "pystock/__init__.py").is_file()
    assert (folder / "environment" / described["metadata"]["hooks"]["custom"]["path"]).is_file()


# The proof


@pytest.fixture
def store_of_its_own(tmp_path, empty_store):
    """A store for this test, which is also this process's; its address."""
    store.copy(empty_store, tmp_path / "store")
    before, uri = mlflow.get_tracking_uri(), store.uri(tmp_path / "store")
    mlflow.set_tracking_uri(uri)
    for name in ("local", "uv"):
        mlflow.create_experiment(name, artifact_location=store.artifact_root(tmp_path / "store"))
    yield uri
    mlflow.set_tracking_uri(before)


@pytest.mark.slow
def test_the_training_runs_in_a_fresh_environment_as_in_this_one(tmp_path, store_of_its_own):
    """MLflow builds an environment from nothing, from PyPI, with pystock from this checkout, and trains in it."""
    activated = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = clean_environment(
        PATH=activated, MLFLOW_TRACKING_URI=store_of_its_own, MLFLOW_ENV_ROOT=tmp_path / "environments"
    )
    seconds, said = {}, {}
    for name in ("local", "uv"):
        begun = time.monotonic()
        command = ["mlflow", "run", "projects/pystock-training", *OPTIONS, "--env-manager", name]
        done = subprocess.run(
            [*command, "--experiment-name", name], cwd=CHECKOUT, env=env, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr[-3000:]
        seconds[name], said[name] = time.monotonic() - begun, done.stderr
    assert outcome("uv") == outcome("local")  # every metric, and the file of predictions byte for byte

    assert "Creating a new environment in" in said["uv"] and "Creating" not in said["local"]
    (made,) = (tmp_path / "environments").iterdir()
    python = [str(made / "bin/python"), "-c"]
    number, file = ask(python, "import platform, pystock; print(platform.python_version(), pystock.__file__)").split(
        maxsplit=1
    )
    assert Path(file.strip()) == CHECKOUT / "src/pystock/__init__.py"
    packages = json.loads(ask(python, INSTALLED))
    assert packages.pop("pystock") == "0.1.0"
    assert packages == {name: locked()[name] for name in packages}
    assert "tensorflow-cpu" not in packages and len(packages) < 120

    command = f"mlflow run projects/pystock-training {' '.join(OPTIONS)} --env-manager"
    record(
        "uv",
        command=f"{command} uv",
        seconds=seconds["uv"],
        python=number,
        packages={name: packages[name] for name in IMPORTANT},
        installed=len(packages),
        megabytes=size(made),
        outcome=outcome("uv"),
    )
    record(
        "local",
        command=f"{command} local",
        seconds=seconds["local"],
        python=".".join(map(str, sys.version_info[:3])),
        packages={name: version(name) for name in IMPORTANT},
        installed=len(json.loads(ask([sys.executable, "-c"], INSTALLED))),
        megabytes=size(Path(sys.prefix)),
        outcome=outcome("local"),
    )


def ask(python, code):
    return subprocess.run([*python, code], capture_output=True, text=True, check=True).stdout


def size(folder: Path) -> float:
    """Megabytes of the files in a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*")) / 1e6
