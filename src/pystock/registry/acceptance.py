"""The acceptance test of a version in Staging, and the receiver of MLflow's webhooks that starts it.

Run the receiver with `uvicorn --factory pystock.registry.acceptance:receiver`. The test is a program of its own,
`python -m pystock.registry.acceptance NAME VERSION`, so that a model that crashes cannot take the receiver with it.
The account of both needs to read the model and to write runs.
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
import pandas as pd
import requests
from mlflow.pyfunc import PyFuncModel

from pystock.data import named
from pystock.errors import PystockError, first_line
from pystock.registry.gate import Condition, evaluation_days, source_run

if TYPE_CHECKING:  # at run time it is imported late: the test needs it only while it serves
    from fastapi import FastAPI

SECRET = "PYSTOCK_WEBHOOK_SECRET"  # the variable that holds what was given to create_webhook(secret=…)
MAX_AGE = 300  # seconds, as the Standard Webhooks specification advises; clocks may differ by as much
DAYS, LATENCY = 250, 0.25  # the rows of the test: a year; seconds within which 95 of 100 responses must come
EQUAL = 1e-9  # a row predicted alone and in a table may differ in the last digits: sums are taken in another order


class EventRefused(PystockError, ValueError):
    """An event that must be rejected; `status` is the HTTP status of the response."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


def signature(secret: str, delivery: str, timestamp: str, body: bytes) -> str:
    """Return X-MLflow-Signature as MLflow does: `v1,` and the base64 of the HMAC-SHA256 of `delivery.timestamp.body`.

    `delivery` and `timestamp` are the texts of the headers X-MLflow-Delivery-Id and -Timestamp.
    """
    digest = hmac.new(secret.encode(), f"{delivery}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def verify(
    secret: str, headers: Mapping[str, str], body: bytes, seen: dict[str, int], now: float = 0
) -> dict[str, Any]:
    """Return the event in `body`, if its sender knows the secret, it is new, and it was not accepted before.

    `seen` holds the accepted deliveries of this process with their times, but not those too old to be accepted anyway.
    `now` is in seconds since 1970, by default the time of this machine.
    Raises EventRefused: 401 for a forged, changed or stale event, 409 for a replayed one.
    """
    names = ("Delivery-Id", "Timestamp", "Signature")
    delivery, timestamp, given = (headers.get(f"X-MLflow-{name}", "") for name in names)
    if not hmac.compare_digest(given.encode(), signature(secret, delivery, timestamp, body).encode()):
        raise EventRefused(401, "the signature does not match: the event was forged or changed in transit")
    now = now or time.time()
    if abs(now - int(timestamp)) > MAX_AGE:
        raise EventRefused(401, f"the event is stale: its timestamp is more than {MAX_AGE} s from now")
    for old in [each for each, when in seen.items() if now - when > MAX_AGE]:
        del seen[old]
    if delivery in seen:
        raise EventRefused(409, "the event is a replay: this delivery was already accepted")
    seen[delivery] = int(timestamp)
    return dict(json.loads(body))


def receiver() -> "FastAPI":
    """Return the web application: POST /registry takes an event, GET /health says that it is alive.

    A version whose tag `lifecycle` was set to `Staging` is tested after the response 202: a sender should not wait.
    Raises ValueError if no secret is set.
    """
    from fastapi import BackgroundTasks, FastAPI, HTTPException, Request

    secret, seen = os.environ.get(SECRET, ""), dict[str, int]()
    if not secret:
        raise ValueError(f"{SECRET} is not set, but without a secret any event would be accepted: set it.")
    app = FastAPI()

    @app.get("/health", response_model=None)
    def health() -> str:
        return "OK"

    @app.post("/registry", status_code=202, response_model=None)
    async def receive(request: Request, background: BackgroundTasks) -> dict[str, str]:
        try:
            event = verify(secret, request.headers, await request.body(), seen)
        except EventRefused as error:
            raise HTTPException(error.status, str(error)) from None
        data = event["data"]
        wanted = (event["entity"], event["action"], data.get("key"), data.get("value"))
        if wanted != ("model_version_tag", "set", "lifecycle", "Staging"):
            return {"test": "not requested"}
        # no shell, and after `--` no name can be taken for an option
        command = [sys.executable, "-m", "pystock.registry.acceptance", "--", data["name"], data["version"]]
        background.add_task(subprocess.run, command)
        return {"test": "started"}

    return app


