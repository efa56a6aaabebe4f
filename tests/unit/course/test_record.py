"""`course record` replaces a record as a whole, and only by what all of its tests found."""

import json
import subprocess

import environments
import pytest
from click.testing import CliRunner

from course import record
from course.cli import main

NAME = "09_environments"


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


def test_a_record_is_replaced_by_what_its_tests_found(renewed):
    assert renewed("uv", "docker") == (f"{NAME}.json is renewed.\n", {"docker": 2, "uv": 2})


@pytest.mark.parametrize(
    ("parts", "returncode", "why"),
    [(("docker", "uv"), 1, "a test failed"), (("uv",), 0, "a test was skipped, which makes docker")],
)
def test_a_record_stays_where_a_test_fails_or_is_skipped(renewed, parts, returncode, why):
    output, seconds = renewed(*parts, returncode=returncode)
    assert f"{NAME}.json is as it was, since {why}: " in output and seconds == {"docker": 1, "uv": 1}


def test_an_unknown_record_is_refused():
    output = CliRunner().invoke(main, ["record", "08"]).output
    assert "There is no record 08: the records are 06_fresh_environment, 09_environments, 10_serving." in output


@environments.compares
def test_a_test_that_finds_another_fact_says_how_to_renew_the_record(monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(AssertionError, match=f"command is another in {NAME}.json: run `course record {NAME}`"):
        environments.check(NAME, {"command": "make coffee"}, ["command"], part="uv")
