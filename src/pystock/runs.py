"""What every run of a comparison records in the same way: the code that made it, and its scores."""

import subprocess
from pathlib import Path

import pandas as pd


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


def metrics_of(scores: pd.DataFrame) -> dict[str, float]:
    """A table of scores as a flat dictionary for `mlflow.log_metrics`: `brier_skill_value`, `brier_skill_low` …

    `scores` is a frame as `pystock.evaluation.score_table` returns it. Each cell becomes an entry, named after its row
    and column.
    """
    return {f"{score}_{column}": float(value) for (score, column), value in scores.stack().items()}
