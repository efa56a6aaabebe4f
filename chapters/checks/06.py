"""The exercises of chapter 06."""

from course.checks import Exercise, Wrong, run_in


def beats_filter(answer, market):
    import mlflow

    if not isinstance(answer, str) or not answer.strip():
        raise Wrong("Give the filter as text, in quotes: \"tags.family = 'net'\".")
    experiment = "comparison"
    try:
        found = mlflow.search_runs(experiment_names=[experiment], filter_string=answer, output_format="list")
    except mlflow.MlflowException as error:
        reason = str(error).splitlines()[0].removeprefix("INVALID_PARAMETER_VALUE: ")
        raise Wrong(f"MLflow cannot parse the filter: {reason}") from None
    everything = mlflow.search_runs(experiment_names=[experiment], output_format="list")
    right = {run.info.run_id for run in everything if _beats(run)}
    missing, extra = right - {run.info.run_id for run in found}, [run for run in found if not _beats(run)]
    for run in extra:
        if run.data.metrics.get("brier_skill_low", -1) <= 0:
            raise Wrong(f"It also finds {run.info.run_name}, whose interval is not above zero: filter on its low end.")
        raise Wrong(f"It also finds {run.info.run_name}: filter on the tag target and on the status FINISHED.")
    if missing:
        raise Wrong(f"It finds {len(found)} runs, but misses {len(missing)} that beat the base rate.")
    for word in ("brier_skill_low", "target", "status"):
        if word not in answer:  # on this store it finds the right runs by chance
            raise Wrong(f"It finds the right runs on this store only by chance: it does not filter on {word}.")


def _beats(run):
    return (
        run.data.tags.get("target") == "big_move"
        and run.data.metrics.get("brier_skill_low", -1) > 0
        and run.info.status == "FINISHED"
    )


def forest(answer, market):
    run = run_in("comparison", answer)
    if run.info.run_name != "big-move-volatility-forest":
        raise Wrong(f"That run is named {run.info.run_name}: the agreed name is big-move-volatility-forest.")
    agreed = {"target": "big_move", "features": "volatility", "family": "forest", "market": market}
    for name, value in agreed.items():
        if run.data.tags.get(name) != value:
            raise Wrong(f"Its tag {name} is {run.data.tags.get(name)}, not {value}: start the run with start(…).")
    if f"{market}-big_move-volatility" not in [each.dataset.name for each in run.inputs.dataset_inputs]:
        raise Wrong("That run has no data set with the agreed name: log the one that describe(…) returns.")
    if "brier_skill_low" not in run.data.metrics:
        raise Wrong("That run has no metric brier_skill_low: call judge(…) inside the run.")
    if run.info.status != "FINISHED":
        raise Wrong(f"That run is {run.info.status}: start it with `with`, so that it ends.")


def mended(answer, market):
    run = run_in("practice", answer)
    if "waited_for" in run.data.metrics:
        raise Wrong("That is the chapter's own run: create another one with client.create_run.")
    if run.data.params.get("C") is None:
        raise Wrong("That run has no parameter C: log it with client.log_param.")
    if run.info.status == "RUNNING":
        raise Wrong("That run is still RUNNING: end it with client.set_terminated.")
    if run.info.status != "KILLED":
        raise Wrong(f"That run is {run.info.status}, as if nothing had gone wrong: pass status='KILLED'.")
    if not run.data.tags.get("mlflow.note.content", "").strip():
        raise Wrong("That run has no note: set the tag mlflow.note.content.")


EXERCISES = [
    Exercise(
        "06.1",
        test=beats_filter,
        wrong=[
            "tags.target = 'big_move' and attributes.status = 'FINISHED'",
            "tags.target = 'big_move' and metrics.brier_skill_value > 0 and attributes.status = 'FINISHED'",
        ],
    ),
    Exercise("06.2", test=forest, wrong=["big-move-volatility-forest", "0" * 32]),
    Exercise("06.3", test=mended, wrong=["lost", "0" * 32]),
]
