"""Messages of other programs on book/troubleshooting.md; our own: integration/course/test_troubleshooting_ours.py."""

import multiprocessing
import os
import re
import shutil
import socket
import sqlite3
import sys
import sysconfig
import threading
import zipfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import requests
from fake_course import CHECKOUT, COURSE, until
from messages import NOWHERE, SECONDS, assert_on_page, begin, elsewhere, learner, output, raised
from mlflow.models import validate_schema
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.types import ColSpec, Schema
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from course import store
from course.servers import MLFLOW_SERVER_ENVIRONMENT, mlflow_server
from course.workbench import local as workbench

__all__ = ["elsewhere", "learner"]  # fixtures
pytestmark = [
    pytest.mark.xdist_group("troubleshooting"),  # on one worker: its tests share a store
    pytest.mark.skipif(os.name == "nt", reason="signals and shells of POSIX"),
]
PYTHON = sys.executable


def shell(command: str) -> str:
    """What a terminal says in which nothing is installed."""
    return output(shutil.which("bash"), "-c", command, PATH="/nowhere")


CALLS = {
    "make: command": lambda: shell("make course"),
    "No module named 'course'": lambda: output(PYTHON, "-I", "-S", "-c", "import course"),  # as of another environment
    "course: command": lambda: shell("course ui"),
    "Connection refused": lambda: raised(mlflow.MlflowClient(NOWHERE).search_experiments),
    "Failed to resolve": lambda: raised(mlflow.MlflowClient("http://mlflow.invalid:5000").search_experiments),
    "Can not safely convert int64": lambda: raised(
        validate_schema, pd.DataFrame({"Volume": [2]}, dtype="int64"), Schema([ColSpec("double", "Volume")])
    ),
    "NameError": lambda: raised(exec, "round(forest.score(X_train, y_train), 3)", {}),  # the cell above was not run
    "is already active": lambda: in_a_run(mlflow.start_run),
    "Changing param values": lambda: in_a_run(lambda: [mlflow.log_param("depth", depth) for depth in (3, 5)]),
    "Untrusted types": lambda: in_a_run(
        lambda: mlflow.sklearn.log_model(RandomForestClassifier(2).fit([[0.0], [1.0]], [0, 1]), name="model")
    ),
}


def in_a_run(call) -> str:
    with mlflow.start_run():
        return raised(call)


@pytest.mark.parametrize("part", CALLS)
def test_a_call_without_more(learner, part):
    assert_on_page(part, CALLS[part]())


