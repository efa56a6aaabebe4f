"""Run chapters from top to bottom with papermill, stop at the first that fails, and say where and why.

The one executor of the course: `course run`, `course notebooks`, checkpoints and the tests all use `run_chapter`.
"""

import hashlib
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO
from unittest.mock import patch

import nbformat

from course.chapters import Chapter
from course.environment import JUPYTER, settle
from course.errors import CourseError
from course.paths import root, showcase, state

CELL_TIMEOUT = 600  # seconds; the slowest cell of the course takes 10, and 25 on a slow machine


# What a chapter runs in addition to its own text: a change in any of these may change its outputs.
CODE = {
    "src": ("*.py", "*.conf"),
    "projects": ("*",),
    "data": ("*.csv",),
    "chapters/checks": ("*.py",),
    "chapters/records": ("*",),
}


@dataclass(frozen=True)
class Result:
    """How a chapter ran: `executed` is the file of `notebook`, the executed copy; `seconds` are wall time."""

    chapter: Chapter
    executed: Path
    seconds: float
    failure: str | None  # cell, error and message; None if the chapter passed
    notebook: nbformat.NotebookNode | None = None  # None if the chapter failed


def fingerprint(*chapters: Chapter) -> str:
    """Return 16 hexadecimal digits of everything that these chapters run: text, packages, data, code and projects."""
    files = [chapter.source for chapter in chapters] + [root() / "requirements.lock"]
    for folder, patterns in CODE.items():
        paths = {path for pattern in patterns for path in (root() / folder).rglob(pattern)}
        files += sorted(path for path in paths if path.is_file() and not {"__pycache__", "stages"} & {*path.parts})
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.relative_to(root()).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


class _Lines:
    """A text stream for tqdm if stderr is not a terminal: a line for each update, no control characters."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        if text := text.strip("\r\n\x1b[A "):
            self.stream.write(text + "\n")

    def flush(self) -> None:
        self.stream.flush()


def _progress_bar(chapter: Chapter) -> dict[str, object]:
    if sys.stderr.isatty():
        return {"desc": chapter.name, "file": sys.stderr}
    line = "{desc}: cell {n_fmt} of {total_fmt}, {elapsed}"
    return {"desc": chapter.name, "file": _Lines(sys.stderr), "mininterval": 5, "miniters": 1, "bar_format": line}


@contextmanager
def kernel_environment() -> Iterator[None]:
    """Set what each kernel gets: the course's environment and its own IPython folder, as kernels lock the history."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder) / "profile_default"
        profile.mkdir()
        # a kernel's own log (it says that loopback is not encrypted) would appear between the runner's lines
        (profile / "ipython_kernel_config.py").write_text("c.IPKernelApp.log_level = 50")
        settle()
        os.environ.update(JUPYTER, IPYTHONDIR=folder, COURSE_EXECUTED="1")  # answers are then not the learner's
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def run_chapter(
    chapter: Chapter,
    parameters: dict[str, Any] | None = None,
    timeout: float = CELL_TIMEOUT,
    notebook: Path | None = None,
) -> Result:
    """Run a chapter's notebook, or the variant of it at `notebook`; the executed copy is kept, passed or failed."""
    import papermill
    from papermill.exceptions import PapermillExecutionError

    from course import papermill_engine

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # `failure` has the message
    source = notebook or chapter.built()
    executed = state() / "runs" / source.name
    executed.parent.mkdir(parents=True, exist_ok=True)
    begun: list[tuple[int, str]] = []  # the code cells that the kernel was given, in order
    failure, done, start = None, None, time.monotonic()
    with kernel_environment():
        try:
            done = papermill.execute_notebook(
                source,
                executed,
                parameters=parameters or {},
                engine_name=papermill_engine.NAME,
                kernel_name="python3",
                execution_timeout=timeout,
                progress_bar=_progress_bar(chapter),
                cwd=root() / "notebooks",
                shutdown_kernel="immediate",  # its work is done, and unloading MLflow would take Python 3 s more
                coalesce_streams=True,  # how often a cell's output is flushed differs from run to run
                record_timing=False,
                on_cell_execute=lambda cell, cell_index: begun.append((cell_index + 1, cell.source)),
            )
            if done.metadata.papermill["exception"]:  # papermill lets sys.exit(0) pass, the cells after it unrun
                failure = place(*begun[-1]) + "SystemExit: it ended the notebook before its last cell"
        except PapermillExecutionError as error:
            # in the executed copy, which a reader opens, papermill puts two markers before the cell
            markers = 0 if notebook else 2
            failure = place(error.cell_index + 1 + markers, error.source) + reason(error, timeout)
        except (TimeoutError, RuntimeError) as error:
            failure = (place(*begun[-1]) if begun else "its start: ") + reason(error, timeout)
    return Result(chapter, executed, time.monotonic() - start, failure, None if failure else done)


