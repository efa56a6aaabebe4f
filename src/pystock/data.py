"""Daily prices: the embedded ones, and live ones in the same layout.

A frame of prices has one row a trading day, ordered by the DatetimeIndex `Date`, and the columns Open, High, Low,
Close, Adj Close (float64; index points, or the ticker's currency) and Volume (int64; shares or the source's unit).
`SCHEMA` says what a sound one is. Every failure is a `DataError` of one sentence.
"""

import io
import logging
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pandera.pandas as pa

from pystock.errors import PystockError
from pystock.price_rules import COLUMNS, LONGEST_GAP, PRICES, ROW_RULES

DEFAULT_MARKET = "sp500"
MARKETS = {"sp500": "S&P 500", "nasdaq": "NASDAQ Composite"}


class DataError(PystockError, ValueError):
    """Prices that cannot be had or cannot be trusted; the message names the thing, the reason and the fix."""


def named(name: str, market: str = DEFAULT_MARKET) -> str:
    """Return the name of an experiment, a study or a registered model that belongs to one market.

    The default market's have the plain name, others end in theirs: `pystock-big-move`, `pystock-big-move-nasdaq`.
    """
    return name if market == DEFAULT_MARKET else f"{name}-{market}"


def _schema(longest_gap: int) -> pa.DataFrameSchema:
    order = {
        "the date is not after the one before": lambda prices: _days(prices) > 0,
        f"the gap to the day before is longer than {longest_gap} days": lambda prices: _days(prices) <= longest_gap,
    }
    missing, *others = ROW_RULES
    rules = {missing: ROW_RULES[missing], **order, **{reason: ROW_RULES[reason] for reason in others}}
    return pa.DataFrameSchema(
        columns={name: pa.Column(float, nullable=True) for name in PRICES} | {"Volume": pa.Column(int, nullable=True)},
        index=pa.Index("datetime64[us]", name="Date"),
        checks=[pa.Check(rule, error=reason, ignore_na=False) for reason, rule in rules.items()],
        strict=True,
        ordered=True,
    )


def _days(prices: pd.DataFrame) -> pd.Series:
    """Return the days since the row before; 1 on the first row, which has none."""
    return prices.index.to_series().diff().dt.days.fillna(1)


SCHEMA = _schema(LONGEST_GAP)


def validate(
    prices: pd.DataFrame,
    name: str = "the frame of prices",
    mend: str = "correct or drop that row",
    longest_gap: int = LONGEST_GAP,
) -> pd.DataFrame:
    """Return sound `prices` as float64 and int64.

    `prices` has the columns `COLUMNS` and a DatetimeIndex without time zone; `name` and `mend` are for the message,
    `longest_gap` is in days. Raises DataError with the first bad date and the rule that it breaks.
    """
    if list(prices.columns) != COLUMNS:
        raise DataError(
            f"{name} has the columns {', '.join(map(str, prices.columns))}, not {', '.join(COLUMNS)}: {mend}."
        )
    if prices.empty:
        raise DataError(f"{name} has no rows: {mend}.")
    numbers = prices.apply(pd.to_numeric, errors="coerce")
    numbers[PRICES] = numbers[PRICES].astype("float64")
    if np.isfinite(numbers["Volume"]).all() and (numbers["Volume"] % 1 == 0).all():
        numbers["Volume"] = numbers["Volume"].astype("int64")
    numbers.index = pd.DatetimeIndex(numbers.index.to_numpy(), name="Date").as_unit("us")
    try:
        return _schema(longest_gap).validate(numbers, lazy=True)
    except pa.errors.SchemaErrors as error:
        broken = error.failure_cases.dropna(subset=["check_number", "index"])
        first = broken.sort_values(["index", "check_number"]).iloc[0]
        raise DataError(f"{name} is damaged, on {first['index']:%Y-%m-%d} {first['check']}: {mend}.") from None


def load(market: str = DEFAULT_MARKET, start: str | None = None, end: str | None = None) -> pd.DataFrame:
    """Return the embedded daily prices of a market, validated; days from `start` to `end`, both included.

    `market` is a key of `MARKETS`. Both files cover 1999-01-04 to 2018-12-31, 5,031 trading days; source and known
    flaws: data/README.md. They are looked for in the folder that PYSTOCK_DATA names, else in the checkout's data/.
    Raises DataError for an unknown market, a missing or damaged file, and dates that leave no day.
    """
    if market not in MARKETS:
        raise DataError(f"{market!r} is no embedded market: choose one of {', '.join(MARKETS)}.")
    prices = _read(embedded_folder() / f"{market}.csv")
    first, last = prices.index[0], prices.index[-1]
    chosen = prices.loc[first if start is None else _date(start) : last if end is None else _date(end)]
    if chosen.empty:
        raise DataError(
            f"{market} has no day from {start or 'the start'} to {end or 'the end'}: "
            f"choose days from {first:%Y-%m-%d} to {last:%Y-%m-%d}."
        )
    return chosen


def embedded_folder() -> Path:
    """Return the folder of the embedded prices, MARKET.csv: PYSTOCK_DATA if it is set, else the checkout's data/."""
    return Path(os.environ.get("PYSTOCK_DATA") or Path(__file__).resolve().parents[2] / "data")


