"""The training pipeline: real models on the embedded prices, and a registry that no crash leaves half-written.

The table of a data run is made here in the layout that pystock-data-features logs; test_the_whole_pipeline runs both.
"""

import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from pipeline_processes import die, passes, register
from sklearn import metrics

from course import store
from pystock import evaluation, pipeline
from pystock.data import load
from pystock.features import dataset
from pystock.pipeline import PipelineError
from pystock.registry import promotion as registry
from pystock.training import steps as training

needs_fork = pytest.mark.skipif(os.name == "nt", reason="processes that begin with everything imported, and are killed")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*input example:UserWarning"),  # advice to those who log models
    pytest.mark.xdist_group("training"),
]
PROJECTS = Path(__file__).resolve().parents[3] / "projects"
QUESTION = {"market": "sp500", "target": "big_move", "features": "volatility"}
FAST = {"family": "logistic"}  # a tenth of a second to fit and to log


def use(folder):
    mlflow.end_run()
    mlflow.tracking.fluent._active_experiment_id = None
    mlflow.set_tracking_uri(store.uri(folder))
    os.environ[store.ARTIFACT_ROOT_VARIABLE] = store.artifact_root(folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, empty_store):
    """A store with a data run and one model, trained on its table and evaluated: never written to. And the two ids."""
    folder = tmp_path_factory.mktemp("trained") / "store"
    store.copy(empty_store, folder)
    use(folder)
    made = data_run()
    with mlflow.start_run():
        model = training.train(**QUESTION, **FAST).model
    with mlflow.start_run():
        training.evaluate(model)
    return folder, made, model


@pytest.fixture
def tracked(trained, tmp_path):
    """A copy of it, and the two ids."""
    folder, made, model = trained
    store.copy(folder, tmp_path / "store")
    use(tmp_path / "store")
    yield made, model
    mlflow.end_run()
    mlflow.set_tracking_uri(None)
    mlflow.tracking.fluent._active_experiment_id = None
    del os.environ[store.ARTIFACT_ROOT_VARIABLE]


def data_run(table=None, **tags):
    """A run as feature_set_generation leaves it; returns its id."""
    if table is None:
        X, y = dataset(load(end=evaluation.TEST_END), "big_move", "volatility")
        table = X.assign(big_move=y)
    about = {"pipeline": "pystock-data-features", "step": "feature_set_generation", "outcome": "done"}
    tags = about | QUESTION | tags
    with mlflow.start_run(tags=tags) as run, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{tags['market']}.parquet"
        table.to_parquet(file)
        mlflow.log_artifact(str(file), "training")
    return run.info.run_id


def in_a_run(step, *arguments, **options):
    with mlflow.start_run():
        return step(*arguments, **options)


def versions(name="pystock-big-move"):
    return mlflow.MlflowClient().search_model_versions(f"name = '{name}'")


def one_sentence(error):
    text = str(error.value)
    assert "\n" not in text and text.endswith((".", "`m-…`).")), text
    return text


# Parameters ------------------------------------------------------------------------------------------------------


def test_settings_are_the_defaults_with_what_is_given():
    assert training.parse_settings("xgboost", "max_depth=3, years=5") == {
        **{name: setting.default for name, setting in training.SETTINGS["xgboost"].items()},
        "max_depth": 3,
        "years": 5.0,
    }
    assert training.parse_settings("logistic", {"class_weight": "balanced"})["class_weight"] == "balanced"


@pytest.mark.parametrize(
    "family, settings, said",
    [
        ("forest", "", "There is no family 'forest': choose one of logistic, xgboost."),
        ("logistic", "depth=3", "logistic has no setting 'depth': its settings are C, class_weight, years."),
        ("xgboost", "max_depth=13", "The setting max_depth is 13: give a value from 1 to 12."),
        ("xgboost", "max_depth=2.5", "The setting max_depth is '2.5': give a whole number."),
        ("xgboost", "subsample=half", "The setting subsample is 'half': give a number."),
        ("xgboost", "subsample=nan", "The setting subsample is nan: give a value from 0.05 to 1."),
        ("logistic", "C=0", "The setting C is 0: give a value from 1e-06 to 1e+06."),
        ("logistic", "class_weight=fair", "The setting class_weight is 'fair': choose one of none, balanced."),
        ("logistic", "C", "The setting 'C' has no value: write it as max_depth=2,years=5."),
    ],
)
def test_a_wrong_setting_is_told(family, settings, said):
    with pytest.raises(PipelineError) as error:
        training.parse_settings(family, settings)
    assert one_sentence(error) == said


