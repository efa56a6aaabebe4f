"""The exercises of chapter 14."""

from course.checks import Exercise, Wrong, newest_run
from pystock.data import named
from pystock.training import NINE, nine_metrics


def _newest(market: str, **tags: str):
    """The newest finished run of the training pipeline in this chapter's experiment with these tags."""
    tags = {"pipeline": "pystock-training", "outcome": "done", "market": market} | tags
    wanted = " and ".join(f"tags.{tag} = '{value}'" for tag, value in tags.items())
    missing = "This store has no such run of the pipeline yet: run the chapter up to its exercises first."
    return newest_run(named("training", market), wanted, missing)


def threshold_moves(answer, market):
    import mlflow
    import pandas as pd

    if not isinstance(answer, (set, frozenset, list, tuple)) or not all(isinstance(each, str) for each in answer):
        raise Wrong("Give a set of names, such as {'accuracy', 'f1'}.")
    if unknown := set(answer) - set(NINE):
        raise Wrong(f"{min(unknown)} is not one of the nine metrics: they are {', '.join(NINE)}.")
    run = _newest(market, step="evaluate_model", target="big_move", family="xgboost")
    file = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="test_predictions.csv")
    days = pd.read_csv(file)
    quarter, half = (nine_metrics(days["outcome"], days["probability"], at) for at in (0.25, 0.5))
    right = {name for name in NINE if quarter[name] != half[name]}
    if too_many := set(answer) - right:
        raise Wrong(f"{min(too_many)} is the same at both thresholds: does it depend on decisions at all?")
    if missing := right - set(answer):
        raise Wrong(f"{min(missing)} changes, too: another threshold leads to other decisions.")


def trained_alone(answer, market):
    import mlflow

    if not isinstance(answer, str) or not answer.startswith("m-"):
        raise Wrong("Give the id of the model as text: it begins with m-.")
    try:
        model = mlflow.get_logged_model(answer)
        run = mlflow.get_run(model.source_run_id)
    except mlflow.MlflowException:
        raise Wrong(f"The store has no model {answer}: give what training.train returns as `model`.") from None
    tags, params = run.data.tags, run.data.params
    if tags.get("step") != "train_model":
        raise Wrong("That model was not made by the step train_model: call training.train inside a run.")
    if (tags["market"], tags["target"], tags["features"]) != (market, "big_move", "volatility"):
        raise Wrong(f"That model was trained for another task: train it for big_move on volatility, on {market}.")
    if tags["family"] != "logistic":
        raise Wrong(f"That is a model of the family {tags['family']}: pass family='logistic'.")
    if abs(float(params["C"]) - 0.01) > 1e-12:
        raise Wrong(f"It was trained with C={params['C']}: pass settings='C=0.01'.")
    if abs(float(tags["threshold"]) - 0.1) > 1e-9:
        raise Wrong(f"Its threshold is {tags['threshold']}: an alarm pays off above 1 / (1 + 9).")
    ours = _newest(market, step="train_model", family="xgboost", target="big_move")
    if tags["data_run"] != ours.data.tags["data_run"]:
        raise Wrong("It was trained on another table: do not pass `data`, so that it uses the newest.")


def failed_conditions(answer, market):
    import mlflow

    name = named("pystock-direction", market)
    found = mlflow.MlflowClient().search_model_versions(f"name = '{name}' and tags.validation_status = 'rejected'")
    if not found:
        raise Wrong(f"This store has no refused version of {name} yet: run the chapter up to its exercises first.")
    if not isinstance(answer, (set, list, tuple)) or not answer or not all(isinstance(each, str) for each in answer):
        raise Wrong("Give a list of names, such as ['signature', 'clean process'].")
    reasons = max(found, key=lambda each: int(each.version)).tags["reasons"]
    names = ("signature", "unseen rows", "clean process", "score", "reference", "champion")
    if unknown := set(answer) - set(names):
        raise Wrong(f"{min(unknown)!r} is not a condition of the gate: the conditions are {', '.join(names)}.")
    right = {each for each in names if f"{each}: " in reasons}
    if set(answer) != right:
        raise Wrong("Read the tag `reasons` of that version: it lists only the conditions that failed.")


EXERCISES = [
    Exercise("14.1", test=threshold_moves, wrong=[set(NINE), {"precision", "recall", "f1"}]),
    Exercise("14.2", test=trained_alone, wrong=["logistic", "m-00000000000000000000000000000000"]),
    Exercise("14.3", test=failed_conditions, wrong=[["champion"], ["base rate"]]),
]
