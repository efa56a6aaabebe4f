"""Run PostgreSQL, the MLflow server and JupyterLab on this machine under supervisor: `course workbench`.

The folder workbench/ of the checkout has the same three in containers; backup and learners work on both.

A workbench is one folder: postgres/ (the database), artifacts/, logs/, and with authentication accounts.json.
"""

import atexit
import json
import os
import secrets
import shlex
import shutil
import signal
import sys
import tempfile
import time
import webbrowser
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import psutil
from filelock import FileLock, Timeout

from course import lab, servers
from course.environment import IGNORED, SETTINGS
from course.errors import CourseError
from course.paths import state
from course.servers import MLFLOW_SERVER_ENVIRONMENT, Server, answers, free_port, launch, mlflow_server
from course.workbench import postgres

PARTS = {"postgres": "postgres.log", "mlflow": "mlflow.log", "jupyter": "jupyterlab.log"}


class Workbench:
    """A running workbench: `url` of MLflow, `database` for SQLAlchemy, `lab` of JupyterLab if it has one."""

    def __init__(self, folder: Path, socket: Path, server: Server, lab: str | None) -> None:
        self.folder, self.url, self.lab = folder, server.url, lab
        self.database, self.socket, self._server = postgres.uri(socket), socket, server
        self.command = ""  # of the MLflow server, to read: with names for what differs at each start
        self._unfinished: list[Callable[[], None]] = []  # what is left to do until it is ready
        self._parts = ExitStack()

    def running(self) -> bool:
        """Return whether all parts run: when one exits, the others are stopped."""
        return self._server.running()

    def wait(self) -> None:
        """Return once every part is ready. Raises CourseError, and stops the others, if one does not start."""
        try:
            while self._unfinished:
                self._unfinished.pop(0)()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all parts, JupyterLab first and PostgreSQL last; return when they are gone. The data is kept."""
        self._parts.close()

    def discard(self) -> None:
        """Stop, and remove the folder with all that was logged."""
        self.stop()
        shutil.rmtree(self.folder)

    def why_it_ended(self) -> CourseError:
        """Return an error that names the part that exited unexpectedly, with the end of its log."""
        logs = self.folder / "logs"
        named = (logs / "ended.log").read_text().split() if (logs / "ended.log").exists() else []
        part = next((part for part in named if part in PARTS), "supervisor")
        log = logs / PARTS.get(part, "console.log")
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-10:] if log.exists() else []
        return CourseError(
            f"{part} exited unexpectedly, so the workbench was stopped. The end of {log}:\n" + "\n".join(lines)
        )

    def __enter__(self) -> "Workbench":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<workbench: {'running' if self.running() else 'stopped'}>"


def folder() -> Path:
    """Return the folder of the course's own workbench."""
    return state() / "workbench"


def start(
    folder: Path,
    *,
    mlflow: bool = True,
    jupyter: bool = False,
    auth: bool = False,
    timeout: float = 300,
    wait: bool = True,
) -> Workbench:
    """Start the workbench of that folder, created if there is none, and return once every part is ready.

    With `wait=False`, return earlier: call `wait()` of the workbench before you use it.

    Raises CourseError if one runs there already, if PostgreSQL cannot work, or if a part does not start.
    """
    data, logs = folder / "postgres", folder / "logs"
    postgres.program("postgres")
    for each in (logs, folder / "artifacts"):
        each.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:  # undone if a step fails, else by `stop`
        stack.callback(lock(folder).release)
        stack.callback((folder / "running.json").unlink, missing_ok=True)
        postgres.refuse_where_it_cannot_run(data)
        if not data.exists():
            postgres.make(data)
        socket = _temporary("socket")
        stack.callback(shutil.rmtree, socket, ignore_errors=True)
        if os.geteuid() == 0:
            os.chown(socket, postgres.account(data), -1)
        (logs / "ended.log").unlink(missing_ok=True)
        port = _port(folder / "port", lab.usual_port(folder), "MLflow" if jupyter else None)
        lab_port = _port(folder / "lab-port", lab.usual_port(folder) + 1, "JupyterLab") if jupyter else None
        env, address = _parts(folder, socket, port, mlflow, auth), None
        if lab_port is not None:
            token = _write_secret(folder / "jupyter-token", secrets.token_urlsafe(24))
            address = f"http://127.0.0.1:{lab_port}/lab/tree/work?token={token}"
            env |= _jupyter(folder, lab_port, env)
        command = [sys.executable, "-P", "-m", "course.supervise", "--configuration"]
        server = launch(
            [*command, str(Path(__file__).with_name("supervisord.conf"))],
            port=port,
            env=env,
            cwd=logs,
            log=logs / "console.log",
            grace=60,  # longer than the three take one after the other, so that PostgreSQL is never killed
        )
        stack.callback(server.stop)
        bench = Workbench(folder, socket, server, address)
        words = shlex.join(_mlflow(folder, Path("SOCKET"), "PORT", auth)).partition(" -m mlflow ")[2]
        bench.command = f"mlflow {words}".replace(folder.as_uri(), "file:///FOLDER")
        bench._unfinished.append(lambda: _wait_until_healthy(bench, mlflow, lab_port, timeout))
        if wait:
            bench.wait()
        addresses = {"MLflow": bench.url} | ({"JupyterLab": address.split("/lab")[0]} if address else {})
        (new := folder / "running.json.new").write_text(json.dumps(addresses))
        new.replace(folder / "running.json")
        bench._parts = stack.pop_all()
    return bench


