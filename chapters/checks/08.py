"""The exercises of chapter 08."""

import numpy as np
import pandas as pd
from xgboost import XGBClassifier

from course.checks import Exercise, Wrong, is_near, need_function, newest_run, run_in
from pystock import tuning
from pystock.evaluation import brier_difference


def _children(parent, filter_string=""):
    import mlflow

    where = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'{filter_string}"
    return mlflow.search_runs([parent.info.experiment_id], where, output_format="list")


def whole_grid(answer, market):
    run = run_in("tuning", answer)
    if run.data.tags.get("mlflow.parentRunId"):
        raise Wrong("That is a child run: give the id of its parent run, which you opened with start_run.")
    if "best_cv_score" not in run.data.metrics:
        raise Wrong("That run has no best_cv_score, so it is not a grid search with autologging.")
    number = len(_children(run))
    if number != 10:
        raise Wrong(f"That run has {number} child runs, and the grid has 10 candidates: set max_tuning_runs=None.")


def four_years(answer, market):
    X, y = tuning.training_data(market, "big_move", "volatility")
    model = tuning.build("xgboost", max_depth=3, learning_rate=0.05)
    by_fold = list(tuning.skills(model, X, y, years=4))
    if is_near(answer, by_fold[-1]):
        return
    if is_near(answer, list(tuning.skills(model, X, y))[-1]):
        raise Wrong("That is the skill with all years: pass years=4 to walk.")
    if any(is_near(answer, value) for value in by_fold[:-1]):
        raise Wrong("That is the skill after an earlier fold: use the last forecast, which has the days of all folds.")
    if is_near(answer, list(tuning.skills(XGBClassifier(n_jobs=1, random_state=0, max_bin=64), X, y, years=4))[-1]):
        raise Wrong("Those are XGBoost's default settings: use xgboost(**by_hand).")
    raise Wrong("Score xgboost(**by_hand) with walk(model, years=4), and apply skill_of to the last forecast.")


def own_search(answer, market):
    run = run_in("practice", answer)
    if run.info.status != "FINISHED":
        raise Wrong(f"That run is {run.info.status}: end it before you check it.")
    children = _children(run)
    if not children:
        raise Wrong("That run has no child runs: start the run of each trial with nested=True, inside the parent run.")
    if len(children) != 10:
        raise Wrong(f"That run has {len(children)} child runs: run ten trials, and log each as a child run.")
    for child in children:
        if "C" not in child.data.params:
            raise Wrong(f"The child run {child.info.run_name} has no parameter C.")
        if "skill" not in child.data.metrics:
            raise Wrong(f"The child run {child.info.run_name} has no metric skill.")
    tried = np.array([float(child.data.params["C"]) for child in children])
    if tried.min() < 1e-4 or tried.max() > 100:
        raise Wrong(f"One trial has C={tried.max():.4g}: the range is 0.0001 to 100.")
    if np.median(tried) > 20:
        raise Wrong("Half of your trials have a C above 20: did you set log=True?")
    child = max(children, key=lambda child: child.data.metrics["skill"])
    X, y = tuning.training_data(market, "big_move", "volatility")
    skill = list(tuning.skills(tuning.build("logistic", C=float(child.data.params["C"])), X, y))[-1]
    if not is_near(child.data.metrics["skill"], skill):
        raise Wrong(f"C={child.data.params['C']} has the skill {skill:.3f} on the folds: log score('logistic', C=C).")


def same_in_the_best(answer, market):
    names = list(tuning.SPACES["xgboost"])
    if answer not in names:
        raise Wrong(f"The answer is the name of a hyperparameter: {', '.join(names)}.")
    missing = "This store has no search of XGBoost yet: run the chapter up to this exercise first."
    study = newest_run("tuning", "tags.family = 'xgboost' and tags.trials != ''", missing)
    complete = _children(study, " and tags.state = 'complete'")
    best = sorted(complete, key=lambda run: run.data.metrics["skill"], reverse=True)[:3]
    values = [f"{float(run.data.params[answer]):.3g}" for run in best]
    if len(set(values)) > 1:
        raise Wrong(f"In the best three trials, {answer} is {', '.join(values)}. Look for one without a difference.")


def _cases():
    """Outcomes, and forecasts from simple to complex, with the name of the one to choose."""
    random = np.random.default_rng(0)
    truth = np.repeat(random.uniform(0.1, 0.9, 60), 10)
    y = pd.Series((random.random(600) < truth).astype(int))
    noisy = np.clip(truth + random.normal(0, 0.02, 600), 0, 1)
    mean = np.full(600, y.mean())
    return y, [
        ({"simple": noisy, "complex": truth}, "simple"),
        ({"constant": mean, "middle": noisy, "complex": truth}, "middle"),
        ({"good": truth, "bad": mean}, "good"),
    ]


def tie_break(answer, market):
    need_function(answer, "choose")
    y, cases = _cases()
    for forecasts, expected in cases:
        chosen = answer(y, forecasts)
        if not isinstance(chosen, str) or chosen not in forecasts:
            raise Wrong(f"Your function returns {chosen!r}: it should return one of the names, {list(forecasts)}.")
        lowest = min(forecasts, key=lambda name: ((y - forecasts[name]) ** 2).mean())
        difference = brier_difference(y, forecasts[expected], forecasts[lowest])
        if chosen != expected and expected != lowest and chosen == lowest:
            tie = f"the interval of its difference to the best is {difference.low:+.4f} to {difference.high:+.4f}"
            raise Wrong(f"Your function chose {chosen!r}, but {expected!r} is simpler and {tie}.")
        if chosen != expected:
            raise Wrong(f"Your function chose {chosen!r}, which is clearly worse than {lowest!r}.")


EXERCISES = [
    Exercise("08.1", test=whole_grid, wrong=["whole-grid", "0" * 32]),
    Exercise("08.2", test=four_years, wrong=[0.093, 0.5]),
    Exercise("08.3", test=own_search, wrong=["my-search", "0" * 32]),
    Exercise("08.4", test=same_in_the_best, wrong=["years", "C"]),
    Exercise(
        "08.5",
        test=tie_break,
        wrong=[
            lambda y, forecasts: min(forecasts, key=lambda name: ((y - forecasts[name]) ** 2).mean()),
            lambda y, forecasts: next(iter(forecasts)),
        ],
    ),
]
