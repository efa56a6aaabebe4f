"""The table that a model is trained on: found in the store by its data run, read, and checked."""

import tempfile

import mlflow
import numpy as np
import pandas as pd
from mlflow.data.pandas_dataset import PandasDataset
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from pystock import runs
from pystock.data import load
from pystock.errors import first_line
from pystock.evaluation import TEST_END
from pystock.features import dataset
from pystock.pipeline import PipelineError, existing_run, finished_runs

DATA_PIPELINE = "pystock-data-features"
REMAKE = "rebuild it with the data pipeline and force=yes"


def newest_data_run(market: str, target: str, features: str) -> str | None:
    """Return the id of the newest finished run, anywhere in the store, that made this table; None if there is none."""
    tags = {"pipeline": DATA_PIPELINE, "step": "feature_set_generation", "outcome": "done"}
    tags |= {"market": market, "target": target, "features": features}
    return next((run.info.run_id for run in finished_runs(tags)), None)


def table(data_run: str, market: str, target: str, features: str) -> pd.DataFrame:
    """Return the table that a run of feature_set_generation logged, or for `embedded` the same made from the prices.

    Index: Date, in time order. Columns: the features (float64), and last the target (int64, 0 or 1). Raises
    PipelineError if the run does not exist, was deleted or made another table, and if the table is invalid.
    """
    if data_run == "embedded":
        X, y = dataset(load(market, end=TEST_END), target, features)
        return X.assign(**{target: y})
    run = find_data_run(data_run, market, target, features)
    path = f"training/{market}.parquet"
    name = f"The table {path} of the data run {run.info.run_id}"
    with tempfile.TemporaryDirectory() as folder:
        try:
            local = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=path, dst_path=folder)
            rows = pd.read_parquet(local)
        except (MlflowException, OSError, ValueError) as error:
            raise PipelineError(f"{name} cannot be read ({first_line(error)}): {REMAKE}.") from None
    _check(rows, target, name)
    noted, digest = run.data.tags.get("digest"), data_set(rows, data_run, market, target, features).digest
    if noted not in (None, digest):
        raise PipelineError(f"{name} was changed after it was written (its digest is {digest}, not {noted}): {REMAKE}.")
    return rows


def find_data_run(run_id: str, market: str, target: str, features: str) -> Run:
    """Return the run that made the table, also for the id of a later one that was skipped. Raises as `table`."""
    fix = "give the id of a finished run of feature_set_generation, `newest` or `embedded`"
    run = existing_run(run_id)
    if run is None:
        raise PipelineError(f"The data run {run_id} does not exist in this store, or was deleted: {fix}.")
    tags = run.data.tags
    if tags.get("outcome") == "skipped" and "made_by" in tags:  # the table is where it was made
        return find_data_run(tags["made_by"], market, target, features)
    if tags.get("step") != "feature_set_generation" or run.info.status != "FINISHED":
        what = f"{run.info.status.lower()} run of {tags.get('step', 'no pipeline step')}"
        raise PipelineError(f"The run {run_id} is a {what} and has no table: {fix}.")
    made = [tags.get(name) for name in ("market", "target", "features")]
    if made != [market, target, features]:
        has = "market {}, target {}, features {}".format(*made)
        raise PipelineError(f"The data run {run_id} has another table ({has}): {fix}.")
    return run


def _check(rows: pd.DataFrame, target: str, name: str) -> None:
    if len(rows.columns) < 2 or rows.columns[-1] != target:
        columns = ", ".join(map(str, rows.columns))
        raise PipelineError(f"{name} has the columns {columns}, but the last one must be {target}: {REMAKE}.")
    index = rows.index
    if not isinstance(index, pd.DatetimeIndex) or not (index.is_monotonic_increasing and index.is_unique):
        raise PipelineError(f"{name} has dates that are out of order or repeated: {REMAKE}.")
    for column in rows.columns[:-1]:
        if rows[column].dtype != "float64" or not np.isfinite(rows[column]).all():
            raise PipelineError(f"{name} has values in {column} that are missing or not float64: {REMAKE}.")
    if rows[target].dtype != "int64" or not rows[target].isin((0, 1)).all():
        raise PipelineError(f"{name} has outcomes in {target} other than the whole numbers 0 and 1: {REMAKE}.")


def data_set(rows: pd.DataFrame, data_run: str, market: str, target: str, features: str) -> PandasDataset:
    """Return MLflow's description of rows that come from the table of a data run."""
    place = f"data/{market}.csv" if data_run == "embedded" else f"runs:/{data_run}/training/{market}.parquet"
    return runs.data_set(rows, place, market, target, features)
