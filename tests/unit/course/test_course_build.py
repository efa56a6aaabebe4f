"""`course notebooks`: the same bytes each time; a chapter that fails leaves the old notebook; nbval sees a change."""

import re
import subprocess
import sys

import nbformat
import pytest
from fake_course import clean_environment

from course import build

CELLS = (
    "import os\nprint('steady')",
    "import sys\nfor i in range(40):\n    print(i, flush=True)\n    print(i, file=sys.stderr, flush=True)",
    ("nbval-ignore-output", "print(os.urandom(9))"),
    "6 * 7",
)


def notebooks(fake, *arguments):
    done = fake.run("notebooks", *arguments)
    assert "Traceback" not in done.stdout + done.stderr
    return done


def test_a_second_build_gives_the_same_bytes(fake):
    chapter = fake.chapter("01", *CELLS, built=False)
    with fake.here():
        done = notebooks(fake)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("notebooks/01_step.ipynb  ".replace("/", done.stdout[9])) and "KB" in done.stdout
        first = chapter.notebook.read_bytes()
        written = nbformat.reads(first.decode(), as_version=4)
        assert [cell.id for cell in written.cells] == [f"01-{number:03}" for number in range(1, 9)]
        assert written.metadata.kernelspec == build.KERNEL and "language_info" not in written.metadata
        assert [len(cell.outputs) for cell in written.cells if cell.cell_type == "code"] == [1, 2, 1, 1]
        notebooks(fake)
        assert chapter.notebook.read_bytes() == first

        # once the data change, so does the output that was carried over
        (fake.root / "data" / "prices.csv").write_text("date,close\n1,2\n")
        notebooks(fake)
        again = nbformat.read(chapter.notebook, as_version=4)
        changed = [
            number
            for number, (old, new) in enumerate(zip(written.cells, again.cells))
            if old.get("outputs") != new.get("outputs")
        ]
        assert changed == [5]
    assert not fake.state.exists(), "building touches the learner's state"


@pytest.mark.parametrize("cell, why", [("raise ValueError(1)", "ValueError: 1"), ("os._exit(1)", "the kernel died")])
def test_a_chapter_that_fails_is_named_and_its_old_notebook_stays(fake, cell, why):
    fine = fake.chapter("01", "x = 1", built=False)
    fails = fake.chapter("02", "import os", cell, "x = 2", built=False)
    with fake.here():
        fails.notebook.write_text("old")
        done = notebooks(fake)
        assert done.returncode == 1
        assert fails.notebook.read_text() == "old" and fine.notebook.exists()
    assert f"Error: Chapter 02 was not built, because of cell 4, `{cell}`: {why}" in done.stderr


def test_only_the_chapters_asked_for_are_written(fake):
    """And a notebook that a merge has damaged is no obstacle."""
    first, second = (fake.chapter(number, "x = 1", built=False) for number in ("01", "02"))
    with fake.here():
        second.notebook.write_text("<<<<<<< HEAD")
        assert notebooks(fake, "02").returncode == 0
        assert nbformat.read(second.notebook, as_version=4).cells and not first.notebook.exists()


def test_a_stale_output_turns_nbval_red_and_is_named(fake):
    fake.chapter("01", "x = 1", "print(x + 1)")
    file = fake.root / "notebooks" / "01_step.ipynb"
    notebook = nbformat.read(file, as_version=4)
    notebook.cells[-1].outputs = [nbformat.v4.new_output("stream", name="stdout", text="seventeen\n")]
    notebook.cells[-1].execution_count = 2
    nbformat.write(notebook, file)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--nbval", "--nbval-current-env"]
        + ["--rootdir", str(fake.root), str(file)],
        capture_output=True,
        text=True,
        cwd=fake.root,
        env=clean_environment(COURSE_STATE=fake.state, IPYTHONDIR=fake.root / "ipython"),
    )
    assert done.returncode == 1
    assert "1 failed, 1 passed" in done.stdout
    for named in ("notebooks/01_step.ipynb", "Cell 1", "print(x + 1)", "Cell outputs differ"):
        assert named in done.stdout
    output = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    assert "'seventeen\\n' == '2\\n'" in output, output
