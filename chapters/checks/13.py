"""The exercises of chapter 13."""

import numpy as np
import pandas as pd

from course.checks import Exercise, Wrong
from pystock.data import load
from pystock.features import FEATURES, dataset

END = "2014-12-31"


def another_feature_set(answer, market):
    prices = load(market, end=END)
    made = FEATURES.get("range")
    if made is None:
        raise Wrong("pystock.features.FEATURES has no entry `range` yet: add your function under this name.")
    table = made(prices)
    if not isinstance(table, pd.DataFrame) or list(table.columns) != ["range"] or not table.index.equals(prices.index):
        raise Wrong("Your function must return a table with the column `range` and one row for each day of the prices.")
    if not np.allclose(table["range"], np.log(prices["High"] / prices["Low"])):
        raise Wrong("The values are not the logarithm of the high divided by the low of the same day.")
    manifest = getattr(answer, "manifest", None)
    if not isinstance(manifest, dict) or manifest.get("stage") != "training":
        raise Wrong("Give what make_features returns: the result of the step, with its manifest.")
    for name, wanted in {"target": "big_move", "features": "range"}.items():
        if (given := manifest["parameters"][name]) != wanted:
            raise Wrong(f"That table was made with the {name} {given}, not {wanted}: pass {wanted!r} to make_features.")
    if manifest["market"] != market or manifest["rows"] != len(prices) - 1:
        raise Wrong(f"That table has {manifest['rows']} rows of {manifest['market']}: use the stages in `home`.")


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
        raise Wrong("Those are all flagged days of staging: count only those that are rows of the training table.")
    if 0 < answer < 1:
        raise Wrong("That looks like a share: give the number of rows.")
    raise Wrong("Look up the days of the training table in staging, and count those on which any flag is true.")


def size_of_a_move(answer, market):
    if not callable(answer):
        raise Wrong("Give a function that takes the prices and returns for each day whether it is good.")
    prices = load(market, end=END)
    day = prices.index[1000]
    good, shifted = _said(answer, prices), prices.astype("float64")
    if not good.all():
        first = f"{good.index[~good][0]:%Y-%m-%d}"
        raise Wrong(f"Your rule rejects {first}, a real day: the first day has no day before it, and crashes happen.")
    for factor, lost in ((100, "a hundred times too large"), (0.01, "a hundred times too small")):
        shifted.loc[day] = prices.loc[day] * factor
        said = _said(answer, shifted)
        if said[day]:
            raise Wrong(f"A day whose prices are {lost} passes: compare each close with the one before, up and down.")
        if not said.drop(shifted.index[1000:1002]).all():
            raise Wrong("Your rule also rejects days far from the damaged one: use only the change of a single day.")


def _said(rule, prices):
    try:
        said = rule(prices.copy())
    except Exception as error:
        raise Wrong(f"Your function raises {type(error).__name__} on a table of prices: try it on `whole`.") from None
    if not isinstance(said, pd.Series) or not said.index.equals(prices.index) or said.dtype != bool:
        raise Wrong("Your function must return a Series of True and False, with one value for each day.")
    return said


EXERCISES = [
    Exercise("13.1", test=another_feature_set, wrong=["range", {"features": "range"}]),
    Exercise("13.2", test=flagged_rows, wrong=[0.5, 5031]),
    Exercise(
        "13.3",
        test=size_of_a_move,
        wrong=[lambda prices: prices["Close"] < 10_000, lambda prices: prices["Close"].diff().abs() < 1000],
    ),
]
