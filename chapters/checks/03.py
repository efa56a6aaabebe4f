"""The exercises of chapter 03."""

import mlflow
import numpy as np
from sklearn.metrics import brier_score_loss, f1_score

from course.checks import Exercise, Wrong, is_near, run_in
from pystock.data import load
from pystock.evaluation import TRAIN_END, frozen_base_rate, rolling_base_rate, skill, time_split, yesterdays_class
from pystock.features import dataset, log_returns


def _outcomes(market, target="big_move"):
    X, y = dataset(load(market, end="2014-12-31"), target, features="flags")
    _, _, y_train, y_test = time_split(X, y)
    return y, y_train, y_test


def big_after_big(answer, market):
    returns = log_returns(load(market, end=TRAIN_END)).dropna()
    big = returns.abs() > 0.01
    after_big = big.shift(1, fill_value=False)
    if is_near(answer, big[after_big].mean()):
        return
    if is_near(answer, big.mean()):
        raise Wrong("That is the share of big days among all days. Keep only the days that follow a big day.")
    if is_near(answer, big[~after_big].mean()):
        raise Wrong("That is the share after a calm day. Keep the days that follow a big day instead.")
    if is_near(answer, (big & after_big).mean()):
        raise Wrong("You divided by all days. Divide by the number of days that follow a big day.")
    raise Wrong("Select the days of `big` whose day before was big, and take their mean.")


def always_big(answer, market):
    _, _, y_test = _outcomes(market)
    _, _, direction = _outcomes(market, "direction")
    if is_near(answer, f1_score(y_test, np.ones(len(y_test)))):
        return
    if is_near(answer, y_test.mean()):
        raise Wrong("That is the share of big moves, the precision of this forecast. F1 also counts its recall.")
    if is_near(answer, f1_score(direction, np.ones(len(direction)))):
        raise Wrong("That is the F1 of predicting up every day. The exercise is about big_move.")
    raise Wrong("Call f1_score with the outcomes of big_move on the test days, and a 1 for each of them.")


def frozen_skill(answer, market):
    y, y_train, y_test = _outcomes(market)
    rolling = brier_score_loss(y_test, rolling_base_rate(y, y_test.index))
    frozen = brier_score_loss(y_test, frozen_base_rate(y_train, y_test.index))
    if is_near(answer, 1 - frozen / rolling):
        return
    if is_near(answer, 1 - rolling / frozen):
        raise Wrong("You swapped the two rates. The rolling rate is the reference, so divide by its Brier score.")
    if is_near(answer, 1 - round(frozen, 3) / round(rolling, 3)):
        raise Wrong("Close: you divided the rounded scores. Compute them from the forecasts, and round at the end.")
    if is_near(answer, 1 - brier_score_loss(y_test, yesterdays_class(y, y_test.index)) / rolling):
        raise Wrong("That is the skill of 'like today'. Use the column `frozen rate`.")
    raise Wrong("The score is 1 - Brier(frozen) / Brier(rolling) on the test days. Keep its sign.")


def shorter_memory(answer, market):
    y, _, y_test = _outcomes(market)
    reference, quarter = (rolling_base_rate(y, y_test.index, window) for window in (250, 66))
    estimate = skill(y_test, quarter, reference)
    if is_near(answer, estimate.low):
        return
    if is_near(answer, estimate.value):
        raise Wrong("That is the skill itself. The exercise is about the low end of its interval.")
    if is_near(answer, estimate.high):
        raise Wrong("That is the high end of the interval. Give the low end.")
    if is_near(answer, skill(y_test, reference, quarter).low):
        raise Wrong("You swapped the two rates. The rate over 250 days is the reference, the last argument.")
    if 0 < float(answer) < estimate.value:
        raise Wrong("That interval is too narrow: single days lose the clusters. Use skill, which draws blocks.")
    if abs(float(answer) - estimate.low) < 0.01:
        raise Wrong("Close: your blocks were drawn in another way. Use skill from pystock.evaluation.")
    raise Wrong("Call skill(y_big_test, probability, rolling) with rolling_rate(y_big, window=66) on the test days.")


def own_baseline(answer, market):
    run = run_in("ideation", answer)
    y, _, y_test = _outcomes(market)
    if not run.info.run_name.startswith("baseline-"):
        raise Wrong(f"That run is named {run.info.run_name}: start its name with baseline-.")
    if (target := run.data.params.get("target")) != "big_move":
        raise Wrong(f"That run has the target {target}: log the parameter target as big_move.")
    if run.info.status != "FINISHED":
        raise Wrong("That run is not finished: log inside a `with mlflow.start_run(…)` block.")
    if "forecast" not in run.data.params:
        raise Wrong("That run doesn't say which forecast it is: log the parameter forecast, such as 'last 22 days'.")
    if (brier := run.data.metrics.get("brier_value")) is None:
        raise Wrong("That run has no metric brier_value: call mlflow.log_metric('brier_value', …) inside the run.")
    if brier <= 0:
        raise Wrong("No forecast of the future has a Brier score of 0: use only outcomes known at the close.")
    if brier >= brier_score_loss(y_test, rolling_base_rate(y, y_test.index)) - 1e-9:
        raise Wrong(f"A Brier score of {brier:.3f} is not below that of the rolling rate. Try a shorter window.")


def worst_baseline(answer, market):
    brier = run_in("ideation", answer).data.metrics.get("brier_value")
    if brier is None:
        raise Wrong("That run has no metric brier_value: choose one of the baselines.")
    runs = mlflow.search_runs(experiment_names=["ideation"], order_by=["metrics.brier_value DESC"], max_results=1)
    if brier < runs.loc[0, "metrics.brier_value"] - 1e-9:
        raise Wrong(f"That run has a Brier score of {brier:.3f}, and another run has a higher one: reverse the order.")


EXERCISES = [
    Exercise("03.1", test=big_after_big, wrong=[0.333, 0.302]),
    Exercise("03.2", test=always_big, wrong=[0.236, 0.718]),
    Exercise("03.3", test=frozen_skill, wrong=[0.049, -0.05]),
    Exercise("03.4", test=shorter_memory, wrong=[0.036, 0.003]),
    Exercise("03.5", test=own_baseline, wrong=["baseline-big-move-66-days", "0" * 32]),
    Exercise("03.6", test=worst_baseline, wrong=["baseline-big-move-always", "0" * 32]),
]
