"""Models as the pilot and what comes after it use them: a probability, and a decision at a threshold."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.pyfunc import PyFuncModel
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

from pystock.errors import PystockError, first_line

if TYPE_CHECKING:  # a service imports this module, and does not need scikit-learn
    from sklearn.base import BaseEstimator

CODE = Path(__file__).with_name("decision_model.py")
TRAINED_UNTIL = "trained_until"  # in a model's metadata: the last day it was trained on


class ModelError(PystockError, ValueError):
    """A model that cannot be loaded here, or is not a decision model."""


class LoadedModel(NamedTuple):
    """A checked decision model: its feature names in order, and its default threshold (None if it declares none).

    `probability` takes an array (rows, features) of finite float64 without MLflow's checks; None if it has none.
    """

    model: PyFuncModel
    features: list[str]
    threshold: float | None
    probability: Callable[[np.ndarray], np.ndarray] | None


def decision_signature(X: pd.DataFrame, threshold: float) -> ModelSignature:
    """Return a decision model's signature: columns of X, parameter `threshold` -> `probability`, `decision`."""
    return ModelSignature(
        inputs=Schema([ColSpec("double", str(column)) for column in X.columns]),
        outputs=Schema([ColSpec("double", "probability"), ColSpec("long", "decision")]),
        params=ParamSchema([ParamSpec("threshold", "double", float(threshold))]),
    )


def decision_requirements(model: "BaseEstimator") -> list[str]:
    """Return what a decision model around `model` needs, each at the version that is installed here."""
    # listed here: MLflow would take seconds to infer them, and would infer more than is needed
    library = ["scikit-learn", "skops"]
    if _is_xgboost(model):
        library = [packages_distributions()["xgboost"][0]]  # xgboost-cpu, or xgboost where that does not exist
    return [f"{package}=={version(package)}" for package in ["mlflow", "numpy", "pandas", *library]]


def log_decision_model(
    model: "BaseEstimator",
    X: pd.DataFrame,
    *,
    threshold: float,
    name: str = "decision",
    tags: dict[str, str] | None = None,
    registered_model_name: str | None = None,
) -> ModelInfo:
    """Log a fitted classifier as a decision model into the active run.

    `X` holds the rows that it was fitted on; the first two are the input example. If they have dates, the model records
    the last one (its metadata `trained_until`), and the registry's gate evaluates it on later days only. `tags` are set
    on the logged model, and `registered_model_name` registers it as a version of that name.

    The model is a pyfunc from code (decision_model.py). It takes the columns of `X` as doubles and returns
    `probability` (double) and `decision` (long, 1 if that is above `threshold`). `predict` takes another threshold as
    `params={"threshold": …}`. An XGBClassifier is stored as XGBoost's own file, anything of scikit-learn as skops.

    Raises ValueError without an active run, for a threshold outside [0, 1], for a model that gives no probabilities of
    0 and 1 or is not fitted on as many columns as X has, and for one that skops reads only if told to trust its types.
    """
    if mlflow.active_run() is None:
        raise ValueError("no run is active: call log_decision_model inside `with mlflow.start_run(…)`.")
    if not 0 <= threshold <= 1:
        raise ValueError(f"a threshold of {threshold} is not a probability: give one from 0 to 1.")
    fitted = getattr(model, "n_features_in_", None) == X.shape[1] and list(getattr(model, "classes_", [])) == [0, 1]
    if not fitted or not hasattr(model, "predict_proba"):
        problem = f"{type(model).__name__} does not give probabilities of 0 and 1 from the {X.shape[1]} columns of X"
        raise ValueError(f"{problem}: pass a classifier that was fitted on such rows and on outcomes 0 and 1.")
    dated = isinstance(X.index, pd.DatetimeIndex)
    with tempfile.TemporaryDirectory() as folder:
        info: ModelInfo = mlflow.pyfunc.log_model(
            name=name,
            python_model=str(CODE),
            artifacts=_native(model, Path(folder)),
            signature=decision_signature(X, threshold),
            input_example=X.head(2).astype("float64"),
            pip_requirements=decision_requirements(model),
            metadata={TRAINED_UNTIL: f"{X.index.max():%Y-%m-%d}"} if dated else None,
            tags=tags,
            registered_model_name=registered_model_name,
        )
    return info


