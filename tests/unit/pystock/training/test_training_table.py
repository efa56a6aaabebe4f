"""The table of a data run: read as it was written, and refused with a reason otherwise."""

import re

import mlflow
import numpy as np
import pytest
from training_runs import FAST, QUESTION, data_run, in_a_run

from pystock import training
from pystock.pipeline import PipelineError


def test_a_wrong_table_is_named_with_what_is_wrong(tracked):
    rows = training.table("embedded", **QUESTION)
    for table, reason in (
        (rows.rename(columns={"big_move": "direction"}), "but the last one must be big_move"),
        (rows.iloc[::-1], "has dates that are out of order or repeated"),
        (rows.assign(realised_22=np.nan), "realised_22 that are missing or not float64"),
        (rows.assign(momentum_5="much"), "momentum_5 that are missing or not float64"),
        (rows.assign(big_move=2), "other than the whole numbers 0 and 1"),
    ):
        made = data_run(table)
        with pytest.raises(PipelineError, match=f"of the data run {made} .*{reason}"):
            in_a_run(training.train, **QUESTION, data=made)


def test_a_table_that_was_changed_after_its_run_is_refused(tracked):
    rows = training.table("embedded", **QUESTION)
    digest = mlflow.data.from_pandas(rows.astype({"big_move": float}), targets="big_move").digest
    training.table(data_run(rows, digest=digest), **QUESTION)
    rows.iloc[100, 0] += 1e-12
    with pytest.raises(PipelineError, match=rf"its digest is [0-9a-f]+, not {digest}\)"):
        training.table(data_run(rows, digest=digest), **QUESTION)


def test_a_data_run_without_this_table_is_named(tracked):
    made, model = tracked
    client = mlflow.MlflowClient()
    skipped = client.create_run("0", tags=QUESTION | {"outcome": "skipped", "made_by": made}).info.run_id
    client.set_terminated(skipped)
    result = in_a_run(training.train, **QUESTION, **FAST, data=skipped)  # the table lies where it was made
    assert result.outcome == "skipped" and mlflow.get_run(result.made_by).data.tags["data_run"] == made
    source = client.get_logged_model(model).source_run_id
    cases = {
        "0" * 32: "does not exist in this store, or was deleted",
        source: "is a finished run of train_model and has no table",
        data_run(market="nasdaq"): "has another table (market nasdaq, target big_move, features volatility)",
    }
    with mlflow.start_run(tags={"step": "feature_set_generation"} | QUESTION) as without:
        pass
    cases[without.info.run_id] = "cannot be read"
    unfinished = client.create_run("0", tags={"step": "feature_set_generation"} | QUESTION).info.run_id
    cases[unfinished] = "is a running run of feature_set_generation"
    for run_id, said in cases.items():
        with pytest.raises(PipelineError, match=re.escape(said)):
            in_a_run(training.train, **QUESTION, data=run_id)
    client.delete_run(made)
    with pytest.raises(PipelineError, match=f"The data run {made} does not exist in this store, or was deleted"):
        in_a_run(training.evaluate, model, force=True)
