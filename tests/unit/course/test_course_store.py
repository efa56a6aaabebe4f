"""The embedded store, its copies, the learner's copies in work/, `course reset`, and `course ui` on a server."""

import json
import os
import shutil
import sqlite3
from contextlib import closing
from itertools import permutations
from pathlib import Path
from unittest.mock import patch

import mlflow
import pandas
import pytest
import yaml

from course import store

FOLDERS = {
    "plain": "plain/store",
    "space": "a folder/store",
    "umlaut": "für alle/store",
    "wide": "株価/store",
    "symbols": "Kurs+1 (100 %, #2)/store",
    "long": f"für {'alle ' * 30}/store",  # YAML breaks it
    "longer": "plain/store-2",  # neither of the two is part of the other's path
    "deeper": "deeper/plain/store",
}


def texts(folder: Path) -> dict[str, str]:
    """The texts in which MLflow names a folder."""
    file = folder / "artifacts" / "1 ü.txt"
    return {
        "plain": str(file),
        "in a sentence": f"from '{file}' to {file}",
        "URI": file.as_uri(),
        "JSON": json.dumps({"uri": str(file), "list": [file.as_uri()]}),
        "SQLite": f"sqlite:///{folder}/mlflow.db",
    }


def table_of(texts_by_kind: dict[str, str]) -> dict[str, object]:
    return {kind: json.loads(text) if kind == "JSON" else text for kind, text in texts_by_kind.items()}


@pytest.mark.parametrize(("before", "after"), [*permutations(FOLDERS, 2)])
def test_every_spelling_of_a_path_is_rewritten(tmp_path, before, after):
    """In whatever column or MLmodel file it is, and no other path."""
    old, new, here = tmp_path / FOLDERS[before], tmp_path / FOLDERS[after], tmp_path / "made here"
    other = texts(Path(f"{old}-2")) | texts(Path(f"/b{old}")) | {"bare": str(old)}
    (here / "artifacts" / "m").mkdir(parents=True)
    mlmodel = here / "artifacts" / "m" / "MLmodel"
    mlmodel.write_text(yaml.safe_dump({"flavors": [texts(old)], "other": other, "utc": "2026-01-01 00:00:00.1"}))
    with closing(sqlite3.connect(here / "mlflow.db")) as database:
        for kind in ("VARCHAR(9)", "TEXT", "JSON", "CLOB"):
            database.execute(f'CREATE TABLE "new {kind}" (kind, text {kind}, other {kind}, number INT)')
            rows = [(name, text, str(other), 7) for name, text in texts(old).items()] + [("none", None, None, None)]
            database.executemany(f'INSERT INTO "new {kind}" VALUES (?, ?, ?, ?)', rows)
        database.execute("CREATE TABLE experiments (experiment_id INT, artifact_location VARCHAR)")
        database.execute("INSERT INTO experiments VALUES (1, '/mine'), (2, ?)", [f"{old.as_uri()}/artifacts/2"])
        database.commit()

        assert [store.settle(here, new) for _ in range(2)] == [old, None]

        for kind in ("VARCHAR(9)", "TEXT", "JSON", "CLOB"):
            *rows, none = database.execute(f'SELECT * FROM "new {kind}"').fetchall()
            assert table_of({name: text for name, text, *_ in rows}) == table_of(texts(new))
            assert {row[2:] for row in rows} == {(str(other), 7)} and none == ("none", None, None, None)
    model = yaml.safe_load(mlmodel.read_text())
    assert table_of(model["flavors"][0]) == table_of(texts(new))
    assert model["other"] == other and model["utc"] == "2026-01-01 00:00:00.1"


class Model(mlflow.pyfunc.PythonModel):
    """Answers with the text of its artifact."""

    def predict(self, context, model_input):
        return [Path(context.artifacts["note"]).read_text()] * len(model_input)


def copied_by_hand(source: Path, target: Path) -> None:
    """As with its checkout; the first process that uses it is killed half-way."""
    shutil.copytree(source, target)
    with pytest.raises(KeyboardInterrupt), patch.object(Path, "replace", side_effect=KeyboardInterrupt):
        store.ensure(target)
    store.ensure(target)


def copied_after_a_move(source: Path, target: Path) -> None:
    store.copy(source.rename(source.with_name("moved")), target)


