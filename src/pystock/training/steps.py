"""The training pipeline: fit a model on the rows of a data run, score it, and bring it to the registry's gate.

Each step works inside an active run, one of its own, and finds what it needs in the tracking store: `train` in the run
that made the table, `evaluate` and `register` in the logged model, its source run and that run's tags. So a step may
run on another machine than the one before it. A step whose result is there already is skipped, and says so.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import mlflow
import numpy as np
import pandas as pd
from mlflow.data.sources import LocalArtifactDatasetSource
from mlflow.entities import LoggedModel, LoggedModelInput, Metric, Run
from mlflow.exceptions import MlflowException

from pystock import runs
from pystock.data import load, named
from pystock.evaluation import TEST_END, TRAIN_END, time_split
from pystock.features import dataset
from pystock.pipeline import PipelineError, claim_work, end_step

PIPELINE, DATA_PIPELINE = "pystock-training", "pystock-data-features"
THRESHOLD = 0.25  # above it the decision is 1: the desk's miss costs three false alarms (chapter 06)
YEAR = 252  # trading days
REMAKE = "make it again with the data pipeline and force=yes"
NINE = (
    "accuracy",
    "average_precision",
    "f1",
    "jaccard",
    "log_loss",
    "mcc",
    "precision",
    "recall",
    "zero_one_loss",
)


class Setting(NamedTuple):
    """A setting of a family: its default, which also gives the type, and what it may be: an interval, or words."""

    default: float | int | str
    low: float = 0
    high: float = 0
    words: tuple[str, ...] = ()


# The defaults were chosen on the walk-forward folds of the training years of both markets: see the project's README.
SETTINGS = {
    "logistic": {
        "C": Setting(0.1, 1e-6, 1e6),
        "class_weight": Setting("none", words=("none", "balanced")),
        "years": Setting(11.0, 1, 100),
    },
    "xgboost": {
        "learning_rate": Setting(0.07, 1e-4, 1),
        "max_depth": Setting(1, 1, 12),
        "min_child_weight": Setting(5.0, 0, 1e4),
        "n_estimators": Setting(100, 1, 2000),
        "n_jobs": Setting(1, 1, 64),
        "subsample": Setting(0.6, 0.05, 1),
        "years": Setting(11.0, 1, 100),
    },
}


class Result(NamedTuple):
    """What a step did: `outcome` is done or skipped, `said` a sentence, `made_by` the run that made what there is now.

    `model` is the model's id. `found` holds what the step found: the metrics of `evaluate`; name, version (int), gate
    (passed or refused) and reasons of `register`.
    """

    step: str
    outcome: str
    said: str
    model: str
    made_by: str
    found: dict = {}


# Parameters ------------------------------------------------------------------------------------------------------


def parse_settings(family: str, given: str | Mapping[str, object] = "") -> dict[str, float | int | str]:
    """All settings of a family, the defaults overridden by `given`: a mapping, or text such as `C=0.1,years=5`.

    Raises PipelineError for an unknown family or setting, and for a value of the wrong type or out of range.
    """
    if family not in SETTINGS:
        raise PipelineError(f"There is no family {family!r}: choose one of {', '.join(SETTINGS)}.")
    known = SETTINGS[family]
    settings = {name: setting.default for name, setting in known.items()}
    pairs = given.items() if isinstance(given, Mapping) else _pairs(given)
    for name, value in pairs:
        if name not in known:
            raise PipelineError(f"{family} has no setting {name!r}: its settings are {', '.join(known)}.")
        settings[name] = _typed(f"The setting {name}", known[name], str(value))
    return settings


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for pair in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = pair.partition("=")
        if not equals:
            raise PipelineError(f"The setting {pair!r} has no value: write it as max_depth=2,years=5.")
        yield name.strip(), value.strip()


def _typed(what: str, setting: Setting, text: str):
    if setting.words:
        if text not in setting.words:
            raise PipelineError(f"{what} is {text!r}: choose one of {', '.join(setting.words)}.")
        return text
    kind = type(setting.default)
    try:
        value = kind(text)
    except ValueError:
        raise PipelineError(f"{what} is {text!r}: give a {'whole ' if kind is int else ''}number.") from None
    if not setting.low <= value <= setting.high:  # not a number fails here too
        raise PipelineError(f"{what} is {text}: give a value from {setting.low:g} to {setting.high:g}.")
    return value


# The table -------------------------------------------------------------------------------------------------------


def newest_data_run(market: str, target: str, features: str) -> str | None:
    """The id of the newest finished run, anywhere in the store, that made the table of this question; None: none."""
    asked = {"pipeline": DATA_PIPELINE, "step": "feature_set_generation", "outcome": "done"}
    asked |= {"market": market, "target": target, "features": features}
    found = next(_finished(asked), None)
    return found and found.info.run_id


def table(data_run: str, market: str, target: str, features: str) -> pd.DataFrame:
    """The table that a run of feature_set_generation logged, or, for `embedded`, the same made here from the prices.

    Index: Date, in time order. Columns: the features (float64), and last the target (int64, 0 or 1). Raises
    PipelineError where the run does not exist, was deleted or has made another table, and where the table is unsound.
    """
    if data_run == "embedded":
        X, y = dataset(load(market, end=TEST_END), target, features)
        return X.assign(**{target: y})
    run = _data_run(data_run, market, target, features)
    path = f"training/{market}.parquet"
    name = f"The table {path} of the data run {run.info.run_id}"
    with tempfile.TemporaryDirectory() as folder:
        try:
            local = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=path, dst_path=folder)
            found = pd.read_parquet(local)
        except (MlflowException, OSError, ValueError) as error:
            raise PipelineError(f"{name} cannot be read ({runs.first_line(error)}): {REMAKE}.") from None
    found = _checked(found, target, name)
    noted, digest = run.data.tags.get("digest"), _data_set(found, data_run, market, target, features).digest
    if noted not in (None, digest):
        raise PipelineError(f"{name} has the digest {digest}, and had {noted} when it was made: {REMAKE}.")
    return found


def _data_run(run_id: str, market: str, target: str, features: str) -> Run:
    mend = "give the id of a finished run of feature_set_generation, `newest` or `embedded`"
    run = _existing(run_id)
    if run is None:
        raise PipelineError(f"The data run {run_id} does not exist in this store, or was deleted: {mend}.")
    tags = run.data.tags
    if tags.get("outcome") == "skipped" and "made_by" in tags:  # the table lies where it was made
        return _data_run(tags["made_by"], market, target, features)
    if tags.get("step") != "feature_set_generation" or run.info.status != "FINISHED":
        what = f"{run.info.status.lower()} run of {tags.get('step', 'no step of a pipeline')}"
        raise PipelineError(f"The run {run_id} is a {what} and holds no table: {mend}.")
    made = {name: tags.get(name) for name in ("market", "target", "features")}
    if made != {"market": market, "target": target, "features": features}:
        has = ", ".join(f"{name} {value}" for name, value in made.items())
        raise PipelineError(f"The data run {run_id} holds another table ({has}): {mend}.")
    return run


def _checked(found: pd.DataFrame, target: str, name: str) -> pd.DataFrame:
    if len(found.columns) < 2 or found.columns[-1] != target:
        columns = ", ".join(map(str, found.columns))
        raise PipelineError(f"{name} has the columns {columns}, of which the last must be {target}: {REMAKE}.")
    if not isinstance(found.index, pd.DatetimeIndex) or not (
        found.index.is_monotonic_increasing and found.index.is_unique
    ):
        raise PipelineError(f"{name} is not in order of its dates, each once: {REMAKE}.")
    for column in found.columns[:-1]:
        if found[column].dtype != "float64" or not np.isfinite(found[column]).all():
            raise PipelineError(f"{name} has values in {column} that are missing or no float64: {REMAKE}.")
    if found[target].dtype != "int64" or not found[target].isin((0, 1)).all():
        raise PipelineError(f"{name} has outcomes in {target} other than the whole numbers 0 and 1: {REMAKE}.")
    return found


def _data_set(rows: pd.DataFrame, data_run: str, market: str, target: str, features: str):
    """Rows as MLflow describes them, as in chapter 04: the outcome as float64, the name of the question."""
    place = f"data/{market}.csv" if data_run == "embedded" else f"runs:/{data_run}/training/{market}.parquet"
    described, source = rows.astype({target: "float64"}), LocalArtifactDatasetSource(place)
    return mlflow.data.from_pandas(described, source, target, f"{market}-{target}-{features}")


# The steps -------------------------------------------------------------------------------------------------------


def train(
    market: str = "sp500",
    target: str = "big_move",
    features: str = "volatility",
    *,
    data: str = "newest",
    family: str = "xgboost",
    settings: str | Mapping[str, object] = "",
    threshold: float = THRESHOLD,
    seed: int = 0,
    train_end: str = TRAIN_END,
    test_end: str = TEST_END,
    force: bool = False,
) -> Result:
    """Fit a model on the rows up to `train_end`, and log it as a decision model into the active run.

    `data` is the id of a run of feature_set_generation, `newest` or `embedded`; where `newest` finds none, the
    embedded prices are taken. `settings`: see `parse_settings`. The model learns from the last `years` before
    `train_end`. Skipped where a finished run has made a model with the same fingerprint: the same rows, parameters,
    library versions and code. Raises PipelineError without an active run, and as `parse_settings` and `table`.
    """
    run = _begin("train_model", market=market, target=target, features=features)
    chosen = parse_settings(family, settings)
    if not 0 <= threshold <= 1:
        raise PipelineError(f"The threshold is {threshold:g}: give a probability, from 0 to 1.")
    note = ""
    if data == "newest":
        data = newest_data_run(market, target, features) or "embedded"
        if data == "embedded":
            asked = f"{target} on {features} for {market}"
            note = f"; no run of {DATA_PIPELINE} in this store has made {asked}, so the embedded prices were taken"
    rows = table(data, market, target, features)
    if data != "embedded":
        data = _data_run(data, market, target, features).info.run_id
    params = {"family": family, **chosen, "threshold": threshold, "seed": seed}
    params |= {"train_end": train_end, "test_end": test_end}
    fingerprint = _digest(market, target, features, params, _libraries(family), CODE["fit"], values=rows)
    mlflow.set_tags({"family": family, "data_run": data, "threshold": threshold, "fingerprint": fingerprint})
    if not force and (same := _same_model(fingerprint)):
        model, made_by = same
        said = f"the model {model} of the run {made_by} has the same rows, parameters, library versions and code{note}"
        return _end(Result("train_model", "skipped", said, model, made_by))

    from pystock import tuning  # late: a skipped step needs neither Optuna nor XGBoost
    from pystock.models import log_decision_model

    X, _, y, _ = time_split(rows.drop(columns=target), rows[target], train_end, test_end)
    _log_params(params | {"train_rows": len(X)})
    mlflow.log_input(_data_set(X.assign(**{target: y}), data, market, target, features), context="training")
    settings = {name: None if value == "none" else value for name, value in chosen.items()}
    if family == "xgboost":  # logistic regression draws nothing at random
        settings["random_state"] = seed
    past = slice(-round(YEAR * chosen["years"]), None)
    fitted = tuning.build(family, **settings).fit(X[past], y[past])
    tags = {"market": market, "target": target, "features": features, "family": family}
    model = log_decision_model(fitted, X, threshold=threshold, tags=tags).model_id
    said = f"{family} learned from {len(X[past])} days up to {X.index[-1]:%Y-%m-%d}: model {model}{note}"
    return _end(Result("train_model", "done", said, model, run.info.run_id))


def evaluate(model: str, *, force: bool = False) -> Result:
    """Score a model of `train` on its held-out days, and log scores and predictions into the active run.

    Logged: `nine_metrics`, `pystock.evaluation.score_table` with its intervals, both linked to the model and to the
    held-out data set, and test_predictions.csv (date, probability, decision, outcome). The Brier skill and its
    interval are also written into the model's source run, where whoever traces a registered version looks. Skipped
    where a finished run has scored the same model with the same code. Raises PipelineError as `train`, and for an id
    that is none of a model of `train`.
    """
    source, about = _source(model)
    question = [about[name] for name in ("market", "target", "features")]
    run = _begin("evaluate_model", **{name: about[name] for name in ("market", "target", "features", "family")})
    fingerprint = _digest(model, CODE["score"])
    mlflow.set_tags({"model": model, "data_run": about["data_run"], "fingerprint": fingerprint})
    asked = {"step": "evaluate_model", "outcome": "done", "model": model, "fingerprint": fingerprint}
    if not force and (same := next(_finished(asked), None)):
        said = f"the run {same.info.run_id} has scored the model {model} with the same code"
        return _end(Result("evaluate_model", "skipped", said, model, same.info.run_id, same.data.metrics))

    from pystock.evaluation import rolling_base_rate, score_table

    rows = table(about["data_run"], *question)
    y, threshold = rows[about["target"]], float(about["threshold"])
    _, X_test, _, y_test = time_split(rows.drop(columns=about["target"]), y, about["train_end"], about["test_end"])
    answer = mlflow.pyfunc.load_model(f"models:/{model}").predict(X_test)
    probability = answer["probability"].set_axis(X_test.index)
    reference = rolling_base_rate(y, y_test.index)
    scores = runs.metrics_of(score_table(y_test, probability, reference, threshold))
    found = nine_metrics(y_test, probability, threshold) | scores
    held_out = _data_set(rows.loc[X_test.index], about["data_run"], *question)
    mlflow.log_input(held_out, context="evaluation", model=LoggedModelInput(model))
    mlflow.log_metrics(found, model_id=model, dataset=held_out)
    predictions = pd.DataFrame(
        {"probability": probability, "decision": answer["decision"].to_numpy(), "outcome": y_test}
    ).rename_axis("date")
    mlflow.log_text(predictions.to_csv(lineterminator="\n"), "test_predictions.csv")
    skill = {name: value for name, value in found.items() if name.startswith("brier_skill_")}
    written = [Metric(name, value, 0, 0) for name, value in skill.items()]
    mlflow.MlflowClient().log_batch(source.info.run_id, metrics=written)
    low, high = found["brier_skill_low"], found["brier_skill_high"]
    said = f"Brier skill {found['brier_skill_value']:+.3f} [{low:+.3f}, {high:+.3f}] on {len(y_test)} held-out days"
    return _end(Result("evaluate_model", "done", said, model, run.info.run_id, found))


def nine_metrics(outcome, probability, threshold: float = THRESHOLD) -> dict[str, float]:
    """The nine scores of `NINE`; a decision is 1 where the probability is above `threshold`.

    `outcome` (0 or 1) and `probability` are arrays or Series of one length. Average precision and log loss are
    computed from the probabilities, the other seven from the decisions. A ratio without any case is 0.
    """
    from sklearn import metrics

    outcome, probability = np.asarray(outcome), np.asarray(probability, dtype="float64")
    decision = (probability > threshold).astype("int64")
    return {
        "accuracy": float(metrics.accuracy_score(outcome, decision)),
        "average_precision": float(metrics.average_precision_score(outcome, probability)),
        "f1": float(metrics.f1_score(outcome, decision, zero_division=0)),
        "jaccard": float(metrics.jaccard_score(outcome, decision, zero_division=0)),
        "log_loss": float(metrics.log_loss(outcome, probability, labels=[0, 1])),
        "mcc": float(metrics.matthews_corrcoef(outcome, decision)),
        "precision": float(metrics.precision_score(outcome, decision, zero_division=0)),
        "recall": float(metrics.recall_score(outcome, decision, zero_division=0)),
        "zero_one_loss": float(metrics.zero_one_loss(outcome, decision)),
    }


def register(model: str, *, promote: bool = True, force: bool = False) -> Result:
    """Make a model of `train` a version in the registry, and let the gate decide about it.

    The name is that of target and market: `pystock-big-move`, `pystock-big-move-nasdaq`. A model has one version,
    however often this is called. One that passes is promoted (`pystock.registry.promote`), or without `promote` put
    into Staging. One that does not is kept in Development with the reasons (tags `gate` and `reasons`, description):
    no error. An error before the verdict removes the version again; what a killed process left is judged by the next
    call. Skipped where the verdict is there (`force`: it is asked for again).

    Raises PipelineError as `evaluate`, for a model that was not evaluated, where another process is at this model, and
    where no verdict could be had.
    """
    source, about = _source(model)
    run = _begin("register_model", **{name: about[name] for name in ("market", "target", "features", "family")})
    mlflow.set_tags({"model": model, "data_run": about["data_run"]})
    if "brier_skill_low" not in source.data.metrics:
        raise PipelineError(f"The model {model} has no scores yet: run evaluate_model on it first.")
    name = named(f"pystock-{about['target'].replace('_', '-')}", about["market"])
    claim_work(f"the registration of {model}")
    client = mlflow.MlflowClient()
    found = _version_of(client, name, model)
    tags = found.tags if found else {}
    judged = "gate" in tags
    if not force and judged and not (promote and tags.get("lifecycle") == "Staging"):
        said = f"the model {model} is version {found.version} of {name} already: {found.description}"
        return _end(_registered("skipped", said, model, tags.get("pipeline_run", ""), found))
    if found is None:
        found = _new_version(client, name, model, source.info.run_id, run.info.run_id)
    try:
        said = _judge(client, name, found, promote, run.info.run_id)
    except BaseException:
        if not judged and not _is_champion(client, found) and not _was_promoted(client, found):
            client.delete_model_version(name, found.version)
        raise
    found = client.get_model_version(name, found.version)
    return _end(_registered("done", said, model, run.info.run_id, found))


def _judge(client, name: str, found, promote: bool, run_id: str) -> str:
    """Ask the gate, do and write down what follows; returns the sentence that says so."""
    from pystock.registry import (
        promotion as registry,  # late: with the gate it imports half of what there is, and a skipped step needs none
    )

    number, failed = int(found.version), []
    if "gate" in found.tags or not _was_promoted(client, found):  # else only the verdict was not written
        try:
            if promote or _is_champion(client, found):  # the alias may be that of a promotion that died: settle it
                registry.promote(name, number, why=f"the run {run_id} of {PIPELINE}")
            else:
                failed = [each for each in registry.gate(name, number) if not each.passed]
        except registry.Refused as refused:
            failed = [each for each in refused.conditions if not each.passed]
        except registry.RegistryError as error:
            if not _is_champion(client, found):  # it became that by settling what a killed process had left
                raise PipelineError(str(error)) from error
    reasons = "; ".join(f"{each.name}: {each.evidence}" for each in failed)
    state = client.get_model_version(name, number).tags.get("lifecycle", "Development")
    if failed and state == "Staging":  # it passed once, against another champion
        registry.set_lifecycle(name, number, state := "Development")
    if not failed and state == "Development":
        registry.set_lifecycle(name, number, state := "Staging")
    verdict = f"not promoted: {reasons}" if failed else f"passed the gate, now in {state}"
    client.update_model_version(name, number, description=verdict)
    client.set_model_version_tag(name, number, "reasons", reasons)
    client.set_model_version_tag(name, number, "gate", "refused" if failed else "passed")  # last: the verdict stands
    return f"version {number} of {name} {'is ' if failed else ''}{verdict}"


def _new_version(client, name: str, model: str, source_run: str, run_id: str):
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {"lifecycle": "Development", "pipeline_run": run_id}
    return client.create_model_version(name, f"models:/{model}", source_run, tags=tags, model_id=model)


def _version_of(client, name: str, model: str):
    """The version of a name that is this model; None where there is none."""
    found = client.search_model_versions(f"name = '{name}'")
    return next((each for each in found if each.source == f"models:/{model}"), None)


def _is_champion(client, found) -> bool:
    return str(client.get_registered_model(found.name).aliases.get("champion")) == str(found.version)


def _was_promoted(client, found) -> bool:
    """Whether a promotion of this version has been carried out to its end."""
    tags = client.get_model_version(found.name, found.version).tags
    promotion = _existing(tags.get("promotion"))
    return promotion is not None and promotion.data.tags["outcome"].startswith("promoted")


def _registered(outcome: str, said: str, model: str, made_by: str, found) -> Result:
    about = {"name": found.name, "version": int(found.version)}
    about |= {"gate": found.tags["gate"], "reasons": found.tags.get("reasons", "")}
    return Result("register_model", outcome, said, model, made_by, about)


# Small parts -----------------------------------------------------------------------------------------------------


def _begin(step: str, **about: str) -> Run:
    run = mlflow.active_run()
    if run is None:
        raise PipelineError(f"No run is active, and {step} logs into one: call it inside `with mlflow.start_run():`.")
    mlflow.set_tags({"pipeline": PIPELINE, "step": step, "git_commit": runs.git_commit(), **about})
    return run


def _end(result: Result) -> Result:
    made_by = {"made_by": result.made_by} if result.outcome == "skipped" else {}
    end_step(result.outcome, result.said, model=result.model, **made_by)
    return result


def _source(model: str) -> tuple[Run, dict[str, str]]:
    """The run that made a model, and what its tags and parameters say about it."""
    mend = "give the id of a model that train_model has made (`m-…`)"
    try:
        logged = mlflow.MlflowClient().get_logged_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise PipelineError(f"The model {model} does not exist in this store, or was deleted: {mend}.") from None
    source = _existing(logged.source_run_id)
    if source is None or not _ready(logged):
        raise PipelineError(f"The model {model} was not finished, or its run was deleted: {mend}.")
    about = source.data.tags | source.data.params
    needed = ("market", "target", "features", "family", "data_run", "threshold", "train_end", "test_end")
    if missing := [name for name in needed if name not in about]:
        raise PipelineError(f"The run of the model {model} does not say its {', '.join(missing)}: {mend}.")
    return source, about


def _same_model(fingerprint: str) -> tuple[str, str] | None:
    """The newest model with that fingerprint, and the run that made it; its data run must still be there."""
    for run in _finished({"step": "train_model", "outcome": "done", "fingerprint": fingerprint}):
        data_run = run.data.tags["data_run"]
        if data_run != "embedded" and _existing(data_run) is None:
            continue
        try:
            if _ready(mlflow.MlflowClient().get_logged_model(run.data.tags["model"])):
                return run.data.tags["model"], run.info.run_id
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    return None


def _ready(logged: LoggedModel) -> bool:
    return logged.status.value == "READY"


def _existing(run_id: str | None) -> Run | None:
    """A run that exists and was not deleted."""
    try:
        run = mlflow.MlflowClient().get_run(run_id) if run_id else None
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None
    return run if run and run.info.lifecycle_stage == "active" else None


def _finished(tags: dict[str, str]) -> Iterator[Run]:
    """The finished runs with these tags, in all experiments, newest first."""
    asked = " and ".join(f"tags.{name} = '{value}'" for name, value in tags.items())
    yield from mlflow.search_runs(
        search_all_experiments=True,
        filter_string=f"attributes.status = 'FINISHED' and {asked}",
        order_by=["attributes.start_time DESC"],
        max_results=20,
        output_format="list",
    )


def _log_params(params: dict[str, object]) -> None:
    """Log parameters into the active run, but for those that `mlflow run` has logged there in another spelling."""
    there = mlflow.MlflowClient().get_run(mlflow.active_run().info.run_id).data.params

    def same(name, value):
        try:
            return name in there and type(value)(there[name]) == value
        except ValueError:
            return False

    mlflow.log_params({name: value for name, value in params.items() if not same(name, value)})


def _libraries(family: str) -> dict[str, str]:
    """The installed versions of what fits and stores a model of the family."""
    found = {}
    for package in {"logistic": ("scikit-learn", "scipy", "skops"), "xgboost": ("xgboost-cpu", "xgboost")}[family]:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # XGBoost comes under one of two names
            pass
    return found | {package: version(package) for package in ("mlflow", "numpy", "pandas")}


def _code(*modules: str) -> str:
    package = Path(runs.__file__).parent
    return runs.code_digest(*((package / f"{module}.py").read_bytes() for module in modules))


# What decides what a model or its scores come out as. The features' code is not among them: the rows say what it made.
CODE = {
    "fit": _code("training/steps", "tuning", "models", "decision_model", "evaluation"),
    "score": _code("training/steps", "evaluation"),
}


def _digest(*what: object, values: pd.DataFrame | None = None) -> str:
    """32 hexadecimal digits from texts, mappings and every value of a table."""
    hashed = hashlib.sha256(repr(what).encode())
    if values is not None:
        hashed.update(repr(list(values.columns)).encode())
        hashed.update(pd.util.hash_pandas_object(values).to_numpy().tobytes())
    return hashed.hexdigest()[:32]
