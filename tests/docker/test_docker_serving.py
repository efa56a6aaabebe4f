"""The image that `mlflow models generate-dockerfile` makes of a champion: its content, and how it answers."""

import http.client
import json
import os
import platform
import re
import subprocess
import time
from collections import Counter
from urllib.parse import urlsplit

import mlflow
import pytest
import requests
from docker_projects import environment, megabytes
from docker_workbench import docker, require_docker
from environments import INSTALLED, check, locked
from fake_course import until

from course import store
from course.servers import answers
from pystock import models, tuning
from pystock.data import load
from pystock.features import volatility

NAME = "pystock-big-move"
COMMAND = f"mlflow models generate-dockerfile --model-uri models:/{NAME}@champion --output-directory serving"
BASE = f"python:{platform.python_version()}-slim"  # which MLflow writes: the Python that logged the model, in full


@pytest.fixture(scope="module")
def folder(tmp_path_factory, empty_store):
    """What MLflow makes for `docker build` of a champion."""
    require_docker()
    here = tmp_path_factory.mktemp("image")
    store.copy(empty_store, here / "store")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store.uri(here / "store"))
    X, y = tuning.training_data("sp500", "big_move", "volatility")
    experiment = mlflow.create_experiment("serving", artifact_location=store.artifact_root(here / "store"))
    with mlflow.start_run(experiment_id=experiment):
        info = models.log_decision_model(tuning.build("xgboost", max_depth=1).fit(X, y), X, threshold=0.25)
    version = mlflow.register_model(info.model_uri, NAME)
    mlflow.MlflowClient().set_registered_model_alias(NAME, "champion", version.version)
    env = environment(store.uri(here / "store"))
    mlflow.set_tracking_uri(before)
    done = subprocess.run(COMMAND.split(), cwd=here, env=env, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return here / "serving"


@pytest.fixture(scope="module")
def image(folder):
    name = f"pystock-serving-test-{os.getpid()}"
    docker("build", "--tag", name, str(folder), seconds=1500)
    yield name
    docker("image", "rm", "--force", name, check=False)


@pytest.fixture(scope="module")
def served(image):
    """A container that has given its first prediction: its name, the address, the seconds until then."""
    begun = time.monotonic()
    docker("run", "--detach", "--restart", "on-failure", "--publish", "127.0.0.1::8080", "--name", image, image)

    def address():
        if state(image).startswith("exited"):  # nginx lost the race for its log, once in some dozen starts
            docker("start", image)
        (url,) = docker("port", image, "8080", check=False).stdout.split() or ["nowhere"]
        return answers(f"http://{url}/ping") and f"http://{url}"

    try:
        url = until(address, 120, "an answer to /ping")
        assert ask(url, "POST", "/invocations", good(), JSON).status_code == 200
        yield image, url, time.monotonic() - begun
    finally:
        docker("rm", "--force", image, check=False)


def state(name: str) -> str:
    """Of a container: the status, the exit code, and how often its engine has started it again."""
    asked = "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}"
    return docker("inspect", "--format", asked, name).stdout.strip()


def test_what_is_in_it_and_how_it_answers(folder, served):
    name, url, started = served
    total, ours = megabytes(name), megabytes(name) - megabytes(BASE)
    found = json.loads(docker("exec", name, "python", "-c", INSTALLED).stdout)
    required = dict(re.findall("^(.+)==(.+)$", (folder / "model_dir/requirements.txt").read_text(), re.MULTILINE))
    assert {package: found[package] for package in required} == required
    others = [package for package, version in found.items() if locked().get(package, version) != version]
    lines = [line.split(None, 2) for line in docker("top", name, "-o", "pid,user,args").stdout.splitlines()[1:]]
    processes = dict(Counter(f"{user}: {called(line)}" for _, user, line in lines))
    assert processes["root: nginx, master"] == processes["nobody: nginx, worker"] == 1
    paths = ("/ping", "/health", "/version", "/invocations")
    answered = {f"GET {path}": short(ask(url, "GET", path)) for path in paths}
    asked = {label: short(ask(url, "POST", "/invocations", *question)) for label, question in questions().items()}
    asked["a body of 101 MB"] = {"status": too_large(url)}
    assert ask(url, "POST", "/invocations", *questions()["no rows"]).json() == {"predictions": []}
    about = {
        "command": COMMAND,
        "files": sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()),
        "base": f"{BASE} (a stand-in)",
        "python": platform.python_version(),
        "packages": required,
        "installed": len(found),
        "installed_unlike_the_lock": len(others),
        "megabytes": round(ours),
        "megabytes_with_base": round(total),
        "first_prediction_seconds": round(started, 1),
        "processes": processes,
        "user": docker("exec", name, "id", "-un").stdout.strip(),
        "answers": answered,
        "requests": asked,
    }
    check("16_serving", about, ("command", "files", "packages", "user", "answers", "requests"), part="serving")
    # It ends with success when nginx dies, so `--restart on-failure` does not start it again
    docker("exec", name, "python", "-c", KILL_NGINX, check=False)  # its container may end before it
    until(lambda: state(name).startswith("exited"), 120, "its end")
    time.sleep(1)
    assert state(name) == "exited 0 0"


