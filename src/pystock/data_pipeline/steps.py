"""The data pipeline: prices as they come, checked prices, tables of features and outcomes, each a stage on disk.

    load_raw       source -> raw        the rows as text, as they stand in the source
    check          raw -> staging       good rows as numbers, with flags; the bad ones in STAGES/MARKET/quarantine.csv
    make_features  staging -> training  a table for each question: features, and last the next day's outcome

Each step is skipped where what it would be made from is unchanged: its input, its parameters, the schema's version, and
the code that does it. Where the input has only grown at its end, the new rows alone are computed, and the table is the
same to the last bit as if all had been. Everything else that changes makes the stage of that market anew.

The functions need no MLflow: `made_by` is the id of the run to be named in the manifest, and `alive` says whether such
a run still counts. `pystock.data_pipeline.tracking` holds what the entry points of projects/pystock-data-features log.
"""

import hashlib
import inspect
import io
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from pystock import data, runs
from pystock import features as feature_sets
from pystock.data_pipeline import contract
from pystock.data_pipeline import stages as disk
from pystock.files import write_atomically
from pystock.pipeline import PipelineError
from pystock.price_rules import COLUMNS

END = "2014-12-31"  # the last day that the course's tables know; 2015 to 2018 is its production
# How many days a row of features looks back, its own not counted. A feature set that is not named here is always
# computed whole.
LOOK_BACK = {"flags": 14, "volatility": 66}
_CODE = {"raw": [data, disk], "staging": [data, contract, disk], "training": [feature_sets, disk]}  # and this module


class Result(NamedTuple):
    """What a step did for one market.

    `outcome` is done or skipped, `said` one sentence about it, `new_rows` the rows that were computed now.
    `findings` are counts: of check rows, bad, duplicates, missing_days and the flags; of load_raw new, late, revised
    and withdrawn days.
    """

    market: str
    stage: str
    outcome: str
    said: str
    manifest: dict[str, Any]
    new_rows: int
    findings: dict[str, int]


class TooManyBad(PipelineError):
    """More than 1 % of the rows are bad. `findings` as in Result."""

    def __init__(self, message: str, findings: dict[str, int]):
        super().__init__(message)
        self.findings = findings


Alive = Callable[[str], bool]


def _always(run_id: str) -> bool:
    return True


def names(market: str) -> list[str]:
    """Return the names of markets in a text, separated by commas. PipelineError for none, and for an invalid name."""
    found = list(dict.fromkeys(name.strip() for name in market.split(",") if name.strip()))
    if not found:
        raise PipelineError("no market is named: give one, several with commas, or all.")
    for name in found:
        disk.stage_folder("", name, "raw")  # which refuses a name that makes no folder
    return found


def markets_of(market: str, source: str) -> list[str]:
    """Return the markets that `market` names: as for `names`, or `all`, which is every CSV file of the source."""
    place = _place(source)
    if market == "all":
        if place is None:
            raise PipelineError(f"{source} is one ticker: give its market a name, all is for files.")
        files = [place] if place.is_file() else place.glob("*.csv")
        market = ",".join(sorted(path.stem for path in files))
        if not market:
            raise PipelineError(f"{place} holds no CSV file: name a folder that holds MARKET.csv for each market.")
    found = names(market)
    if len(found) > 1 and (place is None or place.is_file()):
        raise PipelineError(f"{source} is the source of one market, not of {len(found)}: name one, or a folder.")
    return found


def _place(source: str) -> Path | None:
    """Return the file or folder of a source; None for a live ticker."""
    if source.startswith("yahoo:"):
        return None
    place = data.embedded_folder() if source == "embedded" else Path(source)
    if not place.exists():
        raise PipelineError(f"the source {place} does not exist: give embedded, a CSV file, a folder or yahoo:TICKER.")
    return place


# raw ----------------------------------------------------------------------------------------------------------------


