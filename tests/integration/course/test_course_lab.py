"""`course lab` and `course ui`: on this machine alone, with a token, and gone when stopped."""

import os
import re
import signal

import pytest
import requests
from fake_course import COURSE, status, until

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")


def started_lab(fake, process):
    """Wait for the addresses; returns JupyterLab's, the page it opens, its token, and that of the MLflow UI."""
    pattern = r"JupyterLab  (http://127\.0\.0\.1:\d+)/lab/tree/(\S+)\?token=(\S+)\nMLflow UI   (\S+)\n.+\nStop both"
    until(lambda: re.search(pattern, fake.output()) or process.poll() is not None, 90, "the addresses")
    return re.search(pattern, fake.output()).groups()


@pytest.fixture
def course(fake, empty_store):
    fake.use_store(empty_store)
    fake.chapter("01", "x = 1")
    fake.chapter("02", "x = 1")
    return fake


def test_lab(course):
    """Of the learner's own Jupyter it keeps the theme, and not the address, certificate or token."""
    home = course.root / ".jupyter"
    looks = home / "lab/user-settings/@jupyterlab/apputils-extension/themes.jupyterlab-settings"
    looks.parent.mkdir(parents=True)
    looks.write_text('{"theme": "JupyterLab Dark"}')
    own = 'c.ServerApp.base_url = "/jupyter/"\nc.ServerApp.certfile = "/nowhere/c.pem"\n'
    (home / "jupyter_server_config.py").write_text(own)
    with course.started(COURSE, "lab", "--no-browser", HOME=course.root, JUPYTER_TOKEN="own") as process:
        address, page, token, ui = started_lab(course, process)
        themes = f"{address}/lab/api/settings/@jupyterlab/apputils-extension:themes"
        assert "Dark" in requests.get(themes, params={"token": token}, proxies={"http": ""}, timeout=20).json()["raw"]
        assert page == "work/01_step.ipynb" and (course.root / page).exists()
        assert "Copied to work/, where you can edit them: 01_step, 02_step\n" in course.output()
        assert len(token) >= 32
        for path, given, code in ((page, "", 403), (page, "wrong", 403), (page, token, 200), ("notebooks", token, 200)):
            assert status(f"{address}/api/contents/{path}", Authorization=f"token {given}") == code
        assert status(f"{ui}/health") == 200 and ui.startswith("http://127.0.0.1:")
        assert token not in str([one.cmdline() for one in course.processes()])
        assert course.listening() == {"127.0.0.1"}
        os.killpg(process.pid, signal.SIGINT)  # Ctrl-C
        assert process.wait(60) == 0
        course.alone(1)
    assert "Traceback" not in course.output()


def test_a_killed_lab_leaves_no_server_and_no_kernel(course):
    with course.started(COURSE, "lab", "--no-browser", COURSE_TRACKING_URI="http://127.0.0.1:9") as process:
        address, _, token, ui = started_lab(course, process)
        assert ui == "http://127.0.0.1:9", "a server in use is shown, and none is started"
        assert status(f"{address}/api/kernels?token={token}", method="POST") == 201
        (kernel,) = until(lambda: [one for one in course.processes() if "ipykernel_launcher" in one.cmdline()], 10)
        assert kernel.environ()["IPYTHONDIR"] == str(course.state / "ipython")
        process.send_signal(signal.SIGKILL)
        process.wait()
        course.alone(15)


def test_ui(course):
    """It also ends when its server does."""
    with course.started(COURSE, "ui", "--no-browser") as process:
        found = until(lambda: re.search(r"MLflow UI  (http://[\d.:]+)\n", course.output()), 60, "the address")
        assert status(f"{found[1]}/") == 200 and course.listening() == {"127.0.0.1"}
        (server,) = [one for one in course.processes() if one.cmdline()[1:5] == ["-P", "-m", "mlflow", "server"]]
        server.kill()
        assert process.wait(60) == 1
        assert f"A server exited unexpectedly. The reason is at the end of {course.state / 'logs'}" in course.output()
    assert not list(course.root.rglob("mlruns")) and not list(course.root.rglob("mlflow.db"))
