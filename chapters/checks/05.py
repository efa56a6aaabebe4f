"""The exercises of chapter 05."""

import sqlite3
from contextlib import closing
from urllib.parse import urlsplit

import pandas as pd

from course.checks import Exercise, Wrong, run_in
from pystock.data import load
from pystock.evaluation import time_split
from pystock.features import dataset

# A small store: the columns of MLflow's tables that the query needs, with two experiments and a history.
TABLES = """
    CREATE TABLE experiments (experiment_id, name, lifecycle_stage);
    CREATE TABLE runs (run_uuid, name, status, lifecycle_stage, experiment_id);
    CREATE TABLE params (key, value, run_uuid);
    CREATE TABLE tags (key, value, run_uuid);
    CREATE TABLE metrics (key, value, timestamp, run_uuid, step, is_nan);
    CREATE TABLE latest_metrics (key, value, timestamp, step, is_nan, run_uuid);
"""
LAST_ACCURACY = {"coin": 0.47, "interrupted": 0.53, "elsewhere": 0.9}


def _small_store(experiment):
    store = sqlite3.connect(":memory:")
    store.executescript(TABLES)
    for number, name in enumerate([experiment, "stockpred"], 1):
        store.execute("INSERT INTO experiments VALUES (?, ?, 'active')", (number, name))
    for run, accuracy in LAST_ACCURACY.items():
        store.execute("INSERT INTO runs VALUES (?, ?, 'FINISHED', 'active', ?)", (run, run, 1 + (run == "elsewhere")))
        store.execute("INSERT INTO params VALUES ('seed', '0', ?)", (run,))
        store.execute("INSERT INTO tags VALUES ('mlflow.runName', ?, ?)", (run, run))
        for key, values in {"accuracy": [accuracy + 0.04, accuracy], "days_up": [120, 590]}.items():
            for step, value in enumerate(values, 2010):
                store.execute("INSERT INTO metrics VALUES (?, ?, ?, ?, ?, 0)", (key, value, step, run, step))
            store.execute("INSERT INTO latest_metrics VALUES (?, ?, ?, ?, 0, ?)", (key, value, step, step, run))
    return store


def query(answer, market):
    if not isinstance(answer, str) or not answer.strip():
        raise Wrong("Give the query as text, in quotes: 'SELECT … FROM …'.")
    experiment = "workbench"
    with closing(_small_store(experiment)) as store:
        try:
            rows = [tuple(row) for row in pd.read_sql(answer, store).itertuples(index=False)]
        except Exception as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise Wrong(f"The database rejects the query: {reason}.") from None
    expected = [("interrupted", LAST_ACCURACY["interrupted"]), ("coin", LAST_ACCURACY["coin"])]
    names = [row[0] for row in rows]
    if rows == expected:
        return
    if rows == expected[::-1]:
        raise Wrong("The rows are right, but their order is not: to list the best first, use ORDER BY … DESC.")
    if "elsewhere" in names:
        raise Wrong(f"It also lists runs of other experiments: join experiments, and filter on the name {experiment}.")
    if any(len(row) != 2 for row in rows):
        raise Wrong("It returns other columns than the name and the accuracy: select only these two.")
    if len(names) > len(set(names)):
        raise Wrong("It lists a run more than once: use latest_metrics, not the history, and only the key accuracy.")
    raise Wrong("On a small store with two runs of this experiment, it does not return both with their last accuracy.")


def address(answer, market):
    if not isinstance(answer, str):
        raise Wrong("Give the address as text: 'http://…'.")
    try:
        parts = urlsplit(answer.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        raise Wrong("That is not an address: use the form http://name:port.") from None
    if host in ("localhost", "127.0.0.1", "0.0.0.0", "::1"):
        raise Wrong("In a container this is the container itself, and MLflow does not run in the container jupyter.")
    if host != "mlflow":
        raise Wrong("Containers of one compose file reach each other by their service names: use the server's.")
    if parts.scheme != "http":
        raise Wrong("The server uses plain HTTP: begin the address with http://.")
    if port != 5000:
        raise Wrong("The name is right, but the port is not: use the one on which the server listens in its container.")


def from_code(answer, market):
    import mlflow

    run = run_in("workbench", answer)
    if run.info.run_name != "always-up":
        raise Wrong(f"That run is named {run.info.run_name}: pass run_name='always-up' to start_run.")
    if not (run.outputs and run.outputs.model_outputs):
        raise Wrong("That run has no model: call mlflow.pyfunc.log_model inside it.")
    uri = f"models:/{run.outputs.model_outputs[0].model_id}"
    info = mlflow.models.get_model_info(uri)
    if "model_code_path" not in info.flavors["python_function"]:
        raise Wrong("That model is a pickle: pass log_model the path of a file, as text, instead of the object.")
    if info.signature is None:
        raise Wrong("That model has no signature: pass **description as before.")
    X, y = dataset(load(market, end="2014-12-31"), "direction", "flags")
    _, X_test, _, _ = time_split(X, y)
    said = pd.Series(mlflow.pyfunc.load_model(uri).predict(X_test))
    if len(said) != len(X_test) or not (said == 1).all():
        raise Wrong("That model does not predict 1 for every row.")


EXERCISES = [
    Exercise(
        "05.1",
        test=query,
        wrong=[
            (
                "SELECT name, value AS accuracy FROM runs JOIN metrics USING (run_uuid) WHERE key = 'accuracy' "
                "ORDER BY value DESC"
            ),
            (
                "SELECT runs.name, value AS accuracy FROM experiments JOIN runs USING (experiment_id) "
                "JOIN latest_metrics USING (run_uuid) WHERE key = 'accuracy' ORDER BY value"
            ),
        ],
    ),
    Exercise("05.2", test=address, wrong=["http://localhost:5000", "http://mlflow:5050"]),
    Exercise("05.3", test=from_code, wrong=["always-up", "0" * 32]),
]
