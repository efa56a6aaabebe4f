"""Daily prices: the embedded ones, and live ones in the same layout.

A frame of prices has one row a trading day, ordered by the DatetimeIndex `Date`, and the columns Open, High, Low,
Close, Adj Close (float64; index points, or the ticker's currency) and Volume (int64; shares or the source's unit).
`validate` has the rules for a valid one. Every failure is a `DataError` of one sentence.
"""

import io
import logging
import os
import warnings
from pathlib import Path

import pandas as pd

from pystock.errors import PystockError, first_line
from pystock.price_rules import COLUMNS, LONGEST_GAP, PRICES, ROW_RULES

DEFAULT_MARKET = "sp500"
MARKETS = {"sp500": "S&P 500", "nasdaq": "NASDAQ Composite"}


class DataError(PystockError, ValueError):
    """Prices that are unavailable or invalid; the message says what is wrong, why, and how to fix it."""


def named(name: str, market: str = DEFAULT_MARKET) -> str:
    """Return the name of an experiment, a study or a registered model that belongs to one market.

    The default market has the plain name, others end in the market: `pystock-big-move`, `pystock-big-move-nasdaq`.
    """
    return name if market == DEFAULT_MARKET else f"{name}-{market}"


def validate(prices: pd.DataFrame, name: str = "the price table", fix: str = "fix or drop that row") -> pd.DataFrame:
    """Return valid `prices` as float64 and int64.

    `prices` has the columns `COLUMNS` and a DatetimeIndex without time zone; `name` and `fix` are for the message.
    Raises DataError with the first bad date and the rule that it breaks.
    """
    _check_layout(prices, COLUMNS, name, fix)
    numbers = prices.apply(pd.to_numeric, errors="coerce")
    numbers[PRICES] = numbers[PRICES].astype("float64")
    numbers.index = pd.DatetimeIndex(numbers.index.to_numpy(), name="Date").as_unit("us")
    days = numbers.index.to_series().diff().dt.days.fillna(1)  # the first row has none before it
    order = {
        "the date is not after the one before": days > 0,
        f"the gap to the day before is longer than {LONGEST_GAP} days": days <= LONGEST_GAP,
    }
    kept = pd.DataFrame(order | {reason: rule(numbers) for reason, rule in ROW_RULES.items()})
    if not kept.all(axis=None):
        row = int((~kept.all(axis=1)).to_numpy().argmax())
        reason = kept.columns[int((~kept.iloc[row]).to_numpy().argmax())]
        raise DataError(f"{name} is invalid (on {kept.index[row]:%Y-%m-%d} {reason}): {fix}.")
    return numbers.astype({"Volume": "int64"})


def _check_layout(table: pd.DataFrame, columns: list[str], name: str, fix: str) -> None:
    if list(table.columns) != columns:
        given = ", ".join(map(str, table.columns))
        raise DataError(f"{name} has the columns {given}, not {', '.join(columns)}: {fix}.")
    if table.empty:
        raise DataError(f"{name} has no rows: {fix}.")


def load(market: str = DEFAULT_MARKET, start: str | None = None, end: str | None = None) -> pd.DataFrame:
    """Return the embedded daily prices of a market, validated; days from `start` to `end`, both included.

    `market` is a key of `MARKETS`. Both files cover 1999-01-04 to 2018-12-31, 5,031 trading days; source and known
    flaws: data/README.md. They are read from the folder in PYSTOCK_DATA, or else from the checkout's data/.
    Raises DataError for an unknown market, a missing or invalid file, and dates that leave no day.
    """
    if market not in MARKETS:
        raise DataError(f"{market!r} is not an embedded market: choose one of {', '.join(MARKETS)}.")
    path = embedded_folder() / f"{market}.csv"
    fix = "rebuild it with `python data/make.py`, or set PYSTOCK_DATA to another folder"
    rows = read_rows(path, fix)
    dates = pd.to_datetime(rows.pop("Date"), format="%Y-%m-%d", errors="coerce")
    if dates.isna().any():
        raise DataError(f"{path} is invalid (line {dates.isna().idxmax()} has no date): {fix}.")
    prices = validate(rows.set_index(dates), str(path), fix)
    first, last = prices.index[0], prices.index[-1]
    chosen = prices.loc[first if start is None else _date(start) : last if end is None else _date(end)]
    if chosen.empty:
        raise DataError(
            f"{market} has no days from {start or 'the start'} to {end or 'the end'}: "
            f"choose days from {first:%Y-%m-%d} to {last:%Y-%m-%d}."
        )
    return chosen


