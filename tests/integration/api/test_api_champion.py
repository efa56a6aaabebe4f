"""The model behind the inference API: replaced under load, refused, lost and found again, served from the cache."""

import json
import shutil
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import mlflow
import pytest
from api_service import NAME, Service, as_rows, days
from fake_course import until

from course import store
from course.servers import MLFLOW_SERVER_ENVIRONMENT, launch, mlflow_server
from pystock.api import model
from pystock.api.settings import Settings

pytestmark = pytest.mark.xdist_group("api_champion")
ROWS = as_rows(days().iloc[:5])


@pytest.fixture(autouse=True)
def forest_again(versions):
    """Each test begins and ends with the first version as champion."""
    versions.alias(versions.forest)
    yield
    versions.alias(versions.forest)


def predicted_by(version, table):
    return as_rows(mlflow.pyfunc.load_model(f"models:/{NAME}/{version}").predict(table))


def test_a_new_champion_takes_over_without_lost_or_mixed_answers(service, versions):
    """Under load: each answer has the probabilities of the version that it names, in every row."""
    service.until_version(versions.forest)
    parts = [days().iloc[:1], days().iloc[10:40], days()]
    good = (versions.forest, versions.line, versions.stump)
    expected = {(version, len(part)): predicted_by(version, part) for version in good for part in parts}
    ended, counts, mixed = threading.Event(), Counter(), []

    def keep_asking(part):
        body = {"rows": as_rows(part)}
        while not ended.is_set():
            counts["sent"] += 1
            answer = service.predict(body)
            version = answer.json()["model"]["version"] if answer.status_code == 200 else answer.text
            counts[version] += 1
            if answer.json().get("predictions") != expected[version, len(part)]:
                mixed.append((version, len(part)))

    switches = service.metric("pystock_api_switches_total")
    with ThreadPoolExecutor(5) as threads:
        asking = [threads.submit(keep_asking, parts[number]) for number in (0, 0, 1, 1, 2)]
        try:
            for version in (versions.line, versions.stump, versions.forest, versions.line, versions.forest):
                versions.alias(version)
                service.until_version(version)
        finally:
            ended.set()
    assert [each.result() for each in asking] == [None] * 5
    answered = {version: counts[version] for version in good}
    assert mixed == [] and counts["sent"] == sum(answered.values()) and min(answered.values()) > 0, counts
    assert service.metric("pystock_api_switches_total") - switches == 5


def test_a_version_that_fails_the_check_is_refused_once_and_the_old_one_stays(versions, tmp_path):
    with Service(versions.uri, tmp_path) as service:
        versions.alias(versions.wrong)
        refused = until(lambda: service.ready()["champion"]["refused"], 20)
        assert refused["version"] == versions.wrong and "not a probability" in refused["reason"], refused
        for _ in range(2):  # further lookups
            checked = service.ready()["champion"]["checked_at"]
            until(lambda checked=checked: service.ready()["champion"]["checked_at"] > checked, 20)
        assert len(service.events("version refused")) == 1
        versions.alias(versions.line)
        service.until_version(versions.line)
        assert service.ready()["champion"]["refused"] is None
        versions.alias(versions.wrong)  # the alias has moved: it is tried again
        until(lambda: len(service.events("version refused")) == 2, 20)
        assert service.predict({"rows": ROWS}).json()["predictions"] == predicted_by(versions.line, days().iloc[:5])


def test_without_a_champion_it_waits_for_one_or_keeps_what_it_has_also_over_a_restart(versions, tmp_path):
    client = mlflow.MlflowClient()
    client.delete_registered_model_alias(NAME, "champion")
    with Service(versions.uri, tmp_path).start("/health") as service:
        assert service.get("/ready").status_code == 503 and service.predict({"rows": ROWS}).status_code == 503
        versions.alias(versions.forest)
        service.until_version(versions.forest)
        assert service.predict({"rows": ROWS}).status_code == 200 and service.get("/ready").status_code == 200
        before = len(service.events("no champion"))  # 1, or 0 where the first lookup came late
        client.delete_registered_model_alias(NAME, "champion")
        until(lambda: len(service.events("no champion")) == before + 1, 20)
        assert service.version() == versions.forest and service.get("/ready").status_code == 200
        service.stop()
        service.start()
        ready = service.ready()
        assert ready["from"] == "cache" and ready["model"]["version"] == versions.forest
        assert ready["champion"]["version"] is None and ready["tracking_server"]["reachable"]
        versions.alias(versions.stump)
        service.until_version(versions.stump)
        assert len(service.events("no champion")) == 1


def tracking_server(versions, port=None):
    """Launch a real `mlflow server` on the store of `versions`."""
    command = mlflow_server(versions.uri, "--artifacts-destination", str(versions.folder / "files"))
    return launch(command, port=port, env=MLFLOW_SERVER_ENVIRONMENT).wait_until_healthy()


