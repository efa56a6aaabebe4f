"""The embedded store: one SQLite file, one folder of artifacts, and a file for the studies of Optuna.

A store holds absolute paths of artifacts (experiments, runs, logged models, model versions, data sets, MLmodel files).
After a copy or a move they have to be rewritten, or it writes into the original.
"""

import json
import logging
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit
from urllib.request import url2pathname

import psutil
import yaml

from course.errors import CourseError
from course.paths import root, state

# MLflow's own server passes its artifact root to its workers in this variable. In a client, it is where
# `mlflow.set_experiment` puts the artifacts of a new experiment; without it, they go to ./mlruns.
ARTIFACT_ROOT_VARIABLE = "_MLFLOW_SERVER_ARTIFACT_ROOT"
STUDIES = "optuna.db"  # next to mlflow.db and not in it, since both have a table `alembic_version`
TRACKING_URI = re.compile(r"https?://[^/]|sqlite:///(?!:memory:).|(postgresql|mysql|mssql)(\+\w+)?://.")


def in_use(tracking_uri: str | None = None, name: str = "") -> str:
    """Return the URI of the current store: `tracking_uri`, else COURSE_TRACKING_URI, else the embedded store `name`.

    A relative path starts at the checkout, which is the same for every process. Raises CourseError if the URI is not
    the address of a server or a database, or if MLflow cannot use the path.
    """
    _usable(root())
    given = (tracking_uri or os.environ.get("COURSE_TRACKING_URI") or "").strip()
    if not given:  # set and empty is not set
        return uri(folder(name))
    if not TRACKING_URI.match(given):
        raise CourseError(
            f"The tracking URI `{given.rpartition('@')[2]}` is not the address of a server or a database: write "
            "http://HOST:PORT or sqlite:///FILE in COURSE_TRACKING_URI, --tracking-uri or tracking_uri."
        )
    return _absolute(given)


def _absolute(uri: str) -> str:
    """Return the URI; if it is a SQLite file's, with a path that starts at the checkout if it is relative."""
    if not uri.startswith("sqlite:"):
        return uri
    path, mark, query = uri.removeprefix("sqlite:///").partition("?")
    return f"sqlite:///{_usable((root() / unquote(path)).resolve()).as_posix()}{mark}{query}"


def without_password(text: str) -> str:
    """Return the text without the user names and passwords of the addresses in it."""
    return re.sub(r"(?<=://)[^\s/@:]*(:\S*)?@|(?<=[?&]password=)[^&\s]*", "", text)


def _usable(path: Path) -> Path:
    """Return the path. Raises CourseError if MLflow would read a part of it as a query, a fragment or an escape."""
    if found := re.search(r"[?#]|%[0-9A-Fa-f]{2}", str(path)):
        raise CourseError(
            f"MLflow misreads `{found[0]}` in the path {path}: move the course to a folder without `?`, `#` and `%` in "
            "its path."
        )
    return path


def folder(name: str = "") -> Path:
    """Return the folder of the embedded store, or of the one `name`. Raises CourseError if MLflow misreads it."""
    return _usable(state() / (f"store-{name}" if name else "store"))


def folders() -> list[Path]:
    """Return the folders of the embedded stores that exist, without those that were moved aside."""
    return [folder for folder in sorted(state().glob("store*")) if "." not in folder.name]


def uri(store: Path) -> str:
    """Return the tracking URI of the store in that folder."""
    return f"sqlite:///{(store / 'mlflow.db').as_posix()}"


def folder_of(uri: str) -> Path | None:
    """Return the folder of the SQLite store with that tracking URI; None for any other store."""
    path = unquote(uri.removeprefix("sqlite:///").partition("?")[0])
    return Path(path).resolve().parent if uri.startswith("sqlite:///") else None


def prepare(uri: str) -> Path | None:
    """Return the folder of the SQLite store with that tracking URI; first ensure the store if it is the course's."""
    if (store := folder_of(uri)) and store.parent == state():
        ensure(store)
    return store


def study_storage() -> str:
    """Return the URL of the database for the Optuna studies of the current store.

    This is COURSE_STUDY_STORAGE if it is set, such as a PostgreSQL database other than MLflow's own. Otherwise it is a
    file: next to a SQLite store, or in the state folder for a tracking server, one for each workspace.
    """
    if given := os.environ.get("COURSE_STUDY_STORAGE"):
        return _absolute(given)
    parent, workspace = folder_of(os.environ.get("MLFLOW_TRACKING_URI", "")), os.environ.get("MLFLOW_WORKSPACE")
    file = parent / STUDIES if parent else state() / (f"optuna-{workspace}.db" if workspace else STUDIES)
    file.parent.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{file.as_posix()}"


