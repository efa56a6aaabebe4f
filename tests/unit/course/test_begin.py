"""`course.begin`: the store in use, and the runs that an earlier session left."""

import os
import re
import signal
import subprocess
import sys
from unittest.mock import Mock, call, patch

import mlflow
import psutil
import pytest
from click.testing import CliRunner
from fake_course import until
from messages import assert_on_page
from mlflow.cli import cli
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED, RESOURCE_DOES_NOT_EXIST

from course import checks, session, store


@pytest.fixture
def here(fake, empty_store, monkeypatch):
    """A course of two chapters, in whose environment this process works."""
    monkeypatch.setattr(session, "_session", {})
    fake.chapter("01", "x = 1")
    fake.chapter("02", "x = 1")
    fake.use_store(empty_store)
    with patch.dict(os.environ, fake.environment(), clear=True):
        yield fake


def states() -> dict[str, str]:
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    return {run.info.run_name: run.info.status for run in runs}


@pytest.mark.skipif(os.name == "nt", reason="zombies")
def test_runs_of_dead_sessions_are_ended_and_no_others(here):
    processes = [subprocess.Popen([sys.executable, "-c", code]) for code in ("", "import time; time.sleep(600)")]
    zombie, living = (psutil.Process(process.pid) for process in processes)
    try:
        until(lambda: zombie.status() == psutil.STATUS_ZOMBIE)
        session.begin("01")
        mine = os.environ["COURSE_SESSION"]
        installation, pid, created = mine.split(":")

        of_living, of_zombie = (f"{installation}:{one.pid}:{int(one.create_time())}" for one in (living, zombie))
        left = {
            "this one": (mine, "01"),
            "living": (of_living, "01"),
            "zombie": (of_zombie, "01"),
            "pid of another process": (f"{installation}:{pid}:{int(created) - 60}", "01"),
            "dead": (f"{installation}:{2**22 + 1}:{created}", "01"),
            "dead in another chapter": (f"{installation}:{2**22 + 1}:{created}", "02"),
            "dead elsewhere": (f"0123456789ab:{2**22 + 1}:{created}", "01"),
        }
        client = mlflow.MlflowClient()
        for name, (maker, chapter) in left.items():
            client.create_run("0", run_name=name, tags={"course.chapter": chapter, "course.session": maker})
        client.create_run("0", run_name="without a session")
        assert_on_page("RUNNING", str(states()))

        session.begin("01")
        ended = {"zombie", "pid of another process", "dead"}
        assert states() == {name: "KILLED" if name in ended else "RUNNING" for name in [*left, "without a session"]}
        living.send_signal(signal.SIGKILL)
        session.begin("01")
        session.begin("02")
        running = {name for name, state in states().items() if state == "RUNNING"}
        assert running == {"this one", "dead elsewhere", "without a session"}
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_database_is_used_as_it_is_and_keeps_its_artifacts(here, empty_store, capsys, monkeypatch):
    folder = here.root / "my store"
    store.copy(empty_store, folder)
    os.environ["COURSE_TRACKING_URI"] = "sqlite:///my%20store/mlflow.db?password=secret"
    monkeypatch.chdir(here.root / "notebooks")
    here.chapter("01", MARKETS)
    session.begin("01", market="nasdaq")
    assert f"Tracking store: {store.uri(folder)}?password=\n" in capsys.readouterr().out
    mlflow.set_experiment("e")
    with mlflow.start_run():
        mlflow.log_text("x", "x.txt")
    assert len(list((folder / "artifacts").rglob("x.txt"))) == 1
    assert store.runs(here.state / "store") == 0 and not list(here.root.rglob("mlruns"))


def test_a_missing_prerequisite_names_the_chapter_that_makes_it(here):
    with pytest.raises(session.CourseError, match=r"`first`, and this store has none: run chapter 01 first, or run"):
        session.begin("02", needs={"first": "01"})
    mlflow.set_experiment("first")
    with mlflow.start_run():
        pass
    session.begin("02", needs={"first": "01"}, market="nasdaq")
    assert session.parameters() == {"market": "nasdaq"}


@pytest.mark.parametrize("uri", ["http://ada:a%2Fb@127.0.0.1:9", "postgresql+psycopg://ada:a/b@127.0.0.1:9/mlflow"])
def test_a_store_that_does_not_answer_is_named_without_its_password(here, capsys, uri):
    os.environ.update(COURSE_TRACKING_URI=uri, MLFLOW_TRACKING_URI="https://bob:a/b@127.0.0.1:9")
    with pytest.raises(session.CourseError, match="//127.0.0.1:9.* does not respond: start it, or omit") as refusal:
        session.begin("01")
    assert not re.search("a/b|a%2Fb|ada|bob", capsys.readouterr().out + str(refusal.value))
    assert os.environ.get("MLFLOW_TRACKING_PASSWORD") == ("a/b" if uri.startswith("http") else None)
    assert_on_page("The tracking store", str(refusal.value))


@pytest.mark.parametrize("uri", ["127.0.0.1:5055", "./mlruns", "file:///mlruns", "ftp://ada:secret@host", "sqlite://"])
def test_an_address_of_no_store_is_refused(here, uri):
    commands = ["run", "ui", "checkpoint 01", "doctor"]
    done = [here.invoke(*words.split(), COURSE_TRACKING_URI=uri) for words in commands]
    with pytest.raises(session.CourseError, match="is not the address"):
        session.begin("01", uri)
    for one in [*done, here.invoke("run", "--tracking-uri", uri)]:
        assert one.exit_code == 1 and f"{uri[-4:]}` is not the address of a server or" in one.output, one.output
        assert "secret" not in one.output
    assert_on_page("The tracking URI", done[0].stderr)


