"""The processes of the inference API: how they log, and how they end without losing a request."""

import logging
import multiprocessing
import os
import signal
import socket
import threading

from pydantic_core import to_json
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess

DRAIN = 0.3  # seconds in which a service that has stopped listening answers on the connections that are there
ENDING = threading.Event()


def _as_json(record: dict, **_) -> str:
    return to_json(record, fallback=str).decode()


def log_config(level: str) -> dict:
    """For logging.config: everything as JSON lines to stdout."""
    formatter = {
        "()": "pythonjsonlogger.json.JsonFormatter",
        "fmt": ["levelname", "message"],
        "rename_fields": {"levelname": "level"},
        "timestamp": "time",
        "json_serializer": _as_json,
        "reserved_attrs": [*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName", "color_message"],
    }
    handler = {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "json"}
    quiet = {name: {"level": "WARNING"} for name in ("mlflow", "uvicorn", "alembic", "urllib3", "asyncio", "filelock")}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": formatter},
        "handlers": {"stdout": handler},
        "root": {"level": level.upper(), "handlers": ["stdout"]},
        "loggers": quiet,
    }


def bound(host: str, port: int, shared: bool = False) -> socket.socket:
    """A socket at an address; OSError if it cannot be had. `shared`: other processes may have one there, too.

    Its protocol is named, since only then asyncio sends small answers at once: without it each takes 40 ms longer.
    """
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    if os.name != "nt":
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        found.bind((host, port))
    except OSError:
        found.close()
        raise
    found.set_inheritable(True)
    return found


class EachItsOwn:
    """For uvicorn in place of a socket: becomes one in each worker, among which Linux shares connections out.

    With one socket for all, the worker that wakes first may take all that wait.
    """

    def __init__(self, host: str, port: int):
        self._address = host, port

    def __reduce__(self):
        return bound, (*self._address, True)

    def close(self) -> None:
        """There is nothing to close in the supervisor."""


class PatientProtocol(HttpToolsProtocol):
    """A connection that is idle when the service ends may have a request under way: it is closed a moment later.

    uvicorn calls `shutdown` when nothing listens any more. From then on ENDING is set, by which each answer asks its
    client to close the connection.
    """

    def shutdown(self):
        ENDING.set()
        self.loop.call_later(DRAIN, super().shutdown)


class Supervisor(Multiprocess):
    """uvicorn's, which closes its own socket before its workers end: else the system would take connections on it."""

    def terminate_all(self):
        for each in self.sockets:
            each.close()
        super().terminate_all()


def end_with_the_supervisor() -> None:
    """End this worker when the process that started it is gone, which else would hold the port for ever."""
    parent = multiprocessing.parent_process()
    if parent:

        def wait():
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=wait, daemon=True).start()