def read_rows(path: Path, mend: str) -> pd.DataFrame:
    """Return the rows of a price file as text, sound or not, in the columns `Date` and `COLUMNS`.

    The index `line` is the row's line in the file, whose first is line 2; a field that is missing is "". Raises
    DataError, which ends in `mend`, for a file that is not a table of these columns; the values are not checked.
    """
    table = _table(_text(path, mend), path, mend, dtype=str, keep_default_na=False, skip_blank_lines=False)
    return as_rows(table, str(path), mend)


def as_rows(table: pd.DataFrame, name: str, mend: str) -> pd.DataFrame:
    """Return a table of text in the layout of `read_rows`; the arguments as in `validate`."""
    if list(table.columns) != ["Date", *COLUMNS]:
        raise DataError(
            f"{name} has the columns {', '.join(map(str, table.columns))}, not Date, {', '.join(COLUMNS)}: {mend}."
        )
    if table.empty:
        raise DataError(f"{name} has no rows: {mend}.")
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes a first field too many for the rows' names
        raise DataError(f"{name} has more fields in its rows than columns: {mend}.")
    return table.fillna("").set_index(pd.RangeIndex(2, len(table) + 2, name="line"))


def _date(value: str) -> pd.Timestamp:
    try:
        date = pd.Timestamp(value).normalize()
    except (ValueError, TypeError):
        date = pd.NaT
    if date is pd.NaT:
        raise DataError(f"{value!r} is no date: write it as '2009-12-31'.")
    return date


def _read(path: Path) -> pd.DataFrame:
    mend = "make it again with `python data/make.py`, or name another folder in PYSTOCK_DATA"
    table = _table(_text(path, mend), path, mend)
    if "Date" not in table:
        raise DataError(f"{path} is damaged, it has no column Date: {mend}.")
    dates = pd.to_datetime(table.pop("Date"), format="%Y-%m-%d", errors="coerce")
    if dates.isna().any():
        raise DataError(f"{path} is damaged, line {dates.isna().argmax() + 2} has no date: {mend}.")
    return validate(table.set_index(dates), str(path), mend)


def _text(path: Path, mend: str) -> str:
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        raise DataError(f"{path} is missing: {mend}.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): {mend}.") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is damaged, it is no text: {mend}.") from None
    if not text.endswith("\n"):
        raise DataError(f"{path} is damaged, it is empty or ends in the middle of a line: {mend}.")
    return text


def _table(text: str, path: Path, mend: str, **options: object) -> pd.DataFrame:
    try:
        return pd.read_csv(io.StringIO(text), **options)
    except ValueError as error:  # pandas' parser errors are ValueErrors
        reason = str(error).rpartition("error: ")[2].strip()
        raise DataError(f"{path} is damaged, it is no table ({reason}): {mend}.") from None


def download(ticker: str, start: str, end: str, longest_gap: int = LONGEST_GAP) -> pd.DataFrame:
    """Return daily prices of a live ticker (`^GSPC`, `BTC-USD`, …) from Yahoo, in the layout of the embedded ones.

    Days from `start` to `end`, both included. The prices are Yahoo's: adjusted by Yahoo for splits, and in Adj Close
    alone for dividends; nothing is filled or rounded here. They meet `SCHEMA`. A day of which Yahoo has no
    value at all is left out, one that lacks some is an error, and one that is still trading has its values so far:
    choose an `end` before today. `longest_gap`, in days: 7 suits the exchanges of New York; coins trade every day, and
    1 finds a lost one; holidays in China and Japan take up to 11.

    Needs a network. Raises DataError offline, for a ticker or days that Yahoo does not know, when Yahoo refuses or
    its answer cannot be read, and for prices that break the schema.
    """
    first, last = _date(start), _date(end)
    import yfinance  # here, since it takes a second and nothing else needs it
    from yfinance.exceptions import YFRateLimitError, YFTickerMissingError

    asked = f"{ticker!r} from {first:%Y-%m-%d} to {last:%Y-%m-%d}"
    unknown = f"Yahoo has no daily prices of {asked}: look up the ticker and its days at finance.yahoo.com."
    embedded = f"use the embedded data, load({DEFAULT_MARKET!r}), which need no network"
    # yfinance logs a failure and returns an empty frame; we want its reason, and quiet.
    logger, config = logging.getLogger("yfinance"), yfinance.config.debug
    before = logger.disabled, config.hide_exceptions
    logger.disabled, config.hide_exceptions = True, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside yfinance, which its users cannot fix
            answer = yfinance.Ticker(ticker).history(
                start=first, end=last + pd.Timedelta(days=1), auto_adjust=False, actions=False
            )
    except YFTickerMissingError:
        raise DataError(unknown) from None
    except YFRateLimitError:
        raise DataError(f"Yahoo refuses {asked}, after too many requests: wait some minutes, or {embedded}.") from None
    except Exception as error:  # yfinance lets whatever its parsing meets through
        status = getattr(getattr(error, "response", None), "status_code", 0)
        if status == 404:
            raise DataError(unknown) from None
        if isinstance(error, OSError) and not isinstance(error, ValueError) and not status:
            raise DataError(f"Yahoo cannot be reached for {asked}, there is no way to it: {embedded}.") from None
        reason = " ".join(f"{type(error).__name__} {error}".split())
        raise DataError(f"Yahoo's answer to {asked} cannot be used ({reason}): try later, or {embedded}.") from None
    finally:
        logger.disabled, config.hide_exceptions = before
    if answer.empty:
        raise DataError(unknown)
    answer.index = answer.index.tz_localize(None).normalize()  # midnight at the exchange
    return validate(answer[COLUMNS], f"Yahoo's answer to {asked}", "choose other days", longest_gap)
