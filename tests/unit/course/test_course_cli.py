"""The command `course`: what it says about words that it does not know, and `python -m course`."""

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner
from messages import assert_on_page

from course import CourseError, execute, session
from course.cli import main

PARAMETERS = ("parameters", 'market = "sp500"  # sp500 or nasdaq\nwindow = 14  # days\ntracking_uri = None')


@pytest.mark.parametrize(("words", "sentence"), [
    ("chekpoint", "No such command 'chekpoint'. Did you mean 'checkpoint'?"),
    ("run --timeout 0", "Invalid value for '--timeout': 0.0 is not in the range x>=1."),
    ("run 07", "There is no chapter 07: choose from 01, 02, or a range such as 01-02."),
    ("run -p ticker=x", "Chapter 01 has no parameter ticker; it has market, window, tracking_uri."),
    ("run 02 -p market=dax", "Chapter 02 has no parameter market; it has none."),
    ("run 01 -p market=dax", "market cannot be dax in chapter 01: use sp500 or nasdaq."),
    ("run -p market", "The parameter market has no value: write it as market=nasdaq."),
    ("checkpoint 01-02", "A checkpoint belongs to one chapter, not to 01-02: name the chapter you want to"),
    ("ui --showcase", "There is no showcase yet: `make course` makes it, and so does `course run --showcase`."),
    ("run --showcase --tracking-uri x", "The showcase has a store of its own: omit --tracking-uri or"),
    ("solution 01.1", "There is no exercise 01.1: this chapter has none."),
    ("reset", "Choose what to reset: a chapter's notebook, as in `course reset 03`, or the store with --store."),
])  # fmt: skip
def test_what_does_not_exist_is_named_beside_what_does(fake, words, sentence):
    fake.chapter("01", PARAMETERS)
    fake.chapter("02", "x = 1")
    done = fake.invoke(*words.split())
    assert done.exit_code in (1, 2) and f"Error: {sentence}" in done.stderr
    assert not fake.state.exists()
    if "run 01" in words:
        assert_on_page("market cannot be", done.stderr)


def test_a_course_without_chapters_or_notebooks(fake):
    """Said by `python -m course`, too, which is the same command."""
    command = [sys.executable, "-m", "course", "run", "7"]
    done = subprocess.run(command, capture_output=True, text=True, env=fake.environment())
    assert done.returncode == 1 and f"Error: There are no chapters under {fake.root}" in done.stderr
    fake.chapter("01", PARAMETERS, built=False)
    done = fake.invoke("run")
    assert done.stderr == "Error: 01_step.ipynb is missing from notebooks/: run `make notebooks`.\n"
    assert_on_page("There is no chapter", fake.invoke("run", "99").stderr)


def test_an_address_with_a_password_is_no_parameter(fake, monkeypatch):
    """Papermill writes parameters into the executed copy."""
    calls, name = [], "COURSE_TRACKING_URI"
    monkeypatch.setattr(execute, "run", lambda _, values, __: calls.append((values, os.environ.get(name))) or [])
    fake.chapter("01", PARAMETERS)
    for words in ("--tracking-uri http://ada:secret@host", "-p tracking_uri=http://host", "-p tracking_uri=None"):
        assert fake.invoke("run", *words.split()).exit_code == 0
    assert calls == [({}, "http://ada:secret@host"), ({"tracking_uri": "http://host"}, None), ({}, None)]


def test_an_environment_copied_with_its_checkout_is_refused(tmp_path, monkeypatch):
    (tmp_path / "src" / "course").mkdir(parents=True)
    (tmp_path / "src" / "course" / "paths.py").touch()
    monkeypatch.chdir(tmp_path / "src")
    done = CliRunner().invoke(main, ["doctor"])
    assert done.exit_code == 1 and f"in another checkout, {tmp_path}: run" in done.stderr
    with pytest.raises(CourseError) as refusal:
        session.choose_store(None)
    assert_on_page("This environment runs", str(refusal.value))
