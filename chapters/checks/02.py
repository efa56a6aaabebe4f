"""The exercises of chapter 02."""

import numpy as np
from sklearn.metrics import brier_score_loss, f1_score

from course.checks import Exercise, Wrong, is_near, run_in
from pystock.data import load, named
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
        raise Wrong("That is the F1 of saying up every day. The question is about big_move.")
    raise Wrong("Give f1_score the held-out outcomes of big_move, y_big_test, and a one for each of them.")


def frozen_skill(answer, market):
    y, y_train, y_test = _outcomes(market)
    rolling = brier_score_loss(y_test, rolling_base_rate(y, y_test.index))
    frozen = brier_score_loss(y_test, frozen_base_rate(y_train, y_test.index))
    if is_near(answer, 1 - frozen / rolling):
        return
    if is_near(answer, 1 - rolling / frozen):
        raise Wrong("You measured the rolling rate against the frozen one. The reference belongs under the line.")
    if is_near(answer, 1 - round(frozen, 3) / round(rolling, 3)):
        raise Wrong("Close: you divided the rounded scores. Compute them from the forecasts, and round at the end.")
    raise Wrong("The score is 1 - Brier(frozen) / Brier(rolling), on the held-out days; mind its sign.")


def own_prototype(answer, market):
    run = run_in(named("ideation", market), answer)
    if run.data.params.get("target") != "big_move":
        raise Wrong(f"That run answers {run.data.params.get('target')}: the exercise asks about big_move.")
    if "LogisticRegression" in run.data.params.get("model", ""):
        raise Wrong("That is the logistic regression again: try another kind of model.")
    low = run.data.metrics.get("brier_skill_low")
    if low is None:
        raise Wrong("That run has no metric brier_skill_low: log it with prototype(…).")
    if low <= 0:
        raise Wrong(f"That run does not beat the base rate: its interval begins at {low:+.3f}, not above zero.")


EXERCISES = [
    Exercise(
        "02.1",
        question='On `big_move`, what F1 does the forecast get that says "big" on every held-out day? Give it to three '
        "decimals.",
        hint="`y_big_test` holds the held-out outcomes. A forecast of ones is `np.ones(len(y_big_test))`.",
        test=always_big,
        wrong=[0.236, 0.718],
    ),
    Exercise(
        "02.2",
        question="How much skill does the share of big moves in training have, measured against the rolling base rate "
        "on the held-out days? Give the Brier skill score to three decimals.",
        hint="Both forecasts are above: `frozen` and `rolling`. The score is 1 minus the Brier score of the first over "
        "that of the second; its sign says which of the two is better.",
        test=frozen_skill,
        wrong=[0.051, 0.0],
    ),
    Exercise(
        "02.3",
        question="Log one prototype of your own for `big_move` that beats the base rate, with another model than the "
        "logistic regression. Decide on the model before you look, and look once. Your answer is the id of its run.",
        hint='`prototype("my-prototype", model, "big_move", "volatility")` logs it, and '
        "`mlflow.last_active_run().info.run_id` is its id. A forest whose leaves hold at least 20 days each is less "
        "sure of itself: `RandomForestClassifier(min_samples_leaf=20)`.",
        test=own_prototype,
        wrong=["my-prototype", "0" * 32],
    ),
]
