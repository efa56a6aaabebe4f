"""What the processes of test_pystock_pipeline.py and test_training_pipeline.py do: race for work, hold it, or die."""

import multiprocessing
import os
import time

import mlflow
from crashing import die_before
from promotions import passes

from course import store
from pystock import pipeline, training
from pystock.registry import promotion

# Every call of the client by which a registration and its promotion write.
WRITES = ["create_experiment", "create_model_version", "create_registered_model", "create_run"]
WRITES += ["delete_registered_model_alias", "log_batch", "log_param", "set_model_version_tag", "set_tag"]
WRITES += ["set_registered_model_alias", "set_registered_model_tag", "set_terminated", "update_model_version"]


def forkserver(*modules):
    """Processes that begin with everything imported, which takes longer than their work."""
    context = multiprocessing.get_context("forkserver")
    always = ["pipeline_processes", "mlflow.store.tracking.sqlalchemy_store", "alembic.script"]
    context.set_forkserver_preload([*always, *modules])
    return context


def race(processes, number, target, *arguments):
    """What so many processes put into their queue; they do `target`, and wait for each other at a barrier."""
    barrier, results = processes.Barrier(number), processes.SimpleQueue()
    started = [processes.Process(target=target, args=(*arguments, barrier, results)) for _ in range(number)]
    for each in started:
        each.start()
    outcomes = [results.get() for _ in started]
    for each in started:
        each.join()
    return outcomes


def found(filter_string=""):
    """All runs, the oldest first."""
    options = {"search_all_experiments": True, "output_format": "list", "order_by": ["attributes.start_time ASC"]}
    return mlflow.search_runs(filter_string=filter_string, **options)


def use(uri, artifacts):
    mlflow.set_tracking_uri(uri)
    os.environ[store.ARTIFACT_ROOT_VARIABLE] = artifacts


def work(uri, artifacts, name, barrier, results, seconds=0.3):
    """Begin the work together with the others; tell from when to when it was held, or what was said instead."""
    use(uri, artifacts)
    barrier.wait(60)
    try:
        with pipeline.run("a-pipeline", "main", {"market": "sp500"}, claim=name):
            begun = time.monotonic()
            time.sleep(seconds)
            held = begun, time.monotonic()
        results.put(("held", *held))
    except SystemExit as told:
        results.put(("told", str(told), 0))


def hold(uri, artifacts, name, ready):
    """Hold the work, with a step open, until the process is killed."""
    use(uri, artifacts)
    with pipeline.run("a-pipeline", "main", {"market": "sp500"}, claim=name) as step, step("a_step"):
        ready.set()
        time.sleep(600)


def register(uri, artifacts, model, barrier, results):
    use(uri, artifacts)
    promotion.judge = passes
    barrier.wait(60)
    try:
        with mlflow.start_run():
            results.put(training.register(model).outcome)
    except pipeline.PipelineError as error:
        results.put(str(error))


def die(uri, artifacts, model, write):
    """Register, and be killed right before the write of that number, counted from 0; without so many, live."""
    use(uri, artifacts)
    promotion.judge = passes
    die_before(write, [(mlflow.MlflowClient, each) for each in WRITES])
    with mlflow.start_run():
        training.register(model)
