"""Check the task of part 3: `python part_3_check.py NAME`, where your script ran and with its tracking URI.

It needs nothing but mlflow. It looks at the registered model, its versions, and the records of its promotions.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import mlflow
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.models import get_model_info

STATUS = "validation_status"
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
ELSEWHERE = """
import sys, mlflow
model = mlflow.pyfunc.load_model(sys.argv[1], suppress_warnings=True)
if model.input_example is None:
    raise ValueError("pass input_example=X_train.head(3) to log_model")
answer = model.predict(model.input_example)
if not hasattr(answer, "keys") or "probability" not in answer.keys():
    raise TypeError(f"predict returns a {type(answer).__name__} without a column `probability`")
if not all(0 <= value <= 1 for value in answer["probability"]):
    raise ValueError("its probabilities are not between 0 and 1")
"""


def results(
    model: RegisteredModel, versions: list[ModelVersion], records: list[Run]
) -> Iterator[tuple[str, bool, str]]:
    """Return what is checked, whether the registered model has it, and the advice if not."""
    yield "versions", len(versions) >= 3, f"there are {len(versions)}: register three, and let the gate refuse one."
    lost = numbers(each for each in versions if not each.run_id)
    yield "source runs", not lost, f"version {lost}: call log_model inside a run, and register what it logged."
    rejected = [each for each in versions if each.tags.get(STATUS) == "rejected"]
    vague = numbers(each for each in versions if each not in rejected and not has_signature(each))
    yield "signatures", not vague, f"version {vague}: declare inputs, and an output with the name `probability`."
    loose = numbers(each for each in versions if each not in rejected and not has_exact_packages(each))
    yield "packages", not loose, f"version {loose}: list mlflow and your model's libraries as name==version."

    champion = str(model.aliases.get("champion", ""))
    yield "champion", bool(champion), "call MlflowClient().set_registered_model_alias(name, 'champion', version)."
    yield from champion_results(f"models:/{model.name}/{champion}" if champion else "")
    untold = numbers(each for each in versions if each.tags.get(STATUS) not in ("approved", "rejected"))
    yield "status", not untold, f"version {untold}: set the tag {STATUS} to approved or rejected."
    silent = numbers(each for each in rejected if not has_reason(each))
    advice = f"version {silent}: say" if silent else "let the gate reject a version, and say"
    advice += " why in a tag or in the version's description."
    yield "reason of a rejection", bool(rejected) and not silent, advice

    tags = [run.data.tags for run in records]
    short = [each for each in tags if not {"from", "to", "why", "outcome"} <= set(each)]
    advice = f"{len(tags)} runs have the tag registered_model; without from, to, why or outcome: {len(short)}."
    yield "records", bool(records) and not short, advice
    outcomes = [each.get("outcome") for each in tags]
    counts = {outcome: outcomes.count(outcome) for outcome in ("promoted", "refused", "rolled back")}
    enough = counts["promoted"] >= 2 and counts["refused"] >= 1 and counts["rolled back"] >= 1
    yield "outcomes", enough, f"{counts}: promote twice, let the gate refuse a version, and roll back once."
    ends = [(set(run.data.metrics), name) for run in records for name in run.data.metrics if name.endswith("_low")]
    pairs = [name for names, name in ends if name.removesuffix("low") + "high" in names]
    yield "interval", bool(pairs), "log the ends of the interval of a difference into its record, as …_low and …_high."
    moves = [each.get("to") for each in tags if each.get("outcome") in ("promoted", "rolled back")]
    advice = f"the champion is version {champion or '?'}, and the records say {moves[-1] if moves else '?'}."
    yield "champion as recorded", bool(champion) and moves[-1:] == [champion], advice


def champion_results(uri: str) -> Iterator[tuple[str, bool, str]]:
    """Return the same for the champion's files, which are downloaded to a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        model, empty = Path(folder, "model"), Path(folder, "empty")
        model.mkdir()
        empty.mkdir()
        if uri:
            mlflow.artifacts.download_artifacts(uri, dst_path=str(model))
        files = [file.name for file in model.rglob("*") if file.is_file()]
        pickles = [name for name in files if re.search(r"\.(pkl|joblib)$|pickle", name)]
        advice = f"{', '.join(pickles) or 'no files'}: log it as code, with a file in skops or its library's format."
        yield "champion without a pickle", bool(files) and not pickles, advice
        command = [sys.executable, "-E", "-c", ELSEWHERE, str(model)]
        done = subprocess.run(command, cwd=empty, capture_output=True)
        failure = done.stderr.decode(errors="replace").strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        yield "champion in a new process", done.returncode == 0, failure if uri else "there is no champion."


def has_signature(version: ModelVersion) -> bool:
    """Return whether a version declares its inputs, and an output named probability."""
    signature = get_model_info(f"models:/{version.name}/{version.version}").signature
    return bool(signature and signature.inputs and "probability" in getattr(signature.outputs, "input_names", list)())


def has_exact_packages(version: ModelVersion) -> bool:
    """Return whether a version lists packages besides mlflow, each with one version."""
    text = mlflow.artifacts.load_text(f"models:/{version.name}/{version.version}/requirements.txt")
    packages = [line for line in text.splitlines() if re.match(r"\w", line)]  # no options, no comments
    return all("==" in line for line in packages) and any(not line.startswith("mlflow") for line in packages)


def has_reason(version: ModelVersion) -> bool:
    """Return whether a version has a description, or a tag of several words."""
    return bool(version.description) or any(" " in value.strip() for value in version.tags.values())


def numbers(versions: Iterable[ModelVersion]) -> str:
    """Return the numbers of versions as a text, which is empty if there are none."""
    return ", ".join(str(each.version) for each in versions)


def main(name: str) -> bool:
    """Print a line for each check, and return whether all passed."""
    print(f"Tracking URI: {mlflow.get_tracking_uri()}")
    client = mlflow.MlflowClient()
    versions = sorted(client.search_model_versions(f"name = '{name}'"), key=lambda each: int(each.version))
    if not versions:
        print(f"There is no version of a registered model {name!r}. Is it the name and the place of your script?")
        return False
    records: list[Run] = mlflow.search_runs(
        search_all_experiments=True,
        filter_string=f"tags.registered_model = '{name}'",
        order_by=["attributes.start_time ASC"],
        output_format="list",
    )
    passed = []
    for title, good, advice in results(client.get_registered_model(name), versions, records):
        print(f"  ok       {title}" if good else f"  not yet  {title}: {advice}")
        passed.append(good)
    print(f"{sum(passed)} of {len(passed)} checks pass. The rubric in part_3.md says what else a good solution has.")
    return all(passed)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Usage: python part_3_check.py NAME")
    sys.exit(0 if main(sys.argv[1]) else 1)