def script(name, *arguments, project=training.PIPELINE):
    """An entry point, called itself, and not by `mlflow run`."""
    settings = os.environ | {"MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()}
    settings["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), settings["PATH"]])  # MLflow calls `python`
    return subprocess.run(
        [sys.executable, name, *arguments],
        cwd=PROJECTS / project,
        env=settings,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=600,
    )


# What each step leaves -------------------------------------------------------------------------------------------


def test_nine_metrics_are_scikit_learns():
    random = np.random.default_rng(0)
    outcome, probability = random.integers(0, 2, 500), random.random(500)
    decision = probability > 0.3
    found = training.nine_metrics(outcome, probability, 0.3)
    assert tuple(found) == training.NINE
    assert found == {
        "accuracy": metrics.accuracy_score(outcome, decision),
        "average_precision": metrics.average_precision_score(outcome, probability),
        "f1": metrics.f1_score(outcome, decision),
        "jaccard": metrics.jaccard_score(outcome, decision),
        "log_loss": metrics.log_loss(outcome, probability),
        "mcc": metrics.matthews_corrcoef(outcome, decision),
        "precision": metrics.precision_score(outcome, decision),
        "recall": metrics.recall_score(outcome, decision),
        "zero_one_loss": metrics.zero_one_loss(outcome, decision),
    }
    # from decisions these two would say something else
    assert found["average_precision"] != metrics.average_precision_score(outcome, decision)
    assert metrics.log_loss(outcome, decision) > 10 > found["log_loss"]
    never = training.nine_metrics(outcome, probability, 1)
    assert (never["precision"], never["recall"], never["f1"]) == (0, 0, 0)


def test_the_embedded_table_is_that_of_the_data_run(tracked):
    made, _ = tracked
    embedded = training.table("embedded", **QUESTION)
    pd.testing.assert_frame_equal(training.table(made, **QUESTION), embedded, check_exact=True, check_freq=False)


def test_a_model_can_be_traced_to_the_very_rows(tracked):
    made, model = tracked
    client = mlflow.MlflowClient()
    logged = client.get_logged_model(model)
    run = client.get_run(logged.source_run_id)
    tags = run.data.tags
    assert QUESTION.items() <= tags.items()
    assert (tags["family"], tags["data_run"], tags["threshold"], tags["model"]) == ("logistic", made, "0.25", model)
    assert run.data.params["C"] == "0.1" and run.data.params["train_end"] == "2009-12-31"
    (given,) = run.inputs.dataset_inputs
    assert (given.dataset.name, given.tags[0].value) == ("sp500-big_move-volatility", "training")
    source = json.loads(given.dataset.source)["uri"]
    assert source == f"runs:/{made}/training/sp500.parquet"
    rows = pd.read_parquet(mlflow.artifacts.download_artifacts(source))
    X, _, y, _ = evaluation.time_split(rows.drop(columns="big_move"), rows["big_move"])
    again = mlflow.data.from_pandas(X.assign(big_move=y.astype(float)), targets="big_move")
    assert again.digest == given.dataset.digest


def test_what_evaluate_leaves(tracked):
    made, model = tracked
    client = mlflow.MlflowClient()
    (run,) = training._finished({"step": "evaluate_model"})
    path = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="test_predictions.csv")
    found = pd.read_csv(path, parse_dates=["date"], index_col="date")
    assert list(found) == ["probability", "decision", "outcome"]
    assert len(found) == 1257
    assert (f"{found.index[0]:%Y-%m-%d}", f"{found.index[-1]:%Y-%m-%d}") == ("2010-01-04", "2014-12-30")
    rows = training.table(made, **QUESTION)
    assert (found["outcome"] == rows.loc[found.index, "big_move"]).all()
    assert (found["decision"] == (found["probability"] > 0.25)).all()
    answer = mlflow.pyfunc.load_model(f"models:/{model}").predict(rows.loc[found.index].drop(columns="big_move"))
    assert (answer["probability"].to_numpy() == found["probability"].to_numpy()).all()

    scores = run.data.metrics
    expected = training.nine_metrics(found["outcome"], found["probability"])
    assert expected.items() <= scores.items()
    reference = evaluation.rolling_base_rate(rows["big_move"], found.index)
    skill = evaluation.skill(found["outcome"], found["probability"], reference)
    assert [scores[f"brier_skill_{end}"] for end in ("value", "low", "high")] == list(skill)
    assert {"auc_value", "auc_low", "auc_high", "brier_value", "brier_low", "brier_high"} <= set(scores)
    source = client.get_run(client.get_logged_model(model).source_run_id)
    assert source.data.metrics["brier_skill_low"] == skill.low  # where chapter 07's lineage looks
    on_model = client.get_logged_model(model).metrics
    (held_out,) = run.inputs.dataset_inputs
    assert held_out.tags[0].value == "evaluation"
    linked = {each.key: each.dataset_digest for each in on_model if each.run_id == run.info.run_id}
    assert linked["average_precision"] == held_out.dataset.digest
    assert [each.model_id for each in mlflow.get_run(run.info.run_id).inputs.model_inputs] == [model]


def test_a_passing_model_is_promoted_once(tracked):
    _, model = tracked
    first = in_a_run(training.register, model)
    assert (first.outcome, first.found) == (
        "done",
        {"name": "pystock-big-move", "version": 1, "gate": "passed", "reasons": ""},
    )
    (version,) = versions()
    assert version.tags["lifecycle"] == "Production" and version.source == f"models:/{model}"
    history = registry.history("pystock-big-move")
    assert list(history["why"]) == [f"the run {first.made_by} of pystock-training"]
    again = in_a_run(training.register, model)
    assert (again.outcome, again.made_by, again.found) == ("skipped", first.made_by, first.found)
    assert len(versions()) == len(registry.history("pystock-big-move")) == 1
    (run,) = training._finished({"step": "register_model", "outcome": "skipped"})
    assert run.data.tags["made_by"] == first.made_by


def test_a_model_without_skill_is_kept_with_the_reason_and_never_promoted(tracked):
    asked = {"market": "sp500", "target": "direction", "features": "flags"}
    model = in_a_run(training.train, **asked, **FAST).model
    in_a_run(training.evaluate, model)
    found = in_a_run(training.register, model)
    assert (found.outcome, found.found["gate"]) == ("done", "refused")
    assert found.said.startswith("version 1 of pystock-direction is not promoted: base rate: Brier skill -0.0")
    (version,) = versions("pystock-direction")
    assert (version.tags["gate"], version.tags["lifecycle"]) == ("refused", "Development")
    assert version.tags["reasons"] in version.description
    assert not mlflow.MlflowClient().get_registered_model("pystock-direction").aliases
    assert list(registry.history("pystock-direction")["outcome"]) == ["refused"]
    again = in_a_run(training.register, model)
    assert again.outcome == "skipped" and "not promoted: base rate" in again.said
    assert len(versions("pystock-direction")) == 1
    run = mlflow.get_run(found.made_by)
    assert (run.info.status, run.data.tags["outcome"]) == ("FINISHED", "done")


def test_without_promote_a_passing_model_waits_in_staging(tracked, monkeypatch):
    _, model = tracked
    monkeypatch.setattr(registry, "judge", passes)
    waits = in_a_run(training.register, model, promote=False)
    assert waits.found["gate"] == "passed" and versions()[0].tags["lifecycle"] == "Staging"
    assert not mlflow.MlflowClient().get_registered_model("pystock-big-move").aliases
    assert in_a_run(training.register, model, promote=False).outcome == "skipped"
    promoted = in_a_run(training.register, model)
    assert promoted.outcome == "done" and promoted.found["version"] == 1
    assert versions()[0].tags["lifecycle"] == "Production"


def test_force_asks_the_gate_again(tracked, monkeypatch):
    _, model = tracked
    monkeypatch.setattr(registry, "judge", lambda *_: [passes()[0]._replace(passed=False)])
    assert in_a_run(training.register, model).found["gate"] == "refused"
    monkeypatch.setattr(registry, "judge", passes)
    assert in_a_run(training.register, model).outcome == "skipped"
    assert in_a_run(training.register, model, force=True).found["gate"] == "passed"
    assert len(versions()) == 1 and versions()[0].tags["lifecycle"] == "Production"
    assert in_a_run(training.register, model, force=True).found["gate"] == "passed"  # the champion already


# What is skipped -------------------------------------------------------------------------------------------------


def test_what_has_not_changed_is_skipped(tracked):
    made, model = tracked
    client = mlflow.MlflowClient()
    again = in_a_run(training.train, **QUESTION, **FAST)
    assert (again.outcome, again.model) == ("skipped", model)
    assert again.made_by == client.get_logged_model(model).source_run_id
    scored = in_a_run(training.evaluate, model)
    assert scored.outcome == "skipped" and scored.found["brier_skill_low"] > 0
    assert in_a_run(training.train, **QUESTION, **FAST, data="embedded").model == model  # the same rows
    assert in_a_run(training.evaluate, model, force=True).outcome == "done"


@pytest.mark.parametrize(
    "changed",
    [
        {"family": "xgboost"},
        {"settings": "C=0.2"},
        {"seed": 1},
        {"threshold": 0.3},
        {"train_end": "2008-12-31"},
        {"test_end": "2013-12-31"},
        {"force": True},
    ],
    ids=lambda changed: next(iter(changed)),
)
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
    monkeypatch.setattr(training, "_libraries", lambda family: {"scikit-learn": "2.0"})
    assert in_a_run(training.train, **QUESTION, **FAST, data=made).outcome == "done"
    monkeypatch.undo()
    monkeypatch.setitem(training.CODE, "fit", "another")
    assert in_a_run(training.train, **QUESTION, **FAST, data=made).outcome == "done"


def test_a_model_whose_run_or_data_run_was_deleted_is_trained_again(tracked):
    made, model = tracked
    client = mlflow.MlflowClient()
    client.delete_run(made)
    again = in_a_run(training.train, **QUESTION, **FAST)
    assert again.outcome == "done" and "so the embedded prices were taken" in again.said
    client.delete_run(again.made_by)
    assert in_a_run(training.train, **QUESTION, **FAST).outcome == "done"
    client.delete_logged_model(in_a_run(training.train, **QUESTION, **FAST).model)
    assert in_a_run(training.train, **QUESTION, **FAST).outcome == "done"


# What cannot be done ---------------------------------------------------------------------------------------------


def wrong_tables():
    rows = training.table("embedded", **QUESTION)
    last = rows.columns[-2]
    return {
        "of which the last must be big_move": rows.rename(columns={"big_move": "direction"}),
        "is not in order of its dates": rows.iloc[::-1],
        "realised_22 that are missing or no float64": rows.assign(realised_22=np.nan),
        f"{last} that are missing or no float64": rows.assign(**{last: "much"}),
        "other than the whole numbers 0 and 1": rows.assign(big_move=2),
    }


@pytest.mark.parametrize("said", wrong_tables())
def test_a_table_that_is_wrong_is_told(tracked, said):
    made = data_run(wrong_tables()[said])
    with pytest.raises(PipelineError, match=said) as error:
        in_a_run(training.train, **QUESTION, data=made)
    assert f"of the data run {made}" in one_sentence(error)


def test_a_table_that_was_changed_after_its_run_is_told(tracked):
    rows = training.table("embedded", **QUESTION)
    digest = mlflow.data.from_pandas(rows.astype({"big_move": float}), targets="big_move").digest
    training.table(data_run(rows, digest=digest), **QUESTION)
    rows.iloc[100, 0] += 1e-12
    with pytest.raises(PipelineError, match=f"has the digest [0-9a-f]+, and had {digest} when it was made") as error:
        training.table(data_run(rows, digest=digest), **QUESTION)
    one_sentence(error)


def test_a_market_of_ones_own_is_trained_and_scored_and_refused_at_the_gate(tracked):
    data_run(training.table("embedded", **QUESTION), market="mine")
    model = in_a_run(training.train, **QUESTION | {"market": "mine"}, **FAST).model
    assert in_a_run(training.evaluate, model).found["brier_skill_low"] > 0
    found = in_a_run(training.register, model).found
    assert (found["name"], found["gate"]) == ("pystock-big-move-mine", "refused")
    assert "'mine' is no embedded market" in found["reasons"]


def test_a_data_run_that_cannot_be_used_is_told(tracked):
    made, model = tracked
    client = mlflow.MlflowClient()
    skipped = client.create_run("0", tags=QUESTION | {"outcome": "skipped", "made_by": made}).info.run_id
    client.set_terminated(skipped)
    result = in_a_run(training.train, **QUESTION, **FAST, data=skipped)  # the table lies where it was made
    assert result.outcome == "skipped" and mlflow.get_run(result.made_by).data.tags["data_run"] == made
    source = client.get_logged_model(model).source_run_id
    cases = {
        "0" * 32: "does not exist in this store, or was deleted",
        source: "is a finished run of train_model and holds no table",
        data_run(market="nasdaq"): "holds another table (market nasdaq, target big_move, features volatility)",
    }
    with mlflow.start_run(tags={"step": "feature_set_generation"} | QUESTION) as without:
        pass
    cases[without.info.run_id] = "cannot be read"
    unfinished = client.create_run("0", tags={"step": "feature_set_generation"} | QUESTION).info.run_id
    cases[unfinished] = "is a running run of feature_set_generation"
    for run_id, said in cases.items():
        with pytest.raises(PipelineError) as error:
            in_a_run(training.train, **QUESTION, data=run_id)
        assert said in one_sentence(error)
    client.delete_run(made)
    with pytest.raises(PipelineError, match=f"The data run {made} does not exist in this store, or was deleted"):
        in_a_run(training.evaluate, model, force=True)


def test_a_model_that_cannot_be_used_is_told(tracked):
    from sklearn.linear_model import LogisticRegression

    from pystock.models import log_decision_model

    X, y = dataset(load(end=evaluation.TEST_END), "big_move", "volatility")
    with mlflow.start_run():
        foreign = log_decision_model(LogisticRegression().fit(X, y), X, threshold=0.5).model_id
    with mlflow.start_run():
        fresh = training.train(**QUESTION, **FAST, seed=7).model
    for step in (training.evaluate, training.register):
        for model, said in {
            "m-none": "The model m-none does not exist in this store, or was deleted",
            foreign: "does not say its market, target, features, family, data_run",
        }.items():
            with pytest.raises(PipelineError) as error:
                in_a_run(step, model)
            assert said in one_sentence(error)
    with pytest.raises(PipelineError, match="has no scores yet: run evaluate_model on it first"):
        in_a_run(training.register, fresh)
    assert not versions()
    with pytest.raises(PipelineError, match="No run is active, and train_model logs into one"):
        training.train()
    with pytest.raises(PipelineError, match="The threshold is 25: give a probability"):
        in_a_run(training.train, threshold=25)


def test_a_failing_step_fails_the_parent_and_registers_nothing(tracked):
    rows = training.table("embedded", **QUESTION)
    made = data_run(rows.assign(realised_22=np.nan))
    done = script("main.py", "--data", made)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("pystock-training, main: The table "), done
    (parent,) = mlflow.search_runs(
        filter_string="tags.step = 'main'", output_format="list", search_all_experiments=True
    )
    assert parent.info.status == "FAILED" and parent.data.tags["failed_step"] == "train_model"
    assert parent.data.tags["failed_because"].startswith(f"The table training/sp500.parquet of the data run {made} has")
    assert not versions()


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["main.py", "--family", "forest"], "argument --family: invalid choice: 'forest' (choose from"),
        (["main.py", "--threshold", "high"], "argument --threshold: 'high' is no probability: give a number from 0"),
        (["train_model.py", "--seed", "-1"], "argument --seed: "),
        (["train_model.py", "--settings", "C=1"], "argument --settings: xgboost has no setting 'C': its settings are"),
        (["train_model.py", "--test_end", "2001-01-01"], "argument --test_end: 2001-01-01 is not after train_end"),
        (["evaluate_model.py"], "the following arguments are required: --model"),
        (["register_model.py", "--model", "m-1", "--promote", "maybe"], "argument --promote: invalid choice: 'maybe'"),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, list) else "",
)
def test_a_wrong_parameter_is_told(monkeypatch, capsys, arguments, said):
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.syspath_prepend(PROJECTS / "pystock-training")
    monkeypatch.delitem(sys.modules, "arguments", raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(PROJECTS / "pystock-training" / arguments[0]))
    assert ended.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.delitem(sys.modules, "arguments", raising=False)


