"""The features that a model gets, and the outcomes that it predicts.

Row t of everything here belongs to trading day t, whose close is known; the outcome belongs to the next trading day.
`prices` is a frame as `pystock.data.load` returns it: one row a trading day, columns Open, High, Low, Close in index
points (or the ticker's currency), Volume in the unit of the source. Functions return one row for each row of
`prices`, NaN where the past is too short for a value; only `dataset` drops rows.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view

WINDOWS = (5, 10, 22, 66)  # trading days: a week, two weeks, a month, a quarter


def log_returns(prices: pd.DataFrame) -> pd.Series:
    """Return the daily log returns ln(C_t / C_t-1) of the closes; no unit (0.01 is about 1 %), the first is NaN."""
    return np.log(prices["Close"]).diff().rename("log_return")


def flags(prices: pd.DataFrame, window: int = 14) -> pd.DataFrame:
    """Return the last `window` days as up/down flags, oldest first.

    Columns `day_01` (oldest) to `day_14` (the row's own day), float64: 1 if that day's close is above the close
    before it, else 0; an unchanged close is 0, as in `direction`. The first `window` rows are NaN at least in part.
    """
    change = prices["Close"].diff()
    ups = (change > 0).astype("float64").where(change.notna())
    padded = np.concatenate([np.full(window - 1, np.nan), ups])
    columns = [f"day_{day:02d}" for day in range(1, window + 1)]
    return pd.DataFrame(sliding_window_view(padded, window).copy(), index=prices.index, columns=columns)


def volatility(prices: pd.DataFrame) -> pd.DataFrame:
    """Return how much the market has been moving: 12 float64 columns, all in log returns a day (no unit).

    - `abs_return`: |r_t|, with r the daily log return.
    - `realised_k`, k = 5, 10, 22, 66 days: root of the mean of r² over k days (realised volatility on daily returns:
      Andersen & Bollerslev 1998, International Economic Review 39, 885-905). A mean, so that windows compare.
    - `garman_klass_k`: root of the mean over k days of ½ ln(H/L)² - (2 ln 2 - 1) ln(C/O)² (Garman & Klass 1980,
      Journal of Business 53, 67-78, their practical estimator, open to close). It trusts the open: see data/README.md.
    - `momentum_k`, k = 5, 22: ln(C_t / C_t-k).
    - `volume_change`: ln(V_t / V_t-1). Volume 0 is missing, and a missing volume counts as the last one known before
      it: the change is 0 on that day, and the next day is compared with the day before the gap. No row is lost.

    Rows before the 67th are NaN at least in part.
    """
    returns, close = log_returns(prices), np.log(prices["Close"])
    high_low = np.log(prices["High"] / prices["Low"]) ** 2
    open_close = np.log(prices["Close"] / prices["Open"]) ** 2
    garman_klass = 0.5 * high_low - (2 * np.log(2) - 1) * open_close
    volume = prices["Volume"].astype("float64").replace(0, np.nan).ffill()
    return pd.DataFrame(
        {
            "abs_return": returns.abs(),
            **{f"realised_{days}": _root_mean(returns**2, days) for days in WINDOWS},
            **{f"garman_klass_{days}": _root_mean(garman_klass, days) for days in WINDOWS},
            **{f"momentum_{days}": close.diff(days) for days in (5, 22)},
            "volume_change": np.log(volume).diff(),
        }
    )


def _root_mean(squares: pd.Series, days: int) -> pd.Series:
    # Not Series.rolling().mean(): it carries rounding errors from one window to the next, so that a row would depend,
    # in its last digits, on where the history begins. Online and batch inference must agree to the last bit.
    padded = np.concatenate([np.full(days - 1, np.nan), squares])
    return pd.Series(np.sqrt(sliding_window_view(padded, days).mean(axis=1)), index=squares.index)


def direction(prices: pd.DataFrame) -> pd.Series:
    """Return 1 if the next trading day closes above this one, else 0; int64, without the last day, as yet unknown."""
    return (log_returns(prices).shift(-1).iloc[:-1] > 0).astype("int64").rename("direction")


def big_move(prices: pd.DataFrame, threshold: float = 0.01) -> pd.Series:
    """Return 1 if the next trading day's log return exceeds `threshold` in absolute value, else 0; int64.

    `threshold` is in log return: 0.01 is about 1 %. One row shorter than `prices`, as `direction`.
    """
    return (log_returns(prices).shift(-1).iloc[:-1].abs() > threshold).astype("int64").rename("big_move")


TARGETS: dict[str, Callable[[pd.DataFrame], pd.Series]] = {"direction": direction, "big_move": big_move}
FEATURES: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {"flags": flags, "volatility": volatility}


def dataset(prices: pd.DataFrame, target: str = "direction", features: str = "flags") -> tuple[pd.DataFrame, pd.Series]:
    """Return features X (float64) and outcomes y (int64, 0 or 1): row t of y is the outcome of the day after t.

    `target` is a key of `TARGETS`, `features` one of `FEATURES`. Rows with a missing feature, at the start of the
    history, are dropped, as is the last day, whose outcome is not known yet. Raises ValueError for any other name,
    and if nothing is left.
    """
    for name, functions, kind in ((features, FEATURES, "feature set"), (target, TARGETS, "target")):
        if name not in functions:
            raise ValueError(f"{name!r} is not a {kind}: choose one of {', '.join(functions)}.")
    X, y = FEATURES[features](prices).dropna(), TARGETS[target](prices)
    rows = X.index.intersection(y.index)
    if rows.empty:
        raise ValueError(f"{len(prices)} days of prices give no complete row of {features}: load a longer history.")
    return X.loc[rows], y.loc[rows]
