"""`course run`: what it prints, and that whatever goes wrong turns it red with chapter, cell and reason named."""

import json
import os
import re
import signal
import sys

import nbformat
import pytest
from fake_course import COURSE, until
from messages import assert_on_page
from mlflow import MlflowClient

from course import store
from course.servers import answers

POSIX = pytest.mark.skipif(os.name == "nt", reason="signals and terminals of POSIX")
PARAMETERS = ("parameters", 'market = "sp500"  # sp500 or nasdaq\nwindow = 14  # days\ntracking_uri = None')
FINE = "x = 1"
BEGIN = "import course, mlflow\ncourse.begin('{}')\nmlflow.set_experiment('shown')\nmlflow.start_run()"
WAIT = "import pathlib, time\nwhile not pathlib.Path('../go').exists():\n    time.sleep(0.1)"
MISSING = (
    "Chapter 02 needs runs of the experiment `stockpred`, and this store has none: run chapter 01 first, or "
    "run `course checkpoint 02` in a terminal to start as if you had."
)


def finished(fake):
    """The runs in the UI whose address `course run --showcase` printed; none while it is not up."""
    address = re.search(r"MLflow UI  (http://\S+)\n", fake.output())
    if not address or not answers(f"{address[1]}/health"):
        return []
    client = MlflowClient(address[1])
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return client.search_runs(ids, "attributes.status = 'FINISHED'")


def failing(fake, cell, *options):
    """Run a chapter that ends in `cell`, and none after it; return what it printed, and the cell that this names."""
    fake.chapter("01", FINE, cell, "open('never', 'w')")
    fake.chapter("02", FINE)
    done = fake.run("run", *options)
    assert done.returncode == 1
    assert re.search(r"01_step +failed", done.stdout) and re.search(r"02_step +not run", done.stdout)
    assert not (fake.root / "notebooks" / "never").exists()
    executed = fake.state / "runs" / "01_step.ipynb"
    assert "Traceback" not in done.stdout + done.stderr and str(executed) in done.stdout
    number = int(re.search(r"Chapter 01 failed in cell (\d+), `", done.stdout)[1])
    named = nbformat.read(executed, as_version=4).cells[number - 1]
    assert named.source == cell
    fake.alone()
    return done.stdout, named


@pytest.mark.parametrize(("cell", "reason"), [
    ("# a comment\nraise ValueError('no prices\\nmore')", "`# a comment`: ValueError: no prices\n"),
    ("import sys; sys.exit(0)", "SystemExit: it ended the notebook before its last cell"),
])  # fmt: skip
def test_a_cell_that_ends_its_chapter(fake, cell, reason):
    text, named = failing(fake, cell)
    assert reason in text and named.outputs[0].output_type == "error"


def test_a_cell_past_its_timeout(fake):
    text, _ = failing(fake, "import time; time.sleep(600)", "--timeout", "3")
    assert "the cell did not finish within 3 s: " in text
    assert_on_page("did not finish within", text)


