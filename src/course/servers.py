"""Start a server from a notebook or a command, wait until it is healthy, and stop it whatever happens.

The server runs under `course.process_guard`, a small process that ends it when its own standard input closes. The
system closes that pipe also when the process that started the server is killed, so no server outlives its notebook.
"""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from course.environment import QUIET_MLFLOW
from course.errors import CourseError
from course.paths import state

# Without the store and workspace of this process. The job runner costs 1.5 GB of memory, for parts of MLflow that the
# course does not use.
MLFLOW_SERVER_ENVIRONMENT = QUIET_MLFLOW | {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_TRACKING_URI": "",
    "MLFLOW_WORKSPACE": "",
}
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def mlflow_server(backend_store_uri: str, *options: str, port: int | str = "{port}") -> list[str]:
    """Return the command of an MLflow server on 127.0.0.1; its environment is MLFLOW_SERVER_ENVIRONMENT.

    It has one worker: more are slower and take 0.5 GB each.
    """
    command = [sys.executable, "-P", "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    return [*command, "--workers", "1", "--backend-store-uri", backend_store_uri, *options]


def free_port(preferred: int = 0) -> int:
    """Return a TCP port on 127.0.0.1 that nothing listens on now: the preferred one if it is free."""
    with socket.socket() as probe:
        if os.name != "nt":  # as servers do: a closing connection of the last server does not block it
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", preferred))
        except OSError:
            return free_port()
        port: int = probe.getsockname()[1]
        return port


def answers(url: str, timeout: float = 2) -> bool:
    """Return whether a GET request to `url` succeeds."""
    try:
        with _NO_PROXY.open(url, timeout=timeout):
            return True
    except (OSError, urllib.error.URLError, ValueError):
        return False


class PortTaken(CourseError):
    """Raised when another process bound the port after it was chosen."""


class Server:
    """A server of this process: its `url`, its `port`, the path of its `log`. Use it in a `with`, or call `stop()`."""

    def __init__(self, guard: "subprocess.Popen[bytes]", port: int, log: Path, health: str, name: str) -> None:
        self._guard, self.port, self.log, self._health, self._name = guard, port, log, health, name
        self.url = f"http://127.0.0.1:{port}"
        self.password = ""  # of the account `admin`, if the server has accounts
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def running(self) -> bool:
        """Return whether the server runs."""
        return self._guard.poll() is None

    def wait_until_healthy(self, timeout: float = 300) -> "Server":
        """Return once it is ready. Raises CourseError, with the end of its log, if it exits or takes too long."""
        try:
            deadline = time.monotonic() + timeout
            while self.running() and time.monotonic() < deadline:
                if answers(self.url + self._health):
                    return self
                time.sleep(0.1)
        except BaseException:
            self.stop()
            raise
        ended = not self.running()
        self.stop()
        text = self.log.read_text(encoding="utf-8", errors="replace")
        kind = PortTaken if ended and "address already in use" in text.lower() else CourseError
        reason = "exited before it was ready" if ended else f"did not respond on {self._health} in {timeout:.0f} s"
        tail = "\n".join(text.splitlines()[-15:])
        raise kind(f"The server `{self._name} …` {reason}. The end of its log:\n{tail}")

    def stop(self) -> None:
        """End the server and everything it started; return when they are gone."""
        if self._guard.stdin and not self._guard.stdin.closed:
            self._guard.stdin.close()
        self._guard.wait()
        if self._temporary:
            self._temporary.cleanup()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<server: {'running' if self.running() else 'stopped'}>"


def start_server(command: Sequence[str], health: str = "/health", *, timeout: float = 300, **options: Any) -> Server:
    """Run `command`, with `{port}` replaced by a free port, and return once its `health` path responds.

    `options` are those of `launch`. Raises CourseError as `Server.wait_until_healthy` does.
    """
    for _ in range(2):
        try:
            return launch(command, health, **options).wait_until_healthy(timeout)
        except PortTaken:
            pass  # try another port
    return launch(command, health, **options).wait_until_healthy(timeout)


def launch(
    command: Sequence[str],
    health: str = "/health",
    *,
    port: int | None = None,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    log: Path | None = None,
    grace: float = 3,
) -> Server:
    """Start `command` and return at once, so that several servers can start in parallel.

    `{port}` in `env` is replaced, too. `grace` is the time in seconds between SIGTERM and SIGKILL.
    """
    port = port or free_port()
    log = log or state() / "logs" / f"server-{port}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    words = [str(word).replace("{port}", str(port)) for word in command]
    env = {name: str(value).replace("{port}", str(port)) for name, value in (env or {}).items()}
    with log.open("wb") as output:
        guard = subprocess.Popen(
            [sys.executable, "-P", "-m", "course.process_guard", str(grace), *words],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | env,
            cwd=cwd,
            start_new_session=os.name != "nt",  # a kernel is killed with its group, and the guard has to outlive it
        )
    return Server(guard, port, log, health, " ".join(words[:3]))


def start_accounts_server() -> Server:
    """Start an MLflow server with accounts, in a temporary folder that `stop()` removes, and return at once.

    Every account may read, and `password` is the one of the account `admin`. Webhooks may go to this machine.
    """
    from cryptography.fernet import Fernet

    temporary = tempfile.TemporaryDirectory(prefix="course-accounts-", ignore_cleanup_errors=True)
    folder, password = Path(temporary.name), secrets.token_urlsafe(16)
    settings = accounts_settings(folder, f"sqlite:///{folder.as_posix()}/accounts.db", password, secrets.token_hex())
    webhooks = {
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_CACHE_TTL": "0",  # a new webhook gets the next event, not those after the next minute
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode(),
    }
    options = ["--artifacts-destination", (folder / "artifacts").as_uri(), "--app-name", "basic-auth"]
    command = mlflow_server(f"sqlite:///{folder.as_posix()}/mlflow.db", *options)
    # The grace is short, because nothing that the server still has to write outlives its folder.
    server = launch(command, env=MLFLOW_SERVER_ENVIRONMENT | settings | webhooks, cwd=folder, grace=0.3)
    server.password, server._temporary = password, temporary
    return server


def accounts_settings(folder: Path, database_uri: str, password: str, key: str) -> dict[str, str]:
    """Write auth.ini, where every account may read, and return the settings of a server with authentication."""
    (folder / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {database_uri}\n"
        "admin_username = admin\nauth_cache_ttl_seconds = 60\n"  # without it each request hashes the password: 0.4 s
    )
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": key,
    }
