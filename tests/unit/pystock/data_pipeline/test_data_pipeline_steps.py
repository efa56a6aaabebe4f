"""The data pipeline: appended days equal the full computation, each disorder of the source has its outcome, and what
the steps leave in MLflow."""

import json
import re
import shutil
import sys
from argparse import Namespace
from itertools import pairwise
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import yaml
from fake_course import CHECKOUT

from course import store
from pystock import data, features, pipeline, runs
from pystock.data import DataError
from pystock.data_pipeline import contract, profile, stages
from pystock.data_pipeline import steps as data_pipeline
from pystock.data_pipeline import tracking as data_runs
from pystock.data_pipeline.steps import TooManyBad, check, load_raw, make_features
from pystock.pipeline import PipelineError

PROJECT = CHECKOUT / "projects" / "pystock-data-features"
SKIPPED, DONE = ["skipped"] * 3, ["done"] * 3


class Source:
    """A price file that can be changed, the end of the embedded one at first, and the pipeline on it."""

    def __init__(self, folder: Path, market: str = "sp500", first: str = "2014-07-01", last: str = "2015-07-01"):
        folder.mkdir(exist_ok=True)
        self.market, self.path, self.stages = market, folder / f"{market}.csv", folder / "stages"
        self.head, *lines = (data.embedded_folder() / f"{market}.csv").read_text().splitlines()
        self.lines = [line for line in lines if first <= line[:10] <= last]

    def write(self, lines: list[str] | None = None) -> "Source":
        self.path.write_text("\n".join([self.head, *(self.lines if lines is None else lines)]) + "\n")
        return self

    def run(self, *, target="big_move", names="volatility", end="", **options) -> list[data_pipeline.Result]:
        """The results of the three steps."""
        return [
            load_raw(self.stages, self.market, str(self.path), **options),
            check(self.stages, self.market, **options),
            make_features(self.stages, self.market, target, names, end=end, **options),
        ]

    def table(self, stage: str, question: str = "big_move-volatility") -> pd.DataFrame:
        return stages.read(stages.stage_folder(self.stages, self.market, stage, question * (stage == "training")))

    def day(self, date: str) -> int:
        return next(at for at, line in enumerate(self.lines) if line.startswith(date))

    def bytes(self, *parts: str) -> dict[str, bytes]:
        """All files below some of the folders of the stages."""
        return {
            str(path): path.read_bytes()
            for part in parts
            for path in (self.stages / self.market / part).rglob("*")
            if path.is_file()
        }


@pytest.fixture
def source(tmp_path) -> Source:
    return Source(tmp_path / "Kurse für alle").write()


def outcomes(results) -> list[str]:
    return [result.outcome for result in results]


def manifest(source: Source, stage: str, question: str | None = None) -> dict:
    return stages.manifest(stages.stage_folder(source.stages, source.market, stage, question))


def same(one: Source, other: Source, *questions: str) -> None:
    """Fail unless all stages hold the same tables, to the last bit, with the same digest and the same findings."""
    for stage, question in [("raw", None), ("staging", None), *(("training", question) for question in questions)]:
        tables = [each.table(stage, question or "") for each in (one, other)]
        pd.testing.assert_frame_equal(*tables, check_exact=True, check_freq=False)
        digests = {manifest(each, stage, question)["digest"] for each in (one, other)}
        assert digests == {stages.digest(tables[0])}
    for key in ("findings", "missing_days", "rows"):
        assert manifest(one, "staging")[key] == manifest(other, "staging")[key]
    assert len({(each.stages / each.market / "quarantine.csv").read_bytes() for each in (one, other)}) == 1


# The table is that of pystock.features


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


# New days


@pytest.mark.parametrize("market", data.MARKETS)
def test_new_days_day_by_day_equal_the_full_computation(market, tmp_path):
    """Across NASDAQ's day without volume, 2015-05-12: before it, on it, after it."""
    whole = Source(tmp_path / "whole", market, last="2015-05-20").write()
    for names in features.FEATURES:
        whole.run(names=names)
    daily = Source(tmp_path / "daily", market, last="2015-05-20")
    for last in range(daily.day("2015-05-08"), len(daily.lines) + 1):
        daily.write(daily.lines[:last])
        for names in features.FEATURES:
            raw, staging, training = daily.run(names=names)
            if last > daily.day("2015-05-08"):
                assert training.new_rows == 1 and (staging.new_rows, raw.new_rows) in ((1, 1), (0, 0))
    same(daily, whole, "big_move-volatility", "big_move-flags")
    assert whole.table("staging")["no_volume"].sum() == (market == "nasdaq")