@contextmanager
def served(model: PyFuncModel) -> Iterator[str]:
    """Serve a model as `mlflow models serve` does, on a free local port of this process; yields its address."""
    import uvicorn
    from mlflow.pyfunc import scoring_server

    server = uvicorn.Server(uvicorn.Config(scoring_server.init(model), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    if not server.started:
        raise RuntimeError("the server exited before it was ready: it printed the reason above.")
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def examine(url: str, rows: pd.DataFrame, expected: pd.DataFrame) -> tuple[list[Condition], dict[str, float]]:
    """Send `rows` one by one to the model served at `url`; return three conditions of the test and the latency in ms.

    `rows` is a frame of features, `expected` the frame that the same model returns for it without a server.
    """
    answers: list[dict[str, object]] = []
    seconds: list[float] = []
    with requests.Session() as session:
        session.trust_env = False  # a proxy does not reach this machine's own ports

        def post(row: pd.DataFrame) -> requests.Response:
            payload = {"dataframe_split": row.to_dict(orient="split", index=False)}
            return session.post(f"{url}/invocations", json=payload, timeout=30)

        for day in range(len(rows)):
            answer = post(rows.iloc[[day]])
            seconds.append(answer.elapsed.total_seconds())
            answers += answer.json()["predictions"] if answer.ok else []
        without = post(rows.iloc[[0], 1:]).status_code

    sound = [answer for answer in answers if _is_sound(answer)]
    complete, difference = len(sound) == len(rows), float("inf")
    if complete:
        difference = max(np.abs(expected[key] - [each[key] for each in sound]).max() for key in sound[0])
    same, fast = bool(difference < EQUAL), bool(np.quantile(seconds, 0.95) <= LATENCY)
    compared = "same as without a server" if same else f"up to {difference:.3g} away from those without a server"
    got = f"{len(sound)} of {len(rows)} days got a probability and a decision; without {rows.columns[0]}: {without}"
    conditions = [
        Condition("answers", same, f"{len(answers)} of {len(rows)} predictions, {compared}"),
        Condition("schema", complete and without == 400, got),
        Condition("latency", fast, f"95 of 100 responses {'' if fast else 'not '}within {LATENCY * 1000:.0f} ms"),
    ]
    latency = {f"latency_p{percent}_ms": np.quantile(seconds, percent / 100) * 1000 for percent in (50, 95)}
    return conditions, {"answered": len(answers), **latency}


def _is_sound(answer: dict[str, object]) -> bool:
    """Return whether a prediction is a probability and a decision, and no more."""
    probability = answer.get("probability")
    is_probability = isinstance(probability, float) and 0 <= probability <= 1
    return set(answer) == {"probability", "decision"} and is_probability and answer["decision"] in (0, 1)


def accept(name: str, version: str, days: int = DAYS) -> bool:
    """Test a version on the last `days` days of 2014; return whether all conditions hold.

    The test is a run in the experiment `acceptance` (of the market that the version's source run names): tags
    registered_model, version, outcome (`passed` or `failed`), one for each condition, and `error` if the version cannot
    be loaded; metrics of the latency in ms. Raises ValueError for a version whose source run does not name target,
    features and market.
    """
    client = mlflow.MlflowClient()
    try:
        question = source_run(client, client.get_model_version(name, version))[1]
    except ValueError as reason:
        raise ValueError(f"version {version} of {name} cannot be tested: {reason}.") from None
    rows = evaluation_days(question)[0].tail(days)
    mlflow.set_experiment(named("acceptance", question["market"]))
    tags = {"registered_model": name, "version": version, "outcome": "failed"}
    with mlflow.start_run(run_name=f"{name}-{version}", tags=tags):
        try:
            model = mlflow.pyfunc.load_model(f"models:/{name}/{version}")
            expected = model.predict(rows)
            with served(model) as url:
                conditions, numbers = examine(url, rows, expected)
        except Exception as error:
            mlflow.set_tag("error", f"{type(error).__name__}: {first_line(error)}")
            raise
        passed = all(condition.passed for condition in conditions)
        mlflow.log_metrics(numbers)
        for each in conditions:
            mlflow.set_tag(f"condition.{each.name}", f"{'holds' if each.passed else 'fails'}: {each.evidence}")
        mlflow.set_tag("outcome", "passed" if passed else "failed")
    return passed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Test a version of a model; exit with 0 if all conditions hold.")
    parser.add_argument("name")
    parser.add_argument("version")
    sys.exit(0 if accept(**vars(parser.parse_args())) else 1)
