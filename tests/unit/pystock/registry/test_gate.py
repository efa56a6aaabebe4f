"""The gate on real models: each condition with its number, and no day that a model was trained on."""

import importlib
import re

import mlflow
import pandas as pd
import pytest
from mlflow.types import ColSpec, Schema
from recalling_models import TAGS, TRAINED, days, predict_here, registering

from pystock import registry, tuning
from pystock.data import load
from pystock.evaluation import TEST_END, time_split
from pystock.features import dataset
from pystock.models import log_decision_model

__all__ = ["days"]  # a fixture
gate = importlib.import_module("pystock.registry.gate")  # the package's function of that name hides it


@pytest.fixture
def register(tracked, tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "_clean_process", predict_here)
    return registering(tmp_path)


def failures(version, **options):
    """The conditions that failed, by name, with their evidence."""
    conditions = registry.gate("candidates", version, **options)
    assert [condition.name for condition in conditions] == ["signature", "base rate", "champion", "clean process"]
    return {condition.name: condition.evidence for condition in conditions if not condition.passed}


def evidence(version, name, **options):
    return next(each.evidence for each in registry.gate("candidates", version, **options) if each.name == name)


def set_champion(version):
    mlflow.MlflowClient().set_registered_model_alias("candidates", "champion", str(version))


def test_each_condition_fails_alone_and_with_others(register, days, monkeypatch):
    _, y, good = days
    assert failures(register(good, outputs=None)) == {"signature": "it does not declare its outputs"}
    other = Schema([ColSpec("double", "probability"), ColSpec("double", "p")])
    assert failures(register(good, outputs=other)) == {}
    flat = pd.Series(0.24, good.index)  # the held-out years' own rate: better than the rolling one, but not surely
    failed = failures(register(flat))
    assert list(failed) == ["base rate"] and "Brier skill +0.000 [-0.044, +0.045]" in failed["base rate"], failed
    registry.promote("candidates", register(good), why="the first")
    worse = 0.6 * good + 0.4 * flat
    failed = failures(register(worse))
    assert list(failed) == ["champion"] and failed["champion"].startswith("Brier score +0.00"), failed
    assert failed["champion"].endswith("; the interval must be below +0.002")
    with monkeypatch.context() as patch:
        patch.setattr(gate, "MARGIN", 0.05)
        assert failures(register(worse)) == {}
    assert failures(register(0.9 * good + 0.1 * y)) == {}
    unnamed = register(flat, outputs=Schema([ColSpec("double", "p")]))
    assert list(failures(unnamed)) == ["signature", "base rate", "champion"]
    with pytest.raises(registry.Refused, match="2 of 4 conditions failed.\n- base rate: .*\n- champion: .*$"):
        registry.promote("candidates", register(flat), why="a try")


def test_forecasts_that_are_not_probabilities_fail(register, days):
    for wrong, reason in ((days[2] + 1, ".*give probabilities"), (days[2].where(days[2] > 0.1), "has .* missing")):
        failed = failures(register(wrong))
        assert list(failed) == ["base rate"]
        assert re.match(f"cannot be judged: probability {reason}", failed["base rate"])


def test_a_version_without_a_question_fails_with_what_is_missing(register, days):
    client = mlflow.MlflowClient()
    for tags, reason in (
        ({"target": "big_move"}, "its source run lacks the tag features, market; set it there"),
        (TRAINED | {"market": "dax"}, "the tags of its source run are invalid ('dax' is not an embedded market"),
        (TRAINED | {"target": "luck"}, "the tags of its source run are invalid ('luck' is not a target"),
    ):
        failed = failures(register(days[2], tags=tags))
        assert list(failed) == ["base rate", "champion", "clean process"]
        assert all(reason in evidence for evidence in failed.values()), failed
    version = client.create_model_version("candidates", source="s3://nowhere/model").version
    failed = failures(version)
    assert len(failed) == 4 and "its files cannot be read" in failed["signature"]
    assert failed["base rate"].startswith("cannot be judged: it has no source run")
    gone = register(days[2])
    client.delete_run(client.get_model_version("candidates", gone).run_id)
    assert failures(gone) == {}, "a deleted run can still be read"


def test_a_champion_of_other_features_is_compared_and_one_of_another_question_is_not(register, days, monkeypatch):
    X_test, _, good = days
    mine = register(good)
    set_champion(mine)
    assert failures(mine) == {}
    other = register(good, tags=TRAINED | {"target": "direction"})
    assert failures(other)["champion"] == "cannot be compared with version 1: that version forecasts big_move on sp500"
    jobs = []
    monkeypatch.setattr(gate, "_clean_process", lambda now: jobs.extend(now) or [good.to_numpy() for _ in now])
    assert failures(register(good, tags=TRAINED | {"features": "flags"})) == {}
    flags = dataset(load("sp500", end=TEST_END), "big_move", "flags")[0]
    assert [list(rows) for _, rows in jobs] == [list(flags), list(X_test)]
    # a champion that does not load is not held against the base rate
    monkeypatch.setattr(gate, "_clean_process", lambda jobs: [good.to_numpy(), "OSError: gone"])
    assert failures(register(good)) == {"champion": "cannot be compared with version 1: OSError: gone"}


def perfect(days):
    """A forecast that only a model can make that has seen the days."""
    return 0.05 + 0.9 * days[1].astype(float)


