"""What the processes of test_pystock_registry.py do: promote all at one moment, or die before a given write."""

import mlflow
from crashing import die_before
from promotions import passes, promote

from pystock.registry import promotion

WRITES = [
    "set_registered_model_tag",
    "create_experiment",
    "create_run",
    "log_batch",
    "set_model_version_tag",
    "set_tag",
]
WRITES += ["set_registered_model_alias", "delete_registered_model_alias", "set_terminated"]


def compete(uri, name, first, barrier, results):
    """Promote a version, from `first` on another one in each process, all at once."""
    mlflow.set_tracking_uri(uri)
    promotion.judge = passes
    promote(name, version := first + barrier.wait(60), why=f"racer {version}")
    results.put(version)


def die(uri, name, version, write):
    """Promote, and be killed right before the write of that number, counted from 0; without so many, live."""
    mlflow.set_tracking_uri(uri)
    promotion.judge = passes
    die_before(write, [(mlflow.MlflowClient, each) for each in WRITES])
    promote(name, version, why="a crash")
