"""One very good solution of the task of part 1. Read it after you have written yours."""

import matplotlib.pyplot as plt
import mlflow
import numpy as np
from mlflow.models import infer_signature
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import RocCurveDisplay, brier_score_loss, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

SPLIT = {"test_size": 0.3, "random_state": 0}

X, y = load_breast_cancer(return_X_y=True, as_frame=True)
X_all, X_test, y_all, y_test = train_test_split(X, y, stratify=y, **SPLIT)
# C is selected on validation rows, so that the test rows have chosen nothing
X_train, X_valid, y_train, y_valid = train_test_split(X_all, y_all, stratify=y_all, **SPLIT)


def train(C):
    """Return a fitted model, its scores and its ROC curve on the test rows. It knows nothing of MLflow."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=C)).fit(X_train, y_train)
    probability = model.predict_proba(X_test)[:, 1]
    brier = brier_score_loss(y_test, probability)
    base_rate = brier_score_loss(y_test, np.full(len(y_test), y_train.mean()))  # the score to beat
    scores = {"test_auc": roc_auc_score(y_test, probability), "test_brier": brier}
    scores["valid_brier"] = brier_score_loss(y_valid, model.predict_proba(X_valid)[:, 1])
    scores |= {"test_brier_base_rate": base_rate, "test_brier_skill": 1 - brier / base_rate}
    figure, ax = plt.subplots()
    RocCurveDisplay.from_predictions(y_test, probability, ax=ax, plot_chance_level=True)
    ax.set_title("Benign or malignant: the ROC curve on the test rows")
    return model, scores, figure


def track(C):
    """Train with this C in a run of its own."""
    with mlflow.start_run(run_name=f"logistic-C{C}"):
        mlflow.set_tags({"stage": "prototyping", "data": "breast cancer data of scikit-learn"})
        mlflow.log_params({"model": "logistic regression", "C": C, **SPLIT})
        model, scores, figure = train(C)
        mlflow.log_metrics(scores)
        mlflow.set_tag("beats_base_rate", scores["test_brier_skill"] > 0)
        mlflow.log_figure(figure, "roc_curve.png")
        mlflow.sklearn.log_model(
            model,
            name="model",
            pyfunc_predict_fn="predict_proba",  # callers need probabilities
            signature=infer_signature(X_train, model.predict_proba(X_train)),
            input_example=X_train.head(3),
        )


mlflow.set_experiment("breast-cancer")
for C in (0.01, 0.1, 1.0):
    track(C)

# A colleague knows the experiment, and nothing else: find the best finished run, load its model, predict.
best = mlflow.search_runs(
    experiment_names=["breast-cancer"],
    filter_string="attributes.status = 'FINISHED' and tags.stage = 'prototyping'",
    order_by=["metrics.valid_brier ASC"],
    max_results=1,
    output_format="list",
)[0]
loaded = mlflow.pyfunc.load_model(f"models:/{best.outputs.model_outputs[0].model_id}")
print(f"{best.info.run_name}: probability of a benign tumour {loaded.predict(X_test.head(3))[:, 1].round(3)}")
