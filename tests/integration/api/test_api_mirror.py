"""A share of the requests of the inference API is mirrored to a challenger: both answers are logged, nobody waits."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from importlib import import_module

import mlflow
import numpy as np
import pandas as pd
import pytest
from api_service import NAME, QUIET_MODELS, Service, as_prices, as_rows, days, versions
from fake_course import until

from course import store
from pystock import models, tuning
from pystock.api import model as api_champion
from pystock.api.settings import SettingsError, read_settings
from pystock.api.shadow import WAITING, WRITTEN
from pystock.data import load
from pystock.features import volatility

__all__ = ["versions"]  # a fixture
pytestmark = [*QUIET_MODELS, pytest.mark.xdist_group("api_mirror")]
MIRROR = {"mirror": f"models:/{NAME}@challenger", "mirror_share": 1}
SIDES = ("champion", "challenger")
ROW = {"rows": as_rows(days().iloc[:1])}
MOODY = '''
import os
import time
from pathlib import Path

import mlflow


class Moody(mlflow.pyfunc.PythonModel):
    """Says 0.5, passes the check, and then does what stands in a file."""

    def probability(self, numbers):
        mood = Path(os.environ["MOOD"]).read_text()
        if mood == "fails":
            raise RuntimeError("not today")
        while Path(os.environ["MOOD"]).read_text() == "hangs":
            time.sleep(0.05)
        return numbers[:, 0] * 0 + (float("nan") if mood == "NaN" else 0.5)

    def predict(self, context, model_input, params=None):
        return model_input[["abs_return"]].set_axis(["probability"], axis=1).assign(probability=0.5, decision=1)


mlflow.models.set_model(Moody())
'''


def challenger(version) -> None:
    client = mlflow.MlflowClient()
    if version:
        client.set_registered_model_alias(NAME, "challenger", str(version))
    else:
        client.delete_registered_model_alias(NAME, "challenger")


def mirrors(service, version) -> None:
    """Wait until the service has this version as the challenger, or None."""
    until(lambda: service.ready()["mirror"]["model"] == (version and {"name": NAME, "version": version}), 20)


def test_both_answers_are_logged_and_the_caller_gets_the_champions(versions, tmp_path):
    """Of one row, of some, of many, of prices; and of none while the registry cannot be asked."""
    challenger(versions.line)
    store.copy(versions.folder, tmp_path / "store")
    database = tmp_path / "store" / "mlflow.db"
    whole = database.read_bytes()
    with Service(store.uri(tmp_path / "store"), tmp_path / "cache", **MIRROR) as service:
        mirrors(service, versions.line)
        check_answers(service, versions)
        database.write_bytes(b"no database" * 1000)
        mirrors(service, None)
        assert service.get("/ready").status_code == 200
        assert service.predict(ROW).json()["model"]["version"] == versions.forest
        database.write_bytes(whole)
        mirrors(service, versions.line)
        service.predict(ROW, headers={"X-Request-ID": "again"})
        assert mirrored(service, "again") and len(service.events("mirrored")) == 5


def check_answers(service, versions):
    prices = load().loc["2014-09":"2015-03"]
    asked = {
        "one": ({"rows": as_rows(days()[:1])}, days()[:1]),
        "some": ({"rows": as_rows(days()[3:40]), "threshold": 0.4}, days()[3:40]),
        "many": ({"rows": as_rows(days()) * 3}, pd.concat([days()] * 3)),
        "prices": ({"prices": as_prices(prices)}, volatility(load()).loc[prices.index[66:]]),
    }
    rows, agreed, differences = 0, 0, 0.0
    for name, (body, table) in asked.items():
        answer = service.predict(body, headers={"X-Request-ID": name})
        line = mirrored(service, name)
        threshold = body.get("threshold", 0.25)
        found = {side: said(version, table) for side, version in zip(SIDES, (versions.forest, versions.line))}
        decided = {side: (each > threshold).astype(int) for side, each in found.items()}
        answered = [each["probability"] for each in answer.json()["predictions"]]
        assert answered == found["champion"].tolist() and answer.json()["model"]["version"] == versions.forest
        for side, version in zip(SIDES, (versions.forest, versions.line)):
            probabilities = line[side].pop("probabilities")
            assert np.allclose(probabilities, found[side][:WRITTEN], rtol=0, atol=1e-12)
            decisions = decided[side][:WRITTEN].tolist()
            assert line[side] == {"name": NAME, "version": version, "threshold": threshold, "decisions": decisions}
        difference = np.abs(found["champion"] - found["challenger"])
        assert line["rows"] == len(table) and line["largest_difference"] == pytest.approx(difference.max())
        assert line["agreed"] == (decided["champion"] == decided["challenger"]).sum()
        rows, agreed, differences = rows + len(table), agreed + line["agreed"], differences + difference.sum()
    assert service.metric("pystock_api_mirror_rows_total") == rows
    assert service.metric("pystock_api_rows_total") == rows  # the champion's, which are counted once
    assert service.metric("pystock_api_mirror_agreed_rows_total") == agreed < rows
    assert service.metric("pystock_api_mirror_absolute_difference_total") == pytest.approx(differences)
    assert service.metric("pystock_api_mirror_model_version") == versions.line
    assert service.metric("pystock_api_model_version") == versions.forest


@cache
def model(version):
    return mlflow.pyfunc.load_model(f"models:/{NAME}/{version}")


def said(version, table):
    return model(version).predict(table)["probability"].to_numpy()


def mirrored(service, request_id):
    """The line of the log about that request."""
    return service.event("mirrored", request_id)


def refused(service, version):
    """Why the challenger is refused."""
    until(lambda: (service.ready()["mirror"]["refused"] or {}).get("version") == version, 20)
    return service.ready()["mirror"]["refused"]["reason"]


def test_a_challenger_comes_changes_is_refused_and_goes(versions, tmp_path):
    challenger(None)
    with Service(versions.uri, tmp_path, **MIRROR | {"mirror_share": 0.5}) as service:
        until(lambda: service.events("mirror: no challenger"), 20)
        assert service.ready()["ready"] and service.ready()["mirror"]["model"] is None
        assert service.predict(ROW).status_code == 200
        challenger(versions.line)
        mirrors(service, versions.line)
        for _ in range(100):
            assert service.predict(ROW).json()["model"]["version"] == versions.forest
        until(lambda: len(service.events("mirrored")) > 25, 20)
        time.sleep(0.5)  # the last may be under way
        assert len(service.events("mirrored")) < 75  # 50, give or take
        challenger(versions.stump)
        mirrors(service, versions.stump)
        for version, reason in ((versions.wrong, "no probability"), (versions.narrow, "12 volatility features")):
            challenger(version)
            assert reason in refused(service, version)
            assert service.ready()["mirror"]["model"] is None and service.get("/ready").status_code == 200
        count = len(service.events("mirrored"))
        for _ in range(20):
            assert service.predict(ROW).json()["model"]["version"] == versions.forest
        challenger(None)
        until(lambda: service.ready()["mirror"]["refused"] is None, 20)
        assert len(service.events("mirrored")) == count
        # what is told of the champion is not touched
        assert service.ready()["champion"]["refused"] is None
        assert service.metric("pystock_api_model_version") == versions.forest
        assert service.metric("pystock_api_switches_total") == service.metric("pystock_api_refused_versions_total") == 0
        assert service.metric("pystock_api_mirror_model_version") == 0
        assert service.metric("pystock_api_mirror_switches_total") == 1
        assert service.metric("pystock_api_mirror_refused_versions_total") == 2
        assert len(service.events("loaded")) == 1 and not service.events("version refused")


@pytest.fixture
def moody(versions, tmp_path):
    """The number of a version that does what the file `mood` says, as the challenger."""
    code = tmp_path / "moody.py"
    code.write_text(MOODY, encoding="utf-8")
    X, _ = tuning.training_data("sp500", "big_move", "volatility")
    options = {"signature": models.decision_signature(X, 0.25), "input_example": X.head(2)}
    (tmp_path / "mood").write_text("well")
    with pytest.MonkeyPatch.context() as patch, mlflow.start_run():
        patch.setenv("MOOD", str(tmp_path / "mood"))  # MLflow asks it, too
        made = mlflow.pyfunc.log_model(name="decision", python_model=str(code), pip_requirements=["mlflow"], **options)
    version = mlflow.MlflowClient().create_model_version(NAME, made.model_uri, run_id=made.run_id)
    challenger(version.version)
    return int(version.version)


def test_a_challenger_that_fails_or_hangs_costs_nobody_anything(versions, moody, tmp_path):
    mood = tmp_path / "mood"
    with Service(versions.uri, tmp_path / "cache", {"MOOD": str(mood)}, **MIRROR) as service:
        mirrors(service, moody)
        for way, failed in (("fails", 3), ("NaN", 6)):
            mood.write_text(way)
            for _ in range(3):
                assert service.predict(ROW).json()["model"]["version"] == versions.forest
            until(partial(fails, service, failed), 20)
        lines = service.events("mirror: failed")  # once a kind
        assert [each["reason"].partition(":")[0] for each in lines] == ["RuntimeError", "ValueError"]
        assert lines[0]["challenger"] == moody and "not today" in lines[0]["reason"]
        assert not service.events("mirrored") and not service.events("a request failed")
        mood.write_text("hangs")
        # one is at work, and WAITING wait
        took = [service.predict(ROW).elapsed.total_seconds() for _ in range(1 + WAITING + 10)]
        assert service.metric("pystock_api_mirror_dropped_total") == 10 and np.median(took) < 0.5
        mood.write_text("well")
        until(lambda: len(service.events("mirrored")) == 1 + WAITING, 20)
        mood.write_text("hangs")
        for _ in range(1 + 5):
            assert service.predict(ROW).status_code == 200
        log, begun = service.server.log, time.monotonic()
    assert time.monotonic() - begun < 30  # the end waits for no challenger either
    assert '"mirror: dropped at the end","requests":5' in log.read_text()


def fails(service, count):
    return service.metric("pystock_api_mirror_failed_total") == count


def test_two_models_are_never_loaded_at_the_same_moment(monkeypatch, tmp_path):
    """MLflow keeps the model that it loads from code in a global: the champion could become the challenger."""
    at_work, most = [], []

    def load_model(folder):
        at_work.append(folder)
        most.append(len(at_work))
        time.sleep(0.1)
        at_work.remove(folder)
        raise ValueError("enough")

    monkeypatch.setattr(import_module("mlflow.pyfunc"), "load_model", load_model)  # which MLflow imports late
    with ThreadPoolExecutor(3) as pool:
        loads = [pool.submit(api_champion.load, tmp_path, {}, "registry") for _ in range(3)]
    assert all("enough" in str(each.exception()) for each in loads) and most == [1, 1, 1]


@pytest.mark.parametrize(
    "name, value, said",
    [
        ("MIRROR", "challenger", "write models:/NAME@ALIAS or models:/NAME/VERSION"),
        ("MIRROR_SHARE", "1.5", "it should be less than or equal to 1"),
        ("MIRROR_SHARE", "nan", "it should be"),
    ],
)
def test_a_wrong_setting_is_told(monkeypatch, name, value, said):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv(f"PYSTOCK_API_{name}", value)
    with pytest.raises(SettingsError, match=f"PYSTOCK_API_{name} is '{value}': {said}"):
        read_settings()
