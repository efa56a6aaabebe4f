"""The processes of the inference API: how they log, and how they end without losing a request."""

import asyncio
import logging
import multiprocessing
import os
import selectors
import signal
import socket
import sys
import threading
from contextlib import suppress

import httptools
from pydantic_core import to_json
from uvicorn import Server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess, multiprocess

HEAD_SECONDS = 10  # in which the head of a request has to be there, from when the connection is, or its first byte
HEAD_BYTES = 65_536  # of a head
ACCEPT = 0.1  # seconds that a service which is asked to end leaves to connections whose opening is half-way
IP_MINTTL, IPV6_MINHOPCOUNT = 21, 73  # of Linux; Python has no names for them
DRAIN = 0.3  # seconds in which a service that has stopped listening answers on the connections that are there
SHUT = threading.Event()  # the sockets drop what asks for a new connection
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
    quiet = {name: {"level": "WARNING"} for name in ("mlflow", "uvicorn", "alembic", "asyncio", "filelock")}
    quiet["urllib3"] = {"level": "ERROR"}  # not each of its attempts: the watcher says once that the server is lost
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
    """uvicorn's, with limits for the head of a request, and an end that loses none.

    A connection that is idle when the service ends may have a request under way: it is closed a moment later. uvicorn
    calls `shutdown` when nothing listens any more. From then on ENDING is set, by which each answer asks its client to
    close the connection.
    """

    _late = None  # the timer that closes a connection on which no request begins
    _head = None  # bytes of a head that has begun and is not whole

    def connection_made(self, transport):
        super().connection_made(transport)
        if SHUT.is_set():
            _want_time_to_live(transport.get_extra_info("socket").fileno(), 0)
        self._late = self.loop.call_later(HEAD_SECONDS, transport.close)

    def connection_lost(self, exc):
        self._in_time()
        super().connection_lost(exc)

    def data_received(self, data):
        self._unset_keepalive_if_required()
        before = self.scope
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as asked:
            return self._read_again_without_upgrade(data[asked.args[0] :])
        except httptools.HttpParserError:
            return self.send_400_response("Invalid HTTP request received.")
        if self._head is not None and self.scope is before:
            self._head += len(data)
            if self._head > HEAD_BYTES:
                return self.send_400_response(f"The head of the request has more than {HEAD_BYTES} bytes.")
        if self._late is None and (self.cycle is None or self.cycle.response_complete):
            self._late = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _read_again_without_upgrade(self, rest):
        """Java's HTTP client and `curl --http2` ask to go on in HTTP/2, which nobody has to grant. The parser, though,
        then takes the body for HTTP/2."""
        if self.parser.get_method() == b"CONNECT":
            return self.send_400_response("Invalid HTTP request received.")
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join([*lines, b"", rest]))

    def on_message_begin(self):
        super().on_message_begin()
        self._head = 0

    def on_headers_complete(self):
        self._head = None
        if not self.parser.should_upgrade():
            super().on_headers_complete()
            self._in_time()

    def on_message_complete(self):
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _in_time(self):
        if self._late:
            self._late.cancel()
            self._late = None

    def shutdown(self):
        ENDING.set()
        self.loop.call_later(DRAIN, super().shutdown)


class PatientServer(Server):
    """Takes what waits at its socket before it closes it: the system has accepted that, and would reset it."""

    async def shutdown(self, sockets=None):
        loop, quiet = asyncio.get_running_loop(), 0
        end = loop.time() + self.config.timeout_graceful_shutdown
        with selectors.DefaultSelector() as doors:
            for server in self.servers:
                for listening in server.sockets:
                    _shut_the_door(listening.fileno())
                    doors.register(listening.fileno(), selectors.EVENT_READ)
            await asyncio.sleep(ACCEPT)
            while quiet < 2 and loop.time() < end:
                await asyncio.sleep(0)  # uvloop accepts one in each round of its loop, and in the next one knows it
                quiet = 0 if doors.select(0) else quiet + 1
        self.config.timeout_graceful_shutdown = max(end - loop.time(), 0)  # what is left for the requests at work
        await super().shutdown(sockets)


multiprocess.Server = PatientServer  # what a worker makes


def _shut_the_door(listening: int) -> None:
    """Let in nobody new, or where the system cannot do that only one at a time, between the last accept and the close.

    A connection whose opening is half-way must get through: its client believes that it is there. Linux can hold the
    time to live of what asks for a new connection against a minimum (RFC 5082), and drops it; not that of the last
    step of an opening. The connection inherits the minimum, and is freed of it when it is made. What came before that
    is sent again by its client.
    """
    if sys.platform == "linux":
        with suppress(OSError):  # a sandbox in place of the kernel may not know it
            _want_time_to_live(listening, 255)
            SHUT.set()
            return
    with socket.socket(fileno=os.dup(listening)) as same:
        same.listen(0)


def _want_time_to_live(file: int, minimum: int) -> None:
    """Let the system drop packets for a socket that have less. Linux, Windows and macOS begin with 64 or 128."""
    with socket.socket(fileno=os.dup(file)) as same:
        same.setsockopt(socket.IPPROTO_IP, IP_MINTTL, minimum)  # a socket of IPv6 may get packets of IPv4, too
        if same.family == socket.AF_INET6:
            same.setsockopt(socket.IPPROTO_IPV6, IPV6_MINHOPCOUNT, minimum)


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
