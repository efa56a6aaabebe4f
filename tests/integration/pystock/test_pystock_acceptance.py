"""The acceptance test of a version: served for real, asked one day at a time."""

from contextlib import contextmanager

import mlflow
import promotions
import pytest
from recalling_models import TAGS
from sklearn.linear_model import LogisticRegression

from pystock.data import load
from pystock.evaluation import time_split
from pystock.features import dataset
from pystock.models import log_decision_model
from pystock.registry.acceptance import accept, examine, served


@pytest.fixture(scope="module")
def registry(tmp_path_factory, empty_store):
    """A store with a sound version 1, and versions that must fail: 2 without tags, 3 whose model raises."""
    folder = tmp_path_factory.mktemp("acceptance")
    uri = promotions.own_store(empty_store, folder)
    with pytest.MonkeyPatch.context() as patch, contextmanager(promotions.using)(uri, folder, patch):
        X, _, y, _ = time_split(*dataset(load("sp500", end="2014-12-31"), "big_move", "volatility"))
        model = LogisticRegression(C=0.1, max_iter=1000).fit(X, y)
        client = mlflow.MlflowClient()
        client.create_registered_model("a-model")
        mlflow.set_experiment("models")
        for tags in (TAGS, {"target": "big_move"}, TAGS):
            with mlflow.start_run(tags=tags) as run:
                info = log_decision_model(model, X, threshold=0.3)
            client.create_model_version("a-model", info.model_uri, run.info.run_id, model_id=info.model_id)
        place = client.get_logged_model(info.model_id).artifact_location.removeprefix("file://")
        with open(f"{place}/decision_model.py", "a") as code:
            code.write("\nraise OSError('the disk is gone')\n")
        yield client


@pytest.fixture(autouse=True)
def any_latency(monkeypatch):
    """How fast this machine answers is not what these tests are about."""
    monkeypatch.setattr("pystock.registry.acceptance.LATENCY", 60)


def test_a_version_whose_run_says_too_little_is_named(registry):
    with pytest.raises(ValueError, match="version 2 of a-model cannot be tested: .* lacks the tag features, market"):
        accept("a-model", "2")


def test_a_model_that_cannot_be_loaded_fails_with_its_reason(registry):
    with pytest.raises((OSError, mlflow.MlflowException), match="the disk is gone"):
        accept("a-model", "3")
    (run,) = mlflow.search_runs(experiment_names=["acceptance"], output_format="list")
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
    assert [condition.passed for condition in moved] == [False, True, True] and "up to 1e-06 away" in moved[0].evidence
    assert [condition.passed for condition in silent[:2]] == [False, False] and numbers["answered"] == 0
