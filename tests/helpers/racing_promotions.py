"""What the processes of test_pystock_registry.py do: promote all at one moment, or die before a given write."""

import mlflow
from crashing import die_before
from promotions import passes

from pystock.registry import promotion

# Of the protocol; the very first write of a promotion, a tag that is always the same, is no step of it.
WRITES = ["create_experiment", "create_run", "log_batch", "log_param", "set_registered_model_alias"]
WRITES += ["set_model_version_tag", "delete_registered_model_alias", "set_tag", "set_terminated"]


def compete(uri, name, first, barrier, results):
    """Promote a version, from `first` on another one in each process, after all have read who is champion."""
    mlflow.set_tracking_uri(uri)
    version = first + barrier.wait(60)

    def wait(*_):
        barrier.wait(60)
        return passes()

    promotion.judge = wait
    try:
        promotion.promote(name, version, why="a race", who=f"racer {version}")
        results.put((version, "promoted", ""))
    except Exception as error:
        results.put((version, type(error).__name__, str(error)))


def die(uri, name, version, write, how="SIGKILL"):
    """Promote, and get that signal right before the write of that number, counted from 0; without so many, live."""
    mlflow.set_tracking_uri(uri)
    promotion.judge = passes
    die_before(write, [(mlflow.MlflowClient, each) for each in WRITES], how)
    promotion.promote(name, version, why="a crash", who="the dead")
