"""The inference API: an ASGI application that predicts with the champion. projects/pystock-inference-api starts it."""

import asyncio
import logging
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi_offline import FastAPIOffline
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from pystock.api import metrics, openapi
from pystock.api.middleware import RequestMiddleware, RequestRecord
from pystock.api.model import ServedModel, Watcher
from pystock.api.schema import Contract, Question, Refused, features
from pystock.api.settings import Settings

INLINE_ROWS = 2000  # up to so many rows, a prediction takes less time than reading their JSON, and needs no thread
START_SECONDS = 20  # that the first lookup of the champion may take before the service listens
DESCRIPTION = "The probability that the next trading day moves by more than 1 %, as the champion predicts it."
_JSON = re.compile(r'application/json(\s*;\s*charset\s*=\s*"?utf-?8"?)?', re.IGNORECASE)
_TITLES = {413: "Request Entity Too Large", 422: "Unprocessable Entity"}  # Python 3.13 has other names for them


def create_app(settings: Settings | None = None) -> RequestMiddleware:
    """Return the application of one worker. Its lifespan runs the thread that watches the champion."""
    service = InferenceService(settings or Settings())
    about: dict[str, Any] = {"title": "pystock inference API", "version": "1", "description": DESCRIPTION}
    about["generate_unique_id_function"] = lambda route: route.name  # the names of methods in generated clients
    app = FastAPIOffline(**about, lifespan=service.lifespan, redirect_slashes=False, redoc_url=None)
    app.post("/predict", **openapi.PREDICT)(service.predict)
    app.get("/model", **openapi.MODEL)(service.model)
    app.get("/health", **openapi.HEALTH)(service.health)
    app.get("/ready", **openapi.READY)(service.ready)
    app.get("/metrics", **openapi.METRICS)(service.metrics)
    for kind in (Refused, HTTPException, Exception):
        app.add_exception_handler(kind, _refuse)
    openapi.describe_requests(app, service.contract)
    return RequestMiddleware(app)


