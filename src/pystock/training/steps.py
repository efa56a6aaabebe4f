"""The steps of the training pipeline: fit a model, score it, and submit it to the registry's gate.

Each step works inside an active run of its own, and is skipped if its result exists already. `train` finds what it
needs in the run that made the table, `evaluate` and `register` in the logged model and the tags of its source run.
"""

import contextlib
import hashlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelInput, Run
from mlflow.entities.model_registry import ModelVersion

from pystock import runs
from pystock.data import named
from pystock.errors import ignoring
from pystock.evaluation import TEST_END, TRAIN_END, nine_metrics, rolling_base_rate, score_table, time_split
from pystock.model_uri import champion_version, find_version, model_id_of
from pystock.pipeline import PipelineError, active_run_id, claim_work, end_step, existing_run, finished_runs
from pystock.training.settings import Value, parse_settings
from pystock.training.table import DATA_PIPELINE, data_set, find_data_run, newest_data_run, table

PIPELINE = "pystock-training"
THRESHOLD = 0.25  # above it the decision is 1: a missed move is regretted as much as three false alarms (chapter 10)
YEAR = 252  # trading days


class StepResult(NamedTuple):
    """What a step did: `outcome` is done or skipped, `said` a sentence, `made_by` the run that made the result.

    `found` holds the metrics of `evaluate`; name, version (int), gate (passed or refused) and reasons of `register`.
    """

    step: str
    outcome: str
    said: str
    model: str
    made_by: str
    found: Mapping[str, Value] = {}


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
) -> StepResult:
    """Fit a model on the rows up to `train_end`, and log it as a decision model into the active run.

    `data` is the id of a run of feature_set_generation, `newest` or `embedded`; if `newest` finds none, the embedded
    prices are used. `settings`: see `parse_settings`. The model is fitted on the last `years` before `train_end`.
    Skipped if a finished run has made a model from the same rows, parameters, library versions and code. Raises
    PipelineError without an active run, and as `parse_settings` and `table`.
    """
    run_id = _begin("train_model", market=market, target=target, features=features)
    chosen = parse_settings(family, settings)
    if not 0 <= threshold <= 1:
        raise PipelineError(f"The threshold is {threshold:g}: give a probability from 0 to 1.")
    note = ""
    if data == "newest" and not (data := newest_data_run(market, target, features) or ""):
        data, question = "embedded", f"{target} on {features} for {market}"
        note = f"; no run of {DATA_PIPELINE} in this store made {question}, so the embedded prices were used"
    if data != "embedded":
        data = find_data_run(data, market, target, features).info.run_id
    rows = table(data, market, target, features)
    params: dict[str, Value] = {"family": family, **chosen, "threshold": threshold, "seed": seed}
    train_end, test_end = (f"{pd.Timestamp(day):%Y-%m-%d}" for day in (train_end, test_end))  # the gate reads these
    params |= {"train_end": train_end, "test_end": test_end}
    fingerprint = _digest(market, target, features, params, _libraries(family), CODE["fit"], values=rows)
    mlflow.set_tags({"family": family, "data_run": data, "threshold": threshold, "fingerprint": fingerprint})
    if not force and (same := _same_model(fingerprint)):
        model, made_by = same
        said = f"the model {model} of the run {made_by} has the same rows, parameters, library versions and code{note}"
        return _end(StepResult("train_model", "skipped", said, model, made_by))

    from pystock import tuning  # late: a skipped step needs neither Optuna nor XGBoost
    from pystock.models import log_decision_model

    X, _, y, _ = time_split(rows.drop(columns=target), rows[target], train_end, test_end)
    logged = MlflowClient().get_run(run_id).data.params  # by `mlflow run`, perhaps in another spelling
    mlflow.log_params({name: value for name, value in params.items() if name not in logged} | {"train_rows": len(X)})
    mlflow.log_input(data_set(X.assign(**{target: y}), data, market, target, features), context="training")
    hyperparameters: dict[str, Any] = {name: None if value == "none" else value for name, value in chosen.items()}
    if family == "xgboost":  # logistic regression draws nothing at random
        hyperparameters["random_state"] = seed
    past = slice(-round(YEAR * float(chosen["years"])), None)
    fitted = tuning.build(family, **hyperparameters).fit(X[past], y[past])
    tags = {"market": market, "target": target, "features": features, "family": family}
    model = log_decision_model(fitted, X, threshold=threshold, tags=tags).model_id
    said = f"{family} was fitted on {len(X[past])} days up to {X.index[-1]:%Y-%m-%d}: model {model}{note}"
    return _end(StepResult("train_model", "done", said, model, run_id))


