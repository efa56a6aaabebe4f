"""Start a server from a notebook or a command, wait until it is healthy, and stop it whatever happens.

The server runs under `course.guard`, a small process that ends it when its own standard input closes. The system closes
that pipe also when the process that started the server is killed, so no server outlives its notebook.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from course.errors import CourseError
from course.paths import state

_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(url: str, timeout: float = 2) -> bool:
    """Whether `url` answers with success."""
    try:
        with _NO_PROXY.open(url, timeout=timeout):
            return True
    except (OSError, urllib.error.URLError, ValueError):
        return False


class Server:
    """A running server: its `url`, its `port`, the path of its `log`. Use it in a `with`, or call `stop()`."""

    def __init__(self, guard: subprocess.Popen, port: int, log: Path):
        self._guard, self.port, self.log = guard, port, log
        self.url = f"http://127.0.0.1:{port}"

    def running(self) -> bool:
        return self._guard.poll() is None

    def stop(self) -> None:
        """End the server and everything it started; returns when they are gone."""
        if self._guard.stdin and not self._guard.stdin.closed:
            self._guard.stdin.close()
        self._guard.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def __repr__(self):
        return f"<server: {'running' if self.running() else 'stopped'}>"


def start_server(
    command: Sequence[str],
    health: str = "/health",
    *,
    timeout: float = 90,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    log: Path | None = None,
) -> Server:
    """Run `command`, in which `{port}` stands for a free port, and return once `health` answers on it.

    Raises CourseError with the end of the server's log if it exits first, or after `timeout` seconds.
    """
    for _ in range(3):  # a port can be taken by somebody else before the server binds it
        server = _launch(command, env, cwd, log)
        try:
            deadline = time.monotonic() + timeout
            while server.running() and time.monotonic() < deadline:
                if answers(server.url + health):
                    return server
                time.sleep(0.1)
        except BaseException:
            server.stop()
            raise
        ended = not server.running()
        server.stop()
        text = server.log.read_text(encoding="utf-8", errors="replace")
        if not (ended and "address already in use" in text.lower()):
            break
    reason = "ended before it answered" if ended else f"did not answer on {health} within {timeout:.0f} s"
    tail = "\n".join(text.splitlines()[-15:])
    raise CourseError(f"The server `{' '.join(map(str, command[:3]))} …` {reason}; the end of its log:\n{tail}")


def _launch(command, env, cwd, log) -> Server:
    port = free_port()
    if log is None:
        log = state() / "logs" / f"server-{port}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as output:
        guard = subprocess.Popen(
            [sys.executable, "-P", "-m", "course.guard", *(str(word).replace("{port}", str(port)) for word in command)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            cwd=cwd,
        )
    return Server(guard, port, log)
