"""Promotions by real processes that race and die, on SQLite, PostgreSQL and over HTTP; accounts; the clean process."""

import importlib
import os
import signal

import mlflow
import promotions
import psutil
import pytest
from fake_course import until
from pipeline_processes import forkserver, race
from promotions import champion, registered, rows, states
from racing_promotions import compete, die
from recalling_models import days, registering

from course import servers
from course.workbench import local as workbench
from pystock import registry
from pystock.registry import promotion

__all__ = ["days"]  # a fixture
gate = importlib.import_module("pystock.registry.gate")  # the package's function of that name hides it
needs_fork = pytest.mark.skipif(os.name == "nt", reason="processes that are killed; PostgreSQL's package")
on_bench = [needs_fork, pytest.mark.xdist_group("registry")]


@pytest.fixture(scope="module")
def processes():
    modules = ["pystock.registry", "mlflow.store.model_registry.sqlalchemy_store"]
    return forkserver("racing_promotions", *modules, "psycopg", "sqlalchemy.dialects.postgresql.psycopg")


@pytest.fixture(scope="module")
def bench():
    with workbench.start_workbench() as bench:
        yield bench
    bench.discard()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=on_bench), pytest.param("http", marks=on_bench)])
def uri(request, tmp_path, empty_store, monkeypatch):
    """Tracking store and registry of a test: a file, a database, or a server in front of that database."""
    if request.param == "sqlite":
        uri = promotions.own_store(empty_store, tmp_path)
    else:
        bench = request.getfixturevalue("bench")
        uri = bench.database if request.param == "postgresql" else bench.url
    yield from promotions.using(uri, tmp_path, monkeypatch)


@needs_fork
def test_of_many_at_once_exactly_one_wins(uri, no_gate, processes):
    racers, rounds = 4, 2
    name = registered(racers * rounds)
    winners = []
    for start in range(1, racers * rounds, racers):
        outcomes = race(processes, racers, compete, uri, name, start)
        won = [version for version, outcome, _ in outcomes if outcome == "promoted"]
        lost = [text for _, outcome, text in outcomes if outcome == "Overtaken"]
        assert len(won) == 1 and len(lost) == racers - 1, outcomes
        assert all(f"racer {won[0]} promoted version {won[0]} first." in text for text in lost), lost
        winners += won
        assert champion(name) == won[0]
    done = [row for row in rows(name, "from", "to", "outcome") if row[2] == "promoted"]
    assert done == [(before, after, "promoted") for before, after in zip([None, *winners], winners)]
    assert len(registry.history(name)) == racers * rounds
    expected = dict.fromkeys(winners[:-1], "Archived") | {winners[-1]: "Production"}
    assert {version: state for version, state in states(name).items() if state} == expected


# The writes of a later promotion, numbered: before them the experiment, the run, its metrics, the version's tag.
_, _, _, _, NEXT, GO, ALIAS = range(7)


@needs_fork
@pytest.mark.parametrize(
    ("uri", "writes"),
    [("sqlite", (2, NEXT, GO, ALIAS, 8)), pytest.param("postgresql", (GO, ALIAS), marks=on_bench)],
    indirect=["uri"],
)
def test_killed_before_a_write_the_old_champion_or_the_new_one_is_there(uri, no_gate, processes, writes):
    """And the next call works, without a word to it: it settles what the dead one has left."""
    outcomes = {}
    for write in writes:
        name = registered(3, champion=1)
        process = processes.Process(target=die, args=(uri, name, 2, write))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, f"write {write}"
        left = rows(name, "who", "to", "outcome")[1:]
        assert champion(name) == 1 or (champion(name) == 2 and left), "an alias without its run"
        assert left in ([], [("the dead", 2, "interrupted")], [("the dead", 2, "promoted")]), left
        registry.promote(name, 3, why="the next", who="bob")
        settled = rows(name, "who", "from", "to", "outcome")[1:]
        assert "set by hand" not in [row[3] for row in settled], settled
        before = 2 if settled[0][3].startswith("promoted") and len(settled) == 2 else 1
        assert settled[-1] == ("bob", before, 3, "promoted") and champion(name) == 3
        assert [version for version, state in states(name).items() if state == "Production"] == [3]
        runs = promotion._runs(mlflow.MlflowClient(), name).values()
        assert not [run for run in runs if run.info.status == "RUNNING"], "a run was left open"
        outcomes[write] = [row[3] for row in settled[:-1]]
    assert outcomes[GO] == ["interrupted"] and outcomes[ALIAS] == ["promoted, completed by a later call"]


@pytest.fixture
def stopped(tracked, no_gate, processes, monkeypatch):
    """A promotion of version 2 that is stopped before it writes `go`: alive, but it does not go on until it is told."""
    name = registered(3, champion=1)
    process = processes.Process(target=die, args=(tracked, name, 2, GO, "SIGSTOP"))
    process.start()
    until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, 60, "the stop")
    monkeypatch.setattr(promotion, "PATIENCE", 0.5)
    yield name, process
    process.kill()
    process.join()


