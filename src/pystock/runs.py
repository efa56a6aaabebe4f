"""What every run records in the same way: the code that made it, its data set, and its scores."""

import hashlib
import subprocess
from pathlib import Path

import pandas as pd
from mlflow.data.pandas_dataset import PandasDataset, from_pandas
from mlflow.data.sources import LocalArtifactDatasetSource  # type: ignore[attr-defined]  # MLflow makes it at run time


def git_commit() -> str:
    """Return the short hash of the commit of this package's checkout, without uncommitted changes, or "unknown"."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):  # there is no git, or it does not respond
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def code_digest(*texts: bytes) -> str:
    """Return 32 hexadecimal digits of the texts of code, whatever line ends git has given them."""
    return hashlib.sha256(b"\0".join(text.replace(b"\r\n", b"\n") for text in texts)).hexdigest()[:32]


def data_set(rows: pd.DataFrame, place: str, market: str, target: str, features: str) -> PandasDataset:
    """Return MLflow's description of a table, as in chapter 06, so that the same rows have one name and digest."""
    described = rows.astype({target: "float64"})
    return from_pandas(described, LocalArtifactDatasetSource(place), target, f"{market}-{target}-{features}")


def metrics_of(scores: pd.DataFrame) -> dict[str, float]:
    """Return the cells of a `pystock.evaluation.score_table` as metrics: `brier_skill_value`, `brier_skill_low` …."""
    return {f"{score}_{column}": float(value) for (score, column), value in scores.stack().items()}
