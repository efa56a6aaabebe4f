"""The three executions of every notebook, as a plugin of pytest: their stores, their order, what they share.

First market, on the embedded store: each chapter is killed once at a random cell and then runs to its end, in order
("first-market"); then nbval compares its outputs, from the store as the chapter before left it. Second market: the
learner's own copy of each chapter, against a remote server that holds the first market's runs ("second-market").

Side by side under pytest-xdist, the first market begins at once, and the second comes last, since its server starts on
what the first has made. COURSE_SEED repeats a choice of cells.
"""

import ast
import os
import platform
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import nbformat
import papermill
import psutil
import pytest

from course import store
from course.chapters import Chapter, all_chapters, before
from course.paths import root, state
from course.runner import CELL_TIMEOUT, Result, kernel_environment, run_chapter, state_folder
from course.servers import start_server
from course.session import QUIET_MLFLOW

FIRST, SECOND = "first-market", "second-market"
IN_ORDER = "test_in_order_after_a_kill"  # the tests that save the store for all others

# Two passes run side by side on two cores: threads of their own would only wait for each other.
ONE_THREAD = {
    name: "1"
    for name in (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "LOKY_MAX_CPU_COUNT",
        "TF_NUM_INTRAOP_THREADS",
        "TF_NUM_INTEROP_THREADS",
    )
}


# Outputs are those of the lock on Linux x86_64; elsewhere, or on other packages, nbval only runs the cells.
ON_LINUX = (platform.system(), platform.machine()) == ("Linux", "x86_64")
COMPARE_OUTPUTS = ON_LINUX and os.environ.get("COURSE_COMPARE_OUTPUTS") != "no"


# --- order ------------------------------------------------------------------------------------------------------------


def _order(item) -> tuple:
    """First market: all chapters in order, then what looks at their stores. Second market: chapter by chapter."""
    group = _group(item)
    callspec = getattr(item, "callspec", None)
    number = getattr(callspec.params.get("chapter"), "number", "") if callspec else ""
    if group == FIRST:
        return 0, item.originalname != IN_ORDER, ""
    return (2, False, number) if group == SECOND else (1, False, "")


def _group(item) -> str | None:
    return next((mark.args[0] for mark in item.iter_markers("xdist_group")), None)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    items.sort(key=_order)
    # The second market needs the first one's stores: too early it waits for them, last it leaves the others idle.
    second = [item for item in items if _group(item) == SECOND]
    others = [item for item in items if _group(item) not in (FIRST, SECOND)]
    first, late = [item for item in items if _group(item) == FIRST], len(others) * 3 // 4
    items[:] = first + others[:late] + second + others[late:]


# --- the stores -------------------------------------------------------------------------------------------------------


class FirstMarket:
    """The embedded store of the first market, and a copy of it after each chapter."""

    def __init__(self, folder: Path, in_tests: set[str]):
        self.state, self.after_folder = folder / "state", folder / "after"
        self.after_folder.mkdir(parents=True, exist_ok=True)
        self.in_tests = in_tests  # the chapters that tests of pass (1) run

    def after(self, chapter: Chapter) -> Path:
        """The store as it is after `chapter`: awaited where tests make it, else made here."""
        if self.in_tests and chapter.number <= max(self.in_tests):
            self._wait_for(chapter)
        else:
            self.make(chapter)
        return self._result(chapter)

    def make(self, chapter: Chapter) -> None:
        """Run the chapters up to `chapter` that have not run yet, without a kill."""
        for each in [*before(chapter), chapter]:
            if not self._saved(each).exists() and not self._failed(each).exists():
                with passes_environment(), state_folder(self.state):
                    self.save(each, run_chapter(each))
            self._result(each)

    def _result(self, chapter: Chapter) -> Path:
        for each in [*before(chapter), chapter]:
            if (failure := self._failed(each)).exists():
                pytest.fail(f"chapter {each.number} did not pass on the first market: {failure.read_text()}")
        return self._saved(chapter)

    def save(self, chapter: Chapter, result: Result) -> None:
        """Keep the store as it is now, or the reason why there is nothing to keep."""
        if result.failure:
            self.failed(chapter, result.failure)
        else:
            store.copy(self.state / "store", self._saved(chapter))

    def failed(self, chapter: Chapter, reason: str) -> None:
        self._failed(chapter).write_text(reason)

    def _saved(self, chapter: Chapter) -> Path:
        return self.after_folder / chapter.number

    def _failed(self, chapter: Chapter) -> Path:
        return self.after_folder / f"{chapter.number}.failed"

    def _wait_for(self, chapter: Chapter) -> None:
        """Another worker of pytest-xdist is at it."""
        deadline = time.monotonic() + 1500
        while not (self._saved(chapter).exists() or any(self.after_folder.glob("*.failed"))):
            if time.monotonic() > deadline:
                pytest.fail(f"no worker finished chapter {chapter.number} on the first market within 25 minutes")
            time.sleep(0.5)


