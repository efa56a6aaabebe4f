"""Run real chapters in the tests: their environment, changed copies, their stores, what they must not leave behind."""

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
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import mlflow
import nbformat
import pandas as pd
import papermill
import psutil
import pytest
from fake_course import processes_of

from course import store
from course.chapters import Chapter, before
from course.checks import Exercise, evaluate, exercises
from course.execute import CELL_TIMEOUT, Result, kernel_environment, run_chapter, state_folder
from course.paths import root
from course.servers import MLFLOW_SERVER_ENVIRONMENT, mlflow_server, start_server

# Two passes run side by side on two cores: threads of their own would only wait for each other.
ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LOKY_MAX_CPU_COUNT"), "1"),
    **dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1"),
}

# Outputs are those of the lock on Linux x86_64; elsewhere, or on other packages, nbval only runs the cells.
ON_LINUX = (platform.system(), platform.machine()) == ("Linux", "x86_64")
COMPARE_OUTPUTS = ON_LINUX and os.environ.get("COURSE_COMPARE_OUTPUTS") != "no"


class InOrder:
    """Chapters run one after the other on the embedded store of a state folder; `copies` keeps the store after each."""

    def __init__(self, folder: Path, copies: bool = False):
        self.state, self.copies = folder / "state", folder / "copies" if copies else None
        self.results: dict[str, Result] = {}  # of the chapters that passed, by number
        self.failure: str | None = None

    def reach(self, chapter: Chapter | None = None) -> Result | None:
        """Run what has not run yet up to `chapter`, if there is one; fail the test if one fails or has failed."""
        if self.failure:
            pytest.fail(self.failure)
        if chapter is None:
            return None
        if chapter.number not in self.results:
            self.reach(*before(chapter)[-1:])
            with chapter_environment(), state_folder(self.state):
                result = run_chapter(chapter)
            if result.failure:
                self.failure = f"chapter {chapter.number} did not pass: {result.failure}"
                pytest.fail(self.failure)
            self.results[chapter.number] = result
            if self.copies:
                store.copy(self.state / "store", self.copies / chapter.number)
        return self.results[chapter.number]

    def copy_after(self, chapter: Chapter | None = None) -> Path | None:
        """The copy of the store as it is after `chapter`; None before the first."""
        return self.copies / chapter.number if chapter and self.reach(chapter) else None

    def traces(self) -> list[str]:
        """What the chapters so far should not have left: living processes, unfinished runs, stores of MLflow's own."""
        unfinished = [f"run {run} is RUNNING" for run in unfinished_runs(self.state / "store" / "mlflow.db")]
        return survivors(self.state) + unfinished + strays()


@contextmanager
def server_on_a_copy(source: Path, folder: Path):
    """Start `mlflow server` on a copy of an embedded store, its artifacts behind the server as if uploaded."""
    copied = folder / "server"
    store.copy(source, copied)
    addresses = {"experiments": "artifact_location", "runs": "artifact_uri", "logged_models": "artifact_location"}
    with closing(sqlite3.connect(copied / "mlflow.db")) as database, database:
        for table, column in addresses.items():
            update = f"UPDATE {table} SET {column} = replace({column}, ?, 'mlflow-artifacts:')"
            database.execute(update, (store.artifact_root(copied),))
    options = ["--enable-workspaces", "--artifacts-destination", store.artifact_root(copied)]
    command = mlflow_server(store.uri(copied), *options)
    with chapter_environment():
        server = start_server(command, env=MLFLOW_SERVER_ENVIRONMENT, cwd=folder, log=folder / "server.log")
    with server:
        database = copied / "mlflow.db"
        yield SimpleNamespace(url=server.url, database=database, first=rows(database), state=folder / "state")


@contextmanager
def chapter_environment():
    """One thread a kernel, and no variable of a surrounding pytest or of the person who runs it."""
    foreign = ("PYTEST_", "MLFLOW_", "COURSE_TRACKING")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    with patch.dict(os.environ, kept | ONE_THREAD, clear=True):
        yield


