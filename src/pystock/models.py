"""Models as the pilot and what comes after it use them: a probability, and a decision at a threshold."""

import tempfile
from importlib.metadata import packages_distributions, version
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from xgboost import XGBModel

CODE = Path(__file__).with_name("decision_model.py")


def decision_signature(X: pd.DataFrame, threshold: float) -> ModelSignature:
    """In: the columns of X as doubles. Out: `probability` and `decision`. Parameter: `threshold`, with this default."""
    return ModelSignature(
        inputs=Schema([ColSpec("double", str(column)) for column in X.columns]),
        outputs=Schema([ColSpec("double", "probability"), ColSpec("long", "decision")]),
        params=ParamSchema([ParamSpec("threshold", "double", float(threshold))]),
    )


def decision_requirements(model) -> list[str]:
    """What a decision model around `model` needs, each at the version that is installed here.

    Named, since MLflow would take seconds to find them out, and would find more than is needed.
    """
    if isinstance(model, XGBModel):
        library = [packages_distributions()["xgboost"][0]]  # xgboost-cpu, or xgboost where that does not exist
    else:
        library = ["scikit-learn", "skops"]
    return [f"{package}=={version(package)}" for package in ["mlflow", "numpy", "pandas", *library]]


def log_decision_model(
    model,
    X: pd.DataFrame,
    *,
    threshold: float,
    name: str = "decision",
    tags: dict[str, str] | None = None,
) -> ModelInfo:
    """Log a fitted classifier as a decision model into the active run.

    The model is a pyfunc from code (decision_model.py): it takes the columns of `X` as doubles and gives `probability`
    (double) and `decision` (long, 1 where the probability is above `threshold`). `predict` takes another threshold as
    `params={"threshold": …}`. The classifier lies inside in its native format: an XGBClassifier as XGBoost's own file,
    anything of scikit-learn as skops, never as a pickle. The first two rows of `X` are the input example; `tags` are
    set on the logged model, those of the run are the caller's.

    Raises ValueError without an active run, for a threshold outside [0, 1], for a model that gives no probabilities of
    0 and 1 or is not fitted on as many columns as X has, and for one that skops reads only if told to trust its types.
    """
    if mlflow.active_run() is None:
        raise ValueError(
            "no run is active, and a decision model belongs to one, whose tags say what it is: "
            "call log_decision_model inside `with mlflow.start_run(…)`."
        )
    if not 0 <= threshold <= 1:
        raise ValueError(f"a threshold of {threshold} is no probability: give one from 0 to 1.")
    fitted = getattr(model, "n_features_in_", None) == X.shape[1] and list(getattr(model, "classes_", [])) == [0, 1]
    if not fitted or not hasattr(model, "predict_proba"):
        raise ValueError(
            f"{type(model).__name__} does not give probabilities of 0 and 1 from the {X.shape[1]} columns of X: "
            "pass a classifier that was fitted on rows like them and on outcomes 0 and 1."
        )
    with tempfile.TemporaryDirectory() as folder:
        return mlflow.pyfunc.log_model(
            name=name,
            python_model=str(CODE),
            artifacts=_native(model, Path(folder)),
            signature=decision_signature(X, threshold),
            input_example=X.head(2).astype("float64"),
            pip_requirements=decision_requirements(model),
            tags=tags,
        )


def _native(model, folder: Path) -> dict[str, str]:
    """The classifier as a file in its native format, under the name by which decision_model.py knows the format."""
    if isinstance(model, XGBModel):
        path = folder / "model.ubj"
        model.save_model(path)
        return {"xgboost": str(path)}
    import skops.io

    path = folder / "model.skops"
    skops.io.dump(model, path)
    if unknown := skops.io.get_untrusted_types(file=path):
        raise ValueError(
            f"{type(model).__name__} holds {', '.join(unknown)}, which skops does not read unless told to trust it: "
            "choose a classifier without such parts."
        )
    return {"sklearn": str(path)}
