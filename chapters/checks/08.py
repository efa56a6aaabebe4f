"""The exercises of chapter 08."""

from course.checks import Exercise, Wrong, is_near, run_in
from pystock import tuning


def _study_run(market):
    """The newest finished run of a study of XGBoost."""
    import mlflow

    runs = mlflow.search_runs(
        experiment_names=["tuning"],
        filter_string="tags.family = 'xgboost' and tags.trials != '' and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
        output_format="list",
    )
    if not runs:
        raise Wrong("This store has no study of XGBoost yet: run the chapter up to its exercises first.")
    return runs[0]


def _children(market, **search):
    import mlflow

    parent = _study_run(market)
    return mlflow.search_runs(
        [parent.info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{parent.info.run_id}' and attributes.status = 'FINISHED'",
        output_format="list",
        **search,
    )


def _best(market):
    complete = [run for run in _children(market) if run.data.tags["state"] == "complete"]
    return max(complete, key=lambda run: (run.data.metrics["skill"], -int(run.data.tags["trial"])))


def random_draws(answer, market):
    try:
        number = int(str(answer))
    except ValueError:
        raise Wrong("Give a whole number of settings.") from None
    if number == 59:
        return
    if number == 20:
        raise Wrong("With 20 draws, all are bad with probability 0.36: one is good on average, but often none is.")
    if number == 58:
        raise Wrong("Nearly: with 58 draws, all are bad with probability 0.051, which is above 0.05.")
    raise Wrong("Compute 0.95 ** n for several n, and find the first n for which it is at most 0.05.")


def four_years(answer, market):
    best = _best(market)
    settings = {
        "learning_rate": float(best.data.params["learning_rate"]),
        "max_depth": int(best.data.params["max_depth"]),
        "min_child_weight": float(best.data.params["min_child_weight"]),
        "subsample": float(best.data.params["subsample"]),
    }
    X, y = tuning.training_data(market, "big_move", "volatility")
    by_fold = list(tuning.skills(tuning.build("xgboost", **settings), X, y, years=4))
    if is_near(answer, by_fold[-1]):
        return
    if is_near(answer, best.data.metrics["skill"]):
        raise Wrong("That is the score of the best trial, with its own number of years: replace it with 4.")
    if any(is_near(answer, value) for value in by_fold[:-1]):
        raise Wrong("That is the skill after an earlier fold: use the last of the five numbers.")
    raise Wrong("Take study.best_params, replace its years with 4, and score that on the folds.")


def mirrored_again(answer, market):
    from mlflow.entities import ViewType

    run = run_in("tuning", answer)
    best = _best(market)
    number = best.data.tags["trial"]
    if run.info.lifecycle_stage == "deleted":
        raise Wrong("That is the run that you deleted: give the one that put_in_order created.")
    if run.data.tags.get("trial") != number:
        raise Wrong(f"That run is not the child run of the best trial, which is number {number}.")
    gone = _children(market, run_view_type=ViewType.DELETED_ONLY)
    if not any(each.data.tags["trial"] == number for each in gone):
        raise Wrong("No child run of the best trial was deleted: delete it first, then call put_in_order.")


EXERCISES = [
    Exercise("08.1", test=random_draws, wrong=[20, 58]),
    Exercise("08.2", test=four_years, wrong=[0.099, 0.141]),
    Exercise("08.3", test=mirrored_again, wrong=["trial-000", "0" * 32]),
]