KILL_NGINX = "import os, signal; os.kill(int(open('/tmp/nginx.pid').read()), signal.SIGKILL)"
JSON = "application/json"


def row() -> dict:
    day = volatility(load("sp500")).loc["2015-01-02":"2015-01-02"]
    return day.to_dict("split", index=False)


def good(rows: int = 1) -> bytes:
    one = row()
    return json.dumps({"dataframe_split": {**one, "data": one["data"] * rows}}).encode()


def questions() -> dict[str, tuple[bytes, str | None]]:
    """Some requests by what is asked: the body and the Content-Type of each. The record has the statuses."""
    columns, (day,) = row().values()

    def split(columns: list[str], *rows: list) -> bytes:
        return json.dumps({"dataframe_split": {"columns": columns, "data": rows}}).encode()

    return {
        "a good row": (good(), JSON),
        "a column is missing": (split(columns[1:], day[1:]), JSON),
        "a text where a number belongs": (split(columns, ["high", *day[1:]]), JSON),
        "NaN": (split(columns, [float("nan"), *day[1:]]), JSON),
        "null": (split(columns, [None, *day[1:]]), JSON),
        "a number beyond what the model computes with": (split(columns, [1e300, *day[1:]]), JSON),
        "no rows": (split(columns), JSON),
        "no data": (b'{"dataframe_split": null}', JSON),
        "no Content-Type": (good(), None),
        "XML": (b"<row/>", "application/xml"),
        "broken JSON": (good()[:20], JSON),
        "a body of 10 MB": (good(10_000_000 // len(json.dumps([day]))), JSON),
        "10 MB that are no JSON": (b"x" * 10_000_000, JSON),
    }


def ask(url: str, method: str, path: str, body: bytes | None = None, kind: str | None = None) -> requests.Response:
    more = {"proxies": {"http": ""}, "timeout": 200}  # a proxy does not reach this machine's own ports
    return requests.request(method, url + path, data=body, headers={"Content-Type": kind}, **more)


def too_large(url: str) -> int:
    """The status for a request that announces a body of 101 MB."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=200)
    connection.putrequest("POST", "/invocations")
    for header, value in {"Content-Type": JSON, "Content-Length": str(101 * 2**20)}.items():
        connection.putheader(header, value)
    connection.endheaders()
    with connection.getresponse() as answer:
        return answer.status


def short(answer: requests.Response) -> dict:
    """The status of an answer, and the size of a large one."""
    size = len(answer.content)
    return {"status": answer.status_code} | ({"megabytes": round(size / 1e6, 1)} if size > 100_000 else {})


def called(process: str) -> str:
    names = {"nginx: master": "nginx, master", "nginx: worker": "nginx, worker", "uvicorn": "uvicorn"}
    names |= {"resource_tracker": "uvicorn, resource tracker", "spawn_main": "uvicorn, worker"}
    names |= {"_serve": "MLflow, which started the others and waits"}
    return next((name for part, name in names.items() if part in process), process)