@pytest.mark.parametrize("market", data.MARKETS)
def test_new_days_in_bulk_equal_the_full_computation(market, tmp_path):
    """Cuts all over the file: in the days that the longest look back needs, in the middle, at the end."""
    whole = Source(tmp_path / "whole", market, first="2014-09-02", last="2015-12-31").write()
    for target in features.TARGETS:
        whole.run(target=target)
    bulk = Source(tmp_path / "bulk", market, first="2014-09-02", last="2015-12-31")
    no_volume = bulk.day("2015-05-12")
    cuts = [68, 69, 80, 134, 135, no_volume, no_volume + 1, no_volume + 2, 240, 300, len(bulk.lines)]
    for before, cut in pairwise([0, *cuts]):
        bulk.write(bulk.lines[:cut])
        for target in features.TARGETS:
            results = bulk.run(target=target)
        assert results[2].new_rows == (cut - before if before else cut - 67)
    same(bulk, whole, "big_move-volatility", "direction-volatility")


def test_a_volume_that_is_missing_for_longer_than_the_look_back(tmp_path):
    whole, daily = Source(tmp_path / "whole", last="2015-04-01"), Source(tmp_path / "daily", last="2015-04-01")
    lines = [line.rpartition(",")[0] + ",0" if 60 <= at < 170 else line for at, line in enumerate(whole.lines)]
    whole.write(lines).run()
    for cut in (160, 165, 171, len(lines)):
        daily.write(lines[:cut]).run()
    same(daily, whole, "big_move-volatility")
    assert whole.table("training")["volume_change"].eq(0).sum() > 100


@pytest.mark.parametrize("names", features.FEATURES)
def test_the_look_back_is_as_long_as_it_must_be_and_no_longer(names, monkeypatch):
    prices = data.load("sp500", end="2000-12-31")
    whole = features.FEATURES[names](prices)
    days = data_pipeline.LOOK_BACK[names]
    assert features.FEATURES[names](prices.iloc[300 - days :]).iloc[days:].equals(whole.iloc[300:])
    assert not features.FEATURES[names](prices.iloc[301 - days :]).iloc[days - 1 :].equals(whole.iloc[300:])


def test_bad_and_missing_days_among_the_new_ones(tmp_path):
    """Also those that lie at the seam: the row before the new ones is bad, or the first new day is missing."""
    whole, daily = (Source(tmp_path / name, first="2013-09-03") for name in ("whole", "daily"))
    lines, at = list(whole.lines), whole.day("2015-03-03")
    lines[at] = lines[at].replace(",", ",x", 1)
    lines[at + 2 : at + 4] = [lines[at + 2].replace(",", ",-", 1), lines[at + 3], lines[at + 3]]
    del lines[at + 6]
    whole.write(lines).run()
    for cut in [*range(at - 1, at + 9), len(lines)]:
        daily.write(lines[:cut]).run()
    same(daily, whole, "big_move-volatility")
    findings = stages.manifest(daily.stages / "sp500" / "staging")["findings"]
    assert (findings["bad"], findings["duplicates"], findings["missing_days"]) == (3, 1, 3)


def test_history_is_not_computed_again(source, monkeypatch):
    source.write(source.lines[:-1]).run()
    seen, examine, dataset = [], contract.examine, features.dataset
    monkeypatch.setattr(contract, "examine", lambda raw, *more: seen.append(len(raw)) or examine(raw, *more))
    monkeypatch.setattr(features, "dataset", lambda prices, *more: seen.append(len(prices)) or dataset(prices, *more))
    results = source.write().run()
    assert seen == [1, 66 + 2] and [result.new_rows for result in results] == [1, 1, 1]
    assert "1 new row appended to" in results[0].said and "1 new good row appended to" in results[1].said


