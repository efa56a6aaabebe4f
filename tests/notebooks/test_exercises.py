"""The checks of the exercises, in the store as it is after their chapter: right passes, wrong is refused with advice.

That each solution passes stands in the committed notebooks (`course lint`), which nbval compares; that a
learner's answer passes and is left alone, in the pass over the second market (test_notebooks.py).
"""

import os

import pandas as pd
import pytest

pytest.register_assert_rewrite("chapter_runs")

import chapter_runs as passes  # noqa: E402

from course import store  # noqa: E402
from course.chapters import all_chapters  # noqa: E402
from course.checks import Exercise, Wrong, evaluate, exercises  # noqa: E402
from course.runner import state_folder  # noqa: E402

pytest_plugins = ["chapter_runs"]

JUNK = {"None": None, "empty": "", "object": object(), "list": [], "table": pd.DataFrame(), "function": len}
by_chapter = pytest.mark.parametrize("chapter", all_chapters(), ids=lambda chapter: chapter.number)


@pytest.fixture
def connect():
    """Point this process at a store for one test, as a notebook's kernel is."""
    import mlflow

    outside = dict(os.environ)

    def to(uri: str) -> None:
        os.environ["MLFLOW_TRACKING_URI"] = uri
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)

    yield to
    mlflow.set_tracking_uri(None)  # first these, because they write into the environment
    mlflow.set_registry_uri(None)
    os.environ.clear()
    os.environ.update(outside)


@pytest.mark.xdist_group(passes.FIRST)
@by_chapter
def test_checks_on_the_first_market(chapter, first_market, connect, checkout_before, tmp_path):
    saved = first_market.after(chapter)
    with passes.passes_environment(), state_folder(tmp_path):
        connect(store.uri(saved))
        assert refusals(chapter, passes.parameters_of_begin(chapter, {})) == []


@pytest.mark.xdist_group(passes.SECOND)
@by_chapter
def test_checks_on_the_second_market(chapter, used_server, connect, checkout_before, tmp_path):
    given = {"market": passes.other_market(chapter)}
    with passes.passes_environment(), state_folder(tmp_path):
        connect(used_server.url)
        assert refusals(chapter, passes.parameters_of_begin(chapter, given)) == []


def refusals(chapter, parameters) -> list[str]:
    """What is wrong with the checks of a chapter: answers that pass and should not, and refusals that help nobody."""
    found = exercises(chapter.number)
    assert found, f"chapters/checks/{chapter.number}.py lists no exercises"
    return [problem for exercise in found for problem in problems(exercise, parameters)]


def problems(exercise: Exercise, parameters: dict) -> list[str]:
    found = []
    passed, said = evaluate(exercise, ..., parameters)
    if passed or not said.startswith("not answered yet"):
        found.append(f"{exercise.id}: `...` gives {said!r}")
    for answer in exercise.wrong:
        passed, said = evaluate(exercise, answer, parameters)
        if passed:
            found.append(f"{exercise.id}: the wrong answer {answer!r} passes")
        elif "Checking it ended in" in said:
            found.append(f"{exercise.id}: the wrong answer {answer!r} breaks the check: {said}")
        elif len(said.removeprefix("not yet.")) < 20:
            found.append(f"{exercise.id}: the wrong answer {answer!r} gets no advice: {said!r}")
    for name, answer in JUNK.items():
        try:
            passed, said = evaluate(exercise, answer, parameters)
        except Exception as error:
            found.append(f"{exercise.id}: {name} raises {type(error).__name__}")
            continue
        if passed:
            found.append(f"{exercise.id}: {name} passes")
    return found


# --- the rule itself, on checks that break it -------------------------------------------------------------------------


def refuses(answer):
    if answer != 3:
        raise Wrong("Count the days that rose, not all days.")


def curt(answer):
    raise Wrong("Wrong.")


def breaks(answer):
    raise KeyError(answer)


def accepts(answer):
    pass


@pytest.mark.parametrize(
    "test, complaints",
    [
        (refuses, []),
        (curt, ["gets no advice", "gets no advice"]),
        (breaks, ["breaks the check", "breaks the check"]),
        (accepts, ["the wrong answer 1 passes", "the wrong answer 2 passes", *(f"{name} passes" for name in JUNK)]),
    ],
)
def test_a_bad_check_is_found(test, complaints):
    found = problems(Exercise("09.1", test, [1, 2]), {})
    assert len(found) == len(complaints) and all(c in f for c, f in zip(complaints, found)), found


def test_a_solution_becomes_an_answer():
    solution = '# the share\nsolution = round(share, 3)\ncourse.check("09.1", solution)'
    assert passes.as_answer(solution) == "# the share\nanswer = round(share, 3)"
