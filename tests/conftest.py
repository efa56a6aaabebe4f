"""What all tests share. No test touches the checkout's own .course: the state folder is a temporary one."""

import multiprocessing.util
import os
import shutil
import signal
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
from fake_course import FOREIGN, FakeCourse

from course import store
from course.paths import state

# Here, before any test file imports it.
pytest.register_assert_rewrite("chapter_runs")

# Who starts the tests in the background of a script leaves SIGINT ignored, and every program would inherit that. With a
# handler here, those that the tests interrupt take it as from a terminal.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption("--screenshots", action="store_true", help="test_browser.py: renew chapters/figures/")


TIERS = ("integration", "passes", "docker", "slow", "weekly")
HEAVY = ("passes", "docker", "slow")
LONGEST = ("test_notebooks.py", "test_docker_chapters.py", "test_docker_workbench.py", "test_offline.py")


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items):
    """Mark each test with its tier: `slow` where it says so, else its folder. The longest begin first."""
    for item in items:
        tier = "slow" if item.get_closest_marker("slow") else item.path.relative_to(Path(__file__).parent).parts[0]
        if tier in TIERS:
            item.add_marker(tier)
        if tier in HEAVY:
            item.add_marker(pytest.mark.timeout(3600))  # a test of the whole course takes long on a slow machine
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_terminal_summary(terminalreporter):
    """Say what tests measured (`record_property("measured", …)`): pytest-xdist does not hand on what they print."""
    for report in [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]:
        if report.when == "call":
            for name, value in report.user_properties:
                if name == "measured":
                    terminalreporter.write_line(value)


@pytest.fixture(scope="session", autouse=True)
def state_elsewhere(tmp_path_factory):
    """Nothing that steers the course comes in from outside, and all state goes to a temporary folder."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        del os.environ[name]
    os.environ["COURSE_STATE"] = str(tmp_path_factory.mktemp("state"))
    # MLflow, and what the tests kill, leave hundreds of temporary folders behind. A short path: sockets lie there too.
    os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp(prefix="course-tests-")
    # At the very end: multiprocessing removes its own folder in there (at priority -100), and complains if it is gone.
    multiprocessing.util.Finalize(None, shutil.rmtree, [tempfile.tempdir, True], exitpriority=-200)
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    yield state()
    tempfile.tempdir = None
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def no_experiment_left_over():
    """`mlflow.set_experiment` sets a variable for child processes, which the next test's store would not know."""
    yield
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)


@pytest.fixture(scope="module", autouse=True)
def no_store_left_over():
    """The next file of this process gets no store or experiment that this one chose."""
    yield
    if mlflow := sys.modules.get("mlflow"):
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)
        mlflow.tracking.fluent._active_experiment_id = None
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", store.ARTIFACT_ROOT_VARIABLE):
        os.environ.pop(name, None)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """A fresh store, made once: MLflow takes seconds for it. Copy it with store.copy, never write into it."""
    folder = tmp_path_factory.mktemp("stores") / "empty"
    with warnings.catch_warnings(action="ignore"):  # SQLAlchemy's, about MLflow's own code
        store.ensure(folder)
    return folder


@pytest.fixture
def fake(tmp_path):
    """A course without chapters, in a folder whose name has a space and a letter outside ASCII."""
    course = FakeCourse(tmp_path / "Kurs für alle")
    yield course
    course.end_all()
