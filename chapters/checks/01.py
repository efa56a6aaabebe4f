"""The exercises of chapter 01."""

import mlflow
from mlflow.pyfunc.scoring_server import infer_and_parse_data

from course.checks import Exercise, Wrong
from pystock.data import load, named
from pystock.evaluation import time_split
from pystock.features import dataset


def _split(market):
    return time_split(*dataset(load(market, end="2014-12-31")))


def always_up(answer, market):
    _, _, y_train, y_test = _split(market)
    if abs(answer - y_train.mean()) < 0.0006:
        raise Wrong(
            "That is the share of days that rose in the training years. The question is about the held-out years."
        )
    if abs(answer - y_test.mean()) > 0.0006:
        raise Wrong("Always up is right on exactly the days whose outcome is 1: count them in y_test.")


def shallow_forest(answer, market):
    try:
        run = mlflow.get_run(answer)
    except mlflow.MlflowException:
        raise Wrong(
            f"The store has no run with the id {answer!r}: give run.info.run_id, not a name or a model's address."
        ) from None
    experiment = named("stockpred", market)
    if mlflow.get_experiment(run.info.experiment_id).name != experiment:
        raise Wrong(f"That run is in another experiment: set {experiment} before you start it.")
    if run.info.run_name != "shallow-forest":
        raise Wrong(f"That run is named {run.info.run_name}: pass run_name='shallow-forest' to start_run.")
    if run.data.params.get("max_depth") != "3":
        raise Wrong("That run has no parameter max_depth of 3: call autolog before fit, and pass max_depth=3.")
    if not any("score" in name and "X_test" in name for name in run.data.metrics):
        raise Wrong("That run has no score on the held-out days: call score(X_test, y_test) after fit.")
    if run.outputs and run.outputs.model_outputs:
        raise Wrong("That run saved its model: pass log_models=False to autolog.")


def request_body(answer, market):
    _, X_test, _, _ = _split(market)
    try:
        rows = infer_and_parse_data(answer)
    except mlflow.MlflowException:
        raise Wrong("The server would refuse it: the rows must stand under one key: dataframe_records.") from None
    missing = [column for column in X_test if column not in rows]
    if missing:
        raise Wrong(f"The server would refuse it: {missing[0]} is missing, and the signature asks for 14 columns.")
    if len(rows) != 1 or not (rows[X_test.columns].to_numpy() == X_test.tail(1).to_numpy()).all():
        raise Wrong("The server would answer, but about other evenings: send the last row of X_test alone.")


EXERCISES = [
    Exercise(
        "01.1",
        question='Always answering "up" is a model too. What is its accuracy on the held-out days, to three decimals?',
        hint='"Up" is right on the days whose outcome is 1, so the accuracy is the share of ones in `y_test`.',
        test=always_up,
        wrong=[0.528, 0.521],
    ),
    Exercise(
        "01.2",
        question="Fit a forest with `max_depth=3` in a run named `shallow-forest`, in the same experiment, with "
        "autologging but without saving the model, and score it on the held-out days. Your answer is the run's id.",
        hint="`mlflow.sklearn.autolog(log_models=False)` leaves the model out. The id is `run.info.run_id` of what "
        "`start_run` gives.",
        test=shallow_forest,
        wrong=["shallow-forest", "0" * 32],
    ),
    Exercise(
        "01.3",
        question="Write the body of a request that asks the served model about the newest held-out evening, as a "
        "Python dictionary. You need no server: the check reads it as the server would.",
        hint="The server wants the rows under the key `dataframe_records`; `X_test.tail(1)` is the newest evening.",
        test=request_body,
        wrong=[
            {f"day_{day:02}": 1.0 for day in range(1, 15)},
            {"dataframe_records": [{f"day_{day:02}": 1.0 for day in range(1, 14)}]},
        ],
    ),
]
