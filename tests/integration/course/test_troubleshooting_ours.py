"""The messages on book/troubleshooting.md that no other test provokes: those of pystock and its projects, mostly.

Those of other programs: tests/weekly/test_troubleshooting.py.
"""

import os
import shutil
import socket
import sys

import mlflow
import pandas as pd
import pytest
import requests
import yfinance
from fake_course import CHECKOUT, open_folder, until
from messages import NOWHERE, assert_on_page, elsewhere, learner, output, raised
from sklearn.linear_model import LogisticRegression

from course import servers, store
from course.workbench import local as workbench
from pystock import models, pipeline
from pystock.api import model as api_model
from pystock.api import schema as api_schema
from pystock.batch import job, resume, rows
from pystock.data import download, load
from pystock.data_pipeline import steps as data_pipeline
from pystock.registry import promotion

__all__ = ["elsewhere", "learner"]  # fixtures
pytestmark = [
    pytest.mark.xdist_group("troubleshooting"),  # on one worker: its tests share a store
    pytest.mark.skipif(os.name == "nt", reason="signals and shells of POSIX"),
]
PYTHON = sys.executable
API = CHECKOUT / "projects" / "pystock-inference-api" / "main.py"

CALLS = {
    "is no embedded market": lambda: raised(load, "dow"),
    "PYSTOCK_API_PORT is": lambda: output(PYTHON, API, PYSTOCK_API_PORT=99999, MLFLOW_TRACKING_URI="sqlite:///none.db"),
}


@pytest.mark.parametrize("part", CALLS)
def test_a_call_without_more(part):
    assert_on_page(part, CALLS[part]())


def test_a_damaged_database():
    with open_folder() as folder:
        postgres = folder / "postgres"
        postgres.mkdir(mode=0o700)
        (postgres / "PG_VERSION").write_text("9\n")
        if os.geteuid() == 0:
            shutil.chown(postgres, "nobody")
        assert_on_page("ended by itself", raised(workbench.start, folder))


def test_a_version_that_the_gate_refuses(learner):
    """A model without signature, whose run says nothing: three conditions fail, or cannot be judged."""
    with mlflow.start_run():
        model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
        mlflow.sklearn.log_model(model, name="model", pip_requirements=[], registered_model_name="no-good")
    assert_on_page("is not promoted", raised(promotion.promote, "no-good", 1, why="to see it refused"))


def test_a_source_of_bad_rows(tmp_path):
    head, *lines = (CHECKOUT / "data" / "sp500.csv").read_text().splitlines()
    file = tmp_path / "sp500.csv"
    file.write_text("\n".join([head, *lines[:150], *(line.replace(",", ",x", 1) for line in lines[150:160])]) + "\n")
    data_pipeline.load_raw(tmp_path / "stages", "sp500", str(file))
    assert_on_page("rows of … are bad", raised(data_pipeline.check, tmp_path / "stages", "sp500"))


def test_a_pipeline_that_is_under_way(learner):
    with pipeline.run("a-pipeline", "main", {}, claim="some work"):
        first = mlflow.active_run().info.run_id
        with mlflow.start_run(nested=True):
            message = raised(pipeline.claim_work, "some work")
    assert first in message
    assert_on_page("has been at … since", message)


def test_a_spreadsheet_saved_the_prices(tmp_path, monkeypatch):
    text = (CHECKOUT / "data" / "sp500.csv").read_text().replace("1999-01-05", "05/01/1999")
    (tmp_path / "sp500.csv").write_text(text)
    monkeypatch.setenv("PYSTOCK_DATA", str(tmp_path))
    assert_on_page("is damaged", raised(load, "sp500"))


def test_download_without_network(tmp_path, monkeypatch):
    yfinance.set_tz_cache_location(str(tmp_path))
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        for spelling in (name, name.lower()):
            monkeypatch.setenv(spelling, "" if name == "NO_PROXY" else NOWHERE)
    assert_on_page("Yahoo cannot be reached", raised(download, "^GSPC", "2019-01-02", "2019-01-31"))


def test_a_job_without_its_server(elsewhere):
    elsewhere.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    mlflow.set_tracking_uri(NOWHERE)
    assert_on_page("to one that runs", raised(job.check_server))


def test_a_job_without_a_champion(learner, tmp_path):
    (tmp_path / "days.csv").write_text("Date\n2018-12-31\n")
    with mlflow.start_run():
        assert_on_page("promote a version", raised(job.score, tmp_path / "days.csv", tmp_path / "predictions.csv"))


def test_a_file_without_a_column(tmp_path):
    (tmp_path / "days.csv").write_text("Date,abs_return\n2018-12-31,0.01\n")
    text = raised(rows.open_part, "days.csv", tmp_path / "days.csv", ["abs_return", "momentum_5"], ())
    assert_on_page("of the model's", text)


def test_two_jobs_with_one_output(tmp_path):
    output = resume.Output(tmp_path / "predictions.csv", folder=False)
    with resume.locked(output):
        assert_on_page("a batch job is at work", raised(resume.locked(output).__enter__))


def test_what_the_inference_api_refuses(learner, tmp_path):
    """The service has no champion, and takes one request at a time."""
    env = {"MLFLOW_TRACKING_URI": store.uri(learner / "store"), "PYSTOCK_API_CACHE": str(tmp_path)}
    env |= {"PYSTOCK_API_PORT": "{port}", "PYSTOCK_API_MAX_CONCURRENT": "1"}
    with servers.start_server([PYTHON, API], env=env, log=tmp_path / "log.txt") as api:

        def refusal(**body: object) -> str:
            return requests.post(f"{api.url}/predict", proxies={"http": ""}, timeout=10, **body).json()["detail"]

        row = dict.fromkeys(api_schema.FEATURE_NAMES, 0.01)
        assert_on_page("There is no model yet", refusal(json={"rows": [row]}))
        assert_on_page("The header Content-Type is", refusal(data={"rows": "[]"}))  # as curl -d declares it
        begun = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        with socket.create_connection(("127.0.0.1", api.port)) as line:
            line.sendall(begun)
            said = until(lambda: next((text for text in [refusal(json={})] if "at work" in text), None))
        assert_on_page("no more are taken", said)


def test_a_version_for_another_question(tmp_path):
    X = pd.DataFrame({"day_01": [0.0, 1.0]})
    signature = models.decision_signature(X, 0.5)
    model = LogisticRegression().fit(X, [0, 1])
    mlflow.sklearn.save_model(model, tmp_path / "model", signature=signature, pip_requirements=[])
    text = raised(api_model.load, tmp_path, {"name": "pystock-direction", "version": 1}, "registry")
    assert_on_page("its signature is not", text)
