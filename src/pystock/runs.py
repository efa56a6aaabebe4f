"""What every run records in the same way: the code and the process that made it, and its scores."""

import hashlib
import platform
import subprocess
from pathlib import Path

import pandas as pd
import psutil


def git_commit() -> str:
    """The short hash of the commit that the checkout of this package stands on; "unknown" where git knows none.

    Changes that were not committed are not part of it.
    """
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):  # there is no git, or it does not answer
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def code_digest(*texts: bytes) -> str:
    """32 hexadecimal digits from the texts of code; line ends as git may have changed them do not count."""
    return hashlib.sha256(b"\0".join(text.replace(b"\r\n", b"\n") for text in texts)).hexdigest()[:32]


def metrics_of(scores: pd.DataFrame) -> dict[str, float]:
    """A table of scores as a flat dictionary for `mlflow.log_metrics`: `brier_skill_value`, `brier_skill_low` …

    `scores` is a frame as `pystock.evaluation.score_table` returns it. Each cell becomes an entry, named after its row
    and column.
    """
    return {f"{score}_{column}": float(value) for (score, column), value in scores.stack().items()}


def this_process() -> str:
    """This process, in a form by which `is_over` knows later whether it lives: machine, process id, time of its start.

    The machine is its name and when it was started: two of one name (`localhost`) hardly start in the same second.
    """
    process = psutil.Process()
    return f"{machine()}|{process.pid}|{process.create_time():.0f}"


def machine() -> str:
    return f"{platform.node()} {psutil.boot_time():.0f}"


def is_over(process: str) -> bool:
    """Whether the process that `this_process` described has ended. Of another machine's nobody knows: False."""
    its_machine, pid, created = process.split("|")
    if its_machine != machine():
        return False
    try:
        found = psutil.Process(int(pid))
        return found.status() == psutil.STATUS_ZOMBIE or abs(found.create_time() - float(created)) > 2
    except psutil.NoSuchProcess:
        return True


def first_line(error: object, most: int = 200) -> str:
    """The first line of an error's text, at most so many characters; of one without text, its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]


def reason(error: Exception) -> str:
    """Why the system or a library refused, as a part of a sentence."""
    return getattr(error, "strerror", None) or first_line(error)


def model_id_of(version) -> str:
    """The id of the logged model that a registered version is; "" where it is none.

    `mlflow.register_model` leaves `model_id` empty, and names the model as the source.
    """
    source = version.source or ""
    return version.model_id or (source.removeprefix("models:/") if source.startswith("models:/m-") else "")
