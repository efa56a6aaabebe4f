"""The data pipeline: raw prices, checked prices, tables of features and outcomes, each a stage on disk.

    load_raw       source -> raw        the rows as text, unchanged
    check          raw -> staging       good rows as numbers, with flags; the bad ones in STAGES/MARKET/quarantine.csv
    make_features  staging -> training  a table for each target and feature set: features, then the next day's outcome

A step is skipped if its input, parameters, schema version and code are unchanged. If the input has only grown at its
end, only the new rows are computed, bit for bit as in a full run. Any other change rebuilds the stage.

`made_by` is the id of the run to be named in the manifest, and `alive` tells whether such a run still counts. The
functions need no MLflow; `pystock.data_pipeline.tracking` logs what they return.
"""

import hashlib
import inspect
import io
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from pystock import data, price_rules, runs
from pystock import features as feature_sets
from pystock.data_pipeline import contract
from pystock.data_pipeline import stages as disk
from pystock.files import write_atomically
from pystock.pipeline import PipelineError
from pystock.price_rules import COLUMNS

END = "2014-12-31"  # the last day in the course's tables; 2015 to 2018 are its production years
# How many days a row of features looks back, without its own; other feature sets are always computed in full.
LOOK_BACK = {"flags": 14, "volatility": 66}
_CODE = {"raw": [data], "staging": [data, contract], "training": [feature_sets]}  # and what all three use
Place = str | Path
Alive = Callable[[str], bool]


class StepResult(NamedTuple):
    """What a step did for one market.

    `outcome` is done or skipped, `said` one sentence about it, `new_rows` the number of rows computed now. `findings`
    are counts: of check rows, bad, duplicates, missing_days and flags; of load_raw new, late, revised and withdrawn.
    """

    market: str
    stage: str
    outcome: str
    said: str
    manifest: dict[str, Any]
    new_rows: int
    findings: dict[str, int]


class TooManyBad(PipelineError):
    """More than 1 % of the rows are bad. `findings` as in StepResult."""

    def __init__(self, message: str, findings: dict[str, int]):
        super().__init__(message)
        self.findings = findings


def parse_markets(market: str) -> list[str]:
    """Return the names of markets in a text, separated by commas. Raises PipelineError for none and an invalid name."""
    found = list(dict.fromkeys(name.strip() for name in market.split(",") if name.strip()))
    if not found:
        raise PipelineError("no market is named: give one, several with commas, or all for a folder of CSV files.")
    for name in found:
        disk.stage_folder("", name, "raw")  # which refuses a name that makes no folder
    return found


def markets_of(market: str, source: str) -> list[str]:
    """Return the markets that `market` names: see `parse_markets`; `all` are the CSV files of the source."""
    place = _file_or_folder(source)
    if market == "all":
        files = [] if place is None else [place] if place.is_file() else sorted(place.glob("*.csv"))
        market = ",".join(path.stem for path in files)
    found = parse_markets(market)
    if len(found) > 1 and (place is None or place.is_file()):
        raise PipelineError(f"{source} has the prices of one market, not of {len(found)}: name one, or use a folder.")
    return found


def _file_or_folder(source: str) -> Path | None:
    """Return the file or folder of a source; None for a live ticker."""
    if source.startswith("yahoo:"):
        return None
    place = data.embedded_folder() if source == "embedded" else Path(source)
    if not place.exists():
        raise PipelineError(f"the source {place} does not exist: give embedded, a CSV file, a folder or yahoo:TICKER.")
    return place


def load_raw(
    stages: Place, market: str, source: str = "embedded", *, force: bool = False, made_by: str = "", alive: Alive = bool
) -> StepResult:
    """Copy the rows of `market` from `source` to the stage raw, unchanged and unchecked.

    `source` is `embedded`, a CSV file, a folder that holds MARKET.csv, or `yahoo:TICKER`: always the whole history.
    Raises PipelineError or DataError for a source that is missing or not a table of prices; raw is then unchanged.
    """
    with disk.locked(stages):
        stage = _Stage(stages, market, "raw", {"source": source}, force, made_by, alive)
        name, table = _source(market, source)
        digest = disk.digest(table)
        if skipped := stage.skipped(digest):
            return skipped
        before = stage.before
        changes = {} if before is None else _changes(before, table)
        base = before if before is not None and before.equals(table.iloc[: len(before)]) else None
        how = f"{len(table):,} rows loaded" if base is None else _appended("new row", base, table)
        for kind, days in changes.items():
            if days and kind != "new":
                how += f", {_count(len(days), kind + ' day')} ({', '.join(days[:3])}{' …' if len(days) > 3 else ''})"
        findings = {kind: len(days) for kind, days in changes.items()}
        facts = {"source": name, "made_from": {"source": name, "digest": digest}}
        return stage.write(table, base, how, findings, facts)


