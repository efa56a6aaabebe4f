"""The records that chapters show of what ran elsewhere: 09 of training in other environments, 10 of two images.

The tests that try these write them, each its own part, and only where what they found is no longer what it says.
"""

import datetime
import hashlib
import json
import os
import platform
import re
import tempfile
from pathlib import Path

import filelock
import mlflow

from course.paths import root

RECORD = root() / "chapters" / "records" / "09_environments.json"
SERVING = root() / "chapters" / "records" / "10_serving.json"
LOCK = root() / "requirements.lock"
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
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", LOCK.read_text(encoding="utf-8"), re.MULTILINE))


def disagreements(record: dict, lock: str) -> list[str]:
    """Each package of the record that the lock has in another version, or not at all."""
    pins = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", lock, re.MULTILINE))
    return [
        f"{package} {recorded} was tried, the lock has {pins.get(package, 'none')}"
        for package, recorded in record["packages"].items()
        if pins.get(package) != recorded
    ]


def outcome(experiment: str) -> tuple[dict[str, float], str]:
    """Of the newest evaluation in an experiment: all metrics, and the SHA-256 of its file of predictions."""
    asked = {"experiment_names": [experiment], "filter_string": "tags.step = 'evaluate_model'"}
    run = mlflow.search_runs(**asked, output_format="list")[0]
    file = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="test_predictions.csv")
    with open(file, "rb") as predictions:
        return run.data.metrics, hashlib.sha256(predictions.read()).hexdigest()


def record(environment: str, *, seconds: float, megabytes: float, outcome: tuple[dict[str, float], str], **found):
    """Renew the part of one environment in chapter 09's record."""
    metrics, digest = outcome
    found |= {"metrics": {name: round(metrics[name], 6) for name in METRICS}, "predictions": f"sha256 {digest}"}
    measured = {"seconds": round(seconds), "megabytes": round(megabytes)}
    renew(RECORD, environment, measured | found, facts=("command", "packages", "metrics"))


def renew(file: Path, part: str, found: dict, *, facts: tuple[str, ...]):
    """Renew a part of a record where one of its `facts` is another.

    Time and size differ on every machine, and so may the last bit of a prediction (NumPy's code differs by processor).
    """
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return
    with filelock.FileLock(Path(SHARED, f"{file.stem}-{os.getuid()}.lock")):  # another worker's part
        before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        if all(before.get(part, {}).get(name) == found[name] for name in facts):
            return
        today = datetime.date.today()
        before[part] = {"date": f"{today.day} {today:%B %Y}", **found}
        file.write_text(json.dumps(dict(sorted(before.items())), indent=2) + "\n", encoding="utf-8")