@pytest.mark.parametrize("part", ["why?", "a%2Fb", "C#"])
def test_a_path_that_mlflow_misreads_is_refused(here, part):
    here.state = here.root / part / "state"
    done = [here.invoke(command) for command in ("run", "doctor")]
    assert all(one.exit_code == 1 and f"in the path {here.root / part}" in one.output for one in done)
    os.environ["COURSE_STATE"] = str(here.state)
    with pytest.raises(session.CourseError) as refusal:
        session.begin("01")
    assert_on_page("MLflow misreads", str(refusal.value))
    assert len(list(here.root.parent.rglob("mlflow.db"))) == 1, "a store was made"


def test_a_deleted_experiment_of_the_chapter_is_named_with_the_command_that_restores_it(here):
    here.chapter("02", 'mlflow.set_experiment(named("prices", market))')
    client = mlflow.MlflowClient(store.uri(here.state / "store"))
    for name in ("first", "prices-nasdaq", "of another chapter"):
        client.delete_experiment(client.create_experiment(name))
    for name in ("prices-nasdaq", "first"):
        with pytest.raises(session.CourseError, match=f"`{name}`, which chapter 02 uses, is deleted") as refusal:
            session.begin("02", needs={"first": "01"}, market="nasdaq")
        assert_on_page("is deleted", str(refusal.value))
        command = re.search("`course mlflow (.+)`", str(refusal.value))[1]
        assert CliRunner().invoke(cli, command.split()).exit_code == 0
    session.begin("02", market="nasdaq")


MARKETS = ("parameters", 'market = "sp500"  # sp500 or nasdaq\nwindow = 14  # days\ntracking_uri = None')


def scores() -> list[float]:
    return sorted(run.data.metrics["score"] for run in mlflow.search_runs(experiment_names=["e"], output_format="list"))


def test_a_parameter_that_is_not_the_default_has_an_embedded_store_of_its_own(here, capsys):
    """Runs, studies and answers; and the commands that show, check and reset them."""
    here.chapter("01", MARKETS, 'course.begin("01", tracking_uri, market=market, window=window)')
    check = "def test(answer):\n    assert len(mlflow.search_runs(search_all_experiments=True)) == answer\n"
    one = "EXERCISES = [Exercise('01.1', lambda answer, **_: test(answer), [])]\n"
    (here.root / "chapters/checks/01.py").write_text(f"import mlflow\nfrom course.checks import Exercise\n{check}{one}")
    for score, market in enumerate(["nasdaq", "sp500", "nasdaq", "nasdaq"]):
        session.begin("01", market=market, window=21)
        mlflow.set_experiment("e")
        with mlflow.start_run():
            mlflow.log_metric("score", score)
    output = capsys.readouterr().out
    assert output.count("Tracking store: the embedded store nasdaq\n") == 3
    assert output.count("run `course ui --store nasdaq`.") == 3 and "ignored" not in output
    assert scores() == [0, 2, 3]
    assert store.study_storage() == f"sqlite:///{(here.state / 'store-nasdaq' / store.STUDIES).as_posix()}"
    artifacts = {experiment.artifact_location for experiment in mlflow.search_experiments()}
    assert all(location.startswith((here.state / "store-nasdaq").as_uri()) for location in artifacts)
    checks.check("01.1", 3)
    session.begin("01", market="sp500")
    assert scores() == [1]
    assert "1 of 1 exercises of chapter 01 pass" in here.invoke("check", "01").output
    with pytest.raises(session.CourseError, match=r"none: run chapter 01 with nasdaq first\.$"):
        session.begin("01", needs={"first": "01"}, market="nasdaq")
    assert "There is no store dax yet" in here.invoke("ui", "--store", "dax").output
    output = here.invoke("reset", "--store", "--yes").output
    assert "store.kept-1." in output and "store-nasdaq.kept-1." in output
    assert "nothing to reset" in here.invoke("reset", "--store", "--yes").output


def test_on_a_server_it_has_a_workspace_of_its_own(here, monkeypatch, capsys):
    here.chapter("01", MARKETS)
    os.environ["COURSE_TRACKING_URI"] = "http://127.0.0.1:9"
    missing, denied = (mlflow.MlflowException("no", code) for code in (RESOURCE_DOES_NOT_EXIST, PERMISSION_DENIED))
    server = Mock(**{"search_runs.return_value": [], "create_workspace.side_effect": [denied, None]})
    server.search_experiments.side_effect = [missing, missing, [], [], []]
    monkeypatch.setattr(mlflow, "MlflowClient", lambda: server)
    with pytest.raises(session.CourseError, match="has no workspace `nasdaq` for you") as refusal:
        session.begin("01", market="nasdaq")
    assert_on_page("has no workspace", str(refusal.value))
    session.begin("01", market="nasdaq")
    assert server.create_workspace.call_args_list == [call("nasdaq")] * 2
    assert os.environ["MLFLOW_WORKSPACE"] == "nasdaq"
    assert "Tracking store: http://127.0.0.1:9, workspace nasdaq\n" in capsys.readouterr().out
    assert store.study_storage().endswith("/optuna-nasdaq.db")
    session.begin("01", market="sp500")
    assert "MLFLOW_WORKSPACE" not in os.environ

    os.environ["MLFLOW_WORKSPACE"] = "ada"
    session.begin("01", market="sp500")
    with pytest.raises(session.CourseError, match="MLFLOW_WORKSPACE names yours, `ada`: unset") as refusal:
        session.begin("01", market="nasdaq")
    assert_on_page("belong in the workspace", str(refusal.value))
    assert os.environ["MLFLOW_WORKSPACE"] == "ada"
