"""A hyperparameter search that can be interrupted at any moment, and resumes from its finished trials.

The trials are in an Optuna study, and mirrored in MLflow: a run for the study, with a child run for each finished
trial. One process at a time works on a study: a second one would fail the trial that the first one is running.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import mlflow
import optuna
import pandas as pd
from mlflow.entities import Metric, Param, Run
from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json
from optuna.trial import FrozenTrial, TrialState
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from xgboost import XGBClassifier

from pystock.data import load
from pystock.evaluation import TEST_END, rolling_base_rate, time_split, walk_forward
from pystock.features import dataset

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
YEAR = 252  # trading days

# `years`: how much of the past a model is fitted on; the training period has almost 11. Whole numbers are categories:
# TPE sorts the values of all trials, and the order of equal values depends on the processor.
SPACES = {
    "logistic": {
        "C": FloatDistribution(1e-4, 100, log=True),
        "class_weight": CategoricalDistribution([None, "balanced"]),
        "years": FloatDistribution(2, 11),
    },
    "xgboost": {
        "learning_rate": FloatDistribution(0.01, 0.3, log=True),
        "max_depth": CategoricalDistribution([1, 2, 3, 4]),
        "min_child_weight": FloatDistribution(1, 100, log=True),
        "subsample": FloatDistribution(0.3, 1),
        "years": FloatDistribution(2, 11),
    },
}

PRUNER = optuna.pruners.MedianPruner(n_startup_trials=10)  # as many as TPE draws at random before it models anything


def build(family: str, *, years: float | None = None, **params: Any) -> Pipeline | XGBClassifier:
    """Return a classifier of the family, `logistic` or `xgboost`, with hyperparameters of its space.

    `years` is not a setting of the model: it tells the caller how many years to train it on.
    """
    if family == "logistic":
        # On few columns the fastest solver of scikit-learn; so small a tolerance gives the same digits everywhere.
        return make_pipeline(StandardScaler(), LogisticRegression(solver="newton-cholesky", tol=1e-8, **params))
    return XGBClassifier(**{"n_estimators": 100, "max_bin": 64, "random_state": 0, "n_jobs": 1} | params)


def skills(model: Pipeline | XGBClassifier, X: pd.DataFrame, y: pd.Series, years: float = 11) -> Iterator[float]:
    """Yield the Brier skill, against the rolling base rate, of all days validated so far, after each of five folds.

    X and y are those of the training period; the model is fitted on the last `years` before each walk-forward fold.
    """
    reference = rolling_base_rate(y, y.index[YEAR:]).reindex(y.index).to_numpy()
    X, y = X.to_numpy(), y.to_numpy()
    error = reference_error = 0
    for past, days in walk_forward(5, max_train_size=round(YEAR * years)).split(X):
        probability = model.fit(X[past], y[past]).predict_proba(X[days])[:, 1]
        error += ((probability - y[days]) ** 2).sum()
        reference_error += ((reference[days] - y[days]) ** 2).sum()
        yield 1 - error / reference_error


def training_data(market: str, target: str, features: str) -> tuple[pd.DataFrame, pd.Series]:
    """Return X and y of the training period: all the data that a search may use."""
    X, _, y, _ = time_split(*dataset(load(market, end=TEST_END), target, features))
    return X, y


# The study, and its mirror in MLflow ------------------------------------------------------------------------------


def open_study(name: str, storage: str, *, trials: int, **about: str) -> optuna.Study:
    """Return the newest study (name-1, name-2 …) if it has trials left to do and is about the same, else a new one.

    `storage` is the URL of a database, and not of MLflow's own: both keep a table `alembic_version`. `about` is market,
    target, features and family; the space and the number of trials count too.
    """
    space = {key: json.loads(distribution_to_json(kind)) for key, kind in SPACES[about["family"]].items()}
    attributes = {**about, "trials": trials, "space": space}
    known = [re.fullmatch(rf"{re.escape(name)}-(\d+)", each) for each in optuna.get_all_study_names(storage)]
    newest = max([int(match[1]) for match in known if match], default=0)
    if newest:
        study = load_study(f"{name}-{newest}", storage)
        if {key: study.user_attrs.get(key) for key in attributes} == attributes and left(study):
            return study
    name = f"{name}-{newest + 1}"
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize", pruner=PRUNER)
    for key, value in attributes.items():
        study.set_user_attr(key, value)
    return study


def load_study(name: str, storage: str) -> optuna.Study:
    """Return a study from the storage, with its trials."""
    return optuna.load_study(study_name=name, storage=storage, pruner=PRUNER)


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that have a result: complete ones and pruned ones."""
    return study.get_trials(deepcopy=False, states=FINISHED)


