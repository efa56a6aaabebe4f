"""The deployment in containers: one command from data to a prediction, and what its parts outlive."""

import json
import os
import shutil
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import mlflow
import numpy as np
import pandas as pd
import pytest
import requests
from docker_projects import megabytes
from docker_workbench import Workbench, docker, require_docker, status
from environments import INSTALLED, locked
from fake_course import CHECKOUT, clean_environment, until

from pystock.data import load
from pystock.features import volatility
from pystock.training import steps as training

pytestmark = pytest.mark.docker

NAME = "pystock-big-move"
BASE = "python:3.12-slim"
PATIENCE = 120  # seconds for what a container does, on a busy machine
PROJECT = CHECKOUT / "projects" / "pystock-inference-api"
EXAMPLE = json.loads((PROJECT / "example.json").read_text())


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """The deployment, brought up by its one command in a copy of the checkout; its server is this process's store."""
    require_docker()
    copy = tmp_path_factory.mktemp("bench")
    made = Workbench("api", copy, PROJECT / "compose.yaml", PYSTOCK_API_POLL_SECONDS="1")
    made.copy = copy
    for name in ("workbench", "projects", "src", "data"):
        shutil.copytree(CHECKOUT / name, copy / name, ignore=LEFT_OUT, dirs_exist_ok=True)
    for name in ("requirements.lock", "pyproject.toml"):
        shutil.copy(CHECKOUT / name, copy / name)
    (copy / "workbench" / ".env").unlink()  # from nothing: the command makes it
    before = mlflow.get_tracking_uri()
    try:
        made.said, made.seconds = deploy(made)
        mlflow.set_tracking_uri(made.mlflow)
        yield made
    finally:
        mlflow.set_tracking_uri(before)
        made.remove()


def deploy(bench, **settings):
    """The one command: what it printed, and the seconds that it took."""
    env = clean_environment(**bench.settings, COMPOSE_PROJECT_NAME=bench.project, **settings)
    command, begun = [bench.copy / "projects/pystock-inference-api/deploy"], time.monotonic()
    done = subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, time.monotonic() - begun


LEFT_OUT = shutil.ignore_patterns("__pycache__", ".env", "stages", "mlruns", "*.db")


def ask(bench, path="/predict", body=None):
    """What the API answers, with success; a body is posted."""
    code, text = status(bench.api + path, method="POST" if body else "GET", body=body)
    assert code == 200, text
    return json.loads(text)


def probability(version, rows=None):
    """What a version of the model itself says of rows; by default of those of example.json."""
    rows = pd.DataFrame(EXAMPLE["rows"]) if rows is None else rows
    return mlflow.pyfunc.load_model(f"models:/{NAME}/{version}").predict(rows)["probability"].to_numpy()


def close(answer, expected):
    found = [each["probability"] for each in answer["predictions"]]
    return len(found) == len(expected) and np.abs(np.subtract(found, expected)).max() < 1e-9


# From nothing


def test_one_command_from_nothing_to_a_prediction(bench, record_property):
    record_property("measured", f"deployment, images from the cache: {bench.seconds:.0f} s to the first prediction")
    answer = json.loads(bench.said.strip().splitlines()[-1])
    assert answer["model"] == {"name": NAME, "version": 1}
    assert close(answer, probability(1)) and answer["predictions"][0]["decision"] == 1
    client = mlflow.MlflowClient()
    found = client.get_model_version_by_alias(NAME, "champion")
    assert found.version == "1" and found.tags["gate"] == "passed" and found.tags["lifecycle"] == "Production"
    source = client.get_run(client.get_run(found.run_id).data.tags["data_run"])
    assert source.data.tags["pipeline"] == "pystock-data-features"


def test_prices_become_features_in_the_container_as_here(bench):
    prices = load("sp500").loc["2018-09":]
    days = prices.drop(columns="Adj Close").rename(columns=str.lower).rename_axis("date").reset_index()
    body = {"prices": json.loads(days.to_json(orient="records", date_format="iso"))}
    for day in body["prices"]:
        day["date"] = day["date"][:10]
    answer = ask(bench, body=body)
    expected = volatility(prices).iloc[66:]
    assert [each["date"] for each in answer["predictions"]] == [f"{day:%Y-%m-%d}" for day in expected.index]
    assert close(answer, probability(1, expected))


# What is in it


