"""Every message on book/troubleshooting.md is provoked, and stands there as its reader sees it."""

import functools
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import sysconfig
import tempfile
import threading
import urllib.error
import urllib.request
import venv
import zipfile
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from chapter_text import blocks
from click.testing import CliRunner
from fake_course import CHECKOUT, COURSE, clean_environment, until

import course
from course import servers, store
from course.chapters import all_chapters
from course.cli import main
from course.workbench import local as workbench
from pystock.api import model as api_champion
from pystock.api import schema as api_schema

# on one worker: its tests share a store and the servers that start beside them
pytestmark = [
    pytest.mark.xdist_group("troubleshooting"),
    pytest.mark.skipif(os.name == "nt", reason="signals and shells of POSIX"),
]
PAGE = (CHECKOUT / "book" / "troubleshooting.md").read_text(encoding="utf-8")
NOWHERE = "http://127.0.0.1:1"  # nothing listens on port 1
PYTHON = sys.executable
SECONDS = 300
JSON = {"Content-Type": "application/json"}


def entries(page: str = PAGE) -> list[str]:
    """The messages in the headings of the third level, each a code span."""
    return [block.inline.children[0].content.strip() for block in blocks(page) if block.kind == "h3"]


def occurs(message: str, text: str) -> bool:
    """Whether the message stands in the text, whatever stands for each … and however lines are broken."""
    parts = [r"\s+".join(map(re.escape, part.split(" "))) for part in message.split("…")]
    return bool(re.search(".+?".join(parts), text, re.DOTALL))


PROVOKED = []


def provokes(part: str):
    """Marks a test that returns the real text in which the entry with `part` in its heading must occur."""

    def decorate(function):
        PROVOKED.append(part)

        @functools.wraps(function)
        def test(*arguments, **fixtures):
            text = function(*arguments, **fixtures)
            (message,) = [message for message in entries() if part in message]
            assert occurs(message, text), f"{message!r} does not stand in:\n{text[-3000:]}"

        return test

    return decorate


# --- the page ---------------------------------------------------------------------------------------------------------


def test_each_entry_is_provoked_by_one_test():
    assert len(entries()) > 20
    tests = {message: [part for part in PROVOKED if part in message] for message in entries()}
    assert {message: parts for message, parts in tests.items() if len(parts) != 1} == {}
    assert [part for part in PROVOKED if [part] not in tests.values()] == []


def test_each_entry_says_what_happened_and_what_mends_it():
    parts = [block for block in blocks(PAGE) if block.kind in ("h1", "h2", "h3", "p")]
    for number, block in enumerate(parts):
        if block.kind == "h3":
            assert [token.type for token in block.inline.children] == ["code_inline"], block.text
            happened, mend = parts[number + 1 : number + 3]
            assert happened.kind == mend.kind == "p" and mend.text.startswith("Mend:"), block.text
    leads = [words for block in parts for words, leads in block.bold if leads]
    assert leads == ["Mend:"] * len(entries())


def test_a_message_is_found_with_its_gaps_and_not_otherwise():
    assert occurs("port … is taken: …, sorry", "x port 80 is\n taken: 5,\n  6, sorry.")
    assert not occurs("port … is taken", "port 80 was taken")
    assert not occurs("Port 80 (taken)", "port 80 taken")


@pytest.mark.parametrize(
    "page",
    [
        "book/troubleshooting.md",
        "CONTRIBUTING.md",
        "workbench/README.md",
        *(path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / "projects").glob("*/README.md")),
    ],
)
def test_the_commands_on_a_page_exist(page):
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    code = "\n".join(_code(text))
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    assert set(re.findall(r"\bcourse ([a-z]+)", code)) <= set(main.commands)
    assert set(re.findall(r"\bmake ([a-z-]+)", code)) <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


