"""What the pipelines in projects/ share: steps as child runs of one parent, and a lock for work that must not overlap.

Each entry point is one run; `main` has a child run for each of its steps. All have the tags `pipeline` (the project),
`step` (the entry point) and `outcome` (done or skipped).
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from pystock import processes, runs
from pystock.errors import PystockError, first_line, ignoring
from pystock.model_uri import MISSING

PATIENCE = 10  # seconds for another process to take its number in the queue


class PipelineError(PystockError, ValueError):
    """Raised if a pipeline cannot do something; the message says what is wrong, why, and how to fix it."""


Step = Callable[[str], AbstractContextManager[Run]]


@contextmanager
def run(pipeline: str, entry_point: str, about: dict[str, str], *, claim: str | None = None) -> Iterator[Step]:
    """Open the run of an entry point: the one that `mlflow run` has started, or a new one if the script runs alone.

    `about` are tags (market, target …) that it shares with the steps. Yields a function with which `main` opens those:
    `with step("train_model"): …`. A failing step fails the parent, which names it in the tags `failed_step` and
    `failed_because`. `claim` names the work for `claim_work`. A ValueError or an MlflowException, whose message is for
    people, ends the script with that message; any other error shows where it happened.
    """
    tags = {"pipeline": pipeline, **about, "git_commit": runs.git_commit()}

    @contextmanager
    def step(name: str) -> Iterator[Run]:
        try:
            with mlflow.start_run(run_name=name, nested=True, tags=tags | {"step": name}) as child:
                yield child
        except BaseException as error:
            mlflow.set_tags({"failed_step": name, "failed_because": first_line(error, most=500)})  # on the parent
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

    `outcome` is done or skipped; the tag `made_by` of a skipped step is the run that made what it would have made.
    """
    step = mlflow.get_run(active_run_id()).data.tags["step"]
    mlflow.set_tags({"outcome": outcome, "said": said, **tags})
    print(f"{step}: {said}", flush=True)


def active_run_id() -> str:
    """Return the id of the active run. Raises PipelineError if there is none."""
    if active := mlflow.active_run():
        return str(active.info.run_id)
    raise PipelineError("No run is active: call the step inside `with mlflow.start_run():`.")


def existing_run(run_id: str | None) -> Run | None:
    """Return a run that exists and was not deleted, else None."""
    run = None
    with ignoring(*MISSING):
        run = mlflow.get_run(run_id) if run_id else None
    return run if run and run.info.lifecycle_stage == "active" else None


def finished_runs(tags: dict[str, str]) -> Iterator[Run]:
    """Yield the finished runs with these tags, from all experiments, newest first."""
    conditions = ["attributes.status = 'FINISHED'", *(f"tags.{name} = '{value}'" for name, value in tags.items())]
    wanted, order = " and ".join(conditions), ["attributes.start_time DESC"]
    yield from mlflow.search_runs(
        search_all_experiments=True, filter_string=wanted, order_by=order, max_results=20, output_format="list"
    )


def claim_work(work: str) -> None:
    """Take the lock `work` for the active run, until it ends. Raises PipelineError, naming the holder, if it is held.

    Lamport's bakery algorithm (1974, Communications of the ACM 17, 453-455): each RUNNING run with the tag `claim` is
    in the queue, its `ticket` is one higher than all that it sees, and the lowest ticket is served.
    """
    client, run_id = mlflow.MlflowClient(), active_run_id()
    client.set_tag(run_id, "process", processes.this_process())
    client.set_tag(run_id, "ticket", "0")  # none yet: this run may have had one for other work
    client.set_tag(run_id, "claim", work)
    mine = 1 + max((_ticket(other) for other in _others(work, run_id)), default=0)
    client.set_tag(run_id, "ticket", str(mine))
    for other in _others(work, run_id):
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
            fix = "If it died on another machine, end it with MlflowClient().set_terminated(RUN_ID, 'KILLED')."
            holder = f"the run {other.info.run_id} on {machine} has been working on {work} since {since}"
            raise PipelineError(f"{holder}: wait until it ends. {fix}")


def _others(work: str, run_id: str) -> list[Run]:
    """Return all runs in the queue but one."""
    waiting = f"attributes.status = 'RUNNING' and tags.claim = '{work}' and attributes.run_id != '{run_id}'"
    return mlflow.search_runs(search_all_experiments=True, filter_string=waiting, output_format="list")


def _ticket(run: Run) -> int:
    return int(run.data.tags.get("ticket", 0))


def _end(client: mlflow.MlflowClient, run: Run) -> None:
    """End a run whose process is gone, and its children."""
    children = f"attributes.status = 'RUNNING' and tags.`mlflow.parentRunId` = '{run.info.run_id}'"
    for child in client.search_runs([run.info.experiment_id], children):
        client.set_terminated(child.info.run_id, "KILLED")
    client.set_terminated(run.info.run_id, "KILLED")