class InferenceService:
    """The handlers of the requests, and what they share."""

    def __init__(self, settings: Settings):
        self.contract = Contract(settings.max_rows)
        self._settings, self._watcher = settings, Watcher(settings)
        self._threads = ThreadPoolExecutor(2, "predict")
        self._predicting = 0

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Watch the champion as long as the application runs. It accepts requests after the first lookup."""
        logging.captureWarnings(True)  # into the log, as JSON lines
        metrics.forget_dead_workers()
        _exit_with_parent()
        self._watcher.start()
        await asyncio.to_thread(self._watcher.looked.wait, START_SECONDS)
        yield
        self._watcher.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)
        logging.captureWarnings(False)

    async def predict(self, request: Request) -> Response:
        """Handle POST /predict."""
        limit, seconds = self._settings.max_concurrent, self._settings.timeout_seconds
        if self._predicting >= limit:
            detail = f"The service is already handling {limit} requests: try again later."
            raise Refused(503, detail, reason="concurrency", retry_after="1")
        self._predicting += 1
        body = None
        try:
            async with asyncio.timeout(seconds):
                body = await _read_body(request, self._settings.max_body_bytes)
                return await self._answer(self.contract.read(body), request.scope["record"])
        except TimeoutError:
            if body is None:
                detail = f"The body did not arrive within {seconds:g} seconds."
                raise Refused(408, detail, reason="slow_body", connection="close") from None
            detail = f"The prediction took more than {seconds:g} seconds: send fewer rows, or try again."
            raise Refused(503, detail, reason="time", retry_after="1") from None
        except ClientDisconnect:
            return Response(status_code=499)  # for the log and the metrics
        finally:
            self._predicting -= 1

    async def _answer(self, question: Question, record: RequestRecord) -> Response:
        served = self._served()  # read once, so that one version makes the whole response
        if question.numbers is not None and len(question.numbers) <= INLINE_ROWS:
            text = _predictions(served, question, record)
        else:
            loop = asyncio.get_running_loop()
            text = await loop.run_in_executor(self._threads, _predictions, served, question, record)
        return Response(text, media_type="application/json", headers={"X-Model-Version": str(served.version)})

    def _served(self) -> ServedModel:
        served = self._watcher.served
        if served is None:
            detail = "There is no model yet. GET /ready says why: try again later."
            raise Refused(503, detail, reason="no_model", retry_after="5")
        return served

    async def model(self, request: Request) -> Response:  # noqa: D102 - a docstring would be shown in /docs
        return _json(self._served().description)

    async def health(self, request: Request) -> Response:  # noqa: D102 - a docstring would be shown in /docs
        return _json({"status": "alive"})

    async def ready(self, request: Request) -> Response:  # noqa: D102 - a docstring would be shown in /docs
        state = self._watcher.ready()
        return _json(state, 200 if state["ready"] else 503)

    async def metrics(self, request: Request) -> Response:  # noqa: D102 - a docstring would be shown in /docs
        return Response(metrics.metrics_text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _read_body(request: Request, limit: int) -> bytes:
    """Return the JSON of a request, undecoded; Refused as soon as more than `limit` bytes are announced or received."""
    kind = request.headers.get("content-type")
    if kind is None or not _JSON.fullmatch(kind):
        value = "is missing" if kind is None else f"is {kind[:60]!r}"
        raise Refused(415, f"The header Content-Type {value}: send application/json.", reason="type")
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise Refused(415, f"The body is encoded as {encoding[:60]!r}: send it uncompressed.", reason="type")
    too_large = Refused(413, f"The body has more than {limit} bytes: send fewer rows per request.", reason="body")
    length = request.headers.get("content-length", "0")
    if len(length) > 15 or int(length) > limit:  # Python refuses to parse thousands of digits
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large
    return bytes(body)


def _predictions(served: ServedModel, question: Question, record: RequestRecord) -> bytes:
    dates, numbers = None, question.numbers
    if numbers is None:
        dates, numbers = features(question.prices or [])
    threshold = served.threshold if question.threshold is None else question.threshold
    probabilities = served.probability(numbers).tolist()
    if not all(0 <= p <= 1 for p in probabilities):  # False for NaN, too
        raise ValueError(f"version {served.version} returned a value that is not a probability")
    metrics.count_predictions(probabilities)
    record.rows, record.version = len(probabilities), served.version
    predictions: list[dict[str, Any]] = [{"probability": p, "decision": int(p > threshold)} for p in probabilities]
    if dates:
        predictions = [{"date": date, **each} for date, each in zip(dates, predictions)]
    model = {"name": served.name, "version": served.version}
    return to_json({"request_id": record.id, "model": model, "threshold": threshold, "predictions": predictions})


def _json(content: dict[str, Any], status: int = 200) -> Response:
    return Response(to_json(content), status, media_type="application/json")


async def _refuse(request: Request, error: Exception) -> Response:
    """Return a problem document (RFC 9457)."""
    if isinstance(error, HTTPException):  # of FastAPI's routing
        details = {404: "There is no such path: GET /docs lists them.", 405: "The path does not support this method."}
        detail = details.get(error.status_code, error.detail)
        error = Refused(error.status_code, detail, reason="path", **(error.headers or {}))  # type: ignore[arg-type]
    elif not isinstance(error, Refused):
        error = Refused(500, "The service failed. Its log says why.")
    if error.reason:
        metrics.REJECTED.labels(error.reason).inc()
    problem = {
        "type": "about:blank",
        "title": _TITLES.get(error.status) or HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": error.detail,
        "request_id": request.scope["record"].id,
    }
    if error.errors:
        problem["errors"] = error.errors
    return Response(to_json(problem), error.status, error.headers, media_type="application/problem+json")


def _exit_with_parent() -> None:
    """End this worker when the process that started it dies; otherwise the worker would keep the port."""
    parent = multiprocessing.parent_process()
    if parent is not None:

        def wait() -> None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=wait, daemon=True).start()
