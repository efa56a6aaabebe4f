"""`course notebooks`: the same bytes each time; a chapter that fails leaves the old notebook."""

import nbformat
import pytest

from course import notebooks

CELLS = (
    "import os\nprint('steady')",
    "import sys\nfor i in range(40):\n    print(i, flush=True)\n    print(i, file=sys.stderr, flush=True)",
    ("nbval-ignore-output", "print(os.urandom(9))"),
    "6 * 7",
)


def test_a_second_build_gives_the_same_bytes(fake):
    chapter = fake.chapter("01", *CELLS, built=False)
    with fake.here():
        done = fake.run("notebooks")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("notebooks/01_step.ipynb  ".replace("/", done.stdout[9])) and "KB" in done.stdout
        first = chapter.notebook.read_bytes()
        written = nbformat.reads(first.decode(), as_version=4)
        assert [cell.id for cell in written.cells] == [f"01-{number:03}" for number in range(1, 9)]
        assert written.metadata.kernelspec == notebooks.KERNEL and "language_info" not in written.metadata
        assert [len(cell.outputs) for cell in written.cells if cell.cell_type == "code"] == [1, 2, 1, 1]
        fake.run("notebooks")
        assert chapter.notebook.read_bytes() == first

        # once the data change, so does the output that was carried over
        (fake.root / "data" / "prices.csv").write_text("date,close\n1,2\n")
        fake.run("notebooks")
        again = nbformat.read(chapter.notebook, as_version=4)
        same = [old.get("outputs") == new.get("outputs") for old, new in zip(written.cells, again.cells)]
        assert same == [True] * 5 + [False] + [True] * 2
    assert not fake.state.exists(), "building touches the learner's state"


@pytest.mark.parametrize(("cell", "why"), [("1 / 0", "ZeroDivisionError: "), ("os._exit(1)", "the kernel died")])
def test_a_chapter_that_fails_is_named_and_its_old_notebook_stays(fake, cell, why):
    fine = fake.chapter("01", "x = 1", built=False)
    fails = fake.chapter("02", "import os", cell, "x = 2", built=False)
    with fake.here():
        fails.notebook.write_text("old")
        done = fake.run("notebooks")
        assert done.returncode == 1
        assert fails.notebook.read_text() == "old" and fine.notebook.exists()
    assert "Traceback" not in done.stdout + done.stderr
    assert f"Error: Chapter 02 was not built, because of cell 4, `{cell}`: {why}" in done.stderr


def test_only_the_chapters_asked_for_are_written(fake):
    """And a notebook that a merge has damaged is no obstacle."""
    first, second = (fake.chapter(number, "x = 1", built=False) for number in ("01", "02"))
    with fake.here():
        second.notebook.write_text("<<<<<<< HEAD")
        assert fake.run("notebooks", "02").returncode == 0
        assert nbformat.read(second.notebook, as_version=4).cells and not first.notebook.exists()
