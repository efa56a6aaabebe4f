"""Promote and roll back models: gated, one at a time, recorded as MLflow runs.

The promotions of a name form a chain of runs in the experiment `pystock-promotions`. Two callers cannot collide,
because a parameter of a run can be written only once:

- A caller appends its run to the chain: it writes its run id as the parameter `next` of the last run. The first one
  creates an experiment, whose name is unique, with its run id as the tag `first`.
- It writes `commit` = `go` into its own run, moves the alias, and ends the run.
- If it dies on the way, the next call takes over (parameters `owner-2`, `owner-3` …) and writes `commit` = `void`, or
  sets the alias itself if `commit` is already `go`.

MLflow has no compare-and-set for aliases. If someone sets the alias directly, `history` shows that.
"""

import getpass
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Run, ViewType
from mlflow.exceptions import MlflowException

from pystock.errors import PystockError, first_line, ignoring
from pystock.evaluation import TRAIN_END
from pystock.model_uri import ModelNotFound, find_version, registered_model
from pystock.processes import is_over, this_process
from pystock.registry.gate import Condition, judge, signature_of

EXPERIMENT = "pystock-promotions"
LEASE = 60  # seconds after which a promotion that has not ended may be taken over, wherever its process is
PATIENCE = 5  # seconds to wait for a promotion in progress

# The life cycle, in the tag `lifecycle` of a version: what each step requires. A version without the tag is in
# Development. Production is reached by `promote` and `rollback` alone, which archive the version they replace.
TRANSITIONS = {
    ("Development", "Staging"): "a signature with an output named probability",
    ("Staging", "Development"): "nothing",
    ("Development", "Archived"): "nothing",
    ("Staging", "Archived"): "nothing",
    ("Archived", "Development"): "nothing",
    ("Production", "Archived"): "that it is no longer the champion",
}


class RegistryError(PystockError):
    """Raised if the registry cannot do something; the message says what is wrong, why, and how to fix it."""


class Refused(RegistryError):
    """The gate said no; the message lists what failed, `conditions` holds all four."""

    def __init__(self, what: str, conditions: list[Condition]):
        self.conditions = conditions
        failed = [f"- {each.name}: {each.evidence}" for each in conditions if not each.passed]
        head = f"{what} is not promoted: {len(failed)} of {len(conditions)} conditions failed."
        super().__init__("\n".join([head, *failed]))


class Overtaken(RegistryError):
    """The champion that the gate compared with is no longer the champion."""


class Busy(RegistryError):
    """Another promotion of this name is in progress and does not end."""


class Promotion(NamedTuple):
    """A promotion that was made: version `version` of `name` is champion and replaces `before` (None: the first)."""

    name: str
    version: int
    before: int | None
    outcome: str
    conditions: list[Condition]
    run_id: str

    def __repr__(self) -> str:
        return f"{self.outcome}: the champion of {self.name} is version {self.version} (was {describe(self.before)})"


def gate(name: str, version: int, *, evaluate_after: str = TRAIN_END) -> list[Condition]:
    """Return the four conditions that a version must meet to become champion; nothing is written.

    1. *signature*: it declares inputs and outputs, and one output is named `probability`.
    2. *base rate*: on the evaluation days its Brier skill against the rolling base rate has its whole 95 % interval
       above zero (`pystock.evaluation.skill`).
    3. *champion*: the difference between its Brier score and the champion's, on the evaluation days that the champion
       was not trained on either, has its whole 95 % interval below `MARGIN` (`pystock.evaluation.brier_difference`).
       Holds if there is no champion.
    4. *clean process*: a new interpreter, in an empty folder, loads it and predicts the evaluation days. Conditions 2
       and 3 judge those predictions.

    The evaluation days are those after `evaluate_after` up to the end of 2014. A version whose training data overlap
    them is refused: the latest day that the model (`pystock.models.log_decision_model`) or its source run (parameter or
    tag `train_end`) has recorded counts, and there must be one. Target, features and market are tags of the source run.
    A condition that cannot be judged has failed, and says why.

    Raises RegistryError if there is no such name or version.
    """
    with store_errors(f"Version {version} of {name} cannot be judged"):
        client = mlflow.MlflowClient()
        candidate = find_version(name, version, client=client)
        return judge(client, candidate, _champion(client, name), evaluate_after)


