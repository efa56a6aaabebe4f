"""Train the forest that predicts whether the market closes up tomorrow, and log it with a score for both classes."""

import argparse

import mlflow
import mlflow.sklearn
from mlflow.data.sources import LocalArtifactDatasetSource  # type: ignore[attr-defined]  # MLflow makes it at run time
from mlflow.models import ModelSignature, infer_signature
from mlflow.types.schema import ColSpec, Schema
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from pystock.data import MARKETS, load
from pystock.evaluation import TEST_END, time_split
from pystock.features import dataset

CLASSES = ("down", "up")  # the outcomes 0 and 1


def arguments() -> argparse.Namespace:
    # MLflow passes parameters as text and does not check types, so the script does
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--market", choices=sorted(MARKETS), default="sp500")
    parser.add_argument("--trees", type=int, default=100)
    options = parser.parse_args()
    if options.trees < 1:
        parser.error(f"argument --trees: {options.trees} is too few: give 1 or more")
    return options


def main() -> None:
    options = arguments()
    X, y = dataset(load(options.market, end=TEST_END), target="direction", features="flags")
    X_train, X_test, y_train, y_test = time_split(X, y)

    with mlflow.start_run():
        mlflow.log_params({"model": "RandomForestClassifier", "train_rows": len(X_train), "test_rows": len(X_test)})
        source = LocalArtifactDatasetSource(f"data/{options.market}.csv")
        for part, rows, outcomes in (("train", X_train, y_train), ("test", X_test, y_test)):
            frame = rows.assign(direction=outcomes.astype("float64"))
            table = mlflow.data.from_pandas(frame, source, "direction", part)  # type: ignore[attr-defined]  # MLflow makes it at run time
            mlflow.log_input(table, context=part)

        forest = RandomForestClassifier(n_estimators=options.trees, random_state=0).fit(X_train, y_train)
        predicted = forest.predict(X_test)

        mlflow.log_metric("accuracy", accuracy_score(y_test, predicted))
        precision, recall, f1, _ = precision_recall_fscore_support(y_test, predicted, labels=[0, 1], zero_division=0)
        for name, scores in (("precision", precision), ("recall", recall), ("f1", f1)):
            mlflow.log_metrics({f"{name}_{label}": score for label, score in zip(CLASSES, scores)})

        mlflow.sklearn.log_model(
            forest,
            name="model",
            signature=ModelSignature(infer_signature(X_test).inputs, Schema([ColSpec("long")])),
            input_example=X_test.head(2),
            # skops refuses every type that it was not told to trust, and a tree's nodes have such a type
            skops_trusted_types=["sklearn.tree._tree.Tree"],
            # listed here, because to infer them MLflow needs a second interpreter and several seconds
            pip_requirements=mlflow.sklearn.get_default_pip_requirements(include_skops=True),
        )
        print(f"accuracy {accuracy_score(y_test, predicted):.3f} on {len(y_test)} held-out days")


if __name__ == "__main__":
    main()
