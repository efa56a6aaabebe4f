"""`course learners` for the tests: run it, and read what a teacher hands over to each learner."""

import csv
import os
import re
import subprocess
from pathlib import Path
from unittest.mock import patch

from click.testing import CliRunner
from fake_course import clean_environment

from course.cli import main
from course.environment import QUIET_MLFLOW


def run_learners(file: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `course learners FILE` in this process."""
    env = clean_environment(COURSE_STATE=file.parent / "state", **environment)
    with patch.dict(os.environ, env, clear=True):
        done = CliRunner().invoke(main, ["learners", str(file)], catch_exceptions=False)
    return subprocess.CompletedProcess(["course", "learners", file], done.exit_code, done.stdout, done.stderr)


def accounts_in(file: Path) -> list[dict]:
    with open(file, newline="") as book:
        return list(csv.DictReader(book))


def variables(row: dict) -> dict[str, str]:
    """What a learner sets, out of the lines that the teacher hands over."""
    assert len(row["lines"].splitlines()) == 3
    return dict(re.findall(r"(\w+)=(\S+)", row["lines"]))


def as_learner(account: dict, **more: str):
    return patch.dict(os.environ, QUIET_MLFLOW | variables(account) | more)