def load_raw(
    stages: str | Path,
    market: str,
    source: str = "embedded",
    *,
    force: bool = False,
    made_by: str = "",
    alive: Alive = _always,
) -> Result:
    """Take the rows of `market` from `source` into the stage raw, as they stand there, sound or not.

    `source` is `embedded`, a CSV file, a folder that holds MARKET.csv, or `yahoo:TICKER`: always the whole history.
    Raises PipelineError or DataError for a source that is missing or no table of prices; raw stays as it was then.
    """
    folder = disk.stage_folder(stages, market, "raw")
    with disk.locked(stages):
        stage = _Stage(folder, market, "raw", {"source": source}, force, made_by, alive)
        name, digest, read = _source(market, source)
        if not stage.must_be_made_from(digest):
            return stage.skipped()
        table, before = read(), stage.table_before()
        changes = {} if before is None else _changes(before, table)
        base = before if before is not None and before.equals(table.iloc[: len(before)]) else None
        how = stage.appended("new row", base, table) or f"{len(table):,} rows taken"
        for kind, days in changes.items():
            if days and kind != "new":
                how += f", {_count(len(days), kind + ' day')} ({', '.join(days[:3])}{' …' if len(days) > 3 else ''})"
        findings = {kind: len(days) for kind, days in changes.items()}
        facts = {"source": name, "made_from": {"source": name, "digest": digest}}
        return stage.write(table, base, how, findings, _dates(table["Date"]).dropna(), facts)


def _source(market: str, source: str) -> tuple[str, str, Callable[[], pd.DataFrame]]:
    """Return where the prices of a market are, a digest of them, and a function that reads them."""
    place = _place(source)
    if place is None:
        ticker = source.removeprefix("yahoo:")
        yesterday = pd.Timestamp.now("UTC").normalize() - pd.Timedelta(days=1)  # today's day is still trading
        prices = data.download(ticker, "1999-01-04", f"{yesterday:%Y-%m-%d}")
        text = prices.to_csv(date_format="%Y-%m-%d")
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
        return source, _hash(text.encode()), lambda: data.as_rows(table, source, "choose other days")
    path = place if place.is_file() else place / f"{market}.csv"
    name = f"data/{market}.csv" if source == "embedded" else path.as_posix()
    try:
        found = _hash(path.read_bytes())
    except OSError as error:
        raise PipelineError(
            f"{path} cannot be read ({error.strerror}): name a market that the source has, or another source."
        ) from None
    return name, found, lambda: data.read_rows(path, "correct the file, or name another source")


def _changes(before: pd.DataFrame, now: pd.DataFrame) -> dict[str, list[str]]:
    """Return the days (as text) by which two tables of raw rows differ: new at the end, late, revised, withdrawn.

    A number that is only written in another way, 1219.1 for 1219.10, is no revision.
    """
    columns = before.columns.drop("Date")
    before, now = (table.drop_duplicates("Date", keep="last").set_index("Date") for table in (before, now))
    added, last = now.index.difference(before.index), before.index.max()
    both = now.index.intersection(before.index)
    values = (table.loc[both, columns].apply(_as_values) for table in (before, now))
    revised = both[next(values).ne(next(values)).any(axis=1)]
    return {
        "new": list(added[added > last]),
        "late": list(added[added <= last]),
        "revised": sorted(revised),
        "withdrawn": list(before.index.difference(now.index)),
    }


def _as_values(texts: pd.Series) -> pd.Series:
    numbers = pd.to_numeric(texts, errors="coerce")
    return numbers.astype(object).where(numbers.notna(), texts)


# staging --------------------------------------------------------------------------------------------------------------


