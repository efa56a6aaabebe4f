"""The data pipeline: appended days, disorder in the source, skipped steps, and what the steps leave in MLflow."""

import re
import shutil
import sys
from argparse import Namespace
from collections import Counter
from itertools import product
from pathlib import Path

import mlflow
import pandas as pd
import promotions
import pytest
import yaml
from fake_course import CHECKOUT
from messages import assert_on_page
from mlflow.utils.file_utils import local_file_uri_to_path

from pystock import data, features, pipeline, price_rules
from pystock.data import DataError
from pystock.data_pipeline import check, contract, load_raw, make_features, profile, stages, steps, tracking
from pystock.pipeline import PipelineError

PROJECT = CHECKOUT / "projects" / "pystock-data-features"
SKIPPED, DONE = ["skipped"] * 3, ["done"] * 3
QUESTION = "big_move-volatility"
FIRST, LAST = "2014-07-01", "2015-07-01"
EMBEDDED = {market: (data.embedded_folder() / f"{market}.csv").read_text().splitlines() for market in data.MARKETS}


class Source:
    """A price file that can be changed, the end of the embedded one at first, and the pipeline on it."""

    def __init__(self, folder: Path, market: str = "sp500", first: str = FIRST, last: str = LAST):
        folder.mkdir(exist_ok=True)
        self.market, self.path, self.stages = market, folder / f"{market}.csv", folder / "stages"
        self.quarantine = self.stages / market / "quarantine.csv"
        self.lines = [line for line in EMBEDDED[market][1:] if first <= line[:10] <= last]

    def write(self, lines: list[str] | None = None) -> "Source":
        self.path.write_text("\n".join([EMBEDDED[self.market][0], *(self.lines if lines is None else lines)]) + "\n")
        return self

    def run(self, *, target="big_move", names="volatility", end="", **options) -> list[steps.StepResult]:
        """The results of the three steps."""
        return [
            load_raw(self.stages, self.market, str(self.path), **options),
            check(self.stages, self.market, **options),
            make_features(self.stages, self.market, target, names, end=end, **options),
        ]

    def fresh(self) -> "Source":
        """The same file, computed by a pipeline that has seen nothing before."""
        other = Source(self.path.parent / "fresh", self.market)
        shutil.copy(self.path, other.path)
        other.run()
        return other

    def folder(self, stage: str) -> Path:
        """The folder of raw, staging, or the table of a question."""
        name, question = (stage, None) if stage in ("raw", "staging") else ("training", stage)
        return stages.stage_folder(self.stages, self.market, name, question)

    def at(self, date: str) -> int:
        return next(at for at, line in enumerate(self.lines) if line.startswith(date))

    def bytes(self, *parts: str) -> dict[Path, bytes]:
        """All files below some of the folders of the stages."""
        paths = [path for part in parts for path in (self.stages / self.market / part).rglob("*")]
        return {path: path.read_bytes() for path in paths if path.is_file()}


@pytest.fixture
def source(tmp_path) -> Source:
    return Source(tmp_path / "Kurse für alle").write()


def outcomes(results) -> list[str]:
    return [result.outcome for result in results]


def same(one: Source, other: Source, *questions: str) -> None:
    """Fail unless all stages hold the same tables, to the last bit, with the same digest and the same findings."""
    for stage in ("raw", "staging", *(questions or [QUESTION])):
        folders = [each.folder(stage) for each in (one, other)]
        digests = {stages.digest(stages.read(folder)) for folder in folders}
        assert len(digests | {stages.manifest(folder)["digest"] for folder in folders}) == 1, stage
    staged = [stages.manifest(each.folder("staging")) for each in (one, other)]
    for key in ("findings", "missing_days", "rows"):
        assert staged[0][key] == staged[1][key]
    assert one.quarantine.read_bytes() == other.quarantine.read_bytes()


def spoiled(line: str) -> str:
    return line.replace(",", ",x", 1)


