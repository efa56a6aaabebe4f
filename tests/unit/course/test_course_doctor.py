"""`course doctor`: each check in both states, through the command."""

import json
import os
import shutil

import pytest
from messages import assert_on_page

from course.doctor import CHECKS


def doctor(fake, **env: str) -> dict[str, str]:
    """Run it, and return the failures by the name of their check."""
    done = fake.invoke("doctor", **env)
    lines = done.stdout.splitlines()
    assert len(lines) == len(CHECKS)
    failures = {}
    for name, line in zip(CHECKS, lines):
        if line != f"[ ok ] {name}":
            assert line.startswith(f"[fail] {name}: ")
            failures[name] = line.removeprefix(f"[fail] {name}: ")
    assert done.exit_code == bool(failures)
    return failures


def test_a_healthy_machine_passes(fake):
    assert doctor(fake) == {} and doctor(fake, MLFLOW_TRACKING_URI="http://a", COURSE_TRACKING_URI="http://a") == {}


def test_packages_that_differ_from_the_lock_are_named(fake):
    (fake.root / "requirements.lock").write_text(
        "# a comment\nclick==0.1 \\\n    --hash=sha256:0\nno-such-thing==1.0\nabsent==1 ; sys_platform == 'beos'\n"
        "psutil==0.1\njupytext==0.1\n"
    )
    (failure,) = doctor(fake).values()
    assert failure.startswith("click is ") and ", the lock requires ==0.1; no-such-thing is missing; p" in failure
    assert failure.endswith(" and 1 more: run `python install.py` in the course folder")
    assert "no-such-thing" not in doctor(fake, COURSE_SUBSET="1")["packages agree with requirements.lock"]


@pytest.mark.skipif(os.name == "nt", reason="a Python under another path")
def test_a_kernel_of_another_python_is_named(fake):
    folder = fake.root / "jupyter" / "kernels" / "python3"
    folder.mkdir(parents=True)
    kernel = {"argv": ["/usr/bin/env", "python3"], "display_name": "other", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(kernel))
    ((check, failure),) = doctor(fake, JUPYTER_PATH=folder.parents[1]).items()
    assert check == "Jupyter starts this environment's kernel"
    assert failure.endswith(f"starts another Python, /usr/bin/env: remove {folder}")
    assert_on_page("the kernel python3", failure)


def test_a_stray_tracking_uri_is_named(fake):
    found = doctor(fake, MLFLOW_TRACKING_URI="http://ada:secret@old:5000", COURSE_TRACKING_URI="http://new:5000")
    failure = found["the store and its address"]
    assert "is set to http://old:5000" in failure and "unset it" in failure


@pytest.mark.parametrize("folder", [".", "notebooks", "work"])
def test_an_old_mlruns_is_found(fake, folder):
    mlruns = (fake.root / folder / "mlruns").resolve()
    mlruns.mkdir(parents=True)
    ((check, failure),) = doctor(fake).items()
    assert check == "old ./mlruns folders" and str(mlruns) in failure and "mlflow migrate-filestore" in failure


def test_a_full_disk_is_found(fake, monkeypatch):
    usage = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=3e8))
    ((check, failure),) = doctor(fake).items()
    assert check == "disk space" and "has 0.3 GB of free space" in failure and failure.endswith("free some space")


def test_a_state_folder_that_cannot_be_written_is_named(fake):
    fake.state.write_text("a file, not a folder")
    (failure,) = doctor(fake).values()
    assert failure.startswith(f"{fake.state} is not writable") and "change its owner" in failure


def test_a_check_that_fails_itself_is_a_line_too(fake):
    (fake.root / "requirements.lock").unlink()
    assert "the check itself failed (FileNotFoundError" in doctor(fake)["packages agree with requirements.lock"]
