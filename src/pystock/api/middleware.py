"""The outermost layer of the inference API: every request gets an id, is counted, and is logged."""

import logging
import os
import re
import time
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pystock.api import metrics

log = logging.getLogger("pystock.api")
PATHS = ("/predict", "/model", "/health", "/ready", "/metrics", "/docs", "/openapi.json")
_POLLED = ("/health", "/ready", "/metrics")  # by monitors, every few seconds: their successes are logged at level debug
_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


@dataclass(slots=True)
class RequestRecord:
    """The facts of a request that its log line and its response need. The handlers find it in `scope["record"]`."""

    id: str
    status: int = 0
    rows: int | None = None
    version: int | None = None


class RequestMiddleware:
    """Give every request an id, count it and log it. Plain ASGI, because BaseHTTPMiddleware costs as much as a row."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()
        given = Headers(scope=scope).get("x-request-id", "")
        record = RequestRecord(given if _ID.fullmatch(given) else os.urandom(16).hex())
        method = scope["method"]
        # HEAD is handled as GET, and uvicorn omits the body
        scope = {**scope, "record": record, "method": "GET" if method == "HEAD" else method}

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = record.id
            await send(message)

        metrics.IN_PROGRESS.inc()
        try:
            await self.app(scope, receive, send_with_id)
        except Exception:  # the application has responded with 500
            log.exception("a request failed", extra={"request_id": record.id})
        finally:
            metrics.IN_PROGRESS.dec()
            _count(method, scope["path"], record, time.perf_counter() - begun)


def _count(method: str, path: str, record: RequestRecord, seconds: float) -> None:
    label = path if path in PATHS else "other"
    status = record.status or 499  # the client has gone, or uvicorn has cut the request
    metrics.REQUESTS.labels(label, status).inc()
    metrics.SECONDS.labels(label).observe(seconds)
    fields = {
        "request_id": record.id,
        "method": method,
        "path": path,
        "status": status,
        "milliseconds": round(seconds * 1000, 3),
        "rows": record.rows,
        "model_version": record.version,
    }
    log.log(logging.DEBUG if status == 200 and path in _POLLED else logging.INFO, "request", extra=fields)
