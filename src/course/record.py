"""Renew chapters/records/: what slow and Docker tests tried in other environments, and chapters show."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from course.errors import CourseError
from course.paths import root

_FRESH, _DOCKER = "tests/slow/test_fresh_environments.py", "tests/docker"
TESTS = {  # the tests that make each record
    "10_fresh_environment": [f"{_FRESH}::test_the_pilot_model_predicts_in_a_fresh_environment"],
    "14_environments": [
        f"{_FRESH}::test_training_in_a_fresh_environment_gives_the_same_results",
        f"{_DOCKER}/test_docker_projects.py::test_pystock_training_logs_from_a_container_what_it_logs_without",
    ],
    "16_serving": [
        f"{_DOCKER}/test_docker_batch.py::test_a_job_scores_what_it_can_and_the_exit_code_says_so",
        f"{_DOCKER}/test_docker_serving.py::test_what_is_in_it_and_how_it_answers",
    ],
}


def renew(name: str) -> Path:
    """Replace a record with the results of its tests. Raises CourseError if a test fails or is skipped."""
    if name not in TESTS:
        raise CourseError(f"There is no record {name}: the records are {', '.join(TESTS)}.")
    record = root() / "chapters" / "records" / f"{name}.json"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pytest", "-m", "", *TESTS[name]]
        failed = subprocess.run(command, cwd=root(), env=os.environ | {"COURSE_RECORDS": folder}).returncode
        made = Path(folder, record.name)
        missing = _parts(record) - _parts(made)
        if failed or missing:
            why = "a test failed" if failed else f"a test that makes {', '.join(sorted(missing))} was skipped"
            raise CourseError(f"{record.name} was not changed, because {why}: see above, fix the cause, and try again.")
        return Path(shutil.copyfile(made, record))


def _parts(record: Path) -> set[str]:
    return set(json.loads(record.read_text(encoding="utf-8"))) if record.exists() else set()
