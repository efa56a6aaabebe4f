"""The model behind the inference API: replaced under load, refused, lost and found again, served from the cache."""

import json
import shutil
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest
import requests
from api_service import NAME, QUIET_MODELS, Service, as_rows, days, service, versions
from fake_course import until

from course import store
from course.servers import launch
from pystock.api import model as api_champion
from pystock.api.settings import Settings

__all__ = ["service", "versions"]  # fixtures
pytestmark = [
    *QUIET_MODELS,
    pytest.mark.xdist_group("api_champion"),
]
JSON = {"Content-Type": "application/json"}
ROWS = as_rows(days().iloc[:5])


@pytest.fixture(autouse=True)
def forest_again(versions):
    """Each test begins and ends with the first version as champion."""
    versions.alias(versions.forest)
    yield
    versions.alias(versions.forest)


def said_by(version, table):
    said = mlflow.pyfunc.load_model(f"models:/{NAME}/{version}").predict(table)
    return said.to_dict("records")


# A new champion -------------------------------------------------------------------------------------------------------


def test_a_new_champion_takes_over_between_two_requests(service, versions, record_property):
    """Under load: none is lost, and each answer has the probabilities of the version that it names, in every row."""
    service.until_version(versions.forest)
    parts = [days().iloc[:1], days().iloc[10:40], days()]
    good = (versions.forest, versions.line, versions.stump)
    expected = {(version, len(part)): said_by(version, part) for version in good for part in parts}
    ended, counts, mixed = threading.Event(), Counter(), []

    def ask(part):
        body, session = json.dumps({"rows": as_rows(part)}).encode(), requests.Session()
        while not ended.is_set():
            counts["sent"] += 1
            answer = session.post(f"{service.url}/predict", data=body, headers=JSON, timeout=30)
            version = answer.json()["model"]["version"] if answer.status_code == 200 else answer.text
            counts[version] += 1
            if answer.json().get("predictions") != expected[version, len(part)]:
                mixed.append((version, len(part)))

    threads = [
        threading.Thread(target=ask, args=(part,)) for part in (parts[0], parts[0], parts[1], parts[1], parts[2])
    ]
    for thread in threads:
        thread.start()
    switches = service.metric("pystock_api_switches_total")
    for version in (versions.line, versions.stump, versions.forest, versions.line, versions.forest):
        versions.alias(version)
        service.until_version(version)
    ended.set()
    for thread in threads:
        thread.join(30)
    answered = {version: counts[version] for version in good}
    assert mixed == [] and counts["sent"] == sum(answered.values()) and min(answered.values()) > 0, counts
    assert service.metric("pystock_api_switches_total") - switches == 5
    record_property(
        "measured",
        f"the champion replaced 5 times under load: {counts['sent']} requests sent, {sum(answered.values())} answered "
        f"({', '.join(f'version {version}: {count}' for version, count in answered.items())}), 0 lost, 0 mixed",
    )


def test_a_version_that_fails_the_check_is_refused_once_and_the_old_one_stays(versions, tmp_path):
    env = {"LOADS": str(tmp_path / "loads")}
    loads = tmp_path / "loads"
    with Service(versions.uri, tmp_path / "cache", env) as service:
        versions.alias(versions.wrong)
        until(lambda: service.ready()["champion"]["refused"], 20)
        refused = service.ready()["champion"]["refused"]
        assert refused["version"] == versions.wrong and "no probability" in refused["reason"], refused
        for _ in range(2):  # it looks on
            checked = service.ready()["champion"]["checked_at"]
            until(lambda checked=checked: service.ready()["champion"]["checked_at"] > checked, 20)
        assert loads.read_text() == "loaded\n" and len(service.events("version refused")) == 1
        assert service.metric("pystock_api_refused_versions_total") == 1
        assert service.predict({"rows": ROWS}).json()["model"]["version"] == versions.forest
        versions.alias(versions.narrow)
        until(lambda: service.ready()["champion"]["refused"]["version"] == versions.narrow, 20)
        assert "12 volatility features" in service.ready()["champion"]["refused"]["reason"]
        versions.alias(versions.line)
        service.until_version(versions.line)
        assert service.ready()["champion"]["refused"] is None
        before = loads.read_text()
        versions.alias(versions.wrong)  # the alias has moved: it is tried again
        until(lambda: loads.read_text() != before, 20)
        assert service.predict({"rows": ROWS}).json()["predictions"] == said_by(versions.line, days().iloc[:5])


def test_without_the_alias_the_old_one_goes_on(service, versions):
    service.until_version(versions.forest)
    client = mlflow.MlflowClient()
    before = len(service.events("no champion"))
    client.delete_registered_model_alias(NAME, "champion")
    until(lambda: len(service.events("no champion")) == before + 1, 20)
    assert service.version() == versions.forest and service.get("/ready").status_code == 200
    assert service.predict({"rows": ROWS}).status_code == 200
    versions.alias(versions.stump)
    service.until_version(versions.stump)


