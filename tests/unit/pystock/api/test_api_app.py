"""The inference API as its callers meet it: answers, errors, limits, metrics and its OpenAPI document."""

import asyncio
import gzip
import json
import re
import threading
from unittest.mock import AsyncMock

import httpx
import numpy as np
import pytest
import schemathesis
from messages import assert_on_page

from pystock.api.openapi import EXAMPLES, STORM
from pystock.api.schema import FEATURE_NAMES, features
from pystock.data import load
from pystock.features import volatility

ROW = dict(zip(FEATURE_NAMES, STORM))
DAYS = EXAMPLES["prices"]["prices"]
JSON = {"Content-Type": "application/json"}


def predict(client, body, headers=JSON):
    if isinstance(body, dict):
        body = json.dumps(body).encode()
    return client.post("/predict", content=body, headers=headers)


def check_problem(answer, status):
    assert answer.status_code == status, answer.text[:500]
    assert answer.headers["Content-Type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status and body["type"] == "about:blank" and body["title"]
    assert body["request_id"] == answer.headers["X-Request-ID"]
    assert "Traceback" not in answer.text and "pydantic" not in answer.text and len(answer.text) < 3000
    return body


def test_predictions_name_version_and_threshold(client):
    answer = predict(client, {"rows": [ROW | {"abs_return": 0.3}, ROW | {"abs_return": 0.25}]})
    assert answer.status_code == 200 and answer.headers["X-Model-Version"] == "3"
    body = answer.json()
    assert body.pop("request_id") == answer.headers["X-Request-ID"]
    assert body == {
        "model": {"name": "pystock-big-move", "version": 3},
        "threshold": 0.25,
        "predictions": [{"probability": 0.3, "decision": 1}, {"probability": 0.25, "decision": 0}],
    }
    own = predict(client, {"rows": [ROW | {"abs_return": 0.3}], "threshold": 0.4}).json()
    assert own["threshold"] == 0.4 and own["predictions"] == [{"probability": 0.3, "decision": 0}]


def test_many_rows_are_answered_in_order(client):
    values = [number / 10_000 for number in range(3000)]  # more than are predicted in the event loop
    rows = [{name: round(value, 3) for name, value in ROW.items()} | {"abs_return": value} for value in values]
    answer = predict(client, {"rows": rows}).json()
    assert [each["probability"] for each in answer["predictions"]] == values


@pytest.mark.parametrize("market", ["sp500", "nasdaq"])
def test_features_of_posted_prices_are_those_of_the_training_to_the_last_bit(market):
    prices = load(market).loc["2014-09":]
    table = prices.rename(columns=str.lower).assign(date=prices.index.strftime("%Y-%m-%d"))
    dates, online = features(table[["date", "open", "high", "low", "close", "volume"]].to_dict("records"))
    assert dates[0] == f"{prices.index[66]:%Y-%m-%d}" and len(dates) == len(prices) - 66
    assert np.array_equal(online, volatility(load(market)).loc[dates].to_numpy())


def test_a_request_id_is_kept_if_it_is_plain_and_made_otherwise(client):
    given = predict(client, {"rows": [ROW]}, JSON | {"X-Request-ID": "ask-17"})
    assert given.headers["X-Request-ID"] == given.json()["request_id"] == "ask-17"
    made = predict(client, {"rows": [ROW]}, JSON | {"X-Request-ID": "not sane; \tat all"})
    assert len(made.json()["request_id"]) == 32 and made.headers["X-Request-ID"] == made.json()["request_id"]


def test_metrics_count_requests_rows_probabilities_and_refusals(client, metric):
    names = [
        'pystock_api_requests_total{path="/predict",status="200"}',
        'pystock_api_requests_total{path="other",status="404"}',
        'pystock_api_request_seconds_count{path="/predict"}',
        "pystock_api_rows_total",
        'pystock_api_probability_bucket{le="0.3"}',
        'pystock_api_probability_bucket{le="+Inf"}',
        "pystock_api_rejected_total",
    ]
    before = [metric(name) for name in names]
    predict(client, {"rows": [ROW | {"abs_return": 0.25}, ROW | {"abs_return": 0.75}]})
    predict(client, {"rows": [ROW] * 150})  # the histogram takes in the first 100 of a request
    predict(client, b"{")
    client.get("/nothing")
    assert [metric(name) - number for name, number in zip(names, before)] == [2, 1, 3, 152, 101, 102, 2]
    assert metric("pystock_api_in_progress") == 1  # the request for the metrics


def test_head_is_answered_like_get(client):
    for path in ("/health", "/ready", "/model", "/metrics", "/docs"):
        head, get = client.head(path), client.get(path)
        assert head.status_code == 200 and head.headers["Content-Type"] == get.headers["Content-Type"], path
    assert client.head("/predict").status_code == 405


def test_the_openapi_document_is_valid_and_its_examples_work(client):
    text = client.get("/openapi.json").text
    document = json.loads(text)
    schemathesis.openapi.from_dict(document).validate()
    content = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    answers = [predict(client, example["value"]).json()["predictions"] for example in content["examples"].values()]
    assert [len(answer) for answer in answers] == [1, 2, 1]
    assert answers[2][0]["date"] == "2018-12-31"  # of the days of prices those with enough past
    for path, methods in document["paths"].items():  # a generated client has methods of these names
        assert [each["operationId"] for each in methods.values()] == [path.strip("/")]
    names = set(document["components"]["schemas"])
    assert set(re.findall(r"#/components/schemas/(\w+)", text)) <= names


def with_row(**changes):
    return json.dumps({"rows": [ROW, ROW | changes]}).encode()


def with_day(number, **changes):
    return {"prices": [*DAYS[:number], DAYS[number] | changes, *DAYS[number + 1 :]]}


VALUE = json.dumps(ROW["momentum_5"]).encode()
GOOD = json.dumps({"rows": [ROW]}).encode()
CONTENT = {  # chapter 18 sends more of them
    "NaN": (GOOD.replace(VALUE, b"NaN"), "rows[0].momentum_5", "must be finite"),
    "1e999": (GOOD.replace(VALUE, b"1e999"), "rows[0].momentum_5", "must be finite"),
    "too large for 32 bits": (with_row(momentum_5=1e300), "rows[1].momentum_5", "must be 1000000 or less"),
    "an unknown name": (with_row(moment_5=1), "rows[1].moment_5", "is unknown (did you mean momentum_5?)"),
    "rows is an object": ({"rows": ROW}, "rows", "must be an array, not an object"),
    "a row is an array": ({"rows": [list(ROW.values())]}, "rows[0]", "must be an object, not an array"),
    "an array for an object": (b"[1, 2]", "body", "must be an object, not an array"),
    "both": ({"rows": [ROW], "prices": DAYS}, "body", "has rows and prices"),
    "100,000 unknown names": (json.dumps(dict.fromkeys(map(str, range(100_000)), 1)).encode(), "body", "100000 places"),
    "10,000 empty rows": ({"rows": [{}] * 10_000}, "rows[0].abs_return", "is missing"),
    "a name of 100,000 letters": ({"x" * 100_000: 1}, "x" * 60, "is unknown"),
    "days out of order": ({"prices": [DAYS[1], DAYS[0], *DAYS[2:]]}, "prices[1].date", "which is not after"),
    "a zero price": (with_day(3, low=0), "prices[3].low", "must be above 0"),
    "a negative volume": (with_day(3, volume=-1), "prices[3].volume", "must be 0 or more"),
    "a low high": (with_day(66, high=1), "prices[66]", "is invalid: the high is below the open or the close"),
    "a high low": (with_day(66, low=1e5), "prices[66]", "is invalid: the low is above the open or the close"),
    "half a share": (with_day(3, volume=1.5), "prices[3].volume", "must be a whole number"),
    "no such day": (with_day(3, date="2018-02-30"), "prices[3].date", "is not a valid date"),
    "a date of another form": (with_day(3, date="31.12.2018"), "prices[3].date", "must be a date such as 2018-12-31"),
    "a date as a number": (with_day(3, date=20181231), "prices[3].date", "must be a string, not a number"),
    "no volume ever": ({"prices": [day | {"volume": 0} for day in DAYS]}, "prices[66]", "has no volume_change"),
    "another column": (with_day(3, adj_close=1.0), "prices[3].adj_close", "is unknown"),
}


@pytest.mark.parametrize("case", CONTENT)
def test_invalid_content_is_422_and_says_where_and_what(client, case):
    sent, where, what = CONTENT[case]
    body = check_problem(predict(client, sent), 422)
    assert body["title"] == "Unprocessable Entity"  # on each Python
    assert body["errors"][0]["where"] == where and what in body["errors"][0]["what"], body
    assert len(body["errors"]) <= 10 and body["detail"].endswith(".")


NO_JSON = {
    "no body": (b"", "it is empty"),
    "cut": (GOOD[:-2], "EOF"),
    "invalid UTF-8": (GOOD.replace(b"rows", b"r\xffws"), "unicode"),
    "100,000 brackets": (b"[" * 100_000, "recursion limit"),
    "a number of 1 MB": (GOOD.replace(VALUE, b"9" * 1_000_000), "number out of range"),
    "two of them": (GOOD + GOOD, "trailing characters"),
}


@pytest.mark.parametrize("case", NO_JSON)
def test_a_body_that_is_not_json_is_400(client, case):
    sent, why = NO_JSON[case]
    body = check_problem(predict(client, sent), 400)
    assert why in body["detail"] and body["detail"].startswith("The body is not JSON: ")


def test_a_body_that_is_not_declared_as_plain_json_is_415(client):
    for kind in ("application/x-www-form-urlencoded", "application/json; charset=latin-1"):
        detail = check_problem(predict(client, GOOD, {"Content-Type": kind}), 415)["detail"]
        assert kind in detail
        assert_on_page("The header Content-Type is", detail)
    packed = predict(client, gzip.compress(GOOD), JSON | {"Content-Encoding": "gzip"})
    assert "gzip" in check_problem(packed, 415)["detail"]


def test_other_spellings_of_the_same_request_are_accepted(client):
    expected = predict(client, GOOD).json()["predictions"]
    turned = json.dumps({"rows": [dict(reversed(ROW.items()))]}).encode()
    twice = GOOD.replace(b'"rows"', b'"rows": [], "rows"')  # of a repeated name the last value counts
    for body in (turned, twice, b" \n" + GOOD + b"\t", iter([GOOD[:30], GOOD[30:]])):
        assert predict(client, body).json()["predictions"] == expected
    for kind in ("application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"'):
        assert predict(client, GOOD, {"Content-Type": kind}).status_code == 200
    assert predict(client, with_row(momentum_5=0)).status_code == 200  # a whole number is a number


def test_unknown_paths_and_methods_are_404_and_405(client):
    assert "GET /docs" in check_problem(client.get("/nothing"), 404)["detail"]
    check_problem(client.post("/predict/", content=GOOD, headers=JSON), 404)
    assert check_problem(answer := client.get("/predict"), 405) and answer.headers["Allow"] == "POST"
    check_problem(client.post("/model", content=b"x" * 3_000_000), 405)


def test_a_body_over_the_limit_is_413_before_it_is_complete(small):
    chunks = iter([{"type": "http.request", "body": b" " * 10_000, "more_body": True}] * 10)
    scope = {"type": "http", "method": "POST", "path": "/predict", "raw_path": b"/predict", "query_string": b""}
    scope |= {"headers": [(b"content-type", b"application/json")], "root_path": "", "http_version": "1.1"}
    receive, send = AsyncMock(side_effect=lambda: next(chunks)), AsyncMock()
    asyncio.run(small.app(scope, receive, send))
    assert send.await_args_list[0].args[0]["status"] == 413
    assert len(list(chunks)) == 6  # the fourth is beyond the limit of 30,000 bytes, and no more is read


def test_more_rows_than_allowed_are_422(small):
    body = check_problem(predict(small, {"rows": [ROW] * 68}), 422)
    assert body["errors"] == [{"where": "rows", "what": "must have 67 or fewer entries, not 68"}]


def test_slow_bodies_get_408_and_others_503_while_they_take_the_places(small, metric):
    names = [f'pystock_api_rejected_total{{reason="{reason}"}}' for reason in ("slow_body", "concurrency")]
    before = [metric(name) for name in names]

    async def slow_body(begun):
        yield b"{"
        begun.set()
        await asyncio.sleep(600)

    async def scenario():
        transport = httpx.ASGITransport(small.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=JSON) as caller:
            begun = [asyncio.Event(), asyncio.Event()]
            slow = [asyncio.create_task(caller.post("/predict", content=slow_body(each))) for each in begun]
            await asyncio.gather(*(each.wait() for each in begun))
            refused, alive = await caller.post("/predict", content=GOOD), await caller.get("/ready")
            return refused, alive, await asyncio.gather(*slow), await caller.post("/predict", content=GOOD)

    refused, alive, slow, later = asyncio.run(scenario())
    assert_on_page("is already handling", check_problem(refused, 503)["detail"])
    assert refused.headers["Retry-After"] == "1" and alive.status_code == 200
    for answer in slow:
        assert "The body did not arrive" in check_problem(answer, 408)["detail"]
        assert answer.headers["Connection"] == "close"
    assert later.status_code == 200 and [metric(name) - number for name, number in zip(names, before)] == [2, 1]


def test_a_prediction_that_takes_too_long_is_503(make_client):
    released = threading.Event()

    def hang(numbers):
        released.wait(60)
        return numbers[:, 0]

    answer = predict(make_client(hang, timeout_seconds=0.2), {"prices": DAYS})
    released.set()
    assert "The prediction took more than 0.2 seconds" in check_problem(answer, 503)["detail"]
    assert answer.headers["Retry-After"] == "1"


def test_without_a_model_predictions_are_503_and_nonsense_is_still_400(make_client):
    client = make_client(None)
    answer = predict(client, GOOD)
    assert_on_page("There is no model yet", check_problem(answer, 503)["detail"])
    assert answer.headers["Retry-After"] == "5"
    check_problem(predict(client, b"{"), 400)
    check_problem(client.get("/model"), 503)
    ready = client.get("/ready")
    assert ready.status_code == 503 and ready.json()["model"] is None


def fails(numbers):
    raise RuntimeError("a secret of the model")


@pytest.mark.parametrize("fault", [fails, lambda rows: rows[:, 0] + 2, lambda rows: rows[:, 0] * float("nan")])
def test_a_fault_of_the_model_is_500_and_only_the_log_says_why(make_client, caplog, fault):
    answer = predict(make_client(fault), GOOD)
    assert check_problem(answer, 500)["detail"] == "The service failed. Its log says why."
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.request_id == answer.headers["X-Request-ID"] and record.exc_info
