"""The search for hyperparameters: what it evaluates, what it continues, and its mirror in MLflow."""

from unittest.mock import Mock

import mlflow
import numpy as np
import pandas as pd
import pytest
from optuna.trial import TrialState
from quick_search import ABOUT, children, in_memory, quick, search, tracked
from sklearn.metrics import brier_score_loss

from course import store
from pystock import tuning
from pystock.evaluation import rolling_base_rate, walk_forward

__all__ = ["tracked"]  # a fixture


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
    model = Mock()
    model.fit.return_value.predict_proba = lambda X: np.full((len(X), 2), 0.5)
    list(tuning.skills(model, X, y, years=2))
    assert max(len(call.args[0]) for call in model.fit.call_args_list) == 2 * tuning.YEAR


def test_another_store_gets_everything(tracked, empty_store, tmp_path):
    """A study that was begun on one tracking store, and goes on on another: a new run, and all trials under it."""
    study = tuning.open_study("moved", tracked, trials=4, **ABOUT)
    trials = tuning.run_trials(study, quick)
    next(trials), next(trials)
    store.copy(empty_store, tmp_path / "other")
    mlflow.set_tracking_uri(store.uri(tmp_path / "other"))
    mlflow.create_experiment("tuning", artifact_location=store.artifact_root(tmp_path / "other"))
    mlflow.set_experiment("tuning")
    assert set(children(search("moved", tracked, 4))) == {0, 1, 2, 3}


def test_what_is_searched_decides_whether_a_study_goes_on(tracked, monkeypatch):
    def opened(name="one", trials=8, **about):
        return tuning.open_study(name, tracked, trials=trials, **ABOUT | about)

    next(tuning.run_trials(opened(trials=9), quick))
    assert [opened(trials=9).study_name, opened().study_name] == ["one-1", "one-2"]
    assert [opened(market="nasdaq").study_name for _ in range(2)] == ["one-3", "one-3"]
    monkeypatch.setitem(tuning.SPACES, "logistic", {"years": tuning.SPACES["logistic"]["years"]})
    assert opened(market="nasdaq").study_name == "one-4"
    assert [opened("one-1").study_name, opened("done", trials=0).study_name] == ["one-1-1", "done-1"]
    assert opened("done", trials=0).study_name == "done-2", "no trial of the first is left to do"


def test_what_is_mirrored(tracked):
    study = search("mirrored", tracked, 25)
    assert [trial.params for trial in study.trials] == [trial.params for trial in in_memory(25).trials]
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
        counted = lambda *a, original=original, name=name, **k: calls.append(name) or original(*a, **k)  # noqa: E731
        monkeypatch.setattr(tracking, name, counted)
    counts = []
    for _ in tuning.run_trials(study, quick):
        counts.append(len(calls))
        calls.clear()
    assert 0 < counts[-1] == counts[1] <= 8, counts