def load_decision_model(uri: str, what: str = "") -> LoadedModel:
    """Load a decision model from a model URI or a local folder, and check its signature. Errors call it `what`.

    It must take named columns of doubles and return `probability` and `decision`; a `threshold` that it declares must
    be from 0 to 1. Loading runs the model's own code. Raises ModelError if that fails or the signature is different,
    and MlflowException if MLflow cannot read the model or the store does not respond.
    """
    what = what or f"the model {uri}"
    try:
        model = mlflow.pyfunc.load_model(uri)
    except MlflowException:
        raise
    except Exception as error:  # whatever the model's own code and its libraries raise
        raise ModelError(f"{what} cannot be loaded here ({type(error).__name__}: {first_line(error)}).") from error
    signature = model.metadata.signature
    inputs, outputs = (getattr(signature, side, None) for side in ("inputs", "outputs"))
    if not inputs or not inputs.has_input_names() or any(each.type.name != "double" for each in inputs):
        raise ModelError(f"{what} has no signature with named double columns: log it with one.")
    if not outputs or not {"probability", "decision"} <= set(outputs.input_names()):
        raise ModelError(f"{what} has no outputs probability and decision: log it with log_decision_model.")
    defaults = [float(each.default) for each in signature.params or [] if each.name == "threshold"]
    if defaults and not 0 <= defaults[0] <= 1:
        raise ModelError(f"{what} has the threshold {defaults[0]:g}: log it with one from 0 to 1.")
    try:
        probability = getattr(model.unwrap_python_model(), "probability", None)
    except MlflowException:  # a model of another flavor
        probability = None
    return LoadedModel(model, inputs.input_names(), defaults[0] if defaults else None, probability)


def trained_until(info: ModelInfo) -> pd.Timestamp:
    """Return a model's last training day: the latest that its metadata (`trained_until`) or its run (`train_end`) has.

    Raises ValueError if there is none, or one that is not a date.
    """
    recorded = [(info.metadata or {}).get(TRAINED_UNTIL)]
    if info.run_id:
        run = mlflow.get_run(info.run_id).data
        recorded += [run.params.get("train_end"), run.tags.get("train_end")]
    days = [str(day) for day in recorded if day]
    if not days:
        raise ValueError("its last training day is not recorded: set it as the tag train_end of its run, as 2009-12-31")
    try:
        return max(pd.Timestamp(date.fromisoformat(day)) for day in days)
    except ValueError:
        raise ValueError(f"its last training day is recorded as {' and '.join(days)}: write it as 2009-12-31") from None


CLEAN_TIMEOUT = 120  # seconds for a new interpreter to load two models and predict
ELSEWHERE = """
import sys, mlflow.pyfunc, numpy, pandas
rows = pandas.read_pickle("rows")
for name in sys.argv[1:]:
    answer = mlflow.pyfunc.load_model(name, suppress_warnings=True).predict(rows)["probability"]
    if len(answer) != len(rows):
        raise ValueError(f"{len(answer)} predictions for {len(rows)} rows")
    numpy.save(name, numpy.asarray(answer, "float64"))
"""


def predict_elsewhere(models: Sequence[str], X: pd.DataFrame) -> tuple[list[pd.Series], str]:
    """Return the probabilities that a new interpreter in an empty folder predicts with each model; or why it could not.

    It needs no store: the files are fetched here. `-I` hides modules that another machine would not find.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, places = Path(name), [f"model-{number}" for number in range(len(models))]
        X.to_pickle(folder / "rows")
        for model, place in zip(models, places, strict=True):
            (folder / place).mkdir()
            mlflow.artifacts.download_artifacts(model, dst_path=str(folder / place))
        command = [sys.executable, "-I", "-c", ELSEWHERE, *places]
        try:
            done = subprocess.run(command, cwd=folder, timeout=CLEAN_TIMEOUT, capture_output=True)
        except subprocess.TimeoutExpired:
            return [], f"no result within {CLEAN_TIMEOUT} s"
        if done.returncode:
            last_words = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            model = models[sum((folder / f"{place}.npy").exists() for place in places)]
            return [], f"{model}: {first_line(last_words or f'it exited with {done.returncode}')}"
        return [pd.Series(np.load(folder / f"{place}.npy"), X.index) for place in places], ""


def _is_xgboost(model: object) -> bool:
    """Return whether a classifier is XGBoost's, without importing XGBoost."""
    return any(base.__module__.partition(".")[0] == "xgboost" for base in type(model).__mro__)


def _native(model: "BaseEstimator", folder: Path) -> dict[str, str]:
    """Write the classifier to a file in its native format; return its path under decision_model.py's name of it."""
    if _is_xgboost(model):
        path = folder / "model.ubj"
        model.save_model(path)
        return {"xgboost": str(path)}
    import skops.io

    path = folder / "model.skops"
    skops.io.dump(model, path)
    if unknown := skops.io.get_untrusted_types(file=path):
        parts = f"{', '.join(unknown)}, which skops loads only if told to trust it"
        raise ValueError(f"{type(model).__name__} contains {parts}: choose a classifier without such types.")
    return {"sklearn": str(path)}
