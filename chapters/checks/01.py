"""The exercises of chapter 01."""

import mlflow

from course.checks import Exercise, Wrong, is_near, newest_run, run_in
from pystock.data import load
from pystock.evaluation import time_split
from pystock.features import dataset

EXPERIMENT = "stockpred"


def _split(market):
    return time_split(*dataset(load(market, end="2014-12-31")))


def like_today(answer, market):
    _, X_test, _, y_test = _split(market)
    if is_near(answer, (X_test["day_14"] == y_test).mean()):
        return
    if is_near(answer, y_test.mean()):
        raise Wrong("That is the accuracy of predicting up every day. This rule repeats day_14 instead.")
    if is_near(answer, (X_test["day_13"] == y_test).mean()):
        raise Wrong("You compared with the day before: the newest input is day_14.")
    raise Wrong("Compare day_14 of X_test with y_test day by day, and compute the share of days on which they agree.")


def known_patterns(answer, market):
    from sklearn.ensemble import RandomForestClassifier

    X_train, X_test, y_train, y_test = _split(market)
    forest = RandomForestClassifier(random_state=0).fit(X_train, y_train)
    known = X_test.apply(tuple, axis=1).isin(X_train.apply(tuple, axis=1))
    if is_near(answer, forest.score(X_test[known], y_test[known])):
        return
    if is_near(answer, forest.score(X_test[~known], y_test[~known])):
        raise Wrong("That is the accuracy on the rows with an unknown pattern: you need the other rows.")
    if is_near(answer, forest.score(X_test, y_test)):
        raise Wrong("That is the accuracy on all test rows: select those with a known pattern first.")
    if is_near(answer, known.mean()):
        raise Wrong("That is the share of test rows with a known pattern. Score the forest on these rows.")
    raise Wrong("Select the rows of X_test and y_test whose pattern occurs in X_train, and give both to forest.score.")


def shallow_forest(answer, market):
    run = run_in(EXPERIMENT, answer)
    if run.info.run_name != "shallow-forest":
        raise Wrong(f"That run is named {run.info.run_name}: pass run_name='shallow-forest' to start_run.")
    if run.data.params.get("max_depth") != "3":
        raise Wrong("That run has no parameter max_depth = 3: log it with mlflow.log_param('max_depth', 3).")
    if missing := {"train_accuracy", "test_accuracy"} - run.data.metrics.keys():
        raise Wrong(f"That run has no metric {min(missing)}: log it with mlflow.log_metric.")
    if run.data.tags.get("stage") != "prototyping":
        raise Wrong("That run has no tag stage = prototyping: set it with mlflow.set_tag inside the block.")
    if run.data.metrics["train_accuracy"] > 0.9:
        raise Wrong("That run's training accuracy is above 0.9, so its trees were not shallow: pass max_depth=3.")
    if run.data.metrics["train_accuracy"] == run.data.metrics["test_accuracy"]:
        raise Wrong("Both accuracies are the same number: score one on the training rows, the other on the test rows.")


def reviewed(answer, market):
    if not isinstance(answer, str) or not answer.strip():
        raise Wrong("Give the name that you entered, as text.")
    runs = mlflow.search_runs(
        experiment_names=[EXPERIMENT], filter_string="attributes.run_name = 'forest-by-hand'", output_format="list"
    )
    names = [run.data.tags["reviewed_by"] for run in runs if "reviewed_by" in run.data.tags]
    if not names:
        raise Wrong("No run named forest-by-hand has a tag reviewed_by: check its spelling, and save the tag.")
    if answer.strip() not in names:
        raise Wrong(f"The tag reviewed_by has the value {names[0]!r}, not {answer!r}.")


def ups(answer, market):
    missing = "The store has no run named forest with a model: run the cells with autologging above."
    newest = newest_run(EXPERIMENT, "attributes.run_name = 'forest'", missing)
    if not newest.outputs or not newest.outputs.model_outputs:
        raise Wrong(missing)
    _, X_test, _, _ = _split(market)
    model = mlflow.sklearn.load_model(f"models:/{newest.outputs.model_outputs[0].model_id}")
    predicted = int(model.predict(X_test).sum())
    if is_near(answer, predicted):
        return
    if is_near(answer, len(X_test) - predicted):
        raise Wrong("That is the number of days on which it predicts down.")
    if is_near(answer, predicted / len(X_test)):
        raise Wrong("That is the share of the days: give their number.")
    raise Wrong("Predict on the whole of X_test with the model of that run, and count the ones.")


EXERCISES = [
    Exercise("01.1", test=like_today, wrong=[0.56, 0.528]),
    Exercise("01.2", test=known_patterns, wrong=[0.528, "0.5"]),
    Exercise("01.3", test=shallow_forest, wrong=["shallow-forest", "0" * 32]),
    Exercise("01.4", test=reviewed, wrong=["", "somebody else"]),
    Exercise("01.5", test=ups, wrong=[0.5, 1257]),
]
