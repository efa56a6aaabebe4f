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
OUTCOMES = ("promoted", "refused", "rolled back")
TAGS = ("from", "to", "why", "outcome")
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
    lost = numbers(each for each in versions if not has_run(each))
    yield "source runs", not lost, f"{lost}: call log_model inside a run, keep the run, and register what it logged."
    rejected = [each for each in versions if each.tags.get(STATUS) == "rejected"]
    vague = numbers(each for each in versions if each not in rejected and not has_signature(each))
    yield "signatures", not vague, f"{vague}: declare inputs, and an output with the name `probability`."
    loose = numbers(each for each in versions if each not in rejected and not has_exact_packages(each))
    yield "packages", not loose, f"{loose}: list mlflow and your model's libraries as name==version."

    champion = str(model.aliases.get("champion", ""))
    yield "champion", bool(champion), "call MlflowClient().set_registered_model_alias(name, 'champion', version)."
    yield from champion_results(f"models:/{model.name}/{champion}" if champion else "")
    tagged = [(run, dict.fromkeys(TAGS, "") | run.data.tags) for run in records]  # a missing tag is an empty text
    judged = {tags["to"]: tags["outcome"] for _, tags in tagged if tags["outcome"] != "rolled back"}
    wanted = {"promoted": ["approved"], "refused": ["rejected"]}  # by the newest record of a version
    untold = numbers(
        each
        for each in versions
        if each.tags.get(STATUS) not in wanted.get(judged.get(str(each.version), ""), ["approved", "rejected"])
    )
    advice = f"{untold}: set the tag {STATUS} to approved or rejected, as the newest record says, or delete what you"
    yield "status", not untold, advice + " don't need."
    silent = numbers(each for each in rejected if not has_reason(each))
    advice = f"{silent}: say why, in" if silent else "let the gate reject a version, and say why, in"
    advice += " several words, in a tag or in the version's description."
    yield "reason for a rejection", bool(rejected) and not silent, advice
    yield from record_results(champion, int(versions[-1].version), tagged)


def record_results(
    champion: str, newest: int, records: list[tuple[Run, dict[str, str]]]
) -> Iterator[tuple[str, bool, str]]:
    """Return the same for the records and their tags, from which a colleague must be able to follow the champion."""
    faults = [f"the record {run.info.run_name} has {fault}" for run, _ in records if (fault := fault_of(run, newest))]
    advice = faults[0] if faults else "no run has the tag registered_model with this name."
    yield "records", bool(records) and not faults, advice
    outcomes = [tags["outcome"] for _, tags in records]
    counts = {outcome: outcomes.count(outcome) for outcome in OUTCOMES}
    enough = counts["promoted"] >= 2 and counts["refused"] >= 1 and counts["rolled back"] >= 1
    others = "".join(f", and another outcome: {each}" for each in sorted({*outcomes} - {*OUTCOMES}))
    yield "outcomes", enough, f"{counts}{others}: promote twice, let the gate refuse a version, and roll back once."
    standing, breaks = "none", list[str]()
    for run, tags in records:
        if (tags["from"] or "none") != standing:
            breaks.append(f"{run.info.run_name} says from {tags['from'] or 'none'}, but the champion was {standing}")
        if tags["outcome"] in ("promoted", "rolled back"):
            standing = tags["to"]
    advice = f"{breaks[0]}. Was the alias moved without a record?" if breaks else "first write complete records."
    yield "order of the records", bool(records) and not breaks and not faults, advice
    bare = [
        run.info.run_name
        for run, tags in records
        if tags["outcome"] == "promoted" and tags["from"] not in ("", "none") and not has_interval(run)
    ]
    advice = f"{bare[0]}: log" if bare else "replace a champion, and log"
    advice += " the ends of the interval of the difference, as …_low and …_high; the low one is smaller."
    yield "interval", counts["promoted"] >= 2 and not bare, advice
    advice = f"the champion is version {champion or '?'}, and the records say {standing or '?'}: record each move."
    yield "champion as recorded", champion == standing, advice


def champion_results(uri: str) -> Iterator[tuple[str, bool, str]]:
    """Return the same for the champion's files, which are downloaded to a temporary folder."""
    if not uri:
        yield "champion without a pickle", False, "there is no champion."
        yield "champion in a new process", False, "there is no champion."
        return
    with tempfile.TemporaryDirectory() as folder:
        model, empty = Path(folder, "model"), Path(folder, "empty")
        model.mkdir()
        empty.mkdir()
        mlflow.artifacts.download_artifacts(uri, dst_path=str(model))
        pickles = [file.name for file in model.rglob("*") if file.is_file() and is_pickle(file)]
        advice = f"{', '.join(pickles)}: log it as code, with a file in skops or its library's format."
        yield "champion without a pickle", not pickles, advice
        command = [sys.executable, "-E", "-c", ELSEWHERE, str(model)]
        done = subprocess.run(command, cwd=empty, capture_output=True)
        lines = done.stderr.decode(errors="replace").splitlines() or [f"exit code {done.returncode}"]
        errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
        yield "champion in a new process", done.returncode == 0, (errors or lines)[-1]


def fault_of(run: Run, newest: int) -> str:
    """Return what is wrong with the tags of a record, or an empty text."""
    tags = run.data.tags
    if missing := [tag for tag in TAGS if tag not in tags]:
        return f"no tag {', '.join(missing)}."
    if not tags["to"].isdigit() or int(tags["to"]) > newest:
        return f"to={tags['to']!r}, and there is no such version."
    if tags["to"] == tags["from"]:
        return f"from and to the same version, {tags['to']}, so nothing changed."
    if len(tags["why"].split()) < 3:
        return f"why={tags['why']!r}: give the reason in three words or more."
    return ""


def has_interval(run: Run) -> bool:
    """Return whether a run has two metrics …_low and …_high that are an interval."""
    metrics = run.data.metrics
    pairs = [(metrics[name], metrics.get(name[:-3] + "high")) for name in metrics if name.endswith("_low")]
    return any(high is not None and low <= high for low, high in pairs)


def has_run(version: ModelVersion) -> bool:
    """Return whether the run that logged a version exists and isn't deleted."""
    try:
        return mlflow.get_run(version.run_id or "").info.lifecycle_stage == "active"
    except mlflow.MlflowException:
        return False


def is_pickle(file: Path) -> bool:
    """Return whether a file is a pickle, by its name or by its first two bytes."""
    start = file.read_bytes()[:2]
    return file.suffix in (".pkl", ".pickle", ".joblib") or (start[:1] == b"\x80" and start[1:] in b"\2\3\4\5")


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
    """Return whether a version has a description or a tag of at least three words."""
    return any(len(text.split()) >= 3 for text in (version.description or "", *version.tags.values()))


def numbers(versions: Iterable[ModelVersion]) -> str:
    """Return versions as a text such as "versions 1, 2", which is empty if there are none."""
    listed = [str(each.version) for each in versions]
    return f"version{'s' if len(listed) > 1 else ''} {', '.join(listed)}" if listed else ""


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