@pytest.mark.parametrize("market", data.MARKETS)
def test_the_table_of_the_embedded_data_is_that_of_the_features(market, tmp_path):
    load_raw(tmp_path, market)
    check(tmp_path, market)
    for target, names, end in (("big_move", "volatility", "2014-12-31"), ("direction", "flags", "")):
        result = make_features(tmp_path, market, target, names, end=end)
        X, y = features.dataset(data.load(market, end=end or None), target, names)
        table = stages.read(stages.stage_folder(tmp_path, market, "training", f"{target}-{names}"))
        pd.testing.assert_frame_equal(table, X.assign(**{target: y}), check_exact=True)
        assert (result.manifest["rows"], result.manifest["last_day"]) == (len(X), f"{X.index[-1]:%Y-%m-%d}")
    assert result.manifest["source"] == f"data/{market}.csv"


def spread(lines: list[str], at: int) -> list[str]:
    """Three bad rows, a day that comes twice and a missing one."""
    lines = [*lines[:at], spoiled(lines[at]), *lines[at + 1 :]]
    lines[at + 2 : at + 4] = [lines[at + 2].replace(",", ",-", 1), lines[at + 3], lines[at + 3]]
    return [*lines[: at + 6], *lines[at + 7 :]]


def silent(lines: list[str], at: int) -> list[str]:
    """No volume for longer than the look back."""
    return [line.rpartition(",")[0] + ",0" if at <= day < at + 110 else line for day, line in enumerate(lines)]


# The place that matters, what is done to the lines there, where the file ends each time, and bad rows, missing days and
# days without volume. On 2015-05-12 NASDAQ has none; the first ends lie in the days that the longest look back needs.
APPENDED = {
    "day by day": ("2015-05-12", None, lambda at: range(at - 2, at + 8), (0, 0, 0)),
    "in bulk": ("2015-05-12", None, lambda at: [68, 69, 80, 134, 135, at, at + 1, at + 2, 450], (0, 0, 0)),
    "no volume": ("2013-12-02", silent, lambda at: [at + 100, at + 105, at + 111], (0, 0, 110)),
    "bad, twice, missing": ("2015-03-03", spread, lambda at: range(at - 1, at + 9), (3, 3, 0)),
}


@pytest.mark.parametrize(
    ("kind", "market"), [*product(APPENDED, ["sp500"]), *product(["day by day", "in bulk"], ["nasdaq"])]
)
def test_appended_days_equal_the_full_computation(kind, market, tmp_path):
    day, change, cuts, expected = APPENDED[kind]
    whole, growing = (Source(tmp_path / name, market, first="2013-09-03") for name in ("whole", "growing"))
    at = whole.at(day)
    lines = change(whole.lines, at) if change else whole.lines
    questions, computed = {QUESTION: ("big_move", "volatility"), "direction-flags": ("direction", "flags")}, Counter()
    for target, names in questions.values():
        whole.write(lines).run(target=target, names=names)
    for cut in [*cuts(at), len(lines)]:
        growing.write(lines[:cut])
        for question, (target, names) in questions.items():
            computed[question] += growing.run(target=target, names=names)[2].new_rows
    same(growing, whole, *questions)
    if change is not spread:  # whose day that comes twice is no later day
        assert computed == {name: stages.manifest(whole.folder(name))["rows"] for name in questions}
    findings = stages.manifest(whole.folder("staging"))["findings"]
    assert [findings[name] for name in ("bad", "missing_days")] == list(expected[:2])
    assert findings["no_volume"] == expected[2] + (market == "nasdaq")


@pytest.mark.parametrize("names", features.FEATURES)
def test_the_look_back_is_as_long_as_it_must_be_and_no_longer(names):
    prices = data.load("sp500", end="2000-12-31")
    whole, days = features.FEATURES[names](prices), steps.LOOK_BACK[names]
    assert features.FEATURES[names](prices.iloc[300 - days :]).iloc[days:].equals(whole.iloc[300:])
    assert not features.FEATURES[names](prices.iloc[301 - days :]).iloc[days - 1 :].equals(whole.iloc[300:])


def test_history_is_not_computed_again(source, monkeypatch):
    source.write(source.lines[:-1]).run()
    seen, examine, dataset = [], contract.examine, features.dataset
    monkeypatch.setattr(contract, "examine", lambda raw, *more: seen.append(len(raw)) or examine(raw, *more))
    monkeypatch.setattr(features, "dataset", lambda prices, *more: seen.append(len(prices)) or dataset(prices, *more))
    results = source.write().run()
    assert seen == [1, 66 + 2] and [result.new_rows for result in results] == [1, 1, 1]


