"""The texts and examples of /docs and /openapi.json."""

import math
from typing import Any

import pandas as pd
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import PlainTextResponse

from pystock.api.schema import FEATURE_NAMES, PAST, Contract, Model, Predictions, Ready

# the S&P 500 on 2018-12-31 and on 2017-06-30, to four digits
STORM = (0.0085, 0.0255, 0.0215, 0.0183, 0.0147, 0.0171, 0.0185, 0.0154, 0.012, 0.0367, -0.0676, -0.0727)
CALM = (0.0015, 0.0066, 0.0058, 0.0045, 0.0045, 0.0051, 0.0041, 0.004, 0.0037, -0.0061, 0.0048, -0.1486)


def _days() -> list[dict[str, Any]]:
    """Make up days of prices, as many as one prediction needs."""
    dates = pd.bdate_range(end="2018-12-31", periods=PAST).strftime("%Y-%m-%d")
    closes = [round(2500 * math.exp(0.02 * math.sin(day)), 2) for day in range(PAST)]
    volumes = range(3_000_000_000, 4_000_000_000, 1_000_000)
    return [
        {"date": date, "open": 2500.0, "high": 2560.0, "low": 2440.0, "close": close, "volume": volume}
        for date, close, volume in zip(dates, closes, volumes)
    ]


EXAMPLES: dict[str, dict[str, Any]] = {
    "one row": {"rows": [dict(zip(FEATURE_NAMES, STORM))]},
    "two rows, another threshold": {
        "rows": [dict(zip(FEATURE_NAMES, STORM)), dict(zip(FEATURE_NAMES, CALM))],
        "threshold": 0.5,
    },
    "prices": {"prices": _days()},
}

_PROBLEMS = {
    400: "The body is not JSON.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not declared as plain JSON in UTF-8.",
    422: "The content breaks the contract; `errors` says where.",
    500: "The service failed.",
    503: "There is no model, the service is overloaded, or the time limit is reached. Retry after Retry-After seconds.",
}


def _problems(*statuses: int) -> dict[int, dict[str, Any]]:
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    responses: dict[int, dict[str, Any]]
    responses = {status: {"description": _PROBLEMS[status], "content": content} for status in statuses}
    responses[503]["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
    return responses


_REQUESTS = [{"$ref": f"#/components/schemas/{name}"} for name in ("RowsRequest", "PricesRequest")]
_BODY = {"schema": {"oneOf": _REQUESTS}, "examples": {name: {"value": value} for name, value in EXAMPLES.items()}}
PREDICT: dict[str, Any] = {
    "summary": "Probabilities and decisions for rows of features, or for days of prices",
    "description": f"Send `rows` with the {len(FEATURE_NAMES)} features of a day each, or `prices` of {PAST} trading "
    f"days or more, from which it computes the features: you get a prediction for each day from number {PAST} on. A "
    "decision is 1 if the probability is above the threshold. One version makes all predictions of a response.",
    "response_model": Predictions,
    "response_description": "The predictions, and which version made them.",
    "responses": _problems(*_PROBLEMS),
    "openapi_extra": {"requestBody": {"required": True, "content": {"application/json": _BODY}}},
}
MODEL: dict[str, Any] = {"summary": "The served version", "response_model": Model, "responses": _problems(503)}
HEALTH: dict[str, Any] = {"summary": "Whether the process is alive", "response_model": dict[str, str]}
_NOT_READY = {503: {"model": Ready, "description": "There is no model."}}
READY: dict[str, Any] = {"summary": "Whether there is a model", "response_model": Ready, "responses": _NOT_READY}
METRICS: dict[str, Any] = {"summary": "Metrics of all workers, for Prometheus", "response_class": PlainTextResponse}


def describe_requests(app: FastAPI, contract: Contract) -> None:
    """Add the schemas of requests and errors to the app's OpenAPI document: no handler has them as a parameter."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            made["components"]["schemas"] |= contract.schemas()
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
