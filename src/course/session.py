"""`course.begin`, the second code cell of every chapter: choose the store, and clean up after an earlier session."""

import hashlib
import logging
import os
import platform
import re
import sys
import time
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any
from unittest.mock import patch
from urllib.parse import unquote, urlsplit

import psutil

from course import store
from course.chapters import Chapter, select
from course.environment import settle
from course.errors import CourseError
from course.paths import left_out, refuse_another_checkout, state

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

# Warnings that the chapters neither cause nor explain, each with the reason why it can be ignored.
HARMLESS_WARNINGS = [
    # MLflow 3.17 calls scikit-learn's log_loss by the argument's old name; no number depends on it.
    ("`y_pred` was renamed to `y_proba`", FutureWarning),
    # tqdm misses widgets, which break in headless runs: text bars are what the course wants.
    ("IProgress not found", Warning),
]

# For the first request only: if a server is gone or silent, the reader sees the error within seconds.
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "15"}

_session: dict[str, Any] = {}


def begin(
    number: str, tracking_uri: str | None = None, needs: Mapping[str, str] | None = None, **parameters: Any
) -> None:
    """Begin a chapter: choose the store, tag what this session logs, end runs that an earlier session left open.

    The store is `tracking_uri`, else COURSE_TRACKING_URI, else the embedded store. `needs` names experiments that must
    hold a finished run, each with the chapter that makes it. `parameters` are kept for the exercises' checks. If one of
    them is not the default (see `Chapter.apart`), the runs are kept apart: in an embedded store of their own, or in a
    workspace of the server, which is created if absent. The address of a database is used as it is.

    Raises CourseError if the store does not respond, or if a package, a run or an experiment is missing or deleted.
    """
    for message, category in HARMLESS_WARNINGS:
        warnings.filterwarnings("ignore", message=message, category=category)
    chapter = select(number)[0]
    if sys.flags.optimize > 1:
        raise CourseError(
            f"This Python runs with PYTHONOPTIMIZE={sys.flags.optimize}, without the docstrings that MLflow needs: "
            "unset the variable where you start Jupyter or your editor, then restart the kernel."
        )
    _require_packages(chapter)
    uri = choose_store(tracking_uri, name := chapter.apart(parameters))
    _session.update(chapter=number, parameters=parameters)
    os.environ["COURSE_CHAPTER"], os.environ["COURSE_SESSION"] = number, _session_id()

    import mlflow

    mlflow.end_run("KILLED")  # a cell that was interrupted in this kernel may have left its run active
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    _show_warnings_without_dates()
    client, experiments = _connect(uri, name)
    _refuse_deleted(experiments, chapter, [*(needs or {})], parameters)
    _end_dead_runs(client, experiments, number)
    print(f"Chapter {number}: {chapter.title}")
    shown, look = store.without_password(uri), "open the address that `make lab` printed, or run `course ui`"
    checkpoint = shown == store.without_password(store.in_use()) and not name
    if uri.startswith("http"):
        shown += f", workspace {name}" if name else ""
        look = "open that address; for containers, see workbench/README.md"
    elif uri == store.uri(store.folder(name)):
        shown = f"the embedded store {name}".rstrip()
        look = f"run `course ui --store {name}`" if name else look
    print(f"Tracking store: {shown}\nTo see your runs in the MLflow UI, {look}.")
    for experiment, maker in (needs or {}).items():
        _require(client, experiment, f"{maker} with {name}" if name else maker, number, checkpoint)


def _connect(uri: str, name: str) -> "tuple[MlflowClient, list[Experiment]]":
    """Return a client of the store, and its experiments, deleted ones too. Create a server's workspace `name`."""
    from mlflow import MlflowClient, MlflowException
    from mlflow.entities import ViewType

    # a database gets one attempt, not ten within 100 s; what needs a server alone does not import this module
    once = nullcontext() if uri.startswith("http") else patch("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)
    try:
        with patch.dict(os.environ, IMPATIENT), once:
            client = MlflowClient()
            try:
                return client, list(client.search_experiments(ViewType.ALL))
            except MlflowException as error:
                if not name or error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                client.create_workspace(name)
                return client, list(client.search_experiments(ViewType.ALL))
    except Exception as error:  # MLflow's, SQLAlchemy's or its driver's
        reason = store.without_password(str(error) or type(error).__name__).splitlines()[0][:200]
        if "database schema" in reason:
            fix = "was changed by another version of MLflow: open it with that version, or start with an empty store"
        elif name and getattr(error, "error_code", "") in ("FEATURE_DISABLED", "PERMISSION_DENIED"):
            fix = f"has no workspace `{name}` for you, which runs of {name} need: ask its administrator for one, or "
            fix += "omit --tracking-uri and unset COURSE_TRACKING_URI to use the embedded store"
        else:
            fix = "does not respond: start it, or omit --tracking-uri and unset COURSE_TRACKING_URI"
        raise CourseError(f"The tracking store {store.without_password(uri)} {fix} ({reason}).") from None


def parameters() -> dict[str, Any]:
    """Return the parameters that the current chapter gave `begin`, such as market and target."""
    given: dict[str, Any] = _session.get("parameters", {})
    return given


def choose_store(tracking_uri: str | None, name: str = "") -> str:
    """Point this process and its child processes at the chosen store, or at `name` in it; return its tracking URI."""
    refuse_another_checkout()
    uri = log_in(store.in_use(tracking_uri, name))
    if _session.pop("workspace", None):  # an earlier call in this process set it
        del os.environ["MLFLOW_WORKSPACE"]
    if name and uri.startswith("http") and (given := os.environ.get("MLFLOW_WORKSPACE")) != name:
        if given:
            raise CourseError(
                f"The runs of {name} belong in the workspace `{name}`, but MLFLOW_WORKSPACE names yours, `{given}`: "
                "unset COURSE_TRACKING_URI to use the embedded store, or unset MLFLOW_WORKSPACE."
            )
        os.environ["MLFLOW_WORKSPACE"] = _session["workspace"] = name
    if stray := stray_uri(uri):
        print(f"MLFLOW_TRACKING_URI is set to {stray} and is ignored: to use that server, set COURSE_TRACKING_URI.")
    note = settle()
    if note and "uri" not in _session:  # later ones name what MLflow sets by itself
        print(note)
    os.environ.pop(store.ARTIFACT_ROOT_VARIABLE, None)
    if folder := store.prepare(uri):
        os.environ[store.ARTIFACT_ROOT_VARIABLE] = store.artifact_root(folder)
    os.environ["MLFLOW_TRACKING_URI"] = _session["uri"] = uri  # for the processes that a cell starts
    os.environ.setdefault("PYSTOCK_STAGES", str(state() / "stages"))  # a pipeline's files on disk are state, too
    return uri


def log_in(uri: str) -> str:
    """Move the user and password of a server's address to the variables that MLflow reads; return the rest."""
    parts = urlsplit(uri)
    if not (uri.startswith("http") and parts.username and parts.password):
        return uri
    os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
    os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password)
    return store.without_password(uri)


