"""The steps of the training pipeline: what each leaves, what is skipped, and a registry without loose ends."""

import json
import re
from unittest.mock import Mock

import mlflow
import pandas as pd
import pytest
from promotions import champion, passes
from recalling_models import predict_here
from training_runs import FAST, QUESTION, data_run, in_a_run, versions

from pystock import evaluation, registry, training, tuning
from pystock.models import log_decision_model
from pystock.pipeline import PipelineError, finished_runs
from pystock.registry import gate, promotion
from pystock.training import steps


@pytest.fixture(autouse=True)
def no_process(monkeypatch):
    """The gate predicts in this process."""
    monkeypatch.setattr(gate, "predict_elsewhere", predict_here)


def test_a_model_can_be_traced_to_the_very_rows(tracked):
    made, model = tracked
    run = mlflow.get_run(mlflow.get_logged_model(model).source_run_id)
    about = QUESTION | {"family": "logistic", "data_run": made, "threshold": "0.25", "model": model}
    assert about.items() <= run.data.tags.items()
    assert {"C": "0.1", "train_end": "2009-12-31"}.items() <= run.data.params.items()
    (given,) = run.inputs.dataset_inputs  # chapter 14 computes its digest
    assert (given.dataset.name, given.tags[0].value) == ("sp500-big_move-volatility", "training")
    assert json.loads(given.dataset.source)["uri"] == f"runs:/{made}/training/sp500.parquet"


def test_what_evaluate_leaves(tracked):
    made, model = tracked
    (run,) = finished_runs({"step": "evaluate_model", "model": model})
    path = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="test_predictions.csv")
    found = pd.read_csv(path, parse_dates=["date"], index_col="date")
    rows = training.table(made, **QUESTION)
    assert (found["outcome"] == rows.loc[found.index, "big_move"]).all()
    assert (found["decision"] == (found["probability"] > 0.25)).all()
    answer = mlflow.pyfunc.load_model(f"models:/{model}").predict(rows.loc[found.index].drop(columns="big_move"))
    assert (answer["probability"].to_numpy() == found["probability"].to_numpy()).all()

    scores = run.data.metrics
    expected = training.nine_metrics(found["outcome"], found["probability"], training.THRESHOLD)
    assert expected.items() <= scores.items()
    reference = evaluation.rolling_base_rate(rows["big_move"], found.index)
    skill = evaluation.skill(found["outcome"], found["probability"], reference)
    assert [scores[f"brier_skill_{end}"] for end in ("value", "low", "high")] == list(skill)
    logged = mlflow.get_logged_model(model)
    source = mlflow.get_run(logged.source_run_id)
    assert source.data.metrics["brier_skill_low"] == skill.low  # where chapter 11's lineage looks
    (held_out,) = run.inputs.dataset_inputs
    linked = {each.key: each.dataset_digest for each in logged.metrics if each.run_id == run.info.run_id}
    assert (linked["average_precision"], held_out.tags[0].value) == (held_out.dataset.digest, "evaluation")
    assert [each.model_id for each in mlflow.get_run(run.info.run_id).inputs.model_inputs] == [model]
    again, forced = (in_a_run(training.evaluate, model, force=force) for force in (False, True))
    assert (again.outcome, again.found["brier_skill_low"], forced.outcome) == ("skipped", skill.low, "done")


def test_without_promote_a_passing_model_is_approved_and_waits(tracked, monkeypatch):
    _, model = tracked
    monkeypatch.setattr(promotion, "judge", passes)
    monkeypatch.setattr(registry, "judge", passes)
    waits = in_a_run(training.register, model, promote=False)
    assert waits.found["gate"] == "passed" and status() == "approved"
    assert champion("pystock-big-move") is None
    assert in_a_run(training.register, model, promote=False).outcome == "skipped"
    assert in_a_run(training.register, model).outcome == "done"
    assert champion("pystock-big-move") == 1 and versions()[0].tags["promotion"]


def test_force_asks_the_gate_again(tracked, monkeypatch):
    _, model = tracked
    monkeypatch.setattr(promotion, "judge", lambda *_: [passes()[0]._replace(passed=False)])
    assert in_a_run(training.register, model).found["gate"] == "refused"
    monkeypatch.setattr(promotion, "judge", passes)
    assert in_a_run(training.register, model).outcome == "skipped"
    for _ in range(2):  # the second time it is the champion already
        assert in_a_run(training.register, model, force=True).found["gate"] == "passed"
        assert len(versions()) == 1 and status() == "approved" and champion("pystock-big-move") == 1


def test_a_worthless_model_that_has_seen_the_test_years_is_not_promoted(tracked):
    """Trained to 2013 and overfitted: perfect on the days that it has seen, worse than the base rate on those after."""
    assert in_a_run(training.register, tracked[1]).found["gate"] == "passed"
    overfitted = "max_depth=6,learning_rate=0.3,n_estimators=200,min_child_weight=0,subsample=1"
    model = in_a_run(training.train, **QUESTION, settings=overfitted, train_end="2013-12-31").model
    scores = in_a_run(training.evaluate, model)
    assert scores.found["brier_skill_value"] < 0 and "on 251 held-out days" in scores.said
    verdict = in_a_run(training.register, model)
    assert verdict.found["gate"] == "refused" and status(2) == "rejected"
    assert re.search("reference: Brier skill -.* on 251 rows.*; champion: Brier difference \\+", verdict.said)
    assert champion("pystock-big-move") == 1


