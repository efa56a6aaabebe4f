"""What is logged to a workbench, how it is read after a restore, and a backup with something else inside."""

import io
import tarfile
from pathlib import Path

LOG = """
import mlflow, numpy
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from sklearn.linear_model import LogisticRegression
mlflow.set_experiment("kept")
with mlflow.start_run(run_name="größer"):
    mlflow.log_params({"a": 1, "b": "ü\\n\\\\.\\nCOPY public.runs"})
    for step in range(20):
        mlflow.log_metric("loss", 1 / (step + 3), step=step)
    mlflow.log_text("kept", "notes/ü " + "long" * 40 + ".txt")
    x = numpy.arange(20.0).reshape(-1, 1)
    mlflow.sklearn.log_model(
        LogisticRegression().fit(x, x[:, 0] > 9), name="model", pip_requirements=[], registered_model_name="above",
        signature=ModelSignature(Schema([ColSpec("double", "x")]), Schema([ColSpec("boolean")])),
    )
mlflow.MlflowClient().set_registered_model_alias("above", "champion", 1)
"""
ACCOUNTS = """
from mlflow.server import get_app_client
client = get_app_client("basic-auth", mlflow.get_tracking_uri())
client.create_user("ada", "a password of ada")
role = client.create_role("default", "readers")
client.add_role_permission(role.id, "workspace", "*", "USE")
client.add_role_permission(role.id, "experiment", "*", "READ")
client.assign_role("ada", role.id)
"""
LOGGED = """
import json, mlflow, os, pandas
(run,) = mlflow.search_runs(experiment_names=["kept"], output_format="list")
client = mlflow.MlflowClient()
model = mlflow.pyfunc.load_model("models:/above@champion")
(notes,) = client.list_artifacts(run.info.run_id, "notes")
predicted = model.predict(pandas.DataFrame({"x": [1.0, 8.9, 9.6, 30.0]})).tolist()
assert predicted == [False, False, True, True] and len(run.data.params) == 2, (predicted, run.data.params)
print(json.dumps([
    run.to_dictionary(), [m.to_dictionary() for m in client.get_metric_history(run.info.run_id, "loss")], predicted,
    mlflow.artifacts.load_text(run.info.artifact_uri + "/" + notes.path),
], default=str))
"""
AS_ADA = """
os.environ.update(MLFLOW_TRACKING_USERNAME="ada", MLFLOW_TRACKING_PASSWORD="a password of ada")
assert mlflow.get_run(run.info.run_id).data.params == run.data.params
"""
WORK, READ = LOG + ACCOUNTS, LOGGED + AS_ADA


def changed(backup: Path, target: Path, old: str, new: str) -> Path:
    """Write another backup, whole as the first, in whose text files `old` is `new`."""
    with tarfile.open(backup) as source, tarfile.open(target, "w:gz") as made:
        for entry in source:
            content = source.extractfile(entry).read() if entry.isfile() else b""
            if entry.name.endswith((".json", ".sql")):
                content = content.replace(old.encode(), new.encode())
            entry.size = len(content)
            made.addfile(entry, io.BytesIO(content))
    return target