def test_the_end_hides_later_days(source):
    results = source.run(end="2015-01-30")
    assert (
        results[2].manifest["last_day"] == "2015-01-29" and results[2].manifest["made_from"]["last_day"] == "2015-01-30"
    )
    assert outcomes(source.write(source.lines[:-1]).run(end="2015-01-30")) == ["done", "done", "skipped"]
    results = source.run(end="2015-02-27")
    assert outcomes(results) == ["skipped", "skipped", "done"]
    assert "the parameter end is 2015-02-27 and was 2015-01-30" in results[2].said
    with pytest.raises(PipelineError, match="no day up to 2010-01-01"):
        source.run(end="2010-01-01")
    with pytest.raises(PipelineError, match="'soon' is no date"):
        source.run(end="soon")


# What else can happen to days


def test_a_late_day_is_taken_in_and_what_follows_is_computed_anew(source):
    at = source.day("2015-03-03")
    assert source.write([*source.lines[:at], *source.lines[at + 1 :]]).run()[1].findings["missing_days"] == 1
    raw, staging, training = source.write().run()
    assert raw.findings == {"new": 0, "late": 1, "revised": 0, "withdrawn": 0} and "1 late day (2015-03-03)" in raw.said
    assert staging.findings["missing_days"] == 0 and staging.new_rows == len(source.lines)
    assert "anew (2 days differ from before, from 2015-03-03 on)" in staging.said  # the next one is no longer flagged
    assert "from 2015-03-03 on" in training.said
    same(source, fresh(source), "big_move-volatility")


def test_a_late_day_at_the_end_of_the_file_is_taken_in_too(source):
    at = source.day("2015-03-03")
    source.write([*source.lines[:at], *source.lines[at + 1 :]]).run()
    raw, staging, _ = source.write([*source.lines[:at], *source.lines[at + 1 :], source.lines[at]]).run()
    assert raw.new_rows == 1 and staging.new_rows == len(source.lines)
    assert staging.manifest["digest"] == fresh(source.write()).run()[1].manifest["digest"]


def fresh(source: Source) -> Source:
    """The same file, computed by a pipeline that has seen nothing before."""
    other = Source(source.path.parent / "fresh", source.market)
    shutil.copy(source.path, other.path)
    other.run()
    return other


def test_a_revised_value_is_counted_and_computed_anew(source):
    source.run()
    at = source.day("2015-03-03")
    day, opening, *others = source.lines[at].split(",")
    source.lines[at] = ",".join([day, str(float(opening) - 1), *others])
    if float(others[1]) > float(opening) - 1:  # the low stays the lowest
        source.lines[at] = ",".join([day, str(float(opening) - 1), others[0], str(float(opening) - 2), *others[2:]])
    raw, staging, training = source.write().run()
    assert raw.findings["revised"] == 1 and "1 revised day (2015-03-03)" in raw.said
    assert "anew (1 day differs from before, from 2015-03-03 on)" in staging.said
    assert training.outcome == "done" and "from 2015-03-03 on" in training.said
    same(source, fresh(source), "big_move-volatility")


def test_a_number_in_another_spelling_is_no_revision(source):
    source.run()
    at = source.day("2015-03-03")
    source.lines[at] = re.sub(r"(\d\.\d+)", r"\g<1>0", source.lines[at])
    raw, _, training = source.write().run()
    assert raw.findings["revised"] == 0 and raw.outcome == "done" and training.outcome == "skipped"
    same(source, fresh(source), "big_move-volatility")


def test_a_withdrawn_day(source):
    source.run()
    del source.lines[-1]
    raw, staging, training = source.write().run()
    assert raw.findings["withdrawn"] == 1 and outcomes([raw, staging, training]) == DONE
    same(source, fresh(source), "big_move-volatility")


def test_a_missing_day_is_listed_and_flagged_and_not_bad(source):
    del source.lines[source.day("2015-03-03")]
    findings = source.write().run()[1].findings
    assert (findings["missing_days"], findings["after_missing"], findings["bad"]) == (1, 1, 0)
    staging = source.table("staging")
    assert list(staging.index[staging["after_missing"]]) == [pd.Timestamp("2015-03-04")]
    assert stages.manifest(source.stages / "sp500" / "staging")["missing_days"] == ["2015-03-03"]


