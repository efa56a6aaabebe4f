"""What runs record: the commit, also where there is none, and the scores without loss."""

import shutil
import subprocess
import sys

import pytest

from pystock import runs


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The package as if it lay in a folder of its own, where git finds no configuration of the person."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "none"))
    for name in ("GIT_DIR", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "a checkout"
    (folder / "src" / "pystock").mkdir(parents=True)
    monkeypatch.setattr(runs, "__file__", str(folder / "src" / "pystock" / "runs.py"))
    return folder


def git(folder, *arguments):
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_the_commit_is_that_of_the_packages_checkout(elsewhere, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the working directory does not count
    assert runs.git_commit() == "unknown"  # no repository
    git(elsewhere, "init", "--quiet")
    assert runs.git_commit() == "unknown"  # and one without a commit
    commits = []
    for message in ("first", "second"):
        git(elsewhere, "commit", "--quiet", "--allow-empty", "--message", message)
        commits.append(runs.git_commit())
        assert len(commits[-1]) >= 4 and git(elsewhere, "rev-parse", "HEAD").startswith(commits[-1])
    assert commits[0] != commits[1]


def test_no_git_or_one_that_hangs_is_unknown(elsewhere, monkeypatch):
    def hangs(*arguments, **options):
        raise subprocess.TimeoutExpired("git", options["timeout"])

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", hangs)
        assert runs.git_commit() == "unknown"
    monkeypatch.setenv("PATH", str(elsewhere))
    assert runs.git_commit() == "unknown"


def test_what_takes_long_to_import_is_imported_late():
    code = (
        "import sys, pystock.data_pipeline.tracking, pystock.models, pystock.registry, pystock.tuning, course.session; "
        "print([name for name in ('tensorflow', 'keras', 'exchange_calendars') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
