"""Start JupyterLab and the MLflow UI on this machine: `course lab` and `course ui`."""

import json
import os
import secrets
import signal
import sys
import threading
import webbrowser
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from jupyter_core.paths import jupyter_config_dir

from course import store
from course.chapters import all_chapters
from course.environment import JUPYTER
from course.errors import CourseError
from course.paths import root, state
from course.servers import MLFLOW_SERVER_ENVIRONMENT, Server, free_port, launch, mlflow_server

# JupyterLab asks about news in a pop-up at its first start; only this setting stops it, no flag does.
NO_POP_UP = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}

# MLflow 3 opens its UI in the mode for generative AI, which shows no runs, and remembers what the reader chooses.
MODE = "In the MLflow UI, choose `Model training` at the top left: that is where the runs are."


def environment() -> dict[str, str]:
    """Return JupyterLab's environment: the course's own configuration, but the learner's themes and shortcuts.

    An address, a certificate, a password or a startup file of the learner's own Jupyter and IPython must not count.
    """
    settings = os.environ.get("JUPYTERLAB_SETTINGS_DIR") or str(Path(jupyter_config_dir(), "lab", "user-settings"))
    unset = ("JUPYTER_CONFIG_PATH", "JUPYTER_NO_CONFIG", "JUPYTER_TOKEN", "JUPYTERLAB_DIR")
    own = {"JUPYTER_CONFIG_DIR": str(state() / "jupyter"), "IPYTHONDIR": str(state() / "ipython")}
    return JUPYTER | dict.fromkeys(unset, "") | own | {"JUPYTERLAB_SETTINGS_DIR": settings}


def launch_ui(name: str = "") -> Server:
    """Start the MLflow UI on the current store; if it is embedded, on the one with that name."""
    uri = store.in_use(name=name)
    folder = store.prepare(uri) or store.folder()
    return launch(
        mlflow_server(uri, "--default-artifact-root", store.artifact_root(folder)),
        port=free_port(usual_port(state())),
        env=MLFLOW_SERVER_ENVIRONMENT,
        cwd=state(),
        log=state() / "logs" / "mlflow-ui.log",
    )


def usual_port(folder: Path) -> int:
    """Return the same port for a folder each time, because the browser keeps the UI's settings by address.

    It is even, so the next port, which JupyterLab uses in a workbench, is not the usual port of any folder.
    """
    return 5100 + zlib.crc32(str(folder).encode()) % 400 * 2


def command(port: int | str) -> list[str]:
    """Return the command of JupyterLab on that port of 127.0.0.1, rooted at the checkout."""
    settings = Path(sys.prefix) / "share/jupyter/lab/settings/overrides.json"
    if not settings.exists() and os.access(sys.prefix, os.W_OK):  # if not, the pop-up stays
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text(json.dumps(NO_POP_UP))
    return [
        *[sys.executable, "-m", "jupyterlab", "--no-browser", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"],
        *["--ServerApp.port_retries=0", f"--ServerApp.root_dir={root()}", "--allow-root"],
        *["--ServerApp.base_url=/", "--ServerApp.certfile=", "--ServerApp.keyfile="],  # whatever /etc/jupyter says
    ]


def launch_lab(token: str) -> Server:
    """Start JupyterLab, which requires that token."""
    return launch(
        command("{port}"),
        health="/login",
        env={**environment(), "JUPYTER_TOKEN": token},
        cwd=root(),
        log=state() / "logs" / "jupyterlab.log",
    )


def _server_in_use() -> str | None:
    address = store.in_use()
    return store.without_password(address) if address.startswith("http") else None


def told_to_stop() -> threading.Event:
    """Return an event that Ctrl-C and the end of the terminal set."""
    stopped = threading.Event()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: stopped.set())
    return stopped


def wait(stopped: threading.Event, running: Callable[[], bool]) -> bool:
    """Return True once `stopped` is set, False once `running()` is no longer true."""
    while not stopped.wait(timeout=0.5):
        if not running():
            return False
    return True


def _serve(stopped: threading.Event, servers: list[Server]) -> None:
    if not wait(stopped, lambda: all(server.running() for server in servers)):
        ended = next(server for server in servers if not server.running())
        raise CourseError(f"A server exited unexpectedly. The reason is at the end of {ended.log}.")


def ui(open_browser: bool, name: str = "") -> None:
    """Show the current store in the MLflow UI until Ctrl-C; if it is embedded, the one with that name."""
    if address := _server_in_use():
        print(f"The current store is a server with its own UI: open {address}")
        return
    with launch_ui(name).wait_until_healthy() as server:
        stopped = told_to_stop()
        print(f"MLflow UI  {server.url}\n{MODE}\nStop it with Ctrl-C.", flush=True)
        if open_browser:
            webbrowser.open(server.url)
        _serve(stopped, [server])


def lab(open_browser: bool) -> None:
    """Run JupyterLab in work/, and the MLflow UI next to it, until Ctrl-C."""
    from course.copies import copy_notebooks  # imports nbformat, which notebooks that import this module don't need

    copied = copy_notebooks()
    if copied:
        print(f"Copied to work/, where you can edit them: {', '.join(copied)}")
    token = secrets.token_urlsafe(24)
    shown = _server_in_use()
    with ExitStack() as stack:
        servers = [stack.enter_context(launch_lab(token))]
        if not shown:
            servers.append(stack.enter_context(launch_ui()))
            shown = servers[1].url
        for server in servers:
            server.wait_until_healthy()
        stopped = told_to_stop()
        first = min((chapter.working_copy.name for chapter in all_chapters()), default="")
        address = f"{servers[0].url}/lab/tree/work/{first}?token={token}"
        print(f"JupyterLab  {address}\nMLflow UI   {shown}\n{MODE}\nStop both with Ctrl-C.", flush=True)
        if open_browser:
            webbrowser.open(address)
        _serve(stopped, servers)