@pytest.fixture(scope="session")
def first_market(request, tmp_path_factory):
    """What the tests of pass (1) make; where none of them is selected, made when first needed."""
    in_tests = {
        item.callspec.params["chapter"].number
        for item in request.session.items
        if getattr(item, "originalname", "") == IN_ORDER
    }
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if in_tests and "PYTEST_XDIST_WORKER" in os.environ else base
    return FirstMarket(shared / "first-market", in_tests)


@dataclass
class UsedServer:
    """A remote MLflow server with the first market's runs in it."""

    url: str
    database: Path
    state: Path  # COURSE_STATE of the learner who uses it


@pytest.fixture(scope="session")
def used_server(first_market, tmp_path_factory):
    """`mlflow server` on a copy of the first market's store, its artifacts behind the server as if uploaded."""
    folder = tmp_path_factory.mktemp("second-market")
    store.copy(first_market.after(all_chapters()[-1]), folder / "server")
    _serve_artifacts(folder / "server")
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", "{port}", "--workers", "1"]
    command += ["--backend-store-uri", store.uri(folder / "server")]
    command += ["--artifacts-destination", store.artifact_root(folder / "server")]
    with passes_environment():
        server = start_server(
            command,
            env={**QUIET_MLFLOW, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_TRACKING_URI": ""},
            cwd=folder,
            log=folder / "server.log",
        )
    with server:
        yield UsedServer(server.url, folder / "server" / "mlflow.db", folder / "state")


def _serve_artifacts(copied: Path) -> None:
    """Write the artifact addresses of a copied store as a server hands them out: mlflow-artifacts:/…"""
    with closing(sqlite3.connect(copied / "mlflow.db")) as database, database:
        for table, column in (
            ("experiments", "artifact_location"),
            ("runs", "artifact_uri"),
            ("logged_models", "artifact_location"),
        ):
            database.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, 'mlflow-artifacts:')",
                (store.artifact_root(copied),),
            )


# --- running ----------------------------------------------------------------------------------------------------------


@contextmanager
def passes_environment():
    """One thread a kernel, and no variable of a surrounding pytest or of the person who runs it."""
    outside = dict(os.environ)
    for name in list(os.environ):
        if name.startswith(("PYTEST_", "MLFLOW_", "COURSE_TRACKING")):
            del os.environ[name]
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(outside)


@dataclass(frozen=True)
class Copy(Chapter):
    """A chapter whose notebook is a changed copy of the course's."""

    folder: Path

    @property
    def notebook(self) -> Path:
        return self.folder / f"{self.name}.ipynb"


def changed(chapter: Chapter, folder: Path, change) -> Copy:
    """A copy of the chapter's notebook after `change(cells)`."""
    notebook = nbformat.read(chapter.notebook, as_version=4)
    change(notebook.cells)
    folder.mkdir(parents=True, exist_ok=True)
    copy = Copy(chapter.number, chapter.name, folder)
    nbformat.write(notebook, copy.notebook)
    return copy