def test_without_the_alias_it_starts_with_the_last_good_version(versions, tmp_path):
    """A worker that takes the place of one that died answers as the others do."""
    with Service(versions.uri, tmp_path) as service:
        assert service.ready()["champion"]["version"] == versions.forest
        service.stop()
        mlflow.MlflowClient().delete_registered_model_alias(NAME, "champion")
        service.start()
        ready = service.ready()
        assert ready["from"] == "cache" and ready["model"]["version"] == versions.forest
        assert ready["champion"]["version"] is None and ready["tracking_server"]["reachable"]


def test_without_a_champion_it_waits_for_one(versions, tmp_path):
    mlflow.MlflowClient().delete_registered_model_alias(NAME, "champion")
    with Service(versions.uri, tmp_path).start("/health") as service:
        assert service.get("/ready").status_code == 503 and service.ready()["model"] is None
        until(lambda: service.ready()["champion"]["checked_at"], 20)
        assert service.ready()["champion"]["version"] is None
        assert service.get("/model").status_code == 503
        answer = service.predict({"rows": ROWS})
        assert answer.status_code == 503 and answer.headers["Retry-After"] == "5", answer.text
        assert service.predict(b"{").status_code == 400  # nonsense is told as such
        versions.alias(versions.line)
        service.until_version(versions.line)
        assert service.predict({"rows": ROWS}).status_code == 200 and service.get("/ready").status_code == 200


# The tracking server is gone ------------------------------------------------------------------------------------------


class TrackingServer:
    """A real `mlflow server` on the store of `versions`, which can be stopped and started again at its address."""

    def __init__(self, versions):
        self.command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", "{port}"]
        self.command += ["--workers", "1", "--backend-store-uri", versions.uri]
        self.command += ["--artifacts-destination", str(versions.folder / "files")]
        self.server, self.port = None, None
        self.start()

    def start(self):
        env = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.server = launch(self.command, port=self.port, env=env).wait_until_healthy()
        self.port, self.url = self.server.port, self.server.url

    def stop(self):
        self.server.stop()


@pytest.fixture(scope="module")
def tracking(versions):
    started = TrackingServer(versions)
    yield started
    started.stop()


def test_the_tracking_server_may_go_and_come_back(tracking, versions, tmp_path):
    cache = tmp_path / "cache"
    expected = said_by(versions.forest, days().iloc[:5])
    with Service(tracking.url, cache) as service:
        assert service.ready()["tracking_server"]["reachable"] is True
        versions.alias(versions.line)
        service.until_version(versions.line)
        versions.alias(versions.forest)
        service.until_version(versions.forest)
        tracking.stop()
        until(lambda: not service.ready()["tracking_server"]["reachable"], 20)
        ready = service.get("/ready")
        assert ready.status_code == 200 and ready.json()["from"] == "registry"
        assert ready.json()["tracking_server"]["error"]
        assert service.metric("pystock_api_tracking_server_up") == 0
        assert service.predict({"rows": ROWS}).json()["predictions"] == expected
        assert "Retrying" not in service.server.log.read_text()  # said once, and not at each look
        # started again, it has its cache
        service.stop()
        service.start()
        ready = service.ready()
        assert ready["ready"] and ready["from"] == "cache" and ready["model"]["version"] == versions.forest
        assert service.metric("pystock_api_model_from_cache") == 1
        about = service.get("/model").json()
        assert about["from"] == "cache" and about["metrics"]["brier"] == 0.15 and about["alias"] == "champion"
        assert service.predict({"rows": ROWS}).json()["predictions"] == expected
        assert len(service.events("tracking server lost")) == 1
        # a damaged cache: the one before, and then none; it says so, and stays up
        service.stop()
        (folder,) = [path for path in cache.iterdir()]
        entries = json.loads((folder / "good.json").read_text())
        assert [int(entry.partition("-")[0]) for entry in entries] == [versions.forest, versions.line]
        (model,) = (folder / entries[0]).rglob("model.ubj")
        model.write_bytes(model.read_bytes()[:-1])
        service.start()
        assert service.version() == versions.line
        (line,) = service.events("cache damaged")
        assert "model.ubj is not as it was written" in line["reason"]
        service.stop()
        (folder / entries[1] / "about.json").write_text("[]")  # JSON, and nothing of ours
        service.start("/health")
        until(lambda: service.events("no model"), 20)
        assert service.get("/ready").status_code == 503
        assert len(service.events("cache damaged")) == 2 and len(service.events("no model")) == 1
        answer = service.predict({"rows": ROWS})
        assert answer.status_code == 503 and answer.headers["Retry-After"]
        # the server is back
        tracking.start()
        service.until_version(versions.forest)
        assert service.ready()["from"] == "registry" and service.ready()["tracking_server"]["reachable"]
        assert service.predict({"rows": ROWS}).json()["predictions"] == expected
        assert len(service.events("tracking server back")) == 1
        assert service.metric("pystock_api_tracking_server_up") == 1
        # and the cache is whole again: the server finds it as it would write it
        until(lambda: json.loads((folder / "good.json").read_text())[0] == entries[0], 10)
        versions.alias(versions.stump)
        service.until_version(versions.stump)
        kept = sorted(int(path.name.partition("-")[0]) for path in folder.iterdir() if path.is_dir())
        assert kept == sorted([versions.forest, versions.stump])  # the last two


