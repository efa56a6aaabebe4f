"""One very good solution of the task of part 3. Read it after you have written yours. Its model is part_3_model.py."""

import subprocess
import sys
import tempfile
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path

import mlflow
import numpy as np
import skops.io
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from xgboost import XGBClassifier

NAME = "eight"
PURPOSE = "The probability that a handwritten digit is an eight, from its 64 grey values. A champion meets this:"
PACKAGES = ("mlflow", "numpy", "pandas", "scikit-learn")
MARGIN = 0.005  # Brier score: 5 more digits in 1,000 that are surely wrong. People can sort that many by hand.
BLOCK = 32  # rows
X, digit = load_digits(return_X_y=True, as_frame=True)
y = (digit == 8).astype(float)
# the rows come writer by writer, so other people wrote the held-out rows
X_train, X_test, y_train, y_test = X[:1029], X[1029:], y[:1029], y[1029:].to_numpy()
inputs, outputs = [ColSpec("double", column) for column in X], [ColSpec("double", "probability")]
client = mlflow.MlflowClient()


def register(family, model):
    """Train a model in a run, package it with its library's own file, and return its new version of NAME."""
    with mlflow.start_run(run_name=family), tempfile.TemporaryDirectory() as folder:
        data = mlflow.data.from_pandas(X_train.assign(eight=y_train), targets="eight", name="digits-train")
        mlflow.log_input(data, context="training")
        settings = model.get_params().items()
        mlflow.log_params({name: value for name, value in settings if isinstance(value, (int, float))})
        model.fit(X_train, y_train)
        if isinstance(model, XGBClassifier):
            library, file = packages_distributions()["xgboost"][0], f"{folder}/model.ubj"  # xgboost or xgboost-cpu
            model.save_model(file)
        else:
            library, file = "skops", f"{folder}/model.skops"
            skops.io.dump(model, file)
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("part_3_model.py")),
            artifacts={"model": file},
            signature=ModelSignature(Schema(inputs), Schema(outputs)),
            input_example=X_train.head(3),
            pip_requirements=[f"{name}=={version(name)}" for name in (*PACKAGES, library)],
            registered_model_name=NAME,
        )
    return str(info.registered_model_version)


ELSEWHERE = """
import sys, mlflow, numpy, pandas
forecast = mlflow.pyfunc.load_model(sys.argv[1]).predict(pandas.read_csv("rows.csv", dtype="float64"))
numpy.save("forecast.npy", forecast["probability"])
"""


@cache
def forecast(number):
    """Return a version's probabilities of the held-out rows, from a new process that has nothing but its files."""
    with tempfile.TemporaryDirectory() as folder:
        model = mlflow.artifacts.download_artifacts(f"models:/{NAME}/{number}", dst_path=folder)
        X_test.to_csv(f"{folder}/rows.csv", index=False)
        subprocess.run([sys.executable, "-c", ELSEWHERE, model], cwd=folder, check=True, capture_output=True)
        return np.load(f"{folder}/forecast.npy")


def runs_elsewhere(number, champion):
    """Return whether the condition holds, the evidence in words, and its numbers. So does each condition."""
    lacking = len(y_test) - int(np.sum((forecast(number) >= 0) & (forecast(number) <= 1)))
    return lacking == 0, f"{lacking} rows without a probability", {"rows_without_probability": lacking}


def beats_base_rate(number, champion):
    return compare(number, "base rate", y_train.mean(), 0)


def is_not_worse(number, champion):
    if champion == "none":
        return True, "there is no champion yet", {}
    return compare(number, "champion", forecast(champion), MARGIN)


