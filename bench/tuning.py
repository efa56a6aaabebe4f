"""Measure a search: a trial with and without its mirror in MLflow, first and 300th. Part of `make bench`."""

import contextlib
import os
import statistics
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import mlflow
import optuna

from course import store
from pystock import tuning

TRIALS = 300
ABOUT = {"market": "sp500", "target": "big_move", "features": "volatility", "family": "logistic"}


def free(model, X, y, years):
    """An evaluation that costs nothing: what is left is the study, the pruner and the mirror. Five folds, as in use."""
    for fold in range(5):
        yield years / 100 + fold / 1000


def search(name: str, storage: str) -> list[float]:
    """Milliseconds that each trial takes."""
    study = tuning.open_study(name, storage, trials=TRIALS, **ABOUT)
    times, begun = [], time.perf_counter()
    for _ in tuning.run_trials(study, free):
        times.append((time.perf_counter() - begun) * 1000)
        begun = time.perf_counter()
    return times


def summary(times: list[float]) -> dict:
    """Medians, since a single trial says little; the first one also loads the data."""
    return {
        "trials 2 to 21": round(statistics.median(times[1:21]), 1),
        "trials 281 to 300": round(statistics.median(times[-20:]), 1),
    }


@contextlib.contextmanager
def tracking():
    """A fresh embedded store in a temporary folder; gives the URL of its storage for studies."""
    with tempfile.TemporaryDirectory(prefix="course-bench-") as folder:
        place = Path(folder) / "store"
        store.ensure(place)
        with patch.dict(os.environ, MLFLOW_TRACKING_URI=store.uri(place)):
            mlflow.set_tracking_uri(store.uri(place))
            mlflow.create_experiment("tuning", artifact_location=store.artifact_root(place))
            mlflow.set_experiment("tuning")
            yield store.study_storage()
    mlflow.set_tracking_uri(None)


def measure() -> dict:
    """All figures, in milliseconds a trial on SQLite, without the time that models take to train."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tracking() as storage:
        mirrored = search("with-mirror", storage)
        with patch.object(tuning, "mirror"):
            alone = search("without-mirror", storage)
    return {
        "a trial with its mirror, ms": summary(mirrored),
        "a trial without mirror, ms": summary(alone),
        "trial 300 over the first, with mirror": round(
            statistics.median(mirrored[-20:]) / statistics.median(mirrored[1:21]), 2
        ),
    }


if __name__ == "__main__":
    print(measure())