class Nonsense(BaseHTTPRequestHandler):
    """What answers at the address of the tracking server, and is none."""

    body, asked = b"", Counter()

    def do_GET(self):
        body = self.body
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.asked[body] += 1

    def log_message(self, *_):
        pass


def test_a_server_that_answers_nonsense_counts_as_gone(versions, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Nonsense)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with Service(f"http://127.0.0.1:{server.server_port}", tmp_path).start("/health") as service:
            for body in (b"{}", b"[1]", b"<html>", b'{"model_version": {"version": "x"}}', b"\xff"):
                Nonsense.body = body
                until(lambda body=body: Nonsense.asked[body] > 2, 20)
                said = service.ready()["tracking_server"]
                assert said["reachable"] is False and said["error"], body
            assert not service.events("looking for the champion failed")
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def clock(monkeypatch):
    """The time in which a watcher of this process waits."""
    made = SimpleNamespace(now=1000.0, monotonic=lambda: made.now)
    monkeypatch.setattr(api_champion, "time", made)
    return made


def watcher_of(**settings) -> api_champion.Watcher:
    """The champion's, in this process."""
    found = Settings(**settings)
    return api_champion.Watcher(found, found.model)


def test_files_that_cannot_be_had_are_asked_for_ever_more_seldom(tmp_path, monkeypatch, clock):
    watcher, tried = watcher_of(poll_seconds=10, cache=tmp_path), []

    def missing(found, entry):
        tried.append(clock.now - 1000)
        raise api_champion._Unavailable("its files cannot be had")

    monkeypatch.setattr(watcher._registry, "find", lambda: SimpleNamespace(version="7", model_id="m-1", source=""))
    monkeypatch.setattr(watcher, "_fetched", missing)
    while clock.now < 2300:
        watcher.look()
        clock.now += 10
    assert tried == [0, 10, 30, 70, 150, 310, 610, 910, 1210]  # after 1, 2, 4, 8, 16 polls, then every 5 minutes
    assert watcher.ready()["champion"]["refused"] == {"version": 7, "reason": "its files cannot be had"}


def test_a_worker_does_not_take_away_what_another_one_reads(versions, tmp_path, monkeypatch):
    first, second = (watcher_of(cache=tmp_path) for _ in range(2))
    first.look()
    loads, others = api_champion.load, []

    def slowly(folder, about, origin):
        if about["version"] == versions.line and not others:
            versions.alias(versions.stump)  # the second worker finds it, and keeps forest and stump
            others.append(threading.Thread(target=second.look))
            others[0].start()
            others[0].join(3)
        return loads(folder, about, origin)

    monkeypatch.setattr(api_champion, "load", slowly)
    versions.alias(versions.line)
    first.look()
    others[0].join(20)
    assert first.served.version == versions.line and first.ready()["champion"]["refused"] is None
    assert second.served.version == versions.stump
    first.look()
    assert first.served.version == versions.stump


def test_a_full_disk_is_no_obstacle(versions, tmp_path, monkeypatch):
    """MLflow tells it as files that cannot be had."""
    watcher = watcher_of(cache=tmp_path / "cache")
    fetch = watcher._registry.fetch

    def fetch_unless_full(found, folder):
        if tmp_path in folder.parents:
            raise api_champion._Unavailable("its files cannot be had (MlflowException: No space left on device)")
        return fetch(found, folder)

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(watcher._registry, "fetch", fetch_unless_full)
    monkeypatch.setattr(Path, "write_bytes", full)
    watcher.look()
    assert watcher.served.version == versions.forest and watcher.ready()["champion"]["refused"] is None
    assert not list((tmp_path / "cache").rglob(".new-*"))


def test_a_cache_that_cannot_be_written_is_no_obstacle(versions, tmp_path):
    (tmp_path / "cache").write_text("a file, and no folder")
    with Service(versions.uri, tmp_path / "cache") as service:
        assert service.predict({"rows": ROWS}).status_code == 200
        assert service.events("cache not writable")


def test_files_that_cannot_be_had_now_are_fetched_later(versions, tmp_path):
    """The registry answers, the place of the files does not."""
    folder = tmp_path / "store"
    store.copy(versions.folder, folder)
    away = tmp_path / "away"
    (folder / "artifacts").rename(away)
    with Service(store.uri(folder), tmp_path / "cache").start("/health") as service:
        until(lambda: service.ready()["champion"]["refused"], 20)
        assert "cannot be had" in service.ready()["champion"]["refused"]["reason"]
        away.rename(folder / "artifacts")
        service.until_version(versions.forest)
        assert service.ready()["champion"]["refused"] is None
    shutil.rmtree(folder)
