"""Check the task of part 2: `python part_2_check.py EXPERIMENT`, where your script ran and with its tracking URI.

It needs nothing but mlflow. It looks at all runs of the experiment.
"""

import sys
from collections.abc import Iterator

import mlflow
from mlflow.entities import Experiment, Run

PARENT = "mlflow.parentRunId"


def results(experiment: Experiment, runs: list[Run]) -> Iterator[tuple[str, bool, str]]:
    """Return what is checked, whether the experiment has it, and the advice if not."""
    uri = mlflow.get_tracking_uri()
    yield "server", uri.startswith("http"), f"the tracking URI is {uri}: start `mlflow server` and set the variable."
    place = experiment.artifact_location
    shared = not place.startswith(("file:", "/", "."))
    yield (
        "artifacts",
        shared,
        f"clients write files to {place}: start the server with --artifacts-destination.",
    )

    by_status: dict[str, list[str]] = {}
    for run in runs:
        by_status.setdefault(run.info.status, []).append(run.info.run_name)
    open_runs = ", ".join(by_status.get("RUNNING", []))
    yield "all runs have ended", not open_runs, f"RUNNING: {open_runs}. End them with MlflowClient().set_terminated."

    finished = [run for run in runs if run.info.status == "FINISHED"]
    trials: dict[str, list[Run]] = {}
    for run in finished:
        if parent := run.data.tags.get(PARENT):
            trials.setdefault(parent, []).append(run)
    most = max(map(len, trials.values()), default=0)
    yield "trials", most >= 10, f"the largest search has {most} child runs: start one per trial, with nested=True."
    bare = [run.info.run_name for run in sum(trials.values(), []) if not (run.data.params and run.data.metrics)]
    advice = f"{', '.join(bare[:3]) or 'no trial'}: log the settings and the validation score of each trial."
    yield "trials can be compared", most > 0 and not bare, advice
    spent = [run.info.run_name for run in sum(trials.values(), []) if any("test" in name for name in run.data.metrics)]
    advice = f"{', '.join(spent[:3])}: a search that sees the test rows has nothing left to judge its winner."
    yield "no trial saw the test rows", not spent, advice

    parents = [run for run in finished if PARENT not in run.data.tags]
    scored = [run for run in parents if any("test" in name for name in run.data.metrics)]
    families = (
        f"{len(scored)} finished runs that are not trials have a metric with `test` in its name: there are two models."
    )
    yield "both models on the test rows", len(scored) >= 2, families
    inputs = [run for run in parents if run.inputs and run.inputs.dataset_inputs]
    yield "data set", bool(inputs), "no run names its data: call mlflow.log_input(mlflow.data.from_pandas(…))."
    models = [run for run in parents if run.outputs and run.outputs.model_outputs]
    yield (
        "models",
        len(models) >= 2,
        f"{len(models)} runs have a logged model: log both.",
    )
    names = {name for run in parents for name in run.data.metrics}
    pairs = [name for name in names if name.endswith("_low") and f"{name[:-4]}_high" in names]
    yield "interval", bool(pairs), "log the ends of the interval of the difference as …_low and …_high."
    decided = any("decision" in name for name in experiment.tags)
    yield "decision", decided, "call mlflow.set_experiment_tags with a tag that has `decision` in its name."


def main(name: str) -> bool:
    """Print a line for each check, and return whether all passed."""
    print(f"Tracking URI: {mlflow.get_tracking_uri()}")
    experiment = mlflow.get_experiment_by_name(name)
    runs: list[Run] = mlflow.search_runs(experiment_names=[name], output_format="list") if experiment else []
    if not experiment or not runs:
        print(f"The experiment {name!r} has no run there. Is it the name and the place of your script?")
        return False
    passed = []
    for title, good, advice in results(experiment, runs):
        print(f"  ok       {title}" if good else f"  not yet  {title}: {advice}")
        passed.append(good)
    print(f"{sum(passed)} of {len(passed)} checks pass. The rubric in part_2.md says what else a good solution has.")
    return all(passed)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Usage: python part_2_check.py EXPERIMENT")
    sys.exit(0 if main(sys.argv[1]) else 1)
