"""Promotions in one process: their order, their record, what is moved past them, and what cannot be done."""

from unittest.mock import Mock

import mlflow
import pandas as pd
import pytest
from messages import assert_on_page
from mlflow.protos.databricks_pb2 import BAD_REQUEST, PERMISSION_DENIED
from promotions import champion, passes, registered, rows, states

from pystock import registry
from pystock.registry import promotion
from pystock.registry.gate import Condition


def test_promotions_and_rollbacks_in_order(tracked, no_gate):
    name, client = registered(4), mlflow.MlflowClient()
    client.set_registered_model_alias(name, "challenger", "2")
    first = registry.promote(name, 1, why="the first", who="ada")
    assert repr(first) == f"promoted: the champion of {name} is version 1 (was none)"
    second = registry.promote(name, 2, why="better", who="bob")
    assert (second.before, second.version) == (1, 2)
    assert states(name) == {1: "Archived", 2: "Production", 3: None, 4: None}
    assert "challenger" not in client.get_registered_model(name).aliases
    client.set_registered_model_alias(name, "challenger", "4")
    third = registry.promote(name, 3, why="better still", who="bob")
    assert client.get_registered_model(name).aliases["challenger"] in ("4", 4)
    assert registry.rollback(name, why="complaints", who="eve").version == 2
    assert states(name) == {1: "Archived", 2: "Production", 3: "Archived", 4: None}
    assert registry.rollback(name, why="more of them", who="eve").version == 1  # and not forward to 3
    with pytest.raises(registry.RegistryError, match="has no earlier champion, so there is nothing to roll back to"):
        registry.rollback(name, why="and more")
    registry.promote(name, 4, why="the next", who="ada")
    assert registry.rollback(name, why="again", who="eve").version == 1
    assert rows(name, "who", "why", "from", "to", "outcome") == [
        ("ada", "the first", None, 1, "promoted"),
        ("bob", "better", 1, 2, "promoted"),
        ("bob", "better still", 2, 3, "promoted"),
        ("eve", "complaints", 3, 2, "rolled back"),
        ("eve", "more of them", 2, 1, "rolled back"),
        ("ada", "the next", 1, 4, "promoted"),
        ("eve", "again", 4, 1, "rolled back"),
    ]
    run = client.get_run(second.run_id)
    assert client.get_model_version(name, "3").tags["promotion"] == third.run_id
    assert run.info.status == "FINISHED" and run.data.tags["mlflow.note.content"] == "better"
    when = registry.history(name)["when"]
    assert when.is_monotonic_increasing and when.iloc[1] == pd.Timestamp(run.info.start_time, unit="ms", tz="UTC")


def test_the_callers_run_and_other_names_are_untouched(tracked, no_gate):
    one, other = registered(1), registered(2, champion=2)
    mlflow.set_experiment("mine")
    with mlflow.start_run() as run:
        registry.promote(one, 1, why="inside a run")
        assert mlflow.active_run().info.run_id == run.info.run_id
        mlflow.log_param("mine", 1)
    with mlflow.start_run() as later:
        assert later.info.experiment_id == run.info.experiment_id
    assert mlflow.get_run(run.info.run_id).data.params == {"mine": "1"}
    assert rows(one, "to") == [(1,)] and rows(other, "to") == [(2,)]


def test_a_refusal_lists_every_condition_that_failed_and_is_recorded(tracked, monkeypatch):
    name = registered(2)
    evidence = {"a": "-0.3", "b": "0.1", "c": "7 %", "d": "1"}
    conditions = [Condition(letter, letter in "bd", text) for letter, text in evidence.items()]
    monkeypatch.setattr(promotion, "judge", lambda *_: conditions)
    with pytest.raises(registry.Refused) as caught:
        registry.promote(name, 2, why="a try", who="ada")
    assert str(caught.value) == f"Version 2 of {name} is not promoted: 2 of 4 conditions failed.\n- a: -0.3\n- c: 7 %"
    assert_on_page("is not promoted", str(caught.value))
    assert caught.value.conditions == conditions and champion(name) is None
    assert rows(name, "who", "to", "outcome", "evidence") == [("ada", 2, "refused", "a: -0.3; b: 0.1; c: 7 %; d: 1")]


def dies_at_the_alias(name, monkeypatch):
    """Promote version 2 of a name, and interrupt it before it moves the alias."""
    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "set_registered_model_alias", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            registry.promote(name, 2, why="too slow")


