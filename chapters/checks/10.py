"""The exercises of chapter 10."""

import ast
import io
import os
import pickle
import tempfile
import warnings
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
import pandas as pd

from course.checks import Exercise, Wrong, is_near, need_function, newest_run, run_in
from pystock import tuning
from pystock.data import load
from pystock.evaluation import TEST_END, TRAIN_END, time_split, walk_forward
from pystock.features import dataset

DECISION_MODEL = "tags.stage = 'pilot' and attributes.run_name LIKE 'big-move-volatility-%-decision'"
NO_DECISION_MODEL = "This store has no decision model yet: run the chapter up to this exercise first."
CODE = """
import mlflow

class Same(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input):
        return model_input

mlflow.models.set_model(Same())
"""


def _typed(text):
    try:
        return ast.literal_eval(text)
    except ValueError:
        return text


def _on_the_folds(market):
    """Outcomes and the candidate's probabilities on the days that the five folds validate."""
    candidate = newest_run("tuning", "tags.pilot = 'candidate'", "The store has no candidate: run chapter 08.")
    params = {name: _typed(text) for name, text in candidate.data.params.items()}
    X, y = tuning.training_data(market, "big_move", "volatility")
    parts = []
    for past, days in walk_forward(5, max_train_size=round(252 * params["years"])).split(X):
        model = tuning.build(candidate.data.tags["family"], **params).fit(X.iloc[past], y.iloc[past])
        parts.append(pd.Series(model.predict_proba(X.iloc[days])[:, 1], index=X.index[days]))
    probability = pd.concat(parts)
    return y[probability.index], probability


def loss_of_ten(answer, market):
    outcome, probability = _on_the_folds(market)

    def regret(threshold, miss):
        alarm = probability > threshold
        return (miss * ((outcome == 1) & ~alarm) + ((outcome == 0) & alarm)).mean()

    if is_near(answer, regret(0.1, 9)):
        return
    if is_near(answer, 0.1):
        raise Wrong("That is the threshold that follows from the costs: give the mean regret at that threshold.")
    if is_near(answer, regret(0.1, 3)):
        raise Wrong("The threshold is right, but the regret isn't: pass loss=10, because 4 is the default.")
    if is_near(answer, regret(0.25, 9)):
        raise Wrong("That is the regret at the old threshold. With a loss of 10, the threshold is 1 / 10.")
    if is_near(answer, regret(0.1, 10)):
        raise Wrong("The regret of a miss is the loss minus the price of the hedge, so pass loss=10, not 11.")
    if is_near(answer, regret(1 / 11, 10)):
        raise Wrong("You took 10 for the regret of a miss. It is the loss, so the threshold is 1 / 10, and loss=10.")
    if is_near(answer, regret(0.1, 9) + (outcome == 1).mean()):
        raise Wrong("That is the mean cost: subtract the cost of the best decision, as daily_regret does.")
    if is_near(answer, regret(0.25, 3)):
        raise Wrong("That is the regret with the old costs: the threshold and the regret of a miss change.")
    raise Wrong("Take the threshold that follows from a loss of 10, and the mean of daily_regret with loss=10.")


def other_library(answer, market):
    import mlflow
    from statsmodels.discrete.discrete_model import Logit

    run = run_in("practice", answer)
    if not run.outputs or not run.outputs.model_outputs:
        raise Wrong("That run has no model: call mlflow.pyfunc.log_model inside `with mlflow.start_run(…)`.")
    uri = f"models:/{run.outputs.model_outputs[-1].model_id}"
    info = mlflow.models.get_model_info(uri)
    pyfunc = info.flavors.get("python_function", {})
    if "model_code_path" not in pyfunc:
        raise Wrong("That model is not a model from code: pass the path of your file as python_model, not an object.")
    if not pyfunc.get("artifacts"):
        raise Wrong("That model has no artifacts: pass the JSON file as artifacts={…}, so that it is stored with it.")
    signature = info.signature
    outputs = signature.outputs.input_names() if signature and signature.outputs else []
    if outputs != ["probability", "decision"] or not signature.params:
        raise Wrong("Use the signature of the chapter: probability and decision, with the parameter threshold.")
    X, y = tuning.training_data(market, "big_move", "volatility")
    logit = Logit(y, X.assign(const=1.0)).fit(disp=0)
    rows = X.tail(50)
    expected = logit.predict(rows.assign(const=1.0))
    try:
        model = mlflow.pyfunc.load_model(uri)
        default, cautious = (model.predict(rows, params=params) for params in ({}, {"threshold": 0.1}))
    except Exception as error:
        reason = str(error).splitlines()[0][:150]
        raise Wrong(f"Your model does not predict: {type(error).__name__}: {reason}. Load it and try it.") from None
    if not isinstance(default, pd.DataFrame) or not {"probability", "decision"} <= set(default.columns):
        raise Wrong("predict should return a DataFrame with the columns probability and decision.")
    given = default["probability"].to_numpy(dtype="float64")
    if given.min() < 0 or given.max() > 1:
        raise Wrong("Those are not probabilities: apply expit to the weighted sum.")
    if not np.allclose(given, expected, atol=1e-4):
        day = f"On {rows.index[-1]:%Y-%m-%d}, logit predicts {expected.iloc[-1]:.3f} and your model {given[-1]:.3f}"
        raise Wrong(f"{day}. Add the constant, and multiply each column by its own coefficient.")
    for threshold, predicted in ((0.25, default), (0.1, cautious)):
        if not np.array_equal(predicted["decision"].to_numpy() == 1, given > threshold):
            raise Wrong(f'With a threshold of {threshold}, decisions are wrong: compare with params["threshold"].')


