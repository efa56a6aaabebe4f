"""`course.check`: says what to do next, and never raises."""

import pytest

import course
from course import checks, store

FILE = """
from course.checks import Exercise, Wrong

def three(answer, market):
    if answer + 1 > 4:
        raise Wrong(f"Too many for {market}.")
    if answer != 3:
        raise Wrong("Count again.")

EXERCISES = [Exercise(id, three, [2, 4]) for id in ("01.1", "01.2")]
"""
QUESTIONS = """
> **Exercise 01.1** How many?

<details><summary>Hint</summary>
Look at
the table.
</details>

> **Exercise 01.2** How many now?
> <details><summary>Hint</summary>Look again.</details>
"""


@pytest.fixture
def here(fake, monkeypatch):
    chapter = fake.chapter("01", "x = 1")
    fake.chapter("02", "x = 1")
    with fake.here():
        chapter.checks.write_text(FILE)
        chapter.source.write_text(chapter.source.read_text() + QUESTIONS)
        monkeypatch.setattr(checks.session, "_session", {"parameters": {"market": "sp500"}})
        yield chapter


class Awkward:
    def __eq__(self, other):
        raise RuntimeError("no")

    __ne__ = __add__ = __eq__


@pytest.mark.parametrize(("exercise", "answer", "printed"), [
    ("01.1", ..., "Exercise 01.1: not answered yet: replace the ... in the cell above, then run both cells."),
    ("01.1", 3, "Exercise 01.1: right."),
    ("01.1", 2, "Exercise 01.1: not yet. Count again."),
    ("01.1", 4, "Exercise 01.1: not yet. Too many for sp500."),
    ("01.1", "3", "Exercise 01.1: not yet: Look at the table. (The check raised TypeError:"),
    ("01.2", None, "Exercise 01.2: not yet: Look again. (The check raised TypeError:"),
    ("01.1", Awkward(), "Exercise 01.1: not yet: Look at the table. (The check raised RuntimeError: no)"),
    ("01.7", 3, "Exercise 01.7: the check did not work: there is no exercise 01.7; this chapter has 01.1, 01.2."),
    ("02.1", 3, "Exercise 02.1: the check did not work: there is no exercise 02.1; this chapter has none."),
    ("09.1", 3, "Exercise 09.1: the check did not work: There is no chapter 09: choose from 01, 02,"),
    (1, 3, "Exercise 1: the check did not work:"),
])  # fmt: skip
def test_check_answers_in_a_line(here, capsys, exercise, answer, printed):
    course.check(exercise, answer)
    out = capsys.readouterr().out
    assert out.startswith(printed) and out.count("\n") == 1


def test_a_damaged_checks_file_does_not_stop_run_all(here, capsys):
    here.checks.write_text("EXERCISES = [")
    course.check("01.1", 3)
    assert "Exercise 01.1: the check did not work: " in capsys.readouterr().out


def test_course_check_judges_the_newest_answers_again(here, fake, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri(store.folder()))
    unanswered = "Exercise 01.1: not answered yet: open work/01_step.ipynb, and run its check there.\n"
    assert unanswered in fake.invoke("check", "1").stdout
    for exercise, answer in (("01.1", 2), ("01.1", 3), ("01.1", ...), ("01.2", 2)):
        course.check(exercise, answer)
    monkeypatch.setenv("COURSE_EXECUTED", "1")  # as `course run` does, whose answers are not the learner's
    course.check("01.2", 3)
    done = fake.invoke("check", "1")
    lines = ["Exercise 01.1: right.", "Exercise 01.2: not yet. Count again.", "1 of 2 exercises of chapter 01 pass."]
    assert (done.exit_code, done.stdout.splitlines()) == (1, lines), done.stderr
    course.check("01.1", print)
    here.checks.write_text(FILE.replace("answer != 3", "answer != 2"))  # what was right no longer is
    assert "Exercise 01.1: not yet" in fake.invoke("check", "01").stdout
    assert "0 of 0 exercises of chapter 02 pass." in fake.invoke("check", "02").stdout
