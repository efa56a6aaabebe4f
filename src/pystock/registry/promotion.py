"""Promote and roll back models: behind a gate, one at a time, and with a run as the record of each.

MLflow has no compare-and-set for aliases, so two promotions at once could both move one. A lock file makes those of one
account on one machine wait for each other; between machines, let a CI job with one concurrency group promote.
"""

import getpass
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock
import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run

from pystock.errors import PystockError
from pystock.model_uri import find_version, registered_model
from pystock.registry.gate import Condition, judge

EXPERIMENT = "promotions"
PATIENCE = 600  # seconds to wait for another promotion on this machine
UNFINISHED = ("open", "approved")  # the outcome of a record before it is closed


class RegistryError(PystockError):
    """Raised if a champion cannot be changed; the message says what is wrong, why, and how to fix it."""


class Refused(RegistryError):
    """The gate said no. The message lists what failed; `conditions` holds all of them."""

    def __init__(self, what: str, conditions: list[Condition]):
        self.conditions = conditions
        failed = [f"- {each.name}: {each.evidence}" for each in conditions if not each.passed]
        head = f"{what} is not promoted: {len(failed)} of {len(conditions)} conditions failed."
        super().__init__("\n".join([head, *failed]))


def promote(
    name: str, version: int | str, X: pd.DataFrame, y: pd.Series, reference: pd.Series, *, why: str, **options: Any
) -> list[Condition]:
    """Make a version the champion if it passes `judge`, which explains X, y, reference and the `options`.

    Returns the conditions. Moves the alias `champion`, removes the alias `challenger`, and tags the version with
    `validation_status` (approved or rejected) and `promotion`, the id of the record: a run in `promotions`.

    Raises Refused if a condition failed, RegistryError if the version is already the champion or the champion has
    changed meanwhile, and filelock.Timeout if another promotion does not end.
    """
    client = MlflowClient()
    with _lock(name):
        before, to = _settle(client, name), int(find_version(name, version, client=client).version)
        if to == before:
            raise RegistryError(f"Version {to} of {name} is already the champion.")
        with _record(client, name, "promoted", before, to, why) as run_id:
            champion = f"models:/{name}/{before}" if before else None
            conditions = judge(f"models:/{name}/{to}", X, y, reference, champion, **options)
            mlflow.log_metrics({key: value for each in conditions for key, value in each.metrics.items()})
            mlflow.set_tag("evidence", "\n".join(map(repr, conditions)))
            if passed := all(each.passed for each in conditions):
                _move(client, name, before, to, run_id)
            else:
                client.set_model_version_tag(name, str(to), "validation_status", "rejected")
                mlflow.set_tag("outcome", "refused")
    if not passed:
        raise Refused(f"Version {to} of {name}", conditions)
    return conditions


def rollback(name: str, *, why: str) -> int:
    """Make the version that the champion replaced the champion again, and return its number; there is no gate.

    If the alias was moved without a record, it goes back to the champion of the records. Raises as `promote`, and
    RegistryError if there is no earlier champion.
    """
    client = MlflowClient()
    with _lock(name):
        before, done = _settle(client, name), [run.data.tags for run in _records(name) if _has_moved(run, None)]
        earlier = [tags["from"] for tags in done if (tags["verb"], tags["to"]) == ("promoted", str(before))]
        to = _number((earlier or [tags["to"] for tags in done] or [None])[-1])
        if not to or to == before:
            raise RegistryError(f"{name} has no earlier champion, so there is nothing to roll back to.")
        with _record(client, name, "rolled back", before, to, why) as run_id:
            _move(client, name, before, to, run_id)
    return to


def history(name: str) -> pd.DataFrame:
    """Return the promotions of a name, newest last; columns who, when (UTC), why, from, to, outcome, evidence.

    Outcomes: promoted, rolled back, refused, overtaken; interrupted, until the next promotion closes the record; and
    "not recorded" if the alias was moved in another way.
    """
    columns = {f"tags.{key}": key for key in ("who", "why", "from", "to", "outcome", "evidence")}
    columns = {"tags.who": "who", "start_time": "when", **columns}
    table = _records(name, "pandas").reindex(columns=list(columns)).rename(columns=columns)
    table["outcome"] = table["outcome"].replace(dict.fromkeys(UNFINISHED, "interrupted"))
    now, runs = _champion(name), [run.data.tags["to"] for run in _records(name) if _has_moved(run, _champion(name))]
    if (standing := int(runs[-1]) if runs else None) != now:
        table.loc[len(table)] = ["", pd.NaT, "", standing, now, "not recorded", "the alias was moved without a record"]
    numbers = {side: pd.to_numeric(table[side]).astype("Int64") for side in ("from", "to")}
    return table.assign(when=pd.to_datetime(table["when"], utc=True), **numbers)