def promote(name: str, version: int, *, why: str, who: str | None = None, evaluate_after: str = TRAIN_END) -> Promotion:
    """Make a version the champion, if it passes `gate` and nobody is faster.

    Sets the alias `champion` and the tags `lifecycle`: Production on this version, Archived on the one that it
    replaces; it loses the alias `challenger`. `why` is for the history; `who` is by default this process's user name on
    the server, or else its operating-system account; it is not verified. On a server with accounts, the first account
    that promotes owns the experiment `pystock-promotions`; others need EDIT on it.

    Raises Refused with every condition that failed; Overtaken if the champion has changed meanwhile; Busy if another
    promotion is in progress and does not end; RegistryError if there is no such version, it is already the champion,
    or the store refuses. Refused and overtaken attempts are recorded, too.
    """

    def decide(client: MlflowClient, chain: list[Run], before: int | None) -> tuple[int, list[Condition]]:
        candidate = find_version(name, version, client=client)
        if int(candidate.version) == before:
            raise RegistryError(f"Version {version} of {name} is already the champion.")
        return int(candidate.version), judge(client, candidate, before, evaluate_after)

    return _promote(name, decide, why, who, "promoted", f"Version {version} of {name} is not promoted")


def rollback(name: str, *, why: str, who: str | None = None) -> Promotion:
    """Make the champion before this one the champion again: a promotion without a gate, in the history like any other.

    A second rollback goes one champion further back, not forward again. Raises as `promote`, and RegistryError if
    there is no champion to go back to.
    """

    def decide(client: MlflowClient, chain: list[Run], before: int | None) -> tuple[int, list[Condition]]:
        champions = _champions(chain, before)
        if len(champions) < 2:
            raise RegistryError(f"{name} has no earlier champion, so there is nothing to roll back to.")
        target = int(find_version(name, champions[-2], client=client).version)
        return target, [Condition("rollback", True, f"no gate: version {target} was champion before")]

    return _promote(name, decide, why, who, "rolled back", f"{name} is not rolled back")


def history(name: str) -> pd.DataFrame:
    """Return every promotion of a name, newest last; columns who, when, why, from, to, outcome, evidence.

    Outcomes: promoted, rolled back (either may be "completed by a later call"), refused, overtaken, interrupted,
    in progress; "set by hand" if the alias was moved without a promotion, so that who, when and why are unknown. `when`
    is in UTC. Raises RegistryError if the name is unknown or a run of the chain was deleted.
    """
    with store_errors(f"The history of {name} cannot be read"):
        client = mlflow.MlflowClient()
        now = _champion(client, name)
        runs = _runs(client, name)
        chain = _chain(client, name, runs)
    when, newest = {run.info.run_id: run.info.start_time for run in runs.values()}, 0
    for run in chain:  # in the order of the chain, whatever the clocks of their machines said
        when[run.info.run_id] = newest = max(newest, run.info.start_time)
    rows: list[list[object]] = []
    standing: int | None = None
    runs |= {run.info.run_id: run for run in chain}  # the newest states
    for run in sorted(runs.values(), key=lambda run: when[run.info.run_id]):
        tags, before, after = run.data.tags, _number(run.data.tags["from"]), _number(run.data.tags["to"])
        if run.info.lifecycle_stage == "deleted":
            continue
        outcome, evidence = tags["outcome"], tags["evidence"].replace("\n", "; ")
        if outcome == "open" and is_abandoned(run):
            outcome, evidence = "interrupted", "the next call to promote or rollback will complete or cancel it"
        outcome = "in progress" if outcome == "open" else outcome
        if _done(run):
            rows += manual_moves(standing, before)
            standing = after
        rows.append([tags["who"], run.info.start_time, tags["why"], before, after, outcome, evidence])
    if not (chain and _open(chain[-1])):  # that one may or may not have moved it
        rows += manual_moves(standing, now)
    table = pd.DataFrame(rows, columns=["who", "when", "why", "from", "to", "outcome", "evidence"])
    table["when"] = pd.to_datetime(table["when"], unit="ms", utc=True)
    return table.astype({"from": "Int64", "to": "Int64"})


