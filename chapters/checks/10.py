"""The exercises of chapter 10."""

import hashlib
import json
from pathlib import Path

import pandas as pd

from course.checks import Exercise, Wrong, run_in
from pystock.data import load, named
from pystock.features import volatility

RUN_TIME = "2018-12-31T23:00:00+00:00"


def _days(market):
    return volatility(load(market)).loc["2015":]


def maker_of_the_file(answer, market):
    run = run_in(named("batch", market), answer)
    tags, params = run.data.tags, run.data.params
    if tags.get("outcome") != "done":
        raise Wrong(f"That run was {tags.get('outcome', 'not a job that ended')}: it has written no prediction.")
    if not params.get("output", "").endswith("predictions.csv"):
        raise Wrong(
            f"That run has written {Path(params.get('output', 'nothing')).name}: look at the tag of the digest."
        )
    expected = hashlib.sha256(_days(market).to_csv().encode()).hexdigest()
    if tags.get("input_digest") != expected:
        raise Wrong("That run has read another file: its digest is not the one that stands in the rows.")


def one_year(answer, market):
    missing = [name for name in ("rows", "scored", "run_time", "output") if not hasattr(answer, name)]
    if missing:
        raise Wrong("Give what score returns: it has rows, scored, output and more.")
    output, year = Path(answer.output), _days(market).loc["2018"]
    if output.suffix != ".csv":
        raise Wrong(f"The output is {output.name}: the desk asked for a CSV file, and the suffix says what it becomes.")
    if answer.rows != len(year):
        raise Wrong(f"{answer.rows} rows were read, and 2018 has {len(year)}: score the partition year=2018 alone.")
    if answer.run_time != RUN_TIME:
        raise Wrong(f"The run time is {answer.run_time}: pass run_time={RUN_TIME!r}.")
    if not output.exists():
        raise Wrong(f"{output.name} is not there any more: run the cell again, and the check after it.")
    table = pd.read_csv(output)
    if len(table) != len(year) or not (table["run_time"] == RUN_TIME).all():
        raise Wrong(f"{output.name} does not hold the {len(year)} rows of that run time: pass force=True.")


def other_threshold(answer, market):
    from mlflow.pyfunc.scoring_server import _split_data_and_params, infer_and_parse_data

    if not isinstance(answer, dict):
        raise Wrong("Give a Python dictionary; requests makes JSON of it.")
    try:
        sent = json.dumps(answer)
    except TypeError as error:
        raise Wrong(f"It cannot be sent: {error}. Lay the rows out as records or split.") from None
    try:
        data, params = _split_data_and_params(sent)
        rows = pd.DataFrame(infer_and_parse_data(data))
    except Exception:
        raise Wrong("The server would refuse it: it wants rows under dataframe_records or dataframe_split.") from None
    last = _days(market).tail(1)
    if missing := [column for column in last if column not in rows]:
        raise Wrong(f"The server would refuse it: {missing[0]} is missing.")
    if len(rows) != 1 or not (rows[last.columns].to_numpy() == last.to_numpy()).all():
        raise Wrong("The server would answer, but about other days: send the last row of days alone.")
    if not params:
        raise Wrong("The threshold would be that of the model: pass another one under params.")
    if params != {"threshold": 0.5}:
        raise Wrong(f"The parameters are {params}: the signature knows threshold, and the desk asks for 0.5.")


_ROW = dict.fromkeys(["abs_return", "momentum_5"], 0.01)

EXERCISES = [
    Exercise("10.1", test=maker_of_the_file, wrong=["predictions.csv", "0" * 32]),
    Exercise("10.2", test=one_year, wrong=["year_2018.csv", 251]),
    Exercise(
        "10.3",
        test=other_threshold,
        wrong=[{"dataframe_records": [_ROW], "params": {"threshold": 0.5}}, {"threshold": 0.5}],
    ),
]
