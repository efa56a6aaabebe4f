"""The embedded store: one SQLite file, one folder of artifacts, and a file for the studies of Optuna.

A store holds absolute paths of artifacts (experiments, runs, logged models, model versions, data sets, MLmodel files).
A copy has to rewrite them, or it writes into the original.
"""

import json
import logging
import os
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import yaml

from course.paths import state

# MLflow's own server passes its artifact root to its workers in this variable. In a client, it is where
# `mlflow.set_experiment` puts the artifacts of a new experiment; without it, they go to ./mlruns.
ARTIFACT_ROOT_VARIABLE = "_MLFLOW_SERVER_ARTIFACT_ROOT"
STUDIES = "optuna.db"  # next to mlflow.db and not in it, since both have a table `alembic_version`


def folder() -> Path:
    """Return the folder of the embedded store."""
    return state() / "store"


def uri(store: Path) -> str:
    """Return the tracking URI of the store in that folder."""
    return f"sqlite:///{(store / 'mlflow.db').as_posix()}"


def folder_of(uri: str) -> Path | None:
    """Return the folder of the store with that tracking URI; None if the store is a server."""
    return Path(uri.removeprefix("sqlite:///")).resolve().parent if uri.startswith("sqlite:///") else None


def study_storage() -> str:
    """Return the URL of the database for the Optuna studies of the current store.

    This is COURSE_STUDY_STORAGE if it is set, such as a PostgreSQL database other than MLflow's own. Otherwise it is a
    file: next to a SQLite store, or in the state folder for a tracking server.
    """
    if given := os.environ.get("COURSE_STUDY_STORAGE"):
        return given
    parent = folder_of(os.environ.get("MLFLOW_TRACKING_URI", "")) or state()
    parent.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{(parent / STUDIES).as_posix()}"


def artifact_root(store: Path) -> str:
    """Return the URI under which the store in that folder keeps artifacts."""
    return (store / "artifacts").as_uri()


def ensure(store: Path) -> None:
    """Create the store if there is none, atomically."""
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
    """Copy a store to a folder that does not exist yet. Rewrites its paths, so that it does not need the original."""
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
    """Return a temporary name next to `target`; remove what interrupted processes left under such names."""
    for left in target.parent.glob(f"{target.name}.new-*"):
        if not psutil.pid_exists(pid := int(left.name.rpartition("-")[2])) or pid == os.getpid():
            shutil.rmtree(left, ignore_errors=True)
    return target.with_name(f"{target.name}.new-{os.getpid()}")


def _put(new: Path, target: Path) -> None:
    """Rename `new` to `target`. If another process was faster, keep its result."""
    try:
        new.rename(target)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)
        if not (target / "mlflow.db").exists():
            raise


def runs(store: Path) -> int:
    """Count the runs in the store; 0 if there is no store."""
    if not (store / "mlflow.db").exists():
        return 0
    with closing(sqlite3.connect(store / "mlflow.db")) as database:
        count: int = database.execute("SELECT count(*) FROM runs").fetchone()[0]
        return count


def _spellings(path: Path) -> list[str]:
    """Return the ways MLflow writes a path: as a URI, plain, percent-encoded without a scheme, inside JSON."""
    plain = path.as_posix()
    return [path.as_uri(), plain, quote(plain), json.dumps(plain)[1:-1]]


def _rewrite(store: Path, old: Path, new: Path) -> None:
    """Replace the folder `old` with `new` in every text of the database and in every MLmodel file."""
    pairs: dict[str, str] = {}
    for before, after in zip(_spellings(old), _spellings(new)):
        pairs.setdefault(before, after)  # a plain path has one spelling, others have four: the first one counts
    # all spellings in one pass, each only as a whole path: neither /b/a/store nor /a/store-2 is /a/store
    pattern = re.compile(rf"""(?<![^\s"'=:/(\[,])(?:{"|".join(map(re.escape, pairs))})(?=/)""")

    def moved(data: Any) -> Any:  # a column of any type, or what YAML holds
        if isinstance(data, dict):
            return {key: moved(value) for key, value in data.items()}
        if isinstance(data, list):
            return [moved(value) for value in data]
        return pattern.sub(lambda match: pairs[match[0]], data) if isinstance(data, str) else data

    with closing(sqlite3.connect(store / "mlflow.db")) as database, database:
        database.create_function("moved", 1, moved, deterministic=True)
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            columns = database.execute(f'PRAGMA table_info("{table}")').fetchall()
            for name in [c[1] for c in columns if c[2].upper().startswith(("VARCHAR", "TEXT", "JSON", "CLOB"))]:
                changed = f"""instr("{name}", '/') AND moved("{name}") <> "{name}\""""
                database.execute(f'UPDATE "{table}" SET "{name}" = moved("{name}") WHERE {changed}')
    for file in (store / "artifacts").rglob("MLmodel"):
        # as data, because YAML escapes letters in its own way and breaks long paths at spaces
        model = yaml.safe_load(file.read_text(encoding="utf-8"))
        if (rewritten := moved(model)) != model:
            file.write_text(yaml.safe_dump(rewritten, default_flow_style=False), encoding="utf-8")
