"""What GET /docs and /openapi.json say: the routes, and examples that work."""

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import PlainTextResponse

from pystock.api.schema import NAMES, PAST, Contract, Model, Predictions, Ready

# the S&P 500 on 2018-12-31 and on 2017-06-30, to four digits
STORM = (0.0085, 0.0255, 0.0215, 0.0183, 0.0147, 0.0171, 0.0185, 0.0154, 0.012, 0.0367, -0.0676, -0.0727)
CALM = (0.0015, 0.0066, 0.0058, 0.0045, 0.0045, 0.0051, 0.0041, 0.004, 0.0037, -0.0061, 0.0048, -0.1486)


def _days() -> list[dict]:
    """Made-up days of prices, as many as one answer needs."""
    closes = [round(2500 * math.exp(0.02 * math.sin(day)), 2) for day in range(PAST + 1)]
    dates = pd.bdate_range(end="2018-12-31", periods=PAST)
    return [
        {
            "date": f"{date:%Y-%m-%d}",
            "open": before,
            "high": round(max(before, close) + 5, 2),
            "low": round(min(before, close) - 5, 2),
            "close": close,
            "volume": 3_000_000_000 + 1_000_000 * number,
        }
        for number, (date, before, close) in enumerate(zip(dates, closes, closes[1:]))
    ]


EXAMPLES = {
    "one row": {"rows": [dict(zip(NAMES, STORM))]},
    "two rows, another threshold": {"rows": [dict(zip(NAMES, STORM)), dict(zip(NAMES, CALM))], "threshold": 0.5},
    "prices": {"prices": _days()},
}

_WHY = {
    400: "The body is no JSON.",
    401: "The key is missing or not known.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    415: "The body is not said to be plain JSON in UTF-8.",
    422: "The content breaks the contract; `errors` says where.",
    500: "The service failed.",
    503: "No model is there, too many requests are at work, or the time is over. Try again after Retry-After seconds.",
}


def add_routes(app: FastAPI, contract: Contract, handlers: dict[str, Callable], keys: bool) -> None:
    """Put the handlers, by name, at their paths, and describe these and POST /predict. `keys`: some need a key."""
    guarded = {"security": [{"key": []}]} if keys else {}
    requests = {name: {"$ref": f"#/components/schemas/{name}"} for name in ("RowsRequest", "PricesRequest")}
    body = {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"oneOf": list(requests.values())},
                "examples": {name: {"value": value} for name, value in EXAMPLES.items()},
            }
        },
    }
    app.post(
        "/predict",
        operation_id="predict",
        summary="Probabilities and decisions for rows of features, or for days of prices",
        description=f"Send `rows` with the {len(NAMES)} features of a day each, or `prices` of {PAST} trading days or "
        f"more, from which the features are made: each day from number {PAST} on is answered. A decision is 1 where "
        "the probability is above the threshold. One version of the model makes all predictions of an answer.",
        responses=_json("The predictions, and which version made them.", Predictions)
        | _problems(*(status for status in _WHY if keys or status != 401)),
        openapi_extra={"requestBody": body} | guarded,
    )(_never)
    about = _json("What answers now.", Model) | _problems(*((401, 503) if keys else (503,)))
    app.get("/model", operation_id="model", summary="The version that answers", responses=about, openapi_extra=guarded)(
        handlers["model"]
    )
    alive = _json("The process lives.", {"type": "object", "properties": {"status": {"const": "alive"}}})
    app.get("/health", operation_id="health", summary="Whether the process lives", responses=alive)(handlers["health"])
    states = _json("A model answers.", Ready) | _json("No model is there, or the service is ending.", Ready, 503)
    app.get(
        "/ready", operation_id="ready", summary="Whether it can answer, and what stands in the way", responses=states
    )(handlers["ready"])
    text = {200: {"description": "Prometheus' text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}}
    app.get(
        "/metrics",
        operation_id="metrics",
        summary="Counts and times, of all workers",
        responses=text,
        response_class=PlainTextResponse,
    )(handlers["metrics"])

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            about = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            about.setdefault("components", {})["schemas"] = contract.schemas()
            if keys:
                about["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            app.openapi_schema = about
        return app.openapi_schema

    app.openapi = openapi


def _never() -> None:
    # POST /predict is answered before FastAPI's routes (pystock.api.middleware.Around); this one describes it
    raise AssertionError


def _json(description: str, kind: Any, status: int = 200) -> dict:
    schema = kind if isinstance(kind, dict) else {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {status: {"description": description, "content": {"application/json": {"schema": schema}}}}


def _problems(*statuses: int) -> dict:
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    found = {status: {"description": _WHY[status], "content": content} for status in statuses}
    wait = {"description": "seconds", "schema": {"type": "integer"}}
    return found | {503: found[503] | {"headers": {"Retry-After": wait}}}