def test_a_day_twice_and_a_day_with_two_values(source):
    source.run()
    different = source.lines[-1].rpartition(",")[0] + ",7"
    results = source.write([*source.lines, source.lines[-1]]).run()
    assert outcomes(results) == ["done", "done", "skipped"] and results[1].findings["duplicates"] == 1
    assert results[1].manifest["rows"] == len(source.lines)
    results = source.write([*source.lines, different]).run()
    assert results[1].findings["duplicates"] == 2 and results[1].manifest["rows"] == len(source.lines) - 1
    quarantine = data_pipeline.read_quarantine(source.stages / "sp500" / "quarantine.csv")
    assert list(quarantine.index) == [len(source.lines) + 1, len(source.lines) + 2]
    assert list(quarantine["Volume"]) == [source.lines[-1].rpartition(",")[2], "7"]


# Bad rows, and a source that is none


def test_bad_rows_up_to_one_per_cent_go_to_quarantine(source):
    source.lines = source.lines[:200]
    source.lines[50] = source.lines[50].replace(",", ",x", 1)
    day, _, *others = source.lines[100].split(",")
    source.lines[100] = ",".join([day, "ten", *others])
    results = source.write().run()
    assert results[1].findings["bad"] == 2 and results[1].manifest["rows"] == len(source.lines) - 2
    quarantine = data_pipeline.read_quarantine(source.stages / "sp500" / "quarantine.csv")
    assert quarantine.loc[102, ["Date", "Open"]].tolist() == [day, "ten"] and quarantine.loc[102, "reason"]


def test_more_than_one_per_cent_bad_stops_before_anything_downstream_changes(source):
    lines = list(source.lines)
    source.run()
    downstream = source.bytes("staging", "training")
    for at in (10, 50, 90):  # 3 of 253 are 1.2 %
        source.lines[at] = source.lines[at].replace(",", ",x", 1)
    with pytest.raises(TooManyBad) as caught:
        source.write().run()
    message = str(caught.value)
    assert message.startswith(
        f"3 of the {len(lines)} rows of sp500 are bad (1.2%, at most 1% may be), the first in line 12"
    )
    assert caught.value.findings["bad"] == 3 and source.bytes("staging", "training") == downstream
    assert len(data_pipeline.read_quarantine(source.stages / "sp500" / "quarantine.csv")) == 3
    with pytest.raises(TooManyBad):  # it is not forgotten
        source.run()
    source.lines = lines
    results = source.write().run()
    assert "the quarantine file is missing or not of these rows" in results[1].said
    assert data_pipeline.read_quarantine(source.stages / "sp500" / "quarantine.csv").empty
    same(source, fresh(source), "big_move-volatility")


def test_a_source_that_is_no_table_changes_nothing(source):
    source.run()
    before = source.bytes("raw", "staging", "training")
    source.path.write_text("Date,Open,High,Low,Close,Adj Close,Volume\n2020-01-02,1,1")
    with pytest.raises(DataError, match="ends in the middle of a line"):
        source.run()
    assert source.bytes("raw", "staging", "training") == before


def test_a_gap_stops(source):
    at = source.day("2015-03-03")
    with pytest.raises(PipelineError, match="a gap of 13 days before 2015-03-11"):
        source.write([*source.lines[: at - 2], *source.lines[at + 6 :]]).run()


def test_sources(tmp_path):
    source = Source(tmp_path)
    with pytest.raises(PipelineError, match="sp500.csv does not exist"):
        source.run()
    source.write()
    assert (
        data_pipeline.markets_of("all", str(tmp_path)) == ["sp500"] == data_pipeline.markets_of("all", str(source.path))
    )
    assert data_pipeline.markets_of("all", "embedded") == ["nasdaq", "sp500"]
    assert data_pipeline.markets_of("b, a,b", str(tmp_path)) == ["b", "a"]
    assert load_raw(source.stages, "sp500", str(tmp_path)).manifest["source"] == source.path.as_posix()
    refusals = {
        ("all", "yahoo:^GSPC"): "one ticker",
        ("a,b", "yahoo:^GSPC"): "the source of one market, not of 2",
        ("a,b", str(source.path)): "the source of one market, not of 2",
        (",", str(tmp_path)): "no market is named",
        ("../a", str(tmp_path)): "no name of a market",
        ("all", str(tmp_path / "none")): "does not exist",
    }
    for (market, place), reason in refusals.items():
        with pytest.raises(PipelineError, match=reason):
            data_pipeline.markets_of(market, place)
    with pytest.raises(PipelineError, match="dax.csv cannot be read"):
        load_raw(source.stages, "dax", str(tmp_path))


