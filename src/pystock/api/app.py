"""The inference API: an ASGI application that answers with the champion. projects/pystock-inference-api starts it."""

import asyncio
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi_offline import FastAPIOffline
from pydantic_core import to_json
from starlette.exceptions import HTTPException

from pystock.api import middleware as limits
from pystock.api.keys import Keys
from pystock.api.model import Served, Watcher
from pystock.api.openapi import add_routes
from pystock.api.schema import Contract, Question, Refused, features
from pystock.api.server import ENDING, end_with_the_supervisor
from pystock.api.settings import Settings

log = logging.getLogger("pystock.api")
SMALL = 32  # rows; requests up to this size are answered together
LARGE = 2000  # rows; more are predicted in a thread: fewer take less time than their JSON takes to be read
DESCRIPTION = (
    "The probability that the next trading day moves by more than 1 %, from the champion of a registered model."
)
_JSON = (b"content-type", b"application/json")
START_SECONDS = 20  # that a first look for the champion may take before the service listens


def create_app(settings: Settings | None = None) -> limits.Around:
    """The application of one worker. Its lifespan starts the thread that looks for the champion."""
    logging.captureWarnings(True)  # they come as JSON lines, too
    settings = settings or Settings()
    contract, watcher, mirror = Contract(settings.max_rows), Watcher(settings, settings.model), None
    if settings.mirror:
        from pystock.api.shadow import Mirror  # its metrics are there where it is

        mirror = Mirror(settings)
    keys = Keys(Path(settings.keys_file)) if settings.keys_file else None
    threads = ThreadPoolExecutor(2, "predict")
    together, at_work = Together(), 0

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        sys.setswitchinterval(0.001)  # seconds; while a new champion is loaded, requests wait so long for Python's lock
        limits.forget_dead_workers()
        end_with_the_supervisor()
        watcher.start()
        # No request is accepted before there is a model, or is known that there is none
        await asyncio.to_thread(watcher.looked.wait, START_SECONDS)
        if mirror:
            mirror.start()
        if keys:
            keys.start()
        yield
        if mirror:
            mirror.stop()
        if keys:
            keys.stop()
        watcher.stop()
        threads.shutdown(wait=False, cancel_futures=True)

    async def predict(scope, receive, send) -> None:
        nonlocal at_work
        if at_work >= settings.max_concurrent:
            detail = f"{settings.max_concurrent} requests are at work, and no more are taken: try again."
            raise Refused(503, detail, reason="concurrency", retry_after="1")
        at_work += 1
        body, call = None, scope["call"]
        try:
            async with asyncio.timeout(settings.timeout_seconds):
                body = await limits.read_json(scope, receive, settings.max_body_bytes)
                question, served = contract.read(body), current()  # once: the whole request has this version
                numbers = question.numbers
                if numbers is not None and served.batches and len(numbers) <= SMALL:
                    probability = await together.ask(served, numbers)
                    text = _answer(served, question, call, None, probability)
                elif numbers is not None and len(numbers) <= LARGE:
                    probability = served.probability(numbers)
                    text = _answer(served, question, call, None, probability)
                else:
                    work = threads, _answer_large, served, question, call
                    text, numbers, probability = await asyncio.get_running_loop().run_in_executor(*work)
        except TimeoutError:
            seconds = f"{settings.timeout_seconds:g} seconds"
            if body is None:
                detail = f"The body was not here after {seconds}."
                raise Refused(408, detail, reason="slow_body", connection="close") from None
            detail = f"The answer was not there after {seconds}: send fewer rows, or try again."
            raise Refused(503, detail, reason="time", retry_after="1") from None
        finally:
            at_work -= 1
        length = (b"content-length", str(len(text)).encode())
        headers = [_JSON, length, (b"x-model-version", str(served.version).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})
        if mirror:
            mirror.offer(call.id, served, question.threshold, numbers, probability)

    def current() -> Served:
        served = watcher.served
        if served is None:
            detail = "There is no model yet, and GET /ready says why: try again."
            raise Refused(503, detail, reason="no_model", retry_after="5")
        return served

    async def model(request: Request) -> Response:
        return _json(current().about)

    async def health(request: Request) -> Response:
        return _json({"status": "alive"})

    async def ready(request: Request) -> Response:
        said = watcher.ready()
        said["ready"] = said["ready"] and not ENDING.is_set()
        said |= {"mirror": mirror and mirror.ready(), "keys": keys and keys.ready()}
        return _json(said, 200 if said["ready"] else 503)

    async def metrics(request: Request) -> Response:
        return Response(limits.metrics_text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    about = {"title": "pystock inference API", "version": "1", "description": DESCRIPTION}
    app = FastAPIOffline(**about, lifespan=lifespan, redirect_slashes=False, redoc_url=None)
    add_routes(app, contract, {"model": model, "health": health, "ready": ready, "metrics": metrics}, bool(keys))
    app.add_exception_handler(HTTPException, _refuse)
    app.add_exception_handler(Refused, _refuse)
    return limits.Around(app, predict, keys)


class Together:
    """One call of the model for the small requests that are there at the same moment."""

    def __init__(self):
        self._waiting: list[tuple[Served, np.ndarray, asyncio.Future]] = []

    def ask(self, served: Served, numbers: np.ndarray) -> asyncio.Future:
        """The probabilities of these rows by this version, in the next round of the event loop."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._answer)
        self._waiting.append((served, numbers, future))
        return future

    def _answer(self) -> None:
        waiting, self._waiting = self._waiting, []
        served = waiting[0][0]
        later = [each for each in waiting if each[0] is not served]  # asked after the version was exchanged
        waiting = [each for each in waiting if each[0] is served]
        try:
            if len(waiting) == 1:
                probability = served.probability(waiting[0][1])
            else:
                probability = served.probability(np.concatenate([numbers for _, numbers, _ in waiting]))
        except Exception as error:
            for _, _, future in waiting:
                if not future.done():
                    future.set_exception(error)
        else:
            at = 0
            for _, numbers, future in waiting:
                if not future.done():  # its time may be over
                    future.set_result(probability[at : at + len(numbers)])
                at += len(numbers)
        if later:
            self._waiting = later + self._waiting
            self._answer()


def _answer_large(served: Served, question: Question, call: limits.Call) -> tuple[bytes, np.ndarray, np.ndarray]:
    dates, numbers = None, question.numbers
    if numbers is None:
        dates, numbers = features(question.prices)
    probability = served.probability(numbers)
    return _answer(served, question, call, dates, probability), numbers, probability


def _answer(served: Served, question: Question, call: limits.Call, dates: list[str] | None, probability) -> bytes:
    """The predictions as JSON."""
    threshold = served.threshold if question.threshold is None else question.threshold
    found = probability.tolist()
    if not all(0 <= each <= 1 for each in found):  # a NaN is neither
        raise ValueError(f"version {served.version} gives what is no probability")
    limits.count_rows(probability)
    call.rows, call.version = len(found), served.version
    predictions = [{"probability": each, "decision": int(each > threshold)} for each in found]
    if dates:
        predictions = [{"date": date, **each} for date, each in zip(dates, predictions)]
    model = {"name": served.name, "version": served.version}
    return to_json({"request_id": call.id, "model": model, "threshold": threshold, "predictions": predictions})


def _json(what: dict, status: int = 200) -> Response:
    return Response(to_json(what), status, media_type="application/json")


async def _refuse(request: Request, error: HTTPException | Refused) -> Response:
    """What the routes of FastAPI refuse, as an error like the others."""
    if isinstance(error, HTTPException):
        details = {404: "There is no such path: GET /docs lists them.", 405: "The path does not take this method."}
        headers = {name.lower(): value for name, value in (error.headers or {}).items()}
        error = Refused(error.status_code, details.get(error.status_code, error.detail), reason="path", **headers)
    limits.REJECTED.labels(error.reason).inc()
    headers, text = limits.problem(error, request.scope["call"].id)
    return Response(text, error.status, {name.decode(): value.decode() for name, value in headers})