def evaluate(model: str, *, force: bool = False) -> StepResult:
    """Score a model of `train` on its held-out days, and log scores and predictions into the active run.

    The held-out days are those after the model's own `train_end`, up to its `test_end`. Logged: `nine_metrics` and
    `score_table`, linked to the model and to the held-out data set; test_predictions.csv (date, probability, decision,
    outcome); and the Brier skill also into the model's source run, to which a registered version leads. Skipped if a
    finished run has scored the model with the same code. Raises PipelineError as `train`, and for any other model.
    """
    source, tags = _source(model)
    question = {name: tags[name] for name in ("market", "target", "features")}
    run_id = _begin("evaluate_model", **question, family=tags["family"])
    fingerprint = _digest(model, CODE["score"])
    mlflow.set_tags({"model": model, "data_run": tags["data_run"], "fingerprint": fingerprint})
    earlier = {"step": "evaluate_model", "outcome": "done", "model": model, "fingerprint": fingerprint}
    if not force and (same := next(finished_runs(earlier), None)):
        said = f"the run {same.info.run_id} has already scored the model {model} with the same code"
        return _end(StepResult("evaluate_model", "skipped", said, model, same.info.run_id, same.data.metrics))

    from pystock.models import load_decision_model  # late, as in `train`

    rows = table(tags["data_run"], **question)
    y, threshold = rows[tags["target"]], float(tags["threshold"])
    _, X_test, _, y_test = time_split(rows.drop(columns=tags["target"]), y, tags["train_end"], tags["test_end"])
    answer: pd.DataFrame = load_decision_model(f"models:/{model}").model.predict(X_test)
    probability = answer["probability"].set_axis(X_test.index)
    reference = rolling_base_rate(y, y_test.index)
    scores = runs.metrics_of(score_table(y_test, probability, reference, threshold))
    scores |= nine_metrics(y_test, probability, threshold)
    held_out = data_set(rows.loc[X_test.index], tags["data_run"], **question)
    mlflow.log_input(held_out, context="evaluation", model=LoggedModelInput(model))
    mlflow.log_metrics(scores, model_id=model, dataset=held_out)
    predictions = answer[["probability", "decision"]].set_axis(X_test.index).assign(outcome=y_test).rename_axis("date")
    mlflow.log_text(predictions.to_csv(lineterminator="\n"), "test_predictions.csv")
    skill = {name: scores[name] for name in ("brier_skill_value", "brier_skill_low", "brier_skill_high")}
    mlflow.log_metrics(skill, step=0, run_id=source.info.run_id)
    said = "Brier skill {:+.3f} [{:+.3f}, {:+.3f}] on {} held-out days".format(*skill.values(), len(y_test))
    return _end(StepResult("evaluate_model", "done", said, model, run_id, scores))


