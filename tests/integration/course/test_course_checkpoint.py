"""`course checkpoint`, and a store that two processes make at once."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from fake_course import COURSE, until
from messages import assert_on_page

from course import CourseError, checkpoints, store


def test_a_store_made_at_once_by_two_processes(fake):
    code = "from course import store; store.ensure(store.folder())"
    both = [subprocess.Popen([sys.executable, "-c", code], env=fake.environment()) for _ in range(2)]
    assert [one.wait(300) for one in both] == [0, 0]
    assert [path.name for path in fake.state.iterdir()] == ["store"]
    with closing(sqlite3.connect(fake.state / "store" / "mlflow.db")) as database:
        locations = database.execute("SELECT artifact_location FROM experiments").fetchall()
    assert locations == [(store.artifact_root(fake.state / "store") + "/0",)]


@pytest.fixture
def course_of_two(fake, empty_store):
    """A course whose first chapter leaves a run with an artifact; the cached checkpoint of 01 is there."""
    fake.chapter(
        "01",
        'import course\ncourse.begin("01")',
        "import mlflow",
        '_ = mlflow.set_experiment("first")\nwith mlflow.start_run():\n    mlflow.log_text("kept", "notes.txt")',
        "open('begun', 'w').close()\nimport os, time\ntime.sleep(600 if os.environ.get('SLOW') else 0)",
    )
    fake.chapter("02", 'import course\ncourse.begin("02", needs={"first": "01"})')
    with fake.here() as fake:
        (fake.state / "checkpoints").mkdir(parents=True)
        store.copy(empty_store, checkpoints.saved(checkpoints.Chapter("01", "01_step")))
    return fake


def test_no_checkpoint_needs_a_workbench_that_cannot_run(fake, monkeypatch):
    fake.chapter("01", "import course; course.start_workbench()")
    first, last = fake.chapter("02", "x = 1"), fake.chapter("03", "x = 1")
    monkeypatch.setattr(checkpoints.postgres, "why_not", lambda: "no account")
    with fake.here():
        assert checkpoints._earlier(last) == [first]


def test_checkpoint(course_of_two):
    fake = course_of_two
    done = fake.run("checkpoint", "02", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "The embedded store is ready for chapter 02.\n"
    assert store.runs(fake.state / "store") == 1
    caches = fake.state / "checkpoints"
    assert sorted(path.name[:2] for path in caches.iterdir()) == ["01", "02"] and not (fake.state / "runs").exists()

    done = fake.run("checkpoint", "02", COURSE_TRACKING_URI="sqlite:////tmp/another.db")
    assert done.returncode == 1 and "COURSE_TRACKING_URI names neither a server nor the embedded store" in done.stderr
    # never over work; with --force it is kept; from the cache in seconds
    done = fake.run("checkpoint", "02")
    assert done.returncode == 1 and "Error: The embedded store holds 1 run, and" in done.stderr
    assert_on_page("a checkpoint replaces the store", done.stderr)
    done = fake.run("checkpoint", "1", "--force")
    assert done.returncode == 0 and f"is kept as {fake.state / 'store.kept-1'}." in done.stdout
    assert store.runs(fake.state / "store") == 0
    before = {path: path.stat().st_mtime_ns for path in caches.rglob("*")}
    assert fake.run("checkpoint", "02").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in caches.rglob("*")} == before

    # whole when the original is gone
    shutil.rmtree(caches)
    shutil.rmtree(fake.state / "store.kept-1")
    with closing(sqlite3.connect(fake.state / "store" / "mlflow.db")) as database:
        ((place, status),) = database.execute("SELECT artifact_uri, status FROM runs").fetchall()
    assert place.startswith(store.artifact_root(fake.state / "store")) and status == "FINISHED"
    assert (Path(unquote(urlparse(place).path)) / "notes.txt").read_text() == "kept"


def test_a_checkpoint_is_made_anew_when_an_earlier_chapter_changed(course_of_two):
    with course_of_two.here() as fake:
        second = checkpoints.Chapter("02", "02_step")
        first = checkpoints.saved(second)
        fake.chapter("02", "x = 2")
        assert checkpoints.saved(second) == first
        fake.chapter("01", "x = 2")
        assert checkpoints.saved(second) != first
        first.mkdir()
        assert checkpoints.make(second).exists() and not first.exists(), "what is out of date stays for ever"
        fake.chapter("01", "raise ValueError('no')")
        with pytest.raises(CourseError, match="because chapter 01 failed in cell.*ValueError"):
            checkpoints.make(second)
        assert (fake.state / "checkpoints" / "01_step.ipynb").exists()


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_checkpoint_in_the_making_may_be_killed(course_of_two):
    fake = course_of_two
    begun = fake.root / "notebooks" / "begun"
    with fake.started(COURSE, "checkpoint", "02", SLOW="1") as process:
        until(begun.exists, 60, "the last cell")
        os.killpg(process.pid, signal.SIGKILL)
    assert not (fake.state / "store").exists()
    with fake.here():
        assert not checkpoints.saved(checkpoints.Chapter("02", "02_step")).exists()
    # and two at once afterwards make one, and leave nothing else
    with ThreadPoolExecutor() as pool:
        made = list(pool.map(lambda number: fake.run("checkpoint", number), ["02", "02"]))
    assert {one.returncode for one in made} <= {0, 1} and any(one.returncode == 0 for one in made), made
    assert store.runs(fake.state / "store") == 1
    assert all("Traceback" not in one.stderr for one in made), [one.stderr for one in made]
    names = sorted(path.name for path in (fake.state / "checkpoints").iterdir())
    assert [name[:3] for name in names] == ["01-", "02-"], names
