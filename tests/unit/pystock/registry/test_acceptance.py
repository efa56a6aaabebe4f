"""The receiver of registry events: which it believes, and which start a test."""

import json
import time

import pytest
from fastapi.testclient import TestClient
from mlflow.webhooks.delivery import _generate_hmac_signature

from pystock.registry.acceptance import MAX_AGE, SECRET, EventRefused, receiver, signature, verify

VERSION = {"name": "a-model", "version": "1", "key": "lifecycle", "value": "Staging"}
BODY = json.dumps({"entity": "model_version_tag", "action": "set", "data": VERSION}).encode()


def headers(body=BODY, secret="s3cret", delivery="d-1", when=None):
    timestamp = str(int(time.time()) if when is None else when)
    return {
        "X-MLflow-Delivery-Id": delivery,
        "X-MLflow-Timestamp": timestamp,
        "X-MLflow-Signature": signature(secret, delivery, timestamp, body),
    }


def test_the_signature_is_that_of_mlflow():
    theirs = _generate_hmac_signature("key", "d", "170", '{"a": "ü"}')
    assert signature("key", "d", "170", '{"a": "ü"}'.encode()) == theirs
    assert verify("s3cret", headers(), BODY, {})["data"]["version"] == "1"


@pytest.mark.parametrize(("given", "body"), [
    (headers() | {"X-MLflow-Signature": ""}, BODY),
    (headers() | {"X-MLflow-Signature": "ü"}, BODY),
    (headers() | {"X-MLflow-Delivery-Id": "d-2"}, BODY),
    (headers() | {"X-MLflow-Timestamp": "1"}, BODY),
    (headers() | {"X-MLflow-Timestamp": "not a number"}, BODY),
    (headers(), BODY.replace(b'"1"', b'"2"')),
    ({}, BODY),
])  # fmt: skip
def test_a_forged_event_is_refused(given, body):
    seen = {}
    with pytest.raises(EventRefused, match="signature") as refused:
        verify("s3cret", given, body, seen)
    assert refused.value.status == 401 and not seen


@pytest.mark.parametrize("age", [MAX_AGE + 5, -MAX_AGE - 5])
def test_a_stale_event_is_refused(age):
    with pytest.raises(EventRefused, match="stale") as refused:
        verify("s3cret", headers(when=int(time.time()) - age), BODY, {})
    assert refused.value.status == 401


def test_a_replayed_event_is_refused_and_the_memory_stays_small():
    seen = {}
    verify("s3cret", headers(when=1000), BODY, seen, now=1000)
    with pytest.raises(EventRefused, match="is a replay") as refused:
        verify("s3cret", headers(when=1000), BODY, seen, now=1000 + MAX_AGE)
    assert refused.value.status == 409
    verify("s3cret", headers(delivery="d-2", when=1400), BODY, seen, now=1400)
    assert list(seen) == ["d-2"], "what is too old to be accepted anyway is forgotten"


@pytest.fixture
def post(monkeypatch):
    """POST to a receiver; the tests that it would start are listed in `post.started`."""
    started = []
    monkeypatch.setenv(SECRET, "s3cret")
    monkeypatch.setattr("pystock.registry.acceptance.subprocess.run", started.append)
    client = TestClient(receiver())
    assert client.get("/health").status_code == 200

    def post(body=BODY, **options):
        return client.post("/registry", content=body, headers=headers(body, **options))

    post.started = started
    return post


def test_only_a_version_that_comes_to_staging_is_tested(post):
    for before, after in ((b"Staging", b"Archived"), (b"lifecycle", b"note"), (b'"set"', b'"deleted"')):
        answer = post(BODY.replace(before, after), delivery=f"not {before}")
        assert (answer.status_code, answer.json(), post.started) == (202, {"test": "not requested"}, [])
    answer = post()
    assert (answer.status_code, answer.json()) == (202, {"test": "started"})
    assert [command[-3:] for command in post.started] == [["--", "a-model", "1"]]


def test_refused_events_start_nothing(post):
    assert post(secret="other").status_code == 401 and post.started == []
    assert [post().status_code, post().status_code] == [202, 409] and len(post.started) == 1


def test_no_receiver_without_a_secret(monkeypatch):
    monkeypatch.delenv(SECRET, raising=False)
    with pytest.raises(ValueError, match=f"{SECRET} is not set"):
        receiver()