def compare(number, other, probability, limit):
    """Bootstrap the paired differences of two Brier scores; their 95% interval must end below a limit.

    Digits by one person resemble each other, so it draws blocks of neighbouring rows, and not single rows.
    """
    differences = (forecast(number) - y_test) ** 2 - (probability - y_test) ** 2
    blocks = np.lib.stride_tricks.sliding_window_view(differences, BLOCK)
    drawn = np.random.default_rng(0).integers(len(blocks), size=(2000, len(differences) // BLOCK))
    low, high = np.quantile(blocks[drawn].mean(axis=(1, 2)), [0.025, 0.975])
    mean, metric = differences.mean(), f"minus_{other.replace(' ', '_')}"
    evidence = f"Brier score minus that of the {other}: {mean:+.3f} [{low:+.3f}, {high:+.3f}], limit {limit}"
    return high < limit, evidence, {metric: mean, f"{metric}_low": low, f"{metric}_high": high}


CONDITIONS = {
    "A new process loads the model, and 0 of the held-out rows get no probability.": runs_elsewhere,
    "The Brier score minus that of the base rate has its 95% interval below 0.": beats_base_rate,
    f"The Brier score minus that of the champion has its 95% interval below {MARGIN}.": is_not_worse,
}


def champion_version():
    """Return the version that is champion, as a text, or "none"."""
    return str(client.get_registered_model(NAME).aliases.get("champion", "none"))


def records():
    """Return the runs that record the promotions and rollbacks of NAME, oldest first."""
    return mlflow.search_runs(
        search_all_experiments=True,
        filter_string=f"tags.registered_model = '{NAME}'",
        order_by=["attributes.start_time ASC"],
        output_format="list",
    )


def start_record(before, to, why, **more):
    """Start the run that records a change, before anything changes: a crash leaves an open record. MLflow adds who."""
    mlflow.set_experiment("promotions")
    tags = {"registered_model": NAME, "from": before, "to": to, "why": why, "outcome": "open"}
    return mlflow.start_run(run_name=f"{NAME}-{to}", tags=tags | more)


def promote(number, why):
    """Make a version the champion if all conditions hold. After one that fails, the others are not tried."""
    before, evidence, passed = champion_version(), [], True
    if number == before:
        raise RuntimeError(f"Version {number} of {NAME} is already the champion.")
    judged = sum(run.data.tags["outcome"] in ("promoted", "refused") for run in records())
    with start_record(before, number, why, held_out_rows=f"judged {judged} versions before this one"):
        for condition in CONDITIONS.values():
            if passed:
                try:
                    passed, words, metrics = condition(number, before)
                except subprocess.CalledProcessError as error:
                    words = f"a new process failed: {error.stderr.decode().strip().splitlines()[-1]}"
                    passed, metrics = False, {}
                evidence.append(f"{condition.__name__} {'passed' if passed else 'FAILED'}: {words}")
                mlflow.log_metrics(metrics)
        mlflow.set_tag("evidence", "\n".join(evidence))
        if champion_version() != before:
            raise RuntimeError(f"{NAME} got another champion while version {number} was judged: judge it again.")
        if passed:
            client.set_registered_model_alias(NAME, "champion", number)
        client.set_model_version_tag(NAME, number, "validation_status", "approved" if passed else "rejected")
        client.set_model_version_tag(NAME, number, "validation_reason", evidence[-1])
        mlflow.set_tag("outcome", "promoted" if passed else "refused")


def rollback(why):
    """Make the version that the champion replaced the champion again. There is no gate, because it passed once.

    If somebody moved the alias without a record, it goes back to the last champion in the records.
    """
    before = champion_version()
    moves = [run.data.tags for run in records() if run.data.tags["outcome"] in ("promoted", "rolled back")]
    replaced = [tags["from"] for tags in moves if (tags["outcome"], tags["to"]) == ("promoted", before)]
    to = (replaced or [tags["to"] for tags in moves] or ["none"])[-1]
    if to in ("none", before):
        raise RuntimeError(f"{NAME} has no earlier champion, so there is nothing to roll back to.")
    with start_record(before, to, why):
        client.set_registered_model_alias(NAME, "champion", to)
        client.update_model_version(NAME, before, f"Rolled back: {why}")
        mlflow.set_tag("outcome", "rolled back")


def main():
    mlflow.set_experiment("eight")
    logistic = register("logistic", make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)))
    bayes = register("bayes", GaussianNB())
    boosting = register("xgboost", XGBClassifier(n_estimators=100, max_depth=3, random_state=0, n_jobs=1))
    # the conditions are written down before any version has a score on the held-out rows
    client.update_registered_model(NAME, "\n".join([PURPOSE, *CONDITIONS]))

    promote(logistic, "the sorter needs a first model")
    promote(bayes, "it trains in milliseconds")
    promote(boosting, "it makes fewer mistakes")
    rollback("the sorter in the north has no XGBoost yet")

    for record in records():
        print("{from} to {to}, {outcome}: {why}".format(**record.data.tags))
        print("  " + record.data.tags.get("evidence", "no gate").replace("\n", "\n  "))
    print(f"champion: version {champion_version()}")


if __name__ == "__main__":
    main()
