"""The projects in real containers, on the image of projects/docker: they log to a server here what they log without."""

import importlib.util
import json
import re
import signal
import subprocess
import sys
import time

import mlflow
import pandas as pd
import pytest
from docker_projects import BASE, IMAGES, RUN, base_image, check_image, environment, in_container, megabytes, python
from docker_workbench import docker, require_docker
from environments import IMPORTANT, INSTALLED, OPTIONS, check_training, outcome
from fake_course import CHECKOUT, until
from promotions import own_store

from course import store
from course.servers import MLFLOW_SERVER_ENVIRONMENT, mlflow_server, start_server
from pystock.data import load
from pystock.features import dataset
from pystock.pipeline import PipelineError, claim_work

spec = importlib.util.spec_from_file_location("run_in_container", RUN)
run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run)


@pytest.fixture(scope="module")
def server(tmp_path_factory, empty_store):
    """The address of a real MLflow server on 127.0.0.1; this process's store, too."""
    require_docker()
    folder = tmp_path_factory.mktemp("server")
    store.copy(empty_store, folder / "store")
    command = mlflow_server(store.uri(folder / "store"), "--artifacts-destination", str(folder / "files"))
    with start_server(command, env=MLFLOW_SERVER_ENVIRONMENT) as started:
        mlflow.set_tracking_uri(started.url)  # conftest.py ends it
        yield started.url


def newest(experiment, **tags):
    asked = " and ".join(f"tags.{name} = '{value}'" for name, value in tags.items())
    return mlflow.search_runs(experiment_names=[experiment], filter_string=asked, output_format="list")[0]


def test_the_base_image_holds_what_projects_need_and_no_more(record_property):
    image = base_image()
    check_image(image, "pystock", "", record_property)
    assert python(image, "from pystock.data import load; print(len(load('nasdaq')))") == "5031\n"
    assert docker("run", "--rm", image, "find", "/opt/pystock", "-name", ".git", "-o", "-name", "*.lock").stdout == ""


def test_pystock_training_logs_from_a_container_what_it_logs_without(server):
    begun = time.monotonic()
    in_container("pystock-training", server, "--experiment-name", "container", *OPTIONS)
    seconds = time.monotonic() - begun
    words = ["projects/pystock-training", "--env-manager", "local", "--experiment-name", "here", *OPTIONS]
    pipes = {"capture_output": True, "text": True, "timeout": 900}
    done = subprocess.run(["mlflow", "run", *words], cwd=CHECKOUT, env=environment(server), **pipes)
    assert done.returncode == 0, done.stderr[-3000:]
    there, here = outcome("container"), outcome("here")
    assert there == here  # every metric, and the file of predictions byte for byte
    evaluated = newest("container", step="evaluate_model")
    X, _ = dataset(load("sp500"), target="big_move", features="volatility")
    model = mlflow.pyfunc.load_model(f"models:/{evaluated.data.tags['model']}")
    other = mlflow.pyfunc.load_model(f"models:/{newest('here', step='evaluate_model').data.tags['model']}")
    pd.testing.assert_frame_equal(model.predict(X), other.predict(X), check_exact=True)
    assert newest("container", step="main").data.tags["mlflow.project.env"] == "docker"
    registered = newest("container", step="register_model")
    assert registered.info.status == "FINISHED" and registered.data.tags["model"] == evaluated.data.tags["model"]

    image = base_image()
    found = json.loads(python(image, INSTALLED))
    check_training(
        "docker",
        command=f"python projects/docker/run.py projects/pystock-training {' '.join(OPTIONS)}",
        seconds=seconds,
        python=python(image, "import platform; print(platform.python_version())").strip(),
        packages={name: found[name] for name in IMPORTANT},
        installed=len(found),
        megabytes=megabytes(image) - megabytes(BASE),
        outcome=there,
    )


@pytest.fixture
def waiting(tmp_path):
    """A project whose container claims its work and waits; call it to start it by run.py."""
    project = tmp_path / "waits"
    project.mkdir()
    (project / "MLproject").write_text("name: waits\nentry_points:\n  main:\n    command: python waits.py\n")
    (project / "waits.py").write_text(
        "import time\nfrom pystock.pipeline import run\n"
        "with run('waits', 'main', {}, claim='the work'):\n    print('claimed', flush=True)\n    time.sleep(120)\n"
    )
    started = []

    def start(server, **env):
        command = [sys.executable, RUN, project, "--experiment-name", "waits"]
        env = environment(server, PYSTOCK_IMAGE=base_image(), **env)
        with open(start.output, "wb") as output:
            started.append(subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT))
        until(lambda: "\nclaimed" in start.output.read_text(), 120, "the claim in the container")
        return started[-1], re.search("pystock-[0-9a-f]{8}", start.output.read_text())[0]

    start.output = tmp_path / "output"
    yield start
    for process in started:
        process.kill()
    for name in re.findall("--name (pystock-[0-9a-f]{8})", start.output.read_text()):
        docker("rm", "--force", name, check=False)


