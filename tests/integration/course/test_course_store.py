"""The embedded store, its copies, `course reset` and `course checkpoint`."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlparse

import nbformat
import pytest
from fake_course import COURSE, until

from course import CourseError, checkpoints, store

POSIX = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")

# a run, an artifact, a logged model and a registered version, as chapters make them
WORK = """
import mlflow
from course.session import begin
begin("01")
mlflow.set_experiment("work")
with mlflow.start_run() as run:
    mlflow.log_metric("m", 1.5)
    mlflow.log_text("kept", "notes/ü.txt")
    mlflow.log_input(mlflow.data.from_pandas(__import__("pandas").DataFrame({"a": [1.0]}), name="d"))
    with open("model.py", "w") as file:
        file.write("import mlflow\\nclass M(mlflow.pyfunc.PythonModel):\\n"
                   "    def predict(self, context, model_input): return model_input\\nmlflow.models.set_model(M())\\n")
    mlflow.pyfunc.log_model(name="model", python_model="model.py", pip_requirements=[], registered_model_name="echo")
mlflow.MlflowClient().set_registered_model_alias("echo", "champion", 1)
"""
READ = """
import mlflow, pandas
from course.session import begin
begin("01")
(run,) = mlflow.search_runs(experiment_names=["work"], output_format="list")
assert run.data.metrics == {"m": 1.5}
assert mlflow.artifacts.load_text(run.info.artifact_uri + "/notes/ü.txt") == "kept"
for address in ("models:/echo@champion", "models:/echo/1", "models:/" + run.outputs.model_outputs[0].model_id):
    assert mlflow.pyfunc.load_model(address).predict(pandas.DataFrame({"a": [2.0]})).a[0] == 2.0
with mlflow.start_run(experiment_id=run.info.experiment_id):
    mlflow.log_text("new", "new.txt")
mlflow.set_experiment("new")
with mlflow.start_run():
    mlflow.log_text("new", "new.txt")
"""


def everything_in(folder) -> str:
    """Every text in the store's database and every file of it."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        texts = list(database.iterdump())
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".db"]
    return "\n".join(texts + [path.read_bytes().decode(errors="replace") for path in files])


def test_a_copy_is_whole_when_the_original_is_gone(fake, empty_store):
    """With a space and a letter outside ASCII in the path, the spellings of which MLflow mixes."""
    original = fake.use_store(empty_store)
    fake.chapter("01", "x = 1")
    fake.python(WORK)
    assert store.runs(original) == 1
    state = fake.state
    moved = fake.root.parent / "größer als" / "Kurs+1"
    store.copy(original, moved / "store")
    shutil.rmtree(state)
    fake.state = moved
    assert store.runs(moved / "store") == 1
    fake.python(READ)
    left = everything_in(moved / "store")
    for spelling in store._spellings(state):
        assert spelling not in left
    assert not state.exists(), "the copy writes into the original"
    assert len(list((moved / "store").rglob("new.txt"))) == 2
    assert not list(fake.root.parent.rglob("mlruns")) and not list(fake.root.rglob("mlflow.db"))


STUDY = """
import optuna
from course import study_storage
from course.session import begin
begin("01")
study = optuna.create_study(study_name="kept", storage=study_storage(), load_if_exists=True)
study.tell(study.ask(), 1.5)
print(len(study.trials), study_storage())
"""


def test_the_studies_move_with_the_store(fake, empty_store):
    """Into a copy, and aside with `course reset --store`."""
    fake.use_store(empty_store)
    fake.chapter("01", "x = 1")
    fake.python(STUDY)
    copied = fake.root.parent / "größer als" / "store"
    store.copy(fake.state / "store", copied)
    with closing(sqlite3.connect(copied / store.STUDIES)) as studies:
        assert studies.execute("SELECT study_name FROM studies").fetchall() == [("kept",)]
        assert studies.execute("SELECT count(*) FROM trials").fetchall() == [(1,)]
    fake.python(STUDY)
    with closing(sqlite3.connect(copied / store.STUDIES)) as studies:
        assert studies.execute("SELECT count(*) FROM trials").fetchall() == [(1,)], "the copy is no copy"
    assert fake.run("reset", "--store", "--yes").returncode == 0
    assert (fake.state / "store.kept-1" / store.STUDIES).exists() and not (fake.state / "store").exists()


