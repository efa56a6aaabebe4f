"""`course.begin` in a script, with the processes that it starts; and `course mlflow`."""

import json
import sys

import pytest
from messages import assert_on_page

from course import store

SCRIPT = """
import json, mlflow, os, subprocess, sys
from course import begin
begin("01", market="sp500")
mlflow.set_experiment("mine")
mlflow.start_run(run_name="interrupted")
begin("01", market="sp500")   # the cell is run once more, in the same kernel
assert mlflow.active_run() is None
assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "0" and "tensorflow" not in sys.modules  # set, and not imported
with mlflow.start_run(run_name="here") as run:
    mlflow.log_text("x", "x.txt")
subprocess.run([sys.executable, "-c", '''
import mlflow
mlflow.set_experiment("of a child")
with mlflow.start_run(run_name="child"):
    mlflow.log_text("x", "x.txt")
'''], check=True)
assert os.environ["PATH"].split(os.pathsep)[0] == os.path.dirname(sys.executable)
runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
print(json.dumps({run.info.run_name: (run.info.status, run.data.tags) for run in runs}))
"""


@pytest.fixture
def here(fake, empty_store):
    fake.chapter("01", "x = 1")
    fake.use_store(empty_store)
    return fake


def test_the_store_in_use(here):
    """Printed lines, tags in this process and in those it starts, artifacts in the state folder, strays overridden."""
    stray = dict.fromkeys(("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"), "http://127.0.0.1:9")
    out = here.python(SCRIPT, **stray, MLFLOW_EXPERIMENT_NAME="elsewhere")
    assert out.splitlines()[:5] == [
        "MLFLOW_TRACKING_URI is set to http://127.0.0.1:9 and is ignored: to use that server, set COURSE_TRACKING_URI.",
        "The course ignores what would change its chapters: MLFLOW_EXPERIMENT_NAME, MLFLOW_REGISTRY_URI.",
        "Chapter 01: Do step 01",
        "Tracking store: the embedded store",
        "To see your runs in the MLflow UI, open the address that `make lab` printed, or run `course ui`.",
    ]
    assert out.count("is set to") == 1
    assert_on_page("MLFLOW_TRACKING_URI is set", out)
    runs = json.loads(out.splitlines()[-1])
    states = {name: state for name, (state, _) in runs.items()}
    assert states == {"interrupted": "KILLED", "here": "FINISHED", "child": "FINISHED"}
    assert {tags["course.chapter"] for _, tags in runs.values()} == {"01"}
    assert len({tags["course.session"] for _, tags in runs.values()}) == 1
    assert len(list((here.state / "store" / "artifacts").rglob("x.txt"))) == 2
    assert not list(here.root.rglob("mlruns")) and not list(here.root.rglob("mlflow.db"))


def test_a_notebook_that_another_program_opened_shows_its_figures(here):
    cells = 'import course; course.begin("01")', "import matplotlib.pyplot as plt; plt.plot([1]);"
    with here.here():
        notebook = here.chapter("01", *cells).notebook
    here.python(f"from nbclient.cli import main; main(['--inplace', {str(notebook)!r}])", MPLBACKEND="TkAgg")
    executed = notebook.read_text(encoding="utf-8")
    assert "would change its chapters: MPLBACKEND." in executed and "image/png" in executed


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
    (artifact,) = (here.state / "store" / "artifacts").rglob("x.txt")
    assert artifact.read_text() == sys.executable
    assert artifact.with_name("stages.txt").read_text() == str(here.state / "stages")
    assert store.runs(here.state / "store") == 1
    done = here.run("mlflow", "run", "--help")
    assert done.returncode == 0 and "--env-manager" in done.stdout and "mlflow run" in done.stdout
