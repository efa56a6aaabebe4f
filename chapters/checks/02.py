"""The exercises of chapter 02."""

import json

import pandas as pd
from mlflow.pyfunc.scoring_server import infer_and_parse_data
from mlflow.types.schema import ColSpec, Schema
from mlflow.utils.proto_json_utils import MlflowFailedTypeConversion

from course.checks import Exercise, Wrong, newest_run, run_in
from pystock.data import load
from pystock.evaluation import time_split
from pystock.features import dataset

COLUMNS = [f"day_{day:02}" for day in range(1, 15)]
SIGNATURE = Schema([ColSpec("double", column) for column in COLUMNS])


def _rows(answer):
    """Return the table that the server would make of a request's body. Raises Wrong if it would refuse it."""
    if not isinstance(answer, dict):
        raise Wrong("Give a Python dictionary; requests converts it to JSON.")
    try:
        sent = json.loads(json.dumps(answer))
    except TypeError as error:
        raise Wrong(f"It cannot become JSON: {error}. Leave out the dates.") from None
    try:
        rows = pd.DataFrame(infer_and_parse_data(sent, SIGNATURE))
    except MlflowFailedTypeConversion:
        raise Wrong("The server would refuse it: it cannot convert a word to the numbers of the signature.") from None
    except Exception:
        raise Wrong(
            "The server would refuse it: the table must be under the key dataframe_records or dataframe_split."
        ) from None
    if missing := [column for column in COLUMNS if column not in rows]:
        raise Wrong(f"The server would refuse it: {missing[0]} is missing, and the signature requires 14 columns.")
    return rows[COLUMNS]


def split_layout(answer, market):
    rows = _rows(answer)
    if list(answer) != ["dataframe_split"]:
        raise Wrong("The server would accept it, but this exercise asks for the layout dataframe_split.")
    _, X_test, _, _ = time_split(*dataset(load(market, end="2014-12-31")))
    if len(rows) != 1 or not (rows.to_numpy() == X_test.head(1).to_numpy()).all():
        raise Wrong("The server would accept it, but it is not the first evening: send only the first row of X_test.")


def repaired(answer, market):
    rows = _rows(answer)
    if len(rows) != 1 or rows.iloc[0].tolist() != [day % 2 for day in range(1, 15)]:
        raise Wrong("The server would accept it, but the flags are not those that your colleague meant: 1, 0, 1, 0, …")


def project_300(answer, market):
    run = run_in("stockpred", answer)
    if run.info.run_name != "project-300":
        raise Wrong(f"That run is named {run.info.run_name}: pass run_name='project-300'.")
    if run.data.params.get("trees") != "300":
        raise Wrong(f"That run has trees = {run.data.params.get('trees')}: pass parameters={{'trees': 300}}.")
    if run.data.params.get("market", market) != market:
        raise Wrong(f"That run trained on {run.data.params['market']}: pass the market, too.")
    if run.info.status != "FINISHED":
        raise Wrong(f"That run is {run.info.status}, not FINISHED: read what the command printed.")


def grew_most(answer, market):
    runs = {}
    for name in ("project", "project-300"):
        missing = f"The store has no finished run named {name}: run its cell, or solve exercise 02.3 first."
        run = newest_run("stockpred", f"attributes.run_name = '{name}'", missing)
        runs[name] = pd.Series(run.data.metrics)
    growth = runs["project-300"] - runs["project"]
    if answer not in growth.index:
        raise Wrong(f"{answer!r} is not the name of a metric of these runs, such as {growth.index[0]}.")
    if answer != growth.idxmax():
        raise Wrong(f"{answer} changed by {growth[answer]:+.3f}, and another metric grew more.")


EXERCISES = [
    Exercise(
        "02.1",
        test=split_layout,
        wrong=[
            {"dataframe_split": {"columns": COLUMNS[:-1], "data": [[1.0] * 13]}},
            {"dataframe_records": [dict.fromkeys(COLUMNS, 1.0)]},
        ],
    ),
    Exercise(
        "02.2",
        test=repaired,
        wrong=[
            {"dataframe_records": [{f"Day_{day:02}": day % 2 for day in range(1, 15)}]},
            {"dataframe_records": [{f"day_{day:02}": "up" if day % 2 else "down" for day in range(1, 15)}]},
        ],
    ),
    Exercise("02.3", test=project_300, wrong=["project-300", "0" * 32]),
    Exercise("02.4", test=grew_most, wrong=["accuracy", "trees"]),
]
