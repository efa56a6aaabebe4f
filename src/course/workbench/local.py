"""PostgreSQL, the MLflow server and JupyterLab together on this machine, kept by supervisor: `course workbench`.

The same three in containers lie in the folder workbench/ of the checkout; backup and learners work on both.

A workbench lives in one folder: postgres/ (the database), artifacts/, logs/, and with authentication accounts.ini.
"""

import atexit
import configparser
import json
import os
import secrets
import shlex
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import psutil

from course import lab
from course.errors import CourseError
from course.paths import state
from course.servers import Server, answers, free_port, launch
from course.session import QUIET_MLFLOW
from course.workbench import postgres

PARTS = {"postgres": "postgres.log", "mlflow": "mlflow.log", "jupyter": "jupyterlab.log"}


class Workbench:
    """A running workbench: `url` of MLflow, `database` for SQLAlchemy, `lab` of JupyterLab where it has one."""

    def __init__(self, folder: Path, socket: Path, server: Server, lab: str | None, lock):
        self.folder, self.url, self.lab = folder, server.url, lab
        self.database = postgres.uri(socket)
        self._socket, self._server, self._lock = socket, server, lock

    def running(self) -> bool:
        return self._server.running()

    def stop(self) -> None:
        """Stop all parts, JupyterLab first and PostgreSQL last; returns when they are gone. The data stay."""
        self._server.stop()
        shutil.rmtree(self._socket, ignore_errors=True)
        self._lock.close()

    def discard(self) -> None:
        """Stop, and remove the folder with all that was logged."""
        self.stop()
        shutil.rmtree(self.folder)

    def why_it_ended(self) -> CourseError:
        """An error that names the part which ended by itself, with the end of its log."""
        logs = self.folder / "logs"
        named = (logs / "ended.log").read_text().split() if (logs / "ended.log").exists() else []
        part = next((part for part in named if part in PARTS), "supervisor")
        log = logs / PARTS.get(part, "console.log")
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-10:] if log.exists() else []
        return CourseError(
            f"{part} ended by itself, and the workbench was stopped; the end of {log}:\n" + "\n".join(lines)
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def __repr__(self):
        return f"<workbench: {'running' if self.running() else 'stopped'}>"


def folder() -> Path:
    return state() / "workbench"


def start(
    folder: Path, *, mlflow: bool = True, jupyter: bool = False, auth: bool = False, timeout: float = 300
) -> Workbench:
    """Start the workbench of that folder, made first where there is none, and return once every part answers.

    Raises CourseError where one runs there already, where PostgreSQL cannot work, and where a part does not come up.
    """
    data, logs, socket = folder / "postgres", folder / "logs", None
    postgres.program("postgres")
    for each in (logs, folder / "artifacts"):
        each.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder)
    try:
        postgres.refuse_what_it_cannot_reach(data)
        if not data.exists():
            postgres.make(data)
        socket = _temporary("socket")
        if os.geteuid() == 0:
            os.chown(socket, postgres.account(data), -1)
        (logs / "ended.log").unlink(missing_ok=True)
        port = _port(folder / "port", lab.usual_port(folder), "MLflow" if jupyter else None)
        lab_port = _port(folder / "lab-port", lab.usual_port(folder) + 1, "JupyterLab") if jupyter else None
        env, address = _parts(folder, socket, port, mlflow, auth), None
        if jupyter:
            token = _write_secret(folder / "jupyter-token", secrets.token_urlsafe(24))
            address = f"http://127.0.0.1:{lab_port}/lab/tree/work?token={token}"
            env |= lab.ENVIRONMENT | {"JUPYTER_TOKEN_FILE": str(folder / "jupyter-token")}
            env |= {"WORKBENCH_WITH_JUPYTER": "true", "WORKBENCH_JUPYTER": shlex.join(lab.command(lab_port))}
        command = [sys.executable, "-P", "-m", "supervisor.supervisord", "--configuration"]
        server = launch(
            [*command, str(Path(__file__).with_name("supervisord.conf"))],
            port=port,
            env=env,
            cwd=logs,
            log=logs / "console.log",
            grace=60,  # longer than the three take one after the other, so that PostgreSQL is never killed
        )
    except BaseException:
        lock.close()
        if socket:
            shutil.rmtree(socket, ignore_errors=True)
        raise
    bench = Workbench(folder, socket, server, address, lock)
    try:
        _wait_until_healthy(bench, mlflow, lab_port, timeout)
    except BaseException:
        bench.stop()
        raise
    lock.seek(0)
    lock.write(json.dumps({"MLflow": bench.url, "JupyterLab": bench.lab and bench.lab.split("/lab")[0]}).ljust(400))
    lock.flush()
    return bench