def test_a_live_ticker(tmp_path, monkeypatch):
    """As `pystock.data.download` returns it; the network itself is not asked."""
    prices = data.load("sp500", "2014-07-01", "2015-07-01")
    monkeypatch.setattr(data, "download", lambda ticker, start, end: prices if ticker == "^GSPC" else None)
    assert load_raw(tmp_path, "gspc", "yahoo:^GSPC").manifest["source"] == "yahoo:^GSPC"
    assert check(tmp_path, "gspc").findings["bad"] == 0
    assert stages.read(tmp_path / "gspc" / "staging")[data.COLUMNS].equals(prices)
    assert load_raw(tmp_path, "gspc", "yahoo:^GSPC").outcome == "skipped"


# When a step is skipped


def test_an_unchanged_rerun_is_skipped_and_changes_no_file(source):
    assert outcomes(source.run()) == DONE
    before = source.bytes("")
    results = source.run()
    assert outcomes(results) == SKIPPED and source.bytes("") == before
    assert results[1].findings["rows"] == len(source.lines) and "skipped, input, parameters and code" in results[1].said
    source.path.touch()  # a copy with another time is no change
    assert outcomes(source.run()) == SKIPPED


def test_force(source):
    source.run()
    results = source.run(force=True)
    assert outcomes(results) == DONE and all(result.said.endswith("since it was forced") for result in results)


def test_another_question_runs_the_feature_step_alone(source):
    source.run()
    for question in ({"target": "direction"}, {"names": "flags"}):
        assert outcomes(source.run(**question)) == ["skipped", "skipped", "done"]
    assert outcomes(source.run()) == SKIPPED  # and the first table is still there


def test_another_feature_set_of_ones_own(source, monkeypatch):
    monkeypatch.setitem(features.FEATURES, "last_return", lambda prices: features.log_returns(prices).to_frame())
    source.write(source.lines[:-1]).run(names="last_return")
    assert outcomes(source.run(names="last_return")) == SKIPPED
    monkeypatch.setitem(features.FEATURES, "last_return", lambda prices: 2 * features.log_returns(prices).to_frame())
    results = source.run(names="last_return")
    assert outcomes(results) == ["skipped", "skipped", "done"] and "the code has changed" in results[2].said
    assert source.write().run(names="last_return")[2].new_rows == len(source.lines) - 2  # its look back is not known
    with pytest.raises(PipelineError, match="'none' is no feature set: choose one of flags, volatility, last_return"):
        source.run(names="none")
    with pytest.raises(PipelineError, match="'none' is no target"):
        source.run(target="none")


def test_changed_code_and_another_schema(source, monkeypatch):
    source.run()
    other = source.path.with_name("contract.py")
    shutil.copy(contract.__file__, other)
    monkeypatch.setattr(contract, "__file__", str(other))
    assert outcomes(source.run()) == SKIPPED
    other.write_text(other.read_text() + "# another word\n")
    results = source.run()
    assert outcomes(results) == ["skipped", "done", "skipped"] and "since the code has changed" in results[1].said
    monkeypatch.setattr(stages, "SCHEMA_VERSION", "2")
    results = source.run()
    assert outcomes(results) == DONE and "the schema's version is 2 and was 1" in results[0].said


def test_another_calendar_runs_the_check(source):
    source.run()
    result = check(source.stages, "sp500", exchange="24/7")
    assert "the parameter exchange is 24/7 and was XNYS" in result.said and result.findings["missing_days"] == 113
    result = check(source.stages, "sp500", exchange="XNYS")
    assert "the parameter exchange is XNYS and was 24/7" in result.said


