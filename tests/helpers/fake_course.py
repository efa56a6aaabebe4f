"""Small fake courses in temporary folders, and the real command `course` run in them.

COURSE_ROOT and COURSE_STATE point the command at the fake course. The state folder also marks every process that
belongs to it, grandchildren in sessions of their own included: it stands in their environment.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import psutil

from course import notebooks, store
from course.chapters import Chapter

CHECKOUT = Path(__file__).resolve().parents[2]
COURSE = shutil.which("course", path=str(Path(sys.executable).parent)) or "course is not installed beside this Python"
HEADER = "---\nkernelspec:\n  display_name: Python 3\n  language: python\n  name: python3\n---\n"
SLOW = 5  # times as long as usual may a slow machine take that has other things to do; who waits less is done earlier
FOREIGN = ("COURSE_", "MLFLOW_", "_MLFLOW_", "JUPYTER", "IPYTHONDIR", "MAKE", "MFLAGS")


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without what would steer the course, and with `more`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return kept | {"MLFLOW_DISABLE_TELEMETRY": "true"} | {name: str(value) for name, value in more.items()}


def until(true: Callable, seconds: float = 15, what: str = "it") -> object:
    """Wait for `true()` to hold and return what it returned. `seconds` are those of a usual machine."""
    deadline = time.monotonic() + SLOW * seconds
    while True:
        late = time.monotonic() > deadline
        if result := true():
            return result
        assert not late, f"{what} did not come true within {SLOW * seconds:g} s"
        time.sleep(0.1)


class CourseRoot:
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

    def run(self, *arguments: str, seconds: float = 300, cwd: Path | None = None, stdin: str = "", **env: str):
        """`course ARGUMENTS`, to its end."""
        return subprocess.run(
            [COURSE, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=seconds,
            cwd=cwd or self.root,
            env=self.environment(**env),
        )

    def python(self, code: str, *, seconds: float = 300, cwd: Path | None = None, **env: str) -> str:
        """Run a script on this course; returns what it printed."""
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=seconds,
            cwd=cwd or self.root,
            env=self.environment(**env),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def started(self, *command: str, output: str = "output.txt", **env: str):
        """Start a command in the background, its output in a file; afterwards nothing of this course is left alive."""
        with open(self.root / output, "wb") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=self.root,
                env=self.environment(PYTHONUNBUFFERED="1", **env),
                start_new_session=True,
            )
        try:
            yield process
        finally:
            self.end_all()
            process.wait()

    def output(self, name: str = "output.txt") -> str:
        return (self.root / name).read_bytes().decode(errors="replace")

    def processes(self) -> list[psutil.Process]:
        """Every living process that works on this course's state."""
        found = []
        for process in psutil.process_iter():
            try:
                mine = process.environ().get("COURSE_STATE") == str(self.state)
                if mine and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def alone(self, seconds: float = 15) -> None:
        """Fail unless every process of this course is gone within that time."""
        until(lambda: not self.processes(), seconds, "the end of every process of this course")

    def end_all(self) -> None:
        while left := self.processes():
            for process in left:
                try:
                    process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
                except psutil.Error:
                    continue
            time.sleep(0.05)
