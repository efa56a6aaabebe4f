"""Servers that a cell or a command starts: healthy when handed over, and never left behind."""

import os
import signal
import socket
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
from fake_course import status, until
from messages import assert_on_page

from course import CourseError, servers, start_accounts_server, start_server

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")

# a web server that starts a worker of its own first, and may refuse to end
SERVER = textwrap.dedent("""
    import http.server, os, signal, subprocess, sys
    if "stubborn" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "parent" in sys.argv:  # its worker outlives it, as that of `mlflow models serve` does
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    handler = http.server.SimpleHTTPRequestHandler
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), handler).serve_forever()
""")


@pytest.fixture
def here(fake):
    (fake.root / "server.py").write_text(SERVER)
    with fake.here():
        yield fake


def command(fake, *words):
    return [sys.executable, str(fake.root / "server.py"), "{port}", *words]


def test_a_server_is_healthy_when_handed_over_and_gone_when_stopped(here, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # does not stand between a notebook and its server
    with start_server(command(here, "parent"), "/", cwd=here.root) as server:
        assert server.running() and servers.answers(server.url)
        assert server.url == f"http://127.0.0.1:{server.port}" and repr(server) == "<server: running>"
        assert len(here.processes()) == 3, "guard, server, worker"
    assert not here.processes()
    assert not server.running() and repr(server) == "<server: stopped>"
    server.stop()  # a second time is harmless


def test_an_error_in_the_cell_stops_a_server_that_ignores_being_asked(here):
    with pytest.raises(ZeroDivisionError), start_server(command(here, "stubborn", "parent"), "/"):
        raise ZeroDivisionError
    assert not here.processes()


def test_a_worker_that_outlives_its_server_is_ended(here):
    with start_server(command(here, "parent"), "/") as server:
        (process,) = [one for one in here.processes() if "server.py" in str(one.cmdline()[1:2])]
        process.kill()
        until(lambda: not server.running(), 10)
        here.alone()


@pytest.mark.parametrize("how", ["killed with its group, as a kernel", "killed, and a fork of it lives on"])
def test_no_server_outlives_the_process_that_started_it(here, how):
    code = f"""
import os, sys, time
from course import start_server
server = start_server([sys.executable, "server.py", "{{port}}", "parent", "stubborn"], "/")
if {"fork" in how} and os.fork() == 0:
    os.environ.clear()
    time.sleep(30)  # a worker of multiprocessing: it holds the guard's pipe open
    os._exit(0)
print(server.port, flush=True)
time.sleep(600)
"""
    with here.started(sys.executable, "-c", code) as process:
        port = int(until(here.output, 30, "the start of the server"))
        children = psutil.Process(process.pid).children()
        forks = [child for child in children if "course.process_guard" not in child.cmdline()]
        try:
            (os.kill if forks else os.killpg)(process.pid, signal.SIGKILL)
            until(lambda: not servers.answers(f"http://127.0.0.1:{port}"), 12, "the end of the server")
            until(lambda: set(here.processes()) <= set(forks), 12, "the end of its worker")
        finally:
            for fork in forks:
                fork.kill()


def test_a_server_that_does_not_start_says_why(here):
    with pytest.raises(CourseError, match=r"(?s)` exited before it was ready. The end of its log:.*no such thing"):
        start_server([sys.executable, "-c", "raise SystemExit('no such thing')"])
    with pytest.raises(CourseError, match="no-such-program") as error:
        start_server(["no-such-program"])
    assert_on_page("exited before it was ready", str(error.value))
    with pytest.raises(CourseError, match="did not respond on /health in 1 s"):
        start_server([sys.executable, "-c", "import time; time.sleep(600)"], timeout=1)
    assert not here.processes()


def test_another_port_is_tried_where_one_was_taken_meanwhile(here, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and silent
        ports = iter([taken.getsockname()[1], servers.free_port()])
        monkeypatch.setattr(servers, "free_port", lambda: next(ports))
        with start_server(command(here), "/") as server:
            assert server.port != taken.getsockname()[1]


def test_a_server_with_accounts_asks_for_a_password_and_leaves_nothing(here):
    server = start_accounts_server()
    folder = Path(server._temporary.name)
    with server.wait_until_healthy():
        experiments = f"{server.url}/api/2.0/mlflow/experiments/search?max_results=1"
        assert status(experiments) == 401
        assert status(experiments, auth=("admin", server.password)) == 200
        assert (folder / "mlflow.db").exists() and (folder / "accounts.db").exists()
    assert not folder.exists() and not here.processes()
