"""The first chapters on the other market, against a server, in the learner's own copy: a smoke test of the passes."""

import chapter_runs
import pytest

from course.chapters import all_chapters


@pytest.fixture(scope="module")
def server(empty_store, tmp_path_factory):
    with chapter_runs.server_on_a_copy(empty_store, tmp_path_factory.mktemp("other-market")) as server:
        yield server


@pytest.mark.xdist_group("other-market")
@pytest.mark.parametrize("chapter", all_chapters()[:2], ids=lambda chapter: chapter.number)
def test_learners_copy_passes_on_the_other_market(chapter, server, tmp_path):
    chapter_runs.run_as_learner(chapter, server, tmp_path, chapter_runs.other_market(chapter))
