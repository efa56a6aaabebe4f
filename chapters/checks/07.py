"""The exercises of chapter 07."""

from types import SimpleNamespace
from unittest.mock import patch

from course.checks import Exercise, Wrong, need_function, run_in, runs_by_filter

NOTE = "mlflow.note.content"
EPOCHS = [(epoch, {"loss": 1 / (epoch + 1), "accuracy": epoch / 10}) for epoch in range(7)]


def noted(answer, market):
    import mlflow

    run = run_in("practice", answer)
    parent = run.data.tags.get("mlflow.parentRunId")
    if parent is None or not run.info.run_name.startswith("rate-"):
        raise Wrong(f"That is the run {run.info.run_name}: take one of the three child runs of rates.")
    series = f"tags.mlflow.parentRunId = '{parent}'"
    children = mlflow.search_runs([run.info.experiment_id], series, output_format="list")
    best = min(children, key=lambda child: child.data.metrics.get("loss", float("inf")))
    if run.data.metrics.get("loss", float("inf")) > best.data.metrics["loss"]:
        raise Wrong(f"{run.info.run_name} doesn't have the lowest loss: compare the three in the list of runs.")
    if not run.data.tags.get(NOTE, "").strip():
        raise Wrong("That run has no note yet: write its description in the UI, and save it.")


def _is_high(run):
    named, finished = run.info.run_name.startswith("rate-"), run.info.status == "FINISHED"
    return named and finished and run.data.metrics.get("loss", 0) > 0.63


def high_loss(answer, market):
    import mlflow

    found = runs_by_filter("practice", answer)
    everything = mlflow.search_runs(experiment_names=["practice"], output_format="list")
    for run in found:
        if not _is_high(run):
            loss, status = run.data.metrics.get("loss"), run.info.status
            raise Wrong(f"It also finds {run.info.run_name}, which is {status} and has the loss {loss}.")
    if missing := len([run for run in everything if _is_high(run)]) - len(found):
        raise Wrong(f"It misses {missing} of the runs. Does it depend on one series, or on one name?")
    for word in ("name", "status", "loss"):
        if word not in answer:  # on this store it finds the right runs by chance
            raise Wrong(f"It finds the right runs today, but only by chance: it has no condition on the {word}.")


def strict(answer, market):
    import mlflow

    need_function(answer, "log_strictly")
    logged, run = [], SimpleNamespace(info=SimpleNamespace(run_id="0" * 32))
    with (
        patch.object(mlflow, "log_metric", lambda key, value, *_, **__: logged.append((key, value))),
        patch.object(mlflow.MlflowClient, "log_metric", lambda _, run, key, value, *__: logged.append((key, value))),
        patch.object(mlflow, "start_run", lambda *_, **__: logged.append(("start_run", None))),
        patch.object(mlflow, "active_run", lambda: None),
    ):
        try:
            answer("loss", 0.5)
        except RuntimeError:
            if logged:
                raise Wrong("It raises the error too late: it has already logged the metric. Check first.") from None
        else:
            raise Wrong("If no run is active, it raises no RuntimeError.")
        with patch.object(mlflow, "active_run", lambda: run):
            try:
                answer("loss", 0.5)
            except RuntimeError:
                raise Wrong("If a run is active, it raises a RuntimeError too.") from None
    if logged != [("loss", 0.5)]:
        raise Wrong('If a run is active, log_strictly("loss", 0.5) should log the metric once, with the value 0.5.')


def blocks(answer, market):
    import mlflow

    need_function(answer, "log_in_blocks")
    reached, calls = [], []  # the epochs of the training so far; for each call how many there were, and what it logged

    def training():
        for epoch in EPOCHS:
            reached.append(epoch)
            yield epoch

    def log_batch(_, run_id, metrics=(), *__, **___):
        calls.append((run_id, len(reached), [(metric.step, metric.key, metric.value) for metric in metrics]))

    with patch.object(mlflow.MlflowClient, "log_batch", log_batch):
        answer("some-run", training(), 3)
    if not calls:
        raise Wrong("It never calls client.log_batch.")
    if any(run_id != "some-run" for run_id, _, _ in calls):
        raise Wrong("It logs to another run: pass run_id to client.log_batch.")
    logged = [value for _, _, values in calls for value in values]
    expected = [(epoch, name, value) for epoch, values in EPOCHS for name, value in values.items()]
    if [value for value in logged if value[0] < 6] == expected[:12] and len(logged) < 14:
        raise Wrong("With 7 epochs and blocks of 3, the last epoch is missing: log the rest after the loop.")
    if sorted(logged) != sorted(expected):
        raise Wrong(f"With 7 epochs of 2 values it logs {len(logged)} values, not these 14, each once with its step.")
    sizes = [len({step for step, _, _ in values}) for _, _, values in calls]
    if sizes != [3, 3, 1]:
        raise Wrong(f"With 7 epochs and size 3, the calls should hold 3, 3 and 1 epochs. Yours hold {sizes}.")
    if calls[0][1] > 4:
        raise Wrong("It waits for the end of the training before it logs the first block: a crash would lose it all.")


def repaired(answer, market):
    run = run_in("practice", answer)
    if "waited_for" in run.data.metrics:
        raise Wrong("That is the chapter's own run: create another one with client.create_run.")
    if run.data.params.get("rate") is None:
        raise Wrong("That run has no parameter rate: log it with client.log_param.")
    if run.info.status == "RUNNING":
        raise Wrong("That run is still RUNNING: end it with client.set_terminated.")
    if run.info.status != "KILLED":
        raise Wrong(f"That run is {run.info.status}, as if nothing had gone wrong: pass status='KILLED'.")
    if not run.data.tags.get(NOTE, "").strip():
        raise Wrong(f"That run has no note: set the tag {NOTE}.")


def _logs_first(name, value):
    import mlflow

    mlflow.log_metric(name, value)
    if mlflow.active_run() is None:
        raise RuntimeError("no run is active")


def _never_refuses(name, value):
    import mlflow

    mlflow.log_metric(name, value)


def _metrics(epochs):
    from mlflow.entities import Metric

    return [Metric(name, value, 0, epoch) for epoch, values in epochs for name, value in values.items()]


def _all_at_the_end(run_id, curve, size):
    import mlflow

    epochs = list(curve)
    for start in range(0, len(epochs), size):
        mlflow.MlflowClient().log_batch(run_id, _metrics(epochs[start : start + size]))


def _without_the_rest(run_id, curve, size):
    import mlflow

    block = []
    for epoch in curve:
        block.append(epoch)
        if len(block) == size:
            mlflow.MlflowClient().log_batch(run_id, _metrics(block))
            block = []


EXERCISES = [
    Exercise("07.1", test=noted, wrong=["rate-0.3", "0" * 32]),
    Exercise(
        "07.2",
        test=high_loss,
        wrong=[
            "attributes.run_name LIKE 'rate-%' and attributes.status = 'FINISHED'",
            "attributes.run_name = 'rate-0.01' and attributes.status = 'FINISHED' and metrics.loss > 0.63",
        ],
    ),
    Exercise("07.3", test=strict, wrong=[_logs_first, _never_refuses]),
    Exercise("07.4", test=blocks, wrong=[_without_the_rest, _all_at_the_end]),
    Exercise("07.5", test=repaired, wrong=["lost", "0" * 32]),
]