def left(study: optuna.Study) -> int:
    """Return how many trials are left to do."""
    return int(study.user_attrs["trials"]) - len(finished(study))


def run_trials(study: optuna.Study, evaluate: Callable[..., Iterator[float]] = skills) -> Iterator[FrozenTrial]:
    """Run the remaining trials, one per step of a loop over this, and mirror each to MLflow.

    It first repairs what a killed process left behind. `evaluate` is called as `skills` is.
    """
    about = study.user_attrs
    X, y = training_data(about["market"], about["target"], about["features"])
    run = put_in_order(study)
    for done in range(len(finished(study)), about["trials"]):
        # With a fixed seed a sampler would repeat its numbers after a restart. The number of finished trials grows.
        study.sampler = optuna.samplers.TPESampler(seed=done)
        trial = study.ask(SPACES[about["family"]])
        state = TrialState.COMPLETE
        for fold, value in enumerate(evaluate(build(about["family"], **trial.params), X, y, trial.params["years"])):
            value = round(value, 6)  # digits in which processors differ must not decide which trial is better
            trial.report(value, fold)
            if trial.should_prune():
                state = TrialState.PRUNED
                break
        ended = study.tell(trial, value if state == TrialState.COMPLETE else None, state)
        mirror(ended, run)
        yield ended


def mirror(trial: FrozenTrial, run: Run) -> None:
    """Write a finished trial to MLflow, as a child of the study's run; the last one costs no more than the first."""
    tags = {"trial": str(trial.number), "state": trial.state.name.lower()}
    name, experiment = f"trial-{trial.number:03}", run.info.experiment_id
    with mlflow.start_run(run_name=name, experiment_id=experiment, parent_run_id=run.info.run_id, tags=tags) as child:
        params = [Param(key, str(value)) for key, value in trial.params.items()]
        metrics = [Metric("skill", value, 0, fold) for fold, value in trial.intermediate_values.items()]
        mlflow.MlflowClient().log_batch(child.info.run_id, metrics=metrics, params=params)


def put_in_order(study: optuna.Study) -> Run:
    """Repair what a killed process left, and return the study's run, which is created if this store has none.

    Trials that were running are marked as failed. Finished trials without a finished child run get one, and a child
    run that was being written is ended.
    """
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        study.tell(trial.number, state=TrialState.FAIL)
    run, mirrored = _run_of(study), set()
    children = f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
    for child in mlflow.search_runs([run.info.experiment_id], children, output_format="list"):
        if child.info.status == "RUNNING":
            mlflow.MlflowClient().set_terminated(child.info.run_id, "KILLED")
        elif child.info.status == "FINISHED":
            mirrored.add(child.data.tags["trial"])
    for trial in finished(study):
        if str(trial.number) not in mirrored:
            mirror(trial, run)
    return run


def _run_of(study: optuna.Study) -> Run:
    about = {key: str(value) for key, value in study.user_attrs.items() if key not in ("run_id", "space")}
    with suppress(KeyError, mlflow.MlflowException):  # a new study; or it was started on another tracking store
        run = mlflow.get_run(study.user_attrs["run_id"])
        if run.info.status == "FINISHED" and run.info.lifecycle_stage == "active":
            return run
    # open only while it is written to, so that no kill leaves it running
    with mlflow.start_run(run_name=study.study_name, tags={"stage": "tuning", **about}) as run:
        mlflow.log_dict(study.user_attrs["space"], "space.json")
    study.set_user_attr("run_id", run.info.run_id)
    return mlflow.get_run(run.info.run_id)