# A registry without half-registered models -----------------------------------------------------------------------


@pytest.mark.parametrize("call", ["promote", "set_lifecycle"])
def test_an_error_before_the_verdict_removes_the_version(tracked, monkeypatch, call):
    _, model = tracked
    monkeypatch.setattr(registry, "judge", passes)

    def broken(*_, **__):
        raise ConnectionError("the network is gone")

    with monkeypatch.context() as patched:
        patched.setattr(registry, call, broken)
        with pytest.raises(ConnectionError):
            in_a_run(training.register, model, promote=call == "promote")
        assert not versions()
    in_a_run(training.register, model)
    assert [each.tags["gate"] for each in versions()] == ["passed"]


def test_an_error_after_the_promotion_leaves_the_champion(tracked, monkeypatch):
    _, model = tracked
    monkeypatch.setattr(registry, "judge", passes)
    with monkeypatch.context() as patched:
        patched.setattr(mlflow.MlflowClient, "update_model_version", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            in_a_run(training.register, model)
    (version,) = versions()
    assert "gate" not in version.tags and version.tags["lifecycle"] == "Production"
    found = in_a_run(training.register, model)
    assert (found.outcome, found.found["gate"]) == ("done", "passed")
    assert len(versions()) == len(registry.history("pystock-big-move")) == 1


def test_a_promotion_that_is_overtaken_removes_the_version_and_says_so(tracked, monkeypatch):
    _, model = tracked

    def overtaken(*_, **__):
        raise registry.Overtaken("ben was faster")

    monkeypatch.setattr(registry, "promote", overtaken)
    with pytest.raises(PipelineError, match="ben was faster"):
        in_a_run(training.register, model)
    assert not versions()


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["pipeline_processes", "mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store"]
        + ["alembic.script", "pystock.registry"]
    )
    return context


