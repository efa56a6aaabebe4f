"""`course record` replaces a record as a whole, and only by what all of its tests found."""

import json
import subprocess

import environments
import pytest
from click.testing import CliRunner

from course import record
from course.cli import main

NAME = "14_environments"


@pytest.fixture
def renewed(fake, monkeypatch):
    """Call it with the parts that the tests find, of which none runs: the command's output, and the parts after it."""
    file = fake.root / "chapters" / "records" / f"{NAME}.json"
    file.parent.mkdir()
    file.write_text('{"docker": {"seconds": 1}, "uv": {"seconds": 1}}')

    def renew(*parts: str, returncode: int = 0) -> tuple[str, dict[str, int]]:
        def run(command, cwd, env):
            assert command[-2:] == record.TESTS[NAME] and cwd == fake.root
            monkeypatch.setattr(environments, "NEW_RECORDS", env["COURSE_RECORDS"])
            for part in parts:
                environments.check(NAME, {"seconds": 2}, ["seconds"], part=part)
            return subprocess.CompletedProcess(command, returncode)

        monkeypatch.setattr(record.subprocess, "run", run)
        with fake.here():
            output = CliRunner().invoke(main, ["record", NAME]).output
        return output, {part: found["seconds"] for part, found in json.loads(file.read_text()).items()}

    return renew


@pytest.mark.parametrize(("parts", "returncode", "said", "seconds"), [
    (("uv", "docker"), 0, "is updated.\n", 2),
    (("docker", "uv"), 1, "was not changed, because a test failed: ", 1),
    (("uv",), 0, "was not changed, because a test that makes docker was skipped: ", 1),
])  # fmt: skip
def test_a_record_is_replaced_only_where_all_tests_passed(renewed, parts, returncode, said, seconds):
    output, found = renewed(*parts, returncode=returncode)
    assert f"{NAME}.json {said}" in output and found == {"docker": seconds, "uv": seconds}


def test_an_unknown_record_is_refused():
    output = CliRunner().invoke(main, ["record", "08"]).output
    assert "There is no record 08: the records are 10_fresh_environment, 14_environments, 16_serving." in output


@environments.compares
def test_a_test_that_finds_another_fact_says_how_to_renew_the_record(monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(AssertionError, match=f"command is another in {NAME}.json: run `course record {NAME}`"):
        environments.check(NAME, {"command": "make coffee"}, ["command"], part="uv")
