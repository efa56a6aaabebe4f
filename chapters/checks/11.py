"""The exercises of chapter 11."""

from types import SimpleNamespace

import numpy as np
import pandas as pd

from course.checks import Exercise, Wrong, need_function
from pystock.data import named


def _registered(market):
    import mlflow

    client, name = mlflow.MlflowClient(), named("pystock-big-move", market)
    try:
        model = client.get_registered_model(name)
    except mlflow.MlflowException:
        raise Wrong(f"This store has no model {name} yet: run the chapter up to this exercise first.") from None
    return client, name, {alias: int(version) for alias, version in model.aliases.items()}


def training_digest(answer, market):
    client, name, aliases = _registered(market)
    if not isinstance(answer, str):
        raise Wrong("Give the digest as text, such as 'a1b2c3d4'.")
    version = aliases.get("challenger", aliases.get("champion"))
    if version is None:
        raise Wrong(f"No version of {name} has an alias yet: run the cell that sets the alias challenger.")
    inputs = client.get_run(client.get_model_version(name, str(version)).run_id).inputs.dataset_inputs
    context = {each.dataset.digest: [tag.value for tag in each.tags] for each in inputs}
    if answer in context and "training" in context[answer]:
        return
    if answer in context:
        raise Wrong("That is another data set of the same run: use the one with the context training.")
    if "volatility" in answer:
        raise Wrong("That is the name of the data set. Two tables can have the same name, so give the digest.")
    raise Wrong("Go from the alias to the version, from there to its run, and from the run to its inputs.")


def first_champion(answer, market):
    client, name, aliases = _registered(market)
    if isinstance(answer, bool) or not str(answer).isdigit():
        raise Wrong("Give the number of the version, such as 1.")
    marked = aliases.get("first-champion")
    if marked is None:
        raise Wrong("No version has the alias first-champion: type it, press Enter, and click Save aliases.")
    if marked != int(answer):
        raise Wrong(f"The alias first-champion points to version {marked}, not to version {answer}.")
    status = client.get_model_version(name, str(marked)).tags.get("validation_status")
    if status != "approved":
        raise Wrong(f"Version {marked} is {status}, so it was never the champion: move the alias to the champion.")


def _skills(case):
    def brier(forecast, days):
        return ((forecast[days] - case.y[days]) ** 2).mean()

    years = case.y.groupby(case.y.index.year).groups.items()
    return {year: 1 - brier(case.probability, days) / brier(case.reference, days) for year, days in years}


def _case(weights):
    """Three years of forecasts: each weight says how much of the truth the forecast of its year knows."""
    days = pd.bdate_range("2010-01-01", "2012-12-31")
    truth = np.where(np.arange(len(days)) // 10 % 2, 0.8, 0.2)  # calm and wild fortnights
    y = pd.Series((np.random.default_rng(0).random(len(days)) < truth).astype(int), days)
    reference = pd.Series(0.5, days)
    weight = np.array([weights[year - 2010] for year in days.year])
    return SimpleNamespace(
        info=None, y=y, probability=reference + weight * (truth - 0.5), reference=reference, champion=None
    )


def every_year(answer, market):
    need_function(answer, "good_every_year")
    named_years = []
    for weights in (1, 1, 1), (1, -0.5, 1), (1, 1, 0.02), (0.3, 1, 1):
        case = _case(weights)
        result = answer(case)
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise Wrong(f"Your function returns {result!r}: return two values, whether it passes and the evidence.")
        skills = _skills(case)
        worst = min(skills, key=skills.get)
        skill = f"skill in {worst} is {skills[worst]:.3f}"
        if result[0] and skills[worst] < 0:
            others = "the other years are good, and so is the mean. Compute the skill of each year separately"
            raise Wrong(f"Your function passes a case whose {skill}: {others}.")
        if result[0] and skills[worst] <= 0.02:
            raise Wrong(f"Your function passes a case whose {skill}: the limit is 0.02.")
        if not result[0] and skills[worst] > 0.02:
            raise Wrong(f"Your function refuses a case whose {skill}, and {worst} is its worst year.")
        named_years.append((worst, str(result[1])))
    for worst, evidence in named_years:
        if str(worst) not in evidence:
            raise Wrong(f"The evidence is {evidence!r}: it should name the worst year, {worst}.")


def champion_then(answer, market):
    need_function(answer, "champion_at")
    rows = [
        ("2015-01-05 09:00", pd.NA, 1, "promoted"),
        ("2015-01-06 09:00", 1, 2, "refused"),
        ("2015-01-07 09:00", 1, 3, "promoted"),
        ("2015-01-08 09:00", 3, 4, "overtaken"),
        ("2015-01-09 09:00", 3, 1, "rolled back"),
        ("2015-01-12 09:00", 1, 5, "interrupted"),
    ]
    history = pd.DataFrame(rows, columns=["when", "from", "to", "outcome"]).astype({"from": "Int64", "to": "Int64"})
    history["when"] = pd.to_datetime(history["when"], utc=True)
    history = history.assign(who="you", why="a test", evidence="")
    for day, expected in {5: 1, 6: 1, 7: 3, 8: 3, 9: 1, 12: 1, 2: None}.items():
        moment = pd.Timestamp(f"2015-01-{day:02} 12:00", tz="UTC")
        try:
            result = answer(history.copy(), moment)
        except IndexError:
            if expected is not None:
                raise
            raise Wrong("Before the first record your function raises an IndexError: return None.") from None
        number = None if pd.isna(result) else int(result)
        if number == expected:
            continue
        [last] = history[history["when"] <= moment].tail(1).to_dict("records") or [{"outcome": "", "to": None}]
        if number == last["to"]:
            raise Wrong(
                f"Your function returns {number}, but that record is {last['outcome']}: the alias did not move."
            )
        if expected is None:
            raise Wrong(
                f"Before the first record your function returns {number}: there was no champion, so return None."
            )
        if day >= 9 and number == 3:
            raise Wrong("Your function returns 3 after the rollback to version 1: a rollback moves the alias, too.")
        raise Wrong(
            f"Your function returns {number} when version {expected} was champion: use the records up to the moment."
        )


EXERCISES = [
    Exercise("11.1", test=training_digest, wrong=["sp500-big_move-volatility", 1]),
    Exercise("11.2", test=first_champion, wrong=["first-champion", 0]),
    Exercise(
        "11.3",
        test=every_year,
        wrong=[
            lambda case: (
                1 - ((case.probability - case.y) ** 2).mean() / ((case.reference - case.y) ** 2).mean() > 0.02,
                "",
            ),
            lambda case: True,
        ],
    ),
    Exercise(
        "11.4",
        test=champion_then,
        wrong=[
            lambda history, moment: history.loc[history["when"] <= moment, "to"].iloc[-1],
            lambda history, moment: history.loc[history["outcome"] == "promoted", "to"].iloc[-1],
        ],
    ),
]
