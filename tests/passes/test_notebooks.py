"""Every notebook three times: in order after a kill, against its committed outputs, on another market and server."""

import os
import random
import time

import nbformat
import pytest

pytest.register_assert_rewrite("chapter_runs")

import chapter_runs as passes  # noqa: E402
from fake_course import until  # noqa: E402

from course.chapters import all_chapters, before  # noqa: E402
from course.runner import run_chapter, state_folder  # noqa: E402

pytest_plugins = ["chapter_runs"]

CHAPTERS = all_chapters()
by_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.number)
SEED = int(os.environ.get("COURSE_SEED") or time.time_ns() % 1_000_000)


@pytest.mark.xdist_group(passes.FIRST)
@by_chapter
def test_in_order_after_a_kill(chapter, first_market, checkout_before, tmp_path):
    """(1) On one store: killed at a random cell, then run to its end, which is the checkpoint of the next."""
    if earlier := before(chapter):
        first_market.make(earlier[-1])
    try:
        with passes.passes_environment(), state_folder(first_market.state):
            copy, where = passes.killed(chapter, tmp_path, random.Random(f"{SEED} {chapter.number}"))
            print(f"COURSE_SEED={SEED}: chapter {chapter.number} is killed in {where}")
            result = run_chapter(copy)
            assert result.failure and "the kernel died" in result.failure, result
            assert passes.survivors(first_market.state) == []
            database = first_market.state / "store" / "mlflow.db"
            left = passes.unfinished(database) if database.exists() else []
            print(f"The kill left {len(left)} unfinished runs")

            result = run_chapter(chapter)
            print(f"Chapter {chapter.number} took {result.seconds:.1f} s")
            assert result.failure is None, f"Chapter {chapter.number} after a kill in {where}: {result.failure}"
            assert passes.survivors(first_market.state) == []
            assert passes.unfinished(database) == []
            assert {passes.statuses(database)[run] for run in left} <= {"KILLED"}
            assert passes.strays() == []
    except BaseException as error:
        first_market.failed(chapter, str(error))
        raise
    first_market.save(chapter, result)


@pytest.mark.xdist_group(passes.FIRST)
@by_chapter
def test_outputs_are_those_committed(chapter, first_market, fresh_state, checkout_before):
    """(2) nbval from the checkpoint, which is a copy whose originals are gone."""
    earlier = before(chapter)
    checkpoint = first_market.after(earlier[-1]) if earlier else None
    passes.copy_store(checkpoint, fresh_state)
    with passes.out_of_the_way(first_market.state, *[checkpoint] if checkpoint else []):
        done, outcomes = passes.nbval(chapter)
    code = [cell for cell in nbformat.read(chapter.notebook, as_version=4).cells if cell.cell_type == "code"]
    other = {number: outcome for number, outcome in outcomes.items() if outcome != "PASSED"}
    assert done.returncode == 0 and not other and len(outcomes) == len(code), (
        f"Chapter {chapter.number}, cells {other}, {len(outcomes)} of {len(code)} ran:\n{done.stdout[-6000:]}"
    )
    assert passes.strays() == []
    if passes.COMPARE_OUTPUTS:
        compared = sum(passes.is_compared(cell) for cell in code)
        print(f"Chapter {chapter.number}: {compared} of {len(code)} code cells compared")
        assert compared >= 0.9 * len(code)


