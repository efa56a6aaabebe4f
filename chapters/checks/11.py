"""The exercises of chapter 11."""

import json

from course.checks import Exercise, Wrong
from pystock.api_schema import Contract, Refused, features
from pystock.data import load, named
from pystock.features import volatility

LAST = "2018-12-31"


def from_prices(answer, market):
    if not isinstance(answer, dict):
        raise Wrong("Give a Python dictionary; requests makes JSON of it.")
    if "prices" not in answer:
        raise Wrong("The screen knows prices and no features: they stand under the name prices.")
    try:
        sent = json.dumps(answer).encode()
    except TypeError as error:
        raise Wrong(f"It cannot be sent: {error}. Days are text, as in 2018-12-31.") from None
    try:
        question = Contract(max_rows=10_000).read(sent)
        dates, numbers = features(question.prices)
    except Refused as refusal:
        raise Wrong(f"The service would refuse it: {refusal.detail}") from None
    if question.threshold != 0.5:
        raise Wrong(f"The threshold is {question.threshold or 'the own one of the model'}: the desk asks for 0.5.")
    if dates[-1] != LAST:
        raise Wrong(f"The last day is {dates[-1]}: the desk asks about the close of {LAST}.")
    if len(dates) > 1:
        raise Wrong(f"It would be answered for {len(dates)} days: send no more than the features of one day need.")
    if not (numbers[-1] == volatility(load(market)).iloc[-1].to_numpy()).all():
        raise Wrong("The features of that day would be others: send the days as `load` has them, and leave none out.")


def takes_them(answer, market):
    import mlflow

    name = named("pystock-api-trial", market)
    found = mlflow.MlflowClient().search_model_versions(f"name = '{name}'")
    if not found:
        raise Wrong(f"This store has no versions of {name} yet: run the chapter up to its exercises first.")
    if not isinstance(answer, (set, frozenset, list, tuple)) or not all(isinstance(one, (str, int)) for one in answer):
        raise Wrong("Give a set of numbers of versions, such as {'1', '2'}.")
    given, exist = {str(one) for one in answer}, {str(each.version) for each in found}
    if unknown := given - exist:
        raise Wrong(f"{name} has no version {sorted(unknown)[0]}: it has {', '.join(sorted(exist, key=int))}.")
    columns = list(volatility(load(market).head(1)).columns)
    right = set()
    for each in found:
        signature = mlflow.models.get_model_info(each.source).signature
        if signature and signature.inputs.input_names() == columns:
            right.add(str(each.version))
    if wrong := given - right:
        raise Wrong(f"Version {sorted(wrong)[0]} asks for other columns than the 12 of the contract: it is refused.")
    if right - given:
        raise Wrong("One more has the signature of the contract: look at every version, and not at the alias.")


def seen_by_callers(answer, market):
    try:
        value = float(answer)
    except (TypeError, ValueError):
        raise Wrong("Give one number, in milliseconds.") from None
    if value < 5:
        raise Wrong("That is what the generator reports that waits: it has asked once in the whole second.")
    if value >= 990:
        raise Wrong("One caller waits the whole second, and one in a hundred is ten of the thousand.")
    if not 880 <= value <= 920:
        raise Wrong("Write down how long each of the 1,000 callers waits, and take the quantile 0.99 of that.")


_DAY = {"date": LAST, "open": 2498.94, "high": 2509.24, "low": 2482.82, "close": 2506.85, "volume": 3442870000}

EXERCISES = [
    Exercise(
        "11.1",
        question="The screen wants the decision for the last day of 2018 at a threshold of `0.5`. It knows prices, and "
        "sends no day more than it must. Write the body of the request as a Python dictionary.",
        hint="The longest feature looks back over 66 returns, and a return needs the day before it. `as_prices` makes "
        "the list of days.",
        test=from_prices,
        wrong=[{"prices": [_DAY], "threshold": 0.5}, {"rows": [{"abs_return": 0.01}], "threshold": 0.5}],
    ),
    Exercise(
        "11.2",
        question="Before somebody moves the alias again: which versions of `trial` in this store would the service "
        "take, going by their signatures? Your answer is a set of their numbers.",
        hint="`client.search_model_versions` lists the versions, `mlflow.models.get_model_info(version.source)` has "
        "the signature, and `signature.inputs.input_names()` its columns.",
        test=takes_them,
        wrong=[{"1"}, {"1", "2", "3"}],
    ),
    Exercise(
        "11.3",
        question="Callers come every 10 ms, 1,000 in all, whatever the server does. It answers each within 1 ms, but "
        "once it stands still for a whole second, and 100 callers wait until that is over: the first 1000 ms, the "
        "next 990 ms, and so on. What is the p99 of the 1,000, in milliseconds?",
        hint="Make a list of 1,000 waiting times, and take `np.quantile(waits, 0.99)`.",
        test=seen_by_callers,
        wrong=[1, 1000],
    ),
]
