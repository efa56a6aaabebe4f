"""The receiver of registry events, and the acceptance test that it starts."""

import json
import os
import time

import pytest
import requests
from fake_course import until

from course import store
from pystock.registry.acceptance import (
    MAX_AGE,
    SECRET,
    EventRefused,
    accept,
    examine,
    receiver,
    running,
    served,
    signature,
    verify,
)

BODY = json.dumps(
    {
        "entity": "model_version_tag",
        "action": "set",
        "data": {"name": "a-model", "version": "1", "key": "lifecycle", "value": "Staging"},
    }
).encode()


def headers(body=BODY, secret="s3cret", delivery="d-1", when=None):
    timestamp = str(int(time.time()) if when is None else when)
    return {
        "X-MLflow-Delivery-Id": delivery,
        "X-MLflow-Timestamp": timestamp,
        "X-MLflow-Signature": signature(secret, delivery, timestamp, body),
    }


# --- the signature ----------------------------------------------------------------------------------------------------


def test_the_signature_is_that_of_mlflow():
    from mlflow.webhooks.delivery import _generate_hmac_signature

    assert signature("key", "d", "170", b'{"a": "\xc3\xbc"}') == _generate_hmac_signature(
        "key", "d", "170", '{"a": "ü"}'
    )


def test_a_signed_event_is_read():
    assert verify("s3cret", headers(), BODY, {})["data"]["version"] == "1"


@pytest.mark.parametrize(
    "change",
    [
        {"X-MLflow-Signature": ""},
        {"X-MLflow-Signature": "v1,bm90IGl0"},
        {"X-MLflow-Signature": "ü"},
        {"X-MLflow-Delivery-Id": "d-2"},
        {"X-MLflow-Timestamp": "1"},
        {"X-MLflow-Timestamp": "not a number"},
    ],
)
def test_a_forged_event_is_refused(change):
    seen = {}
    with pytest.raises(EventRefused, match="signature") as refused:
        verify("s3cret", headers() | change, BODY, seen)
    assert refused.value.status == 401 and not seen


def test_another_secret_another_body_and_no_headers_are_refused():
    for given, body in ((headers(secret="other"), BODY), (headers(), BODY.replace(b'"1"', b'"2"')), ({}, BODY)):
        with pytest.raises(EventRefused, match="signature"):
            verify("s3cret", given, body, {})


@pytest.mark.parametrize("age", [MAX_AGE + 5, -MAX_AGE - 5])
def test_a_stale_event_is_refused(age):
    with pytest.raises(EventRefused, match="stale") as refused:
        verify("s3cret", headers(when=int(time.time()) - age), BODY, {})
    assert refused.value.status == 401


def test_a_replayed_event_is_refused_and_the_memory_stays_small():
    seen = {}
    verify("s3cret", headers(when=1000), BODY, seen, now=1000)
    with pytest.raises(EventRefused, match="replayed") as refused:
        verify("s3cret", headers(when=1000), BODY, seen, now=1000 + MAX_AGE)
    assert refused.value.status == 409
    verify("s3cret", headers(delivery="d-2", when=1400), BODY, seen, now=1400)
    assert list(seen) == ["d-2"], "what is too old to be accepted anyway is forgotten"


# --- the receiver -----------------------------------------------------------------------------------------------------


@pytest.fixture
def post(monkeypatch):
    """POST to a receiver; the tests it would start are listed in `post.started`."""
    started = []
    monkeypatch.setenv(SECRET, "s3cret")
    monkeypatch.setattr("pystock.registry.acceptance.subprocess.run", started.append)
    with running(receiver()) as url:
        assert requests.get(f"{url}/health", timeout=10).status_code == 200

        def post(body=BODY, given=None, **options):
            given = headers(body, **options) if given is None else given
            return requests.post(f"{url}/registry", data=body, headers=given, timeout=10)

        post.started = started
        yield post


def test_a_version_in_staging_is_tested(post):
    answer = post()
    assert (answer.status_code, answer.json()) == (202, {"test": "started"})
    until(lambda: post.started)  # the test begins after the answer
    assert [command[-3:] for command in post.started] == [["--", "a-model", "1"]]


@pytest.mark.parametrize(
    "before, after", [(b"Staging", b"Archived"), (b"lifecycle", b"note"), (b'"set"', b'"deleted"')]
)
def test_other_events_start_nothing(post, before, after):
    answer = post(BODY.replace(before, after))
    assert (answer.status_code, answer.json(), post.started) == (202, {"test": "not asked for"}, [])