def artifact_root(store: Path) -> str:
    """Return the URI under which the store in that folder keeps artifacts."""
    return (store / "artifacts").as_uri()


def ensure(store: Path) -> None:
    """Create the store if there is none, atomically. If its folder was moved or copied, rewrite its paths."""
    if (store / "mlflow.db").exists():
        try:
            old = settle(store, store)
        except sqlite3.Error as error:
            reset = "move it aside with `course reset --store`"
            raise CourseError(f"The database {store / 'mlflow.db'} cannot be used ({error}): {reset}.") from None
        if old:
            print(f"The store was moved or copied from {old}: its paths now name {store}.")
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for name in ("mlflow", "alembic"):  # after the import, which sets their levels
        logging.getLogger(name).setLevel(logging.WARNING)

    new = scratch(store)
    (new / "artifacts").mkdir(parents=True)
    SqlAlchemyStore(uri(new), artifact_root(new)).engine.dispose()
    settle(new, store)
    _put(new, store)


def copy(source: Path, target: Path) -> None:
    """Copy a store to a folder that does not exist yet, and rewrite its paths: it does not need the original."""
    new = scratch(target)
    new.mkdir(parents=True)
    for database in ("mlflow.db", STUDIES):
        if (source / database).exists():
            with closing(sqlite3.connect(source / database)) as old, closing(sqlite3.connect(new / database)) as copied:
                old.backup(copied)
    if (source / "artifacts").exists():
        shutil.copytree(source / "artifacts", new / "artifacts")
    settle(new, target)
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


def _home(database: sqlite3.Connection) -> Path | None:
    """Return the folder that the artifact locations in the database name; None if a server keeps the artifacts."""
    for number, location in database.execute("SELECT experiment_id, artifact_location FROM experiments"):
        if str(location).startswith("file:") and location.endswith(f"/artifacts/{number}"):
            return Path(url2pathname(urlsplit(location).path)).parents[1]
    return None


def settle(store: Path, place: Path) -> Path | None:
    """Rewrite the paths in the store so that they name the folder `place`, where it is or will be.

    Returns the folder that they named before, or None if nothing had to change. If a call is killed, the next one does
    it again, because the database changes last and in one transaction.
    """
    with closing(sqlite3.connect(store / "mlflow.db", timeout=60, isolation_level=None)) as database, database:
        database.execute("BEGIN IMMEDIATE")  # one process at a time
        old = _home(database)
        if old in (None, place):
            return None
        moved = _rewriter(old, place)
        for file in (store / "artifacts").rglob("MLmodel"):
            # as data, because YAML escapes letters in its own way and breaks long paths at spaces
            model = yaml.safe_load(file.read_text(encoding="utf-8"))
            if (rewritten := moved(model)) != model:
                new = file.with_name("MLmodel.new")
                new.write_text(yaml.safe_dump(rewritten, default_flow_style=False), encoding="utf-8")
                new.replace(file)
        database.create_function("moved", 1, moved, deterministic=True)
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            columns = database.execute(f'PRAGMA table_info("{table}")').fetchall()
            for name in [c[1] for c in columns if c[2].upper().startswith(("VARCHAR", "TEXT", "JSON", "CLOB"))]:
                changed = f"""instr("{name}", '/') AND moved("{name}") <> "{name}\""""
                database.execute(f'UPDATE "{table}" SET "{name}" = moved("{name}") WHERE {changed}')
        return old


def _rewriter(old: Path, new: Path) -> Callable[[Any], Any]:
    """Return a function that replaces the folder `old` by `new` in a column of any type, or in what YAML holds."""
    pairs: dict[str, str] = {}
    for before, after in zip(_spellings(old), _spellings(new)):
        pairs.setdefault(before, after)  # a plain path has one spelling, others have four: the first one counts
    # all spellings in one pass, each only as a whole path: neither /b/a/store nor /a/store-2 is /a/store
    pattern = re.compile(rf"""(?<![^\s"'=:/(\[,])(?:{"|".join(map(re.escape, pairs))})(?=/)""")

    def moved(data: Any) -> Any:
        if isinstance(data, dict):
            return {key: moved(value) for key, value in data.items()}
        if isinstance(data, list):
            return [moved(value) for value in data]
        return pattern.sub(lambda match: pairs[match[0]], data) if isinstance(data, str) else data

    return moved