def killed(chapter: Chapter, folder: Path, dice: random.Random) -> tuple[Copy, str]:
    """A copy whose kernel is killed in the middle of a random cell, at the latest at its end; and where that is."""
    delay = dice.choice([0.02, 0.1, 0.5, 1, 2, 4])
    where = []

    def change(cells):
        number = dice.choice([number for number, cell in enumerate(cells, 1) if cell.cell_type == "code"])
        cell = cells[number - 1]
        sign = f"_signal.{'SIGKILL' if hasattr(signal, 'SIGKILL') else 'SIGTERM'}"
        cell.source = (
            "import os as _os, signal as _signal, threading as _threading\n"
            f"_threading.Timer({delay}, _os.kill, (_os.getpid(), {sign})).start()\n"
            f"{cell.source}\n_os.kill(_os.getpid(), {sign})"
        )
        where.append(f"cell {number}, after {delay} s or at its end")

    return changed(chapter, folder, change), where[0]


def learners_copy(chapter: Chapter, folder: Path) -> Copy:
    """A copy as a learner leaves it: each answer is given, in the words of the solution."""

    def change(cells):
        learners = [cell for cell in cells if "exercise" in tags_of(cell)]
        solutions = [cell for cell in cells if "solution" in tags_of(cell)]
        for learner, solution in zip(learners, solutions, strict=True):
            learner.source = as_answer(solution.source)

    return changed(chapter, folder, change)


