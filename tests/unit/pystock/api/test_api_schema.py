"""The features that the inference API makes of prices."""

import numpy as np
import pytest

from pystock.api.schema import Refused, features
from pystock.data import DataError, load, validate
from pystock.features import volatility


def as_prices(table):
    """A frame of pystock.data as the days of a request."""
    table = table.rename(columns=str.lower).assign(date=table.index.strftime("%Y-%m-%d"))
    return table[["date", "open", "high", "low", "close", "volume"]].to_dict("records")


@pytest.mark.parametrize("market", ["sp500", "nasdaq"])
def test_features_of_posted_prices_are_those_of_the_training_to_the_last_bit(market):
    prices = load(market).loc["2014-09":]
    dates, online = features(as_prices(prices))
    assert dates[0] == f"{prices.index[66]:%Y-%m-%d}" and len(dates) == len(prices) - 66
    assert np.array_equal(online, volatility(load(market)).loc[dates].to_numpy())


@pytest.mark.parametrize(
    ("rule", "column", "value"),
    [
        ("a price is not positive", "Low", 0.0),
        ("the high is below the open or the close", "High", 1.0),
        ("the low is above the open or the close", "Low", 1e6),
        ("the volume is negative or not whole", "Volume", -1),
    ],
)
def test_prices_are_refused_by_the_rules_of_the_price_files(rule, column, value):
    prices = load().iloc[-80:].copy()
    prices.loc[prices.index[70], column] = value
    with pytest.raises(DataError, match=rule):
        validate(prices)
    with pytest.raises(Refused) as refused:
        features(as_prices(prices))
    assert {"where": "prices[70]", "what": f"is invalid: {rule}"} in refused.value.errors
