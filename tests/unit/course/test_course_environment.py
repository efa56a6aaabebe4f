"""What people export for their other work, and what the course makes of it."""

import inspect
import os
import re
import sys
import urllib.request
from unittest.mock import patch

import mlflow.environment_variables
import pytest
from messages import assert_on_page

from course import environment

STRAY = ["MLFLOW_ACTIVE_MODEL_ID", "MLFLOW_SERVER_ALLOWED_HOSTS", "MPLBACKEND", "PYTHONOPTIMIZE", "PYTHONPATH"]
PROXY = {"https_proxy": "http://proxy:3128"}


@pytest.fixture
def settled(fake):
    """Settle an environment of these variables alone; return the note and what the environment is then."""

    def settle(**variables: str) -> tuple[str | None, dict[str, str]]:
        given = {"COURSE_STATE": str(fake.state), "HOME": str(fake.root), "USER": "ada", **variables}
        with patch.dict(os.environ, given, clear=True):
            return environment.settle(), dict(os.environ)

    return settle


def test_what_would_change_a_chapter_is_ignored_and_named(settled, monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)  # this is not a notebook
    kept = dict.fromkeys(("MLFLOW_TRACKING_URI", "MLFLOW_WORKSPACE", "PYTHONUNBUFFERED", "PYTHON_VERSION"), "1")
    overridden = dict.fromkeys(environment.SETTINGS, "other")
    note, after = settled(**dict.fromkeys(STRAY, "2"), **kept, **overridden, MLFLOW_RUN_ID="")
    assert note.endswith(f": {', '.join(STRAY)}.")
    assert_on_page("The course ignores", note)
    assert after.items() >= (kept | environment.SETTINGS).items() and not after.keys() & {*STRAY, "MLFLOW_RUN_ID"}
    with patch.dict(os.environ, after, clear=True):
        assert environment.settle() is None and after == os.environ, "a child settles nothing more"


def test_of_mlflows_variables_only_those_of_a_connection_stay():
    every = re.findall('"(_?MLFLOW_[A-Z0-9_]+)", ', inspect.getsource(mlflow.environment_variables))
    kept = {name for name in every if not environment.IGNORED.match(name)}
    words = ("_TRACKING_", "_HTTP_", "_S3_", "_GCS_", "_BOTO_", "_KERBEROS_", "_MULTIPART_", "LOAD_")
    assert len(every) > 200
    assert {name for name in kept if not any(word in name for word in words)} == {"MLFLOW_WORKSPACE", "MLFLOW_ENV_ROOT"}


@pytest.mark.parametrize(("given", "no_proxy"), [
    (PROXY, "127.0.0.1,localhost,::1"),
    (PROXY | {"NO_PROXY": "mlflow,localhost"}, "mlflow,localhost,127.0.0.1,::1"),
    (PROXY | {"no_proxy": "*"}, "*"),
    ({}, None),
])  # fmt: skip
def test_a_proxy_is_for_other_machines(settled, given, no_proxy):
    _, after = settled(**given)
    assert after.get("no_proxy") == no_proxy
    with patch.dict(os.environ, after, clear=True):
        assert urllib.request.getproxies().get("https") == given.get("https_proxy")
        assert not given or urllib.request.proxy_bypass("127.0.0.1:5000")
        assert no_proxy == "*" or not urllib.request.proxy_bypass("mlflow.example.org")


def test_a_user_id_without_account_gets_a_name_and_a_home(settled, fake, monkeypatch):
    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    pwd = pytest.importorskip("pwd")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    _, after = settled(USER="", HOME="/nowhere")
    assert after["USER"] == after["LOGNAME"] == str(os.getuid())
    assert after["HOME"] == str(fake.state / "home") and (fake.state / "home").is_dir()


def test_a_kernel_without_docstrings_is_refused(fake):
    fake.chapter("01", "x = 1")
    code = "import course\ntry:\n    course.begin('01')\nexcept course.CourseError as error:\n    print(error)"
    assert_on_page("runs with PYTHONOPTIMIZE", fake.python(code, PYTHONOPTIMIZE="2"))