@needs_fork
@pytest.mark.parametrize("write, stride", [(8, 3), pytest.param(0, 1, marks=pytest.mark.slow)])
def test_killed_anywhere_the_next_call_leaves_one_version_with_a_verdict(
    trained, tmp_path, processes, monkeypatch, write, stride
):
    folder, _, model = trained
    monkeypatch.setattr(registry, "judge", passes)
    killed_with_a_version = 0
    while True:
        place = tmp_path / str(write)
        store.copy(folder, place)
        process = processes.Process(target=die, args=(store.uri(place), store.artifact_root(place), model, write))
        process.start()
        process.join()
        use(place)
        left = versions()
        killed_with_a_version += bool(left) and "gate" not in left[0].tags
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL, f"write {write}"
        in_a_run(training.register, model)
        (version,) = versions()
        assert (version.tags["gate"], version.tags["lifecycle"]) == ("passed", "Production"), f"write {write}"
        assert (
            mlflow.MlflowClient().get_model_version_by_alias("pystock-big-move", "champion").source
            == f"models:/{model}"
        )
        outcomes = list(registry.history("pystock-big-move")["outcome"])
        assert sum(each.startswith("promoted") for each in outcomes) == 1, outcomes
        write += stride
    assert write > 15 and killed_with_a_version > 10 / stride
    mlflow.set_tracking_uri(None)


