"""The gate on real models: each condition with its number, and no day that a model was trained on."""

import re

import mlflow
import pandas as pd
import pytest
from mlflow.types import ColSpec, Schema
from recalling_models import TAGS, TRAINED, days, predict_here, registering

from pystock import registry, tuning
from pystock.data import load
from pystock.evaluation import TEST_END, rolling_base_rate, time_split
from pystock.features import dataset
from pystock.models import log_decision_model, trained_until
from pystock.registry import gate

__all__ = ["days"]  # a fixture


@pytest.fixture
def register(tracked, tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "predict_elsewhere", predict_here)
    return registering(tmp_path)


@pytest.fixture(scope="module")
def held_out(days):
    X_test, y_test, _ = days
    _, y = dataset(load("sp500", end=TEST_END), "big_move", "volatility")
    return X_test, y_test, rolling_base_rate(y, y_test.index)


@pytest.fixture
def failures(held_out):
    """The conditions that failed, by name, with their evidence."""

    def failures(version, champion=None, after="2009", **options):
        later = [each[each.index > after] for each in held_out]
        against = champion and f"models:/candidates/{champion}"
        judged = registry.judge(f"models:/candidates/{version}", *later, against, **options)
        return {condition.name: condition.evidence for condition in judged if not condition.passed}

    return failures


def test_each_condition_fails_alone_and_with_others(register, days, failures):
    _, y, good = days
    assert failures(register(good, outputs=None)) == {"signature": "it does not declare its outputs"}
    assert failures(register(good, outputs=Schema([ColSpec("double", "p")]))) == {"signature": "12 inputs, outputs p"}
    assert failures(register(good, outputs=Schema([ColSpec("double", "probability"), ColSpec("double", "p")]))) == {}
    flat = pd.Series(0.24, good.index)  # the held-out years' own rate: better than the rolling one, but not surely
    failed = failures(register(flat))
    assert list(failed) == ["reference"] and "Brier skill +0.000 [-0.044, +0.045]" in failed["reference"], failed
    champion, worse, worst = register(good), register(0.6 * good + 0.4 * flat), register(1 - good)
    failed = failures(worse, champion)
    assert list(failed) == ["champion"] and failed["champion"].startswith("Brier difference +0.00"), failed
    assert failed["champion"].endswith("; must end below +0.002")
    assert failures(worse, champion, margin=0.05) == {} and failures(champion, champion) == {}
    assert failures(register(0.9 * good + 0.1 * y), champion) == {}
    failed = failures(worst, champion)
    assert list(failed) == ["score", "reference", "champion"]
    assert re.fullmatch(r"Brier score 0\.\d{4}, the reference has 0\.\d{4}", failed["score"])


def test_promote_logs_the_numbers_and_the_evidence(register, days, held_out):
    good = register(days[2])
    assert all(each.passed for each in registry.promote("candidates", good, *held_out, why="the first"))
    run = mlflow.get_run(mlflow.MlflowClient().get_model_version("candidates", str(good)).tags["promotion"])
    skill = run.data.metrics["brier_skill_value"]
    assert f"Brier skill {skill:+.3f}" in run.data.tags["evidence"]
    assert run.data.metrics["mean_squared_error"] == pytest.approx(((days[2] - days[1]) ** 2).mean())
    with pytest.raises(registry.Refused, match="2 of 7 conditions failed.\n- reference: .*\n- champion: .*$"):
        registry.promote("candidates", register(pd.Series(0.24, days[2].index)), *held_out, why="a try")


def test_a_condition_of_ones_own_is_added(register, days, failures):
    def few_alarms(case):
        share = (case.probability > 0.25).mean()
        return registry.Condition("alarms", share < 0.2, f"alarms on {share:.0%} of the days; at most 20 %")

    own = [*registry.CONDITIONS, few_alarms]
    assert list(failures(register(days[2]), conditions=own)) == ["alarms"]


def test_forecasts_that_are_not_probabilities_fail(register, days, failures):
    for wrong, reason in ((days[2] + 1, ".*give probabilities"), (days[2].where(days[2] > 0.1), "has .* missing")):
        failed = failures(register(wrong))
        assert re.match(f"cannot be judged: probability {reason}", failed["beats_reference"])


def test_rows_that_differ_are_named(register, days, held_out):
    X, y, reference = held_out
    for wrong in ((X, y.iloc[1:], reference), (X, y, reference[::-1]), (pd.concat([X, X]), y, reference)):
        with pytest.raises(ValueError, match="different rows, or rows twice: select them with .loc"):
            registry.judge("models:/candidates/1", *wrong)


def perfect(days):
    """A forecast that only a model can make that has seen the days."""
    return 0.05 + 0.9 * days[1].astype(float)


def test_training_days_among_the_held_out_days_are_refused_with_both_dates(register, days, failures, held_out):
    version = register(perfect(days), tags=TAGS | {"train_end": "2013-12-31"})
    reason = "was trained up to 2013-12-31, and is judged from 2010-01-04"
    failed = failures(version)
    assert list(failed) == ["unseen rows"] and failed["unseen rows"].endswith(reason)
    with pytest.raises(registry.Refused, match=reason):
        registry.promote("candidates", version, *held_out, why="it is so good")
    assert not mlflow.MlflowClient().get_registered_model("candidates").aliases
    # the first day is enough, and the day before it is not among them
    assert list(failures(register(days[2], tags=TAGS | {"train_end": "2010-01-04"}))) == ["unseen rows"]
    assert failures(register(days[2], tags=TAGS | {"train_end": "2010-01-03"})) == {}


def test_a_champion_that_has_seen_the_days_is_refused_and_both_are_compared_on_later_ones(register, days, failures):
    _, y, good = days
    cheat = perfect(days).where(y.index <= "2012-12-31", 0.5)  # knows its training days by heart, and nothing else
    champion = register(cheat, tags=TAGS | {"train_end": "2012-12-31"})
    candidate = register(good)
    assert "was trained up to 2012-12-31" in failures(candidate, champion)["unseen rows"]
    assert list(failures(candidate, champion, after="2013")) == ["reference"]  # two years are few


def test_the_latest_recorded_end_of_training_counts(tracked):
    """What a model says of itself, a parameter and a tag of its run: none can hide a later one."""
    X, _, y, _ = time_split(*dataset(load("sp500", end=TEST_END), "big_move", "volatility"), "2011-12-31")
    client = mlflow.MlflowClient()
    with mlflow.start_run(tags=TRAINED) as run:  # the tag says 2009
        mlflow.log_param("train_end", "2009-12-31")
        info = log_decision_model(tuning.build("logistic").fit(X, y), X, threshold=0.25)
    assert f"{trained_until(info):%Y-%m-%d}" == "2011-12-29"
    client.set_tag(run.info.run_id, "train_end", "2012-06-29")
    assert f"{trained_until(info):%Y-%m-%d}" == "2012-06-29"


@pytest.mark.parametrize(("tags", "reason"), [
    (TAGS, "its last training day is not recorded: set it as the tag train_end of its run, as 2009-12-31"),
    (TAGS | {"train_end": "last year"}, "its last training day is recorded as last year: write it as 2009-12-31"),
])  # fmt: skip
def test_a_model_that_does_not_say_where_its_training_ended_is_refused(register, days, tags, reason, failures):
    version = register(days[2], tags=tags)
    assert failures(version)["unseen rows"].endswith(reason)
    run_id = mlflow.MlflowClient().get_model_version("candidates", version).run_id
    mlflow.MlflowClient().set_tag(run_id, "train_end", "2009-12-31")  # as the message advises
    assert failures(version) == {}
