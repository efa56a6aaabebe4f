"""The course with the network cut, as an ordinary user, from a path with spaces and letters outside ASCII."""

import os
import platform
import re
import shutil
import signal
import sqlite3
import subprocess
from contextlib import closing
from itertools import takewhile
from pathlib import Path

import pytest
from fake_course import copy_checkout, open_folder

from course.chapters import all_chapters

NOBODY = 65534
SYSTEM_PYTHON = "/usr/bin/python3"  # one that every user may run; root's own may lie in root's home
PROVOKED = ("practice", "promotions", "data-features", "training", "batch")  # where 07, 11, 13, 14 and 16 let runs fail
PROGRAMS = ("unshare", "setpriv", "ip", "make")
REQUIRED = bool(os.environ.get("COURSE_REQUIRE_NETWORK_CUT"))  # set by .ci/run

pytestmark = pytest.mark.xdist_group("offline")  # one worker: the setup takes minutes


def unable() -> str | None:
    """Why this machine cannot cut the network for another user; None where it can."""
    if platform.system() != "Linux" or os.geteuid() != 0:
        return "cutting the network and changing the user needs root on Linux"
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"the programs {', '.join(missing)} are missing"
    able = "import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))"
    if not Path(SYSTEM_PYTHON).exists() or subprocess.run([SYSTEM_PYTHON, "-c", able], capture_output=True).returncode:
        return f"{SYSTEM_PYTHON} is no Python 3.11 to 3.13 with ensurepip (on Debian: python3-venv)"
    if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
        return "this container may not make network namespaces"
    return None


@pytest.fixture(scope="module")
def clone():
    """A set-up copy of the checkout under a name that is hard to spell, which the ordinary user may write in."""
    if reason := unable():
        if REQUIRED:
            pytest.fail(reason)
        pytest.skip(reason)
    with open_folder() as base:
        folder, home = base / "Kurs für alle", base / "home"
        copy_checkout(folder)
        home.mkdir()
        done = make(folder, "setup")
        assert done.returncode == 0, done.stdout[-3000:]
        assert make(folder, "setup").stdout == ""
        env = environment(folder, cut_off=False)
        done = subprocess.run([".venv/bin/course", "doctor"], cwd=folder, env=env, **PIPES)
        assert done.returncode == 0 and done.stdout.count("[ ok ]") == len(done.stdout.splitlines()), done.stdout
        for path in [folder, home, *(path for path in folder.rglob("*") if ".venv" not in path.parts)]:
            os.chown(path, NOBODY, NOBODY)
        yield folder


def environment(folder: Path, cut_off: bool) -> dict[str, str]:
    keep = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PIP_", "UV_", "SSL_")
    env = {name: value for name, value in os.environ.items() if name.startswith(keep)}
    if cut_off:  # another user's home, and a PATH without this environment or anything in root's home
        env |= {"HOME": str(folder.parent / "home"), "USER": "nobody", "LOGNAME": "nobody"}
        env |= {"PATH": "/usr/local/bin:/usr/bin:/bin", "TMPDIR": "/tmp"}
    return env


PIPES = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}


# What follows runs in a network of its own that reaches nothing but itself, as the ordinary user.
DROP = f"setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups --no-new-privs"
CUT_OFF = ("unshare", "--net", "sh", "-c", f'{shutil.which("ip")} link set lo up && exec {DROP} "$@"', "sh")


def make(folder: Path, target: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    command = [*before, "make", target, f"PYTHON={SYSTEM_PYTHON}"]
    return subprocess.run(command, cwd=folder, env=environment(folder, cut_off=bool(before)), **PIPES)


LOOK = "import os, socket; print(*(name for _, name in socket.if_nameindex()), os.getuid(), os.getgroups(), flush=True)"
REACH_OUT = "socket.create_connection(('192.0.2.1', 80), timeout=5)"


def test_the_network_is_cut():
    """The proof below proves something: nothing but loopback is there, and no way out."""
    if reason := unable():
        pytest.skip(reason)
    command = [*CUT_OFF, SYSTEM_PYTHON, "-c", f"{LOOK}; {REACH_OUT}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == f"lo {NOBODY} []\n", done
    assert done.returncode and "Network is unreachable" in done.stderr


def test_the_course_runs_twice_without_network_as_an_ordinary_user(clone):
    for attempt in (1, 2):
        done = make(clone, "course", CUT_OFF)
        assert done.returncode == 0, f"run {attempt}:\n{done.stdout[-5000:]}"
        assert "Setting up" not in done.stdout
        for chapter in all_chapters():
            assert re.search(rf"^{chapter.name} +passed", done.stdout, re.MULTILINE), done.stdout[-3000:]
    database = clone / ".course" / "showcase" / "store" / "mlflow.db"
    assert database.stat().st_uid == NOBODY
    with closing(sqlite3.connect(database)) as connection:
        query = "SELECT e.name, status FROM runs JOIN experiments e USING (experiment_id)"
        states = connection.execute(query).fetchall()
    for name, status in states:
        assert status == "FINISHED" or (status != "RUNNING" and name in PROVOKED), (name, status)
    stray = [path for name in ("mlruns", "mlflow.db") for path in clone.rglob(name) if ".course" not in path.parts]
    assert [path for path in stray if ".venv" not in path.parts] == []


def test_the_workbench_starts_and_stops_without_network_as_an_ordinary_user(clone):
    """PostgreSQL under the user's own account, all data in the folder."""
    command = [*CUT_OFF, str(clone / ".venv/bin/course"), "workbench", "--no-browser"]
    for attempt in (1, 2):
        own = environment(clone, cut_off=True)
        process = subprocess.Popen(command, cwd=clone, env=own, start_new_session=True, **PIPES)
        try:
            said = list(takewhile(lambda line: not line.startswith("Stop all three"), process.stdout))
            assert process.poll() is None and len(said) >= 3, f"start {attempt}: {''.join(said)}"
            process.send_signal(signal.SIGINT)
            assert process.wait(150) == 0, process.stdout.read()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.stdout.close()
    data = clone / ".course" / "workbench" / "postgres"
    assert data.stat().st_uid == NOBODY and data.stat().st_mode & 0o777 == 0o700
    assert not (data / "postmaster.pid").exists()
