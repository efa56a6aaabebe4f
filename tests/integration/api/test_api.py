"""The inference API as its callers meet it: the contract, the limits, the end. Real processes, real models."""

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from http.client import HTTPConnection

import mlflow
import numpy as np
import pandas as pd
import psutil
import pytest
import requests
from api_service import MAIN, NAME, QUIET_MODELS, Service, as_prices, as_rows, days, pid_of, service, versions
from chromium import browser
from fake_course import until
from playwright.sync_api import expect

from course.servers import free_port
from pystock.api import openapi as api_openapi
from pystock.api import schema as api_schema
from pystock.data import DataError, load, validate
from pystock.features import volatility

__all__ = ["browser", "service", "versions"]  # fixtures
pytestmark = [*QUIET_MODELS, pytest.mark.xdist_group("api")]
JSON = {"Content-Type": "application/json"}
ROW = dict(zip(api_schema.NAMES, api_openapi.STORM))
DAYS = api_openapi.EXAMPLES["prices"]["prices"]


@pytest.fixture(scope="module")
def small(versions, tmp_path_factory):
    """A service with low limits: 30,000 bytes, 67 rows, 2 requests, 5 seconds."""
    limits = {"max_body_bytes": 30_000, "max_rows": 67, "max_concurrent": 2, "timeout_seconds": 5}
    with Service(versions.uri, tmp_path_factory.mktemp("cache"), **limits) as started:
        yield started


# Answers --------------------------------------------------------------------------------------------------------------


def test_rows_get_what_the_model_says_to_the_last_bit(service, versions):
    said = mlflow.pyfunc.load_model(f"models:/{NAME}/{versions.forest}").predict(days())
    for rows in (slice(0, 1), slice(3, 40), slice(0, 1006)):  # alone, together with others, many
        answer = service.predict({"rows": as_rows(days()[rows])})
        assert answer.status_code == 200, answer.text
        expected = [{"probability": row.probability, "decision": row.decision} for row in said[rows].itertuples()]
        assert answer.json()["predictions"] == expected
        assert answer.json()["model"] == {"name": NAME, "version": versions.forest}
        assert answer.headers["X-Model-Version"] == str(versions.forest) and answer.json()["threshold"] == 0.25
    probabilities = said["probability"].to_list()
    answer = service.predict({"rows": as_rows(days()), "threshold": probabilities[7]}).json()
    assert [each["decision"] for each in answer["predictions"]] == [int(p > probabilities[7]) for p in probabilities]


@pytest.mark.parametrize("market", ["sp500", "nasdaq"])
def test_features_from_posted_prices_are_those_of_training(service, versions, market):
    prices = load(market).loc["2014-09":]
    offline = volatility(load(market))
    dates, online = api_schema.features(as_prices(prices))
    expected = offline.loc[dates]
    assert dates[0] == f"{prices.index[66]:%Y-%m-%d}" and len(dates) == len(prices) - 66
    assert (online == expected.to_numpy()).all()  # bit by bit
    posted = service.predict({"prices": as_prices(prices)}).json()["predictions"]
    rows = service.predict({"rows": as_rows(expected)}).json()["predictions"]
    assert posted == [{"date": date, **each} for date, each in zip(dates, rows)]


def test_what_is_refused_of_prices_is_what_the_files_refuse():
    """Each rule of pystock.data, broken in a file and in a request."""
    prices = load().iloc[-80:]
    breaks = {
        "a price is not positive": ("Low", 0.0),
        "the high is below the open or the close": ("High", 1.0),
        "the low is above the open or the close": ("Low", 1e6),
        "the volume is negative or not whole": ("Volume", -1),
    }
    for rule, (column, value) in breaks.items():
        broken = prices.copy()
        broken.loc[broken.index[70], column] = value
        with pytest.raises(DataError, match=rule):
            validate(broken)
        with pytest.raises(api_schema.Refused) as refused:
            api_schema.features(as_prices(broken))
        assert {"where": "prices[70]", "what": f"cannot be: {rule}"} in refused.value.errors
    with pytest.raises(DataError, match="gap"):
        validate(prices.drop(prices.index[20:30]))


