"""The lock of a pipeline on its work, by real processes that race and die, on SQLite and over HTTP."""

import multiprocessing
import os
import signal
import sys

import mlflow
import pytest
from pipeline_processes import hold, work

from course import servers, store
from pystock import pipeline

needs_fork = pytest.mark.skipif(os.name == "nt", reason="processes that begin with everything imported, and are killed")


@pytest.fixture(scope="module")
def forked():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipeline_processes", "mlflow.store.tracking.sqlalchemy_store", "alembic.script"])
    return context


@pytest.fixture(scope="module")
def server(tmp_path_factory, empty_store):
    """An MLflow server on a store of its own."""
    folder = tmp_path_factory.mktemp("server") / "store"
    store.copy(empty_store, folder)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", "{port}", "--workers", "1"]
    command += ["--backend-store-uri", store.uri(folder), "--artifacts-destination", str(folder / "artifacts")]
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    started = servers.launch(command, env=settings, cwd=folder, log=folder / "server.log")
    yield started.wait_until_healthy().url
    started.stop()


@pytest.fixture(params=["sqlite", pytest.param("http", marks=[needs_fork, pytest.mark.xdist_group("pipeline")])])
def tracked(request, tmp_path, empty_store, monkeypatch):
    """The tracking URI of a store."""
    store.copy(empty_store, tmp_path / "store")
    uri = store.uri(tmp_path / "store") if request.param == "sqlite" else request.getfixturevalue("server")
    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
    monkeypatch.setenv(store.ARTIFACT_ROOT_VARIABLE, store.artifact_root(tmp_path / "store"))
    mlflow.set_tracking_uri(uri)
    yield uri
    mlflow.end_run()
    mlflow.set_tracking_uri(None)


def found(filter_string=""):
    options = {"search_all_experiments": True, "output_format": "list", "order_by": ["attributes.start_time ASC"]}
    return mlflow.search_runs(filter_string=filter_string, **options)


@needs_fork
def test_of_many_at_once_no_two_hold_the_work(tracked, forked, tmp_path):
    name, barrier, results = f"race of {os.getpid()}", forked.Barrier(4), forked.SimpleQueue()
    arguments = (tracked, store.artifact_root(tmp_path / "store"), name, barrier, results)
    started = [forked.Process(target=work, args=arguments) for _ in range(4)]
    for each in started:
        each.start()
    outcomes = [results.get() for _ in started]
    for each in started:
        each.join()
    held = sorted(outcome[1:] for outcome in outcomes if outcome[0] == "held")
    told = [outcome[1] for outcome in outcomes if outcome[0] == "told"]
    assert held, outcomes
    assert all(ended <= begun for (_, ended), (begun, _) in zip(held, held[1:])), held
    assert all(f" has been at {name} since " in text for text in told), told
    refused = found(f"tags.claim = '{name}' and attributes.status = 'FAILED'")
    assert [each.data.tags["outcome"] for each in refused] == ["refused"] * len(told)
    with pipeline.run("a-pipeline", "main", {}, claim=name):  # once they have ended, the work is free
        pass


@needs_fork
def test_other_work_is_not_in_the_way(tracked, forked, tmp_path):
    ready, name = forked.Event(), f"held of {os.getpid()}"
    holder = forked.Process(target=hold, args=(tracked, store.artifact_root(tmp_path / "store"), name, ready))
    holder.start()
    assert ready.wait(60)
    with pipeline.run("a-pipeline", "main", {}, claim=f"not {name}"):
        pass
    refusal = f"has been at {name} since .*wait until it has ended"
    with pytest.raises(SystemExit, match=refusal), pipeline.run("a-pipeline", "main", {}, claim=name):
        raise AssertionError("two at once")
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    left = found(f"tags.claim = '{name}' and attributes.status = 'RUNNING'")
    assert len(left) == 1  # a killed process ends no run
    with pipeline.run("a-pipeline", "main", {}, claim=name):
        pass
    ended = mlflow.get_run(left[0].info.run_id)
    children = found(f"tags.`mlflow.parentRunId` = '{ended.info.run_id}'")
    assert [each.info.status for each in (ended, *children)] == ["KILLED", "KILLED"]
