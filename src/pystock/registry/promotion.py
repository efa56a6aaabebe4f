"""Promote and roll back models: behind a gate, one at a time, and with a run as the record of each.

MLflow has no compare-and-set for aliases, so two promotions at once could both move one. A lock file makes those of one
account on one machine wait for each other; between machines, let a CI job with one concurrency group promote.
"""

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run

from pystock.errors import PystockError
from pystock.model_uri import champion_version, find_version
from pystock.processes import alone
from pystock.registry.gate import Condition, judge

EXPERIMENT = "promotions"
OPEN = ("open", "approved")  # the outcomes of a record that is not closed
COLUMNS = ["who", "when", "why", "from", "to", "outcome", "evidence"]


class RegistryError(PystockError):
    """Raised if a champion cannot be changed; the message says what is wrong, why, and how to fix it."""


class Refused(RegistryError):
    """The gate said no. The message lists what failed; `conditions` holds all of them."""

    def __init__(self, what: str, conditions: list[Condition]):
        self.conditions = conditions
        failed = [f"\n- {each.name}: {each.evidence}" for each in conditions if not each.passed]
        head = f"{what} is not promoted: {len(failed)} of {len(conditions)} conditions failed."
        super().__init__(head + "".join(failed))


def promote(
    name: str, version: int | str, X: pd.DataFrame, y: pd.Series, reference: pd.Series, *, why: str, **options: Any
) -> list[Condition]:
    """Make a version the champion if it passes `judge`, which explains X, y, reference and the `options`.

    Returns the conditions. Moves the alias `champion`, removes the alias `challenger`, and tags the version with
    `validation_status` (approved or rejected) and `promotion`, the id of the record: a run in `promotions`.

    Raises Refused if a condition failed, RegistryError if the version is already the champion or the champion has
    changed meanwhile, and filelock.Timeout if another promotion does not end.
    """
    with alone(f"promotion {mlflow.get_registry_uri()} {name}"):
        before, to = _settle(name), str(find_version(name, version).version)
        if to == before:
            raise RegistryError(f"Version {to} of {name} is already the champion.")
        with _record(name, "promoted", before, to, why) as run_id:
            champion = f"models:/{name}/{before}" if before else None
            conditions = judge(f"models:/{name}/{to}", X, y, reference, champion, **options)
            mlflow.log_metrics({key: value for each in conditions for key, value in each.metrics.items()})
            mlflow.set_tag("evidence", "\n".join(map(repr, conditions)))
            if passed := all(each.passed for each in conditions):
                _move(name, before, to, run_id)
            else:
                MlflowClient().set_model_version_tag(name, to, "validation_status", "rejected")
                mlflow.set_tag("outcome", "refused")
    if not passed:
        raise Refused(f"Version {to} of {name}", conditions)
    return conditions


def rollback(name: str, *, why: str) -> str:
    """Make the version that the champion replaced the champion again, and return its number; there is no gate.

    If the alias was moved without a record, it goes back to the champion of the records. Raises as `promote`.
    """
    with alone(f"promotion {mlflow.get_registry_uri()} {name}"):
        before, done = _settle(name), [run.data.tags for run in _records(name) if _has_moved(run.data.tags)]
        earlier = [tags["from"] for tags in done if (tags["verb"], tags["to"]) == ("promoted", before)]
        to = (earlier or [tags["to"] for tags in done] or [""])[-1]
        if to in ("", before):
            raise RegistryError(f"{name} has no earlier champion, so there is nothing to roll back to.")
        with _record(name, "rolled back", before, to, why) as run_id:
            _move(name, before, to, run_id)
    return to


def history(name: str) -> pd.DataFrame:
    """Return the promotions of a name, newest last; columns who, when (UTC), why, from, to, outcome, evidence.

    Outcomes: promoted, rolled back, refused, overtaken; interrupted, until the next promotion closes the record; and
    "not recorded" if the alias was moved in another way, which shows in the `from` of the next record.
    """
    champion, standing, rows = champion_version(name), "", []
    by_hand = {"who": "", "why": "", "outcome": "not recorded", "evidence": "moved without a record"}
    for run in _records(name):
        tags = run.data.tags
        if _has_moved(tags, champion):
            rows += [] if tags["from"] == standing else [by_hand | {"from": standing, "to": tags["from"]}]
            standing = tags["to"]
        outcome = "interrupted" if tags["outcome"] in OPEN else tags["outcome"]
        rows.append(tags | {"when": run.info.start_time, "outcome": outcome})
    rows += [] if champion == standing else [by_hand | {"from": standing, "to": champion}]
    table = pd.DataFrame(rows, columns=COLUMNS)
    numbers = {side: pd.to_numeric(table[side]).astype("Int64") for side in ("from", "to")}
    return table.assign(when=pd.to_datetime(table["when"], unit="ms", utc=True), **numbers)


@contextmanager
def _record(name: str, verb: str, before: str, to: str, why: str) -> Iterator[str]:
    """Start the run that records a promotion, before anything is moved."""
    client = MlflowClient()
    client.set_registered_model_tag(name, "promotions", EXPERIMENT)  # first: it stops a caller without the permission
    who = os.environ.get("GITHUB_ACTOR") or os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    tags = {"registered_model": name, "from": before, "to": to, "who": who, "why": why, "verb": verb, "outcome": "open"}
    experiment = client.get_experiment_by_name(EXPERIMENT)
    place = experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT)
    with mlflow.start_run(experiment_id=place, run_name=f"{name}-{to}", tags=tags, nested=True, description=why) as run:
        yield run.info.run_id


def _move(name: str, before: str, to: str, run_id: str) -> None:
    """Move the alias, if the champion is still the one that was compared with."""
    client = MlflowClient()
    if champion_version(name) != before or client.get_run(run_id).data.tags["outcome"] != "open":
        client.set_tag(run_id, "outcome", "overtaken")
        raise RegistryError(f"{name} got another champion meanwhile, and version {to} was not compared with it: retry.")
    client.set_tag(run_id, "outcome", "approved")  # from here on, the alias says how far it got
    client.set_registered_model_alias(name, "champion", to)
    _settle(name)


def _settle(name: str) -> str:
    """Close the open record of a name, also one that an interrupted promotion left; return the champion's version."""
    client, champion = MlflowClient(), champion_version(name)
    for run_id, tags in ((run.info.run_id, run.data.tags) for run in _records(name)):
        if tags["outcome"] in OPEN and (moved := _has_moved(tags, champion)):
            client.set_model_version_tag(name, champion, "validation_status", "approved")
            client.set_model_version_tag(name, champion, "promotion", run_id)
            if str(client.get_registered_model(name).aliases.get("challenger")) == champion:
                client.delete_registered_model_alias(name, "challenger")
        if tags["outcome"] in OPEN:
            client.set_terminated(run_id, "KILLED")  # the end of a promotion that is active makes it FINISHED
            client.set_tag(run_id, "outcome", tags["verb"] if moved else "interrupted")
    return champion


def _has_moved(tags: dict[str, str], champion: str = "") -> bool:
    """Return whether a promotion moved the alias; an approved one has, if its version is the champion."""
    return tags["outcome"] == tags["verb"] or (tags["outcome"], tags["to"]) == ("approved", champion)


def _records(name: str) -> list[Run]:
    """Return the records of a name, oldest first."""
    experiment = MlflowClient().get_experiment_by_name(EXPERIMENT)
    places, order = [experiment.experiment_id] if experiment else [], ["attributes.start_time"]
    wanted = f"tags.registered_model = '{name}'"
    return mlflow.search_runs(places, wanted, order_by=order, output_format="list") if places else []