def test_the_openapi_document_is_valid_and_its_examples_work(service):
    import schemathesis

    document = service.get("/openapi.json").json()
    schemathesis.openapi.from_dict(document).validate()
    operation = document["paths"]["/predict"]["post"]
    content = operation["requestBody"]["content"]["application/json"]
    assert list(content["examples"]) == ["one row", "two rows, another threshold", "prices"]
    for name, example in content["examples"].items():
        answer = service.predict(example["value"])
        assert answer.status_code == 200 and answer.json()["predictions"], name
    assert sorted(document["paths"]) == ["/health", "/metrics", "/model", "/predict", "/ready"]
    for path, methods in document["paths"].items():  # a generated client has methods of these names
        assert [each["operationId"] for each in methods.values()] == [path.strip("/")]
    names = set(document["components"]["schemas"])
    assert all(ref in names for ref in _references(document)) and {"RowsRequest", "PricesRequest", "Problem"} <= names
    page = service.get("/docs")
    assert page.status_code == 200 and "/openapi.json" in page.text


def test_the_page_of_the_contract_asks_and_shows_the_answer_without_the_internet(service, browser):
    page, asked = browser.new_page(), set()
    page.on("request", lambda request: asked.add(request.url))
    page.goto(f"{service.url}/docs")
    operation = page.locator(".opblock-post")
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Try it out").click()
    operation.locator(".examples-select-element").select_option(label="two rows, another threshold")
    operation.get_by_role("button", name="Execute").click()
    answer = operation.locator(".live-responses-table .response").first
    expect(answer.locator(".response-col_status")).to_have_text("200")
    expect(answer).to_contain_text('"threshold": 0.5')
    assert all(url.startswith((service.url, "data:")) for url in asked), asked
    page.close()


def _references(part):
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"].removeprefix("#/components/schemas/")
        part = list(part.values())
    if isinstance(part, list):
        for each in part:
            yield from _references(each)


def test_what_answers_is_told(service, versions):
    about = service.get("/model").json()
    version = mlflow.MlflowClient().get_model_version(NAME, str(versions.forest))
    told = {key: about[key] for key in ("name", "version", "alias", "run_id", "model_id", "from", "threshold")}
    assert told == {
        "name": NAME,
        "version": versions.forest,
        "alias": "champion",
        "run_id": version.run_id,
        "model_id": version.source.removeprefix("models:/"),
        "from": "registry",
        "threshold": 0.25,
    }
    assert [each["name"] for each in about["signature"]["inputs"]] == list(api_schema.NAMES)
    assert about["metrics"]["brier"] == 0.15 and about["tags"] == {}
    assert service.get("/health").json() == {"status": "alive"}
    ready = service.get("/ready")
    assert ready.status_code == 200 and ready.json()["tracking_server"]["reachable"] is True


def test_request_ids_logs_and_metrics(service, versions):
    before = service.metric("pystock_api_rows_total"), service.metric("pystock_api_probability_count")
    given = service.predict({"rows": [ROW, ROW]}, headers={"X-Request-ID": "ask-17"})
    assert given.headers["X-Request-ID"] == given.json()["request_id"] == "ask-17"
    made = service.predict({"rows": [ROW]}, headers={"X-Request-ID": "not sane; \tat all"})
    assert len(made.json()["request_id"]) == 32 and made.headers["X-Request-ID"] == made.json()["request_id"]
    line = service.event("request", "ask-17")
    expected = {"level": "INFO", "method": "POST", "path": "/predict", "status": 200, "rows": 2}
    assert expected.items() <= line.items() and line["model_version"] == versions.forest and line["milliseconds"] > 0
    assert pd.Timestamp(line["time"]).tzinfo
    after = service.metric("pystock_api_rows_total"), service.metric("pystock_api_probability_count")
    assert [now - then for now, then in zip(after, before)] == [3, 3]
    assert service.metric('pystock_api_requests_total{path="/predict",status="200"}') > 0
    assert service.metric("pystock_api_model_version") == versions.forest
    assert service.metric("pystock_api_tracking_server_up") == 1
    assert service.metric("pystock_api_in_progress") == 1  # the one that asks


