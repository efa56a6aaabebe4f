"""The processes of the inference API: real HTTP, start, end, workers, log. Its contract is proven in tests/unit."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import pandas as pd
import psutil
import pytest
import requests
from api_service import MAIN, Service, as_rows, days, process_of
from chromium import browser
from fake_course import until
from playwright.sync_api import expect

from course.servers import answers

__all__ = ["browser"]  # a fixture
pytestmark = pytest.mark.xdist_group("api")
ROWS = {"rows": as_rows(days().iloc[:1])}
GOOD = json.dumps(ROWS).encode()
no_signals = pytest.mark.skipif(os.name == "nt", reason="signals")


def connected(service):
    return socket.create_connection(("127.0.0.1", service.server.port), timeout=60)


def head(length):
    lines = ["POST /predict HTTP/1.1", "Host: localhost", "Content-Type: application/json", f"Content-Length: {length}"]
    return "\r\n".join([*lines, "", ""]).encode()


@contextmanager
def half_sent(started):
    """Begin a request whose body is sent in part, and wait until it is in progress."""
    with connected(started) as client:
        client.sendall(head(len(GOOD)) + GOOD[:20])
        until(lambda: started.metric("pystock_api_in_progress") == 2, what="the request's begin")
        yield client


def test_the_log_has_a_json_line_for_each_request_but_those_of_monitors(service, versions):
    service.get("/health")
    assert service.predict({"rows": []}, **{"X-Request-ID": "ask-16"}).status_code == 422
    service.predict(ROWS, **{"X-Request-ID": "ask-17"})
    until(lambda: service.events("request")[-1]["request_id"] == "ask-17")
    bad, good = service.events("request")[-2:]
    expected = {"level": "INFO", "method": "POST", "path": "/predict", "status": 200, "rows": 1}
    assert expected.items() <= good.items() and good["model_version"] == versions.forest and good["milliseconds"] > 0
    assert (bad["request_id"], bad["status"], bad["rows"]) == ("ask-16", 422, None) and pd.Timestamp(bad["time"]).tzinfo


def test_the_docs_page_sends_requests_and_needs_no_internet(service, browser):
    page, urls = browser.new_page(), set()
    page.on("request", lambda request: urls.add(request.url))
    page.goto(f"{service.url}/docs")
    operation = page.locator(".opblock-post")
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Try it out").click()
    operation.locator(".examples-select-element").select_option(label="two rows, another threshold")
    operation.get_by_role("button", name="Execute").click()
    answer = operation.locator(".live-responses-table .response").first
    expect(answer.locator(".response-col_status")).to_have_text("200")
    expect(answer).to_contain_text('"threshold": 0.5')
    assert all(url.startswith((service.url, "data:")) for url in urls), urls
    page.close()


def test_head_has_no_body_and_a_large_announced_body_is_413(service):
    assert requests.head(f"{service.url}/ready", timeout=30).text == ""
    for length in (10**15, "0" * 5000 + str(len(GOOD))):
        with connected(service) as client:
            client.sendall(head(length))
            assert client.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_clients_that_go_away_are_not_errors(service):
    for _ in range(20):
        with connected(service) as client:
            client.sendall(head(len(GOOD)) + GOOD[:20])
    until(lambda: service.metric('pystock_api_requests_total{path="/predict",status="499"}') == 20)
    assert service.metric("pystock_api_in_progress") == 1 and not service.events("a request failed")


def start(**env):
    """Start the service, and wait for its end."""
    command = [sys.executable, str(MAIN)]
    return subprocess.run(command, env=os.environ | env, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(("wrong", "parts"), [
    ({"PYSTOCK_API_PORT": "abc"}, ["PYSTOCK_API_PORT is 'abc'"]),
    ({"PYSTOCK_API_WORKERS": "0", "PYSTOCK_API_MODEL": "me"}, ["models:/NAME@ALIAS", "PYSTOCK_API_WORKERS is '0'"]),
    ({"MLFLOW_TRACKING_URI": ""}, ["MLFLOW_TRACKING_URI is not set"]),
])  # fmt: skip
def test_a_wrong_setting_ends_the_start_with_a_sentence(tmp_path, wrong, parts):
    done = start(**{"MLFLOW_TRACKING_URI": "http://127.0.0.1:1", "PYSTOCK_API_CACHE": str(tmp_path)} | wrong)
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and len(lines) == len(parts), done.stderr
    assert all(part in line and line.endswith(".") for part, line in zip(parts, lines)), done.stderr


def test_a_taken_port_ends_the_start_and_the_log_says_so(service):
    done = start(**service.env | {"PYSTOCK_API_PORT": str(service.server.port)})
    assert done.returncode not in (0, 2) and "address already in use" in done.stdout.lower(), done.stdout


@no_signals
@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_finishes_the_requests_in_flight_and_exits_with_0(versions, tmp_path, workers):
    limits = {"shutdown_seconds": 300, "timeout_seconds": 600}
    with Service(versions.uri, tmp_path, workers=workers, **limits) as started:
        main = process_of(started)
        until(lambda: len(started.events("loaded")) == workers, 60)
        with half_sent(started) as client:
            main.send_signal(signal.SIGTERM)
            until(lambda: not answers(f"{started.url}/health"), 60, "the end of new requests")
            client.sendall(GOOD[20:])
            assert client.makefile("rb").read().startswith(b"HTTP/1.1 200 ")
        assert started.server._guard.wait(60) == 0  # the guard ends as what it guards


@no_signals
def test_two_workers_share_their_metrics_and_one_that_dies_is_replaced(versions, tmp_path):
    with Service(versions.uri, tmp_path, workers=2) as started:
        supervisor = process_of(started)
        until(lambda: len(started.events("loaded")) == 2, 60)
        for _ in range(40):
            assert started.predict(ROWS).status_code == 200
        until(lambda: started.metric('pystock_api_requests_total{path="/predict",status="200"}') == 40)
        workers = [child for child in supervisor.children() if "resource_tracker" not in " ".join(child.cmdline())]
        assert len(workers) == 2
        with half_sent(started):
            for worker in workers:
                worker.kill()  # with what it has in progress
        until(lambda: len(started.events("loaded")) == 4, 60, "two new workers")
        assert started.predict(ROWS).status_code == 200
        assert started.metric("pystock_api_model_version") == versions.forest
        assert started.metric("pystock_api_in_progress") == 1, "what the dead ones had in progress counts"
        workers = supervisor.children()
        guard = psutil.Process(started.server._guard.pid)
        guard.suspend()  # it would end the workers, too
        try:
            supervisor.kill()
            assert psutil.wait_procs(workers, timeout=120)[1] == [], "workers outlive their supervisor"
        finally:
            guard.resume()