def test_what_is_refused_starts_nothing(post):
    assert post(secret="other").status_code == 401
    assert post(when=5).status_code == 401
    assert post(given={}).status_code == 401
    assert post.started == []
    assert [post().status_code, post().status_code] == [202, 409]
    until(lambda: post.started)
    assert len(post.started) == 1


def test_no_receiver_without_a_secret(monkeypatch):
    monkeypatch.delenv(SECRET, raising=False)
    with pytest.raises(ValueError, match=f"{SECRET} is not set"):
        receiver()


# --- the test of a version --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def registry(tmp_path_factory, empty_store):
    """A store with a sound version 1, and versions that must fail: 2 without tags, 3 whose model raises."""
    import mlflow
    from sklearn.linear_model import LogisticRegression

    from pystock.data import load
    from pystock.evaluation import time_split
    from pystock.features import dataset
    from pystock.models import log_decision_model

    outside, folder = dict(os.environ), tmp_path_factory.mktemp("acceptance") / "store"
    store.copy(empty_store, folder)
    os.environ[store.ARTIFACT_ROOT_VARIABLE] = store.artifact_root(folder)
    mlflow.set_tracking_uri(store.uri(folder))
    mlflow.set_registry_uri(store.uri(folder))
    X, _, y, _ = time_split(*dataset(load("sp500", end="2014-12-31"), "big_move", "volatility"))
    model = LogisticRegression(C=0.1, max_iter=1000).fit(X, y)
    client = mlflow.MlflowClient()
    client.create_registered_model("a-model")
    about = {"target": "big_move", "features": "volatility", "market": "sp500"}
    mlflow.set_experiment("models")
    for tags, threshold in ((about, 0.3), ({"target": "big_move"}, 0.3), (about, 0.3)):
        with mlflow.start_run(tags=tags) as run:
            info = log_decision_model(model, X, threshold=threshold)
        client.create_model_version("a-model", info.model_uri, run.info.run_id, model_id=info.model_id)
    place = client.get_logged_model(info.model_id).artifact_location.removeprefix("file://")
    with open(f"{place}/decision_model.py", "a") as code:
        code.write("\nraise OSError('the disk is gone')\n")
    yield client
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)
    os.environ.clear()
    os.environ.update(outside)


def newest(client, version):
    experiment = client.get_experiment_by_name("acceptance").experiment_id
    return client.search_runs([experiment], f"tags.version = '{version}'", order_by=["attributes.start_time DESC"])[0]


def test_a_sound_version_passes_and_leaves_a_run(registry):
    assert accept("a-model", "1", days=40)
    run = newest(registry, "1")
    assert (run.info.status, run.data.tags["outcome"]) == ("FINISHED", "passed")
    assert run.data.tags["condition.answers"].startswith("holds: 40 of 40 days answered, as without a server")
    assert run.data.tags["condition.schema"] == (
        "holds: 40 of 40 days got a probability and a decision; without abs_return: 400"
    )
    assert run.data.metrics["answered"] == 40 and 0 < run.data.metrics["latency_p50_ms"] < 1000


def test_a_version_whose_run_says_too_little_is_named(registry):
    with pytest.raises(ValueError, match="version 2 of a-model cannot be tested, .* no tag features or market"):
        accept("a-model", "2")


def test_a_model_that_cannot_be_loaded_fails_with_its_reason(registry):
    with pytest.raises(Exception, match="the disk is gone"):
        accept("a-model", "3")
    run = newest(registry, "3")
    assert (run.info.status, run.data.tags["outcome"]) == ("FAILED", "failed")
    assert "the disk is gone" in run.data.tags["error"]


def test_wrong_answers_are_found(registry):
    """The same model against expectations that it does not meet, and asked in vain."""
    import mlflow

    model = mlflow.pyfunc.load_model("models:/a-model/1")
    rows = registry_rows(model)
    expected = model.predict(rows)
    with served(model) as url:
        good, _ = examine(url, rows, expected)
        moved, _ = examine(url, rows, expected.assign(probability=expected["probability"] + 1e-6))
        silent, numbers = examine(url, rows.iloc[:, 1:], expected)
    assert all(condition.passed for condition in good)
    assert [condition.passed for condition in moved] == [False, True, True] and "up to 1e-06 from" in moved[0].evidence
    assert [condition.passed for condition in silent[:2]] == [False, False] and numbers["answered"] == 0


def registry_rows(model):
    from pystock.data import load
    from pystock.features import dataset

    return dataset(load("sp500", end="2014-12-31"), "big_move", "volatility")[0].tail(5)
