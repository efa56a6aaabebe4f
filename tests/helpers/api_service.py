"""The inference API in processes of its own, which `course.servers` ends, and a store with versions of a model."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import mlflow
import psutil
import requests
from fake_course import until
from training_runs import use

from course import store
from course.servers import Server, start_server
from pystock import models, tuning
from pystock.data import load
from pystock.features import volatility

NAME = "pystock-big-move"
MAIN = Path(__file__).resolve().parents[2] / "projects" / "pystock-inference-api" / "main.py"
POLL = 0.3  # seconds
WRONG = '''
import mlflow


class Wrong(mlflow.pyfunc.PythonModel):
    """Has the signature of the champion, and answers 2 for a probability."""

    def probability(self, numbers):
        return numbers[:, 0] * 0 + 2

    def predict(self, context, model_input, params=None):
        return model_input[["abs_return"]].set_axis(["probability"], axis=1).assign(probability=2.0, decision=1)


mlflow.models.set_model(Wrong())
'''


def registered_versions(folder: Path, empty_store: Path) -> Iterator[SimpleNamespace]:
    """Use a store with the versions `forest`, the champion, `line`, `stump` and `wrong`; `alias` moves the alias."""
    store.copy(empty_store, folder)
    use(folder)
    X, y = tuning.training_data("sp500", "big_move", "volatility")
    mlflow.set_experiment("models")
    stump, made = tuning.build("xgboost", max_depth=1), {}
    for name, model in {"forest": tuning.build("xgboost"), "line": tuning.build("logistic"), "stump": stump}.items():
        with mlflow.start_run():
            made[name] = models.log_decision_model(model.fit(X, y), X, threshold=0.25)
            mlflow.log_metric("brier", 0.15)
    (folder / "wrong.py").write_text(WRONG, encoding="utf-8")
    wrong = {"name": "decision", "python_model": str(folder / "wrong.py"), "pip_requirements": ["mlflow"]}
    with mlflow.start_run():
        signature = models.decision_signature(X, 0.25)
        made["wrong"] = mlflow.pyfunc.log_model(**wrong, signature=signature, input_example=X.head(2))
    client = mlflow.MlflowClient()
    client.create_registered_model(NAME)
    versions = SimpleNamespace(uri=store.uri(folder), folder=folder)
    for name, info in made.items():
        version = client.create_model_version(NAME, info.model_uri, run_id=info.run_id, model_id=info.model_id)
        setattr(versions, name, int(version.version))
    versions.alias = lambda version: client.set_registered_model_alias(NAME, "champion", str(version))
    versions.alias(versions.forest)
    yield versions


class Service:
    """The inference API in processes of its own, started by its main.py, with these settings without their prefix."""

    def __init__(self, uri: str, cache: Path, **settings):
        settings = {"cache": cache, "poll_seconds": POLL} | settings
        self.env = {f"PYSTOCK_API_{name.upper()}": str(value) for name, value in settings.items()}
        self.env |= {"MLFLOW_TRACKING_URI": uri, "PYSTOCK_API_PORT": "{port}"}
        self.server: Server | None = None

    def start(self, health: str = "/ready") -> "Service":
        self.server = start_server([sys.executable, str(MAIN)], health, env=self.env, grace=15)
        self.url = self.server.url
        return self

    def __enter__(self):
        return self if self.server else self.start()

    def __exit__(self, *_):
        self.stop()

    def stop(self) -> None:
        self.server.stop()
        self.server = None

    def predict(self, body: dict, **headers: str) -> requests.Response:
        return requests.post(f"{self.url}/predict", json=body, headers=headers, timeout=60)

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=30)

    def ready(self) -> dict:
        return self.get("/ready").json()

    def version(self) -> int | None:
        model = self.ready()["model"]
        return model and model["version"]

    def metric(self, name: str) -> float:
        lines = [line for line in self.get("/metrics").text.splitlines() if line.startswith(name)]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def events(self, message: str) -> list[dict]:
        """The lines of the log with that message."""
        lines = self.server.log.read_text(encoding="utf-8").splitlines()
        return [found for found in map(json.loads, lines) if found["message"] == message]

    def until_version(self, version: int) -> None:
        until(lambda: self.version() == version, 20)


def process_of(service: Service) -> psutil.Process:
    """The process of main.py, which its guard started."""
    (child,) = psutil.Process(service.server._guard.pid).children()
    return child


def days():
    """Features of the years from 2015, as the batch job gets them."""
    return volatility(load()).loc["2015":]


def as_rows(table) -> list[dict]:
    return table.to_dict("records")