def _code(text: str) -> list[str]:
    """The code of a page, without the headings, which are messages."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    spans = [
        token.content for b in blocks(text) if b.kind != "h3" for token in b.inline.children if token.tag == "code"
    ]
    return fenced + spans


# --- what the tests share ---------------------------------------------------------------------------------------------


def output(*command, seconds=SECONDS, cwd=None, **env) -> str:
    """All that a command prints until it ends."""
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=seconds,
        cwd=cwd,
        env=clean_environment() | {name: str(value) for name, value in env.items()},
    )
    assert done.returncode, f"it went well:\n{done.stdout}"
    return done.stdout


class Background:
    """A command that starts now and whose output is asked for later: what it imports takes seconds."""

    def __init__(self, folder, *command, **env):
        self.file = folder / "output.txt"
        with open(self.file, "wb") as file:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=clean_environment() | {name: str(value) for name, value in env.items()},
                start_new_session=True,
            )

    def printed(self) -> str:
        """What it printed so far."""
        return self.file.read_text(encoding="utf-8", errors="replace")

    def output(self) -> str:
        """What it printed until it ended."""
        self.process.wait(SECONDS)
        return self.printed()

    def end(self) -> None:
        self.process.terminate()  # the command ends what it started
        self.process.wait(SECONDS)


@pytest.fixture(scope="module")
def learner(empty_store, tmp_path_factory):
    """A state folder with a store, and this process as a notebook's kernel on it."""
    outside = dict(os.environ)
    folder = tmp_path_factory.mktemp("learner")
    os.environ["COURSE_STATE"] = str(folder)
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    store.copy(empty_store, folder / "store")
    import mlflow

    begin("01")
    yield folder
    while mlflow.active_run():
        mlflow.end_run()
    os.environ.clear()
    os.environ.update(outside)


def begin(number: str, tracking_uri: str | None = None, **more) -> None:
    course.begin(number, tracking_uri, market="sp500", **more)