def _parts(folder: Path, socket: Path, port: int, mlflow: bool, auth: bool) -> dict[str, str]:
    """What supervisord.conf looks up in the environment, and what PostgreSQL and MLflow read there; no JupyterLab."""
    data, url = folder / "postgres", f"http://127.0.0.1:{port}"
    return {
        **QUIET_MLFLOW,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_WORKSPACE": "",  # belongs to the server that this process uses, and no server starts with it
        "MLFLOW_TRACKING_URI": url,
        "COURSE_TRACKING_URI": url,
        "WORKBENCH_USER": str(os.geteuid()),
        "WORKBENCH_PYTHON": shlex.quote(sys.executable),
        "WORKBENCH_POSTGRES": shlex.join(postgres.command(data, socket)),
        "WORKBENCH_POSTGRES_USER": str(postgres.account(data)),
        "WORKBENCH_WITH_MLFLOW": str(mlflow).lower(),
        "WORKBENCH_MLFLOW": shlex.join(_mlflow(folder, socket, port, auth)),
        "WORKBENCH_WITH_JUPYTER": "false",
        "WORKBENCH_JUPYTER": "false",
        **(_accounts(folder, socket) if auth else {}),
    }


def _mlflow(folder: Path, socket: Path, port: int, auth: bool) -> list[str]:
    # guarded, because its worker outlives a killed server, and supervisor looks after the server alone
    command = [sys.executable, "-P", "-m", "course.process_guard", "8"]
    command += [sys.executable, "-P", "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    # one worker: more are slower and take 0.5 GB each. Workspaces: one for each learner of a class
    command += ["--workers", "1", "--enable-workspaces", "--backend-store-uri", postgres.uri(socket)]
    command += ["--artifacts-destination", (folder / "artifacts").as_uri()]
    return command + ["--app-name", "basic-auth"] * auth


def _accounts(folder: Path, socket: Path) -> dict[str, str]:
    """MLflow's settings for authentication; the secrets are made once and kept in the workbench's folder."""
    kept = folder / "accounts.json"
    if not kept.exists():
        _write_secret(kept, json.dumps({"admin": secrets.token_urlsafe(15), "key": secrets.token_hex(32)}))
    known = json.loads(kept.read_text())
    settings = configparser.RawConfigParser()
    settings["mlflow"] = {
        "default_permission": "READ",
        "database_uri": postgres.uri(socket, "mlflow_auth"),
        "admin_username": "admin",
        "auth_cache_ttl_seconds": "60",  # each request would hash the password anew: 0.4 s
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
    }
    with open(folder / "auth.ini", "w", encoding="utf-8") as file:
        settings.write(file)
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": known["admin"],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": known["key"],
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": known["admin"],
    }


def admin(folder: Path) -> tuple[str, str] | None:
    """Name and password of the administrator; None where authentication was never on."""
    kept = folder / "accounts.json"
    return ("admin", json.loads(kept.read_text())["admin"]) if kept.exists() else None


