"""A class of 30 at once on one workbench, for a test and `make bench`: `python load_of_30.py` is one of the 30."""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import mlflow
import psutil
from sklearn.linear_model import LogisticRegression

from course.environment import QUIET_MLFLOW

LEARNERS, STEPS, PARAMETERS = 30, 100, 10


def client() -> None:
    """One learner: says when it is ready, waits for a line, logs a run, and prints what was acknowledged."""
    experiment, name = sys.argv[1:]
    model = LogisticRegression().fit([[0, 1], [1, 0], [2, 1], [3, 0]], [0, 1, 0, 1])
    client, calls, said = mlflow.MlflowClient(), [], {"failed": []}
    mlflow.set_experiment(experiment)
    print("ready", flush=True)
    sys.stdin.readline()
    begun = time.time()
    try:
        with mlflow.start_run(run_name=name) as run:
            said["run"] = run.info.run_id
            for number in range(PARAMETERS):
                client.log_param(run.info.run_id, f"parameter {number}", number)
            for step in range(STEPS):
                start = time.perf_counter()
                client.log_metric(run.info.run_id, "loss", 1 / (step + 1), step=step)
                calls.append(time.perf_counter() - start)
            said["model"] = mlflow.sklearn.log_model(model, name="model", pip_requirements=["scikit-learn"]).model_id
        said["ended"] = True
    except Exception as error:
        said["failed"].append(f"{type(error).__name__}: {str(error)[:300]}")
    print(json.dumps(said | {"calls": calls, "begun": begun, "over": time.time()}))


def measure(bench) -> dict:
    """Let all log at the same moment; count what they were told was stored against what is there."""
    environment = {**os.environ, **QUIET_MLFLOW, "MLFLOW_TRACKING_URI": bench.url}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    server = mlflow.MlflowClient(bench.url)
    name = f"class-{time.monotonic_ns()}"
    experiment = server.create_experiment(name)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    started = []
    for number in range(LEARNERS):
        command = [sys.executable, __file__, name, f"learner-{number:02}"]
        started.append(subprocess.Popen(command, env=environment, **pipes))
        if number % 3 == 2:  # their imports, three at a time
            for process in started[-3:]:
                process.stdout.readline()
    memory, done = [], threading.Event()

    def look() -> None:
        while not done.wait(1):
            memory.append(memory_of(bench.folder))

    watch = threading.Thread(target=look)
    watch.start()
    try:
        for process in started:
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [json.loads(process.communicate(timeout=900)[0].splitlines()[-1]) for process in started]
    finally:
        done.set()
        watch.join()
        for process in started:
            process.kill()
    seconds = max(one["over"] for one in said) - min(one["begun"] for one in said)
    calls = sorted(call for one in said for call in one["calls"])
    runs = server.search_runs([experiment], max_results=1000)
    complete = [run for run in runs if _is_complete(server, run)]
    return {
        "seconds": round(seconds, 1),
        "runs a minute": round(60 * len(complete) / seconds, 1),
        "log_metric p50, ms": round(1000 * calls[len(calls) // 2], 1),
        "log_metric p95, ms": round(1000 * calls[int(len(calls) * 0.95)], 1),
        "log_metric longest, ms": round(1000 * calls[-1], 1),
        "failed requests": [failure for one in said for failure in one["failed"]],
        "metrics acknowledged": len(calls),
        "metrics found": sum(len(server.get_metric_history(run.info.run_id, "loss")) for run in runs),
        "runs acknowledged": sum("ended" in one for one in said),
        "runs found complete": len(complete),
        "memory of MLflow's server at most, MiB": round(max(one["mlflow"] for one in memory)),
        "memory of PostgreSQL at most, MiB": round(max(one["postgres"] for one in memory)),
    }


def _is_complete(server, run) -> bool:
    """Finished, with each parameter, each step, and a model whose files are there."""
    steps = [metric.step for metric in server.get_metric_history(run.info.run_id, "loss")]
    models = [output.model_id for output in run.outputs.model_outputs]
    files = [file.path for model in models for file in server.list_logged_model_artifacts(model)]
    whole = sorted(steps) == list(range(STEPS)) and len(run.data.params) == PARAMETERS
    return run.info.status == "FINISHED" and whole and "MLmodel" in files


def memory_of(folder: Path) -> dict[str, float]:
    """The memory of the parts of a running workbench in MiB, each shared page counted once (PSS)."""
    parts = {"mlflow": 0.0, "postgres": 0.0}
    supervisor = psutil.Process(int((folder / "logs" / "supervisord.pid").read_text()))
    for child in supervisor.children():
        part = "postgres" if "postgres" in child.name() else "mlflow"
        for process in [child, *child.children(recursive=True)]:
            with suppress(psutil.Error):
                parts[part] += process.memory_full_info().pss / 2**20
    return parts


if __name__ == "__main__":
    client()
