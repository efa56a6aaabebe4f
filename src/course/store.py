"""The embedded store: one SQLite file and one folder of artifacts, beside them a file for the studies of Optuna.

Make it, copy it, count what is in it.

SQLite stores hold absolute artifact paths (experiments, runs, logged models, model versions, MLmodel files). Whoever
copies one has to rewrite them, or the copy writes into the original.
"""

import json
import logging
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import psutil

from course.paths import state

# MLflow's own server hands its artifact root to its workers in this variable. Set in a client, it is where
# `mlflow.set_experiment` puts the artifacts of a new experiment; without it that is ./mlruns of the working directory.
ARTIFACT_ROOT_VARIABLE = "_MLFLOW_SERVER_ARTIFACT_ROOT"
STUDIES = "optuna.db"  # beside mlflow.db; not in it, since both keep a table `alembic_version`


def folder() -> Path:
    return state() / "store"


def uri(store: Path) -> str:
    """The tracking URI of the store in that folder."""
    return f"sqlite:///{(store / 'mlflow.db').as_posix()}"


def place(uri: str) -> Path | None:
    """The folder of the store with that tracking URI; None where a server keeps it."""
    return Path(uri.removeprefix("sqlite:///")).resolve().parent if uri.startswith("sqlite:///") else None


def study_storage() -> str:
    """Where Optuna keeps the studies of the store in use, as the URL of a database.

    COURSE_STUDY_STORAGE where it is set, such as a PostgreSQL (not MLflow's own database); else a file beside a SQLite
    store; for a tracking server, which offers no place for it, a file in the state folder.
    """
    if given := os.environ.get("COURSE_STUDY_STORAGE"):
        return given
    beside = place(os.environ.get("MLFLOW_TRACKING_URI", "")) or state()
    beside.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{(beside / STUDIES).as_posix()}"


def artifact_root(store: Path) -> str:
    return (store / "artifacts").as_uri()


def ensure(store: Path) -> None:
    """Make the store if there is none. It appears whole or not at all."""
    if (store / "mlflow.db").exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for name in ("mlflow", "alembic"):  # after the import, which sets their levels
        logging.getLogger(name).setLevel(logging.WARNING)

    new = scratch(store)
    (new / "artifacts").mkdir(parents=True)
    SqlAlchemyStore(uri(new), artifact_root(new)).engine.dispose()
    _rewrite(new, new, store)
    _put(new, store)


def copy(source: Path, target: Path) -> None:
    """Copy a store to a folder that does not exist yet. The copy is whole when the original is gone."""
    new = scratch(target)
    new.mkdir(parents=True)
    for database in ("mlflow.db", STUDIES):
        if (source / database).exists():
            with closing(sqlite3.connect(source / database)) as old, closing(sqlite3.connect(new / database)) as copied:
                old.backup(copied)
    if (source / "artifacts").exists():
        shutil.copytree(source / "artifacts", new / "artifacts")
    _rewrite(new, source, target)
    _put(new, target)


def scratch(target: Path) -> Path:
    """A name beside `target` to make it under; what an interrupted process left under such a name is removed."""
    for left in target.parent.glob(f"{target.name}.new-*"):
        if not psutil.pid_exists(pid := int(left.name.rpartition("-")[2])) or pid == os.getpid():
            shutil.rmtree(left, ignore_errors=True)
    return target.with_name(f"{target.name}.new-{os.getpid()}")


def _put(new: Path, target: Path) -> None:
    """Let the whole appear at once; where another process was faster, its result stays."""
    try:
        new.rename(target)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)
        if not (target / "mlflow.db").exists():
            raise


def runs(store: Path) -> int:
    """How many runs the store holds; 0 where there is no store."""
    if not (store / "mlflow.db").exists():
        return 0
    with closing(sqlite3.connect(store / "mlflow.db")) as database:
        return database.execute("SELECT count(*) FROM runs").fetchone()[0]


def _spellings(path: Path) -> list[str]:
    """The ways MLflow writes a path down: plain, as part of a URL, inside JSON."""
    plain = path.as_posix()
    return list(dict.fromkeys([plain, path.as_uri().removeprefix("file://"), json.dumps(plain)[1:-1]]))


def _rewrite(store: Path, old: Path, new: Path) -> None:
    """Replace the folder `old` by `new` in every text of the database and in every MLmodel file."""
    pairs = [(before, after) for before, after in zip(_spellings(old), _spellings(new)) if before != after]
    with closing(sqlite3.connect(store / "mlflow.db")) as database, database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            columns = database.execute(f'PRAGMA table_info("{table}")').fetchall()
            for column in [c[1] for c in columns if c[2].upper().startswith(("VARCHAR", "TEXT", "JSON", "CLOB"))]:
                for before, after in pairs:
                    database.execute(
                        f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?) WHERE instr("{column}", ?)',
                        (before + "/", after + "/", before + "/"),
                    )
    for mlmodel in (store / "artifacts").rglob("MLmodel"):
        text = mlmodel.read_text(encoding="utf-8")
        for before, after in pairs:
            text = text.replace(before + "/", after + "/")
        mlmodel.write_text(text, encoding="utf-8")