def test_files_that_are_gone_are_made_again(source):
    source.run()
    for stage, index in (("raw", 0), ("staging", 1)):
        next((source.stages / "sp500" / stage).glob("part-*")).unlink()
        results = source.run()
        assert results[index].outcome == "done" and "a file of it is missing or cut" in results[index].said
        assert outcomes(results).count("done") == 1  # the others find the digest that they know
    (source.stages / "sp500" / "quarantine.csv").unlink()
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
    assert outcomes(results) == DONE and "not in this store, or did not finish" in results[0].said
    assert [result.manifest["made_by"] for result in results] == ["b", "b", "b"]


# The profile


def test_the_profile_shows_what_was_found():
    raw = data.read_rows(data.embedded_folder() / "nasdaq.csv", "")
    raw.loc[77, "Close"] = "<b>"
    good, quarantine, missing = contract.examine(raw)
    page = profile.page(good, quarantine, missing, "nasdaq & more")
    assert "<title>nasdaq &amp; more</title>" in page and "&lt;b&gt;" in page and "<b>" not in page
    assert page.count("<img") == page.count('alt="') == page.count("data:image/png;base64,") == 2
    for text in ("2015-05-12, 2018-01-09", raw.loc[77, "Date"], "a value is missing or no number", "5,030"):
        assert text in page, text
    assert "http" not in page and len(page) < 500_000
    share = profile.shares_of_stale_opens(good)
    bars = profile.stale_opens_by_year(good).axes[0]
    assert [
        bar.get_height() for bar in bars.patches
    ] == share.tolist() and bars.get_ylabel() == "stale opens (% of days)"
    marks = profile.closes_and_volumes(good).axes[1].lines[1].get_xdata()
    assert list(pd.DatetimeIndex(marks).strftime("%Y-%m-%d")) == ["2015-05-12", "2018-01-09"]


def test_the_profile_of_nothing():
    raw = data.read_rows(data.embedded_folder() / "sp500.csv", "").head(3).assign(Open="x")
    assert "no good row" in profile.page(*contract.examine(raw), "nothing")


# In MLflow


@pytest.fixture
def tracking(empty_store, tmp_path):
    """A fresh embedded store in use; gives its URI."""
    place = tmp_path / "Speicher für alle"
    store.copy(empty_store, place)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store.uri(place))
    mlflow.create_experiment("data", artifact_location=store.artifact_root(place))
    mlflow.set_experiment("data")
    yield store.uri(place)
    mlflow.set_tracking_uri(before)
    mlflow.tracking.fluent._active_experiment_id = None


def run_main(folder: Path, **more) -> list:
    """The project's main in this process; the runs that it has made, its own first."""
    chosen = {"market": "all", "source": str(folder), "stages": str(folder / "stages"), "target": "big_move"}
    options = Namespace(**(chosen | {"features": "volatility", "end": "", "exchange": "XNYS", "force": False} | more))
    seen = {run.info.run_id for run in mlflow.search_runs(output_format="list")}
    claim = data_runs.claim(options.stages)
    with pipeline.run(data_runs.PIPELINE, "main", {"market": options.market}, claim=claim) as step:
        data_runs.run_steps(step, data_runs.markets(options), options)
    return [run for run in mlflow.search_runs(output_format="list") if run.info.run_id not in seen][::-1]


def artifacts(run) -> set[str]:
    client, found, folders = mlflow.MlflowClient(), set(), [""]
    while folders:
        for item in client.list_artifacts(run.info.run_id, folders.pop()):
            folders.append(item.path) if item.is_dir else found.add(item.path)
    return found