def _parts(folder: Path, socket: Path, port: int, mlflow: bool, auth: bool) -> dict[str, str]:
    """Return what supervisord.conf looks up in the environment, and what MLflow reads there; nothing of JupyterLab."""
    data, url = folder / "postgres", f"http://127.0.0.1:{port}"
    return {
        **MLFLOW_SERVER_ENVIRONMENT,
        "MLFLOW_TRACKING_URI": url,  # for JupyterLab
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


def _jupyter(folder: Path, port: int, env: dict[str, str]) -> dict[str, str]:
    """Return what JupyterLab changes in that environment; it gets no settings and no secrets of MLflow's server."""
    without = [f"-u{name}" for name in env if IGNORED.match(name) and name not in SETTINGS]
    return lab.environment() | {
        "JUPYTER_TOKEN_FILE": str(folder / "jupyter-token"),
        "WORKBENCH_WITH_JUPYTER": "true",
        "WORKBENCH_JUPYTER": shlex.join(["env", *without, *lab.command(port)]),
    }


def _mlflow(folder: Path, socket: Path, port: int | str, auth: bool) -> list[str]:
    # guarded, because its worker outlives a killed server, and supervisor looks after the server alone
    guard = [sys.executable, "-P", "-m", "course.process_guard", "8"]
    options = ["--enable-workspaces", "--artifacts-destination", (folder / "artifacts").as_uri()]
    options += ["--app-name", "basic-auth"] * auth
    return guard + mlflow_server(postgres.uri(socket), *options, port=port)


def _accounts(folder: Path, socket: Path) -> dict[str, str]:
    """Return MLflow's settings for authentication; the secrets are made once and kept in the workbench's folder."""
    kept = folder / "accounts.json"
    if not kept.exists():
        _write_secret(kept, json.dumps({"admin": secrets.token_urlsafe(15), "key": secrets.token_hex(32)}))
    known = json.loads(kept.read_text())
    settings = servers.accounts_settings(folder, postgres.uri(socket, "mlflow_auth"), known["admin"], known["key"])
    return settings | {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": known["admin"]}


def admin(folder: Path) -> tuple[str, str] | None:
    """Return name and password of the administrator; None if authentication was never on."""
    kept = folder / "accounts.json"
    return ("admin", json.loads(kept.read_text())["admin"]) if kept.exists() else None


def _write_secret(path: Path, text: str) -> str:
    """Write the text to a file that only this account may read, and return it."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    return text


def _port(last: Path, usual: int, part: str | None) -> int:
    """Return the port of the last start, which the file `last` keeps; else the usual one; else another.

    `part` is named in a message if it gets another one; None prints nothing.
    """
    try:
        wanted = int(last.read_text())
    except (OSError, ValueError):  # the first start, or a half-written file
        wanted = usual
    port = free_port(wanted)
    if port != wanted and part:
        print(f"Port {wanted} is used by another program, so {part} uses port {port}.", flush=True)
    last.write_text(str(port))
    return port


def lock(folder: Path) -> FileLock:
    """Take the lock of a running workbench. Raises CourseError, with its addresses, if one runs on that folder."""
    held = FileLock(folder / "running.lock", blocking=False, thread_local=False)
    running = folder / "running.json"
    try:
        held.acquire()
    except Timeout:
        addresses = json.loads(running.read_text()).items() if running.exists() else []
        where = ", ".join(f"{part} {url}" for part, url in addresses) or "it is starting"
        raise CourseError(
            f"A workbench is already running in {folder} ({where}): use it, or stop it with Ctrl-C in its terminal."
        ) from None
    running.unlink(missing_ok=True)  # of one that was killed
    _end_the_last_one(folder)
    return held


def _end_the_last_one(folder: Path) -> None:
    """End the supervisor and the PostgreSQL that a killed workbench or a killed terminal left running."""
    for pidfile, sign in (
        (folder / "logs" / "supervisord.pid", signal.SIGTERM),
        (folder / "postgres" / "postmaster.pid", signal.SIGINT),
    ):
        try:
            last = psutil.Process(int(pidfile.read_text().split()[0]))
            if Path(last.cwd()) == pidfile.parent.resolve():  # neither another program nor that of a copied folder
                last.send_signal(sign)
                last.wait(60)
        except (OSError, ValueError, psutil.Error):
            continue


def _wait_until_healthy(bench: Workbench, mlflow: bool, lab_port: int | None, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    waiting = {
        "postgres": lambda: postgres.is_ready(bench.socket),
        "mlflow": lambda: not mlflow or answers(bench.url + "/health"),
        "jupyter": lambda: lab_port is None or answers(f"http://127.0.0.1:{lab_port}/login"),
    }
    while waiting:
        waiting = {part: healthy for part, healthy in waiting.items() if not healthy()}
        if not bench.running():
            raise bench.why_it_ended()
        if waiting and time.monotonic() > deadline:
            log = bench.folder / "logs" / PARTS[next(iter(waiting))]
            raise CourseError(f"{', '.join(waiting)} did not respond within {timeout:.0f} s: read the end of {log}.")
        time.sleep(0.1)


def _temporary(what: str) -> Path:
    """Make a folder in /tmp itself: the path of a socket has at most 107 bytes. Remove those of dead processes."""
    for left in Path("/tmp").glob(f"course-{what}-*"):
        pid = left.name.split("-")[2]
        if os.geteuid() in (0, left.stat().st_uid) and pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"course-{what}-{os.getpid()}-", dir="/tmp"))


def start_workbench(folder: Path | None = None, *, auth: bool = False, wait: bool = True) -> Workbench:
    """Start PostgreSQL and the MLflow server for a notebook, in a temporary folder unless one is named.

    With `wait=False`, return earlier: call `wait()` of the workbench before you use it.

    `stop()` keeps the folder, so that `start_workbench(bench.folder)` finds its data again at the same address;
    `discard()` removes it.
    """
    if folder is None:
        postgres.program("postgres")
        folder = _temporary("workbench")
        folder.chmod(0o711)  # as root PostgreSQL runs under another account, which has to enter it
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    bench = start(folder, auth=auth, wait=False)
    bench._unfinished.append(lambda: _create_your_workspace(bench.url))
    if wait:
        bench.wait()
    return bench


def _create_your_workspace(url: str) -> None:
    """Create the workspace that MLFLOW_WORKSPACE names, which this server needs, too."""
    if workspace := os.environ.get("MLFLOW_WORKSPACE"):
        from mlflow import MlflowClient

        with patch.dict(os.environ, MLFLOW_WORKSPACE="default"):
            client = MlflowClient(url)
            if workspace not in [one.name for one in client.list_workspaces()]:
                client.create_workspace(workspace)


def workbench(open_browser: bool, auth: bool) -> None:
    """Run all three until Ctrl-C."""
    from course.copies import copy_notebooks  # imports nbformat: a second, which `start_workbench` saves

    copy_notebooks()
    with start(folder(), jupyter=True, auth=auth) as bench:
        stopped = lab.told_to_stop()
        print(f"JupyterLab  {bench.lab}\nMLflow      {bench.url}\nPostgreSQL  {bench.database}")
        if auth:
            print(f"Log in to MLflow as admin; the password is in {folder() / 'accounts.json'}.")
        print("Stop all three with Ctrl-C. Your runs are kept for the next start.", flush=True)
        if open_browser and bench.lab:
            webbrowser.open(bench.lab)
        if not lab.wait(stopped, bench.running):
            raise bench.why_it_ended()
