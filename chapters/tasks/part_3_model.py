"""The model of the solution, as code: MLflow copies this file into each version, and runs the copy to load it."""

from pathlib import Path

import mlflow
import pandas as pd


class Eight(mlflow.pyfunc.PythonModel):
    """Return the probability of an eight, from a scikit-learn or an XGBoost model in its library's own format."""

    def load_context(self, context):
        path = Path(context.artifacts["model"])
        if path.suffix == ".ubj":
            from xgboost import XGBClassifier

            self.model = XGBClassifier()
            self.model.load_model(path)
        else:
            import skops.io

            # it refuses types that it doesn't know; a forest, for example, needs trusted=["sklearn.tree._tree.Tree"]
            self.model = skops.io.load(path)

    def predict(self, context, model_input: pd.DataFrame, params=None):
        probability = self.model.predict_proba(model_input)[:, 1].astype("float64")
        return pd.DataFrame({"probability": probability}, index=model_input.index)


mlflow.models.set_model(Eight())
