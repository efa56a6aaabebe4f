"""`course run`: what it prints, and that whatever goes wrong turns it red with chapter, cell and reason named."""

import json
import os
import re
import signal
import sys
import time

import nbformat
import pytest
from fake_course import COURSE, until

POSIX = pytest.mark.skipif(os.name == "nt", reason="signals and terminals of POSIX")
PARAMETERS = ("parameters", 'market = "sp500"  # sp500 or nasdaq\nwindow = 14  # days\ntracking_uri = None')
FINE = "x = 1"


def failing(fake, cell, *more, **env):
    """Run a chapter whose second code cell is `cell`, with a chapter after it that must not run."""
    fake.chapter("01", FINE, cell, "open('never', 'w')")
    fake.chapter("02", FINE)
    start = time.monotonic()
    done = fake.run("run", *more, **env)
    assert done.returncode == 1
    assert re.search(r"01_step +failed", done.stdout)
    assert re.search(r"02_step +not run", done.stdout)
    assert not (fake.root / "notebooks" / "never").exists()
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout, time.monotonic() - start


def executed(fake):
    return fake.state / "runs" / "01_step.ipynb"


def the_cell_named(fake, text):
    """The cell of the executed copy that stands at the number in the message."""
    number = int(re.search(r"Chapter 01 failed in cell (\d+)", text)[1])
    assert str(executed(fake)) in text
    return nbformat.read(executed(fake), as_version=4).cells[number - 1]


def test_a_raising_cell(fake):
    cell = "# a comment\nraise ValueError('no prices\\nmore')"
    text, _ = failing(fake, cell)
    assert re.search(r"Chapter 01 failed in cell \d+, `# a comment`: ValueError: no prices\n", text)
    named = the_cell_named(fake, text)
    assert named.source == cell
    assert named.outputs[0].output_type == "error"


@pytest.mark.parametrize("cell", ["import sys; sys.exit(0)", "raise SystemExit"])
def test_a_cell_that_ends_the_notebook_early(fake, cell):
    text, _ = failing(fake, cell)
    assert "SystemExit: it ends the notebook before its last cell" in text
    assert the_cell_named(fake, text).source == cell


def test_a_cell_past_its_timeout(fake):
    cell = "import time; time.sleep(600)"
    text, seconds = failing(fake, cell, "--timeout", "3")
    assert "it did not end within 3 s (`course run --timeout` sets the limit)" in text
    assert the_cell_named(fake, text).source == cell
    assert seconds < 200
    fake.alone()


@POSIX
def test_a_dying_kernel(fake):
    cell = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    text, _ = failing(fake, cell)
    assert "the kernel died (killed, or out of memory)" in text
    assert the_cell_named(fake, text).source == cell


@POSIX
def test_a_kernel_that_does_not_start(fake):
    folder = fake.root / "jupyter" / "kernels" / "python3"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps({"argv": ["false"], "display_name": "x", "language": "python"}))
    fake.chapter("01", FINE)
    done = fake.run("run", JUPYTER_PATH=folder.parents[1])
    assert done.returncode == 1
    assert "Chapter 01 failed in its start: the kernel did not start" in done.stdout
    assert "course doctor" in done.stdout


def test_a_missing_prerequisite(fake, empty_store):
    fake.use_store(empty_store)
    text, _ = failing(fake, 'import course\ncourse.begin("02", needs={"stockpred": "01"})')
    sentence = (
        "Chapter 02 reads the runs of the experiment `stockpred`, and this store has none: run chapter 01 first, or "
        "type `course checkpoint 02` in a terminal to start as if you had."
    )
    assert re.search(r"Chapter 01 failed in cell \d+, `import course`: " + re.escape(sentence), text)
    error = the_cell_named(fake, text).outputs[-1]
    assert error.traceback == [f"CourseError: {sentence}"], "the reader of a notebook sees frames"


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "nonsense"])
def test_a_store_that_does_not_answer(fake, uri):
    fake.chapter("01", PARAMETERS, 'import course\ncourse.begin("01", tracking_uri)', FINE)
    start = time.monotonic()
    done = fake.run("run", "--tracking-uri", uri)
    assert time.monotonic() - start < 200, "seconds, on a machine that has nothing else to do: about 5"
    assert done.returncode == 1
    assert f"`import course`: The tracking store {uri} does not answer: start it, or leave" in done.stdout
    assert not list(fake.root.rglob("mlruns")) and not list(fake.root.rglob("mlflow.db"))