def goes_on(process) -> int:
    os.kill(process.pid, signal.SIGCONT)
    process.join(300)
    return process.exitcode


@needs_fork
def test_a_promotion_that_is_alive_is_waited_for_and_named(stopped):
    name, process = stopped
    assert rows(name, "who", "outcome")[-1] == ("the dead", "in progress")
    busy = f"the dead is still promoting version 2 of {name} after 0.5 s"
    with pytest.raises(registry.Busy, match=busy):
        registry.promote(name, 3, why="at the same time")
    assert goes_on(process) == 0 and champion(name) == 2
    registry.promote(name, 3, why="afterwards")
    assert rows(name, "from", "to", "outcome")[1:] == [(1, 2, "promoted"), (2, 3, "promoted")]


@needs_fork
def test_one_that_does_nothing_for_longer_than_the_lease_has_lost(stopped, monkeypatch):
    name, process = stopped
    monkeypatch.setattr(promotion, "LEASE", -1)
    registry.promote(name, 3, why="no more waiting", who="bob")
    assert goes_on(process) == 1 and champion(name) == 3  # Overtaken: its place for `go` holds `void`
    assert rows(name, "who", "to", "outcome")[1:] == [("the dead", 2, "interrupted"), ("bob", 3, "promoted")]


@needs_fork
def test_on_a_server_with_accounts_rights_decide(tracked, no_gate, monkeypatch, tmp_path):
    """Who may only read leaves nothing behind; the history knows a reviewer by the login."""
    passwords = {who: f"a password of {who}" for who in ("admin", "ada", "rosa", "ben")}
    (tmp_path / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = READ\nadmin_username = admin\nauth_cache_ttl_seconds = 60\n"
        f"database_uri = sqlite:///{tmp_path}/accounts.db\n"
    )
    settings = servers.MLFLOW_SERVER_ENVIRONMENT | {
        "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": passwords["admin"],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "for this test",
    }
    command = servers.mlflow_server(tracked, "--app-name", "basic-auth")

    def log_in(who):
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", who)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", passwords[who])

    with servers.start_server(command, env=settings, cwd=tmp_path, log=tmp_path / "server.log") as server:
        from mlflow.server import get_app_client

        mlflow.set_tracking_uri(server.url)
        log_in("admin")
        name, accounts = registered(3), get_app_client("basic-auth", server.url)
        for who in ("ada", "rosa", "ben"):
            accounts.create_user(who, passwords[who])
        for who in ("rosa", "ben"):
            accounts.grant_user_permission(who, "registered_model", name, "MANAGE")

        log_in("ada")
        with pytest.raises(registry.RegistryError, match="is not promoted, because the store .*Permission denied"):
            registry.promote(name, 1, why="mine")
        assert [one.name for one in mlflow.search_experiments()] == ["Default"] and rows(name, "to") == []

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
        expected = [("rosa", None, 2, "promoted"), ("ben", 2, 3, "promoted")]
        assert rows(name, "who", "from", "to", "outcome") == expected


@pytest.fixture
def register(tracked, tmp_path):
    return registering(tmp_path)


def test_the_clean_process_does_not_see_this_ones_folder_and_path(register, days, monkeypatch, tmp_path):
    (tmp_path / "lent.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made = registry.promote("candidates", register(days[2]), why="the first")
    assert mlflow.get_run(made.run_id).data.metrics["brier_skill_low"] == pytest.approx(0.087, abs=5e-4)
    borrows = registry.gate("candidates", register(days[2], also="import lent"))
    lost = "cannot be judged: no predictions from a clean process"
    reason = "ModuleNotFoundError: No module named 'lent'"
    assert [each.evidence for each in borrows if not each.passed] == [lost, lost, reason]


def test_what_can_go_wrong_in_a_clean_process(register, days, monkeypatch):
    """One process for all of them: each answer is kept, also when a later model takes the process with it."""
    X_test, _, good = days
    versions = [
        register(good),
        register(good, also="raise ValueError('no\\nforecast')"),
        register(good, also="return pandas.DataFrame({'p': [0.5]})"),
        register(good, also="return pandas.DataFrame({'probability': [0.5]})", outputs=None),
        register(good, also="import os, sys; print('last words', file=sys.stderr, flush=True); os._exit(3)"),
    ]
    jobs = [(f"models:/candidates/{version}", X_test) for version in [*versions, 99, versions[0]]]
    answers = gate._clean_process(jobs)
    assert answers[0] == pytest.approx(good.to_numpy())
    assert (answers[1], answers[3]) == ("ValueError: no", "1 predictions for 1257 days") and "probability" in answers[2]
    assert answers[4] == answers[6] == "the process exited with 3: last words"
    assert answers[5].startswith("its files cannot be fetched: ")
    monkeypatch.setattr(gate, "CLEAN_TIMEOUT", 0.5)
    assert gate._clean_process(jobs[:1]) == ["no result within 0.5 s"]
