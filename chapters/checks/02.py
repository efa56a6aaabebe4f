"""The exercises of chapter 02."""

import mlflow
import numpy as np
from sklearn.metrics import brier_score_loss, f1_score

from course.checks import Exercise, Wrong
from pystock.data import load, named
from pystock.evaluation import frozen_base_rate, rolling_base_rate, time_split
from pystock.features import dataset


def _outcomes(market):
    X, y = dataset(load(market, end="2014-12-31"), target="big_move", features="flags")
    _, _, y_train, y_test = time_split(X, y)
    return y, y_train, y_test


def always_big(answer, market):
    _, _, y_test = _outcomes(market)
    if abs(answer - y_test.mean()) < 0.0006:
        raise Wrong(
            "That is the share of big moves, which is the precision of this forecast. F1 also counts its recall."
        )
    if abs(answer - f1_score(y_test, np.ones(len(y_test)))) > 0.0006:
        raise Wrong("Give f1_score the held-out outcomes of big_move, y_big_test, and a one for each of them.")


def frozen_skill(answer, market):
    y, y_train, y_test = _outcomes(market)
    rolling = brier_score_loss(y_test, rolling_base_rate(y, y_test.index))
    frozen = brier_score_loss(y_test, frozen_base_rate(y_train, y_test.index))
    if abs(answer - (1 - rolling / frozen)) < 0.0006:
        raise Wrong("You measured the rolling rate against the frozen one. The reference belongs under the line.")
    if abs(answer - (1 - frozen / rolling)) > 0.0006:
        raise Wrong("The score is 1 - Brier(frozen) / Brier(rolling), on the held-out days; mind its sign.")


def own_prototype(answer, market):
    experiment = named("ideation", market)
    if answer != experiment:
        raise Wrong(f"The runs of this chapter are in {experiment}: give experiment.name.")
    runs = mlflow.search_runs(
        experiment_names=[experiment],
        filter_string="attributes.run_name = 'my-prototype' and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    if runs.empty:
        raise Wrong("There is no finished run named my-prototype: log one with prototype('my-prototype', …).")
    run = runs.iloc[0]
    if run.get("tags.target") != "big_move":
        raise Wrong(f"my-prototype answers {run.get('tags.target')}: the exercise asks about big_move.")
    low = run.get("metrics.brier_skill_low")
    if not (low is not None and low > 0):
        raise Wrong(f"my-prototype does not beat the base rate: its interval begins at {low:+.3f}, not above zero.")


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
        question="Log a prototype of your own for `big_move` in the experiment of this chapter, with a run named "
        "`my-prototype`, that beats the base rate. Your answer is the name of its experiment.",
        hint='`prototype("my-prototype", model, "big_move", "volatility")` logs it. A forest whose leaves hold at '
        "least 20 days each is less sure of itself: `RandomForestClassifier(min_samples_leaf=20, random_state=0)`.",
        test=own_prototype,
        wrong=["my-prototype", "stockpred"],
    ),
]
