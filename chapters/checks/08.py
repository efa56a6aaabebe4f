"""The exercises of chapter 08."""

import pandas as pd

from course.checks import Exercise, Wrong, run_in
from pystock.data import load, named
from pystock.features import dataset

END = "2014-12-31"
ASKED = {"step": "feature_set_generation", "target": "direction", "features": "flags"}


def another_table(answer, market):
    run = run_in(named("data-features", market), answer)
    tags = run.data.tags
    for tag, wanted in (ASKED | {"market": market}).items():
        if tags.get(tag) != wanted:
            raise Wrong(f"The tag {tag} of that run is {tags.get(tag)}, not {wanted}: look at what you have asked for.")
    if run.info.status != "FINISHED" or tags.get("outcome") not in ("done", "skipped"):
        raise Wrong(f"That run is {run.info.status} with the outcome {tags.get('outcome')}: it has made no table.")
    if "mlflow.parentRunId" in tags:
        raise Wrong("That run is a step of main: ask for the one step alone, with entry_point.")


def flagged_rows(answer, market):
    prices = load(market)
    flagged = (prices["Open"] == prices["Close"].shift()) | (prices["Volume"] == 0)
    days = dataset(prices.loc[:END], "big_move", "volatility")[0].index
    right = int(flagged.loc[days].sum())
    if isinstance(answer, bool) or not isinstance(answer, (int, float)) and not hasattr(answer, "item"):
        raise Wrong("Give a whole number: how many rows of the training table are flagged.")
    if answer == right:
        return
    if answer == int(flagged.sum()):
        raise Wrong("Those are all flagged days of staging: count the ones that are rows of the training table.")
    if 0 < answer < 1:
        raise Wrong("That looks like a share: give the number of rows.")
    raise Wrong("Take the days of the training table, look them up in staging, and count where any flag is true.")


def size_of_a_move(answer, market):
    if not callable(answer):
        raise Wrong("Give a function that takes the prices and says for each day whether it is good.")
    prices = load(market, end=END)
    day = prices.index[1000]
    good, shifted = _said(answer, prices), prices.astype("float64")
    if not good.all():
        first = f"{good.index[~good][0]:%Y-%m-%d}"
        raise Wrong(f"Your rule calls {first} bad, a true day: the first has no day before it, and crashes happen.")
    for factor, lost in ((100, "a hundred times too large"), (0.01, "a hundred times too small")):
        shifted.loc[day] = prices.loc[day] * factor
        said = _said(answer, shifted)
        if said[day]:
            raise Wrong(f"A day whose prices are {lost} passes: compare each close with the one before, in both ways.")
        if not said.drop(shifted.index[1000:1002]).all():
            raise Wrong("Your rule calls days bad that are far from the damaged one: look at one day's change alone.")


def _said(rule, prices):
    try:
        said = rule(prices.copy())
    except Exception as error:
        raise Wrong(f"On a frame of prices your function ends in {type(error).__name__}: try it on `whole`.") from None
    if not isinstance(said, pd.Series) or not said.index.equals(prices.index) or said.dtype != bool:
        raise Wrong("Your function has to give a Series of true and false, with one value for each day.")
    return said


EXERCISES = [
    Exercise(
        "08.1",
        question="Change one thing and make only what depends on it. Run the entry point `feature_set_generation` alone, "
        "for the target `direction` and the features `flags`, on the stages and in the experiment of this chapter. "
        "Your answer is the id of the run.",
        hint="`mlflow.projects.run` takes `entry_point` and `parameters`; the latter need `market`, `stages`, `target` "
        "and `features`. What it returns has a `run_id`.",
        test=another_table,
        wrong=["feature_set_generation", 1],
    ),
    Exercise(
        "08.2",
        question="A colleague would drop every day that has a flag. How many rows of the training table "
        "(`big_move`, `volatility`, days to the end of 2014) would go?",
        hint="The flags are columns of staging, `stale_open`, `no_volume` and `after_missing`. `staging.loc[table.index]` "
        "takes the rows of the days that stand in the training table.",
        test=flagged_rows,
        wrong=[0.5, 5031],
    ),
    Exercise(
        "08.3",
        question="A row whose prices are all a hundred times too large passes the contract. Write a rule that finds it: "
        "a function from a frame of prices to a Series with False on each day whose close is more than 1.25 times the "
        "close before it, or less than that one divided by 1.25. The first day has none before it and is good.",
        hint="`prices['Close'] / prices['Close'].shift()` is the ratio; `fillna(1)` takes care of the first day, "
        "`between` of both ends.",
        test=size_of_a_move,
        wrong=[lambda prices: prices["Close"] < 10_000, lambda prices: prices["Close"].diff().abs() < 1000],
    ),
]