def set_lifecycle(name: str, version: int, state: str) -> None:
    """Set the tag `lifecycle` of a version, if `TRANSITIONS` allows the step and its requirement is met.

    Raises RegistryError for an unknown state, a step that is not allowed, and one whose requirement is not met.
    """
    with store_errors(f"Version {version} of {name} is not moved to {state}"):
        client = mlflow.MlflowClient()
        registered = find_version(name, version, client=client)
        before = registered.tags.get("lifecycle", "Development")
        step = f"Version {version} of {name} cannot go from {before} to {state}"
        if state == "Production":
            raise RegistryError(f"{step} by hand: promote it, which runs the gate and records the history.")
        if (before, state) not in TRANSITIONS:
            allowed = [after for start, after in TRANSITIONS if start == before]
            raise RegistryError(f"{step}: from there it may go to {' or '.join(allowed)}.")
        if state == "Staging" and not (signature := signature_of(registered)).passed:
            raise RegistryError(f"{step}, which requires {TRANSITIONS[before, state]}: {signature.evidence}.")
        if before == "Production" and _champion(client, name) == int(registered.version):
            raise RegistryError(f"{step} while it is the champion: promote another version, which archives this one.")
        client.set_model_version_tag(name, registered.version, "lifecycle", state)


# The protocol ----------------------------------------------------------------------------------------------------


Decide = Callable[[MlflowClient, list[Run], int | None], tuple[int, list[Condition]]]


def _promote(name: str, decide: Decide, why: str, who: str | None, verb: str, nothing_done: str) -> Promotion:
    """Promote the version that `decide` returns, if its conditions hold and nobody is faster."""
    if not why.strip():
        raise RegistryError(f"{nothing_done}, because `why` is empty: give a reason for the history.")
    who = who or os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    client = mlflow.MlflowClient()
    with store_errors(nothing_done), _calling() as me:
        _champion(client, name)  # raises if there is no such name, before anything is written
        # The tag says where the runs are. As the first write, it stops a caller without permission for this name.
        _set_tag(client.set_registered_model_tag, name, "promotions", EXPERIMENT)
        chain = _settle(client, name, me)
        before = _champion(client, name)
        version, conditions = decide(client, chain, before)
        note = "".join(f"\n\nBefore: {row[-1]}." for row in manual_moves(_standing(chain), before))
        tags = {"name": name, "from": str(before or ""), "to": str(version), "who": who, "why": why, "verb": verb}
        evidence = "\n".join(f"{each.name}: {each.evidence}" for each in conditions)
        tags |= {"outcome": "open", "evidence": evidence, "owner": me()}
        tags |= {"mlflow.user": who, "mlflow.note.content": why + note}
        experiment = _experiment(client, EXPERIMENT).experiment_id
        run_id = client.create_run(experiment, tags=tags, run_name=f"{name}-{version}").info.run_id
        metrics = [Metric(key, value, 0, 0) for each in conditions for key, value in each.metrics.items()]
        client.log_batch(run_id, metrics=metrics)
        if not all(each.passed for each in conditions):
            _close(client, run_id, "refused")
            raise Refused(f"Version {version} of {name}", conditions)
        # Before the claim: without permission for the version there must be no claim, which a later call would settle.
        _set_tag(client.set_model_version_tag, name, str(version), "promotion", run_id)
        winner = _claim(client, name, chain, run_id)
        if winner != run_id:
            _close(client, run_id, "overtaken")
            faster = "{who} promoted version {to} first".format(**client.get_run(winner).data.tags)
            raise Overtaken(f"{nothing_done}: {faster}. Read the history, then promote the better version.")
        if (now := _champion(client, name)) != before:
            write_once(client, run_id, "commit", "void")
            _close(client, run_id, "overtaken")
            moved = f"somebody set the alias champion by hand, from {describe(before)} to {describe(now)}"
            raise Overtaken(f"{nothing_done}: {moved}, after the comparison. Promote again to compare with that one.")
        if write_once(client, run_id, "commit", "go") != "go":
            raise Overtaken(f"{nothing_done}: it took more than {LEASE} s, so a later call ended it. Try again.")
        _move(client, name, version)
        _close(client, run_id, verb)
    return Promotion(name, version, before, verb, conditions, run_id)


