"""Measure the inference API against `mlflow models serve` and a minimal endpoint, side by side. Part of `make bench`.

All of them answer the same rows with the same models, one worker each, on the same uvicorn with httptools and uvloop.
The load comes from wrk (Debian's package); an endpoint that does nothing shows its own ceiling.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import mlflow
import numpy as np
import requests
from batch import NAME, classifiers
from summary import summary

from course import store
from course.servers import Server, start_server
from pystock.data import load
from pystock.features import volatility

HERE = Path(__file__).parent
ROUNDS, SECONDS = 5, 3
CONNECTIONS = 8
SCRIPT = """
local file = io.open(%(body)s, "r")
if file then
  wrk.method, wrk.body = "POST", file:read("*a")
  wrk.headers["Content-Type"] = "application/json"
end
local pause = %(pause)f -- ms between two requests of a connection, at random around this; 0: none
if pause > 0 then
  math.randomseed(1)
  function delay() return math.floor(0.5 - math.log(1 - math.random()) * pause) end
end
function done(summary, latency, requests)
  local bad = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write
  io.write(string.format('\\n{"requests": %%d, "us": %%d, "bad": %%d, "p50": %%f, "p99": %%f}\\n', summary.requests,
    summary.duration, bad + summary.errors.timeout, latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
"""


def load_of(url: str, body: Path | None, seconds: float = SECONDS, pause: float = 0) -> dict:
    """Requests a second, and the median and the 99th percentile of the milliseconds that one takes."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT % {"body": json.dumps(str(body or "/none")), "pause": pause})
        script.flush()
        words = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "30s", "-s", script.name, url]
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    if found["bad"] or not found["requests"]:
        sys.exit(f"{url} gave errors under load:\n{done.stdout}")
    return {"a second": found["requests"] / found["us"] * 1e6, "p50": found["p50"], "p99": found["p99"]}


def service(model: str, place: Path, **settings: str) -> Server:
    env = {"PYSTOCK_API_MODEL": f"models:/{NAME}@{model}", "PYSTOCK_API_PORT": "{port}", **settings}
    command = [sys.executable, "projects/pystock-inference-api/main.py"]
    env |= {"PYSTOCK_API_CACHE": str(place / "cache"), "PYSTOCK_API_LOG_LEVEL": "info"}
    return start_server(command, "/ready", env=env, cwd=HERE.parent, grace=15)


def minimal(model: str) -> Server:
    words = [sys.executable, "-m", "uvicorn", "api_minimal:app", "--port", "{port}", "--no-access-log"]
    return start_server(words, env={"BENCH_MODEL": f"models:/{NAME}@{model}"}, cwd=HERE)


def mlflow_serve(model: str) -> Server:
    words = ["models", "serve", "--env-manager", "local", "--host", "127.0.0.1", "--port", "{port}"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # it calls `uvicorn`
    words = [sys.executable, "-m", "mlflow", *words, "--model-uri", f"models:/{NAME}@{model}"]
    return start_server(words, env={"PATH": path})


def bodies(place: Path) -> dict[str, Path]:
    days = volatility(load()).loc["2015":]
    many = days.iloc[np.arange(1000) % len(days)]
    texts = {
        "one": {"rows": days.tail(1).to_dict("records")},
        "thousand": {"rows": many.to_dict("records")},
        "one, mlflow": {"dataframe_split": days.tail(1).to_dict("split", index=False)},
    }
    for name, text in texts.items():
        (place / name).write_text(json.dumps(text))
    return {name: place / name for name in texts}


def measure() -> dict:
    if not shutil.which("wrk"):
        sys.exit("wrk is missing, which makes the load for the inference API: install Debian's package wrk.")
    done = subprocess.run([sys.executable, __file__], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _measure() -> dict:
    figures = {"connections": CONNECTIONS}
    with tempfile.TemporaryDirectory(prefix="course-bench-") as folder:
        place = Path(folder)
        store.ensure(place / "store")
        mlflow.set_tracking_uri(store.uri(place / "store"))
        os.environ["MLFLOW_TRACKING_URI"] = store.uri(place / "store")
        os.environ[store.ARTIFACT_ROOT_VARIABLE] = store.artifact_root(place / "store")
        fitted, texts = classifiers(), bodies(place)
        for model, classifier in fitted.items():
            figures[model] = side_by_side(model, classifier, texts, place)
        figures["workers"] = workers("xgboost", texts, place)
        figures["seconds from start to the first answer"] = starts("xgboost", texts, place)
    return figures


def side_by_side(model: str, classifier, texts: dict[str, Path], place: Path) -> dict:
    one, thousand = [], []
    with ExitStack() as servers:
        ours, least = servers.enter_context(service(model, place)), servers.enter_context(minimal(model))
        theirs = servers.enter_context(mlflow_serve(model))
        targets = {
            "service": (f"{ours.url}/predict", texts["one"]),
            "minimal": (f"{least.url}/predict", texts["one"]),
            "mlflow": (f"{theirs.url}/invocations", texts["one, mlflow"]),
            "nothing": (f"{least.url}/health", None),
        }
        for url, body in targets.values():
            load_of(url, body, 1)
        one += [{name: load_of(*target) for name, target in targets.items()} for _ in range(ROUNDS)]
        full = np.median([each["service"]["a second"] for each in one])
        half = [load_of(*targets["service"], pause=2000 * CONNECTIONS / full) for _ in range(ROUNDS)]
        for _ in range(ROUNDS):
            found = {name: load_of(targets[name][0], texts["thousand"]) for name in ("service", "minimal")}
            thousand.append({name: each["a second"] * 1000 for name, each in found.items()})
            thousand[-1]["bare"] = bare(classifier, texts["thousand"])
    rate = {name: [each[name]["a second"] for each in one] for name in targets}
    rows = {name: [each[name] for each in thousand] for name in thousand[0]}
    return {
        "one row: requests a second": {name: summary(values, 0) for name, values in rate.items()},
        "one row: service over mlflow": ratio(rate["service"], rate["mlflow"]),
        "one row: service over minimal": ratio(rate["service"], rate["minimal"]),
        "one row: p99 over median, full load": summary(
            [each["service"]["p99"] / each["service"]["p50"] for each in one]
        ),
        "half load: requests a second": summary([each["a second"] for each in half], 0),
        "half load: median in ms": summary([each["p50"] for each in half]),
        "half load: p99 over median": summary([each["p99"] / each["p50"] for each in half]),
        "1,000 rows: rows a second": {name: summary(values, 0) for name, values in rows.items()},
        "1,000 rows: service over minimal": ratio(rows["service"], rows["minimal"]),
        "1,000 rows: service over parse and predict without HTTP": ratio(rows["service"], rows["bare"]),
    }


def ratio(ours: list[float], theirs: list[float]) -> dict:
    return summary([own / other for own, other in zip(ours, theirs)])


def bare(classifier, body: Path) -> float:
    """Rows a second of a loop that parses the body and predicts."""
    text, count, begun = body.read_bytes(), 0, time.perf_counter()
    while time.perf_counter() < begun + 1:
        numbers = np.array([list(row.values()) for row in json.loads(text)["rows"]])
        classifier.predict_proba(numbers)[:, 1].tolist()
        count += len(numbers)
    return count / (time.perf_counter() - begun)


def workers(model: str, texts: dict[str, Path], place: Path) -> dict:
    found = {"1": [], "2": []}
    with service(model, place) as single, service(model, place, PYSTOCK_API_WORKERS="2") as double:
        for _ in range(ROUNDS):
            for name, server in (("1", single), ("2", double)):
                found[name].append(load_of(f"{server.url}/predict", texts["one"])["a second"])
    return {
        "one row: requests a second": {name: summary(values, 0) for name, values in found.items()},
        "two over one": ratio(found["2"], found["1"]),
    }


def starts(model: str, texts: dict[str, Path], place: Path) -> dict:
    seconds = {"service": [], "mlflow": []}
    for _ in range(3):
        for name, start, path, body in (
            ("service", lambda: service(model, place), "predict", "one"),
            ("mlflow", lambda: mlflow_serve(model), "invocations", "one, mlflow"),
        ):
            begun = time.perf_counter()
            with start() as server:
                headers = {"Content-Type": "application/json"}
                answer = requests.post(f"{server.url}/{path}", texts[body].read_bytes(), headers=headers, timeout=30)
                seconds[name].append(time.perf_counter() - begun)
                answer.raise_for_status()
    return {name: summary(values, 1) for name, values in seconds.items()}


if __name__ == "__main__":
    print(json.dumps(_measure()))
