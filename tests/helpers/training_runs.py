"""What the tests of the training pipeline share: a store with a data run and a model, and calls in a run."""

import os
import tempfile
from pathlib import Path

import mlflow
import pytest
from promotions import own_store, using

from course import store
from pystock import training

PROJECTS = Path(__file__).resolve().parents[2] / "projects"
QUESTION = {"market": "sp500", "target": "big_move", "features": "volatility"}
FAST = {"family": "logistic"}  # a tenth of a second to fit and to log


def use(folder):
    mlflow.end_run()
    mlflow.tracking.fluent._active_experiment_id = None
    mlflow.set_tracking_uri(store.uri(folder))
    os.environ[store.ARTIFACT_ROOT_VARIABLE] = store.artifact_root(folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, empty_store):
    """A store with a data run and one model, trained on its table and evaluated: never written to. And the two ids."""
    folder = tmp_path_factory.mktemp("trained") / "store"
    store.copy(empty_store, folder)
    use(folder)
    made = data_run()
    model = in_a_run(training.train, **QUESTION, **FAST).model
    in_a_run(training.evaluate, model)
    return folder, made, model


@pytest.fixture
def tracked(trained, tmp_path, monkeypatch):
    """A copy of it, and the two ids."""
    folder, *ids = trained
    for _ in using(own_store(folder, tmp_path), tmp_path, monkeypatch):
        yield ids


def data_run(table=None, **tags):
    """A run as feature_set_generation leaves it; returns its id."""
    table = training.table("embedded", **QUESTION) if table is None else table
    about = {"pipeline": "pystock-data-features", "step": "feature_set_generation", "outcome": "done"}
    tags = about | QUESTION | tags
    with mlflow.start_run(tags=tags) as run, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{tags['market']}.parquet"
        table.to_parquet(file)
        mlflow.log_artifact(str(file), "training")
    return run.info.run_id


def in_a_run(step, *arguments, **options):
    with mlflow.start_run():
        return step(*arguments, **options)


def versions(name="pystock-big-move"):
    return mlflow.MlflowClient().search_model_versions(f"name = '{name}'")