def _write_secret(path: Path, text: str) -> str:
    """Write it into a file that only this account may read; returns the text."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    return text


def _port(last: Path, usual: int, part: str | None) -> int:
    """The port of the last start, which the file `last` keeps; else the usual one; else another.

    Whoever starts that part of a workbench is told of another one; a notebook, which asks for its address, is not.
    """
    try:
        wanted = int(last.read_text())
    except (OSError, ValueError):  # it is the first start, or the file was left half-written
        wanted = usual
    port = free_port(wanted)
    if port != wanted and part:
        print(f"Port {wanted} is taken by another program: {part} takes {port}.", flush=True)
    last.write_text(str(port))
    return port


def _lock(folder: Path):
    """The open file whose lock says that a workbench runs on this folder, with its addresses inside."""
    import fcntl

    file = open(folder / "running.json", "a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        try:
            where = ", ".join(f"{part} {url}" for part, url in json.loads(file.read()).items() if url)
        except ValueError:
            where = "it is starting"
        file.close()
        raise CourseError(
            f"A workbench runs on {folder} already ({where}): use that one, or stop it with Ctrl-C in its terminal."
        ) from None
    file.truncate(0)
    _end_the_last_one(folder)
    return file


def _end_the_last_one(folder: Path) -> None:
    """One whose terminal was killed may be writing its database down; one that was killed itself left it running."""
    for pidfile, mark, sign in (
        (folder / "logs" / "supervisord.pid", "supervisor.supervisord", signal.SIGTERM),
        (folder / "postgres" / "postmaster.pid", str(folder / "postgres"), signal.SIGINT),
    ):
        try:
            last = psutil.Process(int(pidfile.read_text().split()[0]))
            if mark in last.cmdline():
                last.send_signal(sign)
                last.wait(60)
        except (OSError, ValueError, psutil.Error):
            continue


def _wait_until_healthy(bench: Workbench, mlflow: bool, lab_port: int | None, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    waiting = {
        "postgres": lambda: postgres.is_ready(bench._socket),
        "mlflow": lambda: not mlflow or answers(bench.url + "/health"),
        "jupyter": lambda: lab_port is None or answers(f"http://127.0.0.1:{lab_port}/login"),
    }
    while waiting:
        waiting = {part: healthy for part, healthy in waiting.items() if not healthy()}
        if not bench.running():
            raise bench.why_it_ended()
        if time.monotonic() > deadline:
            log = bench.folder / "logs" / PARTS[next(iter(waiting))]
            raise CourseError(f"{', '.join(waiting)} did not answer within {timeout:.0f} s; look at the end of {log}.")
        time.sleep(0.1)


def _temporary(what: str) -> Path:
    """A new folder in /tmp itself: the path of a socket has at most 107 bytes. Those of dead processes are removed."""
    for left in Path("/tmp").glob(f"course-{what}-*"):
        pid = left.name.split("-")[2]
        if os.geteuid() in (0, left.stat().st_uid) and pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"course-{what}-{os.getpid()}-", dir="/tmp"))


def start_workbench(folder: Path | None = None, *, auth: bool = False) -> Workbench:
    """PostgreSQL and the MLflow server on it for a notebook, in a temporary folder unless one is named.

    `stop()` keeps the folder, so that `start_workbench(bench.folder)` finds its data again, under the same address;
    `discard()` removes it.
    """
    if folder is None:
        postgres.program("postgres")
        folder = _temporary("workbench")
        folder.chmod(0o711)  # as root PostgreSQL runs under another account, which has to get in
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    bench = start(folder, auth=auth)
    if workspace := os.environ.get("MLFLOW_WORKSPACE"):  # a learner's, who has to find it here, too
        from mlflow import MlflowClient

        with patch.dict(os.environ, MLFLOW_WORKSPACE="default"):
            client = MlflowClient(bench.url)
            if workspace not in [one.name for one in client.list_workspaces()]:
                client.create_workspace(workspace)
    return bench


def workbench(open_browser: bool, auth: bool) -> None:
    """All three until Ctrl-C."""
    lab.copy_notebooks()
    with start(folder(), jupyter=True, auth=auth) as bench:
        stopped = lab.told_to_stop()
        print(f"JupyterLab  {bench.lab}\nMLflow      {bench.url}\nPostgreSQL  {bench.database}")
        if auth:
            print(f"MLflow asks for a name and a password: admin, and what {folder() / 'accounts.json'} holds.")
        print("Stop all three with Ctrl-C. Your runs stay, and the next start finds them.", flush=True)
        if open_browser:
            lab.webbrowser.open(bench.lab)
        if not lab.wait(stopped, bench.running):
            raise bench.why_it_ended()
