"""The contract of the data pipeline: what is bad and why, what is flagged, and the calendar of the exchange."""

import numpy as np
import pandas as pd
import pytest

from pystock import data
from pystock.data_pipeline import contract
from pystock.data_pipeline.contract import examine
from pystock.pipeline import PipelineError

DAYS = pd.bdate_range("2020-03-02", periods=28)  # to the Wednesday before Good Friday


def prices(days=DAYS) -> pd.DataFrame:
    """Sound rows as text, a line each, whose opens differ from the closes before them."""
    n = np.arange(len(days))
    table = {"Date": pd.DatetimeIndex(days).strftime("%Y-%m-%d"), "Open": 10.25 + n, "High": 12.5 + n, "Low": 9.0 + n}
    table |= {"Close": 11.0 + n, "Adj Close": 11.0 + n, "Volume": 100 + n}
    return pd.DataFrame(table, index=pd.RangeIndex(2, len(days) + 2, name="line")).astype("str")


def test_sound_rows_are_good_and_keep_their_values():
    examined = examine(prices())
    assert len(examined.good) == 28 and examined.quarantine.empty and len(examined.missing_days) == 0
    assert list(examined.good.columns) == [*data.COLUMNS, *contract.FLAGS]
    assert not examined.good[list(contract.FLAGS)].to_numpy().any()
    assert data.validate(examined.good[data.COLUMNS]).equals(examined.good[data.COLUMNS])
    assert examined.good.loc["2020-03-03", "Close"] == 12 and examined.good["Volume"].dtype == "int64"


BAD = {
    "missing": ({"Close": ""}, "a value is missing or not a number"),
    "text": ({"High": "twelve"}, "a value is missing or not a number"),
    "infinite": ({"Low": "-inf"}, "a value is missing or not a number"),
    "overflow": ({"High": "1e999"}, "a value is missing or not a number"),
    "negative": ({"Adj Close": "-3"}, "a price is not positive"),
    "zero": ({"Low": "0"}, "a price is not positive"),
    "high below close": ({"High": "14.5"}, "the high is below the open or the close"),
    "low above open": ({"Low": "14.5"}, "the low is above the open or the close"),
    "volume negative": ({"Volume": "-1"}, "the volume is negative or not whole"),
    "volume not whole": ({"Volume": "1.5"}, "the volume is negative or not whole"),
    "volume beyond any": ({"Volume": "1e17"}, "the volume is implausibly large"),
    "no date": ({"Date": "6 March"}, "not a valid date (YYYY-MM-DD)"),
    "no such date": ({"Date": "2020-02-30"}, "not a valid date (YYYY-MM-DD)"),
    "no row": (dict.fromkeys(["Date", *data.COLUMNS], ""), "not a valid date"),
    "ages ago": ({"Date": "0202-03-06"}, "the date is before 1900 or in the future"),
    "in the future": ({"Date": "2999-03-06"}, "the date is before 1900 or in the future"),
    "a Sunday": ({"Date": "2020-03-08"}, "the date is not a trading day of XNYS"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_row_goes_to_quarantine_as_it_stood(kind):
    values, reason = BAD[kind]
    raw = prices()
    raw.loc[6, list(values)] = list(values.values())
    good, quarantine, missing = examine(raw)
    assert list(quarantine.index) == [6] and quarantine["reason"].iloc[0].startswith(reason)
    assert quarantine.drop(columns="reason").equals(raw.loc[[6]])
    assert len(good) == 27 and list(missing.strftime("%Y-%m-%d")) == ["2020-03-06"]
    assert list(good.index[good["after_missing"]].strftime("%Y-%m-%d")) == ["2020-03-09"]


def test_duplicates():
    raw, again = prices(), prices().loc[[7, 12]]
    again.loc[12, "Close"] = "22.25"
    raw = pd.concat([raw, again]).set_index(pd.RangeIndex(2, 32, name="line"))
    good, quarantine, missing = examine(raw)
    assert quarantine["reason"].to_dict() == {
        12: contract.TABLE_RULES["different"],
        30: contract.TABLE_RULES["same"],
        31: contract.TABLE_RULES["different"],
    }
    assert len(good) == 27 and list(missing) == [pd.Timestamp("2020-03-16")]


def test_of_two_rows_of_a_day_the_bad_one_decides_nothing():
    raw = pd.concat([prices(), prices().loc[[7]].assign(Close="?")]).set_index(pd.RangeIndex(2, 31, name="line"))
    raw.loc[9, "Low"] = "-1"
    good, quarantine, _ = examine(raw)
    assert len(good) == 27
    assert quarantine["reason"].to_dict() == {9: "a price is not positive", 30: "a value is missing or not a number"}


def test_rows_out_of_order_are_put_in_order():
    raw = prices().iloc[::-1].set_index(pd.RangeIndex(2, 30, name="line"))
    assert examine(raw).good.equals(examine(prices()).good) and examine(raw).quarantine.empty


def test_flags_are_on_good_rows():
    raw = prices().drop(8)
    raw.loc[6, ["Open", "Volume"]] = ["14.0", "0"]
    good, quarantine, missing = examine(raw)
    assert quarantine.empty and list(missing.strftime("%Y-%m-%d")) == ["2020-03-10"]
    for flag, day in {"stale_open": "2020-03-06", "no_volume": "2020-03-06", "after_missing": "2020-03-11"}.items():
        assert list(good.index[good[flag]].strftime("%Y-%m-%d")) == [day], flag


def test_a_long_gap_stops_unless_the_exchange_was_closed():
    lost = prices().drop(range(8, 14))
    with pytest.raises(PipelineError, match="gap of 9 days before 2020-03-18, in which XNYS traded on 6"):
        examine(lost)
    attack = prices(pd.DatetimeIndex(["2001-09-07", "2001-09-10", "2001-09-17", "2001-09-18"]))
    assert len(examine(attack).missing_days) == 0
    golden_week = prices(pd.DatetimeIndex(["2019-09-30", "2019-10-08"]))  # Shanghai, 8 days
    assert len(examine(golden_week, "XSHG").good) == 2
    with pytest.raises(PipelineError, match="XNYS traded on 5"):
        examine(golden_week, "XNYS")


def test_calendars():
    assert len(examine(prices(pd.date_range("2020-03-02", periods=30)), "24/7").good) == 30
    with pytest.raises(PipelineError, match="'NYC' is not an exchange calendar"):
        examine(prices(), "NYC")
    with pytest.raises(PipelineError, match="XSHG does not cover 1980"):
        examine(prices(pd.bdate_range("1980-03-03", periods=3)), "XSHG")
