"""What the tests of promotions share: a store of their own, names with versions, and rows of the history."""

import itertools
import os

import mlflow
import pytest

from course import store
from pystock import registry
from pystock.registry import promotion
from pystock.registry.gate import Condition

numbers = itertools.count(1)


def own_store(original, folder) -> str:
    """Copy a store, mostly the empty one, into a folder; returns its URI."""
    store.copy(original, folder / "store")
    return store.uri(folder / "store")


@pytest.fixture
def tracked(tmp_path, empty_store, monkeypatch):
    """A store of this test's own; its URI."""
    yield from using(own_store(empty_store, tmp_path), tmp_path, monkeypatch)


@pytest.fixture
def no_gate(monkeypatch):
    monkeypatch.setattr(promotion, "judge", passes)


def using(uri, folder, monkeypatch):
    """Use a store as the body of a fixture; its artifacts go below `folder`."""
    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)  # what is set here ends with the test
    monkeypatch.setenv(store.ARTIFACT_ROOT_VARIABLE, store.artifact_root(folder / "store"))
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    mlflow.set_tracking_uri(uri)
    yield uri
    mlflow.end_run()
    mlflow.set_tracking_uri(None)


def passes(*_, **__):
    """Stand in for the gate, where a test is about something else."""
    return [Condition("gate", True, "left out", {"brier_skill_low": 0.1})]


def registered(versions, champion=None) -> str:
    """Register a new name with that many versions without files: without a gate, nothing reads them."""
    client, name = mlflow.MlflowClient(), f"model-{os.getpid()}-{next(numbers)}"
    client.create_registered_model(name)
    for _ in range(versions):
        client.create_model_version(name, source="s3://nowhere/model")
    if champion:
        promote(name, champion, why="the first")
    return name


def promote(name, version, why="a test"):
    """Promote without held-out rows, for which `no_gate` has no use."""
    return registry.promote(name, version, None, None, None, why=why)


def champion(name):
    found = mlflow.MlflowClient().get_registered_model(name).aliases.get("champion")
    return found and int(found)


def rows(name, *columns):
    """Rows of the history as tuples, a missing value as None."""
    table = registry.history(name)[list(columns)].astype(object)
    return [tuple(row) for row in table.where(table.notna(), None).to_numpy().tolist()]