@POSIX
def test_a_dying_kernel(fake):
    assert_on_page("the kernel died", failing(fake, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")[0])


@POSIX
def test_a_kernel_that_does_not_start(fake):
    fake.chapter("01", FINE)
    (fake.root / "notebooks" / "ipykernel_launcher.py").write_text("raise SystemExit")
    done = fake.run("run")
    assert done.returncode == 1 and "course doctor" in done.stdout
    assert "Chapter 01 failed in its start: the kernel did not start" in done.stdout


def test_a_missing_prerequisite(fake, empty_store):
    fake.use_store(empty_store)
    text, named = failing(fake, 'import course\ncourse.begin("02", needs={"stockpred": "01"})')
    assert f"`import course`: {MISSING}" in text
    assert named.outputs[-1].traceback == [f"CourseError: {MISSING}"], "the reader of a notebook sees frames"
    assert_on_page("needs runs of the experiment", text)


def test_a_run_that_passes(fake):
    fake.chapter("01", PARAMETERS, "print(market, window, tracking_uri)", *[FINE] * 60)
    done = fake.run("run", "01", "-p", "market=nasdaq", "-p", "window=21", "--tracking-uri", "sqlite:///my store.db")
    assert done.returncode == 0, done.stdout + done.stderr
    executed = fake.state / "runs" / "01_step.ipynb"
    assert f"nasdaq 21 sqlite:///{fake.root / 'my store.db'}" in executed.read_text(encoding="utf-8")
    assert re.search(rf"01_step +passed +[\d.]+  {re.escape(str(executed))}", done.stdout)
    assert done.stdout.endswith((f"in the MLflow UI: {COURSE} ui\n", "in the MLflow UI: course ui\n"))  # or on PATH
    # without a terminal: plain lines, and few of them
    assert not re.search(r"[\r\x1b\x08]", done.stdout + done.stderr)
    lines = done.stderr.splitlines()
    assert all(re.fullmatch(r"01_step: cell \d+ of 125, \d\d:\d\d", line) for line in lines), done.stderr
    assert 2 <= len(lines) <= 10 and lines[-1].startswith("01_step: cell 125 of 125")


def test_the_showcase_starts_empty_each_time_and_shows_its_runs_while_it_runs(fake, empty_store):
    mine = fake.use_store(empty_store)
    fake.chapter("01", BEGIN.format("01"), "mlflow.log_metric('score', 1)", "mlflow.end_run()", WAIT)
    for _ in range(2):
        (fake.root / "go").unlink(missing_ok=True)
        with fake.started(COURSE, "run", "--showcase") as process:
            until(lambda: len(finished(fake)) == 1, 90, "the run in the UI, while the chapter still runs")
            (fake.root / "go").touch()
            assert process.wait(200) == 0
        assert fake.output().endswith("course ui --showcase\n")
        fake.alone()
    assert store.runs(fake.state / "showcase" / "store") == 1 and store.runs(mine) == 0


@POSIX
def test_what_people_have_for_other_work_changes_no_chapter(fake):
    (fake.root / ".config/matplotlib").mkdir(parents=True)
    (fake.root / ".config/matplotlib/matplotlibrc").write_text("figure.figsize: 1, 1")
    (fake.root / "kernels/python3").mkdir(parents=True)
    kernel = {"argv": ["false"], "display_name": "x", "language": "python"}
    (fake.root / "kernels/python3/kernel.json").write_text(json.dumps(kernel))
    fake.chapter(
        "01",
        "import sys, requests\nfrom course import start_server\n"
        "with start_server([sys.executable, '-m', 'http.server', '{port}'], '/') as server:\n"
        "    assert requests.get(server.url, timeout=9).ok",
        "import matplotlib.pyplot as plt\nassert plt.rcParams['figure.figsize'] == [6.4, 4.8]\nplt.plot([1]);",
    )
    stray = {"MLFLOW_ACTIVE_MODEL_ID": "m-0123", "MPLBACKEND": "TkAgg", "PYTHONWARNINGS": "ignore"}
    home = {"HOME": fake.root, "XDG_CONFIG_HOME": fake.root / ".config", "JUPYTER_PATH": fake.root}
    done = fake.run("run", **stray, **home, http_proxy="http://127.0.0.1:9", https_proxy="http://127.0.0.1:9")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"would change its chapters: {', '.join(stray)}.\n" in done.stderr
    assert "image/png" in (fake.state / "runs" / "01_step.ipynb").read_text(encoding="utf-8")


@POSIX
def test_in_a_terminal_a_bar_moves(fake):
    fake.chapter("01", FINE)
    code = "import pty, sys; sys.exit(pty.spawn(['sh', '-c', 'stty rows 30 cols 100; exec \"$COURSE\" run']) >> 8)"
    with fake.started(sys.executable, "-c", code, COURSE=COURSE) as process:
        assert process.wait(200) == 0
    assert re.search(r"\r01_step: 100%\|[^|]+\| 2/2 \[", fake.output())


def test_a_state_folder_that_cannot_be_written(fake):
    fake.chapter("01", FINE)
    fake.state.write_text("a file, not a folder")
    done = fake.run("run")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert str(fake.state) in done.stderr and "`course doctor`" in done.stderr


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
