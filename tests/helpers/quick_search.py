"""Searches for hyperparameters that fit no model."""

from unittest.mock import patch

import mlflow
import numpy as np
import optuna
import pytest
from promotions import own_store, using

from course import store
from pystock import tuning

ABOUT = {"market": "sp500", "target": "big_move", "features": "volatility", "family": "logistic"}
optuna.logging.set_verbosity(optuna.logging.WARNING)


def quick(model, X, y, years):
    """Stand in for tuning.skills, without training: a score that depends on the hyperparameters alone."""
    value = -abs(np.log10(model[-1].C)) - abs(years - 7) / 10
    for fold in range(3):
        yield value - fold / 100


def search(name, storage, trials, evaluate=quick, **about):
    study = tuning.open_study(name, storage, trials=trials, **(ABOUT | about))
    for _ in tuning.run_trials(study, evaluate):
        pass
    return study


def in_memory(trials):
    """Return the search that nothing breaks, without a database and without MLflow."""
    study = optuna.create_study(direction="maximize", pruner=tuning.PRUNER)
    for key, value in (ABOUT | {"trials": trials}).items():
        study.set_user_attr(key, value)
    with patch.object(tuning, "put_in_order"), patch.object(tuning, "mirror"):
        assert len(list(tuning.run_trials(study, quick))) == trials
    return study


def children(study, status="FINISHED"):
    asked = f"tags.`mlflow.parentRunId` = '{study.user_attrs['run_id']}' and attributes.status = '{status}'"
    runs = mlflow.search_runs(experiment_names=["tuning"], filter_string=asked, output_format="list")
    return {int(run.data.tags["trial"]): run for run in runs}


@pytest.fixture
def tracked(empty_store, tmp_path, monkeypatch):
    """A tracking store with an experiment; the URL of the storage for studies."""
    for _ in using(own_store(empty_store, tmp_path), tmp_path, monkeypatch):
        mlflow.set_experiment("tuning")
        yield store.study_storage()
