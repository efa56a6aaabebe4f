"""`course.begin` and `course mlflow`: the store in use, the tags, and what an earlier session left."""

import json
import os
import signal
import sys

import pytest
from fake_course import until

from course import store

BEGIN = """
import json, mlflow
from course.session import begin
client = lambda: mlflow.MlflowClient()
def runs(*experiments):
    found = mlflow.search_runs(search_all_experiments=True, output_format="list")
    return {run.info.run_name: (run.info.status, run.data.tags) for run in found}
"""
# a run left RUNNING by each kind of session; the script itself lives on, and is the living one
LEAVE = """
import os, subprocess, sys, time
from course import session
def leave(name, chapter="01", **env):
    os.environ.update(env, COURSE_CHAPTER=chapter)
    mlflow.MlflowClient().create_run("0", run_name=name, tags={
        "course.chapter": os.environ["COURSE_CHAPTER"], "course.session": os.environ["COURSE_SESSION"]})
begin("01")
mine = os.environ["COURSE_SESSION"]
leave("living")
installation, pid, created = mine.split(":")
dead = subprocess.Popen([sys.executable, "-c", ""])
leave("zombie", COURSE_SESSION=f"{installation}:{dead.pid}:{created}")
leave("pid of another process", COURSE_SESSION=f"{installation}:{pid}:{int(created) - 60}")
leave("dead", COURSE_SESSION=f"{installation}:{2**22 + 1}:{created}")
leave("dead in another chapter", "02", COURSE_SESSION=f"{installation}:{2**22 + 1}:{created}")
leave("dead elsewhere", COURSE_SESSION=f"0123456789ab:{2**22 + 1}:{created}")
client().create_run("0", run_name="of nobody")
print("left", flush=True)
time.sleep(600)
"""


@pytest.fixture
def here(fake, empty_store):
    fake.chapter("01", "x = 1")
    fake.chapter("02", "x = 1")
    fake.use_store(empty_store)
    return fake


def last_line(text):
    return json.loads(text.splitlines()[-1])


@pytest.mark.skipif(os.name == "nt", reason="zombies")
def test_runs_of_dead_sessions_are_ended_and_no_others(here):
    with here.started(sys.executable, "-c", BEGIN + LEAVE) as process:
        until(lambda: "left" in here.output() or process.poll() is not None, 60, "the runs")
        assert process.poll() is None, here.output()
        found = last_line(here.python(BEGIN + 'begin("01")\nprint(json.dumps(runs()))'))
        status = {name: state for name, (state, _) in found.items()}
        assert status == {
            "living": "RUNNING",
            "zombie": "KILLED",
            "pid of another process": "KILLED",
            "dead": "KILLED",
            "dead in another chapter": "RUNNING",
            "dead elsewhere": "RUNNING",
            "of nobody": "RUNNING",
        }
        process.send_signal(signal.SIGKILL)
        process.wait()
    found = last_line(here.python(BEGIN + 'begin("01")\nbegin("02")\nprint(json.dumps(runs()))'))
    assert {name for name, (state, _) in found.items() if state == "RUNNING"} == {"dead elsewhere", "of nobody"}


def test_the_store_in_use(here):
    """Printed lines, tags in this process and in those it starts, artifacts in the state folder, strays overridden."""
    out = here.python(
        BEGIN
        + """
import os, subprocess, sys
begin("01", market="sp500")
mlflow.set_experiment("mine")
mlflow.start_run(run_name="interrupted")
begin("01", market="sp500")   # the cell is run once more, in the same kernel
assert mlflow.active_run() is None
assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "0" and "tensorflow" not in sys.modules  # told, and not loaded
with mlflow.start_run(run_name="here") as run:
    mlflow.log_text("x", "x.txt")
subprocess.run([sys.executable, "-c", '''
import mlflow
mlflow.set_experiment("of a child")
with mlflow.start_run(run_name="child"):
    mlflow.log_text("x", "x.txt")
'''], check=True)
assert os.environ["PATH"].split(os.pathsep)[0] == os.path.dirname(sys.executable)
print(json.dumps(runs()))
""",
        MLFLOW_TRACKING_URI="http://127.0.0.1:9",
        MLFLOW_REGISTRY_URI="http://127.0.0.1:9",
        MLFLOW_EXPERIMENT_NAME="elsewhere",
    )
    sentence = (
        "MLFLOW_TRACKING_URI is set to http://127.0.0.1:9, and is not used here: COURSE_TRACKING_URI would count."
    )
    assert out.splitlines()[:4] == [
        sentence,
        "Chapter 01: Do step 01",
        "Tracking to the embedded store",
        "To see it in the MLflow UI: the address that `make lab` printed, or type in a terminal: course ui",
    ]
    assert out.count("is set to") == 1
    found = last_line(out)
    assert {name: state for name, (state, _) in found.items()} == {
        "interrupted": "KILLED",
        "here": "FINISHED",
        "child": "FINISHED",
    }
    assert {tags["course.chapter"] for _, tags in found.values()} == {"01"}
    assert len({tags["course.session"] for _, tags in found.values()}) == 1
    assert len(list((here.state / "store" / "artifacts").rglob("x.txt"))) == 2
    assert not list(here.root.rglob("mlruns")) and not list(here.root.rglob("mlflow.db"))


def test_another_sqlite_store_keeps_its_artifacts_beside_it(here, empty_store):
    place = here.root / "my store"
    store.copy(empty_store, place)
    out = here.python(
        BEGIN + 'begin("01")\nmlflow.set_experiment("e")\nwith mlflow.start_run(): mlflow.log_text("x", "x.txt")',
        COURSE_TRACKING_URI=store.uri(place),
    )
    assert f"Tracking to {store.uri(place)}" in out
    assert len(list((place / "artifacts").rglob("x.txt"))) == 1
    assert store.runs(here.state / "store") == 0 and not list(here.root.rglob("mlruns"))


def test_course_mlflow_is_mlflow_on_the_store_in_use(here):
    project = here.root / "a project"
    project.mkdir()
    (project / "MLproject").write_text(
        "name: p\nentry_points:\n  main:\n    parameters: {n: float}\n    command: python step.py {n}\n"
    )
    (project / "step.py").write_text(
        'import os, sys, mlflow\nwith mlflow.start_run(): mlflow.log_metric("n", float(sys.argv[1])); '
        'mlflow.log_text(sys.executable, "x.txt"); mlflow.log_text(os.environ["PYSTOCK_STAGES"], "stages.txt")\n'
    )
    command = ["mlflow", "run", "a project", "--env-manager", "local", "--experiment-name", "new", "-P", "n=2.5"]
    done = here.run(*command, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("MLFLOW_TRACKING_URI is set to") == 1
    (artifact,) = here.state.rglob("x.txt")
    assert artifact.is_relative_to(here.state / "store" / "artifacts")
    assert artifact.read_text() == sys.executable
    assert artifact.with_name("stages.txt").read_text() == str(here.state / "stages")
    assert store.runs(here.state / "store") == 1
    assert not list(here.root.rglob("mlruns")) and not list(here.root.rglob("mlflow.db"))


def test_course_mlflow_passes_everything_through(here):
    done = here.run("mlflow", "run", "--help")
    assert done.returncode == 0 and "--env-manager" in done.stdout and "mlflow run" in done.stdout
