"""The search for hyperparameters: what it evaluates, what it continues, and its mirror in MLflow."""

import mlflow
import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState
from quick_search import ABOUT, children, quick, search, tuning_store
from sklearn.metrics import brier_score_loss

from course import store
from pystock import tuning
from pystock.evaluation import rolling_base_rate, walk_forward


@pytest.fixture
def tracked(empty_store, tmp_path, monkeypatch):
    yield from tuning_store(empty_store, tmp_path, monkeypatch)


# What is evaluated ------------------------------------------------------------------------------------------------


def test_the_last_of_the_skills_is_that_of_all_validated_days():
    X, y = tuning.training_data("sp500", "big_move", "volatility")
    assert X.index.max() < pd.Timestamp("2010-01-01"), "a search must not see the held-out years"
    model, folds = tuning.build("logistic", C=0.1), list(walk_forward(5).split(X))
    forecasts = [model.fit(X.iloc[past], y.iloc[past]).predict_proba(X.iloc[days])[:, 1] for past, days in folds]
    days = np.concatenate([days for _, days in folds])
    reference = brier_score_loss(y.iloc[days], rolling_base_rate(y, y.index[days]))
    expected = 1 - brier_score_loss(y.iloc[days], np.concatenate(forecasts)) / reference
    skills = list(tuning.skills(model, X, y))
    assert len(skills) == 5 and skills[-1] == pytest.approx(expected)


def test_years_shorten_the_past():
    X, y = tuning.training_data("sp500", "big_move", "volatility")
    seen = []

    class Counts:
        def fit(self, X, y):
            seen.append(len(X))
            return self

        def predict_proba(self, X):
            return np.full((len(X), 2), 0.5)

    list(tuning.skills(Counts(), X, y, years=2))
    assert max(seen) == 2 * tuning.YEAR


@pytest.mark.parametrize("family", tuning.SPACES)
def test_every_setting_of_a_space_builds_a_model(family):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(5):
        params = study.ask(tuning.SPACES[family]).params
        assert hasattr(tuning.build(family, **params), "predict_proba")


# Broken and resumed -----------------------------------------------------------------------------------------------


def test_the_same_search_gives_the_same_best_trial(tracked):
    first, second = (search("twice", tracked, 14) for _ in range(2))
    assert [first.study_name, second.study_name] == ["twice-1", "twice-2"]
    assert [trial.params for trial in first.trials] == [trial.params for trial in second.trials]
    assert first.best_trial.params == second.best_trial.params


def test_another_store_gets_everything(tracked, empty_store, tmp_path):
    """A study that was begun on one tracking store, and goes on on another: a new run, and all trials under it."""
    study = tuning.open_study("moved", tracked, trials=4, **ABOUT)
    trials = tuning.go_on(study, quick)
    next(trials), next(trials)
    store.copy(empty_store, tmp_path / "other")
    mlflow.set_tracking_uri(store.uri(tmp_path / "other"))
    mlflow.create_experiment("tuning", artifact_location=store.artifact_root(tmp_path / "other"))
    mlflow.set_experiment("tuning")
    assert set(children(search("moved", tracked, 4))) == {0, 1, 2, 3}


def test_what_is_searched_decides_whether_a_study_goes_on(tracked, monkeypatch):
    first = tuning.open_study("one", tracked, trials=9, **ABOUT)
    next(tuning.go_on(first, quick))
    assert tuning.open_study("one", tracked, trials=9, **ABOUT).study_name == "one-1"
    assert tuning.open_study("one", tracked, trials=8, **ABOUT).study_name == "one-2"
    assert tuning.open_study("one", tracked, trials=8, **ABOUT | {"market": "nasdaq"}).study_name == "one-3"
    monkeypatch.setitem(tuning.SPACES, "logistic", {"years": tuning.SPACES["logistic"]["years"]})
    assert tuning.open_study("one", tracked, trials=8, **ABOUT | {"market": "nasdaq"}).study_name == "one-4"
    assert tuning.open_study("one-1", tracked, trials=8, **ABOUT).study_name == "one-1-1"


# The mirror -------------------------------------------------------------------------------------------------------


def test_what_is_mirrored(tracked):
    study = search("mirrored", tracked, 25)
    run = mlflow.get_run(study.user_attrs["run_id"])
    assert run.info.status == "FINISHED" and run.info.run_name == "mirrored-1"
    assert run.data.tags.items() >= ABOUT.items()
    assert set(mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/space.json")) == set(tuning.SPACES["logistic"])
    pruned = study.get_trials(states=[TrialState.PRUNED])
    assert pruned, "nothing was pruned: the pruner does not work"
    for number, child in children(study).items():
        trial = study.trials[number]
        assert child.data.params == {name: str(value) for name, value in trial.params.items()}
        assert child.data.tags["state"] == trial.state.name.lower()
        history = mlflow.MlflowClient().get_metric_history(child.info.run_id, "skill")
        assert {point.step: point.value for point in history} == trial.intermediate_values


def test_the_calls_of_the_mirror_do_not_grow_in_number(tracked, monkeypatch):
    study = tuning.open_study("calls", tracked, trials=30, **ABOUT)
    calls, tracking = [], type(mlflow.tracking._get_store())
    for name in [name for name in dir(tracking) if name.startswith(("get_", "search_", "log_", "create_", "update_"))]:
        original = getattr(tracking, name)
        monkeypatch.setattr(
            tracking, name, lambda *a, original=original, name=name, **k: calls.append(name) or original(*a, **k)
        )
    counts = []
    for _ in tuning.go_on(study, quick):
        counts.append(len(calls))
        calls.clear()
    assert counts[-1] == counts[1] <= 8, counts
