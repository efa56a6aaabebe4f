"""`course doctor`: each check in both states, through the command."""

import json
import os
import shutil

import pytest
from fake_course import CHECKOUT

from course.doctor import CHECKS


@pytest.fixture
def healthy(fake):
    shutil.copy(CHECKOUT / "requirements.lock", fake.root)
    return fake


def doctor(fake, **env):
    done = fake.run("doctor", **env)
    assert "Traceback" not in done.stdout + done.stderr
    lines = dict.fromkeys(CHECKS)
    for line in done.stdout.splitlines():
        verdict, rest = line[:6], line[7:]
        (name,) = [name for name in CHECKS if rest.startswith(name)]
        lines[name] = None if verdict == "[ ok ]" else rest.removeprefix(name + ": ")
        assert verdict in ("[ ok ]", "[fail]") and (verdict == "[fail]" or rest == name)
    assert len(done.stdout.splitlines()) == len(CHECKS)
    assert done.returncode == (1 if any(lines.values()) else 0)
    return {name: failure for name, failure in lines.items() if failure}


def test_a_healthy_machine(healthy):
    assert doctor(healthy) == {}
    assert doctor(healthy, MLFLOW_TRACKING_URI="http://a", COURSE_TRACKING_URI="http://a") == {}


def test_packages_that_differ_from_the_lock(healthy):
    lock = healthy.root / "requirements.lock"
    lock.write_text(
        "click==0.1 \\\n    --hash=sha256:0\nno-such-thing==1.0\nabsent==1 ; sys_platform == 'beos'\n"
        "psutil==0.1\njupytext==0.1\n"
    )
    (name,) = found = doctor(healthy)
    assert name == "packages agree with requirements.lock"
    assert "click is " in found[name] and ", the lock says ==0.1; no-such-thing is missing" in found[name]
    assert found[name].endswith(" and 1 more: run `python install.py` in the course's folder")


@pytest.mark.skipif(os.name == "nt", reason="a Python under another path")
def test_a_kernel_of_another_python(healthy):
    folder = healthy.root / "jupyter" / "kernels" / "python3"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(
        json.dumps({"argv": ["/usr/bin/env", "python3"], "display_name": "other", "language": "python"})
    )
    found = doctor(healthy, JUPYTER_PATH=folder.parents[1])
    assert found == {
        "Jupyter starts this environment's kernel": "the kernel python3 that Jupyter finds first starts /usr/bin/env, "
        f"another Python: remove {folder}"
    }


def test_a_stray_tracking_uri(healthy):
    found = doctor(healthy, MLFLOW_TRACKING_URI="http://old:5000", COURSE_TRACKING_URI="http://new:5000")
    assert list(found) == ["no stray MLFLOW_TRACKING_URI"]
    assert "MLFLOW_TRACKING_URI is set to http://old:5000" in found["no stray MLFLOW_TRACKING_URI"]
    assert "unset it" in found["no stray MLFLOW_TRACKING_URI"]


@pytest.mark.parametrize("place", [".", "notebooks", "work"])
def test_an_old_mlruns(healthy, place):
    (healthy.root / place / "mlruns").mkdir(parents=True)
    found = doctor(healthy)
    assert list(found) == ["no old ./mlruns"]
    assert str((healthy.root / place / "mlruns").resolve()) in found["no old ./mlruns"]
    assert "mlflow migrate-filestore" in found["no old ./mlruns"]


def test_a_full_disk(healthy):
    (healthy.root / "fake").mkdir()
    (healthy.root / "fake" / "sitecustomize.py").write_text(
        "import shutil\nreal = shutil.disk_usage\nshutil.disk_usage = lambda path: real(path)._replace(free=3e8)\n"
    )
    found = doctor(healthy, PYTHONPATH=healthy.root / "fake")
    assert list(found) == ["disk space"]
    assert found["disk space"].startswith("0.3 GB free at ") and found["disk space"].endswith("free some space")


def test_a_state_folder_that_cannot_be_written(healthy):
    healthy.state.write_text("a file, not a folder")
    found = doctor(healthy)
    assert list(found) == ["the folder for runs and artifacts is writable"]
    assert str(healthy.state) in found["the folder for runs and artifacts is writable"]
    assert "change its owner or its mode" in found["the folder for runs and artifacts is writable"]


def test_a_check_that_fails_itself_is_a_line_too(healthy):
    (healthy.root / "requirements.lock").unlink()
    found = doctor(healthy)
    assert "the check itself failed (FileNotFoundError" in found["packages agree with requirements.lock"]
