"""Every notebook four more times: after a kill, from its checkpoint, without wide vector units, on the other market.

Two chains that run side by side. In the first, each chapter is killed at a random cell and then runs to its end, and
nbval itself compares its outputs from a copy of the store that the chapter before left. In the second, NumPy runs
without the processor's wide vector units, and a server that holds those runs then gets the learner's answers on the
other market.
"""

import os
import random
import time
from unittest.mock import patch

import chapter_runs
import nbformat
import pytest
from comparison import differing, is_compared
from fake_course import until
from processors import wide_vector_units

from course import store
from course.chapters import all_chapters, before
from course.execute import run_chapter, state_folder

by_chapter = pytest.mark.parametrize("chapter", all_chapters(), ids=lambda chapter: chapter.number)
SEED = int(os.environ.get("COURSE_SEED") or time.time_ns() % 1_000_000)
KILLED, WITHOUT_UNITS = pytest.mark.xdist_group("killed"), pytest.mark.xdist_group("without-units")


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    return chapter_runs.InOrder(tmp_path_factory.mktemp("resumed"), copies=True)


@pytest.fixture(scope="module")
def without_units(tmp_path_factory):
    """Chapters whose NumPy uses the baseline of its build alone."""
    features = wide_vector_units()
    print(f"NPY_DISABLE_CPU_FEATURES={features!r}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NPY_DISABLE_CPU_FEATURES", features)
        yield chapter_runs.InOrder(tmp_path_factory.mktemp("without-units"), copies=True)


@pytest.fixture(scope="module")
def used_server(without_units, tmp_path_factory):
    """A server that holds the runs of the whole course on the first market."""
    final = without_units.copy_after(all_chapters()[-1])
    with chapter_runs.server_on_a_copy(final, tmp_path_factory.mktemp("other-market")) as server:
        yield server


@KILLED
@by_chapter
def test_chapter_runs_to_its_end_after_a_kill(chapter, resumed, tmp_path):
    resumed.reach(*before(chapter)[-1:])
    database = resumed.state / "store" / "mlflow.db"
    with chapter_runs.chapter_environment(), state_folder(resumed.state):
        copy, where = chapter_runs.killed(chapter, tmp_path, random.Random(f"{SEED} {chapter.number}"))
        print(f"COURSE_SEED={SEED}: chapter {chapter.number} is killed in {where}")
        result = run_chapter(chapter, notebook=copy)
        assert result.failure and "the kernel died" in result.failure, result
        assert chapter_runs.survivors(resumed.state) == []
        left = chapter_runs.unfinished_runs(database) if database.exists() else []
        print(f"The kill left {len(left)} unfinished runs")
    resumed.reach(chapter)
    assert resumed.traces() == []
    assert {chapter_runs.statuses(database)[run] for run in left} <= {"KILLED"}


@KILLED
@by_chapter
def test_nbval_passes_from_the_checkpoint(chapter, resumed, tmp_path):
    """The checkpoint is a copy whose originals are gone."""
    checkpoint = resumed.copy_after(*before(chapter)[-1:])
    with chapter_runs.chapter_environment(), state_folder(tmp_path / "state"):
        if checkpoint:  # there is none before the first chapter
            store.copy(checkpoint, tmp_path / "state" / "store")
        with chapter_runs.out_of_the_way(resumed.state, *[checkpoint] if checkpoint else []):
            done, verdicts = chapter_runs.nbval(chapter)
    code = [cell for cell in nbformat.read(chapter.notebook, as_version=4).cells if cell.cell_type == "code"]
    other = {number: verdict for number, verdict in verdicts.items() if verdict != "PASSED"}
    assert done.returncode == 0 and not other and len(verdicts) == len(code), (
        f"Chapter {chapter.number}, cells {other}, {len(verdicts)} of {len(code)} ran:\n{done.stdout[-6000:]}"
    )
    assert chapter_runs.strays() == []


@WITHOUT_UNITS
@by_chapter
def test_outputs_are_the_same_without_wide_vector_units(chapter, without_units):
    result = without_units.reach(chapter)
    assert without_units.traces() == []
    if chapter_runs.COMPARE_OUTPUTS:
        committed = nbformat.read(chapter.notebook, as_version=4)
        assert any(map(is_compared, committed.cells)) and differing(committed, result.notebook) == {}


@WITHOUT_UNITS
@by_chapter
def test_other_market_on_a_used_server(chapter, used_server, tmp_path):
    """The learner's copy: the answers in it stay as they are, and are right; nobody else's runs change."""
    market = chapter_runs.other_market(chapter)
    chapter_runs.run_as_learner(chapter, used_server, tmp_path, market)
    with chapter_runs.connected(used_server.url, tmp_path), patch.dict(os.environ, MLFLOW_WORKSPACE=market):
        given = chapter_runs.parameters_of_begin(chapter, {"market": market})
        assert chapter_runs.bad_checks(chapter, given) == []


def test_what_a_chapter_leaves_behind_is_found(fake):
    (fake.root / "notebooks" / "mlruns").mkdir()
    (fake.root / "mlflow.db").touch()
    with fake.here():
        assert sorted(map(os.path.basename, chapter_runs.strays())) == ["mlflow.db", "mlruns"]
    with fake.started("sh", "-c", "echo started; sleep 60"):
        until(lambda: "started" in fake.output())  # a new process shows its environment a moment after its birth
        assert "sleep 60" in chapter_runs.survivors(fake.state, seconds=0)[0]
    assert chapter_runs.survivors(fake.state, seconds=0) == []
