"""The exercises of chapter 16."""

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
        raise Wrong(f"That run has the outcome {tags.get('outcome', 'unknown')}: it did not write predictions.")
    if not params.get("output", "").endswith("predictions.csv"):
        raise Wrong(f"That run wrote {Path(params.get('output', 'nothing')).name}: compare the digest in its tags.")
    expected = hashlib.sha256(_days(market).to_csv().encode()).hexdigest()
    if tags.get("input_digest") != expected:
        raise Wrong("That run read another file: its input digest is not the one in the rows.")


def one_year(answer, market):
    missing = [name for name in ("rows", "scored", "run_time", "output") if not hasattr(answer, name)]
    if missing:
        raise Wrong("Give what score returns, which has rows, scored, output and more.")
    output, year = Path(answer.output), _days(market).loc["2018"]
    if output.suffix != ".csv":
        raise Wrong(f"The output is {output.name}: the desk wants a CSV file, and the suffix decides the format.")
    if answer.rows != len(year):
        raise Wrong(f"{answer.rows} rows were read, but 2018 has {len(year)}: score only the partition year=2018.")
    if answer.run_time != RUN_TIME:
        raise Wrong(f"The run time is {answer.run_time}: pass run_time={RUN_TIME!r}.")
    if not output.exists():
        raise Wrong(f"{output.name} no longer exists: run the cell again, then the check.")
    table = pd.read_csv(output)
    if len(table) != len(year) or not (table["run_time"] == RUN_TIME).all():
        raise Wrong(f"{output.name} does not contain the {len(year)} rows with that run time: pass force=True.")


def other_threshold(answer, market):
    from mlflow.pyfunc.scoring_server import _split_data_and_params, infer_and_parse_data

    if not isinstance(answer, dict):
        raise Wrong("Give a Python dictionary; requests converts it to JSON.")
    try:
        sent = json.dumps(answer)
    except TypeError as error:
        raise Wrong(f"It cannot become JSON: {error}. Use the layout records or split.") from None
    try:
        data, params = _split_data_and_params(sent)
        rows = pd.DataFrame(infer_and_parse_data(data))
    except Exception:
        raise Wrong("The server would reject it: it needs rows under dataframe_records or dataframe_split.") from None
    last = _days(market).tail(1)
    if missing := [column for column in last if column not in rows]:
        raise Wrong(f"The server would reject it: {missing[0]} is missing.")
    if len(rows) != 1 or not (rows[last.columns].to_numpy() == last.to_numpy()).all():
        raise Wrong("The server would accept it, but for other days: send only the last row of days.")
    if not params:
        raise Wrong("The server would use the model's threshold: pass another one under params.")
    if params != {"threshold": 0.5}:
        raise Wrong(f"The parameters are {params}: the signature has threshold, and the desk wants 0.5.")


_ROW = dict.fromkeys(["abs_return", "momentum_5"], 0.01)

EXERCISES = [
    Exercise("16.1", test=maker_of_the_file, wrong=["predictions.csv", "0" * 32]),
    Exercise("16.2", test=one_year, wrong=["year_2018.csv", 251]),
    Exercise(
        "16.3",
        test=other_threshold,
        wrong=[{"dataframe_records": [_ROW], "params": {"threshold": 0.5}}, {"threshold": 0.5}],
    ),
]