def check(
    stages: str | Path,
    market: str,
    *,
    exchange: str = "XNYS",
    force: bool = False,
    made_by: str = "",
    alive: Alive = _always,
) -> Result:
    """Separate raw into good rows, the stage staging, and bad ones, STAGES/MARKET/quarantine.csv (see `contract`).

    `exchange` names a calendar of exchange_calendars. Raises TooManyBad where more than 1 % of the rows are bad, which
    the quarantine then holds, and PipelineError for a long gap or an unknown calendar; staging stays as it was.
    """
    folder, quarantine_file = disk.stage_folder(stages, market, "staging"), Path(stages) / market / "quarantine.csv"
    with disk.locked(stages):
        stage = _Stage(folder, market, "staging", {"exchange": exchange}, force, made_by, alive, quarantine_file)
        raw = _input(disk.stage_folder(stages, market, "raw"), "load_raw_data")
        if not stage.must_be_made_from(raw["digest"]):
            return stage.skipped()
        rows, before = disk.read(disk.stage_folder(stages, market, "raw")), stage.table_before()
        base = before if before is not None and _has_only_later_days(rows, stage.made_from) else None
        if base is None:
            good, bad, days = contract.examine(rows, exchange)
            missing = list(days.strftime("%Y-%m-%d"))
        else:
            new = contract.examine(rows.iloc[stage.made_from["rows"] :], exchange, base.tail(1))
            good = pd.concat([base, new.good])
            bad = pd.concat([read_quarantine(quarantine_file), new.quarantine])
            missing = [*stage.manifest["missing_days"], *new.missing_days.strftime("%Y-%m-%d")]
        how = stage.appended("new good row", base, good)
        how = how or f"{len(good):,} good rows computed{_differing(before, good)}"
        findings = _findings(rows, good, bad, missing)
        quarantine = bad.to_csv().encode()
        _write_quarantine(quarantine_file, quarantine)
        if len(bad) > contract.MOST_BAD * len(rows):
            raise TooManyBad(
                f"{len(bad):,} of the {len(rows):,} rows of {market} are bad ({len(bad) / len(rows):.1%}, at most "
                f"{contract.MOST_BAD:.0%} may be), the first in line {bad.index[0]} ({bad['reason'].iloc[0]}): look at "
                f"{quarantine_file} and mend the source; staging and training are as they were.",
                findings,
            )
        facts = {"source": raw["source"], "made_from": {"stage": "raw", "rows": len(rows), "digest": raw["digest"]}}
        facts |= {"findings": findings, "missing_days": missing, "quarantine": _hash(quarantine)}
        return stage.write(good, base, f"{how}, {_in_words(findings)}", findings, good.index, facts)


def _has_only_later_days(rows: pd.DataFrame, made_from: dict[str, Any]) -> bool:
    """Return whether raw still begins with the rows that staging was made from, and all others are of later days."""
    days, known = _dates(rows["Date"]), made_from["rows"]
    return _begins_with(rows, made_from) and not (days.iloc[known:] <= days.iloc[:known].max()).any()


def _findings(rows: pd.DataFrame, good: pd.DataFrame, bad: pd.DataFrame, missing: list[str]) -> dict[str, int]:
    twice = [contract.TABLE_RULES["same"], contract.TABLE_RULES["different"]]
    counts = {"rows": len(rows), "bad": len(bad), "duplicates": int(bad["reason"].isin(twice).sum())}
    return counts | {"missing_days": len(missing)} | {flag: int(good[flag].sum()) for flag in contract.FLAGS}