@needs_fork
def test_two_at_once_make_one_version(trained, tmp_path, processes):
    folder, _, model = trained
    for number in range(2):
        place = tmp_path / str(number)
        store.copy(folder, place)
        use(place)
        barrier, results = processes.Barrier(3), processes.SimpleQueue()
        arguments = (store.uri(place), store.artifact_root(place), model, barrier, results)
        started = [processes.Process(target=register, args=arguments) for _ in range(3)]
        for each in started:
            each.start()
        outcomes = [results.get() for _ in started]
        for each in started:
            each.join()
        told = [each for each in outcomes if f"has been at the registration of {model} since" in each]
        assert outcomes.count("done") + outcomes.count("skipped") + len(told) == 3, outcomes
        in_a_run(training.register, model)
        assert len(versions()) == len(registry.history("pystock-big-move")) == 1
        assert versions()[0].tags["gate"] == "passed"
    mlflow.set_tracking_uri(None)


# The same input, the same result ---------------------------------------------------------------------------------

AGAIN = """
import hashlib, json, sys, mlflow
from pathlib import Path
from pystock.training import steps as training
mlflow.set_tracking_uri(sys.argv[1])
for family in ("logistic", "xgboost"):
    with mlflow.start_run():
        model = training.train(family=family, data="embedded").model
    with mlflow.start_run() as run:
        found = training.evaluate(model).found
    predictions = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/test_predictions.csv")
    files = Path(mlflow.artifacts.download_artifacts(f"models:/{model}")) / "artifacts"
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files.iterdir()}
    print("result", json.dumps([family, hashlib.sha256(predictions.encode()).hexdigest(), found, digests]))
"""


