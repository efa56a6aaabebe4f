"""The pilot model: what comes out of the store is the classifier that went in, without a pickle and without pystock."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from sklearn.ensemble import RandomForestClassifier
from sklearn.svm import LinearSVC

from course.paths import root
from pystock import models, tuning

X = pd.DataFrame(np.random.default_rng(0).normal(size=(200, 3)), columns=["calm", "storm", "volume_change"])
y = pd.Series((X["storm"] + np.random.default_rng(1).normal(size=200) > 0.5).astype(int), name="big_move")
SETTINGS = {"logistic": {"C": 0.1}, "xgboost": {"max_depth": 2}}
NO_PICKLE = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}


@pytest.fixture
def tracking(tracked):
    mlflow.set_experiment("models")


@pytest.fixture(params=SETTINGS)
def fitted(request):
    return tuning.build(request.param, **SETTINGS[request.param]).fit(X, y)


def logged(classifier, **options):
    with mlflow.start_run():
        return models.log_decision_model(classifier, X, **{"threshold": 0.2} | options)


def test_what_comes_back_is_the_classifier_and_its_decisions(tracking, fitted):
    probability = fitted.predict_proba(X)[:, 1].astype("float64")
    info = logged(fitted, name="pilot", tags={"market": "sp500"})
    model = mlflow.get_logged_model(info.model_id)
    assert (model.name, model.tags["market"], model.source_run_id) == ("pilot", "sp500", info.run_id)
    loaded = mlflow.pyfunc.load_model(info.model_uri)
    answer = loaded.predict(X)
    assert (answer["probability"] == probability).all() and answer.index.equals(X.index)
    assert (answer["decision"] == (probability > 0.2)).all() and list(map(str, answer.dtypes)) == ["float64", "int64"]
    assert (loaded.predict(X, params={"threshold": 0.6})["decision"] == (probability > 0.6)).all()
    assert loaded.predict(X.iloc[[7]]).equals(answer.iloc[[7]])  # alone or with others
    assert loaded.predict(X[X.columns[::-1]]).equals(answer)  # the signature knows the order
    native = loaded.unwrap_python_model().probability(X.to_numpy())
    assert native.dtype == np.float64 and native.tolist() == answer["probability"].tolist()


def test_a_classifier_fitted_on_bare_arrays_answers_by_position(tracking):
    for family, settings in SETTINGS.items():
        classifier = tuning.build(family, **settings).fit(X.to_numpy(), y.to_numpy())
        loaded = mlflow.pyfunc.load_model(logged(classifier).model_uri)
        answer = loaded.predict(X)
        assert (answer["probability"] == classifier.predict_proba(X.to_numpy())[:, 1]).all()
        native = loaded.unwrap_python_model().probability(np.asfortranarray(X.to_numpy()))
        assert native.tolist() == answer["probability"].tolist()


def test_it_loads_where_pickle_is_forbidden_and_pystock_is_not(tracking, fitted, tmp_path):
    """In another process and folder, with every import of pystock refused."""
    folder = mlflow.artifacts.download_artifacts(logged(fitted).model_uri, dst_path=str(tmp_path / "model"))
    X.head(3).to_json(tmp_path / "rows.json", orient="split")
    program = """
import sys
sys.modules["pystock"] = None
import mlflow, pandas as pd
rows = pd.read_json(sys.argv[2], orient="split")
print(mlflow.pyfunc.load_model(sys.argv[1]).predict(rows).to_json(orient="split"))
"""
    command = [sys.executable, "-c", program, folder, str(tmp_path / "rows.json")]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | NO_PICKLE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = pd.DataFrame(**json.loads(done.stdout))
    assert np.allclose(answer["probability"], fitted.predict_proba(X.head(3))[:, 1], atol=1e-9)
    assert not list(Path(folder).rglob("*.pkl"))


def test_the_requirements_are_those_installed_and_agree_with_the_lock(fitted):
    lock = (root() / "requirements.lock").read_text(encoding="utf-8")
    requirements = models.decision_requirements(fitted)
    assert "mlflow==" + mlflow.__version__ in requirements
    for requirement in requirements:
        assert f"\n{requirement} " in lock, f"{requirement} is not in requirements.lock"


@pytest.mark.parametrize(("classifier", "options", "complaint"), [
    (tuning.build("logistic").fit(X, y), {"threshold": 20}, "a threshold of 20 is not a probability"),
    (tuning.build("logistic").fit(X[["calm"]], y), {}, "from the 3 columns of X"),
    (tuning.build("logistic"), {}, "from the 3 columns of X"),
    (tuning.build("xgboost"), {}, "from the 3 columns of X"),
    (tuning.build("xgboost").fit(X, y + (X["calm"] > 1)), {}, "probabilities of 0 and 1"),
    (LinearSVC().fit(X, y), {}, "LinearSVC does not give probabilities"),
    (RandomForestClassifier(n_estimators=2).fit(X, y), {}, "contains sklearn.tree._tree.Tree"),
])  # fmt: skip
def test_what_cannot_be_a_decision_model_is_refused_in_a_sentence(tracking, classifier, options, complaint):
    with pytest.raises(ValueError, match=complaint) as refused:
        logged(classifier, **options)
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="no run is active"):
        models.log_decision_model(classifier, X, **{"threshold": 0.2} | options)


def test_a_decision_model_is_loaded_with_its_features_and_threshold(tracking, fitted, tmp_path):
    info = logged(fitted)
    folder = mlflow.artifacts.download_artifacts(info.model_uri, dst_path=str(tmp_path / "model"))
    for place in (info.model_uri, folder):
        loaded = models.load_decision_model(place)
        assert (loaded.features, loaded.threshold) == (["calm", "storm", "volume_change"], 0.2)
        assert loaded.model.predict(X.head(3))["decision"].isin((0, 1)).all()
    with open(f"{folder}/decision_model.py", "a") as code:
        code.write("\nraise OSError('the disk is gone')\n")
    with pytest.raises((models.ModelError, mlflow.MlflowException), match="the disk is gone"):
        models.load_decision_model(folder)
    with pytest.raises(mlflow.MlflowException, match="m-none"):
        models.load_decision_model("models:/m-none")


@pytest.mark.parametrize(("change", "complaint"), [
    ({"inputs": None}, "has no signature with named double columns: log it with one."),
    ({"inputs": Schema([ColSpec("double")])}, "has no signature with named double columns"),
    ({"inputs": Schema([ColSpec("long", "calm")])}, "has no signature with named double columns"),
    ({"outputs": Schema([ColSpec("double", "probability")])}, "has no outputs probability and decision"),
    ({"params": ParamSchema([ParamSpec("threshold", "double", 7.0)])}, "has the threshold 7: log it with one"),
])  # fmt: skip
def test_another_signature_is_not_that_of_a_decision_model(monkeypatch, change, complaint):
    signature = models.decision_signature(X, 0.2)
    for side, schema in change.items():
        setattr(signature, side, schema)
    loaded = SimpleNamespace(metadata=SimpleNamespace(signature=signature))
    monkeypatch.setattr(mlflow.pyfunc, "load_model", lambda uri: loaded)
    with pytest.raises(models.ModelError) as error:
        models.load_decision_model("models:/m-1", what="version 3 of pystock-big-move")
    assert str(error.value).startswith(f"version 3 of pystock-big-move {complaint}")