def _set_tag(call: Callable[..., object], *arguments: str) -> None:
    """Set a tag, at the second attempt if necessary.

    MLflow looks for a tag and then inserts it: if two callers set a new tag at once, one fails and has to try again.
    """
    with ignoring("BAD_REQUEST"):  # the store's error code if its database refused
        call(*arguments)
        return
    call(*arguments)


def write_once(client: MlflowClient, run_id: str, key: str, value: str) -> str:
    """Write a parameter of a run unless it has a value; returns the value that it has now."""
    try:
        client.log_param(run_id, key, value)
        return value
    except MlflowException:
        existing: str | None = client.get_run(run_id).data.params.get(key)
        if existing is None:
            raise
        return existing


def _claim(client: MlflowClient, name: str, chain: list[Run], run_id: str) -> str:
    """Become the next of the chain; returns the id of the run that is."""
    if chain:
        return write_once(client, chain[-1].info.run_id, "next", run_id)
    return _experiment(client, f"{EXPERIMENT}-{name}", first=run_id).tags["first"]


def _move(client: MlflowClient, name: str, version: int) -> None:
    """Set the alias and the tags; done twice it changes nothing. The alias first: the name is never without one."""
    client.set_registered_model_alias(name, "champion", str(version))
    client.set_model_version_tag(name, str(version), "lifecycle", "Production")
    for other in client.search_model_versions(f"name = '{name}'"):
        if int(other.version) != version and other.tags.get("lifecycle") == "Production":
            client.set_model_version_tag(name, str(other.version), "lifecycle", "Archived")
    if _number(client.get_registered_model(name).aliases.get("challenger")) == version:
        client.delete_registered_model_alias(name, "challenger")


def _close(client: MlflowClient, run_id: str, outcome: str) -> None:
    client.set_terminated(run_id, "KILLED" if outcome == "interrupted" else "FINISHED")
    client.set_tag(run_id, "outcome", outcome)  # last: until it is set, a later call settles the run


def _settle(client: MlflowClient, name: str, me: Callable[[], str]) -> list[Run]:
    """End the runs of dead promotions of this name; returns the chain, whose newest run has ended."""
    deadline = time.monotonic() + PATIENCE
    while True:
        runs = _runs(client, name)
        chain = _chain(client, name, runs)
        dead = [run for run in runs.values() if _open(run) and is_abandoned(run)]
        for run in dead:
            _take_over(client, run, me())
        if not dead and not (chain and _open(chain[-1])):
            return chain
        if not dead and time.monotonic() > deadline:
            tags = chain[-1].data.tags
            busy = f"{tags['who']} is still promoting version {tags['to']} of {name} after {PATIENCE} s: try again."
            fix = f"If that process died on another machine, call this again {LEASE} s after it started"
            raise Busy(f"{busy} {fix}: your call then completes or cancels it.")
        time.sleep(0 if dead else 0.1)


def _take_over(client: MlflowClient, run: Run, me: str) -> None:
    """End a dead promotion: complete it if it had written `go`, and void it otherwise."""
    run_id = run.info.run_id
    if write_once(client, run_id, f"owner-{len(_owners(run)) + 1}", me) != me:
        return  # another call was faster, and settles it
    tags = client.get_run(run_id).data.tags  # again: it may have ended just before it died
    if tags["outcome"] != "open":
        return
    outcome = "interrupted"
    if write_once(client, run_id, "commit", "void") != "void":
        with suppress(ModelNotFound):  # its version may have been deleted
            find_version(tags["name"], tags["to"], client=client)
            _move(client, tags["name"], int(tags["to"]))
            outcome = f"{tags['verb']}, completed by a later call"
    _close(client, run_id, outcome)


