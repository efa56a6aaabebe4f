"""Daily prices: the embedded ones, and live ones in the same layout.

A frame of prices has one row a trading day, ordered by the DatetimeIndex `Date`, and the columns Open, High, Low,
Close, Adj Close (float64; index points, or the ticker's currency) and Volume (int64; shares or the source's unit).
`validate` says what a sound one is. Every failure is a `DataError` of one sentence.
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
    """Prices that cannot be had or cannot be trusted; the message names the thing, the reason and the fix."""


def named(name: str, market: str = DEFAULT_MARKET) -> str:
    """Return the name of an experiment, a study or a registered model that belongs to one market.

    The default market's have the plain name, others end in theirs: `pystock-big-move`, `pystock-big-move-nasdaq`.
    """
    return name if market == DEFAULT_MARKET else f"{name}-{market}"


def validate(
    prices: pd.DataFrame, name: str = "the frame of prices", mend: str = "correct or drop that row"
) -> pd.DataFrame:
    """Return sound `prices` as float64 and int64.

    `prices` has the columns `COLUMNS` and a DatetimeIndex without time zone; `name` and `mend` are for the message.
    Raises DataError with the first bad date and the rule that it breaks.
    """
    _check_layout(prices, COLUMNS, name, mend)
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
        raise DataError(f"{name} is damaged, on {kept.index[row]:%Y-%m-%d} {reason}: {mend}.")
    return numbers.astype({"Volume": "int64"})


def _check_layout(table: pd.DataFrame, columns: list[str], name: str, mend: str) -> None:
    if list(table.columns) != columns:
        given = ", ".join(map(str, table.columns))
        raise DataError(f"{name} has the columns {given}, not {', '.join(columns)}: {mend}.")
    if table.empty:
        raise DataError(f"{name} has no rows: {mend}.")


def load(market: str = DEFAULT_MARKET, start: str | None = None, end: str | None = None) -> pd.DataFrame:
    """Return the embedded daily prices of a market, validated; days from `start` to `end`, both included.

    `market` is a key of `MARKETS`. Both files cover 1999-01-04 to 2018-12-31, 5,031 trading days; source and known
    flaws: data/README.md. They are looked for in the folder that PYSTOCK_DATA names, else in the checkout's data/.
    Raises DataError for an unknown market, a missing or damaged file, and dates that leave no day.
    """
    if market not in MARKETS:
        raise DataError(f"{market!r} is no embedded market: choose one of {', '.join(MARKETS)}.")
    path = embedded_folder() / f"{market}.csv"
    mend = "make it again with `python data/make.py`, or name another folder in PYSTOCK_DATA"
    rows = read_rows(path, mend)
    dates = pd.to_datetime(rows.pop("Date"), format="%Y-%m-%d", errors="coerce")
    if dates.isna().any():
        raise DataError(f"{path} is damaged, line {dates.isna().idxmax()} has no date: {mend}.")
    prices = validate(rows.set_index(dates), str(path), mend)
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
    try:
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, skip_blank_lines=False)
    except ValueError as error:  # pandas' parser errors are ValueErrors
        reason = str(error).rpartition("error: ")[2].strip()
        raise DataError(f"{path} is damaged, it is no table ({reason}): {mend}.") from None
    return as_rows(table, str(path), mend)


def as_rows(table: pd.DataFrame, name: str, mend: str) -> pd.DataFrame:
    """Return a table of text in the layout of `read_rows`; the arguments as in `validate`."""
    _check_layout(table, ["Date", *COLUMNS], name, mend)
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


def download(ticker: str, start: str, end: str) -> pd.DataFrame:
    """Return daily prices of a live ticker (`^GSPC`, `BTC-USD`, …) from Yahoo, in the layout of the embedded ones.

    Days from `start` to `end`, both included. The prices are Yahoo's: adjusted by Yahoo for splits, and in Adj Close
    alone for dividends; nothing is filled or rounded here. They pass `validate`. A day of which Yahoo has no value at
    all is left out, one that lacks some is an error, and one that is still trading has its values so far: choose an
    `end` before today. Needs a network.

    Raises DataError offline, for a ticker or days that Yahoo does not know, when Yahoo refuses or its answer cannot be
    read, and for prices that break a rule.
    """
    first, last = _date(start), _date(end)
    import yfinance  # here, since it takes a second and nothing else needs it
    from yfinance.exceptions import YFTickerMissingError

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
    except Exception as error:  # yfinance lets whatever its parsing meets through
        status = getattr(getattr(error, "response", None), "status_code", 0)
        if status == 404:
            raise DataError(unknown) from None
        if isinstance(error, OSError) and not isinstance(error, ValueError) and not status:
            raise DataError(f"Yahoo cannot be reached for {asked}, there is no way to it: {embedded}.") from None
        why = first_line(error).partition(". ")[0].rstrip(".")  # among others, too many requests
        raise DataError(f"Yahoo's answer to {asked} cannot be used ({why}): try later, or {embedded}.") from None
    finally:
        logger.disabled, config.hide_exceptions = before
    if answer.empty:
        raise DataError(unknown)
    answer.index = answer.index.tz_localize(None).normalize()  # midnight at the exchange
    return validate(answer[COLUMNS], f"Yahoo's answer to {asked}", "choose other days")
