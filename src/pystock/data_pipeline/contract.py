"""The contract of the stage staging: the rules for its rows, and the quarantine for rows that break them.

`CONTRACT` is a pandera schema of single rows, and `examine` adds the rules that need more than the row. Rows that break
a rule are bad and go to quarantine with the reason; what is unusual but true becomes a flag on a good row.
"""

import functools
import warnings
from typing import NamedTuple

import pandas as pd
import pandera.pandas as pa
import yaml

from pystock.pipeline import PipelineError
from pystock.price_rules import COLUMNS, LONGEST_GAP, PRICES, ROW_RULES

MOST_BAD = 0.01  # share of bad rows above which the source as a whole is not trusted
UNITS = dict.fromkeys(PRICES, "index points, or the ticker's currency") | {"Volume": "shares, or the source's unit"}
FLAGS = {
    "stale_open": "the open equals the previous close, so it may not be a real open",
    "no_volume": "the volume is 0, which means missing, because every exchange day has trades",
    "after_missing": "a trading day of the exchange is missing between the previous row and this one",
}
TABLE_RULES = {
    "calendar": "the date is not a trading day of the exchange",
    "same": "duplicate date with identical values: the first row is kept",
    "different": "duplicate date with different values: it is unclear which row is right",
}


def _latest() -> pd.Timestamp:
    return pd.Timestamp.now("UTC").tz_localize(None) + pd.Timedelta(hours=14)  # the earliest time zone's today


RULES = {
    "not a valid date (YYYY-MM-DD)": lambda rows: rows["Date"].notna(),
    "the date is before 1900 or in the future": lambda rows: rows["Date"].between("1900-01-01", _latest()),
    **ROW_RULES,
    "the volume is implausibly large": lambda rows: rows["Volume"] <= 2**53,  # above it float64 has gaps
}
CONTRACT = pa.DataFrameSchema(
    columns={"Date": pa.Column("datetime64[us]", nullable=True)}
    | {name: pa.Column(float, nullable=True) for name in COLUMNS},
    index=pa.Index(int, name="line"),
    # `nullable`, because the rules report missing values in words
    checks=[pa.Check(rule, error=reason, ignore_na=False) for reason, rule in RULES.items()],
    strict=True,
    ordered=True,
)


class Examined(NamedTuple):
    """What `examine` finds.

    `good`: a row a day, index `Date`, columns Open … Volume (int64) and the flags (bool), in order of date.
    `quarantine`: the bad rows as text, index `line`, columns Date … Volume as they are in the source, and `reason`.
    `missing_days`: the exchange's trading days between the first and the last good day that have no row.
    """

    good: pd.DataFrame
    quarantine: pd.DataFrame
    missing_days: pd.DatetimeIndex


def examine(raw: pd.DataFrame, exchange: str = "XNYS", before: pd.DataFrame | None = None) -> Examined:
    """Separate the rows of the stage raw into good and bad ones.

    `raw` is a frame as `pystock.data.read_rows` returns it, `exchange` the name of a calendar of exchange_calendars.
    If `raw` is the end of a longer table, `before` is the last good row that precedes it, as in `good`. Raises
    PipelineError for an unknown calendar, days beyond it, and a gap of more than 7 days in which the exchange traded.
    """
    dates = pd.to_datetime(raw["Date"], format="%Y-%m-%d", errors="coerce").astype("datetime64[us]")
    rows = raw[COLUMNS].apply(pd.to_numeric, errors="coerce").astype("float64")
    rows.insert(0, "Date", dates)
    reasons = _broken_rules(rows)

    sound = rows[~rows.index.isin(reasons.index)]
    known = sound["Date"] if before is None else pd.concat([before.index.to_series(), sound["Date"]])
    sessions = trading_days(exchange, known.min(), known.max()) if len(known) else pd.DatetimeIndex([])
    distinct = sound["Date"][~sound.duplicated()]
    different = sound["Date"].isin(distinct[distinct.duplicated()])
    broken = {"calendar": ~sound["Date"].isin(sessions), "different": different, "same": sound.duplicated()}
    for rule, breaks in broken.items():
        reason = TABLE_RULES[rule].replace("the exchange", exchange)
        reasons = pd.concat([reasons, pd.Series(reason, sound.index[breaks], dtype=object)])
    reasons = reasons[~reasons.index.duplicated()]  # the first of several
    good = sound.drop(reasons.index, errors="ignore").sort_values("Date").set_index("Date")
    good["Volume"] = good["Volume"].astype("int64")
    quarantine = raw.loc[reasons.index.sort_values()]
    quarantine = quarantine.assign(reason=reasons.loc[quarantine.index].astype(object))

    anchored = good if before is None else pd.concat([before[COLUMNS], good])
    missing = sessions.difference(anchored.index)
    if len(anchored):
        missing = missing[(missing > anchored.index[0]) & (missing < anchored.index[-1])]
    lost = pd.Series(missing.searchsorted(anchored.index), anchored.index).diff()  # missing days before each row
    gaps = anchored.index.to_series().diff().dt.days
    for day in gaps.index[(gaps > LONGEST_GAP) & (lost > 0)]:  # leaving out a row cannot fix it
        gap = f"a gap of {gaps[day]:.0f} days before {day:%Y-%m-%d}, in which {exchange} traded on {lost[day]:.0f}"
        raise PipelineError(f"the prices have {gap}: get the missing days, or use a history that begins after the gap.")
    stale, silent = anchored["Open"] == anchored["Close"].shift(), anchored["Volume"] == 0
    flags = pd.DataFrame({"stale_open": stale, "no_volume": silent, "after_missing": lost > 0})
    return Examined(good.join(flags.loc[good.index]), quarantine, missing)


