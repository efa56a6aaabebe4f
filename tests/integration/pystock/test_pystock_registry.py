"""Promotions: a gate that names each number, one winner of many, and no crash that leaves a name without champion.

The gate is tried on real models. The protocol is tried without it, by real processes that race and die, on SQLite, on
PostgreSQL and over HTTP.
"""

import itertools
import multiprocessing
import os
import signal
import sys
import time

import mlflow
import pandas as pd
import psutil
import pytest
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import BAD_REQUEST, PERMISSION_DENIED
from mlflow.types import ColSpec, Schema
from racing_promotions import compete, die, passes
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import course
from course import store
from course.workbench import local as workbench
from pystock.data import load
from pystock.evaluation import TEST_END, time_split
from pystock.features import dataset
from pystock.registry import gate
from pystock.registry import promotion as registry

needs_fork = pytest.mark.skipif(os.name == "nt", reason="processes that are killed; PostgreSQL's package")
pytestmark = pytest.mark.filterwarnings("ignore:.*input example:UserWarning")  # advice to those who log models
slow = pytest.mark.slow
on_bench = [needs_fork, pytest.mark.xdist_group("registry")]

# The stores ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processes():
    """Processes that begin with everything imported, which takes longer than a promotion."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["pystock.registry", "mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store"]
        + ["alembic.script", "psycopg", "sqlalchemy.dialects.postgresql.psycopg"]
    )
    return context


@pytest.fixture(scope="module")
def bench():
    with workbench.start_workbench() as bench:
        yield bench
    bench.discard()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=on_bench), pytest.param("http", marks=on_bench)])
def uri(request, tmp_path, empty_store, monkeypatch):
    """Tracking store and registry of a test: a file, a database, or a server before that database."""
    if request.param == "sqlite":
        store.copy(empty_store, tmp_path / "store")
        uri = store.uri(tmp_path / "store")
    else:
        bench = request.getfixturevalue("bench")
        uri = bench.database if request.param == "postgresql" else bench.url
    yield from used(uri, monkeypatch, tmp_path)


@pytest.fixture
def tracked(tmp_path, empty_store, monkeypatch):
    """A file."""
    store.copy(empty_store, tmp_path / "store")
    yield from used(store.uri(tmp_path / "store"), monkeypatch, tmp_path)


def used(uri, monkeypatch, tmp_path):
    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)  # what is set here ends with the test
    monkeypatch.setenv(store.ARTIFACT_ROOT_VARIABLE, store.artifact_root(tmp_path / "store"))
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    mlflow.set_tracking_uri(uri)
    yield uri
    mlflow.end_run()
    mlflow.set_tracking_uri(None)


numbers = itertools.count(1)


def registered(versions, champion=None):
    """A new name with that many versions without files; the protocol reads none."""
    client, name = mlflow.MlflowClient(), f"model-{os.getpid()}-{next(numbers)}"
    client.create_registered_model(name)
    for _ in range(versions):
        client.create_model_version(name, source="s3://nowhere/model")
    if champion:
        registry.promote(name, champion, why="the first", who="ada")
    return name


def champion(name):
    return registry._champion(mlflow.MlflowClient(), name)


def states(name):
    found = mlflow.MlflowClient().search_model_versions(f"name = '{name}'")
    return {int(each.version): each.tags.get("lifecycle") for each in found}


def table(name, *columns):
    """Rows of the history as tuples, a missing value as None."""
    found = registry.history(name)[list(columns)].astype(object)
    return [tuple(row) for row in found.where(found.notna(), None).to_numpy().tolist()]


@pytest.fixture
def no_gate(monkeypatch):
    monkeypatch.setattr(registry, "judge", passes)


# One after the other ---------------------------------------------------------------------------------------------


def test_promotions_and_rollbacks_in_order(uri, no_gate):
    name, client = registered(4), mlflow.MlflowClient()
    client.set_registered_model_alias(name, "challenger", "2")
    first = registry.promote(name, 1, why="the first", who="ada")
    assert repr(first) == f"promoted: the champion of {name} is version 1, before none"
    second = registry.promote(name, 2, why="better", who="bob")
    assert (second.before, second.version) == (1, 2)
    assert states(name) == {1: "Archived", 2: "Production", 3: None, 4: None}
    assert "challenger" not in client.get_registered_model(name).aliases
    client.set_registered_model_alias(name, "challenger", "4")
    third = registry.promote(name, 3, why="better still", who="bob")
    assert client.get_registered_model(name).aliases["challenger"] in ("4", 4)
    assert registry.rollback(name, why="complaints", who="eve").version == 2
    assert states(name) == {1: "Archived", 2: "Production", 3: "Archived", 4: None}
    assert registry.rollback(name, why="more of them", who="eve").version == 1  # and not forward to 3
    with pytest.raises(registry.RegistryError, match="has no champion before this one, so there is nothing to roll"):
        registry.rollback(name, why="and more")
    registry.promote(name, 4, why="the next", who="ada")
    assert registry.rollback(name, why="again", who="eve").version == 1
    assert table(name, "who", "why", "from", "to", "outcome") == [
        ("ada", "the first", None, 1, "promoted"),
        ("bob", "better", 1, 2, "promoted"),
        ("bob", "better still", 2, 3, "promoted"),
        ("eve", "complaints", 3, 2, "rolled back"),
        ("eve", "more of them", 2, 1, "rolled back"),
        ("ada", "the next", 1, 4, "promoted"),
        ("eve", "again", 4, 1, "rolled back"),
    ]
    assert champion(name) == 1
    run = client.get_run(second.run_id)
    assert client.get_model_version(name, "3").tags["promotion"] == third.run_id
    assert run.info.status == "FINISHED" and run.data.tags["mlflow.note.content"] == "better"
    when = registry.history(name)["when"]
    assert when.is_monotonic_increasing and when.iloc[1] == pd.Timestamp(run.info.start_time, unit="ms", tz="UTC")


def test_the_callers_run_and_experiment_are_untouched(tracked, no_gate):
    name = registered(2)
    mlflow.set_experiment("mine")
    with mlflow.start_run() as run:
        registry.promote(name, 1, why="inside a run")
        with pytest.raises(registry.RegistryError):
            registry.promote(name, 1, why="again")
        assert mlflow.active_run().info.run_id == run.info.run_id
        mlflow.log_param("mine", 1)
    assert mlflow.active_run() is None
    with mlflow.start_run() as later:
        assert later.info.experiment_id == run.info.experiment_id
    assert mlflow.get_run(run.info.run_id).data.params == {"mine": "1"}


def test_two_names_do_not_meet(tracked, no_gate):
    one, other = registered(1, champion=1), registered(2, champion=2)
    assert table(one, "to") == [(1,)] and table(other, "to") == [(2,)]


def test_the_history_of_a_name_without_promotions(tracked):
    found = registry.history(registered(1))
    assert list(found) == ["who", "when", "why", "from", "to", "outcome", "evidence"] and found.empty


def test_a_refusal_lists_every_condition_that_failed_and_is_on_record(tracked, monkeypatch):
    name = registered(2)
    conditions = [gate.Condition(*each) for each in [("a", False, "-0.3"), ("b", True, "0.1"), ("c", False, "7 %")]]
    monkeypatch.setattr(registry, "judge", lambda *_: conditions)
    with pytest.raises(registry.Refused) as caught:
        registry.promote(name, 2, why="a try", who="ada")
    assert str(caught.value) == f"Version 2 of {name} is not promoted: 2 of 3 conditions failed.\n- a: -0.3\n- c: 7 %"
    assert caught.value.conditions == conditions and champion(name) is None
    assert table(name, "who", "to", "outcome", "evidence") == [("ada", 2, "refused", "a: -0.3; b: 0.1; c: 7 %")]


# At the same moment ----------------------------------------------------------------------------------------------


def race(processes, uri, name, versions):
    """Outcomes of a process for each version, that all promote at once."""
    barrier, results = processes.Barrier(len(versions)), processes.SimpleQueue()
    racers = [processes.Process(target=compete, args=(uri, name, version, barrier, results)) for version in versions]
    for racer in racers:
        racer.start()
    found = [results.get() for _ in racers]
    for racer in racers:
        racer.join()
    return found


def races(processes, uri, rounds, racers=4):
    name = registered(racers * rounds)
    winners = []
    for start in range(1, racers * rounds, racers):
        found = race(processes, uri, name, range(start, start + racers))
        won = [version for version, outcome, _ in found if outcome == "promoted"]
        lost = [text for _, outcome, text in found if outcome == "Overtaken"]
        assert len(won) == 1 and len(lost) == racers - 1, found
        assert all(f"racer {won[0]} was faster, with version {won[0]}." in text for text in lost), lost
        winners += won
        assert champion(name) == won[0]
    done = [row for row in table(name, "from", "to", "outcome") if row[2] == "promoted"]
    assert done == [(before, after, "promoted") for before, after in zip([None, *winners], winners)]
    assert len(registry.history(name)) == racers * rounds
    assert [state for state in states(name).values() if state] == ["Archived"] * (rounds - 1) + ["Production"] or rounds
    assert sorted(version for version, state in states(name).items() if state == "Production") == [winners[-1]]


@needs_fork
def test_of_many_at_once_exactly_one_wins(uri, no_gate, processes):
    races(processes, uri, rounds=3)


@needs_fork
@slow
def test_of_many_at_once_exactly_one_wins_many_times(uri, no_gate, processes):
    races(processes, uri, rounds=10, racers=6)


# Killed anywhere, or held up: the writes of a later promotion, numbered, of which the process may not come to one
_, _, _, _, NEXT, GO, ALIAS = range(7)  # before them the experiment, the run, its metrics, the version's tag

# -----------------------------------------------------------------------------------------------------


@needs_fork
@pytest.mark.parametrize(
    "uri, before",
    [("sqlite", None), ("sqlite", 1), pytest.param("postgresql", 1, marks=on_bench)]
    + [pytest.param(*each, marks=[*on_bench, slow]) for each in [("postgresql", None), ("http", None), ("http", 1)]],
    indirect=["uri"],
)
def test_killed_between_any_two_steps(uri, no_gate, processes, before):
    """Before each write in turn, until there is none left: the old champion or the new one, and the next call works."""
    outcomes = []
    for write in itertools.count():
        name = registered(3, champion=before)
        mlflow.MlflowClient().set_registered_model_alias(name, "challenger", "2")
        process = processes.Process(target=die, args=(uri, name, 2, write))
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        now, left = champion(name), table(name, "who", "to", "outcome")[bool(before) :]
        assert now in (before, 2)
        assert now == before or left, "an alias without its run"
        assert left in ([], [("the dead", 2, "interrupted")], [("the dead", 2, "promoted")]), left
        registry.promote(name, 3, why="the next", who="bob")
        settled = table(name, "who", "from", "to", "outcome")[bool(before) :]
        assert champion(name) == 3 and settled[-1][0::3] == ("bob", "promoted")
        assert [row[3] for row in settled].count("set by hand") == 0, settled
        assert settled[-1][1] == (2 if settled[0][3].startswith("promoted") and len(settled) == 2 else before)
        assert [version for version, state in states(name).items() if state == "Production"] == [3]
        assert not [run for run in all_runs(name) if run.info.status == "RUNNING"], "a run was left open"
        outcomes += [row[3] for row in settled[:-1]] or ["nothing"]
    assert champion(name) == 2
    expected = {"nothing", "interrupted", "promoted, settled by a later call"}
    assert expected <= set(outcomes) <= {*expected, "promoted"}, outcomes


def all_runs(name):
    return registry._runs(mlflow.MlflowClient(), name).values()


@needs_fork
def test_a_rollback_settles_too(uri, no_gate, processes):
    """Killed after `go`, before the alias: rolled forward first, and then back from there."""
    name = registered(2, champion=1)
    process = processes.Process(target=die, args=(uri, name, 2, ALIAS))
    process.start()
    process.join()
    assert champion(name) == 1 and table(name, "outcome")[1:] == [("interrupted",)]
    assert registry.rollback(name, why="both at once", who="eve").version == 1
    outcomes = [outcome for (outcome,) in table(name, "outcome")]
    assert outcomes == ["promoted", "promoted, settled by a later call", "rolled back"]


@pytest.fixture
def stopped(tracked, no_gate, processes, monkeypatch):
    """A promotion of version 2 that is stopped before a given write; alive, but it does not go on until it is told."""
    started = []

    def start(write):
        name = registered(3, champion=1)
        process = processes.Process(target=die, args=(tracked, name, 2, write, "SIGSTOP"))
        process.start()
        started.append(process)
        deadline = time.monotonic() + 60
        while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
            assert process.is_alive() and time.monotonic() < deadline
            time.sleep(0.05)
        return name, process

    monkeypatch.setattr(registry, "PATIENCE", 0.5)
    yield start
    for process in started:
        process.kill()
        process.join()


def goes_on(process) -> int:
    os.kill(process.pid, signal.SIGCONT)
    process.join(300)
    return process.exitcode


@needs_fork
def test_a_promotion_that_is_alive_is_waited_for_and_named(stopped):
    name, process = stopped(GO)
    assert table(name, "who", "outcome")[-1] == ("the dead", "under way")
    with pytest.raises(
        registry.Busy, match=f"the dead is promoting version 2 of {name}, and has not ended within 0.5 s"
    ):
        registry.promote(name, 3, why="at the same time")
    assert goes_on(process) == 0 and champion(name) == 2
    registry.promote(name, 3, why="afterwards")
    assert table(name, "from", "to", "outcome")[1:] == [(1, 2, "promoted"), (2, 3, "promoted")]


@needs_fork
def test_one_that_has_not_claimed_yet_holds_nobody_up(stopped):
    name, process = stopped(NEXT)
    registry.promote(name, 3, why="faster", who="bob")
    assert goes_on(process) == 1 and champion(name) == 3  # Overtaken
    assert table(name, "who", "to", "outcome")[1:] == [("the dead", 2, "overtaken"), ("bob", 3, "promoted")]


@needs_fork
def test_one_that_stands_still_for_longer_than_the_lease_has_lost(stopped, monkeypatch):
    name, process = stopped(GO)
    monkeypatch.setattr(registry, "LEASE", -1)
    registry.promote(name, 3, why="no more waiting", who="bob")
    assert goes_on(process) == 1 and champion(name) == 3  # Overtaken: `void` stands where it would write `go`
    assert table(name, "who", "to", "outcome")[1:] == [("the dead", 2, "interrupted"), ("bob", 3, "promoted")]


@needs_fork
def test_what_cannot_be_prevented_is_reported(stopped, monkeypatch):
    """It had said `go`, stood still for longer than the lease, and writes its alias when all believe it dead."""
    name, process = stopped(ALIAS)
    monkeypatch.setattr(registry, "LEASE", -1)
    registry.promote(name, 3, why="no more waiting", who="bob")
    assert table(name, "from", "to", "outcome")[1:] == [
        (1, 2, "promoted, settled by a later call"),
        (2, 3, "promoted"),
    ]
    assert goes_on(process) == 0 and champion(name) == 2
    assert table(name, "from", "to", "outcome")[-1] == (3, 2, "set by hand")


@pytest.mark.parametrize("machine", ["this", "another"])
@pytest.mark.parametrize("write, outcome", [("log_param", "interrupted"), ("set_registered_model_alias", "promoted")])
def test_an_interrupt_in_this_process(tracked, no_gate, monkeypatch, write, outcome, machine):
    """As when a notebook's kernel is interrupted: its next call settles it, another machine's after the lease."""
    name = registered(3, champion=1)
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, write, interrupt)
        registry.promote(name, 2, why="too slow")
    if machine == "another":
        monkeypatch.setattr("pystock.runs.machine", lambda: "elsewhere 1")
        monkeypatch.setattr(registry, "PATIENCE", 0.2)
        assert table(name, "outcome")[-1] == ("under way",)
        if outcome == "promoted":  # it holds the place in the chain
            with pytest.raises(registry.Busy, match="a call 60 s after its start settles it"):
                registry.promote(name, 3, why="the next")
        monkeypatch.setattr(registry, "LEASE", -1)
    assert table(name, "outcome", "evidence")[-1] == ("interrupted", "the next promote or rollback settles it")
    registry.promote(name, 3, why="the next")
    assert table(name, "outcome")[1][0].startswith(outcome) and champion(name) == 3


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_one_that_ends_while_a_later_call_takes_it_over_stays_as_it_is(tracked, no_gate):
    """Read while it was open, dead a moment later, and in between it has ended; another promotion even came after."""
    name, client = registered(3, champion=1), mlflow.MlflowClient()
    run = client.get_run(registry.promote(name, 2, why="in time").run_id)
    registry.promote(name, 3, why="the next")
    run.data.tags["outcome"] = "open"
    registry._take_over(client, run, "somebody else")
    assert champion(name) == 3 and table(name, "outcome") == [("promoted",)] * 3


def test_a_promotion_of_a_version_that_was_deleted_does_not_hold_up_the_chain(tracked, no_gate, monkeypatch):
    name = registered(3, champion=1)
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "set_registered_model_alias", interrupt)
        registry.promote(name, 2, why="too slow")
    mlflow.MlflowClient().delete_model_version(name, "2")
    registry.promote(name, 3, why="the next")
    assert table(name, "from", "to", "outcome")[1:] == [(1, 2, "interrupted"), (1, 3, "promoted")]


# Past the promotions ---------------------------------------------------------------------------------------------


def test_an_alias_moved_by_hand_is_reported_and_the_next_promotion_records_the_true_champion(uri, no_gate):
    name, client = registered(4, champion=1), mlflow.MlflowClient()
    client.set_registered_model_alias(name, "champion", "3")
    moved = (None, 1, 3, "set by hand", "no promotion moved the alias champion from version 1 to version 3")
    assert table(name, "who", "from", "to", "outcome", "evidence")[-1] == moved
    run = client.get_run(registry.promote(name, 4, why="ours again", who="bob").run_id)
    assert run.data.tags["from"] == "3"
    assert run.data.tags["mlflow.note.content"] == f"ours again\n\nBefore: {moved[-1]}."
    assert table(name, "who", "from", "to", "outcome", "evidence")[1] == moved
    assert table(name, "from", "to", "outcome")[2:] == [(3, 4, "promoted")]
    assert {version for version, state in states(name).items() if state == "Production"} == {4}
    assert registry.rollback(name, why="back").version == 3


def test_an_alias_set_before_the_first_promotion_or_removed(tracked, no_gate):
    name, client = registered(2), mlflow.MlflowClient()
    client.set_registered_model_alias(name, "champion", "2")
    assert table(name, "from", "to", "outcome") == [(None, 2, "set by hand")]
    registry.promote(name, 1, why="ours")
    client.delete_registered_model_alias(name, "champion")
    assert table(name, "from", "to", "outcome")[1:] == [(2, 1, "promoted"), (1, None, "set by hand")]
    assert registry.rollback(name, why="put it back").version == 1


def test_an_alias_moved_while_the_gate_judges(tracked, monkeypatch):
    name, client = registered(3, champion=None), mlflow.MlflowClient()

    def judge(*_):
        client.set_registered_model_alias(name, "champion", "3")
        return passes()

    monkeypatch.setattr(registry, "judge", judge)
    with pytest.raises(
        registry.Overtaken, match="set the alias champion by hand, from none to version 3, after it was"
    ):
        registry.promote(name, 2, why="unlucky")
    assert champion(name) == 3
    assert table(name, "to", "outcome") == [(2, "overtaken"), (3, "set by hand")]
    monkeypatch.setattr(registry, "judge", passes)
    registry.promote(name, 2, why="again")
    assert champion(name) == 2


# What cannot be done is said in one sentence ---------------------------------------------------------------------


def refused(call, *arguments, **options) -> str:
    with pytest.raises(registry.RegistryError) as caught:
        call(*arguments, **options)
    text = str(caught.value)
    assert "\n" not in text and text.endswith("."), text
    return text


def test_what_is_not_there(uri, no_gate):
    name = registered(2)
    for call in (registry.promote, registry.rollback, registry.history, registry.gate, registry.set_lifecycle):
        version = [] if call in (registry.rollback, registry.history) else [1]
        options = {"why": "x"} if call in (registry.promote, registry.rollback) else {}
        state = ["Staging"] if call is registry.set_lifecycle else []
        assert "There is no registered model 'nobody'" in refused(call, "nobody", *version, *state, **options)
        if version:
            for wrong in (7, "first", 0):
                text = refused(call, name, wrong, *state, **options)
                assert f"{name} has no version {wrong!r}: it has 1, 2." in text
    assert "nothing to roll back to" in refused(registry.rollback, name, why="x")
    assert "since it has no reason" in refused(registry.promote, name, 1, why=" ")
    registry.promote(name, 1, why="x")
    assert "is the champion already" in refused(registry.promote, name, 1, why="x")
    assert len(registry.history(name)) == 1


def test_a_deleted_promotion_is_named_with_the_way_to_restore_it(uri, no_gate):
    name, client = registered(3, champion=1), mlflow.MlflowClient()
    run_id = registry.promote(name, 2, why="x").run_id
    client.delete_run(run_id)
    for call, options in ((registry.history, {}), (registry.rollback, {"why": "x"})):
        assert f"restore it with MlflowClient().restore_run('{run_id}')." in refused(call, name, **options)
    client.restore_run(run_id)
    assert registry.rollback(name, why="x").version == 1


@needs_fork
def test_a_store_that_may_only_be_read(tracked, no_gate, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # SQLAlchemy makes the folders of such an address below the working directory
    name = registered(2, champion=1)
    path = tracked.removeprefix("sqlite:///")
    mlflow.set_tracking_uri(f"sqlite:///file:{path}?mode=ro&uri=true")
    for call in (registry.promote, registry.set_lifecycle):
        options = {"why": "x"} if call is registry.promote else {"state": "Archived"}
        with pytest.raises(registry.RegistryError, match="since the store refused or did not answer: .*readonly"):
            call(name, 2, **options)
    assert table(name, "to") == [(1,)] and champion(name) == 1


def test_who_may_not_write_to_the_name_claims_nothing(tracked, no_gate, monkeypatch):
    """Else the next promotion, made by somebody who may, would set the alias for them."""
    name = registered(3, champion=1)

    def denied(*_):
        raise mlflow.MlflowException("Permission denied", PERMISSION_DENIED)

    with monkeypatch.context() as patch:
        for write in ("set_model_version_tag", "set_registered_model_alias"):
            patch.setattr(mlflow.MlflowClient, write, denied)
        with pytest.raises(registry.RegistryError, match="refused or did not answer: Permission denied"):
            registry.promote(name, 2, why="not mine")
    registry.promote(name, 3, why="the next")
    assert table(name, "from", "to", "outcome")[1:] == [(1, 2, "interrupted"), (1, 3, "promoted")]


def test_a_tag_that_another_call_sets_first_is_no_obstacle(tracked, no_gate, monkeypatch):
    """Two that set a new tag at once: the database refuses the second row, as the race above meets it now and then."""
    name, original, calls = registered(1), mlflow.MlflowClient.set_registered_model_tag, []

    def late(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise mlflow.MlflowException("(psycopg.errors.UniqueViolation)", BAD_REQUEST)
        original(*arguments)

    monkeypatch.setattr(mlflow.MlflowClient, "set_registered_model_tag", late)
    registry.promote(name, 1, why="at once")
    assert champion(name) == 1 and len(calls) == 2


@needs_fork
def test_on_a_server_with_accounts_rights_decide(tracked, no_gate, monkeypatch, tmp_path):
    """Who may only read leaves nothing behind; the history knows a reviewer by the login."""
    passwords = {who: f"a password of {who}" for who in ("admin", "ada", "rosa", "ben")}
    (tmp_path / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = READ\nadmin_username = admin\nauth_cache_ttl_seconds = 60\n"
        f"database_uri = sqlite:///{tmp_path}/accounts.db\n"
    )
    settings = {
        "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": passwords["admin"],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "for this test",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", "{port}", "--workers", "1"]
    command += ["--backend-store-uri", tracked, "--app-name", "basic-auth"]

    def log_in(who):
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", who)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", passwords[who])

    with course.start_server(command, env=settings, cwd=tmp_path, log=tmp_path / "server.log") as server:
        from mlflow.server import get_app_client

        mlflow.set_tracking_uri(server.url)
        log_in("admin")
        name, accounts = registered(3), get_app_client("basic-auth", server.url)
        for who in ("ada", "rosa", "ben"):
            accounts.create_user(who, passwords[who])
        for who in ("rosa", "ben"):
            accounts.grant_user_permission(who, "registered_model", name, "MANAGE")

        log_in("ada")
        with pytest.raises(registry.RegistryError, match="is not promoted, since the store .*Permission denied"):
            registry.promote(name, 1, why="mine")
        assert [one.name for one in mlflow.search_experiments()] == ["Default"] and table(name, "to") == []

        log_in("rosa")
        registry.promote(name, 2, why="reviewed")
        log_in("ben")
        with pytest.raises(registry.RegistryError, match="Permission denied"):
            registry.promote(name, 3, why="reviewed too")
        log_in("admin")
        experiment = mlflow.get_experiment_by_name(registry.EXPERIMENT).experiment_id
        accounts.grant_user_permission("ben", "experiment", experiment, "EDIT")
        log_in("ben")
        registry.promote(name, 3, why="reviewed too")
        assert table(name, "who", "from", "to", "outcome") == [
            ("rosa", None, 2, "promoted"),
            ("ben", 2, 3, "promoted"),
        ]


def test_a_store_that_does_not_answer(tracked, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    with pytest.raises(
        registry.RegistryError, match="Version 1 of m is not promoted, since the store refused or did not"
    ):
        registry.promote("m", 1, why="x")


def test_the_life_cycle_has_its_steps(tracked, no_gate, monkeypatch):
    name = registered(3, champion=1)
    signature = gate.Condition("signature", False, "it says nothing of its inputs")
    monkeypatch.setattr(registry, "signature_of", lambda version: signature)
    reason = "which requires a signature with an output named probability: it says nothing of its inputs"
    assert reason in refused(registry.set_lifecycle, name, 2, "Staging")
    monkeypatch.setattr(registry, "signature_of", lambda version: signature._replace(passed=True))
    for state in ("Staging", "Development", "Archived", "Development", "Staging", "Archived"):
        registry.set_lifecycle(name, 2, state)
        assert states(name)[2] == state
    assert "from there it may go to Development" in refused(registry.set_lifecycle, name, 2, "Staging")
    assert "promote it, which asks the gate" in refused(registry.set_lifecycle, name, 2, "Production")
    assert "may go to Staging or Archived" in refused(registry.set_lifecycle, name, 3, "Retired")
    assert "while it is the champion" in refused(registry.set_lifecycle, name, 1, "Archived")
    mlflow.MlflowClient().set_registered_model_alias(name, "champion", "3")
    registry.set_lifecycle(name, 1, "Archived")
    registry.promote(name, 2, why="back from the archive")
    assert states(name) == {1: "Archived", 2: "Production", 3: None}


# The gate, on real models ----------------------------------------------------------------------------------------

# It knows its forecast of each day by heart, so that a test can give it any; and does what else a test wants.
MODEL = """
import mlflow, pandas