def embedded_folder() -> Path:
    """Return the folder of the embedded prices, MARKET.csv: PYSTOCK_DATA if it is set, else the checkout's data/."""
    return Path(os.environ.get("PYSTOCK_DATA") or Path(__file__).resolve().parents[2] / "data")


def read_rows(path: Path, fix: str) -> pd.DataFrame:
    """Return the rows of a price file as text, valid or not, in the columns `Date` and `COLUMNS`.

    The index `line` is the row's line in the file, whose first is line 2; a field that is missing is "". Raises
    DataError, which ends in `fix`, for a file that is not a table of these columns; the values are not checked.
    """
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        raise DataError(f"{path} is missing: {fix}.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): {fix}.") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is invalid (it is not text): {fix}.") from None
    if not text.endswith("\n"):
        raise DataError(f"{path} is invalid (it is empty or ends in the middle of a line): {fix}.")
    try:
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, skip_blank_lines=False)
    except ValueError as error:  # pandas' parser errors are ValueErrors
        reason = str(error).rpartition("error: ")[2].strip()
        raise DataError(f"{path} is invalid (it is not a table: {reason}): {fix}.") from None
    return as_rows(table, str(path), fix)


def as_rows(table: pd.DataFrame, name: str, fix: str) -> pd.DataFrame:
    """Return a table of text in the layout of `read_rows`; the arguments as in `validate`."""
    _check_layout(table, ["Date", *COLUMNS], name, fix)
    if not isinstance(table.index, pd.RangeIndex):  # pandas uses a surplus first field as row names
        raise DataError(f"{name} has rows with more fields than columns: {fix}.")
    return table.fillna("").set_index(pd.RangeIndex(2, len(table) + 2, name="line"))


def _date(value: str) -> pd.Timestamp:
    try:
        date = pd.Timestamp(value).normalize()
    except (ValueError, TypeError):
        date = pd.NaT
    if date is pd.NaT:
        raise DataError(f"{value!r} is not a date: write it as '2009-12-31'.")
    return date


def download(ticker: str, start: str, end: str) -> pd.DataFrame:
    """Return daily prices of a live ticker (`^GSPC`, `BTC-USD`, …) from Yahoo, in the layout of the embedded ones.

    Days from `start` to `end`, both included. The prices are Yahoo's: adjusted by Yahoo for splits, and in Adj Close
    alone for dividends; nothing is filled or rounded here. They pass `validate`. A day without any
    value is left out, a day that lacks some is an error, and today has only its values so far: choose an `end` before
    today. Needs a network.

    Raises DataError offline, for a ticker or days that Yahoo does not know, if Yahoo refuses or its response cannot be
    read, and for prices that break a rule.
    """
    first, last = _date(start), _date(end)
    import yfinance  # here, since it takes a second and nothing else needs it
    from yfinance.exceptions import YFTickerMissingError

    asked = f"{ticker!r} from {first:%Y-%m-%d} to {last:%Y-%m-%d}"
    unknown = f"Yahoo has no daily prices for {asked}: check the ticker and the days at finance.yahoo.com."
    embedded = f"use the embedded prices, load({DEFAULT_MARKET!r}), which need no network"
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
    except Exception as error:  # yfinance lets whatever its parsing meets through
        status = getattr(getattr(error, "response", None), "status_code", 0)
        if status == 404:
            raise DataError(unknown) from None
        if isinstance(error, OSError) and not isinstance(error, ValueError) and not status:
            raise DataError(f"Yahoo is unreachable, so there are no prices for {asked}: {embedded}.") from None
        why = first_line(error).partition(". ")[0].rstrip(".")  # among others, too many requests
        raise DataError(f"Yahoo's response for {asked} is unusable ({why}): try later, or {embedded}.") from None
    finally:
        logger.disabled, config.hide_exceptions = before
    if answer.empty:
        raise DataError(unknown)
    answer.index = answer.index.tz_localize(None).normalize()  # midnight at the exchange
    return validate(answer[COLUMNS], f"Yahoo's response for {asked}", "choose other days")