def _source(market: str, source: str) -> tuple[str, pd.DataFrame]:
    """Return where the prices of a market are, and the rows of the stage raw."""
    place = _file_or_folder(source)
    if place is None:
        yesterday = pd.Timestamp.now("UTC").normalize() - pd.Timedelta(days=1)  # today's day is still trading
        prices = data.download(source.removeprefix("yahoo:"), "1999-01-04", f"{yesterday:%Y-%m-%d}")
        text = io.StringIO(prices.to_csv(date_format="%Y-%m-%d"))
        return source, data.as_rows(pd.read_csv(text, dtype=str, keep_default_na=False), source, "choose other days")
    path = place if place.is_file() else place / f"{market}.csv"
    name = f"data/{market}.csv" if source == "embedded" else path.as_posix()
    return name, data.read_rows(path, "fix the file, or name another source")


def _changes(before: pd.DataFrame, now: pd.DataFrame) -> dict[str, list[str]]:
    """Return the days (as text) on which two tables of raw rows differ: new at the end, late, revised, withdrawn.

    A number that is only written in another way, 1219.1 for 1219.10, is not a revision.
    """
    before, now = (table.drop_duplicates("Date", keep="last").set_index("Date") for table in (before, now))
    added, last = now.index.difference(before.index), before.index.max()
    both = now.index.intersection(before.index)
    texts = [table.loc[both] for table in (before, now)]
    numbers = [table.apply(pd.to_numeric, errors="coerce") for table in texts]
    revised = both[(texts[0].ne(texts[1]) & numbers[0].ne(numbers[1])).any(axis=1)]
    return {
        "new": list(added[added > last]),
        "late": list(added[added <= last]),
        "revised": sorted(revised),
        "withdrawn": list(before.index.difference(now.index)),
    }


def check(
    stages: Place, market: str, *, exchange: str = "XNYS", force: bool = False, made_by: str = "", alive: Alive = bool
) -> StepResult:
    """Separate raw into good rows, the stage staging, and bad ones, STAGES/MARKET/quarantine.csv (see `contract`).

    `exchange` names a calendar of exchange_calendars. Raises TooManyBad, after it wrote the quarantine, if more than
    1 % of the rows are bad, and PipelineError for a long gap or an unknown calendar; staging is then unchanged.
    """
    quarantine_file = Path(stages) / market / "quarantine.csv"
    with disk.locked(stages):
        stage = _Stage(stages, market, "staging", {"exchange": exchange}, force, made_by, alive, quarantine_file)
        raw = stage.input("raw", "load_raw_data")
        if skipped := stage.skipped(raw["digest"]):
            return skipped
        rows = disk.read(disk.stage_folder(stages, market, "raw"))
        days, known = _dates(rows["Date"]), stage.made_from.get("rows", 0)
        late = (days.iloc[known:] <= days.iloc[:known].max()).any()  # then flags of existing rows may change
        base = None if late else stage.table_that_grows(rows)
        if base is None:
            good, bad, missing_days = contract.examine(rows, exchange)
            missing = list(missing_days.strftime("%Y-%m-%d"))
            how = f"{len(good):,} good rows computed{_differing(stage.before, good)}"
        else:
            new = contract.examine(rows.iloc[known:], exchange, base.tail(1))
            good = pd.concat([base, new.good])
            bad = pd.concat([read_quarantine(quarantine_file), new.quarantine])
            missing = [*stage.manifest["missing_days"], *new.missing_days.strftime("%Y-%m-%d")]
            how = _appended("new good row", base, good)
        findings, quarantine = _findings(rows, good, bad, missing), bad.to_csv().encode()
        with disk.refusals(quarantine_file):
            write_atomically(quarantine_file, quarantine)
        if len(bad) > contract.MOST_BAD * len(rows):
            raise TooManyBad(
                f"{len(bad):,} of the {len(rows):,} rows of {market} are bad ({len(bad) / len(rows):.1%}, at most "
                f"{contract.MOST_BAD:.0%} is allowed), the first in line {bad.index[0]} ({bad['reason'].iloc[0]}): see "
                f"{quarantine_file} and fix the source; staging and training are unchanged.",
                findings,
            )
        facts = {"source": raw["source"], "made_from": {"stage": "raw", "rows": len(rows), "digest": raw["digest"]}}
        facts |= {"findings": findings, "missing_days": missing, "quarantine": _hash(quarantine)}
        return stage.write(good, base, f"{how}, {_in_words(findings)}", findings, facts)


