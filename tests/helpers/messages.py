"""The messages on book/troubleshooting.md, and what the tests share that provoke them."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import mlflow
import pytest
from fake_course import CHECKOUT, clean_environment

import course
from course import store

PAGE = (CHECKOUT / "book" / "troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = [message.strip() for _, message in re.findall(r"^### (`+)(.+)\1$", PAGE, re.MULTILINE)]
NOWHERE = "http://127.0.0.1:1"  # nothing listens on port 1
SECONDS = 300


def assert_on_page(part: str, text: str) -> None:
    """The page's message with `part` in it must be in the text, with anything for each … and lines broken anywhere."""
    (message,) = [message for message in MESSAGES if part in message]
    parts = [r"\s+".join(map(re.escape, part.split(" "))) for part in message.split("…")]
    assert re.search(".+?".join(parts), text, re.DOTALL), f"{message!r} is not in:\n{text[-3000:]}"


def output(*command: object, cwd: Path | None = None, **env: str | int | Path) -> str:
    """All that a command prints until it ends."""
    words, env = [str(word) for word in command], clean_environment(**env)
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8"}
    return subprocess.run(words, timeout=SECONDS, cwd=cwd, env=env, **pipes).stdout


def raised(call: Callable, *arguments: object, **named: object) -> str:
    """The exception of a call as a notebook shows it last."""
    try:
        call(*arguments, **named)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("it did not fail")


def begin() -> None:
    course.begin("01", None, market="sp500")


@pytest.fixture(scope="module")
def learner(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state folder with a store, and this process as a notebook's kernel on it."""
    folder = tmp_path_factory.mktemp("learner")
    store.copy(empty_store, folder / "store")
    with patch.dict(os.environ, COURSE_STATE=str(folder), MLFLOW_HTTP_REQUEST_MAX_RETRIES="0"):
        begin()
        yield folder
        while mlflow.active_run():
            mlflow.end_run()


@pytest.fixture
def elsewhere(learner: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Patch this process for another store; after the test it is on the learner's again."""
    yield monkeypatch
    monkeypatch.undo()
    begin()
