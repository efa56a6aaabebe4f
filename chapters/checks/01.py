"""The exercises of chapter 01."""

import json

import pandas as pd
from mlflow.pyfunc.scoring_server import infer_and_parse_data

from course.checks import Exercise, Wrong, is_near, run_in
from pystock.data import load
from pystock.evaluation import time_split
from pystock.features import dataset


def _held_out(market):
    _, X_test, _, y_test = time_split(*dataset(load(market, end="2014-12-31")))
    return X_test, y_test


def like_today(answer, market):
    X_test, y_test = _held_out(market)
    if is_near(answer, (X_test["day_14"] == y_test).mean()):
        return
    if is_near(answer, y_test.mean()):
        raise Wrong("That is the accuracy of predicting up every day. This forecast repeats day_14 instead.")
    if is_near(answer, (X_test["day_13"] == y_test).mean()):
        raise Wrong("You compared with the day before: the newest input is day_14.")
    raise Wrong("Compare day_14 of X_test with y_test day by day, and compute the share of days on which they agree.")


def shallow_forest(answer, market):
    run = run_in("stockpred", answer)
    if run.info.run_name != "shallow-forest":
        raise Wrong(f"That run is named {run.info.run_name}: pass run_name='shallow-forest' to start_run.")
    if run.data.params.get("max_depth") != "3":
        raise Wrong("That run has no parameter max_depth=3: call autolog before fit, and pass max_depth=3.")
    if not any("score" in name and "X_test" in name for name in run.data.metrics):
        raise Wrong("That run has no score on the held-out days: call score(X_test, y_test) after fit.")
    if run.outputs and run.outputs.model_outputs:
        raise Wrong("That run saved its model: pass log_models=False to autolog.")


def request_body(answer, market):
    X_test, _ = _held_out(market)
    if not isinstance(answer, dict):
        raise Wrong("Give a Python dictionary; requests converts it to JSON.")
    try:
        sent = json.loads(json.dumps(answer))
    except TypeError as error:
        raise Wrong(f"It cannot become JSON: {error}. Use the layout records, which leaves out the dates.") from None
    try:
        rows = pd.DataFrame(infer_and_parse_data(sent))
    except Exception:
        raise Wrong("The server would reject it: it needs a list of rows under the key dataframe_records.") from None
    missing = [column for column in X_test if column not in rows]
    if missing:
        raise Wrong(f"The server would reject it: {missing[0]} is missing, and the signature requires 14 columns.")
    if len(rows) != 1 or not (rows[X_test.columns].to_numpy() == X_test.tail(1).to_numpy()).all():
        raise Wrong("The server would accept it, but it is not the newest evening: send only the last row of X_test.")


EXERCISES = [
    Exercise("01.1", test=like_today, wrong=[0.56, 0.528]),
    Exercise("01.2", test=shallow_forest, wrong=["shallow-forest", "0" * 32]),
    Exercise(
        "01.3",
        test=request_body,
        wrong=[
            {f"day_{day:02}": 1.0 for day in range(1, 15)},
            {"dataframe_records": [{f"day_{day:02}": 1.0 for day in range(1, 14)}]},
        ],
    ),
]