def containers(name):
    return docker("ps", "--all", "--format", "{{.Names}}", "--filter", f"name={name}").stdout.split()


def test_a_container_is_told_apart_and_ends_with_what_started_it(server, waiting):
    process, name = waiting(server, MLFLOW_TRACKING_USERNAME="ada", MLFLOW_TRACKING_PASSWORD="not-to-be-seen")
    assert containers(name) == [name]
    # the claim of a process in a container is no dead process of this machine
    experiment, refusal = newest("waits").info.experiment_id, f"on {name} has been working on the work since"
    with pytest.raises(PipelineError, match=refusal), mlflow.start_run(experiment_id=experiment):
        claim_work("the work")
    # the password is in the container, and on no command line
    assert docker("exec", name, "printenv", "MLFLOW_TRACKING_PASSWORD").stdout == "not-to-be-seen\n"
    lines = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True).stdout
    assert name in lines and "MLFLOW_TRACKING_USERNAME=ada" in lines and "not-to-be-seen" not in lines
    assert "not-to-be-seen" not in waiting.output.read_text()

    process.send_signal(signal.SIGTERM)
    assert process.wait(300) != 0
    assert containers(name) == []
    assert newest("waits", step="main").info.status == "FAILED"


def test_after_a_kill_the_container_works_on_until_it_is_stopped(server, waiting):
    process, name = waiting(server)
    process.kill()
    process.wait()
    time.sleep(1)
    assert containers(name) == [name] and newest("waits", step="main").info.status == "RUNNING"
    docker("stop", "-t", "60", name)
    assert newest("waits", step="main").info.status == "FAILED"  # it heard the signal; one that is killed stays RUNNING
    until(lambda: not containers(name), 120, "the end of the container")


@pytest.mark.parametrize(("words", "error"), [
    ([], "python: can't open file '/home/pystock/train.py': [Errno 2] No such file or directory"),
    (["--build-image"], "attempt to write a readonly database"),
    (["--build-image", "-A", "user=0:0"], None),  # the model is READY, and has no files
], ids=["without --build-image", "file store", "file store as root"])  # fmt: skip
def test_mlflow_by_itself_loses_the_files_or_the_model(words, error, tmp_path, empty_store, monkeypatch):
    """Why run.py builds an image and requires a server."""
    monkeypatch.setattr(run, "IMAGE", base_image())
    copy, uri = run.with_docker_env(CHECKOUT / "projects/stockpred", tmp_path), own_store(empty_store, tmp_path)
    client, location = mlflow.MlflowClient(uri), store.artifact_root(tmp_path / "store")
    experiment = client.create_experiment("file", artifact_location=location)
    command = ["mlflow", "run", copy, *words, "--experiment-id", experiment, "-P", "trees=5"]
    with IMAGES:
        done = subprocess.run(command, env=environment(uri), capture_output=True, text=True, timeout=400)
    assert done.returncode == bool(error) and (error or "") in done.stderr, done.stderr[-3000:]
    models = client.search_logged_models([experiment])
    assert [model.status.value for model in models] == ([] if error else ["READY"])
    assert not list(tmp_path.glob("store/**/m-*"))


@pytest.mark.parametrize(("project", "env", "said"), [
    ("nothing", {}, "projects/nothing has no MLproject file: give the folder of a project, such as "),
    ("docker", {}, "projects/docker has no MLproject file: "),
    ("stockpred", {"MLFLOW_TRACKING_URI": ""}, "MLFLOW_TRACKING_URI is not set, but a container can reach o"),
    ("stockpred", {"MLFLOW_TRACKING_URI": "sqlite:///a.db"}, "MLFLOW_TRACKING_URI is sqlite:///a.db, but a contai"),
    ("stockpred", {"PATH": "/nowhere"}, "the command docker was not found: install Docker, or run the project "),
    ("stockpred", {"DOCKER_HOST": "unix:///nowhere"}, "Docker does not respond (Cannot connect to the Docker "),
    ("stockpred", {"PYSTOCK_IMAGE": "not-built"}, "the image not-built does not exist: run `docker build -f proj"),
])  # fmt: skip
def test_run_says_in_a_sentence_what_is_missing(project, env, said):
    require_docker()
    command = [sys.executable, str(RUN), f"projects/{project}"]
    env = environment("http://127.0.0.1:1") | env
    done = subprocess.run(command, cwd=CHECKOUT, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"run.py: {said}") and len(done.stderr.splitlines()) == 1, done.stderr


def test_elsewhere_than_on_linux_it_says_how_to_reach_this_machine(monkeypatch):
    project = CHECKOUT / "projects/stockpred"
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(run, "IMAGE", base_image())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5050")
    assert "turn on host networking in its settings" in run.what_is_missing(project, [])
    assert run.what_is_missing(project, ["-A", "network=host"]) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org")
    assert run.what_is_missing(project, []) is None
