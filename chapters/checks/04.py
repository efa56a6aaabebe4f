"""The exercises of chapter 04."""

import numpy as np
import pandas as pd

from course.checks import Exercise, Wrong, need_function, run_in
from pystock.data import load
from pystock.features import dataset

PROTOTYPES = ["direction-logistic", "direction-forest", "big-move-logistic-flags", "big-move-logistic-volatility"]


def _daily(market):
    prices = load(market, end="2014-12-31")
    high_low, close_open = np.log(prices["High"] / prices["Low"]), np.log(prices["Close"] / prices["Open"])
    return 0.5 * high_low**2 - (2 * np.log(2) - 1) * close_open**2


def garman_klass(answer, market):
    if not isinstance(answer, pd.Series):
        raise Wrong(f"The answer is a {type(answer).__name__}: give the Series with a value for each day.")
    X, _ = dataset(load(market, end="2014-12-31"), "big_move", "volatility")
    missing = X.index.difference(answer.index)
    if len(missing):
        raise Wrong(f"{len(missing)} days have no value, such as {missing[0]:%Y-%m-%d}: compute it for all of prices.")
    daily = _daily(market)
    mistakes = {
        "That is the mean over 22 days: take its square root at the end.": daily.rolling(22).mean(),
        "Take the mean over 22 days, not the sum.": daily.rolling(22).sum() ** 0.5,
        "That is the contribution of each day alone: take the mean over 22 days, then the square root.": daily,
        "That is realised_22, from closing prices. Use Open, High, Low and Close.": X["realised_22"],
    }
    values = pd.to_numeric(answer.loc[X.index], errors="coerce")
    if np.allclose(values, X["garman_klass_22"], rtol=1e-6):
        return
    for message, series in mistakes.items():
        if np.allclose(values, series.loc[X.index], rtol=1e-6):
            raise Wrong(message)
    for days in (5, 10, 66):
        if np.allclose(values, X[f"garman_klass_{days}"], rtol=1e-6):
            raise Wrong(f"That is garman_klass_{days}: the window is 22 days.")
    day = X.index[-1]
    raise Wrong(f"On {day:%Y-%m-%d} yours is {values[day]:.4f}, and it should be {X.loc[day, 'garman_klass_22']:.4f}.")


def recent_folds(answer, market):
    need_function(answer, "recent")
    rows, folds, gap = 100, 4, 3
    for window in (30, 10):
        made = [tuple(map(np.asarray, fold)) for fold in answer(rows, folds, gap, window)]
        if len(made) != folds:
            raise Wrong(f"For folds={folds} your function gives {len(made)} folds.")
        for number, (past, future) in enumerate(made, 1):
            start = rows - (folds - number + 1) * (rows // (folds + 1))
            where = f"With rows={rows}, folds={folds}, gap={gap}, window={window}, fold {number}"
            if not np.array_equal(future, np.arange(start, start + 20)):
                raise Wrong(f"{where} should score rows {start} to {start + 19}, as walk_forward does.")
            if not len(past):
                raise Wrong(f"{where} trains on no rows: the first row must not be negative.")
            if past[0] < 0:
                raise Wrong(f"{where} trains on row {past[0]}: the first row must not be negative.")
            if past[-1] != start - gap - 1:
                raise Wrong(f"{where} should train up to row {start - gap - 1}, which leaves the gap of {gap} rows.")
            if len(past) != min(window, start - gap):
                raise Wrong(f"{where} should train on {min(window, start - gap)} rows, not on {len(past)}.")


def stored_figure(answer, market):
    import mlflow

    run = run_in("ideation", answer)
    if run.info.run_name != "direction-forest":
        raise Wrong(f"That is the run {run.info.run_name}: the plot belongs to direction-forest.")
    files = [file.path for file in mlflow.artifacts.list_artifacts(run_id=answer)]
    if "calibration.png" not in files:
        raise Wrong(f"That run has the artifacts {files}: add calibration.png with mlflow.log_figure.")


def own_prototype(answer, market):
    run = run_in("ideation", answer)
    if run.data.params.get("target") != "big_move":
        raise Wrong(f"That run has the target {run.data.params.get('target')}: the exercise is about big_move.")
    if "LogisticRegression" in run.data.params.get("model", ""):
        raise Wrong("That is the logistic regression again: try another kind of model.")
    if "brier_skill_low" not in run.data.metrics:
        raise Wrong("That run has no metric brier_skill_low: log it with prototype(…).")


def highest_f1(answer, market):
    import mlflow

    if answer not in PROTOTYPES:
        raise Wrong(f"The answer is one of the four names: {', '.join(PROTOTYPES)}.")
    finished = "attributes.status = 'FINISHED'"
    runs = mlflow.search_runs(experiment_names=["ideation"], filter_string=finished, output_format="list")
    scores = {}
    for run in runs:  # the newest first
        if "f1_value" in run.data.metrics:
            scores.setdefault(run.info.run_name, run.data.metrics["f1_value"])
    best = max(PROTOTYPES, key=lambda name: scores.get(name, -1))
    if answer == "big-move-logistic-volatility":
        raise Wrong("That run has the highest skill. Sort by f1_value, not by a column of brier_skill.")
    if answer != best:
        raise Wrong(f"The F1 of {answer} is {scores.get(answer, 0):.3f}, and another prototype has more.")


def _mean_without_root():
    return _daily("sp500").rolling(22).mean()


def _without_gap(rows, folds, gap, window):
    for start in range(rows - folds * (rows // (folds + 1)), rows, rows // (folds + 1)):
        yield np.arange(max(0, start - window), start), np.arange(start, start + rows // (folds + 1))


EXERCISES = [
    Exercise("04.1", test=garman_klass, wrong=[_mean_without_root(), 0.0065]),
    Exercise("04.2", test=recent_folds, wrong=[_without_gap, "recent"]),
    Exercise("04.3", test=stored_figure, wrong=["direction-forest", "0" * 32]),
    Exercise("04.4", test=own_prototype, wrong=["my-prototype", "0" * 32]),
    Exercise("04.5", test=highest_f1, wrong=["big-move-logistic-volatility", "direction-forest"]),
]
