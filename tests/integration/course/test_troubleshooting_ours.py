"""Messages on book/troubleshooting.md that no other test provokes; of other programs: tests/weekly/."""

import os
import shutil
import sys

import mlflow
import pandas as pd
import pytest
from fake_course import CHECKOUT, open_folder
from messages import NOWHERE, assert_on_page, elsewhere, learner, output, raised
from sklearn.linear_model import LogisticRegression

from course.workbench import local as workbench
from pystock import models
from pystock.api import model as api_model
from pystock.batch import job, rows

__all__ = ["elsewhere", "learner"]  # fixtures
pytestmark = [
    pytest.mark.xdist_group("troubleshooting"),  # on one worker: its tests share a store
    pytest.mark.skipif(os.name == "nt", reason="signals and shells of POSIX"),
]


def test_a_damaged_database():
    with open_folder() as folder:
        postgres = folder / "postgres"
        postgres.mkdir(mode=0o700)
        (postgres / "PG_VERSION").write_text("9\n")
        if os.geteuid() == 0:
            shutil.chown(postgres, "nobody")
        assert_on_page("exited unexpectedly", raised(workbench.start, folder))


def test_a_job_without_its_server(elsewhere):
    elsewhere.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    mlflow.set_tracking_uri(NOWHERE)
    assert_on_page("to a running one", raised(job.check_server))


def test_a_file_without_a_column(tmp_path):
    (tmp_path / "days.csv").write_text("Date,abs_return\n2018-12-31,0.01\n")
    text = raised(rows.open_part, "days.csv", tmp_path / "days.csv", ["abs_return", "momentum_5"], ())
    assert_on_page("of the model's", text)


def test_a_version_for_another_question(tmp_path):
    X = pd.DataFrame({"day_01": [0.0, 1.0]})
    signature = models.decision_signature(X, 0.5)
    model = LogisticRegression().fit(X, [0, 1])
    mlflow.sklearn.save_model(model, tmp_path / "model", signature=signature, pip_requirements=[])
    text = raised(api_model.load, tmp_path, {"name": "pystock-direction", "version": 1}, "registry")
    assert_on_page("its signature doesn't have", text)


def test_a_port_that_is_none():
    main = CHECKOUT / "projects" / "pystock-inference-api" / "main.py"
    text = output(sys.executable, main, PYSTOCK_API_PORT=99999, MLFLOW_TRACKING_URI="sqlite:///none.db")
    assert_on_page("PYSTOCK_API_PORT is", text)
