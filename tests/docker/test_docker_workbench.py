"""The workbench in real containers: what is open, what flows between the parts, and that nothing is lost."""

import json
import re
import time
from uuid import uuid4

import pytest
from backup_content import LOG, LOGGED
from docker_projects import in_container, megabytes
from docker_workbench import Workbench, docker, status
from fake_course import CHECKOUT, copy_checkout, until

from course.servers import answers

BASES = {"jupyter": "python:3.12-slim", "mlflow": "python:3.12-slim", "postgres": "postgres:17"}
FLAGS = [f"day_{day:02}" for day in range(1, 15)]
ONE_DAY = {"dataframe_split": {"columns": FLAGS, "data": [[1, 0] * 7]}}
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A workbench without authentication, started as workbench/README.md says, for all tests of this module."""
    with Workbench("open", tmp_path_factory.mktemp("bench")) as made:
        made.up("--build")
        yield made


def test_only_jupyter_and_mlflow_are_published_and_on_this_machine_alone(bench):
    assert {service: bench.published(service) for service in BASES} == {
        "jupyter": {("8888/tcp", "127.0.0.1", bench.settings["JUPYTER_PORT"])},
        "mlflow": {("5000/tcp", "127.0.0.1", bench.settings["MLFLOW_PORT"])},
        "postgres": set(),
    }


CONNECT = """
import socket
for address in ("postgres", "{ip}"):
    try:
        socket.create_connection((address, 5432), timeout=3)
        print("reached")
    except OSError as error:
        print(type(error).__name__)
"""


def test_the_database_is_reachable_from_mlflow_alone(bench):
    networks = bench.container("postgres")["NetworkSettings"]["Networks"].values()
    (ip,) = [network["IPAddress"] for network in networks]
    assert bench.python(CONNECT.format(ip=ip), service="mlflow").split() == ["reached", "reached"]
    name, address = bench.python(CONNECT.format(ip=ip)).split()
    assert name == "gaierror"  # the name is unknown
    assert address in ("TimeoutError", "ConnectionRefusedError", "OSError")


@pytest.mark.parametrize("service", BASES)
def test_no_process_belongs_to_root(bench, service):
    def users() -> set[str]:
        script = "for file in /proc/[0-9]*/status; do grep Uid $file; done; id -u"
        *of_processes, own = bench.run(service, "sh", "-c", script).stdout.splitlines()
        return {user for line in of_processes for user in line.split()[1:]} | {own}

    # Docker starts a health check as root, and drops that before its program begins
    until(lambda: "0" not in users(), 5, "the end of what belongs to root")


def test_jupyter_asks_for_its_token_and_not_about_news(bench):
    assert status(f"{bench.jupyter}/api/contents")[0] == 403
    assert status(f"{bench.jupyter}/api/contents?token=wrong")[0] == 403
    token = f"?token={bench.env['JUPYTER_TOKEN']}"
    code, text = status(f"{bench.jupyter}/api/contents/work{token}")
    assert code == 200
    notebooks = {path.name for path in (CHECKOUT / "notebooks").glob("*.ipynb")}
    assert {one["name"] for one in json.loads(text)["content"]} == notebooks
    code, text = status(f"{bench.jupyter}/lab/api/settings/@jupyterlab/apputils-extension:notification{token}")
    assert code == 200 and json.loads(text)["schema"]["properties"]["fetchNews"]["default"] == "false"


@pytest.mark.parametrize(
    ("host", "expected"), [("localhost:5050", 200), ("127.0.0.1:1", 200), ("mlflow:5000", 200), ("evil.example", 403)]
)
def test_mlflow_answers_by_its_own_names_alone(bench, host, expected):
    code, text = status(bench.mlflow + SEARCH, Host=host)
    assert code == expected
    assert (text == "Invalid Host header - possible DNS rebinding attack detected") == (expected == 403)


def test_no_password_stands_on_a_command_line_or_in_the_log(bench):
    secrets = [value for name, value in bench.env.items() if len(value) == 32]
    assert len(secrets) == 6
    shown = bench.compose("logs").stdout
    for service in BASES:
        shown += bench.run(service, "sh", "-c", "cat /proc/[0-9]*/cmdline; true").stdout.replace("\0", " ")
    assert "mlflow server" in shown and "postgres" in shown
    assert not [value for value in secrets if value in shown]


def test_each_image_holds_what_it_needs(bench, record_property):
    for service, base in BASES.items():
        total, below = megabytes(bench.container(service)["Image"]), megabytes(base)
        said = f"{service}: our layers {total - below:.0f} MB, with the stand-in base {base} {total:.0f} MB"
        record_property("measured", said)
    absent = "import importlib.util as u; print([n for n in {} if u.find_spec(n)])"
    heavy = ["tensorflow", "keras", "xgboost", "jupyterlab", "pystock"]
    assert bench.python(absent.format(heavy), service="mlflow").strip() == "[]"
    assert bench.python(absent.format(heavy)).strip() == str(heavy)


def test_a_change_of_the_text_builds_nothing_heavy_again(bench, tmp_path):
    copy = tmp_path / "checkout"
    copy_checkout(copy)
    for private in (".venv/x", ".course/x", "work/x", ".git/x", "workbench/.env"):
        (copy / private).parent.mkdir(exist_ok=True)
        (copy / private).write_text("private")
    before, image = f"{bench.project}-before", f"{bench.project}-after"
    build = ["build", "--progress", "plain", "-f", str(copy / "workbench/jupyter.Dockerfile"), str(copy), "-t"]
    try:
        docker(*build, before)
        with open(next((copy / "chapters").glob("01_*.md")), "a") as chapter:
            chapter.write(f"\nOne more sentence, {uuid4()}.\n")  # new each time: the cache outlives the test
        log = docker(*build, image).stderr
        found = docker("run", "--rm", image, "find", ".", "-name", "x", "-o", "-name", ".env").stdout
    finally:
        docker("image", "rm", "--force", before, image)
    steps = dict(re.findall(r"^#(\d+) \[stage-0 +\d+/\d+\] ((?:RUN|COPY|WORKDIR).+)$", log, re.MULTILINE))
    cached = set(re.findall(r"^#(\d+) CACHED$", log, re.MULTILINE))
    assert len(steps) > 5
    assert [text for number, text in steps.items() if number not in cached] == ["COPY --chown=learner:learner . ."]
    assert found == ""


def last_line(text):
    return json.loads(text.splitlines()[-1])


@pytest.fixture(scope="module")
def logged(bench):
    """What a notebook logs and loads back; LOGGED checks the predictions."""
    run, losses, _, notes = found = last_line(bench.python(LOG + LOGGED))
    assert run["info"]["status"] == "FINISHED" and len(losses) == 20 and notes == "kept"
    return found


def test_no_volume_is_shared_between_the_containers(bench):
    mounted = {service: {one["Name"] for one in bench.container(service)["Mounts"]} for service in BASES}
    assert all(mounted.values())
    assert sum(map(len, mounted.values())) == len(set().union(*mounted.values())) == 4


RUNS = (
    "projects/stockpred --experiment-name example-stockpred",
    "projects/pystock-data-features --experiment-name example-pystock-data-features",
    "projects/pystock-training -P target=big_move --experiment-name example-pystock-training",
)
FOUND = """
import json, os, mlflow
client = mlflow.MlflowClient()
def newest(experiment, step):
    asked = {"experiment_names": ["example-pystock-" + experiment], "filter_string": f"tags.step = '{step}'"}
    return mlflow.search_runs(**asked, output_format="list")[0]
