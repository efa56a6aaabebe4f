"""API keys of the inference API: made by keys.py, asked for by the service, withdrawn while it runs."""

import hashlib
import hmac
import json
import os
import re
import runpy
import stat
import subprocess
import sys

import pytest
import schemathesis
from api_service import MAIN, QUIET_MODELS, Service, as_rows, days, versions
from fake_course import until
from test_api import check_problem, connected, head

from pystock.api import app as api
from pystock.api.keys import Keys
from pystock.api.settings import Settings

__all__ = ["versions"]  # a fixture
pytestmark = [*QUIET_MODELS, pytest.mark.xdist_group("api_keys")]
ROW = {"rows": as_rows(days().iloc[:1])}
LINE = "ada " + "a" * 64


@pytest.fixture
def keys(monkeypatch, capsys):
    """Runs keys.py as a command: exit code, and what it printed to stdout and stderr."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["keys.py", *map(str, words)])
        code = 0
        try:
            runpy.run_path(str(MAIN.parent / "keys.py"), run_name="__main__")
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


# The command ----------------------------------------------------------------------------------------------------------


def test_a_key_is_shown_once_and_its_hash_is_kept(keys, tmp_path):
    file = tmp_path / "keys"
    code, key, error = keys("add", "ada", file)
    assert code == 0 and re.fullmatch(r"[\w-]{43}\n", key) and not error
    assert keys("add", "bob.2", file)[1] != key
    lines = file.read_text().splitlines()
    assert lines[0] == "ada " + hashlib.sha256(key.strip().encode()).hexdigest() and len(lines) == 2
    if os.name != "nt":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert keys("list", file) == (0, "ada\nbob.2\n", "")
    assert keys("remove", "ada", file) == (0, "", "") and keys("list", file)[1] == "bob.2\n"
    assert os.listdir(tmp_path) == ["keys"]


@pytest.mark.parametrize(
    "words, said",
    [
        (("add", "ada"), "there is a key of ada already: remove it first"),
        (("add", "a b"), "'a b' is no name: use up to 64 letters"),
        (("remove", "bob"), "there is no key of 'bob'"),
    ],
)
def test_what_it_refuses_changes_nothing(keys, tmp_path, words, said):
    file = tmp_path / "keys"
    file.write_text(LINE + "\n")
    code, out, error = keys(*words, file)
    assert code == 2 and out == "" and error.startswith(f"{file}: {said}") and error.endswith(".\n")
    assert file.read_text() == LINE + "\n"


BROKEN = {
    "no digest": (LINE + "\nbob\n", "line 2 is no name, a space and the 64 hexadecimal digits"),
    "a key instead": ("\n" + "bob " + "K" * 43, "line 2 is no name"),
    "a bad name": ("b/b " + "b" * 64, "line 1 is no name"),
    "a name twice": (LINE + "\r\nada " + "b" * 64, "line 2 has the name ada a second time"),
    "a key twice": (LINE + "\nbob " + "a" * 64, "line 2 has the key of another name"),
    "no file": (None, "the file cannot be read (No such file or directory)"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_told_by_the_line_that_is_not_shown(keys, tmp_path, case):
    text, said = BROKEN[case]
    file = tmp_path / "keys"
    if text is not None:
        file.write_text(text, newline="")
    code, out, error = keys("list", file)
    assert code == 2 and out == "" and error.startswith(f"{file}: {said}") and "KKK" not in error


def test_the_service_does_not_start_with_a_broken_file(tmp_path):
    (tmp_path / "keys").write_text(LINE + "\nbob\n")
    env = {**os.environ, "MLFLOW_TRACKING_URI": "http://127.0.0.1:1", "PYSTOCK_API_KEYS_FILE": str(tmp_path / "keys")}
    done = subprocess.run([sys.executable, str(MAIN)], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "PYSTOCK_API_KEYS_FILE is " in done.stderr and "line 2 is no" in done.stderr
    env["PYSTOCK_API_KEYS_FILE"] = ""  # a variable that was forgotten must not open the service
    done = subprocess.run([sys.executable, str(MAIN)], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "PYSTOCK_API_KEYS_FILE is ''" in done.stderr


def test_each_key_is_compared_whichever_is_given(monkeypatch, tmp_path):
    digests = [hashlib.sha256(key).hexdigest() for key in (b"one", b"two", b"three")]
    (tmp_path / "keys").write_text("".join(f"client{number} {each}\n" for number, each in enumerate(digests)))
    compared, compare = [], hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda known, given: compared.append(known) or compare(known, given))
    found = Keys(tmp_path / "keys")
    asked = {b"Bearer one": "client0", b"bearer  three": "client2", b"Bearer four": None, b"Basic one": None}
    asked |= {b"": None, b"Bearer": None, b"one": None, b"Bearer " + digests[0].encode(): None}
    for given, client in asked.items():
        compared.clear()
        assert found.client(given) == client and compared == digests, given


# The service ----------------------------------------------------------------------------------------------------------


def test_a_key_is_asked_for_and_can_be_withdrawn(keys, versions, tmp_path):
    file = tmp_path / "keys"
    ada, bob = (keys("add", name, file)[1].strip() for name in ("ada", "bob"))

    def answers(key):
        return service.predict(ROW, headers={"Authorization": f"Bearer {key}"}).status_code

    with Service(versions.uri, tmp_path / "cache", keys_file=file) as service:
        for path in ("/health", "/ready", "/metrics", "/docs", "/openapi.json"):
            assert service.get(path).status_code == 200
        assert service.ready()["mirror"] is None and "pystock_api_mirror" not in service.get("/metrics").text
        given = {"Authorization": f"Bearer {ada}", "X-Request-ID": "ada-1"}
        assert service.predict(ROW, headers=given).json()["model"]["version"] == versions.forest
        line = service.event("request", "ada-1")
        assert line["client"] == "ada"
        refused = [({}, "is missing"), ({"Authorization": "Bearer " + ada[:-1]}, "is not one that is known")]
        for headers, said in [
            *refused,
            ({"Authorization": ada}, "is not one"),
            ({"Authorization": "Bearer"}, "is not"),
        ]:
            answer = service.predict(ROW, headers=headers)
            assert said in check_problem(answer, 401)["detail"] and answer.headers["WWW-Authenticate"] == "Bearer"
        check_problem(service.get("/model"), 401)
        assert service.metric('pystock_api_rejected_total{reason="key"}') == 5
        with connected(service) as client:  # of its body nothing was sent
            client.sendall(head(length=1000))
            assert client.recv(4096).startswith(b"HTTP/1.1 401 ")
        assert service.ready()["keys"] == {"clients": 2, "error": None}

        keys("remove", "ada", file)
        until(lambda: answers(ada) == 401, 10)
        assert answers(bob) == 200
        whole = file.read_text()
        file.write_text(whole + "carl\n")
        until(lambda: service.ready()["keys"]["error"], 10)
        assert "line 2 is no name" in service.ready()["keys"]["error"] and service.ready()["ready"]
        file.unlink()
        until(lambda: "cannot be read" in service.ready()["keys"]["error"], 10)
        assert answers(bob) == 200 and answers(ada) == 401 and len(service.events("keys not read")) == 2
        carl = keys("add", "carl", file)[1].strip()
        until(lambda: answers(carl) == 200, 10)
        assert answers(bob) == 401 and service.ready()["keys"] == {"clients": 1, "error": None}
        log = service.server.log.read_text()
        assert not [key for key in (ada, bob, carl) if key in log]


def test_the_document_declares_the_keys_where_there_are_some(tmp_path):
    (tmp_path / "keys").write_text(LINE)
    made = {}
    for name, settings in (("on", {"keys_file": str(tmp_path / "keys")}), ("off", {})):
        made[name] = json.loads(json.dumps(api.create_app(Settings(cache=tmp_path, **settings)).app.openapi()))
    schemathesis.openapi.from_dict(made["on"]).validate()
    assert made["on"]["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    guarded = {
        (method, path)
        for path, methods in made["on"]["paths"].items()
        for method, operation in methods.items()
        if operation.get("security") == [{"key": []}] and "401" in operation["responses"]
    }
    assert guarded == {("post", "/predict"), ("get", "/model")}
    assert not re.search("security|401", json.dumps(made["off"])), "what is not asked for is not declared"