def place(number: int, source: str) -> str:
    """Return how a person finds a cell: its number, counted from the top over text and code, and its first line."""
    return f"cell {number}, `{source.strip().splitlines()[0]}`: "


def reason(error: Exception, timeout: float) -> str:
    """Return in one line why a cell failed."""
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    if isinstance(error, CellTimeoutError):
        return f"the cell did not finish within {timeout:g} s: set a longer limit with `course run --timeout`"
    if isinstance(error, DeadKernelError):
        return "the kernel died, perhaps because memory ran out: close other notebooks and programs, then run it again"
    if hasattr(error, "ename") and hasattr(error, "evalue"):
        text: str = (error.evalue.splitlines() or [""])[0]
        return text if error.ename == "CourseError" else f"{error.ename}: {text}"
    return f"the kernel did not start ({error}): run `course doctor` to find the reason"


def run(
    chapters: list[Chapter], parameters: dict[str, Any] | None = None, timeout: float = CELL_TIMEOUT
) -> list[Result]:
    """Run chapters in order until one fails, then print the table. Returns a result for each that ran."""
    results = []
    for chapter in chapters:
        _check_parameters(chapter, parameters or {})
    for chapter in chapters:
        result = run_chapter(chapter, parameters, timeout)
        results.append(result)
        if result.failure:
            break
    print_table(chapters, results)
    return results


def print_table(chapters: list[Chapter], results: list[Result]) -> None:
    """Print how each chapter ended, and where the failed one stopped."""
    width = max(len(chapter.name) for chapter in chapters)
    print(f"\n{'chapter':{width}}  result  seconds  executed copy")
    for result in results:
        outcome = "failed" if result.failure else "passed"
        print(f"{result.chapter.name:{width}}  {outcome}  {result.seconds:7.1f}  {_short(result.executed)}")
    for chapter in chapters[len(results) :]:
        print(f"{chapter.name:{width}}  not run")
    for result in results:
        if result.failure:
            print(f"\nChapter {result.chapter.number} failed in {result.failure}")
            print(f"The executed copy shows the outputs up to that cell: {_short(result.executed)}")


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _check_parameters(chapter: Chapter, given: dict[str, Any]) -> None:
    """Raise CourseError for a parameter or a value that the chapter does not have.

    A chapter declares the values of a parameter in the comment after it: `market = "sp500"  # sp500 or nasdaq`.
    """
    import papermill

    known = papermill.inspect_notebook(str(chapter.built()))
    for name, value in given.items():
        if name not in known:
            raise CourseError(f"Chapter {chapter.number} has no parameter {name}; it has {', '.join(known) or 'none'}.")
        values = known[name]["help"].split(" or ")
        if len(values) > 1 and str(value) not in values:
            raise CourseError(f"{name} cannot be {value} in chapter {chapter.number}: use {known[name]['help']}.")


def run_showcase(chapters: list[Chapter], parameters: dict[str, Any], timeout: float) -> list[Result]:
    """Run chapters into the showcase store, from empty, with the MLflow UI on it until they end."""
    from course.lab import MODE, launch_ui

    folder = showcase()
    shutil.rmtree(folder, ignore_errors=True)
    with state_folder(folder), launch_ui(chapters[0].apart(parameters)) as ui:
        print(f"MLflow UI  {ui.url}\nIt is up in a few seconds and shows the runs as they are made. {MODE}", flush=True)
        return run(chapters, parameters, timeout)


@contextmanager
def state_folder(folder: Path) -> Iterator[None]:
    """Let everything inside use another state folder, and with it another embedded store."""
    with patch.dict(os.environ, COURSE_STATE=str(folder)):  # puts the environment back at the end
        os.environ.pop("COURSE_TRACKING_URI", None)
        yield
