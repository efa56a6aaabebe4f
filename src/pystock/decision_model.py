"""The pilot model as MLflow loads it: for each day the probability of a 1, and the decision at a threshold.

A file for models from code: `pystock.models` gives MLflow its path, and MLflow keeps a copy with each model and runs
that copy to load it. So it imports what the model's requirements name, and nothing of pystock, which may have moved.
"""

from typing import Any

import mlflow
import numpy as np
import pandas as pd


class DecisionModel(mlflow.pyfunc.PythonModel):
    """A classifier in its native format, an artifact named `xgboost` or `sklearn`, and a threshold as a parameter."""

    def load_context(self, context):
        """Read the classifier. Neither format is a pickle, so nothing in the artifact is executed."""
        if "xgboost" in context.artifacts:
            import xgboost

            booster = xgboost.Booster(model_file=context.artifacts["xgboost"])
            # Columns by position: the signature has put them into the order of training, whatever their names were.
            names = booster.feature_names
            self._probability = lambda rows: booster.predict(xgboost.DMatrix(rows.to_numpy(), feature_names=names))
            self._native = lambda numbers: booster.inplace_predict(numbers, validate_features=False)
        else:
            import skops.io

            # The trusted types are listed here and not next to the model, where an attacker could change both.
            classifier = skops.io.load(context.artifacts["sklearn"], trusted=[])
            columns = getattr(classifier, "feature_names_in_", None)
            self._probability = lambda rows: classifier.predict_proba(
                rows.to_numpy() if columns is None else rows.set_axis(columns, axis=1)
            )[:, 1]
            self._native = lambda numbers: classifier.predict_proba(
                numbers if columns is None else pd.DataFrame(numbers, columns=columns)
            )[:, 1]

    def probability(self, numbers: np.ndarray) -> np.ndarray:
        """Return `predict`'s `probability` for an array (rows, columns) of float64 in the signature's order.

        It checks nothing: callers must have checked names, types and that each number is finite. They get this object
        from `mlflow.pyfunc.load_model(…).unwrap_python_model()`.
        """
        return self._native(numbers).astype("float64")

    def predict(self, context, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return a row for each row of `model_input`: `probability` (float64) and `decision` (int64, 0 or 1).

        A decision is 1 where the probability is above `params["threshold"]`, which MLflow fills in from the signature.
        """
        probability = self._probability(model_input).astype("float64")
        decision = (probability > params["threshold"]).astype("int64")
        return pd.DataFrame({"probability": probability, "decision": decision}, index=model_input.index)


mlflow.models.set_model(DecisionModel())
