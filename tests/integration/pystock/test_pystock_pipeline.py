"""The lock of a pipeline on its work, by real processes that race and die, on SQLite and over HTTP."""

import os
import signal

import mlflow
import promotions
import pytest
from pipeline_processes import forkserver, found, hold, race, work

from course import servers, store
from pystock import pipeline

needs_fork = pytest.mark.skipif(os.name == "nt", reason="processes that begin with everything imported, and are killed")


@pytest.fixture(scope="module")
def forked():
    return forkserver()


@pytest.fixture(scope="module")
def server(tmp_path_factory, empty_store):
    """An MLflow server on a store of its own."""
    folder = tmp_path_factory.mktemp("server") / "store"
    store.copy(empty_store, folder)
    command = servers.mlflow_server(store.uri(folder), "--artifacts-destination", str(folder / "artifacts"))
    with servers.start_server(command, env=servers.MLFLOW_SERVER_ENVIRONMENT, cwd=folder) as started:
        yield started.url


@pytest.fixture(params=["sqlite", pytest.param("http", marks=[needs_fork, pytest.mark.xdist_group("pipeline")])])
def tracked(request, tmp_path, empty_store, monkeypatch):
    """The tracking URI of a store."""
    http = request.param == "http"
    uri = request.getfixturevalue("server") if http else promotions.own_store(empty_store, tmp_path)
    yield from promotions.using(uri, tmp_path, monkeypatch)


@needs_fork
def test_of_many_at_once_no_two_hold_the_work(tracked, forked, tmp_path):
    name = f"race of {os.getpid()}"
    outcomes = race(forked, 4, work, tracked, store.artifact_root(tmp_path / "store"), name)
    held = sorted(outcome[1:] for outcome in outcomes if outcome[0] == "held")
    told = [outcome[1] for outcome in outcomes if outcome[0] == "told"]
    assert held, outcomes
    assert all(ended <= begun for (_, ended), (begun, _) in zip(held, held[1:])), held
    assert all(f" has been working on {name} since " in text for text in told), told
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
    refusal = f"has been working on {name} since .*wait until it ends"
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
