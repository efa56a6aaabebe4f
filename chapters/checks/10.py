"""The exercises of chapter 10."""

import ast

import numpy as np
import pandas as pd
from mlflow.types import Schema, TensorSpec

from course.checks import Exercise, Wrong, is_near, newest_run, run_in
from pystock import tuning
from pystock.evaluation import walk_forward


def _typed(text):
    try:
        return ast.literal_eval(text)
    except ValueError:
        return text


def _on_the_folds(market):
    """Outcomes and the candidate's probabilities on the days that the five folds validate."""
    candidate = newest_run("tuning", "tags.pilot = 'candidate'", "The store has no candidate: run chapter 08.")
    params = {name: _typed(text) for name, text in candidate.data.params.items()}
    X, y = tuning.training_data(market, "big_move", "volatility")
    parts = []
    for past, days in walk_forward(5, max_train_size=round(252 * params["years"])).split(X):
        model = tuning.build(candidate.data.tags["family"], **params).fit(X.iloc[past], y.iloc[past])
        parts.append(pd.Series(model.predict_proba(X.iloc[days])[:, 1], index=X.index[days]))
    probability = pd.concat(parts)
    return y[probability.index], probability


def nine_false_alarms(answer, market):
    outcome, probability = _on_the_folds(market)

    def cost(threshold, miss):
        decision = probability > threshold
        return (miss * ((outcome == 1) & ~decision) + ((outcome == 0) & decision)).mean()

    if is_near(answer, cost(0.1, 9)):
        return
    if is_near(answer, 0.1):
        raise Wrong("That is the threshold that follows from the costs: give the mean cost of a day at that threshold.")
    if is_near(answer, cost(0.1, 3)):
        raise Wrong("The threshold is right, but the cost is not: a miss costs 9 here as well, so pass miss=9.")
    if is_near(answer, cost(0.25, 9)):
        raise Wrong("That is the cost at the old threshold: if a miss costs 9, the threshold is 1 / (1 + 9).")
    raise Wrong("Compute cost(outcome, probability > 1 / (1 + 9), miss=9) on the days of the folds.")


def window_schema(answer, market):
    if not isinstance(answer, Schema):
        raise Wrong("Give a Schema: Schema([TensorSpec(np.dtype(…), (…))]).")
    if not answer.is_tensor_spec() or len(answer.inputs) != 1:
        raise Wrong("An array is described by one TensorSpec, not by columns.")
    (spec,) = answer.inputs
    if spec.type != np.dtype("float32"):
        raise Wrong(f"Its type is {spec.type}: the network uses float32, and MLflow does not convert arrays.")
    if spec.shape == (22, 3):
        raise Wrong("That is one window. The first number of the shape is the number of windows; -1 means any number.")
    if spec.shape != (-1, 22, 3):
        raise Wrong(f"Its shape is {spec.shape}: any number of windows, of 22 days each, with 3 values a day.")


def decision_model(answer, market):
    import mlflow

    run = run_in("models", answer)
    if run.data.tags.get("pilot"):
        raise Wrong("That is the run of the pilot model: start a run of your own, without the tag pilot.")
    if not run.outputs or not run.outputs.model_outputs:
        raise Wrong("That run has no model: call log_decision_model inside `with mlflow.start_run(…)`.")
    uri = f"models:/{run.outputs.model_outputs[-1].model_id}"
    info = mlflow.models.get_model_info(uri)
    if "model_code_path" not in info.flavors["python_function"]:
        raise Wrong("Its model is not a model from code: log it with log_decision_model.")
    if "sklearn" not in info.flavors["python_function"].get("artifacts", {}):
        raise Wrong('It does not contain a scikit-learn classifier: build one with tuning.build("logistic").')
    if [each.default for each in info.signature.params] != [0.1]:
        raise Wrong("Its default threshold is not 1 / (1 + 9), although a miss costs as much as nine false alarms.")
    if run.info.status != "FINISHED":
        raise Wrong(f"That run is {run.info.status}: start it with `with`, so that it ends.")


EXERCISES = [
    Exercise("10.1", test=nine_false_alarms, wrong=[0.1, 9]),
    Exercise(
        "10.2",
        test=window_schema,
        wrong=[
            Schema([TensorSpec(np.dtype("float32"), (22, 3))]),
            Schema([TensorSpec(np.dtype("float64"), (-1, 22, 3))]),
        ],
    ),
    Exercise("10.3", test=decision_model, wrong=["big-move-volatility-logistic-decision", "0" * 32]),
]