data = newest("data-features", "feature_set_generation")
main, *steps = (newest("training", step) for step in ("main", "train_model", "evaluate_model", "register_model"))
table = mlflow.artifacts.download_artifacts(run_id=data.info.run_id, artifact_path="training/sp500.parquet")
model = mlflow.pyfunc.load_model("models:/" + main.data.tags["model"])
version = client.search_model_versions("name = 'pystock-big-move'")[0]
stockpred = mlflow.search_runs(experiment_names=["example-stockpred"], output_format="list")[-1]
print(json.dumps({
    "stockpred": [stockpred.info.status, "accuracy" in stockpred.data.metrics],
    "states": [run.info.status for run in (data, main, *steps)],
    "data_run": steps[0].data.tags["data_run"] == data.info.run_id,
    "table": os.path.getsize(table),
    "inputs": [one.dataset.digest == data.data.tags["digest"] for one in data.inputs.dataset_inputs],
    "features": len(model.metadata.get_input_schema().inputs),
    "version": [version.source == "models:/" + main.data.tags["model"], version.tags["validation_status"]],
    "parents": len({run.data.tags.get("mlflow.parentRunId") for run in steps}),
    "skill": steps[1].data.metrics["brier_skill_value"],
}))
"""


@pytest.fixture(scope="module")
def pipelines(bench):
    """What the projects left on the server, run in the jupyter container as the chapters write it."""
    for line in RUNS:
        bench.run("jupyter", *f"mlflow run {line} --env-manager local".split(), seconds=300)
    return last_line(bench.python(FOUND))


def test_the_projects_run_as_written_with_their_stages_in_a_volume(bench, pipelines):
    assert pipelines["stockpred"] == ["FINISHED", True]
    assert pipelines["states"] == ["FINISHED"] * 5
    assert pipelines["data_run"] and pipelines["inputs"] == [True]
    assert pipelines["table"] > 100_000 and pipelines["features"] == 12 and pipelines["parents"] == 1
    assert pipelines["version"] == [True, "approved"] and pipelines["skill"] > 0.1
    (state,) = [one for one in bench.container("jupyter")["Mounts"] if one["Destination"].endswith("/.course")]
    found = bench.run("jupyter", "sh", "-c", "find $PYSTOCK_STAGES -name manifest.json").stdout.split()
    assert len(found) == 3 and all(path.startswith(state["Destination"]) for path in found)


def test_the_projects_run_in_containers_on_the_published_port(bench, pipelines):
    """A container on this machine's network: it reads the table that the jupyter container made, from the server."""
    in_container("stockpred", bench.mlflow, "--experiment-name", "example-stockpred", "-P", "trees=50")
    words = ["--experiment-name", "example-pystock-training", "-P", "target=big_move", "-P", "force=yes"]
    in_container("pystock-training", bench.mlflow, *words)
    again = last_line(bench.python(FOUND))
    assert again == pipelines  # the same scores from the same data run, by another run and another model
    assert bench.python(IN_DOCKER) == "['FINISHED', 'FINISHED']\n"