def test_two_fresh_processes_give_the_same_bits(empty_store, tmp_path):
    results = []
    for number in ("1", "2"):
        store.copy(empty_store, tmp_path / number)
        uri = store.uri(tmp_path / number)
        done = subprocess.run(
            [sys.executable, "-c", AGAIN, uri], capture_output=True, text=True, timeout=600, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("result ")]
        results.append({family: rest for family, *rest in lines})
    first, second = results
    assert set(first) == {"logistic", "xgboost"}
    for family in first:
        assert first[family][:2] == second[family][:2]
    assert first["xgboost"][2] == second["xgboost"][2]  # the model's file; a skops archive holds a time


def test_more_threads_move_no_probability_and_another_seed_does(tracked):
    def predictions(**options):
        model = in_a_run(training.train, **QUESTION, **options).model
        rows = training.table("embedded", **QUESTION).loc["2010":"2014"]
        return mlflow.pyfunc.load_model(f"models:/{model}").predict(rows.drop(columns="big_move"))["probability"]

    one = predictions()
    assert (one - predictions(settings="n_jobs=2")).abs().max() < 1e-6
    assert (one - predictions(seed=1)).abs().max() > 0.01  # what another seed moves


# As projects -----------------------------------------------------------------------------------------------------


@pytest.fixture
def here(fake, empty_store):
    fake.use_store(empty_store)
    return fake