def test_an_interrupted_promotion_of_a_version_that_is_gone_is_not_settled_as_promoted(tracked, no_gate, monkeypatch):
    name = registered(3, champion=1)
    dies_at_the_alias(name, monkeypatch)
    assert rows(name, "evidence")[-1] == ("the next call to promote or rollback will complete or cancel it",)
    mlflow.MlflowClient().delete_model_version(name, "2")
    registry.promote(name, 3, why="the next")
    assert rows(name, "from", "to", "outcome")[1:] == [(1, 2, "interrupted"), (1, 3, "promoted")]
    assert champion(name) == 3


def test_a_call_on_another_machine_is_taken_for_dead_after_the_lease(tracked, no_gate, monkeypatch):
    name = registered(3, champion=1)
    dies_at_the_alias(name, monkeypatch)
    monkeypatch.setattr("pystock.processes.machine", lambda: "elsewhere 1")
    monkeypatch.setattr(promotion, "PATIENCE", 0.2)
    assert rows(name, "outcome")[-1] == ("in progress",)
    with pytest.raises(registry.Busy, match="call this again 60 s after it started: your call then completes"):
        registry.promote(name, 3, why="the next")
    monkeypatch.setattr(promotion, "LEASE", -1)
    registry.promote(name, 3, why="the next")
    assert rows(name, "outcome")[1:] == [("promoted, completed by a later call",), ("promoted",)]


def test_an_alias_moved_by_hand_is_reported_and_the_next_promotion_records_the_true_champion(tracked, no_gate):
    name, client = registered(4, champion=1), mlflow.MlflowClient()
    client.set_registered_model_alias(name, "champion", "3")
    moved = (None, 1, 3, "set by hand", "no promotion moved the alias champion from version 1 to version 3")
    assert rows(name, "who", "from", "to", "outcome", "evidence")[-1] == moved
    run = client.get_run(registry.promote(name, 4, why="ours again", who="bob").run_id)
    assert run.data.tags["from"] == "3"
    assert run.data.tags["mlflow.note.content"] == f"ours again\n\nBefore: {moved[-1]}."
    assert rows(name, "who", "from", "to", "outcome", "evidence")[1] == moved
    assert {version for version, state in states(name).items() if state == "Production"} == {4}
    client.delete_registered_model_alias(name, "champion")
    assert rows(name, "from", "to", "outcome")[2:] == [(3, 4, "promoted"), (4, None, "set by hand")]
    assert registry.rollback(name, why="back").version == 4


def test_an_alias_set_before_the_first_promotion_is_what_a_rollback_goes_back_to(tracked, no_gate):
    name = registered(2)
    table = registry.history(name)
    assert list(table) == ["who", "when", "why", "from", "to", "outcome", "evidence"] and table.empty
    mlflow.MlflowClient().set_registered_model_alias(name, "champion", "2")
    assert rows(name, "from", "to", "outcome") == [(None, 2, "set by hand")]
    registry.promote(name, 1, why="ours")
    assert registry.rollback(name, why="back").version == 2


def test_an_alias_moved_while_the_gate_judges_stays(tracked, monkeypatch):
    name, client = registered(3), mlflow.MlflowClient()

    def judge(*_):
        client.set_registered_model_alias(name, "champion", "3")
        return passes()

    monkeypatch.setattr(promotion, "judge", judge)
    with pytest.raises(registry.Overtaken, match="champion by hand, from none to version 3, after the comparison"):
        registry.promote(name, 2, why="unlucky")
    assert rows(name, "to", "outcome") == [(2, "overtaken"), (3, "set by hand")] and champion(name) == 3
    monkeypatch.setattr(promotion, "judge", passes)
    registry.promote(name, 2, why="again")
    assert champion(name) == 2


def refused(call, *arguments, **options) -> str:
    with pytest.raises(registry.RegistryError) as caught:
        call(*arguments, **options)
    text = str(caught.value)
    assert "\n" not in text and text.endswith("."), text
    return text