IN_DOCKER = """
import mlflow
asked = {"search_all_experiments": True, "filter_string": "tags.`mlflow.project.env` = 'docker'"}
print([run.info.status for run in mlflow.search_runs(**asked, output_format="list")])
"""


STEPS = 500
LOOP = f"""
import mlflow
mlflow.set_experiment("kills")
run = mlflow.start_run()
print(run.info.run_id)
for step in range({STEPS}):
    mlflow.log_metric("m", step, step=step)
    print(step)
mlflow.end_run()
print("finished")
"""
COUNT = """
import json, mlflow
client = mlflow.MlflowClient()
found = {{one.step: one.value for one in client.get_metric_history("{run}", "m")}}
print(json.dumps([client.get_run("{run}").info.status, sorted(found), all(k == v for k, v in found.items())]))
"""


@pytest.mark.parametrize("victim", ["mlflow", "postgres"])
def test_a_kill_during_a_run_loses_nothing_acknowledged(bench, victim):
    """The client finishes. (That it gives up where the victim stays away is shown without containers.)"""
    for _ in range(3):
        client = bench.start_python(LOOP)
        try:
            run, *lines = [client.stdout.readline().strip() for _ in range(151)]
            assert client.poll() is None, "the run was over before the kill"
            crash_mlflow(bench) if victim == "mlflow" else crash_postgres(bench)
            rest, errors = client.stdout.read(), client.stderr.read()  # communicate() loses what readline() buffered
            client.wait()
        finally:
            client.kill()
        acknowledged = {int(step) for step in lines + rest.split() if step.isdigit()}
        until(lambda: answers(bench.mlflow + "/health"), 120, "MLflow's health")
        state, found, right = last_line(bench.python(COUNT.format(run=run)))
        assert len(acknowledged) >= 150 and acknowledged <= set(found) and right
        assert len(found) <= len(acknowledged) + 1  # the one that was under way
        if client.returncode == 0:
            break
        # its retries do not cover an answer that the kill has cut (book/troubleshooting.md): once more
        assert victim == "mlflow" and "Connection broken: IncompleteRead" in errors, errors
    assert rest.endswith("finished\n") and state == "FINISHED" and len(found) == STEPS


def crash_mlflow(bench) -> None:
    """Kill the serving process. Docker starts the container again, because it ended by itself."""
    before = bench.container("mlflow")["RestartCount"]
    kill = "kill -9 $(cat /proc/1/task/1/children)"
    bench.run("mlflow", "sh", "-c", kill, check=False)  # the container may end before it does
    until(lambda: bench.container("mlflow")["RestartCount"] != before, 60, "the container's new start")


def crash_postgres(bench) -> None:
    """Kill the whole database; what Docker is told to kill, it does not start again by itself."""
    bench.compose("kill", "--signal", "SIGKILL", "postgres")
    time.sleep(2)
    bench.compose("start", "postgres")


def test_down_and_up_keep_everything(bench, logged):
    bench.run("jupyter", "sh", "-c", "echo mine > work/mine.txt; echo state > .course/state.txt")
    bench.compose("down")
    assert docker("ps", "--all", "--quiet", "--filter", f"name={bench.project}").stdout == ""
    bench.up()
    assert last_line(bench.python(LOGGED)) == logged
    assert bench.run("jupyter", "cat", "work/mine.txt", ".course/state.txt").stdout == "mine\nstate\n"


def test_the_demo_trains_and_serves(bench):
    bench.up("--build", demo=True)
    code, text = status(f"{bench.demo}/invocations", method="POST", body=ONE_DAY)
    assert code == 200
    assert json.loads(text)["predictions"] in ([0], [1])
    assert bench.published("serve") == {("8080/tcp", "127.0.0.1", bench.settings["DEMO_PORT"])}
    address = f"{bench.mlflow}/api/2.0/mlflow/registered-models/alias?name=stockpred-demo&alias=served"
    code, text = status(address)
    assert code == 200 and json.loads(text)["model_version"]["status"] == "READY"
    bench.compose("rm", "--stop", "--force", "serve", "train", demo=True)


def test_the_doctor_finds_the_jupyter_container_healthy(bench):
    done = bench.run("jupyter", "course", "doctor", check=False)
    assert done.returncode == 0 and "fail" not in done.stdout, done.stdout
