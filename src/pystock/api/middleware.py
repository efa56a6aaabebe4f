"""Around every request of the inference API: its id, its line in the log, its counts, and what it may cost.

Plain ASGI, since Starlette's middleware classes cost as much as a prediction.
"""

import asyncio
import json
import logging
import os
import re
import time
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess
from prometheus_client.core import HistogramMetricFamily

from pystock.api.keys import Keys
from pystock.api.schema import MOST_ERRORS, Refused
from pystock.api.server import ENDING

log = logging.getLogger("pystock.api")
PATHS = ("/predict", "/model", "/health", "/ready", "/metrics", "/docs", "/openapi.json")
POLLED = (
    "/health",
    "/ready",
    "/metrics",
)  # monitors ask for them every few seconds: what is well is no line of the log
GUARDED = (("POST", "/predict"), ("GET", "/model"))  # by keys; monitors and those who read the contract need none
_SANE = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")

# Metrics ------------------------------------------------------------------------------------------------------------

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
REQUESTS = Counter("pystock_api_requests", "Requests answered.", ["path", "status"])
SECONDS = Histogram("pystock_api_request_seconds", "Time from the header to the answer.", ["path"], buckets=_SECONDS)
ROWS = Counter("pystock_api_rows", "Predictions made.")
IN_PROGRESS = Gauge("pystock_api_in_progress", "Requests at work.", multiprocess_mode="livesum")
REJECTED = Counter("pystock_api_rejected", "Requests that were refused.", ["reason"])
VERSION = Gauge("pystock_api_model_version", "Version that answers; 0: none.", multiprocess_mode="livemin")
SWITCHES = Counter("pystock_api_switches", "Changes to another version, in each worker.")
REFUSED_VERSIONS = Counter("pystock_api_refused_versions", "Versions that failed the check, in each worker.")
SERVER_UP = Gauge("pystock_api_tracking_server_up", "Whether the tracking server answers.", multiprocess_mode="livemin")
FROM_CACHE = Gauge("pystock_api_model_from_cache", "Whether the model is the cached one.", multiprocess_mode="livemax")


class _Untold:
    """In place of a gauge that would say what another says."""

    def set(self, value: float) -> None:
        pass


class OfModel(NamedTuple):
    """What a Watcher tells of its model."""

    version: Gauge
    switches: Counter
    refused: Counter
    server_up: Gauge | _Untold = _Untold()
    from_cache: Gauge | _Untold = _Untold()


CHAMPION = OfModel(VERSION, SWITCHES, REFUSED_VERSIONS, SERVER_UP, FROM_CACHE)
# A histogram of prometheus_client takes one value at a time, and a request may bring 10,000. So these count in steps of
# a tenth, and _Probabilities shows them as a histogram.
_BINS = 10
_IN_BIN = Counter("pystock_api_probability_bin", "Probabilities in a tenth.", ["bin"])
_SUM = Counter("pystock_api_probability_total_sum", "Sum of the probabilities.")
_BIN = [_IN_BIN.labels(str(number)) for number in range(_BINS)]


def count_rows(probability: np.ndarray) -> None:
    ROWS.inc(len(probability))
    _SUM.inc(float(probability.sum()))
    if len(probability) == 1:
        _BIN[min(int(probability[0] * _BINS), _BINS - 1)].inc()
        return
    counts = np.bincount(np.minimum((probability * _BINS).astype(int), _BINS - 1), minlength=_BINS)
    for number in np.flatnonzero(counts):
        _BIN[number].inc(int(counts[number]))


class _Probabilities:
    """The metrics of a registry, those of the probabilities as one histogram."""

    def __init__(self, source):
        self._source = source

    def collect(self):
        counts, total = [0.0] * _BINS, 0.0
        for metric in self._source.collect():
            if metric.name == "pystock_api_probability_bin":
                for sample in metric.samples:
                    if sample.name.endswith("_total"):
                        counts[int(sample.labels["bin"])] += sample.value
            elif metric.name == "pystock_api_probability_total_sum":
                total = next((sample.value for sample in metric.samples if sample.name.endswith("_total")), 0.0)
            else:
                yield metric
        sums = np.cumsum(counts)
        buckets = [(f"{(number + 1) / _BINS:g}", sums[number]) for number in range(_BINS)] + [("+Inf", sums[-1])]
        yield HistogramMetricFamily("pystock_api_probability", "Probabilities answered.", buckets, total)


def metrics_text() -> bytes:
    """All metrics in Prometheus' text format; with several workers those of all of them."""
    source = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        source = CollectorRegistry()
        multiprocess.MultiProcessCollector(source)
    return generate_latest(_Probabilities(source))


def forget_dead_workers() -> None:
    """Take out what workers that died have left in the gauges of those that live."""
    if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        for path in Path(folder).glob("gauge_live*_*.db"):
            pid = int(path.stem.rpartition("_")[2])
            if not psutil.pid_exists(pid):
                multiprocess.mark_process_dead(pid)


# Requests -------------------------------------------------------------------------------------------------------------


def problem(refused: Refused, request_id: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Headers and body of an error (RFC 9457)."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(refused.status).phrase,
        "status": refused.status,
        "detail": refused.detail,
        "request_id": request_id,
    }
    if refused.errors:
        body["errors"] = refused.errors[:MOST_ERRORS]
    text = json.dumps(body).encode()
    headers = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(text)).encode())]
    return headers + [(name.encode(), value.encode()) for name, value in refused.headers.items()], text