def _lock(name: str) -> filelock.BaseFileLock:
    """Return the lock for one promotion of a name at a time, by this account on this machine."""
    place = hashlib.sha256(f"{mlflow.get_registry_uri()} {name} {getpass.getuser()}".encode()).hexdigest()[:16]
    return filelock.FileLock(Path(tempfile.gettempdir(), f"promotion-{place}.lock"), timeout=PATIENCE)


@contextmanager
def _record(client: MlflowClient, name: str, verb: str, before: int | None, to: int, why: str) -> Iterator[str]:
    """Start the run that records a promotion, before anything is moved."""
    if not why.strip():
        raise RegistryError(f"The champion of {name} stays, because `why` is empty: give a reason for the history.")
    # The first write is to the name: it stops a caller without the permission to change it.
    client.set_registered_model_tag(name, "promotions", EXPERIMENT)
    who = os.environ.get("MLFLOW_TRACKING_USERNAME") or os.environ.get("GITHUB_ACTOR") or getpass.getuser()
    tags = {"registered_model": name, "from": str(before or ""), "to": str(to), "who": who, "why": why}
    tags |= {"verb": verb, "outcome": "open", "mlflow.note.content": why}
    experiment = client.get_experiment_by_name(EXPERIMENT)
    place = experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT)
    with mlflow.start_run(experiment_id=place, run_name=f"{name}-{to}", tags=tags, nested=True) as run:
        yield run.info.run_id


def _move(client: MlflowClient, name: str, before: int | None, to: int, run_id: str) -> None:
    """Move the alias, if the champion is still the one that was compared with, and close the record."""
    run = client.get_run(run_id)
    if _champion(name) != before or run.data.tags["outcome"] != "open":
        client.set_tag(run_id, "outcome", "overtaken")
        raise RegistryError(f"{name} got another champion meanwhile, and version {to} was not compared with it: retry.")
    client.set_tag(run_id, "outcome", "approved")  # from here on, the alias says how far it got
    client.set_registered_model_alias(name, "champion", str(to))
    _close(client, name, run)


def _close(client: MlflowClient, name: str, run: Run) -> None:
    client.set_model_version_tag(name, to := run.data.tags["to"], "validation_status", "approved")
    client.set_model_version_tag(name, to, "promotion", run.info.run_id)
    if str(client.get_registered_model(name).aliases.get("challenger")) == to:
        client.delete_registered_model_alias(name, "challenger")
    client.set_tag(run.info.run_id, "outcome", run.data.tags["verb"])


def _settle(client: MlflowClient, name: str) -> int | None:
    """Close the records that interrupted promotions left open; return the champion's version."""
    champion = _champion(name)
    for run in _records(name):
        if run.data.tags["outcome"] in UNFINISHED:
            if _has_moved(run, champion):
                _close(client, name, run)
            else:
                client.set_tag(run.info.run_id, "outcome", "interrupted")
            client.set_terminated(run.info.run_id, "KILLED")
    return champion


def _has_moved(run: Run, champion: int | None) -> bool:
    """Return whether a promotion moved the alias; an approved one has, if its version is the champion."""
    outcome = run.data.tags["outcome"]
    return outcome in ("promoted", "rolled back") or (outcome == "approved" and int(run.data.tags["to"]) == champion)


def _records(name: str, output_format: str = "list") -> Any:
    wanted = {"filter_string": f"tags.registered_model = '{name}'", "order_by": ["attributes.start_time"]}
    return mlflow.search_runs(experiment_names=[EXPERIMENT], output_format=output_format, **wanted)


def _champion(name: str) -> int | None:
    return _number(registered_model(name, MlflowClient()).aliases.get("champion"))


def _number(version: Any) -> int | None:
    return int(version) if version else None