def test_where_studies_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_STATE", str(tmp_path / "state"))
    for tracking, folder in (
        (store.uri(tmp_path / "a store"), tmp_path / "a store"),
        ("http://127.0.0.1:9", tmp_path / "state"),
        ("", tmp_path / "state"),
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
        assert store.study_storage() == f"sqlite:///{(folder / store.STUDIES).as_posix()}"
        assert folder.is_dir()
    monkeypatch.setenv("COURSE_STUDY_STORAGE", "postgresql+psycopg://optuna@/studies?host=/run")
    assert store.study_storage() == "postgresql+psycopg://optuna@/studies?host=/run"


def test_every_text_of_a_store_is_rewritten(fake, empty_store):
    """Also in columns and tables that later versions of MLflow add."""
    original = fake.use_store(empty_store)
    text = f"'{original}/artifacts/1' file://{original.as_uri().removeprefix('file://')}/artifacts"
    with closing(sqlite3.connect(original / "mlflow.db")) as database, database:
        for table, kind in (("later", "VARCHAR(9)"), ("json", "JSON"), ("clob", "CLOB")):
            database.execute(f"CREATE TABLE new_{table} (x {kind})")
            database.execute(f"INSERT INTO new_{table} VALUES (?)", (text,))
    copied = fake.root / "copy"
    store.copy(original, copied)
    assert str(fake.state) not in everything_in(copied) and fake.state.as_uri() not in everything_in(copied)
    assert everything_in(copied).count(store.artifact_root(copied)) >= 3


def test_a_store_made_at_once_by_two_processes(fake):
    code = "from course import store; store.ensure(store.folder())"
    both = [subprocess.Popen([sys.executable, "-c", code], env=fake.environment()) for _ in range(2)]
    assert [one.wait(300) for one in both] == [0, 0]
    assert [path.name for path in fake.state.iterdir()] == ["store"]
    with closing(sqlite3.connect(fake.state / "store" / "mlflow.db")) as database:
        assert database.execute("SELECT artifact_location FROM experiments").fetchall() == [
            (store.artifact_root(fake.state / "store") + "/0",)
        ]


def test_what_an_interrupted_copy_leaves_is_no_store_and_is_removed_by_the_next(fake, empty_store):
    target = fake.state / "store"
    dead, living = (fake.state / f"store.new-{pid}" for pid in (2**22 + 1, os.getppid()))
    for folder in (dead, living):
        folder.mkdir(parents=True)
    assert store.runs(target) == 0
    store.copy(empty_store, target)
    assert not dead.exists() and living.exists() and (target / "mlflow.db").exists()


def test_a_copy_over_something_else_is_refused(fake, empty_store):
    (fake.state / "store" / "mine").mkdir(parents=True)
    with pytest.raises(OSError):
        store.copy(empty_store, fake.state / "store")
    assert [path.name for path in (fake.state / "store").iterdir()] == ["mine"]
    assert len(list(fake.state.iterdir())) == 1


def test_reset_store_asks_and_moves_aside(fake, empty_store):
    assert "There is no store yet" in fake.run("reset", "--store", "--yes").stdout
    current = fake.use_store(empty_store)
    for answer in ("n\n", ""):
        done = fake.run("reset", "--store", stdin=answer)
        assert done.returncode == 1 and "Move the embedded store aside and start with an empty one?" in done.stdout
        assert current.exists()
    done = fake.run("reset", "--store", stdin="y\n")
    assert done.returncode == 0 and f"Your store is kept as {current.with_name('store.kept-1')}." in done.stdout
    fake.use_store(empty_store)
    assert "store.kept-2." in fake.run("reset", "--store", "--yes").stdout
    assert sorted(path.name for path in fake.state.iterdir()) == ["store.kept-1", "store.kept-2"]


def test_reset_renews_a_notebook_and_keeps_the_learners(fake):
    chapter = fake.chapter("01", "x = 1")
    assert "work/01_step.ipynb is the course's again.\n" == fake.run("reset", "1").stdout
    chapter = fake.root / "work" / "01_step.ipynb"
    for number in (1, 2):
        chapter.write_text(f"mine {number}")
        done = fake.run("reset", "01")
        assert f"again. Yours is kept as 01_step.kept-{number}.ipynb." in done.stdout
        assert (fake.root / "work" / f"01_step.kept-{number}.ipynb").read_text() == f"mine {number}"
        assert nbformat.read(chapter, as_version=4).cells
    chapter.write_text("mine 3")
    (fake.root / "notebooks" / "01_step.ipynb").unlink()
    done = fake.run("reset", "01")
    assert done.returncode == 1 and "01_step.ipynb is missing in notebooks/" in done.stderr
    assert chapter.read_text() == "mine 3"


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


def test_checkpoint(course_of_two):
    fake = course_of_two
    done = fake.run("checkpoint", "02", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "The embedded store is as it is before chapter 02.\n"
    assert store.runs(fake.state / "store") == 1
    caches = fake.state / "checkpoints"
    assert sorted(path.name[:2] for path in caches.iterdir()) == ["01", "02"] and not (fake.state / "runs").exists()

    # never over work; with --force it is kept; from the cache in seconds
    done = fake.run("checkpoint", "02")
    assert done.returncode == 1
    assert "Error: The embedded store holds 1 run, and a checkpoint takes its place: add --force" in done.stderr
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


def test_checkpoint_refuses_another_store(course_of_two):
    done = course_of_two.run("checkpoint", "02", COURSE_TRACKING_URI="sqlite:////tmp/another.db")
    assert done.returncode == 1 and "COURSE_TRACKING_URI names neither a server nor the embedded store" in done.stderr


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


@POSIX
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
    with fake.here():
        made = []
        both = [threading.Thread(target=lambda: made.append(fake.run("checkpoint", "02"))) for _ in range(2)]
        for one in both:
            one.start()
        for one in both:
            one.join()
    assert {one.returncode for one in made} <= {0, 1} and any(one.returncode == 0 for one in made), made
    assert store.runs(fake.state / "store") == 1
    assert all("Traceback" not in one.stderr for one in made), [one.stderr for one in made]
    names = sorted(path.name for path in (fake.state / "checkpoints").iterdir())
    assert [name[:3] for name in names] == ["01-", "02-"], names