def test_the_end_hides_later_days(source):
    made = source.run(end="2015-01-30")[2].manifest
    assert (made["last_day"], made["made_from"]["last_day"]) == ("2015-01-29", "2015-01-30")
    assert outcomes(source.write(source.lines[:-1]).run(end="2015-01-30")) == ["done", "done", "skipped"]
    results = source.run(end="2015-02-27")
    assert outcomes(results) == ["skipped", "skipped", "done"]
    assert "the parameter end changed from 2015-01-30 to 2015-02-27" in results[2].said
    with pytest.raises(PipelineError, match="no days up to 2010-01-01"):
        source.run(end="2010-01-01")


# What else can happen to days: the lines before and after, what is found, and what is said
LINES = [line for line in EMBEDDED["sp500"][1:] if FIRST <= line[:10] <= LAST]
AT = next(at for at, line in enumerate(LINES) if line.startswith("2015-03-03"))
WITHOUT = [*LINES[:AT], *LINES[AT + 1 :]]
OTHER_VOLUME = re.sub(r"\d+$", "7", LINES[-1])
DISORDER = {
    "late": (WITHOUT, LINES, {"late": 1}, {"missing_days": 0}, "2 days differ, starting on 2015-03-03"),
    "late, at the end": (WITHOUT, [*WITHOUT, LINES[AT]], {"late": 1}, {"missing_days": 0}, "2 days differ"),
    "withdrawn": (LINES, LINES[:-1], {"withdrawn": 1}, {"missing_days": 0}, "1 day differs"),
    "missing": (LINES, WITHOUT, {"withdrawn": 1}, {"missing_days": 1, "after_missing": 1, "bad": 0}, "2 days differ"),
    "other spelling": (LINES, [re.sub(r"(\d\.\d+)", r"\g<1>0", line) for line in LINES], {}, {"bad": 0}, " again,"),
    "twice": (LINES, [*LINES, LINES[-1]], {}, {"bad": 1, "duplicates": 1}, " again,"),
    "two values": (LINES, [*LINES, OTHER_VOLUME], {"revised": 1}, {"bad": 2, "duplicates": 2}, "1 day differs"),
}


@pytest.mark.parametrize("kind", DISORDER)
def test_disorder_is_found_and_what_follows_is_computed_anew(source, kind):
    before, after, changes, findings, said = DISORDER[kind]
    source.write(before).run()
    raw, staging, training = source.write(after).run()
    assert raw.findings == {"new": 0, "late": 0, "revised": 0, "withdrawn": 0} | changes
    assert findings.items() <= staging.findings.items() and said in staging.said, staging.said
    assert len(staging.manifest["missing_days"]) == staging.findings["missing_days"]
    for change in changes:
        assert f"1 {change} day (20" in raw.said
    assert (staging.outcome, staging.new_rows) == ("done", staging.manifest["rows"])
    assert training.outcome == ("skipped" if said == " again," else "done")
    same(source, source.fresh())


def test_more_than_one_per_cent_bad_stops_before_anything_downstream_changes(source):
    lines = list(source.lines)
    source.lines[10], source.lines[50] = (spoiled(source.lines[at]) for at in (10, 50))
    assert source.write().run()[1].findings["bad"] == 2  # of 253 they are 0.8 %
    downstream = source.bytes("staging", "training")
    source.lines[90] = spoiled(source.lines[90])
    for _ in range(2):  # it is not forgotten
        with pytest.raises(steps.TooManyBad) as caught:
            source.write().run()
        said = f"3 of the {len(lines)} rows of sp500 are bad (1.2%, at most 1% is allowed), the first in line 12"
        assert str(caught.value).startswith(said) and caught.value.findings["bad"] == 3
        assert_on_page("rows of … are bad", str(caught.value))
        assert source.bytes("staging", "training") == downstream
        assert len(steps.read_quarantine(source.quarantine)) == 3
    source.write(lines).run()
    same(source, source.fresh())


def test_a_source_that_is_no_table_changes_nothing(source):
    source.run()
    before = source.bytes("raw", "staging", "training")
    source.path.write_text("Date,Open,High,Low,Close,Adj Close,Volume\n2020-01-02,1,1")
    with pytest.raises(DataError, match="ends in the middle of a line"):
        source.run()
    assert source.bytes("raw", "staging", "training") == before


