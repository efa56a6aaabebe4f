"""Measure batch inference against a bare loop, side by side, and its memory. Part of `make bench`.

The bare loop reads, predicts and writes in the same chunks, with the same readers and writers, and nothing else: the
classifier itself gets an array, no row is checked, and a kill loses everything. Its output has the same columns.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from sklearn.linear_model import LogisticRegression
from summary import summary
from xgboost import XGBClassifier

from course import store
from pystock import batch, models
from pystock.data import load
from pystock.features import dataset, volatility

ROWS, ROUNDS = 1_000_000, 5
NAME = "pystock-bench"
LINE = 270  # bytes of a line of the CSV file, about
MEMORY = """
import resource, sys
import mlflow
from pystock import batch
with mlflow.start_run():
    batch.score(sys.argv[1], sys.argv[2], model="models:/pystock-bench@xgboost", progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def classifiers() -> dict:
    """As the training pipeline fits them."""
    X, y = dataset(load(end="2009-12-31"), "big_move", "volatility")
    settings = {"learning_rate": 0.07, "max_depth": 1, "min_child_weight": 5, "n_estimators": 100, "subsample": 0.6}
    fitted = {
        "xgboost": XGBClassifier(**settings, random_state=0).fit(X.to_numpy(), y),
        "logistic": LogisticRegression(C=0.1, max_iter=1000).fit(X.to_numpy(), y),
    }
    for name, classifier in fitted.items():
        with mlflow.start_run():
            made = models.log_decision_model(classifier, X, threshold=0.25)
            version = mlflow.register_model(made.model_uri, NAME).version
        mlflow.MlflowClient().set_registered_model_alias(NAME, name, version)
    return fitted


def table(rows: int) -> pd.DataFrame:
    """The production days over and over, each number a little different: as many digits as real ones have."""
    days = volatility(load()).loc["2015":]
    draw = np.random.default_rng(0)
    values = days.to_numpy()[np.arange(rows) % len(days)] * draw.uniform(0.9, 1.1, (rows, len(days.columns)))
    dates = days.index.strftime("%Y-%m-%d").to_numpy()[np.arange(rows) % len(days)]
    return pd.DataFrame(values, columns=days.columns).assign(Date=dates)


def bare(classifier, source: Path, output: Path) -> None:
    constant = [NAME, 1, "2018-12-31T21:00:00+00:00", "0" * 64]
    with output.open("wb") as file:
        writer = None
        for rows in csv_chunks(source) if source.suffix == ".csv" else parquet_chunks(source):
            X = np.column_stack([rows[name].to_numpy() for name in rows.column_names if name != "Date"])
            probability = classifier.predict_proba(X)[:, 1].astype("float64")
            decision = (probability > 0.25).astype("int64")
            columns = [rows["Date"], probability, decision, *(pa.repeat(value, len(rows)) for value in constant)]
            done = pa.table(columns, names=["Date", *batch.WRITTEN])
            if output.suffix == ".parquet":
                writer = writer or pa.parquet.ParquetWriter(file, done.schema)
                writer.write_table(done)
            else:
                options = pa.csv.WriteOptions(
                    include_header=not file.tell(), quoting_style="none", batch_size=len(done)
                )
                pa.csv.write_csv(done, file, options)
        if writer:
            writer.close()


def csv_chunks(source: Path):
    with source.open("rb") as file:
        header = file.readline().decode().strip().split(",")
        types = {name: pa.string() if name == "Date" else pa.float64() for name in header}
        options = pa.csv.ReadOptions(column_names=header), pa.csv.ConvertOptions(column_types=types)
        while block := file.read(batch.CHUNK_ROWS * LINE):
            block += file.readline()
            yield pa.csv.read_csv(pa.py_buffer(block), options[0], convert_options=options[1])


def parquet_chunks(source: Path):
    with pa.parquet.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False) as file:
        for rows in file.iter_batches(batch_size=batch.CHUNK_ROWS):
            yield pa.Table.from_batches([rows])


def measure() -> dict:
    """Rows a second of both, their ratio round by round, and the peak of memory at 1 and at 10 million rows.

    In a process of its own: threads of OpenMP that wait by spinning would be counted as the other's work, and how they
    wait is settled when XGBoost is loaded.
    """
    env = os.environ | {"OMP_WAIT_POLICY": "passive"}
    done = subprocess.run([sys.executable, __file__], env=env, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _measure() -> dict:
    figures = {}
    with tempfile.TemporaryDirectory(prefix="course-bench-") as folder:
        place = Path(folder)
        store.ensure(place / "store")
        mlflow.set_tracking_uri(store.uri(place / "store"))
        os.environ[store.ARTIFACT_ROOT_VARIABLE] = store.artifact_root(place / "store")
        fitted = classifiers()
        rows = pa.Table.from_pandas(table(ROWS), preserve_index=False)
        pa.csv.write_csv(rows, place / "in.csv", pa.csv.WriteOptions(quoting_style="none", quoting_header="none"))
        pa.parquet.write_table(rows, place / "in.parquet", row_group_size=100_000)
        for form in ("csv", "parquet"):
            for name, classifier in fitted.items():
                figures[f"{form}, {name}"] = side_by_side(classifier, name, place / f"in.{form}", place / f"out.{form}")
        for form in ("csv", "parquet"):
            figures[f"peak memory, {form}"] = memory(rows, place, form)
    mlflow.set_tracking_uri(None)
    del os.environ[store.ARTIFACT_ROOT_VARIABLE]
    return figures


def side_by_side(classifier, name: str, source: Path, output: Path) -> dict:
    ours, theirs, whole = [], [], []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        bare(classifier, source, output.with_stem("bare"))
        theirs.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        with mlflow.start_run():
            done = batch.score(source, output, model=f"models:/{NAME}@{name}", force=True, progress=False)
        whole.append(time.perf_counter() - begun)
        ours.append(done.seconds)
    return {
        "rows a second": round(ROWS / statistics.median(ours)),
        "rows a second, bare": round(ROWS / statistics.median(theirs)),
        "ratio": summary([bare / own for own, bare in zip(ours, theirs)]),
        "seconds for loading the model and logging": round(statistics.median(np.subtract(whole, ours)), 2),
    }


def memory(rows: pa.Table, place: Path, form: str) -> dict:
    """MiB at their peak of a fresh process each."""
    peaks = {}
    for times in (1, 10):
        source = place / f"{times}.{form}"
        if form == "csv":
            with (place / "in.csv").open("rb") as once, source.open("wb") as file:
                header = once.readline()
                file.write(header)
                for _ in range(times):
                    once.seek(len(header))
                    shutil.copyfileobj(once, file)
        else:
            with pa.parquet.ParquetWriter(source, rows.schema) as writer:
                for _ in range(times):
                    writer.write_table(rows, row_group_size=100_000)
        env = os.environ | {"MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()}
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, source, place / f"out-{times}.{form}"],
            env=env,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        peaks[times] = int(done.stdout.split()[-1]) / (1 << 20 if sys.platform == "darwin" else 1 << 10)
        source.unlink()
    return {"1 million rows": round(peaks[1]), "10 million": round(peaks[10]), "ratio": round(peaks[10] / peaks[1], 2)}


if __name__ == "__main__":
    print(json.dumps(_measure()))
