"""The image of batch inference beside a workbench: what is in it, and jobs that reach models by the server alone."""

import json
import os
import time

import mlflow
import pandas as pd
import pytest
from docker_projects import BASE, check_image, megabytes, python
from docker_workbench import Workbench, docker, require_docker
from environments import INSTALLED, check
from fake_course import until

from course.paths import root
from pystock import models, tuning
from pystock.data import load
from pystock.features import volatility

NAME = "pystock-big-move"
IMPORTANT = ("mlflow-skinny", "numpy", "pandas", "pyarrow", "scikit-learn", "xgboost-cpu")
DOCKERFILE = root() / "projects" / "pystock-inference-batch" / "Dockerfile"


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A workbench without JupyterLab; its server is this process's store, too."""
    with Workbench("batch", tmp_path_factory.mktemp("bench")) as made:
        made.up("--build", "mlflow")
        mlflow.set_tracking_uri(made.mlflow)  # conftest.py ends it
        yield made


@pytest.fixture(scope="module")
def image():
    """The image, built as README.md says but for the name."""
    require_docker()
    name = f"pystock-batch-test-{os.getpid()}"
    docker("build", "--file", str(DOCKERFILE), "--tag", name, str(root()), seconds=1500)
    yield name
    docker("image", "rm", "--force", name, check=False)


@pytest.fixture(scope="module")
def versions(bench):
    """The registered model with two versions: XGBoost, the champion, and a logistic regression."""
    X, y = tuning.training_data("sp500", "big_move", "volatility")
    mlflow.set_experiment("models")
    for family in ("xgboost", "logistic"):
        with mlflow.start_run():
            info = models.log_decision_model(tuning.build(family).fit(X, y), X, threshold=0.25)
        mlflow.register_model(info.model_uri, NAME)
    mlflow.MlflowClient().set_registered_model_alias(NAME, "champion", "1")


@pytest.fixture
def jobs(tmp_path):
    """A folder that the image's user may write into."""
    tmp_path.chmod(0o777)
    return tmp_path


def command(bench, image, jobs, *words, server="http://mlflow:5000", options=()):
    network = ["--network", f"{bench.project}_front", "--env", f"MLFLOW_TRACKING_URI={server}"]
    return ["run", "--volume", f"{jobs}:/jobs", *network, *options, image, *words]


def job(*arguments, **more):
    return docker(*command(*arguments, options=["--rm", *more.pop("options", [])], **more), check=False)


def test_the_image_holds_what_a_job_needs_and_no_more(image, record_property):
    heavy = "matplotlib arch optuna pandera yfinance flask sqlalchemy"
    assert "mlflow" not in check_image(image, "pystock-inference-batch", heavy, record_property)


def test_a_job_scores_what_it_can_and_the_exit_code_says_so(bench, image, versions, jobs):
    days = volatility(load("sp500")).loc["2015":]
    lines = days.to_csv().splitlines(keepends=True)
    lines[9] = lines[9].replace(",", ",high,", 1)  # a value too many
    (jobs / "days.csv").write_text("".join(lines))
    begun = time.monotonic()
    done = job(bench, image, jobs, "--input", "/jobs/days.csv", "--output", "/jobs/predictions.csv")
    seconds = time.monotonic() - begun
    assert done.returncode == 3, done.stderr
    found = pd.read_csv(jobs / "predictions.csv", index_col="Date", parse_dates=True)
    expected = mlflow.pyfunc.load_model(f"models:/{NAME}/1").predict(days.drop(days.index[8]))
    assert len(found) == 1005 and found.index.equals(expected.index) and expected["probability"].std() > 0.01
    assert abs(found["probability"] - expected["probability"]).max() < 1e-12
    assert found["decision"].equals(expected["decision"])
    assert set(found["model_version"]) == {1} and found["input_digest"].nunique() == 1
    (bad,) = pd.read_csv(jobs / "predictions.quarantine.csv").itertuples()
    assert bad.line == 10 and bad.text == lines[9].strip()
    (run,) = mlflow.search_runs(search_all_experiments=True, filter_string=ABOUT, output_format="list")
    assert run.info.status == "FINISHED" and run.data.metrics["scored"] == 1005 and run.data.metrics["quarantined"] == 1
    assert not (jobs / "predictions.csv.partial").exists() and (jobs / "predictions.csv").stat().st_uid == 1000
    packages, total = json.loads(python(image, INSTALLED)), megabytes(image)
    about = {
        "command": "docker build -f projects/pystock-inference-batch/Dockerfile -t pystock-inference-batch .",
        "base": f"{BASE} (a stand-in)",
        "python": python(image, "import platform; print(platform.python_version())").strip(),
        "packages": {name: packages[name] for name in IMPORTANT},
        "megabytes": round(total - megabytes(BASE)),
        "megabytes_with_base": round(total),
        "installed": len(packages),
        "job_rows": len(days),
        "job_seconds": round(seconds, 1),
    }
    check("16_serving", about, ("command", "packages", "installed"), part="batch")


