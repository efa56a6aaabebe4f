"""The exercises of chapter 09."""

import numpy as np
from mlflow.types import Schema, TensorSpec

from course.checks import Exercise, Wrong, need_function, newest_run
from pystock.data import load
from pystock.features import dataset

UNTRAINED = "This store has no such model yet: run the chapter up to this exercise first."


def _address(run):
    return f"models:/{run.outputs.model_outputs[0].model_id}"


def _addresses():
    """The addresses of the four models of the chapter, by their names in its table."""
    same = "tags.target = 'big_move' and tags.features = 'volatility' and tags.stage = 'prototyping'"
    filters = {name: ("comparison", f"{same} and tags.family = '{name}'") for name in ("logistic", "xgboost")}
    filters["candidate"] = ("tuning", "tags.pilot = 'candidate'")
    filters["net"] = ("comparison", f"{same} and tags.family = 'net'")  # last, because it loads TensorFlow
    return {name: _address(newest_run(*each, UNTRAINED)) for name, each in filters.items()}


def _rows(market, number):
    X, _ = dataset(load(market, end="2014-12-31"), "big_move", "volatility")
    return X.tail(number)


def input_shape(answer, market):
    import mlflow

    run = newest_run("comparison", "attributes.run_name = 'big-move-volatility-net'", UNTRAINED)
    signature = mlflow.models.get_model_info(_address(run)).signature
    expected, output = (part.inputs[0].shape for part in (signature.inputs, signature.outputs))
    if not isinstance(answer, tuple | list):
        raise Wrong("Give the shape as a tuple of two numbers, such as (2, 3).")
    if tuple(answer) == output:
        raise Wrong("That is the shape of the output: read the line inputs, above it.")
    if tuple(answer) == (-1, 14):
        raise Wrong("That is the network on the 14 flags: open the run big-move-volatility-net.")
    if tuple(answer) != expected:
        raise Wrong(
            "Read the list after shape, in the line inputs of the signature. A shape may contain -1: any number."
        )


def _expected(address, X):
    """The probabilities of a model, from its native flavor."""
    import mlflow

    flavors = mlflow.models.get_model_info(address).flavors
    if "sklearn" in flavors:
        return mlflow.sklearn.load_model(address).predict_proba(X)[:, 1]
    if "keras" in flavors:
        return np.asarray(mlflow.keras.load_model(address)(X.to_numpy("float32")))[:, 0]
    model = mlflow.xgboost.load_model(address)
    if hasattr(model, "predict_proba"):
        return model.predict_proba(X)[:, 1]
    from xgboost import DMatrix

    return model.predict(DMatrix(X))


def one_probability(answer, market):
    need_function(answer, "probability")
    X = _rows(market, 5)
    for name, address in _addresses().items():
        try:
            values = np.asarray(answer(address, X))
        except Exception as error:
            raise Wrong(f"For the model {name}, your function raises {type(error).__name__}: {error}") from None
        if values.shape == (5, 2):
            raise Wrong(f"For 5 rows of the model {name}, the shape is (5, 2): the second column is that of class 1.")
        if values.shape != (5,):
            raise Wrong(f"For 5 rows of the model {name}, your function returns the shape {values.shape}, not (5,).")
        expected = _expected(address, X)
        if np.allclose(values, expected, atol=1e-4):
            continue
        if set(values.tolist()) <= {0, 1}:
            raise Wrong(
                f"For the model {name}, your function returns classes: call predict_proba of the object inside."
            )
        if np.allclose(values, 1 - expected, atol=1e-4):
            raise Wrong(f"For the model {name}, that is the probability of no big move: take the second column.")
        raise Wrong(f"For the model {name}, the last probability is {expected[-1]:.3f}, not {values[-1]:.3f}.")


