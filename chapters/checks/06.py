"""The exercises of chapter 06."""

import re

from course.checks import Exercise, Wrong, newest_run, run_in, runs_by_filter
from pystock.data import load
from pystock.evaluation import time_split
from pystock.features import dataset
from pystock.runs import data_set


def flipped(answer, market):
    run = run_in("comparison", answer)
    if run.info.run_name != "one-flag-flipped":
        raise Wrong(f"That is the run {run.info.run_name}: name yours one-flag-flipped.")
    inputs = [entry for entry in run.inputs.dataset_inputs if entry.tags and entry.tags[0].value == "training"]
    if not inputs:
        raise Wrong('That run has no data set: call mlflow.log_input(…, context="training") in it.')
    X, _, y, _ = time_split(*dataset(load(market, end="2014-12-31"), "direction", "flags"))
    first = X.copy()
    first.iloc[0, 0] = 1 - first.iloc[0, 0]
    right, unchanged = (data_set(rows.assign(direction=y), "", market, "direction", "flags") for rows in (first, X))
    digest = inputs[0].dataset.digest
    if digest == unchanged.digest:
        raise Wrong("Its digest is that of the unchanged table: call describe again, on the changed copy.")
    if digest != right.digest:
        raise Wrong("It has another digest: flip only the first flag, and call describe(copy, y_train, 'flags').")


def lowest_loss(answer, market):
    import mlflow

    if isinstance(answer, bool) or not isinstance(answer, int):
        raise Wrong("The answer is a step, a whole number from 0 to 149.")
    name = "direction-flags-xgboost-validation"
    run = newest_run("comparison", f"attributes.run_name = '{name}'", f"The store has no run {name}: run its cell.")
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "validation-logloss")
    loss = {point.step: point.value for point in history}
    if answer not in loss:
        raise Wrong(f"The steps go from 0 to {max(loss)}.")
    if loss[answer] > min(loss.values()) + 0.0005:
        late = answer == max(loss)
        where = "That is the last step, where train-logloss is lowest." if late else f"It is {loss[answer]:.4f} there."
        raise Wrong(f"{where} Look for the lowest point of validation-logloss, {min(loss.values()):.4f}.")


def forest(answer, market):
    run = run_in("comparison", answer)
    if run.info.run_name != "big-move-volatility-forest":
        raise Wrong(f"That run is named {run.info.run_name}: call compare('big_move', 'volatility', 'forest').")
    agreed = {"target": "big_move", "features": "volatility", "family": "forest", "market": market}
    for name, value in agreed.items():
        if run.data.tags.get(name) != value:
            raise Wrong(f"Its tag {name} is {run.data.tags.get(name)}, not {value}: start the run with start(…).")
    if run.data.params.get("min_samples_leaf") != "20":
        raise Wrong("It has no parameter min_samples_leaf with the value 20: put it into settings['forest'].")
    if f"{market}-big_move-volatility" not in [each.dataset.name for each in run.inputs.dataset_inputs]:
        raise Wrong("That run has no data set with the agreed name: log the one that describe(…) returns.")
    if "brier_skill_low" not in run.data.metrics:
        raise Wrong("That run has no metric brier_skill_low: call evaluate(…) inside the run.")
    if run.info.status != "FINISHED":
        raise Wrong(f"That run is {run.info.status}: start it with `with`, so that it ends.")


def passing_filter(answer, market):
    import mlflow

    found = runs_by_filter("comparison", answer)
    everything = mlflow.search_runs(experiment_names=["comparison"], output_format="list")
    right = {run.info.run_id for run in everything if _passes(run)}
    for run in found:
        if not _passes(run) and run.data.metrics.get("brier_skill_low", -1) <= 0:
            raise Wrong(f"It also finds {run.info.run_name}, whose interval is not above zero: filter on its low end.")
        if not _passes(run):
            raise Wrong(f"It also finds {run.info.run_name}: filter on target, on stage and on the status FINISHED.")
    if missing := right - {run.info.run_id for run in found}:
        raise Wrong(f"It finds {len(found)} runs, but misses {len(missing)} that beat the base rate.")
    for word in ("brier_skill_low", "target", "stage", "status"):
        if not re.search(rf"\b{word}\b", answer):  # on this store it finds the right runs by chance
            raise Wrong(f"It finds the right runs on this store only by chance: it does not filter on {word}.")


def _passes(run):
    return (
        run.data.tags.get("target") == "big_move"
        and run.data.tags.get("stage") == "prototyping"
        and run.data.metrics.get("brier_skill_low", -1) > 0
        and run.info.status == "FINISHED"
    )


def even_chance(answer, market):
    if isinstance(answer, bool) or not isinstance(answer, int):
        raise Wrong("The answer is a number of models, a whole number.")
    chance = 1 - 0.95**answer
    if answer in (10, 20):
        raise Wrong(f"The chances don't add up like that: with {answer} models, it is {chance:.3f}.")
    if answer != 14:
        raise Wrong(f"With {answer} models, the chance is {chance:.3f}. Find the first number with more than one half.")


EXERCISES = [
    Exercise("06.1", test=flipped, wrong=["one-flag-flipped", "0" * 32]),
    Exercise("06.2", test=lowest_loss, wrong=[149, 0.69]),
    Exercise("06.3", test=forest, wrong=["big-move-volatility-forest", "0" * 32]),
    Exercise(
        "06.4",
        test=passing_filter,
        wrong=[
            "tags.target = 'big_move' and tags.stage = 'prototyping' and attributes.status = 'FINISHED'",
            "tags.target = 'big_move' and metrics.brier_skill_low > 0 and attributes.status = 'FINISHED'",
        ],
    ),
    Exercise("06.5", test=even_chance, wrong=[10, 13]),
]
