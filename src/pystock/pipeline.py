"""What the pipelines share: steps as child runs of one parent, and one at a time at the same work.

The scripts in projects/ are the pipelines. Each entry point is one run; `main` has a child run for each of its steps.
All of them have the tags `pipeline` (the project), `step` (the entry point) and `outcome` (done or skipped).
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from pystock import processes, runs
from pystock.errors import PystockError, first_line
from pystock.model_uri import MISSING

PATIENCE = 10  # seconds for another process to say where it stands in the queue


class PipelineError(PystockError, ValueError):
    """Something that a pipeline cannot do; the message names the thing, the reason and the fix."""


Step = Callable[[str], AbstractContextManager[Run]]


@contextmanager
def run(pipeline: str, entry_point: str, about: dict[str, str], *, claim: str | None = None) -> Iterator[Step]:
    """Open the run of an entry point: the one that `mlflow run` has started, or a new one if the script runs alone.

    `about` are tags (market, target …) that it shares with the steps. Yields a function with which `main` opens those:
    `with step("train_model"): …`. A step that fails fails the parent, which names it in the tags `failed_step` and
    `failed_because`. With `claim`, a text that names the work, a second process that starts the same work ends at once
    and names the first. An error whose message is meant for people, a ValueError or an MlflowException, ends the script
    with that message; any other shows where it happened.
    """
    tags = {"pipeline": pipeline, **about, "git_commit": runs.git_commit()}

    @contextmanager
    def step(name: str) -> Iterator[Run]:
        parent = active_run_id()
        try:
            with mlflow.start_run(run_name=name, nested=True, tags=tags | {"step": name}) as child:
                yield child
        except BaseException as error:
            failure = {"failed_step": name, "failed_because": first_line(error, most=500)}
            for tag, value in failure.items():
                mlflow.MlflowClient().set_tag(parent, tag, value)
            raise

    try:
        with mlflow.start_run(tags=tags | {"step": entry_point}) as opened:
            name = pipeline if entry_point == "main" else entry_point
            mlflow.MlflowClient().update_run(opened.info.run_id, name=name)
            if claim:
                claim_work(claim)
            yield step
    except (ValueError, MlflowException) as error:
        sys.exit(f"{pipeline}, {entry_point}: {error}")


def end_step(outcome: str, said: str, **tags: str) -> None:
    """Print and log how the active run's step has ended: a sentence, and `outcome` and `tags` on the run.

    `outcome` is done or skipped; a skipped step has the tag `made_by`, the id of the run that made what it would have
    made.
    """
    run_id, client = active_run_id(), mlflow.MlflowClient()
    step = client.get_run(run_id).data.tags["step"]
    for tag, value in {"outcome": outcome, "said": said, **tags}.items():
        client.set_tag(run_id, tag, value)
    print(f"{step}: {said}", flush=True)


# Runs in the store -----------------------------------------------------------------------------------------------


def active_run_id() -> str:
    """Return the id of the active run. Raises PipelineError if there is none."""
    active = mlflow.active_run()
    if active is None:
        raise PipelineError("No run is active: call this inside `with mlflow.start_run():`.")
    run_id: str = active.info.run_id
    return run_id


def existing_run(run_id: str | None) -> Run | None:
    """Return a run that exists and was not deleted, else None."""
    try:
        run = mlflow.MlflowClient().get_run(run_id) if run_id else None
    except MlflowException as error:
        if error.error_code not in MISSING:
            raise
        return None
    return run if run and run.info.lifecycle_stage == "active" else None


def finished_runs(tags: dict[str, str]) -> Iterator[Run]:
    """Yield the finished runs with these tags, from all experiments, newest first."""
    conditions = ["attributes.status = 'FINISHED'", *(f"tags.{name} = '{value}'" for name, value in tags.items())]
    yield from mlflow.search_runs(
        search_all_experiments=True,
        filter_string=" and ".join(conditions),
        order_by=["attributes.start_time DESC"],
        max_results=20,
        output_format="list",
    )


# One at a time ---------------------------------------------------------------------------------------------------


def claim_work(work: str) -> None:
    """Take the lock `work` for the active run, until it ends. Raises PipelineError, naming the holder, if it is held.

    Lamport's bakery algorithm (1974, Communications of the ACM 17, 453-455): each RUNNING run with the tag `claim` is
    in the queue, its `ticket` is one higher than all that it sees, and the lowest ticket is served. A later run sees
    the ticket of an earlier one; of two at the same time both see both. Clocks play no part in it.
    """
    client, run_id = mlflow.MlflowClient(), active_run_id()
    client.set_tag(run_id, "process", processes.this_process())
    client.set_tag(run_id, "ticket", "0")  # none yet: this run may have had one for other work
    client.set_tag(run_id, "claim", work)
    others = [other for other in _queue(work) if other.info.run_id != run_id]
    mine = 1 + max((_ticket(other) for other in others), default=0)
    client.set_tag(run_id, "ticket", str(mine))
    for other in _queue(work):
        if other.info.run_id == run_id:
            continue
        if processes.is_over(other.data.tags["process"]):
            if client.get_run(other.info.run_id).info.status == "RUNNING":  # it may have ended itself just now
                _end(client, other)
            continue
        deadline = time.monotonic() + PATIENCE
        while other.info.status == "RUNNING" and not _ticket(other) and time.monotonic() < deadline:
            time.sleep(0.05)
            other = client.get_run(other.info.run_id)
        if other.info.status == "RUNNING" and (_ticket(other), other.info.run_id) < (mine, run_id):
            client.set_tag(run_id, "outcome", "refused")
            machine = other.data.tags["process"].partition(" ")[0]
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(other.info.start_time / 1000))
            raise PipelineError(
                f"the run {other.info.run_id} on {machine} has been at {work} since {since}: wait until it has ended. "
                "If it died on another machine, end it with MlflowClient().set_terminated(RUN_ID, 'KILLED')."
            )


def _queue(work: str) -> list[Run]:
    waiting = f"attributes.status = 'RUNNING' and tags.claim = '{work}'"
    return mlflow.search_runs(search_all_experiments=True, filter_string=waiting, output_format="list")


def _ticket(run: Run) -> int:
    return int(run.data.tags.get("ticket", 0))


def _end(client: mlflow.MlflowClient, run: Run) -> None:
    """End a run whose process is gone, and its children."""
    children = f"attributes.status = 'RUNNING' and tags.`mlflow.parentRunId` = '{run.info.run_id}'"
    for child in client.search_runs([run.info.experiment_id], children):
        client.set_terminated(child.info.run_id, "KILLED")
    client.set_terminated(run.info.run_id, "KILLED")