def changed(chapter: Chapter, folder: Path, change: Callable) -> Path:
    """Write a copy of the chapter's notebook after `change(cells)`, and return its path."""
    notebook = nbformat.read(chapter.notebook, as_version=4)
    change(notebook.cells)
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / chapter.notebook.name)
    return folder / chapter.notebook.name


def killed(chapter: Chapter, folder: Path, dice: random.Random) -> tuple[Path, str]:
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


def give_answers(cells) -> None:
    """Answer each exercise as a learner would: the code of the solution, which sets `answer` and checks nothing."""
    learners = [cell for cell in cells if "exercise" in tags_of(cell)]
    solutions = [cell for cell in cells if "solution" in tags_of(cell)]
    for learner, solution in zip(learners, solutions, strict=True):
        lines = [line for line in solution.source.splitlines() if not line.startswith("course.check(")]
        learner.source = re.sub(r"\bsolution\b", "answer", "\n".join(lines))


def run_as_learner(chapter: Chapter, server: SimpleNamespace, folder: Path, market: str) -> None:
    """Run a learner's answered copy on that market and server; assert that all is right and nothing is lost."""
    with chapter_environment(), state_folder(server.state):
        copy = changed(chapter, folder, give_answers)
        result = run_chapter(chapter, {"market": market, "tracking_uri": server.url}, notebook=copy)
        assert result.failure is None, f"Chapter {chapter.number} on {market} and a server: {result.failure}"
        assert survivors(server.state) == []
    assert not (server.state / "store").exists(), "the chapter made an embedded store next to the server"
    assert unfinished_runs(server.database) == []
    lost = server.first - rows(server.database)
    assert not lost, f"the other market changed rows of the first: {sorted(map(str, lost))[:5]}"
    assert strays() == []

    written = nbformat.read(copy, as_version=4).cells
    executed = [cell for cell in result.notebook.cells if "injected-parameters" not in tags_of(cell)]
    assert [cell.source for cell in executed] == [cell.source for cell in written]
    assert unsolved(result.notebook) == []
    for number, cell in enumerate(executed, 1):
        if cell.source.startswith("course.check("):
            assert "right." in printed(cell), f"Chapter {chapter.number}, cell {number} on {market}: {printed(cell)}"
        if "course.begin" in cell.source and cell.cell_type == "code":
            assert f"Tracking store: {server.url}, workspace {market}\n" in printed(cell)


