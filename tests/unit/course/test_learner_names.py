"""`course learners` refuses a file with a name that cannot be, before it calls any server."""

import pytest
from class_accounts import run_learners
from mlflow.store.workspace.abstract_store import WorkspaceNameValidator

from course.workbench.learners import TAKEN


@pytest.mark.parametrize(("text", "number"), [
    ("ada\nBob\n", 2),
    ("# class\n\nx\n", 3),
    ("ada lovelace\n", 1),
    ("ada\nbob\nada # again\n", 3),
    ("admin\n", 1),
    ("ada\ndefault\n", 2),
    ("api", 1),
    ("-ada\n", 1),
    ("a" * 64, 1),
    ("åda\n", 1),
])  # fmt: skip
def test_a_name_that_cannot_be_is_refused_with_its_line(tmp_path, text, number):
    file = tmp_path / "names.txt"
    file.write_text(text)
    done = run_learners(file)
    assert done.returncode == 1 and f"Error: {file}, line {number}: `" in done.stderr
    assert list(tmp_path.iterdir()) == [file]


def test_mlflow_takes_the_same_names():
    assert set(TAKEN) == WorkspaceNameValidator._RESERVED | {"admin", "default"}
    assert WorkspaceNameValidator.pattern() == "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
