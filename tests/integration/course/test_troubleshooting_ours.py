"""The messages of the course, its projects and pystock on book/troubleshooting.md are provoked as they are.

Those of the set-up: test_install.py; those of other programs: tests/weekly/test_troubleshooting.py.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import yfinance
from click.testing import CliRunner
from fake_course import CHECKOUT, clean_environment, until
from messages import NOWHERE, assert_on_page, begin, learner, output, provokes, raised
from sklearn.linear_model import LogisticRegression

import course
from course import servers, store
from course.cli import main
from course.workbench import local as workbench
from pystock import models, pipeline
from pystock.api import model as api_model
from pystock.api import schema as api_schema
from pystock.batch import job, resume, rows
from pystock.data import download, load
from pystock.data_pipeline import steps as data_pipeline
from pystock.registry import promotion

__all__ = ["learner"]  # a fixture
pytestmark = [
    pytest.mark.xdist_group("troubleshooting"),  # on one worker: its tests share a store
    pytest.mark.skipif(os.name == "nt", reason="signals and shells of POSIX"),
]
PYTHON = sys.executable
API = CHECKOUT / "projects" / "pystock-inference-api" / "main.py"
JSON = {"Content-Type": "application/json"}


def refused(*words: str) -> str:
    """What a command of the course prints when it refuses."""
    done = CliRunner().invoke(main, words)
    assert done.exit_code, done.output
    return done.output


CALLS = {
    "There is no chapter": lambda: refused("run", "99"),
    "market cannot be": lambda: refused("run", "01", "-p", "market=dow"),
    "reads the runs of the experiment": lambda: raised(begin, "02", needs={"stockpred-nasdaq": "01"}),
    "ended before it answered": lambda: raised(course.start_server, ["mlfow", "--port", "{port}"], health="/ping"),
    "is no embedded market": lambda: raised(load, "dow"),
    "PYSTOCK_API_PORT is": lambda: output(PYTHON, API, PYSTOCK_API_PORT=99999, MLFLOW_TRACKING_URI="sqlite:///none.db"),
}


@pytest.mark.parametrize("part", CALLS)
def test_a_call_without_more(learner, part):
    assert_on_page(part, CALLS[part]())


@provokes("the kernel python3")
def test_another_kernel(tmp_path, monkeypatch):
    kernel = tmp_path / "kernels" / "python3"
    kernel.mkdir(parents=True)
    argv = ["/usr/bin/env", "python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "other", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("COURSE_STATE", str(tmp_path))
    return refused("doctor")


@provokes("did not end within")
def test_a_slow_cell(fake):
    fake.chapter("01", "import time; time.sleep(60)")
    with fake.here():
        return refused("run", "--timeout", "1")


@provokes("the kernel died")
def test_a_dead_kernel(fake):
    fake.chapter("01", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with fake.here():
        return refused("run")


@provokes("a checkpoint takes its place")
def test_a_checkpoint_over_runs(learner):
    with mlflow.start_run():
        pass
    return refused("checkpoint", "02")


@provokes("MLFLOW_TRACKING_URI is set")
def test_a_stray_address(learner, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example.org")
    begin("01")
    return capsys.readouterr().out


@provokes("The tracking store")
def test_a_server_that_is_not_there(learner, monkeypatch):
    monkeypatch.setenv("COURSE_TRACKING_URI", f"http://127.0.0.1:{servers.free_port()}")
    try:
        return raised(begin, "01")
    finally:
        monkeypatch.undo()
        begin("01")


KILLED = """
import os, signal, course, mlflow
course.begin("01", market="sp500")
mlflow.set_experiment("killed")
mlflow.start_run()
os.kill(os.getpid(), signal.SIGKILL)
"""


@provokes("RUNNING")
def test_a_killed_kernels_run(learner):
    def status() -> str:
        return mlflow.search_runs(experiment_names=["killed"])["status"].to_string()

    killed = subprocess.run([PYTHON, "-c", KILLED], env=clean_environment(COURSE_STATE=learner), capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = status()
    begin("01")
    assert "KILLED" in status()  # as the page says
    return before


@provokes("A workbench runs on")
def test_a_second_workbench(tmp_path):
    first = workbench.lock(tmp_path)
    try:
        (tmp_path / "running.json").write_text('{"MLflow": "http://127.0.0.1:5100"}')
        return raised(workbench.lock, tmp_path)
    finally:
        first.release()


@provokes("is taken by another program")
def test_a_taken_port_of_the_workbench(capsys, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert workbench._port(tmp_path / "port", port, "MLflow") != port
    return capsys.readouterr().out


@provokes("ended by itself")
def test_a_damaged_database():
    with tempfile.TemporaryDirectory(prefix="course-", dir="/tmp") as name:
        os.chmod(name, 0o755)  # PostgreSQL's account may enter it, also where root runs this
        postgres = Path(name, "postgres")
        postgres.mkdir(mode=0o700)
        (postgres / "PG_VERSION").write_text("9\n")
        if os.geteuid() == 0:
            shutil.chown(postgres, "nobody")
        return raised(workbench.start, Path(name))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="needs root")
@provokes("PostgreSQL does not run as root")
def test_a_folder_closed_to_others(tmp_path):
    tmp_path.chmod(0o700)
    return raised(workbench.start, tmp_path / "workbench")


@provokes("is not promoted")
def test_a_version_that_the_gate_refuses(learner):
    """A model without signature, whose run says nothing: three conditions fail, or cannot be judged."""
    with mlflow.start_run():
        model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
        mlflow.sklearn.log_model(model, name="model", pip_requirements=[], registered_model_name="no-good")
    return raised(promotion.promote, "no-good", 1, why="to see it refused")


@provokes("rows of … are bad")
def test_a_source_of_bad_rows(tmp_path):
    head, *lines = (CHECKOUT / "data" / "sp500.csv").read_text().splitlines()
    file = tmp_path / "sp500.csv"
    file.write_text("\n".join([head, *lines[:150], *(line.replace(",", ",x", 1) for line in lines[150:160])]) + "\n")
    data_pipeline.load_raw(tmp_path / "stages", "sp500", str(file))
    return raised(data_pipeline.check, tmp_path / "stages", "sp500")


@provokes("has been at … since")
def test_a_pipeline_that_is_under_way(learner):
    with pipeline.run("a-pipeline", "main", {}, claim="some work"):
        first = mlflow.active_run().info.run_id
        with mlflow.start_run(nested=True):
            message = raised(pipeline.claim_work, "some work")
    assert first in message
    return message


@provokes("is damaged")
def test_a_spreadsheet_saved_the_prices(tmp_path, monkeypatch):
    text = (CHECKOUT / "data" / "sp500.csv").read_text().replace("1999-01-05", "05/01/1999")
    (tmp_path / "sp500.csv").write_text(text)
    monkeypatch.setenv("PYSTOCK_DATA", str(tmp_path))
    return raised(load, "sp500")


@provokes("Yahoo cannot be reached")
def test_download_without_network(tmp_path, monkeypatch):
    yfinance.set_tz_cache_location(str(tmp_path))
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        for spelling in (name, name.lower()):
            monkeypatch.setenv(spelling, "" if name == "NO_PROXY" else NOWHERE)
    return raised(download, "^GSPC", "2019-01-02", "2019-01-31")


@provokes("to one that runs")
def test_a_job_without_its_server(learner, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    here = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(NOWHERE)
    try:
        return raised(job.check_server)
    finally:
        mlflow.set_tracking_uri(here)


@provokes("promote a version")
def test_a_job_without_a_champion(learner, tmp_path):
    (tmp_path / "days.csv").write_text("Date\n2018-12-31\n")
    with mlflow.start_run():
        return raised(job.score, tmp_path / "days.csv", tmp_path / "predictions.csv")


@provokes("of the model's")
def test_a_file_without_a_column(tmp_path):
    (tmp_path / "days.csv").write_text("Date,abs_return\n2018-12-31,0.01\n")
    return raised(rows.open_part, "days.csv", tmp_path / "days.csv", ["abs_return", "momentum_5"], ())


@provokes("a batch job is at work")
def test_two_jobs_with_one_output(tmp_path):
    output = resume.Output(tmp_path / "predictions.csv", folder=False)
    with resume.locked(output):
        return raised(resume.locked(output).__enter__)


# --- the inference API ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def api(learner, tmp_path_factory):
    """The service on a store without a champion, for one request at a time."""
    folder = tmp_path_factory.mktemp("api")
    env = {
        "MLFLOW_TRACKING_URI": store.uri(learner / "store"),
        "PYSTOCK_API_PORT": "{port}",
        "PYSTOCK_API_CACHE": str(folder),
        "PYSTOCK_API_MAX_CONCURRENT": "1",
    }
    with servers.start_server([PYTHON, API], env=env, log=folder / "log.txt") as server:
        yield server


def refusal(api: servers.Server, headers: dict[str, str], body: bytes = b"{}") -> str:
    """The sentence with which the service refuses a question."""
    request = urllib.request.Request(f"{api.url}/predict", data=body, headers=headers)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10)
    return json.loads(caught.value.read())["detail"]


@provokes("There is no model yet")
def test_a_service_without_a_champion(api):
    row = dict.fromkeys(api_schema.FEATURE_NAMES, 0.01)
    return refusal(api, JSON, json.dumps({"rows": [row]}).encode())


@provokes("no more are taken")
def test_a_caller_who_holds_the_only_place(api):
    begun = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", api.port)) as line:
        line.sendall(begun)
        return until(lambda: next((text for text in [refusal(api, JSON)] if "at work" in text), None))


@provokes("its signature is not")
def test_a_version_for_another_question(tmp_path):
    X = pd.DataFrame({"day_01": [0.0, 1.0]})
    signature = models.decision_signature(X, 0.5)
    model = LogisticRegression().fit(X, [0, 1])
    mlflow.sklearn.save_model(model, tmp_path / "model", signature=signature, pip_requirements=[])
    return raised(api_model.load, tmp_path, {"name": "pystock-direction", "version": 1}, "registry")


@provokes("The header Content-Type is")
def test_curl_declares_a_form(api):
    return refusal(api, {})  # urllib declares what curl -d declares
