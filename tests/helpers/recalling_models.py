"""Models that know their forecast of each day by heart, so that a test can give the gate any forecast."""

import mlflow
import pandas as pd
import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pystock.data import load
from pystock.evaluation import TEST_END, TRAIN_END, time_split
from pystock.features import dataset

MODEL = """
import mlflow, pandas

class Recalls(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.forecasts = pandas.read_pickle(context.artifacts["forecasts"])

    def predict(self, context, model_input: pandas.DataFrame, params=None):
        {also}
        return pandas.DataFrame({{"probability": self.forecasts.loc[model_input.index].to_numpy()}})

mlflow.models.set_model(Recalls())
"""
PROBABILITY = Schema([ColSpec("double", "probability")])
TAGS = {"target": "big_move", "features": "volatility", "market": "sp500"}
TRAINED = TAGS | {"train_end": TRAIN_END}


@pytest.fixture(scope="module")
def days() -> tuple[pd.DataFrame, pd.Series, pd.Series]:
    """Return features, outcomes, and a forecast with skill, of the held-out days."""
    X_train, X_test, y_train, y_test = time_split(*dataset(load("sp500", end=TEST_END), "big_move", "volatility"))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1)).fit(X_train, y_train)
    return X_test, y_test, pd.Series(model.predict_proba(X_test)[:, 1], X_test.index)


def registering(folder):
    """Return a function that registers a version of `candidates` with these forecasts."""
    mlflow.MlflowClient().create_registered_model("candidates")
    mlflow.set_experiment("models")

    def register(forecasts, tags=TRAINED, outputs=PROBABILITY, also="pass") -> int:
        forecasts.to_pickle(folder / "forecasts")
        (folder / "model.py").write_text(MODEL.format(also=also))
        columns = dataset(load("sp500", end="1999-12-31"), "big_move", "volatility")[0]
        signature = ModelSignature(Schema([ColSpec("double", column) for column in columns]), outputs)
        files = {"python_model": str(folder / "model.py"), "artifacts": {"forecasts": str(folder / "forecasts")}}
        with mlflow.start_run(tags=tags):
            info = mlflow.pyfunc.log_model(name="model", signature=signature, pip_requirements=[], **files)
        return int(mlflow.register_model(info.model_uri, "candidates").version)

    return register


def predict_here(models, X):
    """Stand in for the clean process, where a test is about what is judged and not about where."""
    answers = [mlflow.pyfunc.load_model(model).predict(X)["probability"] for model in models]
    return [pd.Series(answer.to_numpy(), X.index) for answer in answers], ""