def _findings(rows: pd.DataFrame, good: pd.DataFrame, bad: pd.DataFrame, missing: list[str]) -> dict[str, int]:
    twice = [contract.TABLE_RULES["same"], contract.TABLE_RULES["different"]]
    counts = {"rows": len(rows), "bad": len(bad), "duplicates": int(bad["reason"].isin(twice).sum())}
    return counts | {"missing_days": len(missing)} | {flag: int(good[flag].sum()) for flag in contract.FLAGS}


def read_quarantine(path: Path) -> pd.DataFrame:
    """Return the bad rows as `contract.examine` returns them."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return table.set_index(table.pop("line").astype("int64"))


def _in_words(findings: dict[str, int]) -> str:
    things = {"bad": "bad row", "missing_days": "missing day", "stale_open": "stale open", "no_volume": "day"}
    return "{} in quarantine, {}, {}, {} without volume".format(*(_count(findings[key], things[key]) for key in things))


def make_features(
    stages: Place,
    market: str,
    target: str = "big_move",
    features: str = "volatility",
    *,
    end: str = END,
    force: bool = False,
    made_by: str = "",
    alive: Alive = bool,
) -> StepResult:
    """Make the training table from staging: `pystock.features.dataset` of the prices up to `end`, "" for all.

    The index is `Date`, the last column the target (int64), the others the features (float64). Raises PipelineError or
    ValueError for an unknown target or feature set, and if the history is too short for one row.
    """
    known = {"target": (target, feature_sets.TARGETS), "feature set": (features, feature_sets.FEATURES)}
    for kind, (name, functions) in known.items():
        if name not in functions:
            raise PipelineError(f"{name!r} is not a {kind}: choose one of {', '.join(functions)}.")
    parameters = {"target": target, "features": features, "end": end}
    with disk.locked(stages):
        stage = _Stage(stages, market, "training", parameters, force, made_by, alive)
        staging = stage.input("staging", "check_verify_data")
        days = disk.read(disk.stage_folder(stages, market, "staging"))
        prices = days.loc[: pd.Timestamp(end)] if end else days
        if prices.empty:
            raise PipelineError(f"{market} has no days up to {end}: choose an end after {days.index[0]:%Y-%m-%d}.")
        digest = disk.digest(prices)
        if skipped := stage.skipped(digest):
            return skipped
        base = stage.table_that_grows(prices) if features in LOOK_BACK else None
        start = 0 if base is None else _window(prices, base.index[-1], LOOK_BACK[features])
        X, y = feature_sets.dataset(prices[COLUMNS].iloc[start:], target, features)
        table = X.assign(**{target: y})
        if base is None:
            how = f"{len(table):,} rows computed{_differing(stage.before, table)}"
        else:
            table = pd.concat([base, table[table.index > base.index[-1]]])
            how = _appended("new row", base, table)
        made_from = {"stage": "staging", "rows": len(prices), "last_day": f"{prices.index[-1]:%Y-%m-%d}"}
        made_from |= {"digest": digest, "staging": staging["digest"]}
        return stage.write(table, base, how, {}, {"source": staging["source"], "made_from": made_from})


def _window(prices: pd.DataFrame, last: pd.Timestamp, look_back: int) -> int:
    """Return where to begin so that the rows after the day `last` have the features that the whole history gives."""
    begin = max(prices.index.get_loc(last) + 1 - look_back, 0)
    traded = (prices["Volume"].iloc[: begin + 1] > 0).to_numpy().nonzero()[0]
    return int(traded[-1]) if len(traded) else 0  # a volume that is missing counts as the last one before it


@dataclass
class _Stage:
    """One stage of one market: what it was made from, as its manifest says, and what it would be made from now."""

    stages: Place
    market: str
    name: str
    parameters: dict[str, str]
    force: bool
    made_by: str
    alive: Alive
    quarantine: Path | None = None

    def __post_init__(self) -> None:
        question = "{target}-{features}".format(**self.parameters) if self.name == "training" else ""
        self.folder = disk.stage_folder(self.stages, self.market, self.name, question)
        self.manifest: dict[str, Any] = disk.manifest(self.folder) or {}
        self.made_from: dict[str, Any] = self.manifest.get("made_from", {})
        self.code = _code(self.name, self.parameters)
        self.changes = self._changes()  # apart from the input

    def _changes(self) -> list[str]:
        old, quarantine, version = self.manifest, self.quarantine, disk.SCHEMA_VERSION
        if self.force or not old:
            return ["force was set" if self.force else "there was no table yet"]
        changes = [
            f"the parameter {name} changed from {before or 'empty'} to {value or 'empty'}"
            for name, value in self.parameters.items()
            if (before := old["parameters"].get(name)) != value
        ]
        stale = {
            f"the schema version changed from {old['schema_version']} to {version}": old["schema_version"] != version,
            "the code has changed": old["code"] != self.code,
            "one of its files is missing or truncated": not disk.intact(self.folder, old),
            "the quarantine file is missing or does not match": quarantine
            and not (quarantine.exists() and _hash(quarantine.read_bytes()) == old["quarantine"]),
            "the run that made it is not in this store or did not finish": self.made_by
            and not (old["made_by"] and self.alive(old["made_by"])),
        }
        return changes + [text for text, is_so in stale.items() if is_so]

    def skipped(self, digest: str) -> StepResult | None:
        """Return the result of having nothing to do if the stage is up to date with an input of that digest."""
        self.why = " and ".join(self.changes)
        if not self.changes and self.made_from["digest"] != digest:
            self.why = f"{'the source' if self.name == 'raw' else 'its input'} has changed"
        if self.why:
            return None
        rows = self.manifest["rows"]
        said = f"{self.market}: skipped, because input, parameters and code of the {rows:,} rows are unchanged"
        return StepResult(self.market, self.name, "skipped", said, self.manifest, 0, self.manifest.get("findings", {}))

    def input(self, name: str, step: str) -> dict[str, Any]:
        """Return the manifest of the stage that this one is made from."""
        folder = disk.stage_folder(self.stages, self.market, name)
        if (found := disk.manifest(folder)) is None:
            raise PipelineError(f"{folder} has no table yet: run {step} first, or main, which runs all steps.")
        return found

    @cached_property
    def before(self) -> pd.DataFrame | None:
        """The existing table; None if more than the input has changed."""
        return None if self.changes else disk.read(self.folder)

    def table_that_grows(self, rows: pd.DataFrame) -> pd.DataFrame | None:
        """Return the existing table if its input, now `rows`, has only new rows at the end, else None."""
        known = self.made_from.get("rows", 0)
        has_grown = len(rows) > known and disk.digest(rows.iloc[:known]) == self.made_from.get("digest")
        return self.before if has_grown else None

    def write(
        self, table: pd.DataFrame, base: pd.DataFrame | None, how: str, findings: dict[str, int], facts: dict[str, Any]
    ) -> StepResult:
        """Write the table, or only the rows after those of `base`; `how` says what was done."""
        days = _dates(table["Date"]).dropna() if "Date" in table else table.index
        first, last = (None if day is pd.NaT else f"{day:%Y-%m-%d}" for day in (days.min(), days.max()))
        about: dict[str, Any] = {"market": self.market, "stage": self.name, "first_day": first, "last_day": last}
        about |= {"made_by": self.made_by, "made_at": datetime.now(UTC).isoformat(timespec="seconds")}
        about |= {"parameters": self.parameters, "code": self.code, **facts}
        manifest = disk.write(self.folder, table, about, kept=None if base is None else self.manifest)
        new_rows = len(table) - (0 if base is None else len(base))
        said = f"{self.market}: {how}, because {self.why}"
        return StepResult(self.market, self.name, "done", said, manifest, new_rows, findings)


def _code(stage: str, parameters: dict[str, str]) -> str:
    """Return a digest of the code that makes a stage, including target and feature functions defined elsewhere."""
    files = [module.__file__ for module in (*_CODE[stage], price_rules, disk)] + [__file__]
    texts = [Path(str(file)).read_bytes() for file in files]
    if stage == "training":
        for function in (feature_sets.TARGETS[parameters["target"]], feature_sets.FEATURES[parameters["features"]]):
            try:
                texts.append(inspect.getsource(function).encode())
            except (OSError, TypeError):  # typed into a prompt, or not written in Python
                texts.append(repr(function).encode())
    return runs.code_digest(*texts)


def _differing(before: pd.DataFrame | None, now: pd.DataFrame) -> str:
    """Return in brackets on how many days a table differs from the previous one, and from which day on."""
    if before is None:
        return ""
    both = before.index.intersection(now.index)
    differ = both[(before.loc[both] != now.loc[both]).any(axis=1)]
    days = differ.union(before.index.symmetric_difference(now.index))
    if not len(days):
        return " again"
    differ = f"{_count(len(days), 'day')} differ{'s' if len(days) == 1 else ''}"
    return f" again ({differ}, starting on {days[0]:%Y-%m-%d})"


def _dates(column: pd.Series) -> pd.Series:
    return pd.to_datetime(column, format="%Y-%m-%d", errors="coerce")


def _appended(thing: str, base: pd.DataFrame, table: pd.DataFrame) -> str:
    return f"{_count(len(table) - len(base), thing)} appended to {len(base):,}"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _hash(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:32]
