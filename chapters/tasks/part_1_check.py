"""Check the task of part 1: `python part_1_check.py EXPERIMENT`, where your script ran and with its tracking URI.

It needs nothing but mlflow. It looks at the newest finished run of the experiment.
"""

import re
import sys
from collections.abc import Iterator

import mlflow
from mlflow.entities import Run
from mlflow.models import get_model_info


def newest(experiment: str) -> Run | None:
    """Return the newest finished run of an experiment."""
    finished, order = "attributes.status = 'FINISHED'", ["attributes.start_time DESC"]
    runs: list[Run] = mlflow.search_runs(
        experiment_names=[experiment], filter_string=finished, order_by=order, max_results=1, output_format="list"
    )
    return runs[0] if runs else None


def results(run: Run) -> Iterator[tuple[str, bool, str]]:
    """Return what is checked, whether the run has it, and the advice if not."""
    data = run.data
    named = not re.fullmatch(r"[a-z]+-[a-z]+-\d+", run.info.run_name)
    tags = [name for name in data.tags if not name.startswith(("mlflow.", "course."))]
    scores = [name for name in data.metrics if not name.startswith("training_")]
    files = [file.path for file in mlflow.artifacts.list_artifacts(run_id=run.info.run_id)]
    models = run.outputs.model_outputs if run.outputs else []
    yield "run name", named, f"MLflow made up {run.info.run_name}: pass run_name to start_run."
    yield (
        "parameters",
        any(name == "C" or name.endswith("__C") for name in data.params),
        "log the setting C, so that two runs with other values can be compared.",
    )
    yield "metrics", len(scores) >= 2, f"the scores are {scores}: log the AUC and the Brier score of the test rows."
    yield "tag", bool(tags), "no tag is yours: set one that a colleague can search for, such as the stage."
    drawn = [file for file in files if file.endswith((".png", ".svg", ".html"))]
    yield "figure", bool(drawn), f"the artifacts are {files}: add the ROC curve with mlflow.log_figure."
    yield "model", bool(models), "the run has no logged model: call mlflow.sklearn.log_model inside the run."
    if models:
        yield from model_results(f"models:/{models[0].model_id}")


def model_results(uri: str) -> Iterator[tuple[str, bool, str]]:
    """Return the same for the logged model."""
    signature = get_model_info(uri).signature
    known = bool(signature and signature.inputs and signature.outputs)
    yield "signature", known, "pass signature=infer_signature(X_train, predictions), or an input_example, to log_model."
    model = mlflow.pyfunc.load_model(uri)
    yield "input example", model.input_example is not None, "pass input_example=X_train.head(3) to log_model."
    if model.input_example is not None:
        try:
            works, advice = len(model.predict(model.input_example)) == len(model.input_example), "it gives other rows."
        except Exception as error:  # whatever the model raises
            works, advice = False, f"predict raises {type(error).__name__}: {error}"
        yield "prediction for the input example", works, advice


def main(experiment: str) -> bool:
    """Print a line for each check, and return whether all passed."""
    print(f"Tracking URI: {mlflow.get_tracking_uri()}")
    run = newest(experiment)
    if run is None:
        print(f"The experiment {experiment!r} has no finished run there. Is it the name and the place of your script?")
        return False
    print(f"Newest finished run: {run.info.run_name}")
    passed = []
    for name, good, advice in results(run):
        print(f"  ok       {name}" if good else f"  not yet  {name}: {advice}")
        passed.append(good)
    print(f"{sum(passed)} of {len(passed)} checks pass. The rubric in part_1.md says what else a good solution has.")
    return all(passed)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Usage: python part_1_check.py EXPERIMENT")
    sys.exit(0 if main(sys.argv[1]) else 1)
