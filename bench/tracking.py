"""Measure what MLflow adds to a training, per framework. Part of `make bench`.

Each training runs tracked and untracked in turn, in one process, so that a slow moment of the machine hits both. The
figures are ratios: seconds tracked, from the start of the run to its end, over seconds untracked.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from summary import summary

ROUNDS = 5
ROWS, COLUMNS = 2752, 14  # the training table of chapter 06


def fits() -> dict:
    """The three trainings of chapter 06, on random rows: (how to autolog, what to train)."""
    import keras
    import mlflow
    import numpy as np
    import xgboost
    from keras import layers
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    dice = np.random.default_rng(0)
    X, y = dice.random((ROWS, COLUMNS)), dice.integers(0, 2, ROWS)

    def logistic():
        make_pipeline(StandardScaler(), LogisticRegression(C=0.1)).fit(X, y)

    def trees():
        matrix = xgboost.DMatrix(X, y)
        settings = {"objective": "binary:logistic", "max_depth": 3, "eta": 0.05, "nthread": 1}
        xgboost.train(settings, matrix, num_boost_round=150, evals=[(matrix, "train")], verbose_eval=False)

    def net():
        keras.utils.set_random_seed(0)
        hidden = [layers.BatchNormalization(momentum=0.9), layers.Dense(16, activation="relu")]
        output = [layers.BatchNormalization(momentum=0.9), layers.Dense(1, activation="sigmoid")]
        model = keras.Sequential([keras.Input((COLUMNS,)), *hidden, *output])
        model.compile(optimizer=keras.optimizers.SGD(0.05, momentum=0.9), loss="binary_crossentropy")
        model.fit(X, y, epochs=10, batch_size=256, verbose=0)

    return {
        "scikit-learn": (mlflow.sklearn.autolog, logistic),
        "XGBoost": (mlflow.xgboost.autolog, trees),
        "Keras": (mlflow.keras.autolog, net),
    }


def compare() -> dict:
    """Seconds of each training, tracked and untracked, in this process and on the store that is set."""
    import mlflow

    seconds = {}
    mlflow.set_experiment("tracking")
    for framework, (autolog, train) in fits().items():
        seconds[framework] = {"tracked": [], "untracked": []}
        for round_ in range(ROUNDS + 1):
            autolog(disable=True)
            begun = time.perf_counter()
            train()
            untracked = time.perf_counter() - begun
            autolog(log_models=False, log_datasets=False)
            begun = time.perf_counter()
            with mlflow.start_run():
                train()
            tracked = time.perf_counter() - begun
            if round_:  # the first of each loads what the others find loaded
                seconds[framework]["tracked"].append(tracked)
                seconds[framework]["untracked"].append(untracked)
    return seconds


def measure() -> dict:
    """All figures, from a process of its own: it sets the store, and TensorFlow stays out of this one."""
    from course import store
    from course.environment import QUIET_MLFLOW, QUIET_TENSORFLOW

    with tempfile.TemporaryDirectory(prefix="course-bench-") as name:
        folder = Path(name) / "store"
        store.ensure(folder)
        environment = {**os.environ, **QUIET_MLFLOW, **QUIET_TENSORFLOW, "MLFLOW_TRACKING_URI": store.uri(folder)}
        environment[store.ARTIFACT_ROOT_VARIABLE] = store.artifact_root(folder)
        command = [sys.executable, __file__]
        done = subprocess.run(command, env=environment, cwd=name, check=True, capture_output=True, text=True)
    figures = {}
    for framework, seconds in json.loads(done.stdout.splitlines()[-1]).items():
        ratios = [tracked / untracked for tracked, untracked in zip(seconds["tracked"], seconds["untracked"])]
        figures[f"{framework}, training tracked over untracked"] = summary(ratios)
        added = [tracked - untracked for tracked, untracked in zip(seconds["tracked"], seconds["untracked"])]
        figures[f"{framework}, seconds that tracking adds"] = summary(added)
    return figures


if __name__ == "__main__":
    print(json.dumps(compare()))
