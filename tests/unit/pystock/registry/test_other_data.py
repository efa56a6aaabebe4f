"""The registry on another model and other data: nothing of it needs prices, features or dates."""

import subprocess
import sys

import mlflow
import pandas as pd
import pytest
import skops.io
from mlflow.models import infer_signature
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pystock import registry

CODE = """
import mlflow, pandas, skops.io

class Benign(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.model = skops.io.load(context.artifacts["model"])

    def predict(self, context, model_input: pandas.DataFrame, params=None):
        return pandas.DataFrame({"probability": self.model.predict_proba(model_input)[:, 1]})

mlflow.models.set_model(Benign())
"""


def test_a_classifier_of_tumours_is_judged_promoted_refused_and_rolled_back(tracked, tmp_path):
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.5, random_state=0, stratify=y)
    reference = pd.Series(y_train.mean(), X_test.index)
    (tmp_path / "benign.py").write_text(CODE)

    def version(C):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=C)).fit(X_train, y_train)
        skops.io.dump(model, tmp_path / "model.skops")
        files = {"python_model": str(tmp_path / "benign.py"), "artifacts": {"model": str(tmp_path / "model.skops")}}
        files["signature"] = infer_signature(X_train, pd.DataFrame({"probability": [0.5]}))
        options = {"pip_requirements": [], "registered_model_name": "benign"}
        return mlflow.pyfunc.log_model(name="model", **files, **options).registered_model_version

    weak, good, blind = (version(C) for C in (0.001, 0.1, 1e-9))
    judged = registry.promote("benign", weak, X_test, y_test, reference, why="the first")
    assert [each.name for each in judged] == ["signature", "clean process", "score", "reference", "champion"]
    registry.promote("benign", good, X_test, y_test, reference, why="better")
    with pytest.raises(registry.Refused, match="1 of 5 conditions failed.\n- champion: Brier difference"):
        registry.promote("benign", blind, X_test, y_test, reference, why="a try")
    assert registry.rollback("benign", why="complaints") == str(weak)
    outcomes = ["promoted", "promoted", "refused", "rolled back"]
    assert list(registry.history("benign")["outcome"]) == outcomes


def test_the_registry_imports_no_prices():
    program = "import sys, pystock.registry; print([name for name in sys.modules if name.startswith('pystock.')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"pystock.data", "pystock.features"} & set(eval(done.stdout)), done.stdout
