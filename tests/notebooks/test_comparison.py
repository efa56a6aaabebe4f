"""Our comparison of outputs gives the verdicts of `pytest --nbval`; a check that accepts anything is found."""

from unittest.mock import Mock

import chapter_runs
import nbformat
import pytest
from comparison import differing, is_compared
from nbformat.v4 import new_output

from course.checks import Exercise, Wrong
from course.execute import run_chapter

CELLS = {  # source: committed outputs, and whether they still hold
    "print('a'); import sys; print('b', file=sys.stderr)": ([("stdout", "a\n"), ("stderr", "b\n")], True),
    "print('now')": ([("stdout", "then\n")], False),
    "1 + 1": (["3"], False),
    "print('new')": ([], False),
    "x = 1": (["1"], False),
    "6 * 7": (["42"], True),
}


def as_output(output):
    if isinstance(output, str):
        return new_output("execute_result", data={"text/plain": output}, execution_count=1)
    return new_output("stream", name=output[0], text=output[1])


@pytest.mark.skipif(not chapter_runs.COMPARE_OUTPUTS, reason="outputs are compared on Linux x86_64, on the lock")
def test_comparison_gives_the_verdicts_of_nbval(fake):
    ignored = ("nbval-ignore-output", "import os; os.urandom(9)")
    chapter = fake.chapter("01", *CELLS, ignored, "2 + 2")
    with fake.here():
        committed = nbformat.read(chapter.notebook, as_version=4)
        code = [cell for cell in committed.cells if cell.cell_type == "code"]
        for number, cell in enumerate(code[:-1], 1):  # the last was never run, so that nbval does not compare it
            cell.execution_count = number
            cell.outputs = [as_output(output) for output in CELLS.get(cell.source, (["stale"], True))[0]]
        nbformat.write(committed, chapter.notebook)
        done, verdicts = chapter_runs.nbval(chapter)
        different = differing(committed, run_chapter(chapter).notebook)
    expected = [holds for _, holds in CELLS.values()] + [True, True]
    numbers = [number for number, cell in enumerate(committed.cells, 1) if cell.cell_type == "code"]
    assert done.returncode == 1 and "Cell outputs differ" in done.stdout
    assert verdicts == {number: "PASSED" if holds else "FAILED" for number, holds in zip(numbers, expected)}
    assert set(different) == {number for number, holds in zip(numbers, expected) if not holds}
    assert [is_compared(cell) for cell in code] == [True] * len(CELLS) + [False, False]


@pytest.mark.parametrize(("error", "complaints"), [
    (Wrong("Count the days that rose, not all days."), []),
    (Wrong("Wrong."), ["gets no advice", "gets no advice"]),
    (KeyError("answer"), ["breaks the check", "breaks the check"]),
    (None, ["answer 1 passes", "answer 2 passes", *(f"{name} passes" for name in chapter_runs.JUNK)]),
])  # fmt: skip
def test_bad_check_is_found(error, complaints):
    problems = list(chapter_runs.problems(Exercise("09.1", Mock(side_effect=error), [1, 2]), {}))
    assert len(problems) == len(complaints)
    assert all(complaint in problem for complaint, problem in zip(complaints, problems)), problems