def pip(folder, **env):
    """What install.py calls to get uv."""
    install = [PYTHON, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--target", folder / "new"]
    return output(*install, "-r", folder / "lock.txt", PIP_RETRIES=0, PIP_NO_CACHE_DIR=1, **env)


def uv(folder, **env):
    """What install.py calls to get everything else."""
    sync = [PYTHON, "-m", "uv", "pip", "sync", "--target", folder / "new", "--python", PYTHON, "--require-hashes"]
    return output(*sync, folder / "lock.txt", UV_HTTP_RETRIES=0, UV_CACHE_DIR=folder / "cache", **env)


def test_a_package_that_cannot_be_had(tmp_path):
    """There is no network for it, or another file than the lock's hash says."""
    lock = (CHECKOUT / "requirements.lock").read_text(encoding="utf-8")
    (tmp_path / "lock.txt").write_text(re.search(r"^uv==(?:.*\\\n)*.*\n", lock, re.MULTILINE)[0])
    assert_on_page("No matching distribution found", pip(tmp_path, PIP_INDEX_URL=NOWHERE, PIP_CONFIG_FILE=os.devnull))
    with zipfile.ZipFile(tmp_path / "thing-1.0-py3-none-any.whl", "w") as wheel:
        for file in ("METADATA", "WHEEL", "RECORD"):
            wheel.writestr(f"thing-1.0.dist-info/{file}", "")
    (tmp_path / "lock.txt").write_text(f"thing==1.0 --hash=sha256:{'0' * 64}\n")
    assert_on_page("Failed to fetch", uv(tmp_path, UV_DEFAULT_INDEX=NOWHERE, UV_NO_CONFIG=1))
    assert_on_page("Hash mismatch", uv(tmp_path, UV_NO_INDEX=1, UV_FIND_LINKS=tmp_path))
    assert_on_page("DO NOT MATCH THE HASHES", pip(tmp_path, PIP_NO_INDEX=1, PIP_FIND_LINKS=tmp_path))


def test_a_store_of_another_mlflow(elsewhere, empty_store, tmp_path):
    store.copy(empty_store, tmp_path / "store")
    with closing(sqlite3.connect(tmp_path / "store" / "mlflow.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '0123456789ab'")
    elsewhere.setenv("COURSE_STATE", str(tmp_path))
    assert_on_page("out-of-date database schema", raised(begin))


def test_an_old_mlruns(elsewhere, tmp_path):
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").write_text("experiment_id: '0'\nname: Default\n")
    elsewhere.chdir(tmp_path)
    mlflow.set_tracking_uri(None)  # as in a script that sets none
    assert_on_page("is in maintenance mode", raised(mlflow.search_experiments))


def test_a_server_that_dies_in_its_answer(monkeypatch):
    """The answer ends after its head. The client does not make the call again, although it has five retries."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            with server.accept()[0] as connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        text = raised(mlflow.MlflowClient(f"http://127.0.0.1:{server.getsockname()[1]}").search_experiments)
        assert_on_page("Connection broken", text)


def test_artifacts_on_the_clients_disk():
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:  # with all modules loaded
        assert_on_page("Permission denied", pool.submit(log_as_nobody).result())


def log_as_nobody() -> str:
    """What an ordinary user is told. Root could make the folder."""
    if os.geteuid() == 0:
        os.setuid(65534)
    return raised(LocalArtifactRepository("/srv/artifacts").log_artifact, __file__)


def test_what_a_workbench_refuses(monkeypatch):
    bench = workbench.start_workbench()
    try:
        create = mlflow.MlflowClient(bench.url).create_experiment
        assert_on_page("artifact_location cannot", raised(create, "own", artifact_location="file:///srv/artifacts"))
        monkeypatch.setenv("MLFLOW_WORKSPACE", "ada")
        assert_on_page("Workspace '", raised(mlflow.MlflowClient(bench.url).search_experiments))
    finally:
        bench.discard()


def test_a_server_under_another_name(fake, empty_store):
    fake.use_store(empty_store)
    with fake.started(COURSE, "ui", "--no-browser"):
        shown = until(lambda: re.search(r"http\S+", fake.output()), SECONDS, "the address of the MLflow UI")
        text = requests.get(shown[0], headers={"Host": "mlflow.example.org"}, proxies={"http": ""}, timeout=10).text
        assert_on_page("DNS rebinding", text)


def test_a_taken_port(empty_store, tmp_path):
    store.copy(empty_store, tmp_path / "store")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = mlflow_server(store.uri(tmp_path / "store"), port=taken.getsockname()[1])
        assert_on_page("address already in use", output(*command, cwd=tmp_path, **MLFLOW_SERVER_ENVIRONMENT))


def test_a_project_without_env_manager(empty_store, tmp_path):
    store.copy(empty_store, tmp_path / "state" / "store")
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "git").symlink_to(shutil.which("git"))  # and no pyenv
    run = [CHECKOUT / "projects" / "stockpred", "--experiment-name", "stockpred"]
    env = {"PATH": tmp_path / "programs", "COURSE_STATE": tmp_path / "state"}
    assert_on_page("'None'", output(COURSE, "mlflow", "run", *run, cwd=tmp_path, **env))


def test_a_machine_without_tensorflow(tmp_path):
    """All of this environment but TensorFlow, and nothing else."""
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith("tensorflow"):
            (tmp_path / entry.name).symlink_to(entry)
    text = output(PYTHON, "-S", "-c", "import keras", PYTHONPATH=tmp_path)
    assert_on_page("No module named 'tensorflow'", text)


def test_a_pickle_where_pickles_are_refused_and_a_missing_column(learner, tmp_path, monkeypatch):
    table = pd.DataFrame({"day_01": [0.0, 1.0], "day_02": [1.0, 0.0]})
    saved = {"sk_model": LogisticRegression().fit(table, [0, 1]), "pip_requirements": []}
    mlflow.sklearn.save_model(path=tmp_path / "signed", signature=mlflow.models.infer_signature(table), **saved)
    predict = mlflow.pyfunc.load_model(str(tmp_path / "signed")).predict
    assert_on_page("Model is missing inputs", raised(predict, table[["day_01"]]))
    mlflow.sklearn.save_model(path=tmp_path / "pickled", serialization_format="pickle", **saved)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    assert_on_page("Deserializing this model", raised(mlflow.sklearn.load_model, str(tmp_path / "pickled")))
