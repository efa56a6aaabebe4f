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

C = 0.1  # the smaller C, the smaller the weights

X, y = load_breast_cancer(return_X_y=True, as_frame=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)

mlflow.set_experiment("breast-cancer")
with mlflow.start_run(run_name=f"logistic-C{C}"):
    mlflow.set_tag("stage", "prototyping")
    mlflow.set_tag("data", "scikit-learn's breast cancer data, 30 % test rows, seed 0")
    mlflow.log_params({"model": "logistic regression", "C": C, "test_size": 0.3, "seed": 0})

    model = make_pipeline(StandardScaler(), LogisticRegression(C=C))
    model.fit(X_train, y_train)

    probability = model.predict_proba(X_test)[:, 1]
    base_rate = np.full(len(y_test), y_train.mean())  # what a model has to beat
    brier, brier_base_rate = brier_score_loss(y_test, probability), brier_score_loss(y_test, base_rate)
    mlflow.log_metrics(
        {
            "test_auc": roc_auc_score(y_test, probability),
            "test_brier": brier,
            "test_brier_base_rate": brier_base_rate,
            "test_brier_skill": 1 - brier / brier_base_rate,
        }
    )

    figure, ax = plt.subplots()
    RocCurveDisplay.from_predictions(y_test, probability, ax=ax, plot_chance_level=True)
    ax.set_title("Benign or malignant: the ROC curve on the test rows")
    mlflow.log_figure(figure, "roc_curve.png")

    mlflow.sklearn.log_model(
        model,
        name="model",
        pyfunc_predict_fn="predict_proba",  # callers need probabilities
        signature=infer_signature(X_train, model.predict_proba(X_train)),
        input_example=X_train.head(3),
    )

# A colleague knows the experiment, and nothing else: find the best finished run, load its model, predict.
best = mlflow.search_runs(
    experiment_names=["breast-cancer"],
    filter_string="attributes.status = 'FINISHED' and tags.stage = 'prototyping'",
    order_by=["metrics.test_brier ASC"],
    max_results=1,
    output_format="list",
)[0]
loaded = mlflow.pyfunc.load_model(f"models:/{best.outputs.model_outputs[0].model_id}")
print(f"{best.info.run_name}: probability of a benign tumour {loaded.predict(X_test.head(3))[:, 1].round(3)}")
