"""Promotions in one process: their order, their record, what is moved past them, and what cannot be done."""

from unittest.mock import Mock

import filelock
import mlflow
import pandas as pd
import pytest
from messages import assert_on_page
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from promotions import champion, passes, promote, registered, rows

from pystock import processes, registry
from pystock.model_uri import ModelNotFound
from pystock.registry import promotion
from pystock.registry.gate import Condition


def test_promotions_and_rollbacks_in_order(tracked, no_gate, monkeypatch):
    name, client = registered(4), mlflow.MlflowClient()
    client.set_registered_model_alias(name, "challenger", "2")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    promote(name, 1, why="the first")
    monkeypatch.setenv("GITHUB_ACTOR", "bob")
    assert promote(name, 2, why="better") == passes()
    assert "challenger" not in client.get_registered_model(name).aliases
    client.set_registered_model_alias(name, "challenger", "4")
    promote(name, 3, why="better still")
    assert client.get_registered_model(name).aliases["challenger"] in ("4", 4)
    assert registry.rollback(name, why="complaints") == "2"
    assert registry.rollback(name, why="more of them") == "1"  # and not forward to 3
    with pytest.raises(registry.RegistryError, match="has no earlier champion, so there is nothing to roll back to"):
        registry.rollback(name, why="and more")
    promote(name, 4, why="the next")
    assert registry.rollback(name, why="again") == "1"
    assert rows(name, "who", "why", "from", "to", "outcome") == [
        ("ada", "the first", None, 1, "promoted"),
        ("bob", "better", 1, 2, "promoted"),
        ("bob", "better still", 2, 3, "promoted"),
        ("bob", "complaints", 3, 2, "rolled back"),
        ("bob", "more of them", 2, 1, "rolled back"),
        ("bob", "the next", 1, 4, "promoted"),
        ("bob", "again", 4, 1, "rolled back"),
    ]
    version = client.get_model_version(name, "3")
    run = client.get_run(version.tags["promotion"])
    assert version.tags["validation_status"] == "approved"
    assert (run.info.status, run.data.tags["mlflow.note.content"]) == ("FINISHED", "better still")
    assert run.data.metrics == {"brier_skill_low": 0.1} and run.data.tags["evidence"] == "passed  gate: left out"
    when = registry.history(name)["when"]
    assert when.is_monotonic_increasing and when.iloc[2] == pd.Timestamp(run.info.start_time, unit="ms", tz="UTC")


def test_the_callers_run_and_other_names_are_untouched(tracked, no_gate):
    one, other = registered(1), registered(2, champion=2)
    mlflow.set_experiment("mine")
    with mlflow.start_run() as run:
        promote(one, 1)
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
        promote(name, 2)
    assert str(caught.value) == f"Version 2 of {name} is not promoted: 2 of 4 conditions failed.\n- a: -0.3\n- c: 7 %"
    assert_on_page("is not promoted", str(caught.value))
    assert caught.value.conditions == conditions and champion(name) is None
    assert mlflow.MlflowClient().get_model_version(name, "2").tags == {"validation_status": "rejected"}
    said = "FAILED  a: -0.3\npassed  b: 0.1\nFAILED  c: 7 %\npassed  d: 1"
    assert rows(name, "to", "outcome", "evidence") == [(2, "refused", said)]


@pytest.mark.parametrize("write", ["set_registered_model_alias", "set_model_version_tag"])
def test_an_interrupted_promotion_is_named_and_the_next_call_closes_its_record(tracked, no_gate, monkeypatch, write):
    name = registered(3, champion=1)
    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, write, Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            promote(name, 2)
    moved = write == "set_model_version_tag"
    assert (champion(name), rows(name, "to", "outcome")[1:]) == (2 if moved else 1, [(2, "interrupted")])
    promote(name, 3)
    first = (1, 2, "promoted") if moved else (1, 2, "interrupted")
    assert rows(name, "from", "to", "outcome")[1:] == [first, (2 if moved else 1, 3, "promoted")]
    tags = mlflow.MlflowClient().get_model_version(name, "2").tags
    assert tags.get("validation_status") == ("approved" if moved else None)