def test_the_command_and_its_rerun(here):
    command = ["mlflow", "run", PROJECTS / "pystock-training", "-P", "target=big_move"]
    command += ["--experiment-name", "example-pystock-training", "--env-manager", "local"]
    first = here.run(*command, cwd=here.root)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "so the embedded prices were taken" in first.stdout
    assert "version 1 of pystock-big-move passed the gate, now in Production" in first.stdout
    second = here.run(*command)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "nothing has changed, all three steps were skipped" in second.stdout
    use(here.state / "store")
    experiment = mlflow.get_experiment_by_name("example-pystock-training")
    found = mlflow.search_runs([experiment.experiment_id], output_format="list")
    assert {run.info.status for run in found} == {"FINISHED"} and len(found) == 8
    parents = [run for run in found if run.data.tags["step"] == "main"]
    assert sorted(run.data.tags["outcome"] for run in parents) == ["done", "skipped"]
    assert len(versions()) == 1
    wrong = here.run(*command, "-P", "settings=max_depth=2,years=0")
    assert wrong.returncode != 0
    assert "argument --settings: The setting years is 0: give a value from 1 to 100." in wrong.stderr
    assert not list(here.root.rglob("mlruns"))
    mlflow.set_tracking_uri(None)


@pytest.mark.skipif(os.name == "nt", reason="a workflow on Linux")
def test_the_whole_pipeline_as_the_workflow_calls_it(here):
    """Without a server, where the secret is empty."""
    workflow = yaml.safe_load((PROJECTS.parent / ".github" / "workflows" / "pipeline.yml").read_text(encoding="utf-8"))
    assert workflow["concurrency"] == {"group": "pipeline", "cancel-in-progress": False}
    assert workflow["permissions"] == {"contents": "read"}
    (step,) = [each for each in workflow["jobs"]["pipeline"]["steps"] if "mlflow" in each.get("run", "")]
    command = step["run"].replace("source .venv/bin/activate\n", "")
    env = here.environment(COURSE_TRACKING_URI="", PYSTOCK_STAGES=here.state / "stages", MARKET="nasdaq")
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
    options = {"capture_output": True, "text": True, "encoding": "utf-8", "timeout": 900}
    done = subprocess.run(["bash", "-ec", command], cwd=PROJECTS.parent, env=env, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    use(here.state / "store")
    found = mlflow.search_runs(search_all_experiments=True, output_format="list")
    by = {(run.data.tags.get("pipeline"), run.data.tags.get("step")): run for run in found}
    parent = by["pystock-pipeline", "main"]
    for name in ("pystock-data-features", "pystock-training"):
        assert by[name, "main"].data.tags["mlflow.parentRunId"] == parent.info.run_id
    made, trained = by["pystock-data-features", "feature_set_generation"], by["pystock-training", "train_model"]
    assert trained.data.tags["data_run"] == made.info.run_id
    assert "embedded" not in trained.data.tags["said"]
    assert parent.data.tags["outcome"] == "done"
    (version,) = versions("pystock-big-move-nasdaq")
    assert (version.tags["gate"], version.tags["lifecycle"]) == ("passed", "Production")
    mlflow.set_tracking_uri(None)


def test_a_pipeline_that_fails_is_named_by_the_run_of_both(tracked, tmp_path):
    wrong = tmp_path / "prices.csv"
    wrong.write_text("day,price\n2010-01-04,100\n")
    done = script("main.py", "--source", wrong, "--stages", tmp_path / "stages", project="pystock-pipeline")
    assert done.returncode == 1, done.stdout + done.stderr
    said = done.stderr.splitlines()[-1]
    assert said.startswith("pystock-pipeline, main: pystock-data-features, load_raw_data failed: "), said
    asked = {"search_all_experiments": True, "output_format": "list"}
    (parent,) = mlflow.search_runs(filter_string="tags.pipeline = 'pystock-pipeline'", **asked)
    assert parent.info.status == "FAILED"
    assert parent.data.tags["failed_step"] == "pystock-data-features, load_raw_data"
    assert str(wrong) in parent.data.tags["failed_because"]
    # where the project says no before it has begun a step
    done = script("main.py", "--source", tmp_path / "none.csv", project="pystock-pipeline")
    assert done.returncode == 1 and "pystock-pipeline, main: pystock-data-features" in done.stderr.splitlines()[-1]


def test_who_comes_second_is_told(tracked):
    """`main` claims its question: here a run of it stands for the process that came first."""
    with pipeline.run(training.PIPELINE, "main", QUESTION, claim="pystock-training sp500 big_move volatility"):
        done = script("main.py", "--data", "embedded", "--family", "logistic")
    assert done.returncode == 1
    assert "has been at pystock-training sp500 big_move volatility since" in done.stderr