def test_the_image_holds_what_it_needs_and_no_more(bench, record_property):
    image = bench.container("api")["Image"]
    ours, total = megabytes(image) - megabytes(BASE), megabytes(image)
    sizes = f"our layers {ours:.0f} MB, with the stand-in base {BASE} {total:.0f} MB"
    record_property("measured", f"pystock-inference-api: {sizes}")
    assert ours < 550
    packages = json.loads(bench.python(INSTALLED, service="api"))
    assert packages == {name: locked()[name] for name in packages} and "mlflow" not in packages
    heavy = ["tensorflow", "jupyterlab", "matplotlib", "arch", "optuna", "pandera", "pyarrow", "flask", "sqlalchemy"]
    heavy += ["course", "workbench", "pytest", "uv"]
    code = f"import importlib.util as u; print([name for name in {heavy} if u.find_spec(name)])"
    assert bench.python(code, service="api") == "[]\n"
    declared = json.loads(docker("image", "inspect", image).stdout)[0]["Config"]
    assert declared["User"] == "pystock" and declared["StopSignal"] == "SIGINT"
    assert "/health" in str(declared["Healthcheck"]["Test"])


@pytest.mark.parametrize(("service", "volume"), [("api", "cache"), ("pipeline", "stages"), ("batch", "")])
def test_the_containers_have_no_right_that_they_do_not_need(bench, service, volume):
    script = f"""
        grep -E '^(Uid|CapEff|CapBnd|NoNewPrivs)' /proc/1/status
        touch /home/pystock/x /opt/pystock/x 2>&1
        touch /tmp/x && touch /home/pystock/{volume}/x && echo writes"""
    run = ["exec", "--no-TTY"] if service == "api" else ["run", "--rm", "--no-TTY", "--no-deps", "--entrypoint", ""]
    said = bench.compose(*run, service, "sh", "-c", script, seconds=300, check=False).stdout
    facts = dict(line.split(":\t") for line in said.splitlines() if ":\t" in line)
    assert facts == {"Uid": "\t".join(["1000"] * 4), "CapEff": "0" * 16, "CapBnd": "0" * 16, "NoNewPrivs": "1"}
    assert said.count("Read-only file system") == 2
    assert said.endswith("writes\n") == bool(volume)  # a batch job has no folder but the one that its call gives it