@pytest.mark.xdist_group(passes.SECOND)
@by_chapter
def test_the_other_market_on_a_used_server(chapter, used_server, checkout_before, tmp_path):
    """(3) The learner's copy: the answers in it stay as they are, and are right; nobody else's runs change."""
    market = passes.other_market(chapter)
    before_it = passes.rows(used_server.database)
    with passes.passes_environment(), state_folder(used_server.state):
        copy = passes.learners_copy(chapter, tmp_path)
        result = run_chapter(copy, {"market": market, "tracking_uri": used_server.url})
        print(f"Chapter {chapter.number} took {result.seconds:.1f} s on {market}")
        assert result.failure is None, f"Chapter {chapter.number} on {market} and a server: {result.failure}"
        assert passes.survivors(used_server.state) == []
    assert not (used_server.state / "store").exists(), "the chapter made an embedded store beside the server"
    assert passes.unfinished(used_server.database) == []
    changed = before_it - passes.rows(used_server.database)
    assert not changed, f"the second market changed rows of the first: {sorted(map(str, changed))[:5]}"
    assert passes.strays() == []

    written = nbformat.read(copy.notebook, as_version=4).cells
    executed = [
        cell for cell in nbformat.read(result.executed, as_version=4).cells if "injected" not in str(cell.metadata)
    ]
    assert [cell.source for cell in executed] == [cell.source for cell in written]
    for number, cell in enumerate(executed, 1):
        text = "".join(output.get("text", "") for output in cell.get("outputs", []))
        if cell.source.startswith("course.check(") or "solution" in passes.tags_of(cell):
            assert "right." in text, f"Chapter {chapter.number}, cell {number} on {market}: {text}"
        if "course.begin" in cell.source and cell.cell_type == "code":
            assert f"Tracking to {used_server.url}" in text


@pytest.mark.xdist_group(passes.FIRST)
def test_the_checkout_is_untouched(first_market, checkout_before):
    """After all chapters of this worker: what git sees and what lies in .course is what was there before."""
    after = passes.Checkout.now()
    assert after.changes == checkout_before.changes
    assert after.course == checkout_before.course
    assert passes.strays() == []


# --- the passes themselves, on small chapters that must fail ----------------------------------------------------------


def with_outputs(chapter, *outputs: str) -> None:
    """Write these into the notebook as the results of its code cells."""
    notebook = nbformat.read(chapter.notebook, as_version=4)
    for number, (cell, text) in enumerate(zip([c for c in notebook.cells if c.cell_type == "code"], outputs), 1):
        cell.execution_count = number
        cell.outputs = [nbformat.v4.new_output("execute_result", data={"text/plain": text}, execution_count=number)]
    nbformat.write(notebook, chapter.notebook)


@pytest.mark.skipif(
    not passes.COMPARE_OUTPUTS, reason="outputs are compared on Linux x86_64, on the packages of the lock"
)
def test_a_stale_output_is_found(fake):
    chapter = fake.chapter("01", "1 + 1", "2 + 2", ("nbval-ignore-output", "3 + 3"), "4 + 4")
    with fake.here():
        with_outputs(chapter, "2", "5", "7")
        done, outcomes = passes.nbval(chapter)
        cells = [cell for cell in nbformat.read(chapter.notebook, as_version=4).cells if cell.cell_type == "code"]
    assert done.returncode == 1
    # the second is stale, the third may differ; nbval does not complain of the last, which was never run
    assert outcomes == {2: "PASSED", 4: "FAILED", 6: "PASSED", 8: "PASSED"}
    assert "Cell outputs differ" in done.stdout
    assert [passes.is_compared(cell) for cell in cells] == [True, True, False, False]


def test_a_killed_copy_dies_in_its_cell_and_the_seed_repeats_it(fake, tmp_path):
    chapter = fake.chapter("01", "x = 1", "print('second')", "x + 1")
    with fake.here():
        copy, where = passes.killed(chapter, tmp_path / "copy", random.Random("a seed"))
        assert passes.killed(chapter, tmp_path / "again", random.Random("a seed"))[1] == where
        result = run_chapter(copy)
        written, original = (nbformat.read(each.notebook, as_version=4).cells for each in (copy, chapter))
    assert "the kernel died" in result.failure
    assert where.split(",")[0] in result.failure  # cell 4
    assert sum(a.source != b.source for a, b in zip(written, original)) == 1


def test_what_a_chapter_leaves_behind_is_found(fake):
    (fake.root / "notebooks" / "mlruns").mkdir()
    (fake.root / "mlflow.db").touch()
    with fake.here():
        assert sorted(map(os.path.basename, passes.strays())) == ["mlflow.db", "mlruns"]
    with fake.started("sh", "-c", "echo started; sleep 60"):
        until(lambda: "started" in fake.output())  # a new process shows its environment a moment after its birth
        assert "sleep 60" in passes.survivors(fake.state, seconds=0)[0]
    assert passes.survivors(fake.state, seconds=0) == []