def test_sources(tmp_path):
    source = Source(tmp_path)
    with pytest.raises(PipelineError, match=r"sp500.csv does not exist"):
        source.run()
    source.write()
    for market, place, found in (
        ("all", tmp_path, ["sp500"]),
        ("all", source.path, ["sp500"]),
        ("all", "embedded", ["nasdaq", "sp500"]),
        ("b, a,b", tmp_path, ["b", "a"]),
    ):
        assert steps.markets_of(market, str(place)) == found
    assert load_raw(source.stages, "sp500", str(tmp_path)).manifest["source"] == source.path.as_posix()
    for market, place, reason in (
        ("all", "yahoo:^GSPC", "no market is named"),
        ("a,b", "yahoo:^GSPC", "has the prices of one market, not of 2"),
        ("a,b", source.path, "has the prices of one market, not of 2"),
        (",", tmp_path, "no market is named"),
        ("../a", tmp_path, "is not a market name"),
        ("all", tmp_path / "none", "does not exist"),
    ):
        with pytest.raises(PipelineError, match=reason):
            steps.markets_of(market, str(place))
    with pytest.raises(DataError, match=r"dax.csv is missing: .* or name another source"):
        load_raw(source.stages, "dax", str(tmp_path))


def test_a_live_ticker(tmp_path, monkeypatch):
    """As `pystock.data.download` returns it; the network itself is not asked."""
    prices = data.load("sp500", "2014-07-01", "2015-07-01")
    monkeypatch.setattr(data, "download", lambda ticker, start, end: prices if ticker == "^GSPC" else None)
    assert load_raw(tmp_path, "gspc", "yahoo:^GSPC").manifest["source"] == "yahoo:^GSPC"
    assert check(tmp_path, "gspc").findings["bad"] == 0
    assert stages.read(tmp_path / "gspc" / "staging")[data.COLUMNS].equals(prices)
    assert load_raw(tmp_path, "gspc", "yahoo:^GSPC").outcome == "skipped"


def test_what_is_unchanged_is_skipped_unless_it_is_forced(source):
    assert outcomes(source.run()) == DONE
    before = source.bytes("")
    source.path.touch()  # a copy with another time is no change
    results = source.run()
    assert outcomes(results) == SKIPPED and source.bytes("") == before
    assert results[1].findings["rows"] == len(source.lines)
    for question in ({"target": "direction"}, {"names": "flags"}):
        assert outcomes(source.run(**question)) == ["skipped", "skipped", "done"]
    assert outcomes(source.run()) == SKIPPED  # the first table is still there
    results = source.run(force=True)
    assert outcomes(results) == DONE and all(result.said.endswith("because force was set") for result in results)
    result = check(source.stages, "sp500", exchange="24/7")
    assert "the parameter exchange changed from XNYS to 24/7" in result.said and result.findings["missing_days"] == 113


def test_another_feature_set_of_ones_own(source, monkeypatch):
    monkeypatch.setitem(features.FEATURES, "last_return", lambda prices: features.log_returns(prices).to_frame())
    source.write(source.lines[:-1]).run(names="last_return")
    assert outcomes(source.run(names="last_return")) == SKIPPED
    monkeypatch.setitem(features.FEATURES, "last_return", lambda prices: 2 * features.log_returns(prices).to_frame())
    results = source.run(names="last_return")
    assert outcomes(results) == ["skipped", "skipped", "done"] and "the code has changed" in results[2].said
    assert source.write().run(names="last_return")[2].new_rows == len(source.lines) - 2  # its look back is not known
    with pytest.raises(PipelineError, match="'none' is not a feature set: choose one of flags, volatility, l"):
        source.run(names="none")
    with pytest.raises(PipelineError, match="'none' is not a target"):
        source.run(target="none")


