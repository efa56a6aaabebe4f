"""The exercises of chapter 18."""

import json

from course.checks import Exercise, Wrong
from pystock.api.schema import FEATURE_NAMES, Contract, Refused, features
from pystock.data import load, named
from pystock.features import volatility

LAST = "2018-12-31"


def from_prices(answer, market):
    if not isinstance(answer, dict):
        raise Wrong("Give a Python dictionary; requests converts it to JSON.")
    if "prices" not in answer:
        raise Wrong("The screen has prices, not features: send them under the key prices.")
    try:
        sent = json.dumps(answer).encode()
    except TypeError as error:
        raise Wrong(f"It cannot become JSON: {error}. Write dates as text, such as 2018-12-31.") from None
    try:
        question = Contract(max_rows=10_000).read(sent)
        dates, numbers = features(question.prices)
    except Refused as refusal:
        raise Wrong(f"The service would reject it: {refusal.detail}") from None
    if question.threshold != 0.5:
        given = "the model's own" if question.threshold is None else question.threshold
        raise Wrong(f"The threshold is {given}: the desk wants 0.5.")
    if dates[-1] != LAST:
        raise Wrong(f"The last day is {dates[-1]}: the desk wants the last days up to {LAST}.")
    if len(dates) != 5:
        raise Wrong(f"The response would cover {len(dates)} days: the screen wants exactly five.")
    if not (numbers == volatility(load(market)).tail(5).to_numpy()).all():
        raise Wrong("The features would differ: send the days as `load` returns them, and leave none out.")


def could_be_served(answer, market):
    import mlflow

    newest = {}
    for each in mlflow.MlflowClient().search_model_versions():
        newest[each.name] = max(each, newest.get(each.name, each), key=lambda one: int(one.version))
    if named("pystock-api-trial", market) not in newest:
        raise Wrong("This store lacks the registered model of the chapter: run it up to its exercises first.")
    if not isinstance(answer, (set, frozenset, list, tuple)) or not all(isinstance(one, str) for one in answer):
        raise Wrong("Give a set of names of registered models, such as {'pystock-big-move'}.")
    if unknown := set(answer) - set(newest):
        raise Wrong(f"There is no registered model {min(unknown)}: this store has {', '.join(sorted(newest))}.")
    reasons = {name: _unfit(mlflow.models.get_model_info(each.source).signature) for name, each in newest.items()}
    if wrong := sorted(name for name in answer if reasons[name]):
        version = newest[wrong[0]].version
        raise Wrong(f"{wrong[0]} would be rejected: its newest version, {version}, {reasons[wrong[0]]}.")
    if {name for name, reason in reasons.items() if not reason} - set(answer):
        raise Wrong("At least one more has such a signature: look at the newest version of every registered model.")


def _unfit(signature) -> str:
    """Why the service would reject a version with this signature; empty if it would not."""
    if not signature or not signature.inputs or not signature.inputs.has_input_names():
        return "has no signature that names its columns"
    columns = [(each.name, each.type.name) for each in signature.inputs.inputs]
    if columns != [(name, "double") for name in FEATURE_NAMES]:
        return f"has other input columns than the {len(FEATURE_NAMES)} doubles of the contract"
    if not any(each.name == "threshold" for each in signature.params or []):
        return "has no parameter threshold"
    return ""


def seen_by_callers(answer, market):
    try:
        value = float(answer)
    except (TypeError, ValueError):
        raise Wrong("Give one number, in milliseconds.") from None
    if 0.85 < value < 0.95:
        raise Wrong("That is in seconds: give milliseconds.")
    if value < 5:
        raise Wrong("That is what a generator that waits would report: it sends one request in the whole second.")
    if value >= 990:
        raise Wrong("Only one caller waits the whole second, but one in a hundred is ten of the thousand.")
    if not 880 <= value <= 920:
        raise Wrong("Write down how long each of the 1,000 callers waits, and take the quantile 0.99 of that.")


_DAY = {"date": LAST, "open": 2498.94, "high": 2509.24, "low": 2482.82, "close": 2506.85, "volume": 3442870000}

EXERCISES = [
    Exercise(
        "18.1",
        test=from_prices,
        wrong=[{"prices": [_DAY], "threshold": 0.5}, {"rows": [{"abs_return": 0.01}], "threshold": 0.5}],
    ),
    Exercise("18.2", test=could_be_served, wrong=[{"pystock-big-move", "pystock-api-trial"}, {"pystock-direction"}]),
    Exercise("18.3", test=seen_by_callers, wrong=[1, 1000]),
]