@pytest.fixture(scope="module", autouse=True)
def beside(empty_store, tmp_path_factory):
    """What takes seconds to start begins first, and is looked at last."""
    started = {}

    def start(name, *command, **env):
        folder = tmp_path_factory.mktemp(name)
        store.copy(empty_store, folder / "state" / "store")
        started[name] = Background(folder, *command, COURSE_STATE=folder / "state", **env)

    taken = socket.create_server(("127.0.0.1", 0))
    start("ui", COURSE, "ui", "--no-browser", PYTHONUNBUFFERED=1)
    serve = ["-m", "mlflow", "server", "--port", taken.getsockname()[1], "--workers", "1"]
    serve += ["--backend-store-uri", store.uri(empty_store)]
    start("port", PYTHON, *serve, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
    start("killed", PYTHON, "-c", KILLED)
    programs = tmp_path_factory.mktemp("programs")
    (programs / "git").symlink_to(shutil.which("git"))  # and no pyenv
    project = [CHECKOUT / "projects" / "stockpred", "--experiment-name", "stockpred"]
    start("project", COURSE, "mlflow", "run", *project, PATH=programs)
    yield started
    taken.close()
    for each in started.values():
        each.end()


KILLED = """
import os, signal, course, mlflow
course.begin("01", market="sp500")
mlflow.set_experiment("killed")
mlflow.start_run()
os.kill(os.getpid(), signal.SIGKILL)
"""


def said_by(call, *arguments, **named) -> str:
    """The exception of a call as a notebook ends with it."""
    with pytest.raises(Exception) as caught:
        call(*arguments, **named)
    return f"{caught.type.__name__}: {caught.value}"


def command(*words) -> str:
    """What a command of the course prints when it refuses."""
    done = CliRunner().invoke(main, words)
    assert done.exit_code, done.output
    return done.output


# --- setting up -------------------------------------------------------------------------------------------------------


@pytest.fixture
def to_install(tmp_path):
    """A copy of what install.py needs, without an environment."""
    for name in ("install.py", "pyproject.toml", "requirements.lock"):
        shutil.copy(CHECKOUT / name, tmp_path)
    return tmp_path


@pytest.fixture
def damaged(tmp_path):
    """A package on disk, and the line of a lock that gives it another hash."""
    with zipfile.ZipFile(tmp_path / "thing-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("thing.py", "")
        wheel.writestr("thing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
        wheel.writestr("thing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("thing-1.0.dist-info/RECORD", "")
    (tmp_path / "lock.txt").write_text(f"thing==1.0 --hash=sha256:{'0' * 64}\n")
    return tmp_path


def pip(folder, **env) -> str:
    """What install.py calls to get uv."""
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--target", folder / "target"]
    return output(PYTHON, *install, "-r", folder / "lock.txt", PIP_RETRIES=0, PIP_NO_CACHE_DIR=1, **env)


def uv(folder, **env) -> str:
    """What install.py calls to get everything else."""
    sync = ["pip", "sync", "--target", folder / "target", "--python", PYTHON, "--require-hashes"]
    program = shutil.which("uv", path=os.path.dirname(PYTHON))
    return output(program, *sync, folder / "lock.txt", UV_HTTP_RETRIES=0, UV_CACHE_DIR=folder / "cache", **env)


@provokes("make: command")
def test_no_make(tmp_path):
    return output(shutil.which("bash"), "-c", "make course", PATH=tmp_path)


@provokes("none of which is on PATH")
def test_no_supported_python(to_install):
    old = f"import runpy, sys; sys.version_info = (3, 10, 4); runpy.run_path({str(to_install / 'install.py')!r}, "
    return output(PYTHON, "-c", old + "run_name='__main__')", PATH=to_install)


@provokes("`ensurepip` is missing")
def test_no_ensurepip(to_install):
    (to_install / "without").mkdir()
    (to_install / "without" / "ensurepip.py").write_text("raise ModuleNotFoundError")
    return output(PYTHON, to_install / "install.py", PYTHONPATH=to_install / "without")


@provokes("install.py: stopped")
def test_set_up_interrupted(to_install):
    install = Background(to_install, PYTHON, "-u", to_install / "install.py")
    until(lambda: (to_install / ".venv").exists(), what="the beginning of .venv")
    os.killpg(install.process.pid, signal.SIGINT)  # as Ctrl-C does
    return install.output()


@provokes("failed with exit code")
def test_a_step_of_the_set_up_fails(to_install):
    (to_install / ".venv").write_text("a file where the folder should be")
    return output(PYTHON, to_install / "install.py")


@provokes("No matching distribution found")
def test_pip_without_network(tmp_path):
    lock = (CHECKOUT / "requirements.lock").read_text(encoding="utf-8")
    (tmp_path / "lock.txt").write_text(re.search(r"^uv==(?:.*\\\n)*.*\n", lock, re.MULTILINE)[0])
    return pip(tmp_path, PIP_INDEX_URL=NOWHERE, PIP_CONFIG_FILE=os.devnull)


@provokes("Failed to fetch")
def test_uv_without_network(damaged):
    return uv(damaged, UV_DEFAULT_INDEX=NOWHERE, UV_NO_CONFIG=1)


@provokes("DO NOT MATCH THE HASHES")
def test_pip_gets_another_file(damaged):
    return pip(damaged, PIP_NO_INDEX=1, PIP_FIND_LINKS=damaged)


@provokes("Hash mismatch")
def test_uv_gets_another_file(damaged):
    return uv(damaged, UV_NO_INDEX=1, UV_FIND_LINKS=damaged)


# --- starting ---------------------------------------------------------------------------------------------------------


@provokes("course: command")
def test_another_terminal(tmp_path):
    return output(shutil.which("bash"), "-c", "course ui", PATH=tmp_path)


@provokes("No module named 'course'")
def test_another_python(tmp_path):
    venv.create(tmp_path / "other")
    return output(tmp_path / "other" / "bin" / "python", "-c", "import course", cwd=tmp_path)


@provokes("the kernel python3")
def test_another_kernel(tmp_path, monkeypatch):
    kernel = tmp_path / "kernels" / "python3"
    kernel.mkdir(parents=True)
    argv = ["/usr/bin/env", "python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "other", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("COURSE_STATE", str(tmp_path))
    return command("doctor")


@provokes("There is no chapter")
def test_no_such_chapter():
    return command("run", "99")


@provokes("market cannot be")
def test_no_such_market():
    return command("run", "01", "-p", "market=dow")


@provokes("did not end within")
def test_a_slow_cell(fake):
    fake.chapter("01", "import time; time.sleep(60)")
    with fake.here():
        return command("run", "--timeout", "1")


@provokes("the kernel died")
def test_a_dead_kernel(fake):
    fake.chapter("01", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with fake.here():
        return command("run")


# --- the store --------------------------------------------------------------------------------------------------------


@provokes("reads the runs of the experiment")
def test_nothing_to_build_on(learner):
    return said_by(begin, "02", needs={"stockpred-nasdaq": "01"})


@provokes("a checkpoint takes its place")
def test_a_checkpoint_over_runs(learner):
    import mlflow

    with mlflow.start_run():
        pass
    return command("checkpoint", "02")


@provokes("MLFLOW_TRACKING_URI is set")
def test_a_stray_address(learner, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example.org")
    begin("01")
    return capsys.readouterr().out


@provokes("The tracking store")
def test_a_server_that_is_not_there(learner, monkeypatch):
    monkeypatch.setenv("COURSE_TRACKING_URI", f"http://127.0.0.1:{servers.free_port()}")
    try:
        return said_by(begin, "01")
    finally:
        monkeypatch.undo()
        begin("01")


@provokes("out-of-date database schema")
def test_a_store_of_another_mlflow(learner, empty_store, tmp_path, monkeypatch):
    store.copy(empty_store, tmp_path / "store")
    with closing(sqlite3.connect(tmp_path / "store" / "mlflow.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '0123456789ab'")
    monkeypatch.setenv("COURSE_STATE", str(tmp_path))
    try:
        return said_by(begin, "01")
    finally:
        monkeypatch.undo()
        begin("01")


@provokes("is in maintenance mode")
def test_an_old_mlruns(learner, tmp_path, monkeypatch):
    import mlflow

    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").write_text("experiment_id: '0'\nname: Default\n")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(None)  # as in a script that sets none
    try:
        return said_by(mlflow.search_experiments)
    finally:
        begin("01")


# --- the workbench ----------------------------------------------------------------------------------------------------


@provokes("A workbench runs on")
def test_a_second_workbench(tmp_path):
    (tmp_path / "logs").mkdir()
    first = workbench.lock(tmp_path)
    try:
        (tmp_path / "running.json").write_text('{"MLflow": "http://127.0.0.1:5100"}')
        return said_by(workbench.lock, tmp_path)
    finally:
        first.release()


@provokes("is taken by another program")
def test_a_taken_port_of_the_workbench(capsys, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert workbench._port(tmp_path / "port", port, "MLflow") != port
    return capsys.readouterr().out


@pytest.fixture
def open_folder():
    """One that PostgreSQL's account may enter, also as root."""
    with tempfile.TemporaryDirectory(prefix="course-", dir="/tmp") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@provokes("ended by itself")
def test_a_damaged_database(open_folder):
    (open_folder / "postgres").mkdir(mode=0o700)
    (open_folder / "postgres" / "PG_VERSION").write_text("9\n")
    if os.geteuid() == 0:
        shutil.chown(open_folder / "postgres", "nobody")
    return said_by(workbench.start, open_folder)


@provokes("PostgreSQL does not run as root")
def test_a_folder_closed_to_others(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("you are not root")
    tmp_path.chmod(0o700)
    return said_by(workbench.start, tmp_path / "workbench")


@pytest.fixture(scope="module")
def bench():
    with workbench.start_workbench() as running:
        yield running
    shutil.rmtree(running.folder)


@provokes("Connection refused")
def test_localhost_where_nothing_listens(monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    return said_by(mlflow.MlflowClient(NOWHERE).search_experiments)


@provokes("Connection broken")
def test_a_server_that_dies_in_its_answer(monkeypatch):
    """The answer ends after its head. The client has five retries, and does not make the call again."""
    import mlflow

    calls = []

    class Dying(BaseHTTPRequestHandler):
        def do_POST(self):
            calls.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()

        def log_message(self, *words):
            pass

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    with HTTPServer(("127.0.0.1", 0), Dying) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            said = said_by(mlflow.MlflowClient(f"http://127.0.0.1:{server.server_port}").search_experiments)
        finally:
            server.shutdown()
    assert len(calls) == 1
    return said


@provokes("Permission denied")
def test_artifacts_on_the_clients_disk(tmp_path):
    """As an ordinary user: root could make the folder. The same between containers: test_docker_workbench.py."""
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    (tmp_path / "said").touch()
    (tmp_path / "said").chmod(0o666)
    with open(tmp_path / "said", "w") as said:
        if (child := os.fork()) == 0:  # with all modules loaded: another user may not enter root's home
            try:
                if os.geteuid() == 0:
                    os.setuid(65534)
                LocalArtifactRepository("/srv/artifacts").log_artifact(__file__)
            except OSError as error:
                os.write(said.fileno(), f"{type(error).__name__}: {error}".encode())
            os._exit(0)
        os.waitpid(child, 0)
    return (tmp_path / "said").read_text()


@provokes("artifact_location cannot")
def test_an_artifact_location_on_the_workbench(bench):
    import mlflow

    return said_by(mlflow.MlflowClient(bench.url).create_experiment, "own", artifact_location="file:///srv/artifacts")


@provokes("Workspace '")
def test_a_workspace_that_is_not_there(bench, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_WORKSPACE", "ada")
    return said_by(mlflow.MlflowClient(bench.url).search_experiments)


# --- in a notebook ----------------------------------------------------------------------------------------------------


@provokes("NameError")
def test_a_cell_above_was_not_run():
    notebook = json.loads(all_chapters()[0].notebook.read_text(encoding="utf-8"))
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return said_by(exec, next(cell for cell in code if cell.startswith("round(forest.score")), {})


@provokes("No module named 'tensorflow'")
def test_a_machine_without_tensorflow(tmp_path):
    """All of this environment but TensorFlow, and nothing else."""
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith("tensorflow"):
            (tmp_path / entry.name).symlink_to(entry)
    command = [PYTHON, "-S", "-c", "import keras"]
    return subprocess.run(
        command, capture_output=True, text=True, env=clean_environment(PYTHONPATH=str(tmp_path))
    ).stderr


@provokes("is already active")
def test_a_run_that_was_not_ended(learner):
    import mlflow

    mlflow.start_run()
    try:
        return said_by(mlflow.start_run)
    finally:
        mlflow.end_run()


@provokes("Changing param values")
def test_a_parameter_logged_twice(learner):
    import mlflow

    with mlflow.start_run():
        mlflow.log_param("depth", 3)
        return said_by(mlflow.log_param, "depth", 5)


@provokes("Untrusted types")
def test_a_forest_logged_with_the_defaults(learner):
    import mlflow.sklearn
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(n_estimators=2).fit([[0.0], [1.0]], [0, 1])
    with mlflow.start_run():
        return said_by(mlflow.sklearn.log_model, forest, name="model")


@provokes("Can not safely convert int64")
def test_whole_numbers_where_decimals_are_declared():
    import pandas as pd
    from mlflow.models import validate_schema
    from mlflow.types import ColSpec, Schema

    table = pd.DataFrame({"Volume": [2, 3]}, dtype="int64")
    return said_by(validate_schema, table, Schema([ColSpec("double", "Volume")]))


@provokes("Deserializing this model")
def test_a_pickle_where_pickles_are_refused(tmp_path, monkeypatch):
    import mlflow.sklearn
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    mlflow.sklearn.save_model(model, tmp_path / "model", serialization_format="pickle", pip_requirements=[])
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    return said_by(mlflow.sklearn.load_model, str(tmp_path / "model"))


@provokes("is not promoted")
def test_a_version_that_the_gate_refuses(learner):
    """A model without signature, whose run says nothing: three conditions fail, or cannot be judged."""
    import mlflow.sklearn
    from sklearn.linear_model import LogisticRegression

    from pystock.registry import promotion as registry

    with mlflow.start_run():
        model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
        mlflow.sklearn.log_model(model, name="model", pip_requirements=[], registered_model_name="no-good")
    return said_by(registry.promote, "no-good", 1, why="to see it refused")


@provokes("rows of … are bad")
def test_a_source_of_bad_rows(tmp_path):
    from pystock.data_pipeline import steps as data_pipeline

    head, *lines = (CHECKOUT / "data" / "sp500.csv").read_text().splitlines()
    file = tmp_path / "sp500.csv"
    file.write_text("\n".join([head, *lines[:150], *(line.replace(",", ",x", 1) for line in lines[150:160])]) + "\n")
    data_pipeline.load_raw(tmp_path / "stages", "sp500", str(file))
    return said_by(data_pipeline.check, tmp_path / "stages", "sp500")


@provokes("has been at … since")
def test_a_pipeline_that_is_under_way(learner):
    import mlflow

    from pystock import pipeline

    with pipeline.run("a-pipeline", "main", {}, claim="some work"):
        first = mlflow.active_run().info.run_id
        with mlflow.start_run(nested=True):
            said = said_by(pipeline.claim_work, "some work")
    assert first in said
    return said


@provokes("Model is missing inputs")
def test_a_missing_column(learner, tmp_path):
    import mlflow.sklearn
    import pandas as pd
    from sklearn.linear_model import LogisticRegression

    X = pd.DataFrame({"day_01": [0.0, 1.0], "day_02": [1.0, 0.0]})
    signature = mlflow.models.infer_signature(X)
    model = LogisticRegression().fit(X, [0, 1])
    mlflow.sklearn.save_model(model, tmp_path / "model", signature=signature, pip_requirements=[])
    return said_by(mlflow.pyfunc.load_model(str(tmp_path / "model")).predict, X.drop(columns="day_02"))


@provokes("is no embedded market")
def test_another_market():
    from pystock.data import load

    return said_by(load, "dow")


@provokes("is damaged")
def test_a_spreadsheet_saved_the_prices(tmp_path, monkeypatch):
    from pystock.data import load

    text = (CHECKOUT / "data" / "sp500.csv").read_text().replace("1999-01-05", "05/01/1999")
    (tmp_path / "sp500.csv").write_text(text)
    monkeypatch.setenv("PYSTOCK_DATA", str(tmp_path))
    return said_by(load, "sp500")


@provokes("Yahoo cannot be reached")
def test_download_without_network(tmp_path, monkeypatch):
    import yfinance

    from pystock.data import download

    yfinance.set_tz_cache_location(str(tmp_path))
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, NOWHERE)
        monkeypatch.setenv(name.lower(), NOWHERE)
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    return said_by(download, "^GSPC", "2019-01-02", "2019-01-31")


# --- batch jobs -------------------------------------------------------------------------------------------------------


@provokes("to one that runs")
def test_a_job_without_its_server(learner, monkeypatch):
    import mlflow

    from pystock.batch import job as batch

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    here = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(NOWHERE)
    try:
        return said_by(batch.check_server)
    finally:
        mlflow.set_tracking_uri(here)


@provokes("Failed to resolve")
def test_a_name_that_nobody_knows(monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    return said_by(mlflow.MlflowClient("http://mlflow.invalid:5000").search_experiments)


@provokes("promote a version")
def test_a_job_without_a_champion(learner, tmp_path):
    import mlflow

    from pystock.batch import job as batch

    (tmp_path / "days.csv").write_text("Date\n2018-12-31\n")
    with mlflow.start_run():
        return said_by(batch.score, tmp_path / "days.csv", tmp_path / "predictions.csv")


@provokes("of the model's")
def test_a_file_without_a_column(tmp_path):
    from pystock.batch import rows as batch_rows

    (tmp_path / "days.csv").write_text("Date,abs_return\n2018-12-31,0.01\n")
    return said_by(batch_rows.open_part, "days.csv", tmp_path / "days.csv", ["abs_return", "momentum_5"], ())


@provokes("a batch job is at work")
def test_two_jobs_with_one_output(tmp_path):
    from pystock.batch import resume as batch_work

    def second():
        with batch_work.locked(tmp_path / "predictions.csv"):
            pass

    with batch_work.locked(tmp_path / "predictions.csv"):
        return said_by(second)


# --- the inference API -----------------------------------------------------------------------------------------------

API = CHECKOUT / "projects" / "pystock-inference-api" / "main.py"


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


def refusal(api, headers: dict, body: bytes = b"{}") -> str:
    """The sentence with which the service refuses a question."""
    request = urllib.request.Request(f"{api.url}/predict", data=body, headers=headers)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10)
    return json.loads(caught.value.read())["detail"]


@provokes("PYSTOCK_API_PORT is")
def test_a_port_that_is_none(learner):
    return output(PYTHON, API, PYSTOCK_API_PORT=99999, MLFLOW_TRACKING_URI=store.uri(learner / "store"))


@provokes("There is no model yet")
def test_a_service_without_a_champion(api):
    row = dict.fromkeys(api_schema.NAMES, 0.01)
    return refusal(api, JSON, json.dumps({"rows": [row]}).encode())


@provokes("no more are taken")
def test_a_caller_who_holds_the_only_place(api):
    begun = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", api.port)) as line:
        line.sendall(begun)
        return until(lambda: next((said for said in [refusal(api, JSON)] if "at work" in said), None))


@provokes("its signature is not")
def test_a_version_for_another_question(tmp_path):
    import mlflow.sklearn
    import pandas as pd
    from sklearn.linear_model import LogisticRegression

    X = pd.DataFrame({"day_01": [0.0, 1.0]})
    signature = mlflow.models.infer_signature(X, params={"threshold": 0.5})
    model = LogisticRegression().fit(X, [0, 1])
    mlflow.sklearn.save_model(model, tmp_path / "model", signature=signature, pip_requirements=[])
    return said_by(api_champion.load, tmp_path, {"name": "pystock-direction", "version": 1}, "registry")


@provokes("The header Content-Type is")
def test_curl_declares_a_form(api):
    return refusal(api, {})  # urllib declares what curl -d declares


# --- servers, and what was started first ------------------------------------------------------------------------------


@provokes("ended before it answered")
def test_a_server_with_a_misspelled_command(learner):
    return said_by(course.start_server, ["mlfow", "models", "serve", "--port", "{port}"], health="/ping")


@provokes("DNS rebinding")
def test_a_server_under_another_name(beside):
    shown = until(lambda: re.search(r"http\S+", beside["ui"].printed()), SECONDS, "the address of the MLflow UI")
    request = urllib.request.Request(shown[0], headers={"Host": "mlflow.example.org"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10)
    assert caught.value.code == 403
    return caught.value.read().decode()


@provokes("address already in use")
def test_a_taken_port(beside):
    return beside["port"].output()


@provokes("'None'")
def test_a_project_without_env_manager(beside):
    return beside["project"].output()


@provokes("RUNNING")
def test_a_killed_kernels_run(learner, beside):
    import mlflow

    assert beside["killed"].process.wait(SECONDS) == -signal.SIGKILL, beside["killed"].output()
    database = store.uri(beside["killed"].file.parent / "state" / "store")

    def status():
        return mlflow.search_runs(experiment_names=["killed"])["status"].to_string()

    outside = os.environ["COURSE_STATE"]
    os.environ["COURSE_STATE"] = str(beside["killed"].file.parent / "state")
    try:
        mlflow.set_tracking_uri(database)
        before = status()
        begin("01")
        assert "KILLED" in status()  # the mend
    finally:
        os.environ["COURSE_STATE"] = outside
        begin("01")
    return before