def test_changed_code_and_another_schema(source, monkeypatch):
    source.run()
    for module, expected in ((contract, ["skipped", "done", "skipped"]), (price_rules, DONE)):
        other = source.path.with_name("module.py")
        shutil.copy(module.__file__, other)
        monkeypatch.setattr(module, "__file__", str(other))
        assert outcomes(source.run()) == SKIPPED
        other.write_text(other.read_text() + "# another word\n")
        results = source.run()
        assert outcomes(results) == expected and "because the code has changed" in results[1].said
        monkeypatch.undo()
        source.run()
    monkeypatch.setattr(stages, "SCHEMA_VERSION", "2")
    results = source.run()
    assert outcomes(results) == DONE and "the schema version changed from 1 to 2" in results[0].said


def test_files_that_are_gone_are_made_again(source):
    source.run()
    for stage, index in (("raw", 0), ("staging", 1)):
        next(source.folder(stage).glob("part-*")).unlink()
        results = source.run()
        assert results[index].outcome == "done" and "one of its files is missing or truncated" in results[index].said
        assert outcomes(results).count("done") == 1  # the others find the digest that they know
    source.quarantine.unlink()
    assert outcomes(source.run()) == ["skipped", "done", "skipped"]


def test_a_step_without_the_one_before_it(tmp_path):
    with pytest.raises(PipelineError, match="run load_raw_data first, or main"):
        check(tmp_path, "sp500")
    load_raw(tmp_path, "sp500")
    with pytest.raises(PipelineError, match="run check_verify_data first, or main"):
        make_features(tmp_path, "sp500")


def test_a_run_that_the_store_does_not_know_counts_for_nothing(source):
    source.run(made_by="a")
    assert [result.manifest["made_by"] for result in source.run(made_by="b")] == ["a", "a", "a"]
    results = source.run(made_by="b", alive=lambda run_id: run_id != "a")
    assert outcomes(results) == DONE and "not in this store or did not finish" in results[0].said
    assert [result.manifest["made_by"] for result in results] == ["b", "b", "b"]


def test_the_profile_shows_what_was_found():
    raw = data.read_rows(data.embedded_folder() / "nasdaq.csv", "")
    raw.loc[77, "Close"] = "<b>"
    good, quarantine, missing = contract.examine(raw)
    page = profile.page(good, quarantine, missing, "nasdaq & more")
    assert "<title>nasdaq &amp; more</title>" in page and "&lt;b&gt;" in page
    assert "<b>" not in page and "http" not in page
    assert page.count("<img") == page.count('alt="') == page.count("data:image/png;base64,") == 2
    for text in ("2015-05-12, 2018-01-09", raw.loc[77, "Date"], "a value is missing or not a number", "5,030"):
        assert text in page, text
    share = profile.shares_of_stale_opens(good)
    assert [bar.get_height() for bar in profile.stale_opens_by_year(share).axes[0].patches] == share.tolist()
    marks = profile.closes_and_volumes(good).axes[1].lines[1].get_xdata()
    assert list(pd.DatetimeIndex(marks).strftime("%Y-%m-%d")) == ["2015-05-12", "2018-01-09"]
    assert "no good rows" in profile.page(*contract.examine(raw.head(3).assign(Open="x")), "nothing")


@pytest.fixture
def tracked(empty_store, tmp_path, monkeypatch):
    yield from promotions.using(promotions.own_store(empty_store, tmp_path), tmp_path, monkeypatch)


def all_runs() -> list:
    """All runs of the store, the oldest first."""
    return mlflow.search_runs(search_all_experiments=True, output_format="list")[::-1]


def run_main(folder: Path, **more) -> list:
    """The project's main in this process; the runs that it has made, its own first."""
    chosen = {"market": "all", "source": str(folder), "stages": str(folder / "stages"), "target": "big_move"}
    options = Namespace(**(chosen | {"features": "volatility", "end": "", "exchange": "XNYS", "force": False} | more))
    seen = {run.info.run_id for run in all_runs()}
    claim = tracking.claim(options.stages)
    with pipeline.run(tracking.PIPELINE, "main", {"market": options.market}, claim=claim) as step:
        tracking.run_steps(step, tracking.markets(options), options)
    return [run for run in all_runs() if run.info.run_id not in seen]