def test_what_the_steps_leave_in_mlflow(tracking, tmp_path, capsys):
    """Two markets, one with a bad row: one run a step, and a run for each table."""
    for market in data.MARKETS:
        source = Source(tmp_path, market)
        if market == "nasdaq":
            source.lines[7] = source.lines[7].replace(",", ",x", 1)
        source.write()
    main, raw, staging, nasdaq, sp500 = first = run_main(tmp_path)
    assert [run.data.tags["outcome"] for run in first] == ["done"] * 5
    assert {run.data.tags.get("mlflow.parentRunId") for run in first[1:]} == {main.info.run_id}
    assert artifacts(raw) == {"raw/nasdaq.manifest.json", "raw/sp500.manifest.json"}
    assert {"contract.yaml", "quarantine/nasdaq.csv", "profile/nasdaq.html", "profile/sp500.html"} < artifacts(staging)
    assert "quarantine/sp500.csv" not in artifacts(staging)
    rows = 2 * len(source.lines)
    assert (
        staging.data.metrics | {"rows": rows - 1, "new_rows": rows - 1, "bad": 1, "no_volume": 1}
        == staging.data.metrics
    )
    assert [(item.dataset.name, item.tags[0].value) for item in raw.inputs.dataset_inputs] == [
        ("nasdaq-raw", "raw"),
        ("sp500-raw", "raw"),
    ]
    for market, run in (("nasdaq", nasdaq), ("sp500", sp500)):
        assert artifacts(run) == {f"training/{market}.parquet", f"training/{market}.manifest.json"}
        (found,) = run.inputs.dataset_inputs
        assert (found.dataset.name, found.dataset.digest) == (f"{market}-big_move-volatility", run.data.tags["digest"])
        assert found.tags[0].value == "training" and run.data.tags["market"] == market
        place = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=f"training/{market}.parquet")
        table = pd.read_parquet(place)
        assert table.dtypes.iloc[-1] == "int64" and table.columns[-1] == "big_move" and table.index.name == "Date"
        described = mlflow.data.from_pandas(table.astype({"big_move": float}), targets="big_move")
        assert described.digest == run.data.tags["digest"]
        manifest = json.loads((tmp_path / "stages" / market / "training/big_move-volatility/manifest.json").read_text())
        assert manifest["made_by"] == run.info.run_id and manifest["digest"] == stages.digest(table)

    again = run_main(tmp_path)
    assert [run.data.tags["outcome"] for run in again] == ["skipped"] * 5
    assert [run.data.tags["made_by"] for run in again[1:]] == [run.info.run_id for run in first[1:]]
    assert not any(run.inputs.dataset_inputs or artifacts(run) for run in again)

    mlflow.delete_run(sp500.info.run_id)
    mlflow.MlflowClient().set_terminated(raw.info.run_id, "FAILED")
    mended = run_main(tmp_path)
    assert [run.data.tags["outcome"] for run in mended] == ["done", "done", "skipped", "skipped", "done"]


def test_a_stop_at_the_check_is_told_and_keeps_the_quarantine(tracking, tmp_path):
    source = Source(tmp_path)
    source.write([line.replace(",", ",x", 1) if at % 50 == 0 else line for at, line in enumerate(source.lines)])
    with pytest.raises(SystemExit, match=r"pystock-data-features, main: 6 of the 253 rows of sp500 are bad"):
        run_main(tmp_path, market="sp500")
    staging, raw, main = mlflow.search_runs(output_format="list")
    assert (main.info.status, raw.info.status, staging.info.status) == ("FAILED", "FINISHED", "FAILED")
    assert main.data.tags["failed_step"] == "check_verify_data" and main.data.tags["failed_because"].startswith("6 of")
    assert artifacts(staging) == {"quarantine/sp500.csv"} and staging.data.metrics["bad"] == 6
    assert not (tmp_path / "stages" / "sp500" / "staging").exists()


def test_two_at_once_and_one_that_was_killed(tracking, tmp_path):
    """A run of a process that lives refuses the next; one of a process that is gone is ended by it."""
    Source(tmp_path / "it's mine").write()
    claim, me = data_runs.claim(str(tmp_path / "it's mine" / "stages")), runs.this_process()
    other = mlflow.MlflowClient().create_run("1", tags={"claim": claim, "process": me, "ticket": "1"}).info.run_id
    with pytest.raises(SystemExit, match=f"the run {other} on .* has been at the stages in .* since 20"):
        run_main(tmp_path / "it's mine", market="sp500")
    machine, _, begun = me.split("|")
    mlflow.MlflowClient().set_tag(other, "process", f"{machine}|{2**22 + 1}|{begun}")
    assert run_main(tmp_path / "it's mine", market="sp500")[0].data.tags["outcome"] == "done"
    assert mlflow.get_run(other).info.status == "KILLED"


# The project


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
