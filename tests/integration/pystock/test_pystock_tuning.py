"""The search that may be broken off anywhere: killed for real, resumed, mirrored, on SQLite and on PostgreSQL."""

import os
import signal
import subprocess
import sys
from unittest.mock import patch

import mlflow
import numpy as np
import optuna
import pandas as pd
import pytest
import quick_search
import sqlalchemy
from optuna.trial import TrialState
from quick_search import quick
from sklearn.metrics import brier_score_loss

from course import store
from course.workbench import local as workbench
from pystock import tuning
from pystock.evaluation import rolling_base_rate, walk_forward

ABOUT = {"market": "sp500", "target": "big_move", "features": "volatility", "family": "logistic"}
optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def tracked(empty_store, tmp_path, monkeypatch):
    """A tracking store of this test's own, with an experiment; returns the URL of the storage for studies."""
    store.copy(empty_store, tmp_path / "store")
    uri = store.uri(tmp_path / "store")
    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)  # what is set here ends with the test
    with patch.dict(os.environ, MLFLOW_TRACKING_URI=uri):
        mlflow.set_tracking_uri(uri)
        mlflow.create_experiment("tuning", artifact_location=store.artifact_root(tmp_path / "store"))
        mlflow.set_experiment("tuning")
        yield store.study_storage()
        mlflow.set_tracking_uri(None)


def search(name, storage, trials, evaluate=quick, **about):
    study = tuning.open_study(name, storage, trials=trials, **(ABOUT | about))
    for _ in tuning.go_on(study, evaluate):
        pass
    return study


@pytest.fixture(scope="module")
def in_one_go():
    """The search of 25 trials that nothing breaks, in memory and without MLflow."""
    study = optuna.create_study(direction="maximize", pruner=tuning.PRUNER)
    for key, value in (ABOUT | {"trials": 25}).items():
        study.set_user_attr(key, value)
    with patch.object(tuning, "put_in_order"), patch.object(tuning, "mirror"):
        assert len(list(tuning.go_on(study, quick))) == 25
    return study


def children(study, status="FINISHED"):
    found = mlflow.search_runs(
        experiment_names=["tuning"],
        filter_string=f"tags.`mlflow.parentRunId` = '{study.user_attrs['run_id']}' and attributes.status = '{status}'",
        output_format="list",
    )
    return {int(run.data.tags["trial"]): run for run in found}


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


PROGRAM = """
import os, sys
from pystock import tuning
sys.path.insert(0, {helpers!r})
from quick_search import quick

study = tuning.load_study({study!r}, {storage!r})
def doomed(*arguments):
    for value in quick(*arguments):
        if {when!r} == "in a trial" and len(tuning.finished(study)) >= {finished}:
            os.kill(os.getpid(), {signal})
        yield value
def mirror(trial, run):
    if {when!r} == "before the mirror" and len(tuning.finished(study)) >= {finished}:
        os.kill(os.getpid(), {signal})
    if {when!r} == "in the mirror" and len(tuning.finished(study)) >= {finished}:
        tuning.mlflow.MlflowClient.log_batch = lambda *a, **k: os.kill(os.getpid(), {signal})
    original(trial, run)
original, tuning.mirror = tuning.mirror, mirror
for _ in tuning.go_on(study, doomed):
    pass
"""


@pytest.mark.parametrize("when, mirrored", [("in a trial", 13), ("before the mirror", 12), ("in the mirror", 12)])
def test_a_killed_search_goes_on_to_the_same_best_trial(when, mirrored, tracked, in_one_go):
    """Killed for real after 13 finished trials; the best is that of a search in one go, and each trial has its run."""
    study = tuning.open_study("broken", tracked, trials=25, **ABOUT)
    kill = getattr(signal, "SIGKILL", signal.SIGTERM)
    program = PROGRAM.format(
        helpers=os.path.dirname(quick_search.__file__),
        study=study.study_name,
        storage=tracked,
        when=when,
        finished=13,
        signal=int(kill),
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode != 0 and "Traceback" not in done.stderr, done.stderr
    assert len(tuning.finished(study)) == 13 and len(children(study)) == mirrored
    assert len(study.get_trials(states=[TrialState.RUNNING])) == (when == "in a trial")
    assert len(children(study, "RUNNING")) == (when == "in the mirror")

    again = search("broken", tracked, 25)
    assert again.study_name == study.study_name
    assert again.best_trial.params == in_one_go.best_trial.params and again.best_value == in_one_go.best_value
    assert [t.params for t in tuning.finished(again)] == [t.params for t in tuning.finished(in_one_go)]
    assert again.get_trials(states=[TrialState.RUNNING]) == [] and children(again, "RUNNING") == {}
    assert set(children(again)) == {trial.number for trial in tuning.finished(again)}


def test_a_sampler_with_one_seed_would_not():
    """The reason for the seed in go_on: without it the test above would fail."""

    def drawn(breaks):
        study = optuna.create_study()
        for trials in breaks:
            study.sampler = optuna.samplers.TPESampler(seed=0)
            study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=trials)
        return [trial.params for trial in study.trials]

    assert drawn([8]) != drawn([4, 4])


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


# Where the study is kept ------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="PostgreSQL's wheel is for Linux and macOS")
def test_on_postgresql(tracked):
    """In a schema of its own beside MLflow's tables on the process workbench: both have a table alembic_version."""
    with workbench.start_workbench() as bench:
        engine = sqlalchemy.create_engine(bench.database)
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("CREATE SCHEMA optuna"))
        url = sqlalchemy.make_url(bench.database).update_query_dict({"options": "-csearch_path=optuna"})
        url = url.render_as_string(hide_password=False)
        study = tuning.open_study("on-postgresql", url, trials=6, **ABOUT)
        next(tuning.go_on(study, quick))
        study.ask(tuning.SPACES["logistic"])
        again = search("on-postgresql", url, 6)
        assert len(tuning.finished(again)) == 6 and len(again.trials) == 7
        assert again.best_trial.params == search("on-sqlite", tracked, 6).best_trial.params
        with engine.connect() as connection:
            versions = [
                connection.execute(sqlalchemy.text(f"SELECT version_num FROM {schema}.alembic_version")).scalar()
                for schema in ("public", "optuna")
            ]
        assert versions[0] != versions[1]
        engine.dispose()
    bench.discard()