@pytest.mark.parametrize(("call", "arguments", "options"), [
    (registry.promote, [1], {"why": "x"}),
    (registry.rollback, [], {"why": "x"}),
    (registry.history, [], {}),
    (registry.gate, [1], {}),
    (registry.set_lifecycle, [1, "Staging"], {}),
])  # fmt: skip
def test_names_and_versions_that_do_not_exist_are_named(tracked, no_gate, call, arguments, options):
    name = registered(2)
    assert "There is no registered model 'nobody'" in refused(call, "nobody", *arguments, **options)
    for wrong in (7, "first", 0) if arguments else ():
        text = refused(call, name, wrong, *arguments[1:], **options)
        assert f"{name} has no version {wrong!r}: it has 1, 2." in text


def test_what_nobody_can_do_is_said_and_leaves_no_trace(tracked, no_gate):
    name = registered(1)
    assert "nothing to roll back to" in refused(registry.rollback, name, why="x")
    assert "because `why` is empty" in refused(registry.promote, name, 1, why=" ")
    registry.promote(name, 1, why="x")
    assert "is already the champion" in refused(registry.promote, name, 1, why="x")
    assert len(registry.history(name)) == 1


def test_a_deleted_promotion_is_named_with_the_way_to_restore_it(tracked, no_gate):
    name, client = registered(3, champion=1), mlflow.MlflowClient()
    run_id = registry.promote(name, 2, why="x").run_id
    client.delete_run(run_id)
    for call, options in ((registry.history, {}), (registry.rollback, {"why": "x"})):
        assert f"restore it with MlflowClient().restore_run('{run_id}')." in refused(call, name, **options)
    client.restore_run(run_id)
    assert registry.rollback(name, why="x").version == 1


def test_an_account_that_may_not_write_to_the_name_claims_nothing(tracked, no_gate, monkeypatch):
    """Else the next promotion, made by an account that may, would set the alias for it."""
    name = registered(3, champion=1)
    denied = Mock(side_effect=mlflow.MlflowException("Permission denied", PERMISSION_DENIED))
    with monkeypatch.context() as patch:
        for write in ("set_model_version_tag", "set_registered_model_alias"):
            patch.setattr(mlflow.MlflowClient, write, denied)
        with pytest.raises(registry.RegistryError, match="refused or did not respond: Permission denied"):
            registry.promote(name, 2, why="not mine")
    registry.promote(name, 3, why="the next")
    assert rows(name, "from", "to", "outcome")[1:] == [(1, 2, "interrupted"), (1, 3, "promoted")]


def test_a_tag_that_another_call_sets_first_is_no_obstacle(tracked, no_gate, monkeypatch):
    """Two calls set a new tag at once: the database refuses the second row."""
    name = registered(1)
    late = Mock(side_effect=[mlflow.MlflowException("(psycopg.errors.UniqueViolation)", BAD_REQUEST), None])
    monkeypatch.setattr(mlflow.MlflowClient, "set_registered_model_tag", late)
    registry.promote(name, 1, why="at once")
    assert champion(name) == 1 and late.call_count == 2


def test_a_store_that_does_not_answer_is_said_in_one_sentence(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    with pytest.raises(registry.RegistryError, match="Version 1 of m is not promoted, because the store refused or"):
        registry.promote("m", 1, why="x")


def test_the_life_cycle_has_its_steps(tracked, no_gate, monkeypatch):
    name = registered(3, champion=1)
    signature = Condition("signature", False, "it does not declare its inputs")
    monkeypatch.setattr(promotion, "signature_of", lambda version: signature)
    reason = "which requires a signature with an output named probability: it does not declare its inputs"
    assert reason in refused(registry.set_lifecycle, name, 2, "Staging")
    monkeypatch.setattr(promotion, "signature_of", lambda version: signature._replace(passed=True))
    for state in ("Staging", "Development", "Archived", "Development", "Staging", "Archived"):
        registry.set_lifecycle(name, 2, state)
        assert states(name)[2] == state
    assert "from there it may go to Development" in refused(registry.set_lifecycle, name, 2, "Staging")
    assert "promote it, which runs the gate" in refused(registry.set_lifecycle, name, 2, "Production")
    assert "may go to Staging or Archived" in refused(registry.set_lifecycle, name, 3, "Retired")
    assert "while it is the champion" in refused(registry.set_lifecycle, name, 1, "Archived")
    mlflow.MlflowClient().set_registered_model_alias(name, "champion", "3")
    registry.set_lifecycle(name, 1, "Archived")
    registry.promote(name, 2, why="back from the archive")
    assert states(name) == {1: "Archived", 2: "Production", 3: None}