def stray_uri(uri: str) -> str | None:
    """Return MLFLOW_TRACKING_URI, without a password, if it names another store than the one in use, `uri`."""
    stray = os.environ.get("MLFLOW_TRACKING_URI")
    same = (None, "", uri, os.environ.get("COURSE_TRACKING_URI"), _session.get("uri"))
    return None if stray in same else store.without_password(stray)


def _show_warnings_without_dates() -> None:
    """Drop the time stamps of MLflow's warnings, which would make each output different."""
    import mlflow.utils.logging_utils  # noqa: F401  (attaches its handler to the logger "mlflow")

    logger = logging.getLogger("mlflow")
    logger.setLevel(logging.WARNING)
    for handler in logger.handlers:
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.getLogger("alembic").setLevel(logging.WARNING)


# pystock.processes names processes, too; this is not shared, because the course knows nothing about pystock.
def _session_id() -> str:
    """Name this process of this installation, so that a later one can tell whether it is still alive."""
    process = psutil.Process()
    return f"{_installation()}:{process.pid}:{int(process.create_time())}"


def _installation() -> str:
    """Name this machine and this state folder. A copy of the folder gets another name."""
    state().mkdir(parents=True, exist_ok=True)
    return hashlib.sha256(f"{platform.node()} {state().stat().st_ino}".encode()).hexdigest()[:12]


def _is_dead(session: str) -> bool:
    """Return whether the process of a session has ended. A session of another installation counts as alive."""
    installation, pid, created = session.split(":")
    if installation != _installation():
        return False
    try:
        process = psutil.Process(int(pid))
        return process.status() == psutil.STATUS_ZOMBIE or abs(process.create_time() - int(created)) > 2
    except psutil.NoSuchProcess:
        return True


def _end_dead_runs(client: "MlflowClient", experiments: "list[Experiment]", number: str) -> None:
    """End the runs of this chapter that a killed kernel left RUNNING."""
    left = client.search_runs(
        [experiment.experiment_id for experiment in experiments],
        f"attributes.status = 'RUNNING' and tags.`course.chapter` = '{number}'",
    )
    for run in left:
        if _is_dead(run.data.tags["course.session"]):
            client.set_terminated(run.info.run_id, "KILLED", end_time=int(time.time() * 1000))


def _require_packages(chapter: Chapter) -> None:
    """Raise CourseError if the chapter imports a package that `install.py --without` left out."""
    imported = set(re.findall(r"^(?:import|from) (\w+)", chapter.source.read_text(encoding="utf-8"), re.MULTILINE))
    for extra, packages in left_out().items():
        if missing := sorted(imported & set(packages)):
            raise CourseError(
                f"Chapter {chapter.number} needs {missing[0]}, which was left out of this installation: run "
                f"`python install.py --with {extra}` in the course folder."
            )


def _refuse_deleted(experiments: "list[Experiment]", chapter: Chapter, needs: list[str], parameters: Any) -> None:
    """Refuse a chapter that logs to a deleted experiment, or reads one: MLflow keeps its name and its runs."""
    logged = re.findall(r"set_experiment\((?:\w+\()?\"([^\"]+)\"", chapter.source.read_text(encoding="utf-8"))
    used = {*needs, *logged, *(f"{name}-{value}" for name in logged for value in parameters.values())}
    command = f"course mlflow --store {apart}" if (apart := chapter.apart(parameters)) else "course mlflow"
    for experiment in experiments:
        if experiment.lifecycle_stage == "deleted" and experiment.name in used:
            raise CourseError(
                f"The experiment `{experiment.name}`, which chapter {chapter.number} uses, is deleted. To restore it "
                f"with its runs, type `{command} experiments restore --experiment-id {experiment.experiment_id}`."
            )


def _require(client: "MlflowClient", name: str, maker: str, number: str, checkpoint: bool) -> None:
    experiment = client.get_experiment_by_name(name)
    finished = "attributes.status = 'FINISHED'"
    if not experiment or not client.search_runs([experiment.experiment_id], finished, max_results=1):
        shortcut = f", or run `course checkpoint {number}` in a terminal to start as if you had" if checkpoint else ""
        raise CourseError(
            f"Chapter {number} needs runs of the experiment `{name}`, and this store has none: run chapter "
            f"{maker} first{shortcut}."
        )
