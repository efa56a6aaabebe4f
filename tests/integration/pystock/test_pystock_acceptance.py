"""The acceptance test of a version: served for real, asked one day at a time."""

import os

import mlflow
import pytest
from sklearn.linear_model import LogisticRegression

from course import store
from pystock.data import load
from pystock.evaluation import time_split
from pystock.features import dataset
from pystock.models import log_decision_model
from pystock.registry.acceptance import accept, examine, served


@pytest.fixture(scope="module")
def registry(tmp_path_factory, empty_store):
    """A store with a sound version 1, and versions that must fail: 2 without tags, 3 whose model raises."""
    outside, folder = dict(os.environ), tmp_path_factory.mktemp("acceptance") / "store"
    store.copy(empty_store, folder)
    os.environ[store.ARTIFACT_ROOT_VARIABLE] = store.artifact_root(folder)
    mlflow.set_tracking_uri(store.uri(folder))
    mlflow.set_registry_uri(store.uri(folder))
    X, _, y, _ = time_split(*dataset(load("sp500", end="2014-12-31"), "big_move", "volatility"))
    model = LogisticRegression(C=0.1, max_iter=1000).fit(X, y)
    client = mlflow.MlflowClient()
    client.create_registered_model("a-model")
    about = {"target": "big_move", "features": "volatility", "market": "sp500"}
    mlflow.set_experiment("models")
    for tags, threshold in ((about, 0.3), ({"target": "big_move"}, 0.3), (about, 0.3)):
        with mlflow.start_run(tags=tags) as run:
            info = log_decision_model(model, X, threshold=threshold)
        client.create_model_version("a-model", info.model_uri, run.info.run_id, model_id=info.model_id)
    place = client.get_logged_model(info.model_id).artifact_location.removeprefix("file://")
    with open(f"{place}/decision_model.py", "a") as code:
        code.write("\nraise OSError('the disk is gone')\n")
    yield client
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)
    os.environ.clear()
    os.environ.update(outside)


@pytest.fixture(autouse=True)
def any_latency(monkeypatch):
    """How fast this machine answers is not what these tests are about."""
    monkeypatch.setattr("pystock.registry.acceptance.LATENCY", 60)


def newest(client, version):
    experiment = client.get_experiment_by_name("acceptance").experiment_id
    return client.search_runs([experiment], f"tags.version = '{version}'", order_by=["attributes.start_time DESC"])[0]


def test_a_sound_version_passes_and_leaves_a_run(registry):
    assert accept("a-model", "1", days=40)
    run = newest(registry, "1")
    assert (run.info.status, run.data.tags["outcome"]) == ("FINISHED", "passed")
    assert run.data.tags["condition.answers"].startswith("holds: 40 of 40 days answered, as without a server")
    assert run.data.tags["condition.schema"] == (
        "holds: 40 of 40 days got a probability and a decision; without abs_return: 400"
    )
    assert run.data.metrics["answered"] == 40 and run.data.metrics["latency_p50_ms"] > 0


def test_a_version_whose_run_says_too_little_is_named(registry):
    with pytest.raises(ValueError, match="version 2 of a-model cannot be tested, .* no tag features or market"):
        accept("a-model", "2")


def test_a_model_that_cannot_be_loaded_fails_with_its_reason(registry):
    with pytest.raises((OSError, mlflow.MlflowException), match="the disk is gone"):
        accept("a-model", "3")
    run = newest(registry, "3")
    assert (run.info.status, run.data.tags["outcome"]) == ("FAILED", "failed")
    assert "the disk is gone" in run.data.tags["error"]


def test_wrong_answers_are_found(registry):
    """The same model against expectations that it does not meet, and asked in vain."""
    model = mlflow.pyfunc.load_model("models:/a-model/1")
    rows = dataset(load("sp500", end="2014-12-31"), "big_move", "volatility")[0].tail(5)
    expected = model.predict(rows)
    with served(model) as url:
        good, _ = examine(url, rows, expected)
        moved, _ = examine(url, rows, expected.assign(probability=expected["probability"] + 1e-6))
        silent, numbers = examine(url, rows.iloc[:, 1:], expected)
    assert all(condition.passed for condition in good)
    assert [condition.passed for condition in moved] == [False, True, True] and "up to 1e-06 from" in moved[0].evidence
    assert [condition.passed for condition in silent[:2]] == [False, False] and numbers["answered"] == 0