def _runs(client: MlflowClient, name: str) -> dict[str, Run]:
    """Return every promotion of a name by its run's id, deleted ones too."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return {}
    of_the_name = f"tags.name = '{name}'"
    runs = client.search_runs([experiment.experiment_id], of_the_name, ViewType.ALL, max_results=50000)
    return {run.info.run_id: run for run in runs}


def _chain(client: MlflowClient, name: str, runs: dict[str, Run]) -> list[Run]:
    """Return the runs that were next one after the other, oldest first."""
    head = client.get_experiment_by_name(f"{EXPERIMENT}-{name}")
    link, chain = head.tags["first"] if head else None, []
    while link:
        try:
            run = runs.get(link) or client.get_run(link)  # one that was opened since `runs` was read
        except MlflowException:
            run = None
        if run is None or run.info.lifecycle_stage == "deleted":
            fix = f"restore it with MlflowClient().restore_run({link!r})" if run else "restore a backup of the store"
            raise RegistryError(f"A promotion run of {name} was deleted, but the runs form a chain: {fix}.")
        chain.append(run)
        link = run.data.params.get("next")
    return chain


def _experiment(client: MlflowClient, name: str, **tags: str) -> Experiment:
    """Return the experiment of that name, created with these tags unless it exists."""
    with ignoring("RESOURCE_ALREADY_EXISTS"):
        client.create_experiment(name, tags=tags)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None  # it exists now; a deleted one is found, too
    return experiment


# Who owns a promotion, and whether it is still alive ---------------------------------------------------------------

_calls: set[str] = set()  # the calls of this process that are in progress


@contextmanager
def _calling() -> Iterator[Callable[[], str]]:
    """Yield a function that returns this call's owner id, which `is_abandoned` can read later."""
    call = uuid.uuid4().hex
    _calls.add(call)
    try:
        yield lambda: f"{this_process()}|{call}|{time.time():.0f}"
    finally:
        _calls.discard(call)


def _owners(run: Run) -> list[str]:
    number = range(2, len(run.data.params) + 2)
    return [run.data.tags["owner"], *(run.data.params[f"owner-{n}"] for n in number if f"owner-{n}" in run.data.params)]


def is_abandoned(run: Run) -> bool:
    """Return whether a promotion's owner can no longer end it: known on its own machine, elsewhere after the lease."""
    process, call, since = _owners(run)[-1].rsplit("|", 2)
    if abs(time.time() - float(since)) > LEASE or is_over(process):
        return True
    return process == this_process() and call not in _calls  # an error or an interrupt ended the call alone


def _champion(client: MlflowClient, name: str) -> int | None:
    """Return the version that the alias `champion` points at."""
    return _number(registered_model(name, client).aliases.get("champion"))


def _champions(chain: list[Run], now: int | None) -> list[int | None]:
    """Return the champions that a rollback goes back through, the current one last; those set by hand count, too."""
    stack: list[int | None] = []
    for tags in [run.data.tags for run in chain if _done(run)]:
        if (before := _number(tags["from"])) and stack[-1:] != [before]:
            stack.append(before)
        stack = stack[:-1] if tags["verb"] == "rolled back" else [*stack, int(tags["to"])]
    return stack if stack[-1:] == [now] else [*stack, now]


def _standing(chain: list[Run]) -> int | None:
    """Return the champion according to the promotions."""
    return next((_number(run.data.tags["to"]) for run in reversed(chain) if _done(run)), None)


def manual_moves(standing: int | None, now: int | None) -> list[list[object]]:
    """Return the history's row for an alias that is not where the promotions left it; none if it is."""
    evidence = f"no promotion moved the alias champion from {describe(standing)} to {describe(now)}"
    return [] if standing == now else [[None, None, None, standing, now, "set by hand", evidence]]


def _open(run: Run) -> bool:
    return run.data.tags["outcome"] == "open"


def _done(run: Run) -> bool:
    return run.data.tags["outcome"].startswith(("promoted", "rolled back"))


def describe(version: int | None) -> str:
    """Return a version, or that there is none, as a part of a sentence."""
    return "none" if version is None else f"version {version}"


def _number(version: str | int | None) -> int | None:
    return int(version) if version else None


@contextmanager
def store_errors(nothing_done: str) -> Iterator[None]:
    """Turn any error of the store into a RegistryError of one sentence."""
    try:
        yield
    except ModelNotFound as error:
        raise RegistryError(str(error)) from None
    except MlflowException as error:
        reason = first_line(error)
        raise RegistryError(f"{nothing_done}, because the store refused or did not respond: {reason}") from error