def register(model: str, *, promote: bool = True, force: bool = False) -> StepResult:
    """Register a model of `train` as a version, and let the gate decide about it.

    The name comes from target and market: `pystock-big-move`, `pystock-big-move-nasdaq`. A model has one version. If it
    passes, it is promoted (`pystock.registry.promote`) or, without `promote`, approved; if not, it is rejected. Its
    tags are `validation_status` (pending, approved, rejected) and `reasons`; the description has the verdict. The gate
    judges it on the held-out days of `evaluate`, but never before the test years. A version that an error or a killed
    process left pending is judged by the next call. Skipped if there is a verdict, unless `force`. Raises PipelineError
    as `evaluate`, for a model that was not evaluated or is being registered, and without a verdict.
    """
    source, tags = _source(model)
    run_id = _begin("register_model", **{name: tags[name] for name in ("market", "target", "features", "family")})
    mlflow.set_tags({"model": model, "data_run": tags["data_run"]})
    if "brier_skill_low" not in source.data.metrics:
        raise PipelineError(f"The model {model} has no scores yet: run evaluate_model on it first.")
    name = named(f"pystock-{tags['target'].replace('_', '-')}", tags["market"])
    claim_work(f"the registration of {model}")
    client = MlflowClient()
    versions = client.search_model_versions(f"name = '{name}'")
    version = next((each for each in versions if model_id_of(each) == model), None)
    state = version.tags if version else {}
    waits = promote and state.get("validation_status") == "approved" and "promotion" not in state
    if version and "reasons" in state and not waits and not force:
        said = f"the model {model} is already version {version.version} of {name}: {version.description}"
        return _registered("skipped", said, model, state.get("pipeline_run", ""), version)
    if version is None:
        with ignoring("RESOURCE_ALREADY_EXISTS"):
            client.create_registered_model(name)
        made = {"validation_status": "pending", "pipeline_run": run_id}
        version = client.create_model_version(name, f"models:/{model}", source.info.run_id, tags=made, model_id=model)
    said = _ask_gate(client, version, tags, promote, f"the run {run_id} of {PIPELINE}")
    return _registered("done", said, model, run_id, client.get_model_version(name, version.version))


def promote_version(name: str, version: str, why: str) -> str:
    """Promote a version whose source run names market, target and features; return a sentence about it.

    The gate judges it on the held-out days of its table; without the tag `data_run`, those of the embedded prices.
    Raises as `pystock.registry.promote`, and PipelineError if the run does not name them.
    """
    from pystock import registry

    run = existing_run(find_version(name, version).run_id)
    tags = {**run.data.tags, **run.data.params} if run else {}
    if missing := [tag for tag in ("market", "target", "features") if tag not in tags]:
        raise PipelineError(f"The source run of version {version} of {name} has no tag {', '.join(missing)}: set it.")
    registry.promote(name, version, *_held_out(tags), why=why)
    return f"version {version} of {name} is the champion"


def _held_out(tags: Mapping[str, str]) -> tuple[pd.DataFrame, pd.Series, pd.Series]:
    """Return the features and outcomes of the days that a model was not trained on, and the rolling base rate."""
    target = tags["target"]
    rows = table(tags.get("data_run", "embedded"), tags["market"], target, tags["features"])
    days = max(tags.get("train_end", TRAIN_END), TRAIN_END), tags.get("test_end", TEST_END)
    _, X_test, _, y_test = time_split(rows.drop(columns=target), rows[target], *days)
    return X_test, y_test, rolling_base_rate(rows[target], y_test.index)


def _ask_gate(client: MlflowClient, version: ModelVersion, tags: Mapping[str, str], promote: bool, why: str) -> str:
    """Run the gate, act on its verdict and record it; return a sentence about it."""
    from pystock import registry  # late: it imports half of all modules, and a skipped step needs none of them

    name, number, conditions = version.name, str(version.version), list[registry.Condition]()
    if champion_version(name) != number or "promotion" not in version.tags:
        try:
            if promote:
                conditions = registry.promote(name, number, *_held_out(tags), why=why)
            else:
                champion = f"models:/{name}/{now}" if (now := champion_version(name)) else None
                conditions = registry.judge(f"models:/{name}/{number}", *_held_out(tags), champion)
        except registry.Refused as refused:
            conditions = refused.conditions
        except registry.RegistryError as error:
            if champion_version(name) != number:  # a killed process had made it the champion
                raise PipelineError(str(error)) from error
    reasons = "; ".join(f"{each.name}: {each.evidence}" for each in conditions if not each.passed)
    status = "rejected" if reasons else "approved"
    done = " and is the champion" if not reasons and champion_version(name) == number else ""
    verdict = f"not promoted: {reasons}" if reasons else f"passed the gate{done}"
    client.update_model_version(name, number, description=verdict)
    client.set_model_version_tag(name, number, "validation_status", status)
    client.set_model_version_tag(name, number, "reasons", reasons)  # last: it is final
    return f"version {number} of {name} {'is ' if reasons else ''}{verdict}"