def tags_of(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def printed(cell) -> str:
    return "".join(output.get("text", "") for output in cell.get("outputs", []))


def nbval(chapter: Chapter) -> tuple[subprocess.CompletedProcess, dict[int, str]]:
    """Run nbval on a chapter's committed notebook; what became of each code cell, by its number."""
    how = "--nbval" if COMPARE_OUTPUTS else "--nbval-lax"
    command = [sys.executable, "-m", "pytest", how, "--nbval-current-env", "--nbval-cell-timeout", str(CELL_TIMEOUT)]
    command += ["-v", "--color=no", "-p", "no:cacheprovider", "-o", "addopts=", "--rootdir", str(root())]
    with kernel_environment():
        done = subprocess.run([*command, str(chapter.notebook)], cwd=root(), capture_output=True, text=True)
    cells = nbformat.read(chapter.notebook, as_version=4).cells
    code = [number for number, cell in enumerate(cells, 1) if cell.cell_type == "code"]
    outcomes = re.findall(r"::Cell (\d+) ([A-Z]+)", done.stdout)
    return done, {code[int(index)]: outcome for index, outcome in outcomes}


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


def statuses(database: Path) -> dict[str, str]:
    with closing(sqlite3.connect(database)) as connection:
        return dict(connection.execute("SELECT run_uuid, status FROM runs"))


def unfinished_runs(database: Path) -> list[str]:
    return [run for run, status in statuses(database).items() if status == "RUNNING"]


def rows(database: Path) -> set[tuple]:
    """What a server's store says about its runs, experiments, models and aliases, one tuple a row."""
    tables = ["runs", "params", "metrics", "tags", "experiments", "experiment_tags", "registered_model_aliases"]
    with closing(sqlite3.connect(database)) as connection:
        return {(table, *row) for table in tables for row in connection.execute(f"SELECT * FROM {table}")}


def survivors(folder: Path, seconds: float = 300) -> list[str]:
    """Processes with `folder` as state that are left after `seconds`: a step may outlive its killed notebook."""
    deadline = time.monotonic() + seconds
    while (found := processes_of(folder)) and time.monotonic() < deadline:
        time.sleep(0.2)
    with suppress(psutil.NoSuchProcess):
        return [f"{process.pid} {' '.join(process.cmdline())[:150]}" for process in found]
    return survivors(folder, seconds=0)  # one has ended meanwhile


def strays() -> list[str]:
    """Stores that MLflow made by itself anywhere in the checkout."""
    found = []
    for folder, folders, files in os.walk(root()):
        folders[:] = [name for name in folders if name not in (".venv", ".git", ".course", "work")]
        found += [os.path.join(folder, name) for name in [*folders, *files] if name in ("mlruns", "mlflow.db")]
    return found


def checkout() -> tuple[str, set]:
    """What git sees of the checkout, and what lies in .course."""
    status = ["git", "status", "--porcelain", "--untracked-files=all"]
    changes = subprocess.run(status, cwd=root(), capture_output=True, text=True).stdout
    files = [path for path in (root() / ".course").rglob("*") if path.is_file()]
    return changes, {(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files}


@contextmanager
def out_of_the_way(*folders: Path):
    """The originals are gone meanwhile: a copy that still needs them fails."""
    moved = {folder: folder.rename(folder.with_name(f"{folder.name}.away")) for folder in folders if folder.exists()}
    try:
        yield
    finally:
        for folder, away in moved.items():
            away.rename(folder)


JUNK = {"None": None, "empty": "", "object": object(), "list": [], "table": pd.DataFrame(), "function": len}


@contextmanager
def connected(uri: str, folder: Path):
    """Point this process at a store, as a notebook's kernel is, with `folder` as its state."""
    with chapter_environment(), state_folder(folder):
        mlflow.set_tracking_uri(uri)
        try:
            yield
        finally:  # before the environment is put back, because MLflow writes into it
            mlflow.set_tracking_uri(None)


def bad_checks(chapter: Chapter, parameters: dict) -> list[str]:
    """What is wrong with the checks of a chapter: answers that pass and should not, and refusals that help nobody."""
    listed = exercises(chapter.number)
    assert listed, f"chapters/checks/{chapter.number}.py lists no exercises"
    return [f"{exercise.id}: {problem}" for exercise in listed for problem in problems(exercise, parameters)]


def problems(exercise: Exercise, parameters: dict) -> Iterator[str]:
    passed, message = evaluate(exercise, ..., parameters)
    if passed or not message.startswith("not answered yet"):
        yield f"`...` gives {message!r}"
    for answer in exercise.wrong:
        passed, message = evaluate(exercise, answer, parameters)
        if passed:
            yield f"the wrong answer {answer!r} passes"
        elif "The check raised" in message:
            yield f"the wrong answer {answer!r} breaks the check: {message}"
        elif len(message.removeprefix("not yet.")) < 20:
            yield f"the wrong answer {answer!r} gets no advice: {message!r}"
    for name, answer in JUNK.items():
        try:
            if evaluate(exercise, answer, parameters)[0]:
                yield f"{name} passes"
        except Exception as error:
            yield f"{name} raises {type(error).__name__}"


def unsolved(notebook: nbformat.NotebookNode) -> list[str]:
    """The cells of an executed notebook whose solution or answer the check did not call right."""
    solutions = [(number, cell) for number, cell in enumerate(notebook.cells, 1) if "solution" in tags_of(cell)]
    return [f"cell {number}: {printed(cell)}" for number, cell in solutions if "right." not in printed(cell)]