def test_an_alias_moved_by_hand_is_reported_and_the_next_promotion_records_the_true_champion(tracked, no_gate):
    name, client = registered(4, champion=1), mlflow.MlflowClient()
    client.set_registered_model_alias(name, "champion", "3")
    moved = ("", None, "", 1, 3, "not recorded", "moved without a record")
    assert rows(name, *registry.promotion.COLUMNS)[-1] == moved
    promote(name, 4)
    client.delete_registered_model_alias(name, "champion")
    expected = [(None, 1, "promoted"), (1, 3, "not recorded"), (3, 4, "promoted"), (4, None, "not recorded")]
    assert rows(name, "from", "to", "outcome") == expected
    assert registry.rollback(name, why="to what passed the gate") == "4"


def test_an_alias_set_before_the_first_promotion_is_what_a_rollback_goes_back_to(tracked, no_gate):
    name = registered(2)
    table = registry.history(name)
    assert list(table) == ["who", "when", "why", "from", "to", "outcome", "evidence"] and table.empty
    mlflow.MlflowClient().set_registered_model_alias(name, "champion", "2")
    assert rows(name, "from", "to", "outcome") == [(None, 2, "not recorded")]
    promote(name, 1)
    assert registry.rollback(name, why="back") == "2"
    expected = [(None, 2, "not recorded"), (2, 1, "promoted"), (1, 2, "rolled back")]
    assert rows(name, "from", "to", "outcome") == expected


def changes_while_judging(monkeypatch, change):
    def judge(*_):
        change()
        return passes()

    monkeypatch.setattr(promotion, "judge", judge)


def test_an_alias_moved_while_the_gate_judges_stays(tracked, monkeypatch):
    name, client = registered(3), mlflow.MlflowClient()
    changes_while_judging(monkeypatch, lambda: client.set_registered_model_alias(name, "champion", "3"))
    with pytest.raises(registry.RegistryError, match="got another champion meanwhile, and version 2 was not compared"):
        promote(name, 2)
    assert rows(name, "to", "outcome") == [(2, "overtaken"), (3, "not recorded")] and champion(name) == 3


def test_a_promotion_on_another_machine_that_closes_the_record_wins(tracked, monkeypatch):
    """There the lock does not reach: the other one takes this one for dead."""
    name = registered(3, champion=None)
    changes_while_judging(monkeypatch, lambda: promotion._settle(name))
    with pytest.raises(registry.RegistryError, match="retry"):
        promote(name, 2)
    assert rows(name, "to", "outcome") == [(2, "overtaken")] and champion(name) is None


def test_a_second_promotion_waits_and_then_says_so(tracked, no_gate, monkeypatch):
    name = registered(1)
    monkeypatch.setattr(promotion, "alone", lambda work: processes.alone(work, 0.1))
    with processes.alone(f"promotion {mlflow.get_registry_uri()} {name}"), pytest.raises(filelock.Timeout):
        promote(name, 1)
    promote(name, 1)


def test_what_cannot_be_done_is_named_and_leaves_no_trace(tracked, no_gate):
    name = registered(2)
    for call in (lambda: promote("nobody", 1), lambda: registry.history("nobody")):
        with pytest.raises(ModelNotFound, match="There is no registered model 'nobody'"):
            call()
    for wrong in (7, "first", 0):
        with pytest.raises(ModelNotFound, match=f"{name} has no version {wrong!r}: it has 1, 2."):
            promote(name, wrong)
    with pytest.raises(registry.RegistryError, match="nothing to roll back to"):
        registry.rollback(name, why="x")
    promote(name, 1)
    with pytest.raises(registry.RegistryError, match="is already the champion"):
        promote(name, 1)
    assert len(registry.history(name)) == 1


def test_an_account_that_may_not_write_to_the_name_leaves_nothing(tracked, no_gate, monkeypatch):
    name = registered(2)
    denied = Mock(side_effect=MlflowException("Permission denied", PERMISSION_DENIED))
    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "set_registered_model_tag", denied)
        with pytest.raises(MlflowException, match="Permission denied"):
            promote(name, 2)
    assert registry.history(name).empty