def test_a_run_that_passes(fake):
    fake.chapter("01", PARAMETERS, "print(market, window, tracking_uri)", *[FINE] * 60)
    done = fake.run("run", "01", "-p", "market=nasdaq", "-p", "window=21", "--tracking-uri", "sqlite:///my store.db")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"nasdaq 21 sqlite:///{fake.root / 'my store.db'}" in executed(fake).read_text(encoding="utf-8")
    assert re.search(rf"01_step +passed +[\d.]+  {re.escape(str(executed(fake)))}", done.stdout)
    assert done.stdout.endswith("MLflow UI: make ui, or `course ui` in the activated environment\n")
    # without a terminal: plain lines, and few of them
    assert not re.search(r"[\r\x1b\x08]", done.stdout + done.stderr)
    lines = done.stderr.splitlines()
    assert all(re.fullmatch(r"01_step: cell \d+ of 125, \d\d:\d\d", line) for line in lines), done.stderr
    assert 2 <= len(lines) <= 10
    assert lines[-1].startswith("01_step: cell 125 of 125")


@POSIX
def test_in_a_terminal_a_bar_moves(fake):
    fake.chapter("01", FINE)
    code = "import pty, sys; sys.exit(pty.spawn(['sh', '-c', 'stty rows 30 cols 100; exec \"$COURSE\" run']) >> 8)"
    with fake.started(sys.executable, "-c", code, COURSE=COURSE) as process:
        assert process.wait(200) == 0
    assert re.search(r"\r01_step: 100%\|[^|]+\| 2/2 \[", fake.output())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "07"], "There is no chapter 07: the chapters are 01, 02, and a range is written 01-02."),
        (["run", "two"], "There is no chapter two: the chapters are 01, 02,"),
        (["run", "01-03"], "There is no chapter 01-03: the chapters are 01, 02,"),
        (["run", "-p", "ticker=x"], "Chapter 01 has no parameter ticker: it has market, window, tracking_uri."),
        (["run", "02", "-p", "market=dax"], "Chapter 02 has no parameter market: it has none."),
        (["run", "01", "-p", "market=dax"], "market cannot be dax in chapter 01: it is sp500 or nasdaq."),
        (["run", "-p", "market"], "The parameter market has no value: write it as market=nasdaq."),
        (["run", "--fast"], "No such option '--fast'."),
        (["--fast"], "No such option '--fast'."),
        (["run", "--timeout", "0"], "Invalid value for '--timeout': 0.0 is not in the range x>=1."),
        (["walk"], "No such command 'walk'."),
        (["checkpoint", "01-02"], "A checkpoint is of one chapter, not of 01-02: name the chapter that you want to"),
        (["reset"], "Say what to reset: a chapter's notebook, as in `course reset 02`, or the store with --store."),
    ],
)
def test_what_does_not_exist_is_named_beside_what_does(fake, arguments, sentence):
    fake.chapter("01", PARAMETERS)
    fake.chapter("02", FINE)
    done = fake.run(*arguments)
    assert done.returncode in (1, 2)
    assert f"Error: {sentence}" in done.stderr
    assert not done.stdout
    assert not fake.state.exists()


def test_a_course_without_chapters_or_notebooks(fake):
    done = fake.run("run")
    assert done.returncode == 1
    assert f"There are no chapters under {fake.root}" in done.stderr
    fake.chapter("01", FINE, built=False)
    done = fake.run("run")
    assert done.returncode == 1
    assert "Error: 01_step.ipynb is missing in notebooks/: `make notebooks` makes it.\n" in done.stderr


def test_a_state_folder_that_cannot_be_written(fake):
    fake.chapter("01", FINE)
    fake.state.write_text("a file, not a folder")
    done = fake.run("run")
    assert done.returncode == 1
    assert str(fake.state) in done.stderr and "`course doctor`" in done.stderr
    assert "Traceback" not in done.stderr


@POSIX
@pytest.mark.parametrize("sign", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_a_stopped_run_leaves_no_kernel(fake, sign):
    fake.chapter("01", "open('begun', 'w').close()\nimport time\ntime.sleep(600)")
    with fake.started(COURSE, "run") as process:
        until((fake.root / "notebooks" / "begun").exists, 30, "the start of the cell")
        assert len(fake.processes()) >= 2
        os.killpg(process.pid, getattr(signal, sign))  # as a terminal does
        assert process.wait(60) != 0
        fake.alone()
