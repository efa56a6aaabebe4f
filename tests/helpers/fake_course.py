"""Small fake courses in temporary folders, and the command `course` run on them, in this process or as its own.

COURSE_ROOT and COURSE_STATE point the command at the fake course. COURSE_STATE in their environment also identifies the
processes that belong to it, grandchildren in sessions of their own included.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import psutil
import requests
from click.testing import CliRunner, Result

from course import notebooks, store
from course.chapters import Chapter
from course.cli import main

CHECKOUT = Path(__file__).resolve().parents[2]
COURSE = shutil.which("course", path=str(Path(sys.executable).parent)) or "course is not installed next to this Python"
HEADER = "---\nkernelspec:\n  display_name: Python 3\n  language: python\n  name: python3\n---\n"
SLOW = 5  # factor on timeouts for slow machines; waits return as soon as the condition holds
FOREIGN = ("COURSE_", "MLFLOW_", "_MLFLOW_", "JUPYTER", "IPYTHONDIR", "MAKE", "MFLAGS", "MPL", "PYTHON")


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without what would steer the course, and with `more`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return kept | {"MLFLOW_DISABLE_TELEMETRY": "true"} | {name: str(value) for name, value in more.items()}


def copy_checkout(target: Path) -> None:
    """Copy what belongs to the course, without what was made in the checkout."""
    made = (".venv", ".git", ".course", "work", "__pycache__", ".*_cache")
    shutil.copytree(CHECKOUT, target, ignore=shutil.ignore_patterns(*made))


def until(true: Callable, seconds: float = 15, what: str = "it") -> object:
    """Wait for `true()` to hold and return what it returned. `seconds` are those of a usual machine."""
    deadline = time.monotonic() + SLOW * seconds
    while True:
        late = time.monotonic() > deadline
        if result := true():
            return result
        assert not late, f"{what} did not come true within {SLOW * seconds:g} s"
        time.sleep(0.1)


def status(url: str, method: str = "GET", auth: tuple[str, str] | None = None, **headers: str) -> int:
    """Return the status of the response."""
    with requests.Session() as session:
        session.trust_env = False  # no proxy
        return session.request(method, url, auth=auth, headers=headers, timeout=20).status_code


def processes_of(state: Path) -> list[psutil.Process]:
    """Every living process, but for this one, that works on this state folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            mine = process.environ().get("COURSE_STATE") == str(state)
            if mine and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@contextmanager
def open_folder():
    """A temporary folder that PostgreSQL's account and others may enter, as pytest's own is not."""
    folder = Path(tempfile.mkdtemp(prefix="course-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class FakeCourse:
    """A course of a few made-up chapters, in `root`, with its state in `state`."""

    def __init__(self, folder: Path):
        self.root, self.state = folder / "course", folder / "state"
        for name in ("chapters/checks", "notebooks", "data"):
            (self.root / name).mkdir(parents=True)
        (self.root / "requirements.lock").write_text("# nothing\n")
        (self.root / "data" / "prices.csv").write_text("date,close\n")

    def chapter(self, number: str, *cells: str | tuple[str, str], built: bool = True) -> Chapter:
        """Write a chapter with a text cell before each of these code cells; a pair is (tag, source)."""
        text = f"{HEADER}\n# Do step {number}\n\nSome text.\n"
        for cell in cells:
            tag, source = ("", cell) if isinstance(cell, str) else cell
            text += "\nMore text.\n\n```{code-cell}\n" + (f":tags: [{tag}]\n\n" if tag else "") + source + "\n```\n"
        chapter = Chapter(number, f"{number}_step")
        with self.here():
            chapter.source.write_text(text, encoding="utf-8")
            if built:
                notebooks.nbformat.write(notebooks.read(chapter), chapter.notebook)
        return chapter

    @contextmanager
    def here(self):
        """Let the machinery in this process work on this course."""
        with patch.dict(os.environ, COURSE_ROOT=str(self.root), COURSE_STATE=str(self.state)):
            yield self

    def use_store(self, original: Path) -> Path:
        """Give the course a copy of a store, which takes a tenth of the time of making one."""
        store.copy(original, self.state / "store")
        return self.state / "store"

    def environment(self, **more: str) -> dict[str, str]:
        return clean_environment(COURSE_ROOT=self.root, COURSE_STATE=self.state, **more)

    def invoke(self, *arguments: str, stdin: str = "", **env: str) -> Result:
        """Run `course ARGUMENTS` in this process. An unexpected exception is raised, not printed."""
        with patch.dict(os.environ, self.environment(**env), clear=True), chdir(self.root):
            return CliRunner().invoke(main, [str(word) for word in arguments], input=stdin, catch_exceptions=False)

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run `course ARGUMENTS` as a process, to its end."""
        options = self.options(env)
        return subprocess.run([COURSE, *arguments], capture_output=True, encoding="utf-8", timeout=300, **options)

    def python(self, code: str, **env: str) -> str:
        """Run a script on this course; return what it printed."""
        command, options = [sys.executable, "-c", code], self.options(env)
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def options(self, env: dict[str, str]) -> dict[str, object]:
        return {"cwd": self.root, "env": self.environment(**env), "stdin": subprocess.DEVNULL}

    @contextmanager
    def started(self, *command: str, **env: str):
        """Start a command in the background, its output in a file; afterwards nothing of this course is left alive."""
        options = self.options({"PYTHONUNBUFFERED": "1", **env}) | {"start_new_session": True}
        with open(self.root / "output.txt", "wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, **options)
        try:
            yield process
        finally:
            self.end_all()
            process.wait()

    def output(self) -> str:
        return (self.root / "output.txt").read_bytes().decode(errors="replace")

    def processes(self) -> list[psutil.Process]:
        return processes_of(self.state)

    def listening(self, *more: psutil.Process) -> set[str]:
        """Return the addresses on which processes of this course listen, and more of them."""
        connections = [one for process in [*self.processes(), *more] for one in process.net_connections("inet")]
        return {one.laddr.ip for one in connections if one.status == psutil.CONN_LISTEN}

    def alone(self, seconds: float = 15) -> None:
        """Fail unless every process of this course is gone within that time."""
        until(lambda: not self.processes(), seconds, "the end of every process of this course")

    def end_all(self) -> None:
        while left := self.processes():
            for process in left:
                with suppress(psutil.Error):
                    process.kill()
            time.sleep(0.05)
