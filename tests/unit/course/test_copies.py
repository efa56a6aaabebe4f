"""The learner's copies in work/: no outputs, solutions folded; what the learner has touched stays."""

import re

import nbformat
import pytest
from nbformat.v4 import new_output

from course import copies

SOLUTION = '# count them\nsolution = 3\ncourse.check("01.1", solution)'


@pytest.fixture
def chapter(fake):
    """A chapter with outputs, an exercise and its solution, and a link to another chapter."""
    chapter = fake.chapter("01", "1 + 1", ("exercise", "answer = ..."), ("solution", SOLUTION))
    with fake.here():
        notebook = nbformat.read(chapter.notebook, as_version=4)
        notebook.cells[0].source = "See [02](../notebooks/02_step.ipynb)."
        notebook.cells[-2].source = "<details><summary>Solution 01.1</summary>\n\nThree.\n\n</details>"
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [new_output("stream", text="secret")], 7
        nbformat.write(notebook, chapter.notebook)
        yield chapter


def test_a_copy_shows_no_output_and_runs_no_solution(chapter):
    assert copies.copy_notebooks() == ["01_step"]
    cells = nbformat.read(chapter.working_copy, as_version=4).cells
    assert [cell.source for cell in cells if cell.cell_type == "code"] == ["1 + 1", "answer = ..."]
    assert not any(cell.outputs or cell.execution_count for cell in cells if cell.cell_type == "code")
    assert cells[0].source == "See [02](02_step.ipynb)."
    fold = f"<details><summary>Solution 01.1</summary>\n\nThree.\n\n```python\n{SOLUTION}\n```\n\n</details>"
    assert cells[-1].source == fold and "solution" not in "".join(cell.source for cell in cells[:-1])


def test_an_untouched_copy_follows_the_course_and_a_touched_one_stays(chapter, fake):
    copies.copy_notebooks()
    assert copies.copy_notebooks() == []
    mine = chapter.working_copy
    fake.chapter("01", "a newer text")
    assert copies.copy_notebooks() == ["01_step"] and "a newer text" in mine.read_text()
    for number, change in enumerate(("source", "outputs")):
        notebook = nbformat.read(mine, as_version=4)
        notebook.cells[-1][change] = "my text" if change == "source" else [new_output("stream", text="mine")]
        nbformat.write(notebook, mine)
        fake.chapter("01", f"text {number}")
        assert copies.copy_notebooks() == [] and re.search("my text|mine", mine.read_text())
        copies.renew(chapter)
    mine.write_text("half a file")
    assert copies.copy_notebooks() == [] and mine.read_text() == "half a file"


def test_reset_renews_a_notebook_and_keeps_the_learners(fake):
    chapter = fake.chapter("01", "x = 1")
    mine = fake.root / "work" / "01_step.ipynb"
    assert fake.invoke("reset", "1").stdout == "work/01_step.ipynb is now a fresh copy.\n"
    for number in (1, 2):
        mine.write_text(f"mine {number}")
        assert f"copy. Yours is kept as 01_step.kept-{number}.ipynb." in fake.invoke("reset", "01").stdout
        assert mine.with_name(f"01_step.kept-{number}.ipynb").read_text() == f"mine {number}"
        assert nbformat.read(mine, as_version=4).cells
    mine.write_text("mine 3")
    (fake.root / "notebooks" / f"{chapter.name}.ipynb").unlink()
    done = fake.invoke("reset", "01")
    assert done.exit_code == 1 and "01_step.ipynb is missing from notebooks/" in done.stderr
    assert mine.read_text() == "mine 3"


def test_course_solution_prints_one(chapter, fake):
    assert fake.invoke("solution", "01.1").stdout == f"Three.\n\n{SOLUTION}\n"
    done = fake.invoke("solution", "01.2")
    assert done.exit_code == 1 and done.stderr == "Error: There is no exercise 01.2: this chapter has 01.1.\n"