@pytest.mark.parametrize("changed", [
    {"family": "xgboost"}, {"settings": "C=0.2"}, {"seed": 1}, {"threshold": 0.3}, {"force": True},
    {"train_end": "2008-12-31"}, {"test_end": "2013-12-31"},
], ids=lambda changed: next(iter(changed)))  # fmt: skip
def test_what_has_changed_is_trained_again(tracked, changed):
    _, model = tracked
    again = in_a_run(training.train, **QUESTION | FAST | changed)
    assert again.outcome == "done" and again.model != model
    assert in_a_run(training.train, **QUESTION | FAST | changed | {"force": False}).model == again.model


def test_other_rows_other_versions_and_other_code_are_trained_again(tracked, monkeypatch):
    made, model = tracked
    rows = training.table(made, **QUESTION)
    rows.iloc[100, 0] += 1e-12
    data_run(rows)  # the newest
    assert in_a_run(training.train, **QUESTION, **FAST).outcome == "done"
    assert in_a_run(training.train, **QUESTION, **FAST, data=made).outcome == "skipped"
    monkeypatch.setattr(steps, "_libraries", lambda family: {"scikit-learn": "2.0"})
    assert in_a_run(training.train, **QUESTION, **FAST, data=made).outcome == "done"
    monkeypatch.undo()
    monkeypatch.setitem(steps.CODE, "fit", "another")
    assert in_a_run(training.train, **QUESTION, **FAST, data=made).outcome == "done"


def test_a_model_whose_run_or_data_run_was_deleted_is_trained_again(tracked):
    made, model = tracked
    client = mlflow.MlflowClient()
    client.delete_run(made)
    again = in_a_run(training.train, **QUESTION, **FAST)
    assert again.outcome == "done" and "so the embedded prices were used" in again.said
    client.delete_run(again.made_by)
    assert in_a_run(training.train, **QUESTION, **FAST).outcome == "done"
    client.delete_logged_model(in_a_run(training.train, **QUESTION, **FAST).model)
    assert in_a_run(training.train, **QUESTION, **FAST).outcome == "done"


def test_a_market_of_ones_own_is_trained_and_scored_and_judged(tracked):
    data_run(training.table("embedded", **QUESTION), market="mine")
    model = in_a_run(training.train, **QUESTION | {"market": "mine"}, **FAST).model
    assert in_a_run(training.evaluate, model).found["brier_skill_low"] > 0
    found = in_a_run(training.register, model).found
    assert (found["name"], found["gate"]) == ("pystock-big-move-mine", "passed")


def test_a_model_of_another_kind_is_named(tracked):
    rows = training.table("embedded", **QUESTION).tail(300)
    X, y = rows.drop(columns="big_move"), rows["big_move"]
    foreign = in_a_run(log_decision_model, tuning.build("logistic").fit(X, y), X, threshold=0.5).model_id
    fresh = in_a_run(training.train, **QUESTION, **FAST, seed=7).model
    for step in (training.evaluate, training.register):
        for model, said in {
            "m-none": "The model m-none does not exist in this store",
            foreign: "has no market, target, features, family, data_run",
        }.items():
            with pytest.raises(PipelineError, match=said):
                in_a_run(step, model)
    with pytest.raises(PipelineError, match="has no scores yet: run evaluate_model on it first"):
        in_a_run(training.register, fresh)
    assert not versions()
    with pytest.raises(PipelineError, match="No run is active"):
        training.train()
    with pytest.raises(PipelineError, match="The threshold is 25: give a probability"):
        in_a_run(training.train, threshold=25)


@pytest.mark.parametrize(("error", "told"), [
    (ConnectionError("the network is gone"), ConnectionError),
    (registry.RegistryError("ben was faster"), PipelineError),
], ids=["network", "overtaken"])  # fmt: skip
def test_a_version_that_an_error_left_pending_is_judged_by_the_next_call(tracked, monkeypatch, error, told):
    _, model = tracked
    monkeypatch.setattr(promotion, "judge", passes)
    with monkeypatch.context() as patched:
        patched.setattr(registry, "promote", Mock(side_effect=error))
        with pytest.raises(told, match=str(error)):
            in_a_run(training.register, model)
        assert status() == "pending" and champion("pystock-big-move") is None
    in_a_run(training.register, model)
    assert len(versions()) == 1 and status() == "approved" and champion("pystock-big-move") == 1


@pytest.mark.parametrize("write", ["update_model_version", "set_model_version_tag"])
def test_an_error_after_the_alias_has_moved_leaves_the_champion(tracked, monkeypatch, write):
    _, model = tracked
    monkeypatch.setattr(promotion, "judge", passes)
    with monkeypatch.context() as patched:
        patched.setattr(mlflow.MlflowClient, write, lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            in_a_run(training.register, model)
    assert champion("pystock-big-move") == 1
    found = in_a_run(training.register, model)
    assert (found.outcome, found.found["gate"], status()) == ("done", "passed", "approved")
    assert len(versions()) == len(registry.history("pystock-big-move")) == 1


def test_a_version_is_promoted_by_name_and_number(tracked, monkeypatch):
    _, model = tracked
    monkeypatch.setattr(registry, "judge", passes)
    in_a_run(training.register, model, promote=False)
    said = in_a_run(training.promote_version, "pystock-big-move", "1", "approved by the desk")
    assert said == "version 1 of pystock-big-move is the champion" and champion("pystock-big-move") == 1
    mlflow.MlflowClient().create_model_version("pystock-big-move", "s3://nowhere/model")
    with pytest.raises(PipelineError, match="run of version 2 of pystock-big-move has no tag market, target, features"):
        in_a_run(training.promote_version, "pystock-big-move", "2", "a try")


def status(version=1):
    return mlflow.MlflowClient().get_model_version("pystock-big-move", str(version)).tags["validation_status"]
