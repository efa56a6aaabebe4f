"""What the pipelines share: steps as child runs, errors that name the step, and one at a time at the same work."""

import multiprocessing
import os
import signal
import sys
import time

import mlflow
import pytest
from pipeline_processes import hold, work

from course import servers, store
from pystock import pipeline, runs
from pystock.pipeline import PipelineError

needs_fork = pytest.mark.skipif(os.name == "nt", reason="processes that begin with everything imported, and are killed")


@pytest.fixture(scope="module")
def processes():
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


# Steps -----------------------------------------------------------------------------------------------------------


def test_steps_are_children_of_one_parent(tracked, capsys):
    with pipeline.run("steps", "main", {"market": "nasdaq"}) as step:
        with step("first"):
            pipeline.end_step("done", "three rows")
        with step("second"):
            pipeline.end_step("skipped", "nothing new", made_by="abc")
        pipeline.end_step("done", "one of two")
    parent, first, second = found("tags.pipeline = 'steps'")
    assert [each.info.run_name for each in (parent, first, second)] == ["steps", "first", "second"]
    assert {each.info.status for each in (parent, first, second)} == {"FINISHED"}
    assert {each.data.tags["mlflow.parentRunId"] for each in (first, second)} == {parent.info.run_id}
    assert "mlflow.parentRunId" not in parent.data.tags
    assert [each.data.tags["step"] for each in (parent, first, second)] == ["main", "first", "second"]
    assert {each.data.tags["market"] for each in (parent, first, second)} == {"nasdaq"}
    assert (second.data.tags["outcome"], second.data.tags["made_by"]) == ("skipped", "abc")
    said = [line for line in capsys.readouterr().out.splitlines() if "View" not in line]  # addresses, from a server
    assert said == ["first: three rows", "second: nothing new", "main: one of two"]


@pytest.mark.parametrize("error", [ValueError("no rows:\nload more"), PipelineError("no rows:\nload more")])
def test_a_failing_step_fails_the_parent_which_names_it(tracked, error):
    about = {"market": f"m{time.monotonic_ns()}"}  # the server keeps the runs of the test before
    with pytest.raises(SystemExit, match=r"^steps, main: no rows:\nload more$"):
        with pipeline.run("steps", "main", about) as step:
            with step("first"):
                pipeline.end_step("done", "three rows")
            with step("second"):
                raise error
    parent, first, second = found(f"tags.market = '{about['market']}'")
    assert [each.info.status for each in (parent, first, second)] == ["FAILED", "FINISHED", "FAILED"]
    assert (parent.data.tags["failed_step"], parent.data.tags["failed_because"]) == ("second", "no rows:")


def test_an_error_of_the_programmer_shows_where_it_happened(tracked):
    about = {"market": f"m{time.monotonic_ns()}"}
    with pytest.raises(ZeroDivisionError):
        with pipeline.run("steps", "main", about) as step, step("first"):
            1 / 0  # noqa: B018
    parent, first = found(f"tags.market = '{about['market']}'")
    assert (parent.info.status, first.info.status) == ("FAILED", "FAILED")
    assert parent.data.tags["failed_because"] == "division by zero"


# One at a time ---------------------------------------------------------------------------------------------------


def race(processes, uri, artifacts, name, racers):
    barrier, results = processes.Barrier(racers), processes.SimpleQueue()
    arguments = (uri, artifacts, name, barrier, results)
    started = [processes.Process(target=work, args=arguments) for _ in range(racers)]
    for each in started:
        each.start()
    outcomes = [results.get() for _ in started]
    for each in started:
        each.join()
    return outcomes


@needs_fork
def test_of_many_at_once_no_two_hold_the_work(tracked, processes, tmp_path):
    artifacts = store.artifact_root(tmp_path / "store")
    for number in range(2):
        name = f"race {number} of {os.getpid()}"
        outcomes = race(processes, tracked, artifacts, name, racers=4)
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
def test_other_work_is_not_in_the_way(tracked, processes, tmp_path):
    ready, name = processes.Event(), f"held of {os.getpid()}"
    holder = processes.Process(target=hold, args=(tracked, store.artifact_root(tmp_path / "store"), name, ready))
    holder.start()
    assert ready.wait(60)
    with pipeline.run("a-pipeline", "main", {}, claim=f"not {name}"):
        pass
    with pytest.raises(SystemExit, match=f"has been at {name} since .*wait until it has ended"):
        with pipeline.run("a-pipeline", "main", {}, claim=name):
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


def test_a_run_of_another_machine_is_not_taken_for_dead(tracked):
    name, client = f"elsewhere {os.getpid()}", mlflow.MlflowClient()
    tags = {"claim": name, "process": "attic 1700000000|1|1700000000", "ticket": "1"}
    other = client.create_run("0", tags=tags).info.run_id
    with pytest.raises(SystemExit, match=rf"the run {other} on attic has been at .* end it with .*set_terminated"):
        with pipeline.run("a-pipeline", "main", {}, claim=name):
            raise AssertionError("two at once")
    client.set_terminated(other, "KILLED")
    with pipeline.run("a-pipeline", "main", {}, claim=name):
        pass


def test_a_run_may_go_from_one_work_to_another(tracked):
    name = f"both {os.getpid()}"
    with pipeline.run("a-pipeline", "main", {}, claim=name) as step, step("inner") as inner:
        pipeline.claim_work(f"{name}, first")
        pipeline.claim_work(f"{name}, second")
        tags = mlflow.get_run(inner.info.run_id).data.tags
    assert (tags["claim"], tags["ticket"]) == (f"{name}, second", "1")
    assert not runs.is_over(tags["process"])