class Recalls(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.forecasts = pandas.read_pickle(context.artifacts["forecasts"])

    def predict(self, context, model_input: pandas.DataFrame, params=None):
        {also}
        return pandas.DataFrame({{"probability": self.forecasts.loc[model_input.index].to_numpy()}})

mlflow.models.set_model(Recalls())
"""
PROBABILITY = Schema([ColSpec("double", "probability")])
TAGS = {"target": "big_move", "features": "volatility", "market": "sp500"}


@pytest.fixture(scope="module")
def days():
    """Features, outcomes, and a forecast with skill, of the held-out days."""
    X_train, X_test, y_train, y_test = time_split(*dataset(load("sp500", end=TEST_END), "big_move", "volatility"))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1)).fit(X_train, y_train)
    return X_test, y_test, pd.Series(model.predict_proba(X_test)[:, 1], X_test.index)


@pytest.fixture
def register(tracked, tmp_path, days):
    """Register a version of `candidates` that gives these forecasts."""
    client = mlflow.MlflowClient()
    client.create_registered_model("candidates")
    mlflow.set_experiment("models")

    def register(forecasts, tags=TAGS, outputs=PROBABILITY, also="pass"):
        forecasts.to_pickle(tmp_path / "forecasts")
        (tmp_path / "model.py").write_text(MODEL.format(also=also))
        inputs = Schema([ColSpec("double", column) for column in days[0]])
        with mlflow.start_run(tags=tags):
            info = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(tmp_path / "model.py"),
                artifacts={"forecasts": str(tmp_path / "forecasts")},
                signature=ModelSignature(inputs, outputs),
                pip_requirements=[],
            )
        return int(mlflow.register_model(info.model_uri, "candidates").version)

    return register


@pytest.fixture
def no_process(monkeypatch):
    """Predict in this process: for tests of what is judged, not of where."""

    def predict(asked):
        return [mlflow.pyfunc.load_model(uri).predict(rows)["probability"].to_numpy() for uri, rows in asked]

    monkeypatch.setattr(gate, "_clean_process", predict)


def outcome(version, **options):
    """The conditions that failed, by name, with their evidence."""
    conditions = registry.gate("candidates", version, **options)
    assert [condition.name for condition in conditions] == ["signature", "base rate", "champion", "clean process"]
    return {condition.name: condition.evidence for condition in conditions if not condition.passed}


def test_a_good_model_passes_in_a_clean_process(register, days, monkeypatch, tmp_path):
    """From a folder and with a path that would lend it a module, which the clean process must not see."""
    (tmp_path / "lent.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    version = register(days[2], also="assert params is None")
    promotion = registry.promote("candidates", version, why="the first")
    run = mlflow.get_run(promotion.run_id)
    assert [condition.passed for condition in promotion.conditions] == [True] * 4
    assert [condition.evidence for condition in promotion.conditions] == [
        "12 inputs, outputs probability",
        "Brier skill +0.136 [+0.087, +0.195] against the rolling base rate; the interval must lie above 0",
        "there is none yet to compare with",
        "a new interpreter predicted 1257 held-out days",
    ]
    assert run.data.metrics["brier_skill_low"] == pytest.approx(0.087, abs=5e-4)
    borrows = register(days[2], also="import lent")
    assert outcome(borrows) == {
        "base rate": "cannot be judged: no predictions from a clean process",
        "champion": "cannot be judged: no predictions from a clean process",
        "clean process": "ModuleNotFoundError: No module named 'lent'",
    }


def test_what_can_go_wrong_in_a_clean_process(register, days):
    """One process for all of them: each answer is kept, also when a later model takes the process with it."""
    X_test, _, good = days
    asked = [
        (f"models:/candidates/{version}", X_test)
        for version in (
            register(good),
            register(good, also="raise ValueError('no\\nforecast')"),
            register(good, also="return pandas.DataFrame({'p': [0.5]})"),
            register(good, also="return pandas.DataFrame({'probability': [0.5]})", outputs=None),
            register(good, also="import os, sys; print('last words', file=sys.stderr, flush=True); os._exit(3)"),
            register(good),
        )
    ]
    answers = gate._clean_process([*asked[:-1], ("models:/candidates/99", X_test), asked[-1]])
    assert answers[0] == pytest.approx(good.to_numpy())
    assert answers[1] == "ValueError: no"
    assert "probability" in answers[2]
    assert answers[3] == "1 predictions for 1257 days"
    assert answers[4] == answers[6] == "the process ended with 3: last words"
    assert answers[5].startswith("its files cannot be fetched: ")


def test_a_model_that_never_answers(register, days, monkeypatch):
    version = register(days[2], also="import time; time.sleep(600)")
    monkeypatch.setattr(gate, "CLEAN_TIMEOUT", 0.5)
    assert outcome(version)["clean process"] == "no answer within 0.5 s"


def test_each_condition_fails_alone_and_with_others(register, days, no_process, monkeypatch):
    X_test, y, good = days
    assert outcome(register(good, outputs=None)) == {"signature": "it says nothing of its outputs"}
    other = Schema([ColSpec("double", "probability"), ColSpec("double", "p")])
    assert outcome(register(good, outputs=other)) == {}
    flat = pd.Series(0.24, good.index)  # the held-out years' own rate: better than the rolling one, but not surely
    failed = outcome(register(flat))
    assert list(failed) == ["base rate"] and "Brier skill +0.000 [-0.044, +0.045]" in failed["base rate"], failed
    registry.promote("candidates", register(good), why="the first")
    worse = 0.6 * good + 0.4 * flat
    failed = outcome(register(worse))
    assert list(failed) == ["champion"], failed
    assert (
        failed["champion"].startswith("Brier score +0.00")
        and "; the interval must lie below +0.002" in failed["champion"]
    )
    assert outcome(register(worse), margin=0.05) == {}
    assert outcome(register(0.9 * good + 0.1 * y)) == {}
    assert list(outcome(register(flat, outputs=Schema([ColSpec("double", "p")])))) == [
        "signature",
        "base rate",
        "champion",
    ]
    with pytest.raises(registry.Refused, match="2 of 4 conditions failed.\n- base rate: .*\n- champion: .*$"):
        registry.promote("candidates", register(flat), why="a try")


def test_forecasts_that_are_none(register, days, no_process):
    for wrong, reason in ((days[2] + 1, "probabilities lie in"), (days[2].where(days[2] > 0.1), "missing values")):
        failed = outcome(register(wrong))
        assert list(failed) == ["base rate"] and "cannot be judged: probability " in failed["base rate"]
        assert reason in failed["base rate"]


def test_a_version_that_does_not_say_what_it_was_asked(register, days, no_process):
    client = mlflow.MlflowClient()
    for tags, reason in (
        ({"target": "big_move"}, "its source run lacks the tag features, market; set it there"),
        (TAGS | {"market": "dax"}, "the tags of its source run name what is not there ('dax' is no embedded market"),
        (TAGS | {"target": "luck"}, "the tags of its source run name what is not there ('luck' is no target"),
    ):
        failed = outcome(register(days[2], tags=tags))
        assert list(failed) == ["base rate", "champion", "clean process"]
        assert all(reason in evidence for evidence in failed.values()), failed
    version = client.create_model_version("candidates", source="s3://nowhere/model").version
    failed = outcome(version)
    assert len(failed) == 4 and "its files cannot be read" in failed["signature"]
    assert failed["base rate"].startswith("cannot be judged: it has no source run")
    gone = register(days[2])
    client.delete_run(client.get_model_version("candidates", gone).run_id)
    assert outcome(gone) == {}, "a deleted run can still be read"


def test_a_champion_of_other_features_is_compared_and_one_of_another_question_is_not(register, days, no_process):
    X_test, _, good = days
    mine = register(good)
    mlflow.MlflowClient().set_registered_model_alias("candidates", "champion", str(mine))
    assert outcome(mine) == {}
    other = register(good, tags=TAGS | {"target": "direction"})
    assert outcome(other)["champion"] == "cannot be compared with version 1: that one forecasts big_move on sp500"
    flags = dataset(load("sp500", end=TEST_END), "big_move", "flags")[0].loc[good.index]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "_clean_process", lambda asked: [good.to_numpy() for _, rows in seen(asked)])
        asked = []

        def seen(now):
            asked.extend(now)
            return now

        assert outcome(register(good, tags=TAGS | {"features": "flags"})) == {}
    assert [list(rows) for _, rows in asked] == [list(flags), list(X_test)]


def test_a_champion_that_does_not_load_is_not_held_against_the_base_rate(register, days, monkeypatch):
    registry_client = mlflow.MlflowClient()
    registry_client.set_registered_model_alias("candidates", "champion", str(register(days[2])))
    monkeypatch.setattr(gate, "_clean_process", lambda asked: [days[2].to_numpy(), "OSError: gone"])
    assert outcome(register(days[2])) == {"champion": "cannot be compared with version 1: OSError: gone"}
