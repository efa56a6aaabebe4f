"""What the tests of batch inference share: a champion, the days to score, and jobs in processes that are killed."""

import multiprocessing
import os
import re
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from crashing import die_before
from sklearn.linear_model import LogisticRegression
from training_runs import use

from course import store
from pystock import models
from pystock.batch import score
from pystock.data import load
from pystock.features import dataset, volatility

NAME = "pystock-big-move"
TIME = "2018-12-31T21:00:00+00:00"
ONE_WORKER = pytest.mark.xdist_group("batch")  # for `pytestmark`


@pytest.fixture(scope="module")
def champion(tmp_path_factory, empty_store):
    """A store whose champion is version 1 of pystock-big-move, a logistic regression on the training years."""
    folder = tmp_path_factory.mktemp("champion") / "store"
    store.copy(empty_store, folder)
    use(folder)
    X, y = dataset(load(end="2009-12-31"), "big_move", "volatility")
    fitted = LogisticRegression(C=0.1, max_iter=1000).fit(X * 100, y)
    fitted.coef_ *= 100
    with mlflow.start_run():
        made = models.log_decision_model(fitted, X, threshold=0.25)
    client = mlflow.MlflowClient()
    client.create_registered_model(NAME)
    client.create_model_version(NAME, made.model_uri, model_id=made.model_id)
    client.set_registered_model_alias(NAME, "champion", "1")
    return folder


@pytest.fixture(scope="module")
def days():
    """The production days 2015 to 2018 as a job gets them: Date as text, then the features; no outcome."""
    table = volatility(load()).loc["2015":].reset_index()
    return table.assign(Date=table["Date"].dt.strftime("%Y-%m-%d"))


def with_bad_rows(days: pd.DataFrame, every=97) -> pd.DataFrame:
    return days.assign(momentum_5=days["momentum_5"].where(days.index % every != 5))


def run_job(*arguments, **options):
    with mlflow.start_run():
        return score(*arguments, **{"run_time": TIME, "chunk_rows": 100, "progress": False} | options)


def write(table: pd.DataFrame, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path, index=False, row_group_size=70)
    return path


def write_partitions(days: pd.DataFrame, folder: Path, form: str) -> Path:
    """Write the days as a folder with a file for each year, and one that is not data."""
    for year, rows in days.groupby(days["Date"].str[:4]):
        write(rows, folder / f"year={year}" / f"part-0.{form}")
    (folder / "_SUCCESS").touch()
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file by its name; a manifest without the line that names the run."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock"]
    return {path.relative_to(folder).as_posix(): re.sub(rb' *"run": .*\n', b"", path.read_bytes()) for path in files}


def in_process(target, *arguments, **options):
    """Run a function of this module in a process of its own on the store in use; return the exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["batch_jobs", "mlflow.store.tracking.sqlalchemy_store", "skops.io"])
    folder = store.folder_of(mlflow.get_tracking_uri())
    process = context.Process(target=_on_store, args=(target, folder, arguments, options))
    process.start()
    process.join(300)
    return process.exitcode


def _on_store(target, folder, arguments, options):
    use(folder)
    target(*arguments, **options)


def job_killed_at(step, counter, *arguments, **options):
    """Do a job, killed right before the change to the disk of that number; with -1 write how many there are."""
    steps = die_before(step, [(os, name) for name in ("replace", "fsync", "unlink", "rmdir")])
    run_job(*arguments, **options)
    Path(counter).write_text(str(steps()))