def test_the_tracking_server_may_go_and_come_back(versions, tmp_path):
    cache = tmp_path / "cache"
    expected = predicted_by(versions.forest, days().iloc[:5])
    with ExitStack() as started:
        tracking = started.enter_context(tracking_server(versions))
        service = started.enter_context(Service(tracking.url, cache))
        for version in (versions.line, versions.forest):
            versions.alias(version)
            service.until_version(version)
        tracking.stop()
        until(lambda: not service.ready()["tracking_server"]["reachable"], 20)
        assert service.ready()["tracking_server"]["error"] and "Retrying" not in service.server.log.read_text()
        # started again, it has its cache
        service.stop()
        service.start()
        about = service.get("/model").json()
        assert about["from"] == "cache" and about["metrics"]["brier"] == 0.15 and about["alias"] == "champion"
        assert [each["name"] for each in about["signature"]["inputs"]] == list(days().columns)
        assert service.predict({"rows": ROWS}).json()["predictions"] == expected
        assert len(service.events("tracking server lost")) == 1
        # a damaged cache: the version before it, and then none
        service.stop()
        (folder,) = cache.iterdir()
        entries = json.loads((folder / "good.json").read_text())
        assert [int(entry.partition("-")[0]) for entry in entries] == [versions.forest, versions.line]
        (file,) = (folder / entries[0]).rglob("model.ubj")
        file.write_bytes(file.read_bytes()[:-1])
        service.start()
        assert service.version() == versions.line
        (line,) = service.events("cache damaged")
        assert "model.ubj has been changed" in line["reason"]
        service.stop()
        (folder / entries[1] / "about.json").write_text("[]")  # JSON without our fields
        service.start("/health")
        until(lambda: service.events("no model"), 20)
        assert service.get("/ready").status_code == 503 and len(service.events("cache damaged")) == 2
        # the server is back, and repairs the cache
        started.enter_context(tracking_server(versions, tracking.port))
        service.until_version(versions.forest)
        assert service.ready()["from"] == "registry" and service.ready()["tracking_server"]["reachable"]
        assert service.predict({"rows": ROWS}).json()["predictions"] == expected
        assert len(service.events("tracking server back")) == 1
        assert service.metric("pystock_api_tracking_server_up") == 1
        until(lambda: json.loads((folder / "good.json").read_text())[0] == entries[0])
        versions.alias(versions.stump)
        service.until_version(versions.stump)
        kept = {int(path.name.partition("-")[0]) for path in folder.iterdir() if path.is_dir()}
        assert kept == {versions.forest, versions.stump}  # the last two


def test_a_worker_keeps_others_from_removing_what_it_reads(versions, tmp_path, monkeypatch):
    first, second = (model.Watcher(Settings(cache=tmp_path)) for _ in range(2))
    first.look()
    load, others = model.load, []

    def load_while_another_worker_looks(folder, about, origin):
        if about["version"] == versions.line and not others:
            versions.alias(versions.stump)  # the second worker finds it, and would keep forest and stump
            others.append(threading.Thread(target=second.look))
            others[0].start()
            others[0].join(3)
        return load(folder, about, origin)

    monkeypatch.setattr(model, "load", load_while_another_worker_looks)
    versions.alias(versions.line)
    first.look()
    others[0].join()
    assert first.served.version == versions.line and first.ready()["champion"]["refused"] is None
    assert second.served.version == versions.stump
    first.look()
    assert first.served.version == versions.stump


@pytest.mark.parametrize("fault", ["no folder", "full disk"])
def test_a_version_is_served_without_a_cache_that_can_be_written(versions, tmp_path, monkeypatch, caplog, fault):
    watcher, fetch = model.Watcher(Settings(cache=tmp_path / "cache")), model.fetch

    def fetch_unless_full(version, alias, folder):
        if tmp_path in folder.parents:  # MLflow reports a full disk as files that cannot be downloaded
            raise model.Unavailable("its files cannot be downloaded (MlflowException: No space left on device)")
        return fetch(version, alias, folder)

    if fault == "no folder":
        (tmp_path / "cache").write_text("a file")
    monkeypatch.setattr(model, "fetch", fetch_unless_full)
    watcher.look()
    assert watcher.served.version == versions.forest and watcher.ready()["champion"]["refused"] is None
    assert "cache not writable" in caplog.messages and not list(tmp_path.rglob(".new*"))


def test_a_version_whose_files_are_missing_is_refused(versions, tmp_path):
    """The registry answers, the artifact store does not."""
    store.copy(versions.folder, tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / "artifacts")
    mlflow.set_tracking_uri(store.uri(tmp_path / "store"))
    try:
        watcher = model.Watcher(Settings(cache=tmp_path / "cache"))
        watcher.look()
    finally:
        mlflow.set_tracking_uri(versions.uri)
    assert watcher.served is None and "cannot be downloaded" in watcher.ready()["champion"]["refused"]["reason"]
