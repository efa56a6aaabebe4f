"""What the models see: the values by hand, and that no row sees the future."""

import numpy as np
import pandas as pd
import pytest

from pystock import data, features


def frame(closes, **columns):
    """Prices with the given closes; open, high and low like the close, volume 100, unless given."""
    index = pd.bdate_range("2020-01-01", periods=len(closes), name="Date")
    prices = pd.DataFrame({name: np.asarray(closes, dtype="float64") for name in data.PRICES}, index=index)
    return prices.assign(Volume=100).assign(**columns)


@pytest.fixture(scope="module")
def sp500():
    return data.load("sp500")


def test_log_returns_by_hand():
    assert features.log_returns(frame([1, np.e, 1])).tolist()[1:] == pytest.approx([1, -1])
    assert np.isnan(features.log_returns(frame([1, 2])).iloc[0])


def test_flags_by_hand():
    closes = [10, 11, 10, 10, 12, 13]  # up, down, unchanged, up, up
    flags = features.flags(frame(closes), window=3)
    assert flags.isna().any(axis=1).tolist() == [True, True, True, False, False, False]
    assert flags.iloc[3:].to_numpy().tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 1]]
    assert features.flags(frame([1, 2, 3])).isna().any(axis=1).all()  # shorter than the window


def test_flags_have_fourteen_days_and_the_last_is_the_rows_own(sp500):
    flags = features.flags(sp500)
    assert list(flags.columns) == [f"day_{day:02d}" for day in range(1, 15)]
    assert flags.loc["2001-09-17", "day_14"] == 0  # the S&P 500 lost 4.9 % on the first day after the attacks
    assert flags.loc["2001-09-24", "day_14"] == 1 and flags.loc["2001-09-24", "day_09"] == 0
    X, y = features.dataset(sp500, "direction", "flags")  # the outcome of a row is the own flag of the next
    assert (y.to_numpy()[:-1] == X["day_14"].to_numpy()[1:]).all()


def test_volatility_by_hand():
    returns = [0.01, -0.02, 0.03, 0.0, -0.01, 0.02]
    closes = 100 * np.exp(np.cumsum([0, *returns]))
    opens, highs, lows = closes * np.exp(-0.01), closes * np.exp(0.02), closes * np.exp(-0.03)
    row = features.volatility(frame(closes, Open=opens, High=highs, Low=lows)).iloc[-1]
    assert row["abs_return"] == pytest.approx(0.02)
    assert row["realised_5"] == pytest.approx(np.sqrt((0.0004 + 0.0009 + 0 + 0.0001 + 0.0004) / 5))
    # Each day: ln(H/L) = 0.05, ln(C/O) = 0.01
    assert row["garman_klass_5"] == pytest.approx(np.sqrt(0.5 * 0.0025 - (2 * np.log(2) - 1) * 0.0001))
    assert row["momentum_5"] == pytest.approx(0.02)  # all returns but the first
    assert np.isnan(row["realised_10"])


def test_missing_volume_is_neither_zero_nor_the_future():
    changes = features.volatility(frame([1] * 6, Volume=[0, 100, 200, 0, 0, 100]))["volume_change"]
    assert changes.tolist() == pytest.approx([np.nan, np.nan, np.log(2), 0, 0, -np.log(2)], nan_ok=True)
    nasdaq = data.load("nasdaq")  # two of its days lack a volume
    change, volume = features.volatility(nasdaq)["volume_change"], nasdaq["Volume"]
    assert np.isfinite(change.iloc[1:]).all() and change["2015-05-12"] == change["2018-01-09"] == 0
    assert change["2015-05-13"] == pytest.approx(np.log(volume["2015-05-13"] / volume["2015-05-11"]))


def test_targets_by_hand():
    closes = 100 * np.exp(np.cumsum([0, 0.0101, -0.0101, 0.0099, 0, -0.02]))
    prices = frame(closes)
    direction, big = features.direction(prices), features.big_move(prices)
    assert direction.tolist() == [1, 0, 1, 0, 0] and big.tolist() == [1, 1, 0, 0, 1]
    assert direction.index.equals(prices.index[:-1]) and big.index.equals(prices.index[:-1])
    assert direction.dtype == big.dtype == "int64"
    assert features.big_move(prices, threshold=0.015).tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("target", features.TARGETS)
@pytest.mark.parametrize(("name", "rows"), [("flags", 5031 - 14 - 1), ("volatility", 5031 - 66 - 1)])
def test_dataset_is_aligned_and_complete(sp500, target, name, rows):
    X, y = features.dataset(sp500, target, name)
    assert len(X) == rows and X.index.equals(y.index) and y.name == target
    assert X.notna().all(axis=None) and (X.dtypes == "float64").all()
    assert y.dtype == "int64" and set(y) == {0, 1}
    assert X.index[-1] == sp500.index[-2]
    assert X.equals(features.FEATURES[name](sp500).loc[X.index]) and y.equals(features.TARGETS[target](sp500)[X.index])


@pytest.mark.parametrize(("days", "names", "message"), [
    (5031, ("up", "flags"), "'up' is not a target: choose one of direction, big_move."),
    (5031, ("direction", "all"), "'all' is not a feature set: choose one of flags, volatility."),
    (60, ("direction", "volatility"), "60 days of prices give no complete row of volatility: load a longer history."),
])  # fmt: skip
def test_dataset_refuses(sp500, days, names, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        features.dataset(sp500.iloc[:days], *names)


@pytest.mark.parametrize("name", features.FEATURES)
@pytest.mark.parametrize("day", ["1999-06-01", "1999-06-02", "2009-12-31", "2015-05-11", "2015-05-12", "2018-11-30"])
@pytest.mark.parametrize("columns", [data.PRICES, ["Volume"]], ids=["prices", "volume"])
@pytest.mark.parametrize("market", data.MARKETS)
def test_no_feature_row_sees_a_later_day(name, day, columns, market):
    prices = data.load(market).astype({"Volume": "float64"})
    future = prices.index[prices.index > day]
    changed = prices.copy()
    changed.loc[future, columns] *= np.random.default_rng(0).uniform(0.5, 2, size=(len(future), len(columns)))
    with np.errstate(invalid="ignore"):  # the changed lows may be above the highs
        before, after = features.FEATURES[name](prices), features.FEATURES[name](changed)
    pd.testing.assert_frame_equal(before.loc[:day], after.loc[:day], check_exact=True)
    if name == "volatility" or columns == data.PRICES:  # this test can fail: the rows after the day do change
        assert not before.loc[future].equals(after.loc[future])
    missing = prices.copy()  # volumes that will be missing change nothing before, either
    missing.loc[future, "Volume"] = 0
    assert features.FEATURES[name](missing).loc[:day].equals(before.loc[:day])
