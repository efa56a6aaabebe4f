"""Every notebook once, in order, on one store: it runs, shows its committed outputs, and its exercises check right."""

import chapter_runs
import nbformat
import pytest
from comparison import differing, is_compared

from course import store
from course.chapters import all_chapters

by_chapter = pytest.mark.parametrize("chapter", all_chapters(), ids=lambda chapter: chapter.number)
pytestmark = pytest.mark.xdist_group("chapters")  # one worker, in order


@pytest.fixture(scope="module")
def learner(tmp_path_factory):
    return chapter_runs.InOrder(tmp_path_factory.mktemp("learner"))


@pytest.fixture(scope="module")
def checkout_before():
    return chapter_runs.checkout()


@by_chapter
def test_chapter_runs_and_shows_its_committed_outputs(chapter, learner, checkout_before, tmp_path, record_property):
    result = learner.reach(chapter)
    record_property("measured", f"chapter {chapter.number}: {result.seconds:.1f} s")
    assert learner.traces() == [] and chapter_runs.unsolved(result.notebook) == []
    if chapter_runs.COMPARE_OUTPUTS:
        committed = nbformat.read(chapter.notebook, as_version=4)
        code = [cell for cell in committed.cells if cell.cell_type == "code"]
        compared = sum(map(is_compared, code))
        assert compared >= 0.9 * len(code), f"only {compared} of {len(code)} code cells are compared"
        for number, explanation in differing(committed, result.notebook).items():
            print(f"cell {number}:\n{committed.cells[number - 1].source}\n{explanation}\n")
        assert list(differing(committed, result.notebook)) == [], "the cells whose outputs are not the committed ones"
    with chapter_runs.connected(store.uri(learner.state / "store"), tmp_path):
        assert chapter_runs.bad_checks(chapter, chapter_runs.parameters_of_begin(chapter, {})) == []


def test_checkout_is_untouched(learner, checkout_before):
    """After the chapters above, git sees what it saw before them, and .course holds what it held."""
    assert chapter_runs.checkout() == checkout_before