ABOUT = "tags.pipeline = 'pystock-inference-batch' and tags.outcome = 'done'"


def test_a_stopped_container_ends_soon_and_the_next_one_goes_on(bench, image, versions, jobs):
    """With a model of scikit-learn, from Parquet to CSV, as whoever owns the folder."""
    days = volatility(load("sp500")).loc["2015":]
    pd.concat([days] * 400).to_parquet(jobs / "days.parquet", index=False)
    jobs.chmod(0o755)
    owner = os.getuid() or 12345
    os.chown(jobs, owner, owner)
    name = f"{bench.project}-stopped"
    options = ["--user", f"{owner}:{owner}", "--name", name]
    words = ["--input", "/jobs/days.parquet", "--output", "/jobs/out.csv", "--model", f"models:/{NAME}/2"]
    words += ["--chunk_rows", "1000"]
    try:
        docker(*command(bench, image, jobs, *words, options=[*options, "--detach"]))
        until(lambda: list(jobs.glob("out.csv.partial/*.arrow")), 120, "the first chunk")
        docker("stop", "-t", "60", name)
        assert docker("inspect", "--format", "{{.State.ExitCode}}", name).stdout != "137\n"  # it heard the signal
        assert not (jobs / "out.csv").exists() and list(jobs.glob("out.csv.partial/*.arrow"))
    finally:
        docker("rm", "--force", name, check=False)
    done = job(bench, image, jobs, *words, options=options)
    assert done.returncode == 0, done.stderr
    assert "before this job was resumed" in done.stdout, done.stdout
    found = pd.read_csv(jobs / "out.csv", usecols=["probability", "model_version"])
    expected = mlflow.pyfunc.load_model(f"models:/{NAME}/2").predict(days)["probability"]
    assert len(found) == 402_400 and set(found["model_version"]) == {2}
    assert abs(found["probability"].to_numpy().reshape(400, -1) - expected.to_numpy()).max() < 1e-12
    assert (jobs / "out.csv").stat().st_uid == owner and not (jobs / "out.csv.partial").exists()


@pytest.mark.parametrize(("words", "server", "said"), [
    (["--model", "models:/nothing@champion"], "http://mlflow:5000", "nothing has no alias champion in this store"),
    ([], "http://mlflow:5001", "the MLflow server http://mlflow:5001 does not respond (Connection refused)"),
    ([], "http://elsewhere:5000", "the MLflow server http://elsewhere:5000 does not respond (Name or service"),
])  # fmt: skip
def test_what_is_missing_is_said_in_a_sentence(bench, image, jobs, words, server, said):
    volatility(load("sp500")).tail(3).to_csv(jobs / "days.csv")
    paths = ["--input", "/jobs/days.csv", "--output", "/jobs/out.csv"]
    done = job(bench, image, jobs, *paths, *words, server=server)
    assert done.returncode == 1 and done.stdout == ""
    assert said in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
    assert [path.name for path in jobs.iterdir() if not path.name.startswith(".")] == ["days.csv"]
