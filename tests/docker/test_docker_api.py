"""The deployment in containers: one command from data to a prediction, and what its parts outlive."""

import json
import subprocess
import time

import mlflow
import numpy as np
import pandas as pd
import pytest
from docker_projects import check_image
from docker_workbench import Workbench, docker, status
from fake_course import CHECKOUT, clean_environment, copy_checkout, until

from course.servers import answers
from pystock.training import steps as training

NAME = "pystock-big-move"
PATIENCE = 120  # seconds for what a container does, on a busy machine
PROJECT = CHECKOUT / "projects" / "pystock-inference-api"
EXAMPLE = json.loads((PROJECT / "example.json").read_text())


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """The deployment, brought up by its one command in a copy of the checkout; its server is this process's store."""
    copy = tmp_path_factory.mktemp("bench") / "checkout"
    copy_checkout(copy)
    with Workbench("api", copy, PROJECT / "compose.yaml", PYSTOCK_API_POLL_SECONDS="1") as made:
        (copy / "workbench" / ".env").unlink()  # from nothing: the command makes it
        made.copy = copy
        made.said, made.seconds = deploy(made)
        mlflow.set_tracking_uri(made.mlflow)  # conftest.py ends it
        yield made


def deploy(bench, **settings):
    """The one command: what it printed, and the seconds that it took."""
    env = clean_environment(**bench.settings, COMPOSE_PROJECT_NAME=bench.project, **settings)
    command, begun = [bench.copy / "projects/pystock-inference-api/deploy"], time.monotonic()
    done = subprocess.run(command, env=env, cwd="/", capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, time.monotonic() - begun


def ask(bench, path="/predict", body=None):
    """What the API answers, with success; a body is posted."""
    code, text = status(bench.api + path, method="POST" if body else "GET", body=body)
    assert code == 200, text
    return json.loads(text)


def probability(version):
    """The probabilities of the rows of example.json by a version of the model, without a server."""
    model = mlflow.pyfunc.load_model(f"models:/{NAME}/{version}")
    return model.predict(pd.DataFrame(EXAMPLE["rows"]))["probability"].to_numpy()


def close(answer, expected):
    found = [each["probability"] for each in answer["predictions"]]
    return len(found) == len(expected) and np.abs(np.subtract(found, expected)).max() < 1e-9


def test_one_command_from_nothing_to_a_prediction(bench, record_property):
    record_property("measured", f"deployment, images from the cache: {bench.seconds:.0f} s to the first prediction")
    answer = json.loads(bench.said.strip().splitlines()[-1])
    assert answer["model"] == {"name": NAME, "version": 1}
    assert close(answer, probability(1)) and answer["predictions"][0]["decision"] == 1
    client = mlflow.MlflowClient()
    found = client.get_model_version_by_alias(NAME, "champion")
    assert found.version == "1" and found.tags["validation_status"] == "approved" and found.tags["promotion"]
    source = client.get_run(client.get_run(found.run_id).data.tags["data_run"])
    assert source.data.tags["pipeline"] == "pystock-data-features"


def test_the_image_holds_what_it_needs_and_no_more(bench, record_property):
    image = bench.container("api")["Image"]
    heavy = "matplotlib arch optuna pandera pyarrow flask sqlalchemy"
    assert "mlflow" not in check_image(image, "pystock-inference-api", heavy, record_property)
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


def test_only_what_is_needed_runs_and_the_api_is_published_on_this_machine_alone(bench):
    assert set(bench.compose("ps", "--all", "--services").stdout.split()) == {"postgres", "mlflow", "api"}
    assert bench.published("api") == {("8000/tcp", "127.0.0.1", bench.settings["API_PORT"])}


def test_no_password_stands_on_a_command_line_or_in_what_the_command_says(bench):
    secrets = [value for value in bench.env.values() if len(value) == 32]
    shown = bench.said + bench.compose("logs", "api").stdout
    shown += bench.run("api", "sh", "-c", "cat /proc/[0-9]*/cmdline; true").stdout
    assert len(secrets) == 6 and "main.py" in shown
    assert not [value for value in secrets if value in shown]


def test_the_batch_job_scores_the_same_row_equally(bench, tmp_path):
    tmp_path.chmod(0o777)
    pd.DataFrame(EXAMPLE["rows"]).to_csv(tmp_path / "days.csv", index=False)
    paths = ["--input", "/jobs/days.csv", "--output", "/jobs/predictions.csv"]
    bench.compose("run", "--rm", "--volume", f"{tmp_path}:/jobs", "batch", *paths, seconds=300)
    (scored,) = pd.read_csv(tmp_path / "predictions.csv").itertuples()
    answer = ask(bench, body=EXAMPLE)
    assert close(answer, [scored.probability]) and answer["model"]["version"] == scored.model_version
    assert answer["predictions"][0]["decision"] == scored.decision


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
    promote = f"from pystock import training; training.promote_version('{NAME}', '{second}', 'a test')"
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
        until(lambda: answers(f"{bench.api}/ready"), PATIENCE, "an answer after the restart")
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


def test_docker_stop_ends_the_service_with_0(bench):
    bench.compose("stop", "api")
    code = bench.container("api")["State"]["ExitCode"]
    bench.up("--no-deps", "api")
    assert code == 0


def test_called_again_with_authentication_it_trains_nothing_and_the_api_goes_on(bench, record_property, monkeypatch):
    """COMPOSE_PROFILES=auth in .env, and the same command again."""
    started, trained = bench.container("api")["State"]["StartedAt"], count("train_model")
    champion = mlflow.MlflowClient().get_model_version_by_alias(NAME, "champion").version
    expected = probability(champion)
    said, seconds = deploy(bench, COMPOSE_PROFILES="auth")
    record_property("measured", f"deployment, called again: {seconds:.0f} s")
    assert "all three steps were skipped, because nothing has changed" in said
    assert status(f"{bench.mlflow}/api/2.0/mlflow/experiments/search?max_results=1")[0] == 401
    until(lambda: ask(bench, "/ready")["tracking_server"]["reachable"], PATIENCE, "the server by its new rules")
    assert bench.container("api")["State"]["StartedAt"] == started
    assert close(ask(bench, body=EXAMPLE), expected)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", bench.env["MLFLOW_ADMIN_PASSWORD"])
    assert count("train_model") == trained
    assert mlflow.MlflowClient().get_model_version_by_alias(NAME, "champion").version == champion


def count(step):
    asked = f"tags.step = '{step}' and tags.outcome = 'done'"
    return len(mlflow.search_runs(search_all_experiments=True, filter_string=asked, output_format="list"))