# Nonsense -------------------------------------------------------------------------------------------------------------


def with_row(**changes):
    return json.dumps({"rows": [ROW, ROW | changes]}).encode()


def with_day(number, **changes):
    return {"prices": [*DAYS[:number], DAYS[number] | changes, *DAYS[number + 1 :]]}


VALUE = json.dumps(ROW["momentum_5"]).encode()
GOOD = json.dumps({"rows": [ROW]}).encode()
CONTENT = {
    "NaN": (GOOD.replace(VALUE, b"NaN"), "rows[0].momentum_5", "must be"),
    "Infinity": (GOOD.replace(VALUE, b"Infinity"), "rows[0].momentum_5", "must be"),
    "-Infinity": (GOOD.replace(VALUE, b"-Infinity"), "rows[0].momentum_5", "must be"),
    "1e999": (GOOD.replace(VALUE, b"1e999"), "rows[0].momentum_5", "must be"),
    "too large for 32 bits": (with_row(momentum_5=1e300), "rows[1].momentum_5", "must be 1000000 or less"),
    "a string": (with_row(momentum_5="0.1"), "rows[1].momentum_5", "must be a number, and is a string"),
    "a boolean": (with_row(momentum_5=True), "rows[1].momentum_5", "must be a number, and is a boolean"),
    "null": (with_row(momentum_5=None), "rows[1].momentum_5", "must be a number, and is null"),
    "an array for a number": (with_row(momentum_5=[1]), "rows[1].momentum_5", "must be a number, and is an array"),
    "a missing name": (json.dumps({"rows": [{k: v for k, v in ROW.items() if k != "momentum_5"}]}).encode(),)
    + ("rows[0].momentum_5", "is missing"),
    "an unknown name": (with_row(moment_5=1), "rows[1].moment_5", "is not known here (do you mean momentum_5?)"),
    "a misspelt threshold": ({"rows": [ROW], "treshold": 0.5}, "treshold", "do you mean threshold?"),
    "threshold 7": ({"rows": [ROW], "threshold": 7}, "threshold", "must be 1 or less"),
    "threshold NaN": (b'{"rows": [%s], "threshold": NaN}' % json.dumps(ROW).encode(), "threshold", "must be"),
    "empty rows": ({"rows": []}, "rows", "must hold 1 or more"),
    "rows is an object": ({"rows": ROW}, "rows", "must be an array, and is an object"),
    "a row is an array": ({"rows": [list(ROW.values())]}, "rows[0]", "must be an object, and is an array"),
    "an array for an object": (b"[1, 2]", "body", "must be an object, and is an array"),
    "a number": (b"17", "body", "must be an object"),
    "nothing": ({}, "body", "holds neither rows nor prices"),
    "both": ({"rows": [ROW], "prices": DAYS}, "body", "holds rows and prices"),
    "100,000 unknown names": (json.dumps(dict.fromkeys(map(str, range(100_000)), 1)).encode(), "body", "100000 places"),
    "10,000 empty rows": ({"rows": [{}] * 10_000}, "rows[0].abs_return", "is missing"),
    "a name of 100,000 letters": ({"x" * 100_000: 1}, "x" * 60, "is not known here"),
    "days out of order": ({"prices": [DAYS[1], DAYS[0], *DAYS[2:]]}, "prices[1].date", "stands before it"),
    "a day twice": (with_day(5, date=DAYS[4]["date"]), "prices[5].date", "stands before it"),
    "high below low": (with_day(3, high=1.0), "prices[3]", "the high is below the open or the close"),
    "low above high": (with_day(3, low=1e5), "prices[3]", "the low is above the open or the close"),
    "a zero price": (with_day(3, low=0), "prices[3].low", "must be above 0"),
    "a negative price": (with_day(3, open=-1.5), "prices[3].open", "must be above 0"),
    "a negative volume": (with_day(3, volume=-1), "prices[3].volume", "must be 0 or more"),
    "half a share": (with_day(3, volume=1.5), "prices[3].volume", "must be a whole number"),
    "a price that is NaN": (json.dumps(with_day(3, close=float("nan"))).encode(), "prices[3].close", "must be"),
    "66 days": ({"prices": DAYS[1:]}, "prices", "must hold 67 or more, and holds 66"),
    "no such day": (with_day(3, date="2018-02-30"), "prices[3].date", "is no day of the calendar"),
    "a date of another form": (with_day(3, date="31.12.2018"), "prices[3].date", "must be a day as in 2018-12-31"),
    "a date with a time": (with_day(3, date="2018-12-31T00:00"), "prices[3].date", "must be a day as in"),
    "a date as a number": (with_day(3, date=20181231), "prices[3].date", "must be a string, and is a number"),
    "a gap": (with_day(0, date="2018-01-02"), "prices[1].date", "more than 7 days after 2018-01-02"),
    "no volume ever": ({"prices": [day | {"volume": 0} for day in DAYS]}, "prices[66]", "gives no volume_change"),
    "another column": (with_day(3, adj_close=1.0), "prices[3].adj_close", "is not known here"),
}