def read_quarantine(path: Path) -> pd.DataFrame:
    """Return the bad rows as `contract.examine` returns them."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return table.set_index(pd.Index(table.pop("line").astype("int64"), name="line"))


def _write_quarantine(path: Path, text: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    except OSError as error:
        raise PipelineError(f"{path} cannot be written ({error.strerror}): make room or give rights.") from None


def _in_words(findings: dict[str, int]) -> str:
    bad, missing, stale, silent = (findings[name] for name in ("bad", "missing_days", "stale_open", "no_volume"))
    return (
        f"{_count(bad, 'bad row')} in quarantine, {_count(missing, 'missing day')}, {_count(stale, 'stale open')}, "
        f"{_count(silent, 'day')} without volume"
    )


# training -------------------------------------------------------------------------------------------------------------


def make_features(
    stages: str | Path,
    market: str,
    target: str = "big_move",
    features: str = "volatility",
    *,
    end: str = END,
    force: bool = False,
    made_by: str = "",
    alive: Alive = _always,
) -> Result:
    """Make the table of a question from staging: `pystock.features.dataset` of the prices up to `end`, "" for all.

    The index is `Date`, the last column the target (int64), the others the features (float64). Raises PipelineError or
    ValueError for an unknown target or feature set, and where the history is too short for one row.
    """
    for functions, name, kind in (
        (feature_sets.TARGETS, target, "target"),
        (feature_sets.FEATURES, features, "feature set"),
    ):
        if name not in functions:
            raise PipelineError(f"{name!r} is no {kind}: choose one of {', '.join(functions)}.")
    folder = disk.stage_folder(stages, market, "training", f"{target}-{features}")
    parameters = {"target": target, "features": features, "end": end}
    with disk.locked(stages):
        stage = _Stage(folder, market, "training", parameters, force, made_by, alive)
        staging_folder = disk.stage_folder(stages, market, "staging")
        staging = _input(staging_folder, "check_verify_data")
        prices = _until(disk.read(staging_folder), end, market)
        digest = disk.digest(prices)
        if not stage.must_be_made_from(digest):
            return stage.skipped()
        before = stage.table_before()
        can_append = before is not None and features in LOOK_BACK and _begins_with(prices, stage.made_from)
        base = before if can_append else None
        if base is None:
            table = _table(prices, target, features)
        else:
            first = prices.index.get_loc(base.index[-1]) + 1  # its outcome was not known then, and is now
            recent = _table(prices.iloc[_window(prices, first, LOOK_BACK[features]) :], target, features)
            table = pd.concat([base, recent[recent.index > base.index[-1]]])
        how = stage.appended("new row", base, table) or f"{len(table):,} rows computed{_differing(before, table)}"
        made_from = {"stage": "staging", "rows": len(prices), "last_day": f"{prices.index[-1]:%Y-%m-%d}"}
        made_from |= {"digest": digest, "staging": staging["digest"]}
        return stage.write(table, base, how, {}, table.index, {"source": staging["source"], "made_from": made_from})


def _until(staging: pd.DataFrame, end: str, market: str) -> pd.DataFrame:
    try:
        prices = staging.loc[: pd.Timestamp(end)] if end else staging
    except ValueError:
        raise PipelineError(f"{end!r} is no date: write it as '2014-12-31', or leave it empty for all days.") from None
    if prices.empty:
        raise PipelineError(f"{market} has no day up to {end}: choose an end after {staging.index[0]:%Y-%m-%d}.")
    return prices


def _table(prices: pd.DataFrame, target: str, features: str) -> pd.DataFrame:
    X, y = feature_sets.dataset(prices[COLUMNS], target, features)
    return X.assign(**{target: y})


def _window(prices: pd.DataFrame, first: int, look_back: int) -> int:
    """Return where to begin so that the rows from `first` on have the features that they have in the whole history."""
    begin = max(first - look_back, 0)
    traded = (prices["Volume"].iloc[: begin + 1] > 0).to_numpy().nonzero()[0]
    return int(traded[-1]) if len(traded) else 0  # a volume that is missing counts as the last one before it


# What the three share ---------------------------------------------------------------------------------------------


@dataclass
class _Stage:
    """One stage of one market: what its manifest says that it was made from, and what it would be made from now."""

    folder: Path
    market: str
    name: str
    parameters: dict[str, str]
    force: bool
    made_by: str
    alive: Alive
    quarantine: Path | None = None

    def __post_init__(self) -> None:
        self.manifest: dict[str, Any] = disk.manifest(self.folder) or {}
        self.made_from: dict[str, Any] = self.manifest.get("made_from", {})
        self.code = _code(self.name, self.parameters)
        self.changes = self._changes()  # apart from the input
        self.why = ""

    def _changes(self) -> list[str]:
        old, quarantine, version = self.manifest, self.quarantine, disk.SCHEMA_VERSION
        if self.force or not old:
            return ["it was forced" if self.force else "there was none"]
        before = old["parameters"]
        changes = [
            f"the parameter {name} is {value or 'empty'} and was {before.get(name) or 'empty'}"
            for name, value in self.parameters.items()
            if before.get(name) != value
        ]
        stale = {
            f"the schema's version is {version} and was {old['schema_version']}": old["schema_version"] != version,
            "the code has changed": old["code"] != self.code,
            "a file of it is missing or cut": not disk.intact(self.folder, old),
            "the quarantine file is missing or not of these rows": quarantine
            and not (quarantine.exists() and _hash(quarantine.read_bytes()) == old["quarantine"]),
            "the run that made it is not in this store, or did not finish": self.made_by
            and not (old["made_by"] and self.alive(old["made_by"])),
        }
        return changes + [text for text, is_so in stale.items() if is_so]

    def must_be_made_from(self, digest: str) -> bool:
        """Return whether the stage is not up to date with an input of that digest; `why` says so in words."""
        what = "the source" if self.name == "raw" else "its input"
        moved = [f"{what} has changed"] if self.made_from.get("digest") != digest else []
        self.why = " and ".join(self.changes or moved)
        return bool(self.why)

    def table_before(self) -> pd.DataFrame | None:
        """Return the table that is there, for new rows to be appended; None if more than the input has changed."""
        return None if self.changes else disk.read(self.folder)

    def skipped(self) -> Result:
        rows, findings = self.manifest["rows"], self.manifest.get("findings", {})
        said = f"{self.market}: skipped, input, parameters and code are those of the {rows:,} rows that are there"
        return Result(self.market, self.name, "skipped", said, self.manifest, 0, findings)

    @staticmethod
    def appended(thing: str, base: pd.DataFrame | None, table: pd.DataFrame) -> str:
        return "" if base is None else f"{_count(len(table) - len(base), thing)} appended to {len(base):,}"

    def write(
        self,
        table: pd.DataFrame,
        base: pd.DataFrame | None,
        how: str,
        findings: dict[str, int],
        days: pd.Series | pd.Index,
        facts: dict[str, Any],
    ) -> Result:
        """Write the table, of one that begins with the rows of `base` only the others; `how` says what was done."""
        first, last = (None if day is pd.NaT else f"{day:%Y-%m-%d}" for day in (days.min(), days.max()))
        about: dict[str, Any] = {"market": self.market, "stage": self.name, "first_day": first, "last_day": last}
        about |= {"made_by": self.made_by, "made_at": datetime.now(UTC).isoformat(timespec="seconds")}
        about |= {"parameters": self.parameters, "code": self.code, **facts}
        manifest = disk.write(self.folder, table, about, kept=None if base is None else self.manifest)
        new_rows = len(table) - (0 if base is None else len(base))
        said = f"{self.market}: {how}, since {self.why}"
        return Result(self.market, self.name, "done", said, manifest, new_rows, findings)


def _begins_with(table: pd.DataFrame, made_from: dict[str, Any]) -> bool:
    """Return whether a table has the rows that a stage was made from, and more behind them."""
    known = made_from["rows"]
    return bool(len(table) > known and disk.digest(table.iloc[:known]) == made_from["digest"])


def _code(stage: str, parameters: dict[str, str]) -> str:
    """Return a digest of the code that makes a stage; of the features' also that of functions defined elsewhere."""
    texts = [Path(str(module.__file__)).read_bytes() for module in _CODE[stage]] + [Path(__file__).read_bytes()]
    if stage == "training":
        for function in (feature_sets.TARGETS[parameters["target"]], feature_sets.FEATURES[parameters["features"]]):
            try:
                texts.append(inspect.getsource(function).encode())
            except (OSError, TypeError):  # typed into a prompt, or not written in Python
                texts.append(repr(getattr(getattr(function, "__code__", None), "co_code", function)).encode())
    return runs.code_digest(*texts)


def _input(folder: Path, step: str) -> dict[str, Any]:
    found = disk.manifest(folder)
    if found is None:
        raise PipelineError(f"{folder} holds no table yet: run {step} first, or main, which runs all steps.")
    return found


def _differing(before: pd.DataFrame | None, now: pd.DataFrame) -> str:
    """Return in brackets by how many days a table differs from the one before it, and from which day on."""
    if before is None or list(before.columns) != list(now.columns):
        return ""
    both = before.index.intersection(now.index)
    differ = both[(before.loc[both] != now.loc[both]).any(axis=1)]
    days = differ.union(before.index.symmetric_difference(now.index))
    if not len(days):
        return " anew"
    differ = f"{_count(len(days), 'day')} differ{'s' if len(days) == 1 else ''}"
    return f" anew ({differ} from before, from {days[0]:%Y-%m-%d} on)"


def _dates(column: pd.Series) -> pd.Series:
    return pd.to_datetime(column, format="%Y-%m-%d", errors="coerce")


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _hash(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:32]