def test_the_api_is_published_on_this_machine_alone(bench):
    ports = bench.container("api")["NetworkSettings"]["Ports"]
    assert ports == {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": bench.settings["API_PORT"]}]}


def test_no_password_stands_on_a_command_line_or_in_what_the_command_says(bench):
    secrets = [value for value in bench.env.values() if len(value) == 32]
    shown = bench.said + bench.compose("logs", "api").stdout
    shown += bench.run("api", "sh", "-c", "cat /proc/[0-9]*/cmdline; true").stdout
    assert len(secrets) == 6 and "main.py" in shown
    assert not [value for value in secrets if value in shown]


def test_jupyterlab_is_not_part_of_it(bench):
    assert set(bench.compose("ps", "--all", "--services").stdout.split()) == {"postgres", "mlflow", "api"}


# Beside it


def test_the_batch_job_scores_the_same_row_equally(bench, tmp_path):
    tmp_path.chmod(0o777)
    pd.DataFrame(EXAMPLE["rows"]).to_csv(tmp_path / "days.csv", index=False)
    paths = ["--input", "/jobs/days.csv", "--output", "/jobs/predictions.csv"]
    bench.compose("run", "--rm", "--volume", f"{tmp_path}:/jobs", "batch", *paths, seconds=300)
    (scored,) = pd.read_csv(tmp_path / "predictions.csv").itertuples()
    answer = ask(bench, body=EXAMPLE)
    assert close(answer, [scored.probability]) and answer["model"]["version"] == scored.model_version
    assert answer["predictions"][0]["decision"] == scored.decision


# What changes around it


@pytest.fixture(scope="module")
def second(bench):
    """Version 2, trained here, that has passed the gate and is not promoted. The number."""
    mlflow.set_experiment("another")
    with mlflow.start_run():
        trained = training.train(data="embedded", seed=1)
    with mlflow.start_run():
        training.evaluate(trained.model)
    with mlflow.start_run():
        registered = training.register(trained.model, promote=False)
    assert registered.found["gate"] == "passed"
    return registered.found["version"]


def test_a_promoted_version_answers_without_a_restart(bench, second):
    started = bench.container("api")["State"]["StartedAt"]
    promote = f"from pystock import registry; registry.promote('{NAME}', {second}, why='a test')"
    bench.compose("run", "--rm", "--no-TTY", "pipeline", "python", "-c", promote)
    # the rows of a champion and of the one before differ, so that a mixed answer would be seen
    expected = {version: probability(version) for version in (1, second)}
    assert abs(expected[1] - expected[second]).max() > 1e-6
    until(lambda: ask(bench, body=EXAMPLE)["model"]["version"] == second, PATIENCE, "an answer of the new champion")
    assert close(ask(bench, body=EXAMPLE), expected[second])
    assert bench.container("api")["State"]["StartedAt"] == started


def test_without_the_tracking_server_it_goes_on_and_starts_again(bench, second):
    until(lambda: ask(bench, body=EXAMPLE)["model"]["version"] == second, PATIENCE, "an answer of the new champion")
    expected = probability(second)
    bench.compose("stop", "--timeout", "2", "mlflow")
    try:
        lost = until(lambda: gone(ask(bench, "/ready")), PATIENCE, "a word about the server")
        assert lost["from"] == "registry" and lost["model"]["version"] == second
        assert close(ask(bench, body=EXAMPLE), expected)
        bench.compose("restart", "api")
        until(lambda: answers(bench), PATIENCE, "an answer after the restart")
        assert close(ask(bench, body=EXAMPLE), expected)
        ready = ask(bench, "/ready")
        assert ready["from"] == "cache" and ready["model"]["version"] == second and gone(ready)
        assert "pystock_api_model_from_cache 1" in status(f"{bench.api}/metrics")[1]
    finally:
        bench.compose("start", "mlflow")
    until(lambda: ask(bench, "/ready")["tracking_server"]["reachable"], PATIENCE, "the server's return")
    assert ask(bench, "/ready")["from"] == "registry" and close(ask(bench, body=EXAMPLE), expected)


def gone(ready):
    return ready if ready["ready"] and not ready["tracking_server"]["reachable"] else None


def answers(bench):
    try:
        return status(f"{bench.api}/ready")[0] == 200
    except OSError:
        return False


def test_a_stop_under_load_loses_no_accepted_request(bench):
    """Clients that keep their connections open: whatever the service logs as answered has reached its client whole."""
    ended, answered, failed = threading.Event(), {}, []

    def client(number):
        with requests.Session() as session:
            session.trust_env = False
            for count in range(100_000):
                name = f"load-{number}-{count}"
                try:
                    answer = session.post(f"{bench.api}/predict", json=LOAD, headers={"X-Request-ID": name}, timeout=30)
                except requests.ConnectionError:
                    failed.append(name)  # not accepted any more; that it was not is what the log has to say
                    if ended.is_set():
                        return
                    time.sleep(0.05)
                    continue
                answered[name] = answer.status_code, len(answer.json().get("predictions", []))

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(client, number) for number in range(8)]
        until(lambda: len(answered) > 200, PATIENCE, "200 answers")
        before, begun = len(answered), time.monotonic()
        bench.compose("stop", "api")
        seconds = time.monotonic() - begun
        ended.set()
        for each in clients:
            each.result(30)
    try:
        state = bench.container("api")["State"]
        logged = docker("logs", bench.container("api")["Id"]).stdout
        accepted = {line["request_id"]: line["status"] for line in lines(logged) if line.get("path") == "/predict"}
        accepted = {name: code for name, code in accepted.items() if name.startswith("load-")}
        assert state["ExitCode"] == 0 and seconds < 29  # Docker kills after 30
        assert len(answered) > before and failed
        assert accepted == {name: code for name, (code, _) in answered.items()}
        assert set(answered.values()) == {(200, len(LOAD["rows"]))}
    finally:
        bench.up("--no-deps", "api")


LOAD = {"rows": EXAMPLE["rows"] * 100}


def lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


# Called again


def test_called_again_with_authentication_it_trains_nothing_and_the_api_goes_on(bench, record_property):
    """COMPOSE_PROFILES=auth in .env, and the same command again."""
    started, trained = bench.container("api")["State"]["StartedAt"], count("train_model")
    champion = mlflow.MlflowClient().get_model_version_by_alias(NAME, "champion").version
    expected = probability(champion)
    said, seconds = deploy(bench, COMPOSE_PROFILES="auth")
    record_property("measured", f"deployment, called again: {seconds:.0f} s")
    assert "nothing has changed, all three steps were skipped" in said
    assert status(f"{bench.mlflow}/api/2.0/mlflow/experiments/search?max_results=1")[0] == 401
    until(lambda: ask(bench, "/ready")["tracking_server"]["reachable"], PATIENCE, "the server by its new rules")
    assert bench.container("api")["State"]["StartedAt"] == started
    assert close(ask(bench, body=EXAMPLE), expected)
    os.environ |= {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": bench.env["MLFLOW_ADMIN_PASSWORD"]}
    try:
        assert count("train_model") == trained
        assert mlflow.MlflowClient().get_model_version_by_alias(NAME, "champion").version == champion
    finally:
        del os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]


def count(step):
    asked = f"tags.step = '{step}' and tags.outcome = 'done'"
    return len(mlflow.search_runs(search_all_experiments=True, filter_string=asked, output_format="list"))