def check_problem(answer, status):
    assert answer.status_code == status, answer.text[:500]
    assert answer.headers["Content-Type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status and body["type"] == "about:blank" and body["title"]
    assert body["request_id"] == answer.headers["X-Request-ID"]
    assert "Traceback" not in answer.text and "pydantic" not in answer.text and len(answer.text) < 3000
    return body


@pytest.mark.parametrize("case", CONTENT)
def test_content_that_is_refused_says_where_and_what(service, case):
    sent, where, what = CONTENT[case]
    body = check_problem(service.predict(sent), 422)
    assert body["errors"][0]["where"] == where and what in body["errors"][0]["what"], body
    assert len(body["errors"]) <= 10 and body["detail"].endswith(".")
    assert service.predict(GOOD).status_code == 200


NO_JSON = {
    "no body": (b"", "it is empty"),
    "cut": (GOOD[:-2], "EOF"),
    "invalid UTF-8": (GOOD.replace(b"rows", b"r\xffws"), "unicode"),
    "a byte order mark": (b"\xef\xbb\xbf" + GOOD, "byte order mark"),
    "UTF-16": (GOOD.decode().encode("utf-16"), "expected value"),
    "100,000 brackets": (b"[" * 100_000, "recursion limit"),
    "100,000 objects": (b'{"rows":' * 100_000, "recursion limit"),
    "a number of 1 MB": (GOOD.replace(VALUE, b"9" * 1_000_000), "number out of range"),
    "single quotes": (GOOD.replace(b'"', b"'"), "key must be a string"),
    "a comma too many": (GOOD[:-1] + b",}", "trailing comma"),
    "two of them": (GOOD + GOOD, "trailing characters"),
}


@pytest.mark.parametrize("case", NO_JSON)
def test_what_is_no_json_is_400(service, case):
    sent, why = NO_JSON[case]
    body = check_problem(service.predict(sent), 400)
    assert why in body["detail"] and body["detail"].startswith("The body is no JSON: ")
    assert service.predict(GOOD).status_code == 200


HEADERS = {
    "another type": ({"Content-Type": "text/csv"}, "text/csv"),
    "no type": ({"Content-Type": None}, "is missing"),
    "a form": ({"Content-Type": "application/x-www-form-urlencoded"}, "x-www-form-urlencoded"),
    "another charset": ({"Content-Type": "application/json; charset=latin-1"}, "latin-1"),
    "gzip": ({"Content-Encoding": "gzip"}, "gzip"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_body_that_is_not_said_to_be_plain_json_is_415(service, case):
    headers, said = HEADERS[case]
    body = gzip.compress(GOOD) if case == "gzip" else GOOD
    assert said in check_problem(service.predict(body, headers=headers), 415)["detail"]
    assert service.predict(GOOD).status_code == 200


def test_ways_to_write_the_same_that_are_taken(service):
    expected = service.predict(GOOD).json()["predictions"]
    turned = json.dumps({"rows": [dict(reversed(ROW.items()))]}).encode()
    twice = GOOD.replace(b'"rows"', b'"rows": [], "rows"')  # of a name that stands twice the last counts
    for body in (turned, twice, b" \n" + GOOD + b"\t"):
        assert service.predict(body).json()["predictions"] == expected
    for kind in ("application/json; charset=utf-8", 'application/json;charset="UTF-8"'):
        assert service.predict(GOOD, headers={"Content-Type": kind}).status_code == 200
    assert service.predict(with_row(momentum_5=0)).status_code == 200  # a whole number is a number


def test_head_is_answered_as_get_without_the_body(service):
    for path in ("/health", "/ready", "/metrics"):
        asked, told = service.get(path), requests.head(service.url + path, timeout=30)
        assert told.status_code == 200 and told.text == "", path
        assert told.headers["Content-Type"] == asked.headers["Content-Type"]
    assert requests.head(service.url + "/predict", timeout=30).status_code == 405


@pytest.mark.parametrize("upgrade", ["h2c", "websocket"])
def test_a_client_that_asks_for_http_2_gets_its_answer(service, upgrade):
    """Java's client does so with its first request, and a body."""
    with connected(service) as client:
        asks = head(len(GOOD), f"Upgrade: {upgrade}", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABk")
        client.sendall(asks + GOOD + asks + GOOD[:20])  # twice on one connection, the second in two parts
        time.sleep(0.1)
        client.sendall(GOOD[20:] + head(0, "Connection: close"))
        assert received(client).count(b"HTTP/1.1 200 ") == 2


def test_what_is_no_http_is_400_in_plain_text(service):
    lies = {
        "length": head("-5"),
        "two lengths": head(5, "Content-Length: 6"),
        "both": head(5, "Transfer-Encoding: chunked"),
    }
    strange = {
        "method": b"BREW / HTTP/1.1\r\n\r\n",
        "TLS": b"\x16\x03\x01",
        "tunnel": b"CONNECT a.org:1 HTTP/1.1\r\n\r\n",
    }
    for name, sent in (lies | strange).items():
        with connected(service) as client:
            client.sendall(sent)
            assert received(client).endswith(b"\r\n\r\nInvalid HTTP request received."), name
    assert service.predict(GOOD).status_code == 200


def test_paths_and_methods(service):
    assert "GET /docs" in check_problem(service.get("/nothing"), 404)["detail"]
    check_problem(service.get("/predict/"), 404)
    answer = service.get("/predict")
    check_problem(answer, 405)
    assert answer.headers["Allow"] == "POST"
    check_problem(requests.post(service.url + "/model", data=b"x" * 3_000_000, timeout=30), 405)
    assert service.predict(GOOD).status_code == 200


# Limits ---------------------------------------------------------------------------------------------------------------


def chunks(size, count):
    for _ in range(count):
        yield b"x" * size


def test_a_body_that_is_too_large_is_refused_before_it_is_there(service, small):
    large = b'{"rows": [' + b" " * 3_000_000
    assert "2000000 bytes" in check_problem(service.predict(large), 413)["detail"]
    assert "2000000 bytes" in check_problem(service.predict(chunks(100_000, 30)), 413)["detail"]
    assert "30000 bytes" in check_problem(small.predict(chunks(5_000, 7)), 413)["detail"]
    # told by the header alone, of which nothing was sent
    with connected(service) as client:
        client.sendall(head(length=10**15))
        assert client.recv(4096).startswith(b"HTTP/1.1 413 ")
    assert service.predict(GOOD).status_code == 200
    assert service.predict(gen for gen in [GOOD[:30], GOOD[30:]]).status_code == 200  # in chunks, and small


def connected(service):
    return socket.create_connection(("127.0.0.1", service.server.port), timeout=20)


def head(length, *more):
    lines = ["POST /predict HTTP/1.1", "Host: localhost", "Content-Type: application/json", f"Content-Length: {length}"]
    return "\r\n".join([*lines, *more, "", ""]).encode()


def received(client):
    """All that comes until the service closes."""
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts)


def test_a_length_with_5000_zeros_before_it_is_a_length(service):
    with connected(service) as client:
        client.sendall(head("0" * 5000 + str(len(GOOD))) + GOOD)
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_the_head_of_a_request_has_limits(service):
    with connected(service) as client, pytest.raises(OSError):  # refused while it is sent
        for _ in range(1000):
            client.sendall(b"POST /predict HTTP/1.1\r\nX-A: " + b"a" * 10_000)
    with connected(service) as client:
        client.sendall(head(len(GOOD), "X-A: " + "a" * 50_000) + GOOD)
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_connections_on_which_no_request_comes_are_closed(service):
    """Silent, slow in the head, or sending a body that nobody waits for: none holds its place for more than 10 s."""
    slow = {b"": b"", b"POST /pre": b"d", b"POST /predict HTTP/1.1\r\n": b"X-A: b\r\n", b"\r\n": b"\r\n"}
    slow[b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n\r\n"] = b"x"
    kept = HTTPConnection("127.0.0.1", service.server.port, timeout=20)
    assert _health(kept) == 200
    line = kept.sock
    begun, open_ = time.monotonic(), []
    for first, more in slow.items():
        client = connected(service)
        client.sendall(first)
        open_.append((client, more))
    while open_:
        assert time.monotonic() - begun < 19, open_  # they begin again with each of the bytes, or they would at 20
        time.sleep(0.5)
        open_ = [(client, more) for client, more in open_ if not _closed(client, more)]
    assert time.monotonic() - begun > 9
    assert service.predict(GOOD).status_code == 200
    # one that has had an answer may be idle for longer, as the connections of a proxy are
    assert _health(kept) == 200 and kept.sock is line
    kept.close()


def _health(connection):
    connection.request("GET", "/health")
    with connection.getresponse() as answer:
        answer.read()
        return answer.status


def _closed(client, more):
    client.settimeout(0.05)
    try:
        client.sendall(more)
        while client.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    client.close()
    return True


def test_more_rows_than_allowed(small):
    body = check_problem(small.predict({"rows": [ROW] * 68}), 422)
    assert body["errors"] == [{"where": "rows", "what": "must hold 67 or fewer, and holds 68"}]


def test_slow_bodies_get_408_and_others_503_while_they_take_the_places(small):
    with connected(small) as first, connected(small) as second:
        for client in (first, second):
            client.sendall(head(len(GOOD)) + GOOD[:20])
        until(lambda: small.metric("pystock_api_in_progress") == 3, 5)
        refused = small.predict(GOOD)
        assert "2 requests are at work" in check_problem(refused, 503)["detail"]
        assert refused.headers["Retry-After"] == "1"
        assert small.get("/health").status_code == small.get("/ready").status_code == 200
        for client in (first, second):
            answer = client.recv(4096)
            assert answer.startswith(b"HTTP/1.1 408 ") and b"connection: close" in answer, answer
    assert small.predict(GOOD).status_code == 200
    assert small.metric('pystock_api_rejected_total{reason="slow_body"}') == 2
    assert small.metric('pystock_api_rejected_total{reason="concurrency"}') >= 1


def test_clients_that_go_away_are_no_error(service):
    for _ in range(20):
        with connected(service) as client:
            client.sendall(head(len(GOOD)) + GOOD[:20])
    until(lambda: service.metric("pystock_api_in_progress") == 1, 5)
    assert service.predict(GOOD).status_code == 200 and not service.events("a request failed")
    assert service.metric('pystock_api_requests_total{path="/predict",status="499"}') == 20


# Beginning and end ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"PYSTOCK_API_PORT": "abc"}, ["PYSTOCK_API_PORT is 'abc'"]),
        ({"PYSTOCK_API_WORKERS": "0", "PYSTOCK_API_MODEL": "me"}, ["PYSTOCK_API_WORKERS is '0'", "models:/NAME@ALIAS"]),
        ({"MLFLOW_TRACKING_URI": ""}, ["MLFLOW_TRACKING_URI is not set"]),
    ],
)
def test_a_wrong_setting_ends_the_start_with_a_sentence(tmp_path, wrong, said):
    env = {**os.environ, "MLFLOW_TRACKING_URI": "http://127.0.0.1:1", "PYSTOCK_API_CACHE": str(tmp_path)} | wrong
    done = subprocess.run([sys.executable, str(MAIN)], env=env, capture_output=True, text=True, timeout=300)
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and len(lines) == len(said), done.stderr
    assert all(any(part in line and line.endswith(".") for line in lines) for part in said), done.stderr


def test_a_port_that_is_taken_is_told(service, tmp_path):
    env = {**os.environ, **service.env, "PYSTOCK_API_PORT": str(service.server.port)}
    done = subprocess.run([sys.executable, str(MAIN)], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "cannot be listened on (Address already in use)" in done.stderr, done.stderr


class Clients:
    """Threads that ask without a pause, and count what they get. `fresh`: with a new connection for each request."""

    def __init__(self, service, threads, body=GOOD, check=None, fresh=False):
        self.url, self.body, self.check, self.fresh = service.url + "/predict", body, check, fresh
        self.ended, self.counts = threading.Event(), Counter()
        self.threads = [threading.Thread(target=self._ask) for _ in range(threads)]

    def _ask(self):
        session = requests if self.fresh else requests.Session()
        while not self.ended.is_set():
            self.counts["sent"] += 1
            try:
                answer = session.post(
                    self.url, data=self.body, headers={"Content-Type": "application/json"}, timeout=30
                )
            except requests.ConnectionError as error:
                # nobody listens any more, which is what a client sees of a service that has ended
                self.counts["not taken" if "refused" in str(error) else f"lost: {error}"] += 1
                return
            self.counts[answer.status_code] += 1
            if self.check:
                self.check(answer)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        for thread in self.threads:
            thread.join(30)


@pytest.mark.skipif(os.name == "nt", reason="SIGTERM")
@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_under_load_loses_no_request(versions, tmp_path, record_property, workers):
    port = free_port()
    env = {"PYSTOCK_API_WORKERS": str(workers), "PYSTOCK_API_PORT": str(port), "PYSTOCK_API_CACHE": str(tmp_path)}
    env = {**os.environ, "MLFLOW_TRACKING_URI": versions.uri, **env}
    started = Service(versions.uri, tmp_path)
    started.url = f"http://127.0.0.1:{port}"
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen([sys.executable, str(MAIN)], env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        until(lambda: _ready(started), 40)
        until(lambda: (tmp_path / "log").read_text().count('"message":"loaded"') == workers, 40)
        until(lambda: workers == 1 or len(_serving(psutil.Process(process.pid))) == workers, 40)
        body = json.dumps({"rows": as_rows(days())}).encode()  # takes a while
        with Clients(started, 3) as single, Clients(started, 3, body) as many, Clients(started, 6, fresh=True) as fresh:
            time.sleep(1)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, (tmp_path / "log").read_text()[-2000:]
        counts = single.counts + many.counts + fresh.counts
        answered = {kind: count for kind, count in counts.items() if kind not in ("sent", "not taken")}
        assert set(answered) == {200} and counts["sent"] == counts[200] + counts["not taken"], (
            counts,
            [line for line in (tmp_path / "log").read_text().splitlines() if '"request"' not in line],
        )
        until(lambda: not _group(process.pid), 5)  # the helper of multiprocessing ends a moment after the others
        record_property(
            "measured",
            f"SIGTERM under load, {workers} worker(s): {counts['sent'] - counts['not taken']} requests taken, "
            f"{counts[200]} answered, 0 lost",
        )
    finally:
        if _group(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.skipif(os.name == "nt", reason="SIGTERM")
def test_what_waits_to_be_accepted_when_the_service_ends_is_answered(versions, tmp_path):
    """uvloop accepts one connection between two questions: of 150 that come at once most wait for a while."""
    body = json.dumps({"rows": as_rows(days()[:100])}).encode()
    with Service(versions.uri, tmp_path, max_concurrent=200) as started, ExitStack() as stack:
        clients = [stack.enter_context(connected(started)) for _ in range(150)]
        for client in clients:
            client.sendall(head(len(body)) + body)
        os.kill(pid_of(started), signal.SIGTERM)
        statuses = Counter(received(client)[9:12] for client in clients)
    assert statuses == {b"200": 150}


@pytest.mark.skipif(os.name == "nt", reason="SIGTERM")
def test_what_takes_longer_than_the_end_may_take_gets_503(versions, tmp_path):
    with Service(versions.uri, tmp_path, shutdown_seconds=5, timeout_seconds=60) as started:
        with connected(started) as slow, connected(started) as late:
            for client in (slow, late):
                client.sendall(head(len(GOOD)) + GOOD[:20])
            until(lambda: started.metric("pystock_api_in_progress") == 3, 5)
            os.kill(pid_of(started), signal.SIGTERM)
            time.sleep(0.3)
            late.sendall(GOOD[20:])  # in time after all
            assert received(late).startswith(b"HTTP/1.1 200 ")
            answer = received(slow)
        assert answer.startswith(b"HTTP/1.1 503 ") and b"retry-after: 1" in answer, answer
        assert b"The service ends" in answer and not [e for e in started.events("Exception in ASGI application\n")]


def _ready(service):
    try:
        return service.get("/ready").status_code == 200
    except requests.ConnectionError:
        return False


def _group(leader):
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            pass
    return found


@pytest.mark.skipif(os.name == "nt", reason="uvicorn's workers, and signals")
def test_two_workers_share_the_work_and_one_that_dies_is_replaced(versions, tmp_path):
    with Service(versions.uri, tmp_path, workers=2) as started:
        supervisor = psutil.Process(pid_of(started))
        until(lambda: len(_serving(supervisor)) == 2, 20)
        until(lambda: started.metric("pystock_api_model_version") == versions.forest, 20)
        for _ in range(40):
            assert started.predict(GOOD).status_code == 200
        asked = 'pystock_api_requests_total{path="/predict",status="200"}'
        until(lambda: started.metric(asked) == 40, what="the count of both workers")
        silent = _serving(supervisor)
        for worker in silent:
            worker.suspend()
        time.sleep(7)  # as one that imports on a slow machine
        for worker in silent:
            worker.resume()
        assert started.predict(GOOD).status_code == 200 and _serving(supervisor) == silent, "they were replaced"
        dead = _serving(supervisor)[0]
        dead.kill()
        until(lambda: len(_serving(supervisor)) == 2 and dead not in _serving(supervisor), 30)
        until(lambda: started.metric("pystock_api_model_version") == versions.forest, 20)
        until(lambda: started.metric("pystock_api_in_progress") == 1, what="the end of what the dead one had left")
        took = []
        with requests.Session() as session:
            for _ in range(30):
                begun = time.perf_counter()
                answer = session.post(f"{started.url}/predict", data=GOOD, headers=JSON)
                took.append(time.perf_counter() - begun)
                assert answer.status_code == 200
        assert np.quantile(took, 0.25) < 0.03  # without TCP_NODELAY nearly all take 0.04
        workers = _serving(supervisor)
        guard = psutil.Process(started.server._guard.pid)
        guard.suspend()  # it would end the workers, too
        try:
            supervisor.kill()  # and its workers do not hold the port for ever
            until(lambda: not any(map(_lives, workers)), 15)
        finally:
            guard.resume()


def _lives(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _serving(supervisor):
    """The workers that listen."""
    found = []
    for child in supervisor.children():
        try:
            if (
                any(each.status == psutil.CONN_LISTEN for each in child.net_connections("tcp"))
                and child.num_threads() > 1
            ):
                found.append(child)
        except psutil.NoSuchProcess:
            pass
    return found