class Call:
    """What is known about a request: `id`, and for the log its client, and status, rows and version of its answer."""

    __slots__ = ("id", "status", "rows", "version", "client")

    def __init__(self, id: str):
        self.id, self.status, self.rows, self.version, self.client = id, 0, None, None, None


class Around:
    """The outermost layer: every request gets an id and a line in the log, is counted, and gets an answer.

    POST /predict goes straight to `predict(scope, receive, send)`, everything else to `app`: the layers of a framework
    would cost as much as a prediction. `scope["call"]` is the request's Call. A service that is ending asks each client
    to close its connection. With `keys` those who ask for predictions, or what makes them, need one.
    """

    def __init__(self, app, predict, keys: Keys | None = None):
        self.app, self.predict, self.keys = app, predict, keys
        self._requests, self._seconds = {}, {path: SECONDS.labels(path) for path in (*PATHS, "other")}

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begun = time.perf_counter()
        given = b""
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                given = value
        call = scope["call"] = Call(given.decode() if _SANE.fullmatch(given) else os.urandom(16).hex())

        async def answer(message):
            if message["type"] == "http.response.start":
                call.status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", call.id.encode())]
                if ENDING.is_set():
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        IN_PROGRESS.inc()
        try:
            if self.keys and (scope["method"], scope["path"]) in GUARDED:
                call.client = self._client(scope["headers"])
            if scope["path"] == "/predict" and scope["method"] == "POST":
                await self.predict(scope, receive, answer)
            elif scope["method"] == "HEAD":  # the answer to GET, of which uvicorn leaves the body out
                await self.app(scope | {"method": "GET"}, receive, answer)
            else:
                await self.app(scope, receive, answer)
        except Refused as refused:
            await send_problem(answer, refused, call)
        except Disconnected:
            pass
        except asyncio.CancelledError:  # uvicorn's, when requests have had all of the time that they get at the end
            if not call.status:
                detail = "The service ends, and no time is left for this request: try again."
                await send_problem(answer, Refused(503, detail, reason="ending", retry_after="1"), call)
        except Exception:
            log.exception("a request failed", extra={"request_id": call.id})
            if not call.status:
                await send_problem(answer, Refused(500, "The service failed, and its log says why."), call)
        finally:
            IN_PROGRESS.dec()
            self._count(scope, call.status or 499, time.perf_counter() - begun, call)

    def _client(self, headers: list[tuple[bytes, bytes]]) -> str:
        given = dict(headers).get(b"authorization", b"")
        client = self.keys.client(given)
        if client is None:
            what = "is not one that is known here" if given else "is missing"
            detail = f"The key {what}: send it in the header Authorization, as Bearer KEY."
            raise Refused(401, detail, reason="key", www_authenticate="Bearer")
        return client

    def _count(self, scope: dict, status: int, taken: float, call: Call) -> None:
        path = scope["path"] if scope["path"] in self._seconds else "other"
        counter = self._requests.get((path, status))
        if counter is None:
            counter = self._requests[path, status] = REQUESTS.labels(path, status)
        counter.inc()
        self._seconds[path].observe(taken)
        level = logging.DEBUG if status == 200 and path in POLLED else logging.INFO
        if log.isEnabledFor(level):
            about = {
                "request_id": call.id,
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "milliseconds": round(taken * 1000, 3),
                "rows": call.rows,
                "model_version": call.version,
            }
            if self.keys:
                about["client"] = call.client
            log.log(level, "request", extra=about)


async def send_problem(send, refused: Refused, call: Call) -> None:
    """Answer with an error."""
    if refused.reason:
        REJECTED.labels(refused.reason).inc()
    headers, body = problem(refused, call.id)
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Disconnected(Exception):
    """The client went away before its request was whole."""


async def read_json(scope: dict, receive, limit: int) -> bytes:
    """The body of a request that says it is JSON; Refused (413, 415) before more than `limit` bytes are held."""
    length, kind, coding = b"", b"", b"identity"
    for name, value in scope["headers"]:
        if name == b"content-type":
            kind = value
        elif name == b"content-length":
            length = value
        elif name == b"content-encoding":
            coding = value.strip().lower()
    if kind != b"application/json":
        _check_type(kind.decode("latin-1"))
    if coding != b"identity":
        detail = f"The body is encoded as {coding.decode('latin-1')[:60]!r}: send it plain."
        raise Refused(415, detail, reason="type")
    if length and int(length.lstrip(b"0") or b"0") > limit:  # Python reads no number of 5,000 digits, zeros or not
        raise _too_large(limit)
    message = await receive()
    parts, size = [], 0
    while message["type"] == "http.request":
        body = message.get("body", b"")
        size += len(body)
        if size > limit:
            raise _too_large(limit)
        if not message.get("more_body"):
            return b"".join([*parts, body]) if parts else body
        parts.append(body)
        message = await receive()
    raise Disconnected


def _too_large(limit: int) -> Refused:
    return Refused(413, f"The body has more than {limit} bytes: send fewer rows a request.", reason="body")


def _check_type(given: str) -> None:
    kind, *options = [part.strip().lower() for part in given.split(";")]
    if kind != "application/json":
        said = f"is {given[:60]!r}" if given else "is missing"
        raise Refused(415, f"The header Content-Type {said}: send application/json.", reason="type")
    for option in options:
        name, _, value = option.partition("=")
        if name.strip() == "charset" and value.strip().strip('"') not in ("utf-8", "utf8"):
            raise Refused(415, f"The charset is {value.strip()[:60]!r}: JSON is UTF-8.", reason="type")