def test_training_data_that_overlap_the_evaluation_days_are_refused_with_both_dates(register, days):
    version = register(perfect(days), tags=TAGS | {"train_end": "2013-12-31"})
    reason = (
        "it was trained on days up to 2013-12-31, which overlap the evaluation days that begin on 2010-01-04; "
        "evaluate it on later days, with evaluate_after='2013-12-31'"
    )
    lost = dict.fromkeys(("base rate", "champion"), f"cannot be judged: {reason}")
    assert failures(version) == lost | {"clean process": f"not tried: {reason}"}
    with pytest.raises(registry.Refused, match="up to 2013-12-31, which overlap the evaluation days .* 2010-01-04"):
        registry.promote("candidates", version, why="it is so good")
    assert not mlflow.MlflowClient().get_registered_model("candidates").aliases
    # one day is enough, and the day before the first is not an overlap
    assert "overlap" in failures(register(days[2], tags=TAGS | {"train_end": "2010-01-04"}))["base rate"]
    assert failures(register(days[2], tags=TAGS | {"train_end": "2010-01-03"})) == {}


def test_a_model_trained_to_2011_is_judged_on_2012_to_2014(register, days):
    _, y, good = days
    version = register(good.where(good.index > "2011-12-31"), tags=TAGS | {"train_end": "2011-12-31"})
    assert failures(version, evaluate_after="2011-12-31") == {}
    seen = evidence(version, "base rate", evaluate_after="2011-12-31")
    assert f"against the rolling base rate on {(y.index > '2011-12-31').sum()} days from 2012-01-03;" in seen
    blind = register(good.where(good.index < "2012", 0.9), tags=TAGS | {"train_end": "2011-12-31"})
    assert "base rate" in failures(blind, evaluate_after="2011-12-31"), "its skill is on days that it has seen"


def test_the_latest_recorded_end_of_training_counts(register, days):
    """What a model says of itself, a parameter and a tag of its run: none can hide a later one."""
    X, _, y, _ = time_split(*dataset(load("sp500", end=TEST_END), "big_move", "volatility"), "2011-12-31")
    client = mlflow.MlflowClient()
    with mlflow.start_run(tags=TRAINED) as run:  # the tag says 2009
        mlflow.log_param("train_end", "2009-12-31")
        info = log_decision_model(tuning.build("logistic").fit(X, y), X, threshold=0.25)
    version = client.create_model_version("candidates", info.model_uri, run.info.run_id, model_id=info.model_id).version
    assert "up to 2011-12-29, which overlap" in failures(version)["base rate"]
    client.set_tag(run.info.run_id, "train_end", "2012-06-29")
    assert "up to 2012-06-29, which overlap" in failures(version)["base rate"]


@pytest.mark.parametrize(("train_end", "evaluate_after", "reason"), [
    ("2015-06-30", "2009-12-31", "days up to 2015-06-30, but the evaluation days end on 2014-12-30, so no day is"),
    ("2015-06-30", "2015-06-30", "0 evaluation days are left after 2015-06-30, because they end on 2014-12-31"),
    ("2014-03-31", "2014-03-31", "190 evaluation days are left after 2014-03-31, .* but an interval needs 250"),
])  # fmt: skip
def test_no_day_or_too_few_days_left_are_refused_with_the_reason(register, days, train_end, evaluate_after, reason):
    version = register(days[2], tags=TAGS | {"train_end": train_end})
    assert re.search(reason, failures(version, evaluate_after=evaluate_after)["base rate"])


@pytest.mark.parametrize(("tags", "reason"), [
    (TAGS, "the days that it was trained on are not recorded; add the last one to its source run with "),
    (TAGS | {"train_end": "last year"}, "its last training day is recorded as last year; write a date as 2009-12-31"),
])  # fmt: skip
def test_a_model_that_does_not_say_where_its_training_ended_is_refused(register, days, tags, reason):
    version = register(days[2], tags=tags)
    assert reason in failures(version)["base rate"]
    run_id = mlflow.MlflowClient().get_model_version("candidates", version).run_id
    mlflow.MlflowClient().set_tag(run_id, "train_end", "2009-12-31")  # as the message advises
    assert failures(version) == {}


def test_the_champion_is_compared_on_days_that_neither_has_seen(register, days):
    _, y, good = days
    cheat = perfect(days).where(y.index <= "2012-12-31", 0.5)  # knows its training days by heart, and nothing else
    set_champion(register(cheat, tags=TAGS | {"train_end": "2012-12-31"}))
    candidate = register(good)
    assert failures(candidate) == {}
    seen = evidence(candidate, "champion")
    assert f"against version 1 on {(y.index > '2012-12-31').sum()} days from 2013-01-02; the interval" in seen
    assert "on" not in evidence(candidate, "base rate").partition(" against the rolling base rate")[2].partition(";")[0]
    set_champion(register(good, tags=TAGS | {"train_end": "2014-06-30"}))
    assert failures(register(good)) == {
        "champion": "cannot be compared with version 3: it was trained on days up to 2014-06-30, which leaves 127 of "
        "the evaluation days from 2010-01-04 to 2014-12-30, but an interval needs 250"
    }
    set_champion(register(good, tags=TAGS))
    assert "version 5: the days that it was trained on are not recorded" in failures(candidate)["champion"]
