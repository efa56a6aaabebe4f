"""The training pipeline in processes of its own: projects, kills, races, and the same bits twice."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
import yaml
from environments import OPTIONS, outcome
from pipeline_processes import die, forkserver, race, register
from promotions import champion, passes
from training_runs import PROJECTS, in_a_run, use, versions

from course import store
from pystock import registry, training
from pystock.registry import promotion

needs_fork = pytest.mark.skipif(os.name == "nt", reason="processes that begin with everything imported, and are killed")
pytestmark = pytest.mark.xdist_group("training")


@pytest.fixture(scope="module")
def processes():
    return forkserver("mlflow.store.model_registry.sqlalchemy_store", "pystock.registry")


@needs_fork
def test_killed_anywhere_the_next_call_leaves_one_version_with_a_verdict(trained, tmp_path, processes, monkeypatch):
    """At a stride: with a version and no promotion, in the promotion, after it."""
    folder, _, model = trained
    write, stride = 8, 4
    monkeypatch.setattr(promotion, "judge", passes)
    killed_with_a_version = 0
    while True:
        place = tmp_path / str(write)
        store.copy(folder, place)
        process = processes.Process(target=die, args=(store.uri(place), store.artifact_root(place), model, write))
        process.start()
        process.join()
        use(place)
        left = versions()
        killed_with_a_version += bool(left) and "reasons" not in left[0].tags
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL, f"write {write}"
        in_a_run(training.register, model)
        (version,) = versions()
        assert (version.tags["validation_status"], version.tags["reasons"]) == ("approved", ""), f"write {write}"
        assert champion("pystock-big-move") == int(version.version) and version.source == f"models:/{model}"
        outcomes = list(registry.history("pystock-big-move")["outcome"])
        assert outcomes.count("promoted") == 1 and set(outcomes) <= {"promoted", "interrupted"}, outcomes
        write += stride
    assert write > 15 and killed_with_a_version > 10 / stride


@needs_fork
def test_two_at_once_make_one_version(trained, tmp_path, processes):
    folder, _, model = trained
    for number in range(2):
        place = tmp_path / str(number)
        store.copy(folder, place)
        use(place)
        outcomes = race(processes, 3, register, store.uri(place), store.artifact_root(place), model)
        told = [each for each in outcomes if f"has been working on the registration of {model} since" in each]
        assert outcomes.count("done") + outcomes.count("skipped") + len(told) == 3, outcomes
        in_a_run(training.register, model)
        assert len(versions()) == len(registry.history("pystock-big-move")) == 1
        assert versions()[0].tags["validation_status"] == "approved"


@pytest.fixture
def here(fake, empty_store):
    fake.use_store(empty_store)
    return fake


def test_the_command_and_its_rerun(here):
    command = ["mlflow", "run", PROJECTS / "pystock-training", "-P", "target=big_move"]
    command += ["--experiment-name", "example-pystock-training", "--env-manager", "local"]
    for said in ("version 1 of pystock-big-move passed the gate and is the champion", "all three steps were skipped"):
        done = here.run(*command, cwd=here.root)
        assert done.returncode == 0 and said in done.stdout, done.stdout + done.stderr
    use(here.state / "store")
    found = mlflow.search_runs(experiment_names=["example-pystock-training"], output_format="list")
    assert {run.info.status for run in found} == {"FINISHED"} and len(found) == 8 and len(versions()) == 1
    parents = [run for run in found if run.data.tags["step"] == "main"]
    assert sorted(run.data.tags["outcome"] for run in parents) == ["done", "skipped"]
    wrong = here.run(*command, "-P", "settings=max_depth=2,years=0")
    assert wrong.returncode != 0
    assert "argument --settings: The setting years is 0: give a value from 1 to 100." in wrong.stderr
    why = ["-P", "name=pystock-big-move", "-P", "version=1", "-P", "why=it's the best; $(touch here)"]
    done = here.run(*command[:3], "-e", "promote", *why, "--env-manager", "local", cwd=here.root)
    assert done.returncode != 0 and "Version 1 of pystock-big-move is already the champion." in done.stderr
    assert not list(here.root.rglob("mlruns")) and not list(here.root.rglob("here"))


def test_another_process_trains_logistic_regression_to_the_same_bits(trained, fake):
    use(fake.use_store(trained[0]))
    command = ["mlflow", "run", PROJECTS / "pystock-training", "-P", "family=logistic", *OPTIONS]
    done = fake.run(*command, "--experiment-name", "again", "--env-manager", "local")
    assert done.returncode == 0, done.stdout + done.stderr
    assert outcome("again") == outcome("Default")  # every metric, and the file of predictions byte for byte


@pytest.mark.skipif(os.name == "nt", reason="a workflow on Linux")
def test_the_whole_pipeline_as_the_workflow_calls_it(here):
    """Without a server, where the secret is empty."""
    workflow = yaml.safe_load((PROJECTS.parent / ".github" / "workflows" / "pipeline.yml").read_text(encoding="utf-8"))
    assert workflow["concurrency"] == {"group": "pipeline", "cancel-in-progress": False}
    assert workflow["permissions"] == {"contents": "read"}
    (step,) = [each for each in workflow["jobs"]["pipeline"]["steps"] if "mlflow" in each.get("run", "")]
    command = step["run"].replace("source .venv/bin/activate\n", "")
    env = here.environment(COURSE_TRACKING_URI="", PYSTOCK_STAGES=here.state / "stages", MARKET="nasdaq")
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
    options = {"capture_output": True, "text": True, "encoding": "utf-8", "timeout": 900}
    done = subprocess.run(["bash", "-ec", command], cwd=PROJECTS.parent, env=env, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    use(here.state / "store")
    found = mlflow.search_runs(search_all_experiments=True, output_format="list")
    by = {(run.data.tags.get("pipeline"), run.data.tags.get("step")): run for run in found}
    parent = by["pystock-pipeline", "main"]
    for name in ("pystock-data-features", "pystock-training"):
        assert by[name, "main"].data.tags["mlflow.parentRunId"] == parent.info.run_id
    made, trained = by["pystock-data-features", "feature_set_generation"], by["pystock-training", "train_model"]
    assert trained.data.tags["data_run"] == made.info.run_id and "embedded" not in trained.data.tags["said"]
    assert parent.data.tags["outcome"] == "done"
    (version,) = versions("pystock-big-move-nasdaq")
    assert (version.tags["validation_status"], version.tags["reasons"]) == ("approved", "")


def test_a_pipeline_that_fails_is_named_by_the_run_of_both(tracked, tmp_path):
    env = os.environ | {"MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])  # MLflow calls `python`

    def last_line(*arguments):
        command = [sys.executable, "main.py", *arguments]
        options = {"capture_output": True, "text": True, "encoding": "utf-8", "timeout": 600}
        done = subprocess.run(command, cwd=PROJECTS / "pystock-pipeline", env=env, **options)
        assert done.returncode == 1, done.stdout + done.stderr
        return done.stderr.splitlines()[-1]

    wrong = tmp_path / "prices.csv"
    wrong.write_text("day,price\n2010-01-04,100\n")
    said = last_line("--source", wrong, "--stages", tmp_path / "stages")
    assert said.startswith("pystock-pipeline, main: pystock-data-features, load_raw_data failed: "), said
    asked = {"search_all_experiments": True, "output_format": "list"}
    (parent,) = mlflow.search_runs(filter_string="tags.pipeline = 'pystock-pipeline'", **asked)
    assert parent.info.status == "FAILED"
    assert parent.data.tags["failed_step"] == "pystock-data-features, load_raw_data"
    assert str(wrong) in parent.data.tags["failed_because"]
    # where the project says no before it has begun a step
    assert "pystock-pipeline, main: pystock-data-features" in last_line("--source", tmp_path / "none.csv")
