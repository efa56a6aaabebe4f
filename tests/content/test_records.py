"""The records that chapters show of what slow and Docker tests tried, held against requirements.lock."""

import json
import re

import pytest
from environments import COMPARES, IMPORTANT, RECORDS, locked

from course.record import TESTS

PARTS = {"10_fresh_environment": [""], "14_environments": ["docker", "local", "uv"], "16_serving": ["batch", "serving"]}


def parts(name: str) -> dict[str, dict]:
    """The parts of a record, by name; a record without parts is one, without a name."""
    record = json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))
    return {"": record} if "date" in record else record


def test_each_record_has_tests_that_renew_it():
    assert sorted(TESTS) == sorted(file.stem for file in RECORDS.iterdir())
    for test in sum(TESTS.values(), []):
        file, function = test.split("::")
        assert f"\ndef {function}(" in (RECORDS.parents[1] / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PARTS)
def test_a_record_agrees_with_the_lock_and_names_no_machine(name):
    assert sorted(parts(name)) == PARTS[name]
    for part, record in parts(name).items():
        pins = {package: locked().get(package) for package in record["packages"]}
        assert record["packages"] == pins or not COMPARES, f"{name} {part}: run `course record {name}`"
    text = (RECORDS / f"{name}.json").read_text(encoding="utf-8")
    assert not re.search(r"https?:|/(?:root|home|tmp|work|srv|Users|usr)/|[A-Z]:\\\\", text)


def test_the_environments_on_record_gave_the_same_predictions_and_scores():
    first, *others = parts("14_environments").values()
    assert set(first["packages"]) == set(IMPORTANT)
    for other in others:
        assert [other[name] for name in ("predictions", "metrics")] == [first["predictions"], first["metrics"]]