def artifacts(run) -> set[str]:
    folder = Path(local_file_uri_to_path(run.info.artifact_uri))
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_what_the_steps_leave_in_mlflow(tracked, tmp_path):
    """Two markets, one with a bad row: one run a step, and a run for each table."""
    for market in data.MARKETS:
        source = Source(tmp_path / "source", market)
        if market == "nasdaq":
            source.lines[7] = spoiled(source.lines[7])
        source.write()
    main, raw, staging, *training = first = run_main(tmp_path / "source")
    assert [run.data.tags["outcome"] for run in first] == ["done"] * 5
    assert {run.data.tags.get("mlflow.parentRunId") for run in first[1:]} == {main.info.run_id}
    both = [name.format(market) for name in ("profile/{}.html", "staging/{}.manifest.json") for market in data.MARKETS]
    assert artifacts(staging) == {"contract.yaml", "quarantine/nasdaq.csv", *both}
    expected = {"rows": 2 * len(source.lines) - 1, "new_rows": 2 * len(source.lines) - 1, "bad": 1, "no_volume": 1}
    assert expected.items() <= staging.data.metrics.items()
    assert [item.dataset.name for item in raw.inputs.dataset_inputs] == ["nasdaq-raw", "sp500-raw"]
    for market, run in zip(("nasdaq", "sp500"), training):
        assert artifacts(run) == {f"training/{market}.parquet", f"training/{market}.manifest.json"}
        (found,) = run.inputs.dataset_inputs
        assert (found.dataset.name, found.dataset.digest) == (f"{market}-{QUESTION}", run.data.tags["digest"])
        assert found.tags[0].value == "training" and run.data.tags["market"] == market
        place = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=f"training/{market}.parquet")
        made = stages.manifest(tmp_path / "source" / "stages" / market / "training" / QUESTION)
        assert (made["made_by"], made["digest"]) == (run.info.run_id, stages.digest(pd.read_parquet(place)))

    again = run_main(tmp_path / "source")
    assert [run.data.tags["outcome"] for run in again] == ["skipped"] * 5
    assert [run.data.tags["made_by"] for run in again[1:]] == [run.info.run_id for run in first[1:]]
    assert not any(run.inputs.dataset_inputs or artifacts(run) for run in again)

    mlflow.delete_run(training[1].info.run_id)
    mlflow.MlflowClient().set_terminated(raw.info.run_id, "FAILED")
    mended = run_main(tmp_path / "source")
    assert [run.data.tags["outcome"] for run in mended] == ["done", "done", "skipped", "skipped", "done"]


def test_a_stop_at_the_check_is_told_and_keeps_the_quarantine(tracked, tmp_path):
    source = Source(tmp_path / "it's mine")  # a quote ends a text in MLflow's filters
    source.write([spoiled(line) if at % 50 == 0 else line for at, line in enumerate(source.lines)])
    with pytest.raises(SystemExit, match=r"pystock-data-features, main: 6 of the 253 rows of sp500 are bad"):
        run_main(source.path.parent, market="sp500")
    main, raw, staging = all_runs()
    assert (main.info.status, raw.info.status, staging.info.status) == ("FAILED", "FINISHED", "FAILED")
    assert main.data.tags["failed_step"] == "check_verify_data" and main.data.tags["failed_because"].startswith("6 of")
    assert artifacts(staging) == {"quarantine/sp500.csv"} and staging.data.metrics["bad"] == 6
    assert not source.folder("staging").exists()


def test_parameters_are_those_of_the_project_file(monkeypatch):
    monkeypatch.syspath_prepend(PROJECT)
    import parameters

    entry_points = yaml.safe_load((PROJECT / "MLproject").read_text())["entry_points"]
    assert set(entry_points) == {path.stem for path in PROJECT.glob("*.py")} - {"parameters"}
    for name, entry_point in entry_points.items():
        command = f"python {name}.py " + " ".join(f"--{key} {{{key}}}" for key in entry_point["parameters"])
        assert entry_point["command"] == command
        monkeypatch.setattr(sys, "argv", [f"{name}.py"])
        defaults = vars(parameters.parse("", *entry_point["parameters"]))
        for key, declared in entry_point["parameters"].items():
            monkeypatch.setattr(sys, "argv", [f"{name}.py", f"--{key}", declared["default"]])
            assert getattr(parameters.parse("", key), key) == defaults[key]
    readme = (PROJECT / "README.md").read_text()
    for key, declared in entry_points["main"]["parameters"].items():
        assert f"| `{key}` | {'`' + declared['default'] + '`' if declared['default'] else 'empty'} |" in readme, key