def last_training_day(answer, market):
    import mlflow

    run = newest_run("models", DECISION_MODEL, NO_DECISION_MODEL)
    info = mlflow.models.get_model_info(f"models:/{run.outputs.model_outputs[-1].model_id}")
    text = str(answer).strip().strip("\"'")
    if text[:10] == info.metadata["trained_until"]:  # also a date or a timestamp
        return
    X, _ = tuning.training_data(market, "big_move", "volatility")
    if text in (f"{X.index[0]:%Y-%m-%d}", TRAIN_END, TEST_END):
        raise Wrong(
            "That is a limit of the data or of the split. The last row is earlier, because its outcome is known."
        )
    if text[:10] == str(info.utc_time_created)[:10]:
        raise Wrong("That is the day on which the model was logged. Look for the section metadata in MLmodel.")
    raise Wrong("Give trained_until, a line in the section metadata of MLmodel, as text like '2001-02-03'.")


def _save_packages(root):
    """Save a model in several formats, each in a folder of its own."""
    import mlflow
    from sklearn.linear_model import LogisticRegression

    classifier = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    needs = {"pip_requirements": ["mlflow"]}
    for kind in ("pickle", "cloudpickle", "skops", "renamed"):
        kept_as = "pickle" if kind == "renamed" else kind
        mlflow.sklearn.save_model(classifier, root / kind, serialization_format=kept_as, **needs)
    (root / "renamed" / "model.pkl").rename(root / "renamed" / "weights.bin")
    description = root / "renamed" / "MLmodel"
    description.write_text(description.read_text().replace("model.pkl", "weights.bin"))
    namespace = {}
    exec(CODE, namespace)
    mlflow.pyfunc.save_model(root / "object", python_model=namespace["Same"](), **needs)
    (root / "same.py").write_text(CODE)
    mlflow.pyfunc.save_model(root / "from code", python_model=str(root / "same.py"), **needs)


class _Planted:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def scanner(answer, market):
    need_function(answer, "has_pickle")
    cases = {
        "pickle": (True, "a scikit-learn model in the format pickle: look at its serialization_format"),
        "cloudpickle": (True, "a scikit-learn model in the format cloudpickle, which is a pickle too"),
        "skops": (False, "a scikit-learn model in the format skops, which isn't a pickle"),
        "object": (True, "a pickled PythonModel: its flavor python_function has the key python_model"),
        "from code": (False, "a model from code, which isn't a pickle"),
        "renamed": (True, "a pickle named weights.bin: read MLmodel, because a stranger chooses the names of files"),
    }
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        planted = root / "planted"
        with redirect_stderr(io.StringIO()), warnings.catch_warnings(action="ignore"):
            _save_packages(root)
        (root / "pickle" / "model.pkl").write_bytes(pickle.dumps(_Planted(str(planted))))
        for name, (expected, what) in cases.items():
            returned = answer(root / name)
            if planted.exists():
                raise Wrong("Your function loaded the model, and so it ran what was planted there: only read MLmodel.")
            if not isinstance(returned, bool | np.bool_):
                raise Wrong(f"Your function returns {returned!r}: it should return True or False.")
            if returned != expected:
                raise Wrong(f"Your function returns {returned} for {what}.")


def alarm_share(answer, market):
    import mlflow

    run = run_in("practice", answer)
    share = run.data.metrics.get("alarm_share")
    if run.info.status != "FINISHED":
        raise Wrong(f"That run is {run.info.status}: start it with `with`, so that it ends.")
    if share is None:
        logged = ", ".join(run.data.metrics) or "none"
        raise Wrong(f"That run has no metric alarm_share (it has: {logged}): give your function this name.")
    pilot = newest_run("models", DECISION_MODEL, NO_DECISION_MODEL)
    model = mlflow.pyfunc.load_model(f"models:/{pilot.outputs.model_outputs[-1].model_id}")
    _, X_test, _, y_test = time_split(*dataset(load(market, end=TEST_END), "big_move", "volatility"))
    predicted = model.predict(X_test)
    if is_near(share, predicted["decision"].mean()):
        return
    if is_near(share, predicted["probability"].mean()):
        raise Wrong('That is the mean probability: call evaluate with predictions="decision".')
    if is_near(share, (predicted["probability"] > 0.5).mean()):
        raise Wrong("That is the share at one half: evaluate the decision model, not the candidate.")
    if is_near(share, y_test.mean()):
        raise Wrong("That is the share of big moves: count the decisions, not the outcomes.")
    raise Wrong(f"The metric is {share:.3f}: give the share of test days on which the decision is 1.")


EXERCISES = [
    Exercise("10.1", test=loss_of_ten, wrong=[0.1, 10]),
    Exercise("10.2", test=other_library, wrong=["logit", 0.25]),
    Exercise("10.3", test=last_training_day, wrong=["2009-12-31", "decision"]),
    Exercise(
        "10.4",
        test=scanner,
        wrong=[
            lambda folder: any(path.suffix == ".pkl" for path in Path(folder).rglob("*")),
            lambda folder: "python_model" in (Path(folder) / "MLmodel").read_text(),
        ],
    ),
    Exercise("10.5", test=alarm_share, wrong=["alarm-share", 0.326]),
]
