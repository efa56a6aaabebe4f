"""What ran in a fresh environment or container, held to the record in a chapter, or with `course record` written."""

import datetime
import hashlib
import json
import os
import platform
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

import mlflow
import pytest

from course.paths import root

RECORDS = root() / "chapters" / "records"
NEW_RECORDS = os.environ.get("COURSE_RECORDS")  # the folder of `course record`; conftest.py unsets the variable later
COMPARES = os.environ.get("COURSE_COMPARE_OUTPUTS") != "no"
compares = pytest.mark.skipif(not COMPARES, reason="another lock than the one committed")
SHARED = tempfile.gettempdir()  # as it is before the tests begin: conftest.py gives each worker one of its own
# All train anew from the same rows, whatever the store holds, so that each finds its own numbers.
OPTIONS = ("-P", "data=embedded", "-P", "force=yes")
IMPORTANT = ("mlflow", "numpy", "pandas", "scikit-learn", "xgboost-cpu")  # what a prediction and its scores depend on
METRICS = ("brier_skill_value", "average_precision", "log_loss", "mcc")

# Run with an environment's own Python: its packages, by the name that the lock has.
INSTALLED = """
import importlib.metadata, json, re
found = {re.sub("[-_.]+", "-", one.name).lower(): one.version for one in importlib.metadata.distributions()}
print(json.dumps(found))
"""


def locked() -> dict[str, str]:
    lock = (root() / "requirements.lock").read_text(encoding="utf-8")
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", lock, re.MULTILINE))


def outcome(experiment: str) -> tuple[dict[str, float], str]:
    """Of the newest evaluation in an experiment: all metrics, and the SHA-256 of its file of predictions."""
    asked = {"experiment_names": [experiment], "filter_string": "tags.step = 'evaluate_model'"}
    run = mlflow.search_runs(**asked, output_format="list")[0]
    file = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="test_predictions.csv")
    return run.data.metrics, hashlib.sha256(Path(file).read_bytes()).hexdigest()


def check_training(environment: str, *, seconds: float, megabytes: float, outcome: tuple, **found: object) -> None:
    """Hold a training in one environment to chapter 14's record."""
    metrics, digest = outcome
    scores = {name: round(metrics[name], 4) for name in METRICS}
    found = {"seconds": round(seconds), "megabytes": round(megabytes), **found, "metrics": scores}
    found["predictions"] = f"sha256 {digest}"  # to compare environments on one machine, and no fact
    check("14_environments", found, ("command", "packages", "metrics"), part=environment)


def check(name: str, found: dict, facts: Iterable[str], part: str | None = None) -> None:
    """Hold the `facts` of what a test found to a committed record, or to its part; under `course record`, write it.

    Time and size differ on every machine, and so may the last bit of a prediction (NumPy's code differs by processor).
    """
    if NEW_RECORDS:
        file = Path(NEW_RECORDS, f"{name}.json")
        today = datetime.date.today()
        record = {"date": f"{today.day} {today:%B %Y}", **found}
        if part:
            others = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
            record = dict(sorted((others | {part: record}).items()))
        file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    elif COMPARES and (platform.system(), platform.machine()) == ("Linux", "x86_64"):
        record = json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))
        record = record.get(part, {}) if part else record
        for fact in facts:
            assert record.get(fact) == found[fact], f"{fact} is another in {name}.json: run `course record {name}`"