@pytest.mark.parametrize(("before", "after", "copy"), [
    ("long", "plain", store.copy),
    ("plain", "long", copied_after_a_move),
    ("space", "umlaut", copied_by_hand),
    ("umlaut", "wide", copied_by_hand),
])  # fmt: skip
def test_a_copy_does_not_need_the_original(tmp_path, empty_store, capsys, before, after, copy):
    """A run, an artifact, a logged model and a registered version are read from it, and what is new goes into it."""
    original, copied = tmp_path / "1" / FOLDERS[before], tmp_path / "2" / FOLDERS[after]
    store.copy(empty_store, original)
    mlflow.set_tracking_uri(store.uri(original))
    with mlflow.start_run(experiment_id="0") as run:
        mlflow.log_text("kept", "notes/ü.txt")
        (note,) = original.rglob("ü.txt")
        mlflow.log_input(mlflow.data.from_pandas(pandas.DataFrame({"a": [1.0]}), source=str(note)))
        files, echo = {"note": str(note)}, {"pip_requirements": [], "registered_model_name": "echo"}
        logged = mlflow.pyfunc.log_model(name="model", python_model=Model(), artifacts=files, **echo)
    assert "\\xFC" in next(original.rglob("MLmodel")).read_text() or "ü" not in str(original)
    copy(original, copied)
    shutil.rmtree(tmp_path / "1")
    moved = f"The store was moved or copied from {original}: its paths now name {copied}.\n"
    assert capsys.readouterr().out == moved * (copy is copied_by_hand)

    mlflow.set_tracking_uri(store.uri(copied))
    assert store.runs(copied) == 1
    assert mlflow.artifacts.load_text(mlflow.get_run(run.info.run_id).info.artifact_uri + "/notes/ü.txt") == "kept"
    for address in ("models:/echo/1", f"models:/{logged.model_id}"):
        assert mlflow.pyfunc.load_model(address).predict(pandas.DataFrame({"a": [2.0]})) == ["kept"]
    with mlflow.start_run(experiment_id="0"):
        mlflow.log_text("new", "new.txt")
    assert len(list(copied.rglob("new.txt"))) == 1 and not (tmp_path / "1").exists()
    with closing(sqlite3.connect(copied / "mlflow.db")) as database:
        everything = "\n".join([*database.iterdump(), *(file.read_text() for file in copied.rglob("MLmodel"))])
    for spelling in store._spellings(original):
        assert spelling not in everything


def test_the_studies_move_with_the_store(fake, empty_store, monkeypatch):
    """Into a copy, and aside with `course reset --store`."""
    import optuna

    current = fake.use_store(empty_store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri(current))
    study = optuna.create_study(study_name="kept", storage=store.study_storage())
    study.tell(study.ask(), 1.5)
    copied = fake.root.parent / "größer als" / "store"
    store.copy(current, copied)
    study.tell(study.ask(), 2.5)
    (kept,) = optuna.get_all_study_summaries(f"sqlite:///{copied / store.STUDIES}")
    assert (kept.study_name, kept.n_trials) == ("kept", 1), "the copy is not independent"
    assert fake.invoke("reset", "--store", "--yes").exit_code == 0
    assert (fake.state / "store.kept-1" / store.STUDIES).exists() and not current.exists()


def test_where_studies_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_STATE", str(tmp_path / "state"))
    for tracking, folder in (
        (store.uri(tmp_path / "a store"), tmp_path / "a store"),
        ("http://127.0.0.1:9", tmp_path / "state"),
        ("", tmp_path / "state"),
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
        assert store.study_storage() == f"sqlite:///{(folder / store.STUDIES).as_posix()}" and folder.is_dir()
    monkeypatch.setenv("COURSE_STUDY_STORAGE", "postgresql+psycopg://optuna@/studies?host=/run")
    assert store.study_storage() == "postgresql+psycopg://optuna@/studies?host=/run"
    monkeypatch.setenv("COURSE_STUDY_STORAGE", "sqlite:///my.db")
    monkeypatch.setenv("COURSE_ROOT", str(tmp_path))  # where a relative path starts
    assert store.study_storage() == f"sqlite:///{tmp_path / 'my.db'}"


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
    with pytest.raises(OSError, match="store.new-"):  # the system's own sentence, which names both folders
        store.copy(empty_store, fake.state / "store")
    assert [str(path.relative_to(fake.state)) for path in fake.state.rglob("*")] == ["store", "store/mine"]


def test_reset_store_asks_and_moves_aside(fake, empty_store):
    assert "There is no store yet" in fake.invoke("reset", "--store", "--yes").stdout
    current = fake.use_store(empty_store)
    done = fake.invoke("reset", "--store")
    assert done.exit_code == 1 and "Move the embedded store aside and start with an empty one?" in done.stdout
    assert current.exists()
    done = fake.invoke("reset", "--store", stdin="y\n")
    kept = current.with_name("store.kept-1")
    assert done.exit_code == 0 and f"Your store is kept as {kept}." in done.stdout
    assert store.settle(kept, kept) is None, "it names the store that comes after it"
    fake.use_store(empty_store)
    (current / "mlflow.db").write_text("damaged")
    assert "cannot be used (file is not a database): move it aside" in fake.invoke("ui").stderr
    assert "store.kept-2." in fake.invoke("reset", "--store", "--yes").stdout
    assert sorted(path.name for path in fake.state.iterdir()) == ["store.kept-1", "store.kept-2"]


def test_ui_of_a_server_in_use_is_its_own(fake):
    done = fake.invoke("ui", COURSE_TRACKING_URI="http://ada:secret@127.0.0.1:9")
    assert done.stdout == "The current store is a server with its own UI: open http://127.0.0.1:9\n"
