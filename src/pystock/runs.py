"""What every run records in the same way: the code that made it, and its scores."""

import hashlib
import subprocess
from pathlib import Path

import pandas as pd

from pystock.errors import first_line, reason
from pystock.model_uri import model_id_of
from pystock.processes import is_over, machine, this_process

# Their old home: other modules still import them from here.
__all__ = ["first_line", "is_over", "machine", "model_id_of", "reason", "this_process"]
__all__ += ["code_digest", "git_commit", "metrics_of"]


def git_commit() -> str:
    """Return the short hash of the commit of this package's checkout, without uncommitted changes, or "unknown"."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):  # there is no git, or it does not answer
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def code_digest(*texts: bytes) -> str:
    """Return 32 hexadecimal digits of the texts of code, whatever line ends git has given them."""
    return hashlib.sha256(b"\0".join(text.replace(b"\r\n", b"\n") for text in texts)).hexdigest()[:32]


def metrics_of(scores: pd.DataFrame) -> dict[str, float]:
    """Return the cells of a `pystock.evaluation.score_table` as metrics: `brier_skill_value`, `brier_skill_low` …."""
    return {f"{score}_{column}": float(value) for (score, column), value in scores.stack().items()}
