"""The exercises of chapter 02."""

import numpy as np
from sklearn.metrics import brier_score_loss, f1_score

from course.checks import Exercise, Wrong, is_near, run_in
from pystock.data import load
from pystock.evaluation import frozen_base_rate, rolling_base_rate, time_split
from pystock.features import dataset


def _outcomes(market, target="big_move"):
    X, y = dataset(load(market, end="2014-12-31"), target, features="flags")
    _, _, y_train, y_test = time_split(X, y)
    return y, y_train, y_test


def always_big(answer, market):
    _, _, y_test = _outcomes(market)
    _, _, direction = _outcomes(market, "direction")
    if is_near(answer, f1_score(y_test, np.ones(len(y_test)))):
        return
    if is_near(answer, y_test.mean()):
        raise Wrong("That is the share of big moves, the precision of this forecast. F1 also counts its recall.")
    if is_near(answer, f1_score(direction, np.ones(len(direction)))):
        raise Wrong("That is the F1 of predicting up every day. The exercise is about big_move.")
    raise Wrong("Call f1_score with y_big_test, the held-out outcomes of big_move, and a 1 for each of them.")


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
    raise Wrong("The score is 1 - Brier(frozen) / Brier(rolling) on the held-out days. Keep its sign.")


def own_prototype(answer, market):
    run = run_in("ideation", answer)
    if run.data.params.get("target") != "big_move":
        raise Wrong(f"That run has the target {run.data.params.get('target')}: the exercise is about big_move.")
    if "LogisticRegression" in run.data.params.get("model", ""):
        raise Wrong("That is the logistic regression again: try another kind of model.")
    low = run.data.metrics.get("brier_skill_low")
    if low is None:
        raise Wrong("That run has no metric brier_skill_low: log it with prototype(…).")
    if low <= 0:
        raise Wrong(f"That run does not beat the base rate: its interval starts at {low:+.3f}, not above zero.")


EXERCISES = [
    Exercise("02.1", test=always_big, wrong=[0.236, 0.718]),
    Exercise("02.2", test=frozen_skill, wrong=[0.051, 0.0]),
    Exercise("02.3", test=own_prototype, wrong=["my-prototype", "0" * 32]),
]