def _registered(outcome: str, said: str, model: str, made_by: str, version: ModelVersion) -> StepResult:
    gate = "refused" if version.tags["validation_status"] == "rejected" else "passed"
    verdict: dict[str, Value] = {"name": version.name, "version": int(version.version)}
    verdict |= {"gate": gate, "reasons": version.tags.get("reasons", "")}
    return _end(StepResult("register_model", outcome, said, model, made_by, verdict))


def _begin(step: str, **about: str) -> str:
    """Tag the active run, and return its id."""
    run_id = active_run_id()
    mlflow.set_tags({"pipeline": PIPELINE, "step": step, "git_commit": runs.git_commit(), **about})
    return run_id


def _end(result: StepResult) -> StepResult:
    made_by = {"made_by": result.made_by} if result.outcome == "skipped" else {}
    end_step(result.outcome, result.said, model=result.model, **made_by)
    return result


def _source(model: str) -> tuple[Run, dict[str, str]]:
    """Return the run that made a model, and its tags and parameters."""
    fix = "give the id of a model that train_model made (`m-…`)"
    logged = _finished_model(model)
    source = existing_run(logged.source_run_id) if logged else None
    if source is None:
        raise PipelineError(f"The model {model} does not exist in this store, or it or its run was deleted: {fix}.")
    tags = source.data.tags | source.data.params
    needed = ("market", "target", "features", "family", "data_run", "threshold", "train_end", "test_end")
    if missing := [name for name in needed if name not in tags]:
        raise PipelineError(f"The run of the model {model} has no {', '.join(missing)}: {fix}.")
    return source, tags


def _same_model(fingerprint: str) -> tuple[str, str] | None:
    """Return the newest model with that fingerprint, and the run that made it; its data run must still exist."""
    for run in finished_runs({"step": "train_model", "outcome": "done", "fingerprint": fingerprint}):
        data_run, model = run.data.tags["data_run"], run.data.tags["model"]
        if (data_run == "embedded" or existing_run(data_run)) and _finished_model(model):
            return model, run.info.run_id
    return None


def _finished_model(model: str) -> LoggedModel | None:
    """Return a logged model that exists and is complete, else None."""
    logged = None
    with ignoring("RESOURCE_DOES_NOT_EXIST"):
        logged = MlflowClient().get_logged_model(model)
    return logged if logged and logged.status.value == "READY" else None


def _libraries(family: str) -> dict[str, str]:
    """Return the installed versions of what fits and stores a model of the family."""
    own = {"logistic": ("scikit-learn", "scipy", "skops"), "xgboost": ("xgboost-cpu", "xgboost")}[family]
    installed = {}
    for package in ("mlflow", "numpy", "pandas", *own):
        with contextlib.suppress(PackageNotFoundError):  # XGBoost comes under one of two names
            installed[package] = version(package)
    return installed


def _code(*modules: str) -> str:
    package = Path(runs.__file__).parent
    return runs.code_digest(*((package / f"{module}.py").read_bytes() for module in modules))


# The code that a model or its scores depend on. The features' code is not included: its results are in the rows.
_STEPS = ("training/steps", "training/settings", "training/table", "evaluation", "models")
CODE = {"fit": _code(*_STEPS, "tuning", "decision_model"), "score": _code(*_STEPS)}


def _digest(*parts: object, values: pd.DataFrame | None = None) -> str:
    """Return 32 hexadecimal digits of texts, mappings and every value of a table."""
    hashed = hashlib.sha256(repr(parts).encode())
    if values is not None:
        hashed.update(repr(list(values.columns)).encode())
        hashed.update(pd.util.hash_pandas_object(values).to_numpy().tobytes())
    return hashed.hexdigest()[:32]
