"""The search that may be broken off anywhere: killed for real and resumed, on SQLite and on PostgreSQL."""

import os
import signal
import subprocess
import sys

import pytest
import quick_search
import sqlalchemy
from optuna.trial import TrialState
from quick_search import ABOUT, children, in_memory, quick, search, tracked

from course.workbench import local as workbench
from pystock import tuning

__all__ = ["tracked"]  # a fixture


@pytest.fixture(scope="module")
def in_one_go():
    return in_memory(25)


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
for _ in tuning.run_trials(study, doomed):
    pass
"""


@pytest.mark.parametrize(("when", "mirrored"), [("in a trial", 13), ("before the mirror", 12), ("in the mirror", 12)])
def test_a_killed_search_goes_on_to_the_same_best_trial(when, mirrored, tracked, in_one_go):
    """Killed for real after 13 finished trials; the best is that of a search in one go, and each trial has its run."""
    study = tuning.open_study("broken", tracked, trials=25, **ABOUT)
    kill = getattr(signal, "SIGKILL", signal.SIGTERM)
    about = {"study": study.study_name, "storage": tracked, "when": when, "finished": 13, "signal": int(kill)}
    program = PROGRAM.format(helpers=os.path.dirname(quick_search.__file__), **about)
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
        next(tuning.run_trials(study, quick))
        study.ask(tuning.SPACES["logistic"])
        again = search("on-postgresql", url, 6)
        assert len(tuning.finished(again)) == 6 and len(again.trials) == 7
        assert again.best_trial.params == search("on-sqlite", tracked, 6).best_trial.params
        with engine.connect() as connection:
            query = "SELECT version_num FROM {}.alembic_version"
            versions = [connection.scalar(sqlalchemy.text(query.format(schema))) for schema in ("public", "optuna")]
        assert versions[0] != versions[1]
        engine.dispose()
    bench.discard()