def tags_of(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def as_answer(solution: str) -> str:
    """A solution's code as it would stand in the learner's cell: it sets `answer`, and does not check itself."""
    lines = [line for line in solution.splitlines() if not line.startswith("course.check(")]
    return re.sub(r"\bsolution\b", "answer", "\n".join(lines))


def nbval(chapter: Chapter) -> tuple[subprocess.CompletedProcess, dict[int, str]]:
    """Run nbval on a chapter's committed notebook; what became of each code cell, by its number."""
    how = "--nbval" if COMPARE_OUTPUTS else "--nbval-lax"
    command = [sys.executable, "-m", "pytest", how, "--nbval-current-env", "--nbval-cell-timeout", str(CELL_TIMEOUT)]
    command += ["-v", "--color=no", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", str(root())]
    with kernel_environment():
        done = subprocess.run([*command, str(chapter.notebook)], cwd=root(), capture_output=True, text=True)
    cells = nbformat.read(chapter.notebook, as_version=4).cells
    code = [number for number, cell in enumerate(cells, 1) if cell.cell_type == "code"]
    outcomes = re.findall(r"::Cell (\d+) ([A-Z]+)", done.stdout)
    return done, {code[int(index)]: outcome for index, outcome in outcomes}


def is_compared(cell) -> bool:
    """nbval compares the outputs of a cell that was run and that no tag or comment excuses."""
    excuses = ("nbval-ignore-output", "nbval-skip", "raises-exception", "NBVAL_IGNORE_OUTPUT", "NBVAL_SKIP")
    excused = any(excuse in [*tags_of(cell), *cell.source.split()] for excuse in excuses)
    return cell.execution_count is not None and not excused


def parameters_of_begin(chapter: Chapter, given: dict) -> dict:
    """What `course.begin` is told as keywords, and with it each check of an exercise: market, target …"""
    known = papermill.inspect_notebook(str(chapter.notebook))
    values = {name: ast.literal_eval(each["default"]) for name, each in known.items()} | given
    for cell in nbformat.read(chapter.notebook, as_version=4).cells:
        for node in ast.walk(ast.parse(cell.source)) if cell.cell_type == "code" else ():
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "course.begin":
                names = {word.arg: word.value for word in node.keywords if word.arg not in ("tracking_uri", "needs")}
                return {name: values[value.id] for name, value in names.items() if isinstance(value, ast.Name)}
    raise AssertionError(f"chapter {chapter.number} does not call course.begin")


def other_market(chapter: Chapter) -> str:
    """The last value that the chapter's market can take: `market = "sp500"  # sp500 or nasdaq`."""
    return papermill.inspect_notebook(str(chapter.notebook))["market"]["help"].split(" or ")[-1].strip()


# --- what must hold afterwards ----------------------------------------------------------------------------------------


def statuses(database: Path) -> dict[str, str]:
    """The status of each run by its id."""
    with closing(sqlite3.connect(database)) as connection:
        return dict(connection.execute("SELECT run_uuid, status FROM runs"))


def unfinished(database: Path) -> list[str]:
    return [run for run, status in statuses(database).items() if status == "RUNNING"]


TABLES = ("runs", "params", "metrics", "tags", "experiments", "experiment_tags", "registered_model_aliases")


def rows(database: Path) -> set[tuple]:
    """What a server's store says about its runs, experiments, models and aliases, one tuple a row."""
    found = set()
    with closing(sqlite3.connect(database)) as connection:
        for table in (
            "runs",
            "params",
            "metrics",
            "tags",
            "experiments",
            "experiment_tags",
            "registered_model_aliases",
        ):
            found |= {(table, *row) for row in connection.execute(f"SELECT * FROM {table}")}
    return found


def survivors(folder: Path, seconds: float = 300) -> list[str]:
    """Processes that a chapter started with `folder` as its state, and that are still there some seconds later.

    A step of an MLflow project goes on to its own end when its notebook is killed.
    """
    deadline = time.monotonic() + seconds
    while found := [*_processes_of(folder)]:
        if time.monotonic() > deadline:
            return found
        time.sleep(0.2)
    return []


def _processes_of(folder: Path):
    for process in psutil.process_iter():
        try:
            if process.environ().get("COURSE_STATE") == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                yield f"{process.pid} {' '.join(process.cmdline())[:150]}"
        except psutil.Error:
            continue


def strays() -> list[str]:
    """Stores that MLflow made by itself anywhere in the checkout."""
    found = []
    for folder, folders, files in os.walk(root()):
        folders[:] = [name for name in folders if name not in (".venv", ".git", ".course", "work")]
        found += [os.path.join(folder, name) for name in [*folders, *files] if name in ("mlruns", "mlflow.db")]
    return found


@dataclass(frozen=True)
class Checkout:
    """What git sees of the checkout, and what lies in .course."""

    changes: str
    course: frozenset

    @classmethod
    def now(cls) -> "Checkout":
        status = ["git", "status", "--porcelain", "--untracked-files=all"]
        changes = subprocess.run(status, cwd=root(), capture_output=True, text=True).stdout
        files = [path for path in sorted((root() / ".course").rglob("*")) if path.is_file()]
        return cls(changes, frozenset((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files))


@pytest.fixture(scope="session")
def checkout_before():
    return Checkout.now()


@pytest.fixture
def fresh_state(tmp_path):
    """Another COURSE_STATE for everything inside, and the variables of the passes."""
    with passes_environment(), state_folder(tmp_path / "state"):
        yield state()


def copy_store(source: Path | None, target: Path) -> None:
    """Put a copy of a saved store into a state folder. Nothing to copy before the first chapter."""
    target.mkdir(parents=True, exist_ok=True)
    if source:
        store.copy(source, target / "store")


@contextmanager
def out_of_the_way(*folders: Path):
    """The originals are gone meanwhile: a copy that still needs them fails."""
    moved = [(folder, folder.with_name(f"{folder.name}.away")) for folder in folders if folder.exists()]
    for folder, away in moved:
        folder.rename(away)
    try:
        yield
    finally:
        for folder, away in moved:
            away.rename(folder)