def window_schema(answer, market):
    if not isinstance(answer, Schema):
        raise Wrong("Give a Schema: Schema([TensorSpec(np.dtype(…), (…))]).")
    if not answer.is_tensor_spec() or len(answer.inputs) != 1:
        raise Wrong("An array is described by one TensorSpec, not by columns.")
    (spec,) = answer.inputs
    if spec.type != np.dtype("float32"):
        raise Wrong(f"Its type is {spec.type}: the network uses float32, and MLflow doesn't convert arrays.")
    if spec.shape == (22, 3):
        raise Wrong("That is one window. The first number of the shape is the number of windows; -1 means any number.")
    if spec.shape != (-1, 22, 3):
        raise Wrong(f"Its shape is {spec.shape}: any number of windows, of 22 days each, with 3 values a day.")


OUTCOMES = {  # of each table: what pyfunc does with it, and advice
    "A": ("rejected", "MLflow finds columns by their exact names. Which of the names does it find in capitals?"),
    "B": ("converted", "reset_index turns the dates into one more column. See the input with an extra column."),
    "C": ("accepted", "In percent, the values change. Does a name or a type change?"),
    "D": ("converted", "int16 isn't double, but can float64 hold all its values? See the input in int32."),
}


def outcomes(answer, market):
    if not isinstance(answer, dict) or not all(isinstance(each, str) for pair in answer.items() for each in pair):
        raise Wrong('Give a dictionary, such as {"A": "accepted", "B": "rejected"}, with all four letters.')
    answer = {letter.strip().upper(): outcome.strip().lower() for letter, outcome in answer.items()}
    if missing := OUTCOMES.keys() - answer.keys():
        raise Wrong(f"Your dictionary has no outcome for {', '.join(sorted(missing))}.")
    for letter, (outcome, advice) in OUTCOMES.items():
        if answer[letter] not in ("accepted", "converted", "rejected"):
            raise Wrong(f"The outcome of {letter} is accepted, converted or rejected, not {answer[letter]}.")
        if answer[letter] != outcome:
            raise Wrong(f"Table {letter} isn't {answer[letter]}. {advice}")


def strict_names(answer, market):
    import mlflow

    need_function(answer, "predict_strictly")
    run = newest_run("practice", "attributes.run_name = 'alarm'", UNTRAINED)
    model, X = mlflow.pyfunc.load_model(_address(run)), _rows(market, 250)
    if not np.array_equal(answer(model, X), model.predict(X)):
        raise Wrong("Without parameters, your function should return what model.predict(X) returns.")
    if not np.array_equal(answer(model, X, threshold=0.1), model.predict(X, params={"threshold": 0.1})):
        raise Wrong("With threshold=0.1, your function returns something else: pass on params=params.")
    for name in ("treshold", "margin"):
        try:
            answer(model, X, **{name: 0.1})
        except TypeError as error:
            if name not in str(error):
                raise Wrong(f"The message of your TypeError should name the unknown parameter, {name}.") from None
        except Exception as error:
            raise Wrong(f"For {name}=0.1, your function raises {type(error).__name__}: raise TypeError.") from None
        else:
            raise Wrong(f"Your function accepts {name}=0.1, which isn't in the signature: raise TypeError.")


def _pyfunc(uri, X):
    import mlflow

    return mlflow.pyfunc.load_model(uri).predict(X)


EXERCISES = [
    Exercise("09.1", test=input_shape, wrong=[(-1, 1), (-1, 14)]),
    Exercise("09.2", test=one_probability, wrong=[_pyfunc, lambda uri, X: _pyfunc(uri, X).reshape(len(X), -1)[:, -1]]),
    Exercise(
        "09.3",
        test=window_schema,
        wrong=[
            Schema([TensorSpec(np.dtype("float32"), (22, 3))]),
            Schema([TensorSpec(np.dtype("float64"), (-1, 22, 3))]),
        ],
    ),
    Exercise(
        "09.4",
        test=outcomes,
        wrong=[
            {"A": "rejected", "B": "rejected", "C": "accepted", "D": "converted"},
            {"A": "rejected", "B": "converted", "C": "rejected", "D": "converted"},
        ],
    ),
    Exercise(
        "09.5",
        test=strict_names,
        wrong=[
            lambda model, X, **params: model.predict(X, params=params),
            lambda model, X, threshold=0.5: model.predict(X),
        ],
    ),
]