def _broken_rules(rows: pd.DataFrame) -> pd.Series:
    """Return the first rule that each bad row breaks, by line."""
    try:
        CONTRACT.validate(rows, lazy=True)
    except pa.errors.SchemaErrors as error:
        broken = error.failure_cases.dropna(subset=["check_number", "index"])
        first = broken.sort_values(["index", "check_number"]).drop_duplicates("index")
        return pd.Series(first["check"].to_numpy(dtype=object), first["index"].astype("int64"))
    return pd.Series([], pd.Index([], dtype="int64"), dtype=object)


def trading_days(exchange: str, first: pd.Timestamp, last: pd.Timestamp) -> pd.DatetimeIndex:
    """Return the days from `first` to `last`, both included, on which the exchange traded."""
    days = _sessions(exchange, first.year, last.year)
    return days[(days >= first) & (days <= last)]


@functools.lru_cache(4)  # of whole years, so that many markets share one result, which takes half a second
def _sessions(exchange: str, first: int, last: int) -> pd.DatetimeIndex:
    with warnings.catch_warnings():
        # exchange_calendars 4.13 takes `.values` of dates with a time zone in its own code; its result is right
        warnings.filterwarnings("ignore", "Series.values returning an ndarray", pd.errors.Pandas4Warning)
        import exchange_calendars  # here, since only a check that is not skipped needs it

        try:
            calendar = exchange_calendars.get_calendar(exchange, start=f"{first}-01-01", end=f"{last}-12-31")
        except exchange_calendars.errors.InvalidCalendarName:
            names = "exchange_calendars.get_calendar_names(), such as XNYS for New York or 24/7 for coins"
            raise PipelineError(f"{exchange!r} is not an exchange calendar: choose one of {names}.") from None
        except (ValueError, exchange_calendars.errors.CalendarError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            message = f"the calendar {exchange} does not cover {first} to {last} ({reason})"
            raise PipelineError(f"{message}: start the prices later, or choose another calendar.") from None
    return calendar.sessions.as_unit("us")


def to_yaml(exchange: str = "XNYS") -> str:
    """Return the contract as YAML, for the people who deliver or use the data."""
    text = {
        "table": "staging: the daily prices of one market, one row per day, ordered by date, no duplicates",
        "index": {"Date": {"type": "date", "calendar": exchange}},
        "columns": {
            name: {"type": "int64" if name == "Volume" else "float64", "unit": UNITS[name]} for name in COLUMNS
        },
        "flags": {name: {"type": "bool", "true if": meaning} for name, meaning in FLAGS.items()},
        "a row is bad, and goes to quarantine, if": [
            *(check.error for check in CONTRACT.checks),
            *(rule.replace("the exchange", exchange) for rule in TABLE_RULES.values()),
        ],
        "the pipeline stops if": [
            f"more than {MOST_BAD:.0%} of the rows are bad",
            f"a gap between two rows is longer than {LONGEST_GAP} days and {exchange} traded in it",
        ],
    }
    return yaml.safe_dump(text, sort_keys=False, allow_unicode=True, width=120)
