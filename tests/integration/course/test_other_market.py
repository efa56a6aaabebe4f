"""The first chapters on the other market, against a server, in the learner's own copy: a smoke test of the passes."""

import os

import chapter_runs
import mlflow
import pytest

from course import CourseError, session, store
from course.chapters import all_chapters
from course.servers import MLFLOW_SERVER_ENVIRONMENT, mlflow_server, start_server


@pytest.fixture(scope="module")
def server(empty_store, tmp_path_factory):
    with chapter_runs.server_on_a_copy(empty_store, tmp_path_factory.mktemp("other-market")) as server:
        yield server


@pytest.mark.xdist_group("other-market")
@pytest.mark.parametrize("chapter", all_chapters()[:4], ids=lambda chapter: chapter.number)
def test_learners_copy_passes_on_the_other_market(chapter, server, tmp_path):
    chapter_runs.run_as_learner(chapter, server, tmp_path, chapter_runs.other_market(chapter))


def test_a_server_without_workspaces_cannot_keep_the_other_market_apart(empty_store, tmp_path):
    chapter = all_chapters()[0]
    market = chapter_runs.other_market(chapter)
    store.copy(empty_store, tmp_path / "server")
    command = mlflow_server(store.uri(tmp_path / "server"))
    server = start_server(command, env=MLFLOW_SERVER_ENVIRONMENT, cwd=tmp_path, log=tmp_path / "log")
    with server, chapter_runs.connected(server.url, tmp_path / "state"):
        with pytest.raises(CourseError, match=f"{server.url} has no workspace `{market}` for you"):
            session.begin(chapter.number, server.url, market=market)
        session.begin(chapter.number, server.url, market="sp500")
        assert "MLFLOW_WORKSPACE" not in os.environ and mlflow.search_experiments()
