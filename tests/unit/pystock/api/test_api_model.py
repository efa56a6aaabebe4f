"""The watcher of the inference API: when it tries again, and what counts as a tracking server."""

import socket
import threading
from contextlib import suppress
from types import SimpleNamespace

import mlflow
import pytest

from pystock.api import model
from pystock.api.settings import Settings


@pytest.mark.parametrize(("error", "attempts"), [(model.Unavailable, 3), (model.Unfit, 1)])
def test_only_a_version_whose_files_are_missing_is_tried_again(tmp_path, monkeypatch, error, attempts):
    watcher, tried = model.Watcher(Settings(cache=tmp_path)), []

    def fetch(version, entry):
        tried.append(entry)
        raise error("a reason")

    monkeypatch.setattr(model, "find", lambda uri: SimpleNamespace(version="7", model_id="m-1", source=""))
    monkeypatch.setattr(watcher, "_fetch", fetch)
    for _ in range(3):
        watcher.look()
    assert tried == ["7-m-1"] * attempts
    assert watcher.ready()["champion"]["refused"] == {"version": 7, "reason": "a reason"}


def answer_with(server, body):
    """Answer each request at the address of the tracking server as another program would."""
    with suppress(OSError):  # the server is closed
        while True:
            client, _ = server.accept()
            client.recv(65536)
            client.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            client.close()


@pytest.mark.parametrize("body", [b"{}", b"[1]", b"<html>", b'{"model_version": {"version": "x"}}', b"\xff"])
def test_a_server_that_answers_nonsense_counts_as_gone(tmp_path, monkeypatch, body):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as server:
        mlflow.set_tracking_uri(f"http://127.0.0.1:{server.getsockname()[1]}")
        threading.Thread(target=answer_with, args=(server, body), daemon=True).start()
        watcher = model.Watcher(Settings(cache=tmp_path))
        watcher.look()
    state = watcher.ready()["tracking_server"]
    assert state["reachable"] is False and state["error"]
