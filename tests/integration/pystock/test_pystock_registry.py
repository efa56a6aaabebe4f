"""Promotions by real processes that race and die, on SQLite, PostgreSQL and over HTTP; accounts; the clean process."""

import os
import signal

import mlflow
import promotions
import pytest
from mlflow.exceptions import MlflowException
from pipeline_processes import forkserver, race
from promotions import champion, promote, registered, rows
from racing_promotions import compete, die
from recalling_models import days, registering

from course import servers
from course.workbench import local as workbench
from pystock import models, registry

__all__ = ["days"]  # a fixture
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
def test_many_at_once_are_promoted_one_after_the_other(uri, no_gate, processes):
    racers = 4
    name = registered(racers)
    assert sorted(race(processes, racers, compete, uri, name, 1)) == [1, 2, 3, 4]
    found = rows(name, "from", "to", "outcome")
    assert [each[2] for each in found] == ["promoted"] * racers
    assert [each[0] for each in found] == [None, *(each[1] for each in found[:-1])], "each was compared with the last"
    assert champion(name) == found[-1][1] and {each[1] for each in found} == {1, 2, 3, 4}


@needs_fork
@pytest.mark.parametrize("uri", ["sqlite", pytest.param("postgresql", marks=on_bench)], indirect=True)
def test_killed_before_any_write_the_name_has_a_champion_and_the_next_call_closes_the_record(uri, no_gate, processes):
    outcomes = []
    while True:
        name = registered(3, champion=1)
        process = processes.Process(target=die, args=(uri, name, 2, len(outcomes)))
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        left, now = [each[0] for each in rows(name, "outcome")[1:]], champion(name)
        assert now in (1, 2) and left in ([], ["interrupted"], ["promoted"]) and (left or now == 1)
        promote(name, 3)
        assert champion(name) == 3
        closed = [(now, 3, "promoted")]
        closed = [(1, 2, "promoted" if now == 2 else "interrupted"), *closed] if left else closed
        assert rows(name, "from", "to", "outcome")[1:] == closed
        found = mlflow.search_runs(experiment_names=[registry.EXPERIMENT], output_format="list")
        assert "RUNNING" not in {run.info.status for run in found}
        outcomes.append((*left, now))
    # before the record, with an open one, after the alias, and when only the end of the run was missing
    assert {(1,), ("interrupted", 1), ("interrupted", 2), ("promoted", 2)} == set(outcomes) and len(outcomes) > 8


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
        with pytest.raises(MlflowException, match="Permission denied"):
            promote(name, 1)
        assert [one.name for one in mlflow.search_experiments()] == ["Default"] and rows(name, "to") == []

        log_in("rosa")
        promote(name, 2)
        log_in("ben")
        with pytest.raises(MlflowException, match="Permission denied"):
            promote(name, 3)
        log_in("admin")
        experiment = mlflow.get_experiment_by_name(registry.EXPERIMENT).experiment_id
        accounts.grant_user_permission("ben", "experiment", experiment, "EDIT")
        log_in("ben")
        promote(name, 3)
        expected = [("rosa", None, 2, "promoted"), ("ben", 2, 3, "promoted")]
        assert rows(name, "who", "from", "to", "outcome") == expected


@pytest.fixture
def register(tracked, tmp_path):
    return registering(tmp_path)


def test_the_clean_process_does_not_see_this_ones_folder_and_path(register, days, monkeypatch, tmp_path):
    (tmp_path / "lent.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    alone, borrows = (f"models:/candidates/{register(days[2], also=also)}" for also in ("pass", "import lent"))
    (forecast,), lost = models.predict_elsewhere([alone], days[0])
    assert not lost and (forecast == days[2]).all()
    _, y, _ = days
    judged = registry.judge(borrows, days[0], y, y * 0 + 0.3)
    assert [each.evidence for each in judged if not each.passed] == [
        f"{borrows}: ModuleNotFoundError: No module named 'lent'"
    ]


def test_what_can_go_wrong_in_a_clean_process(register, days, monkeypatch):
    good = f"models:/candidates/{register(days[2])}"
    for also, outputs, reason in (
        ("raise ValueError('no forecast')", {}, "ValueError: no forecast"),
        ("return pandas.DataFrame({'probability': [0.5]})", {"outputs": None}, "1 predictions for 1257 rows"),
        ("import os, sys; print('last words', file=sys.stderr, flush=True); os._exit(3)", {}, "last words"),
        ("import os; os._exit(3)", {}, "it exited with 3"),
    ):
        model = f"models:/candidates/{register(days[2], also=also, **outputs)}"
        _, lost = models.predict_elsewhere([good, model], days[0])
        assert lost.startswith(f"{model}: ") and lost.endswith(reason), lost
    monkeypatch.setattr(models, "CLEAN_TIMEOUT", 0.5)
    assert models.predict_elsewhere([good], days[0]) == ([], "no result within 0.5 s")
