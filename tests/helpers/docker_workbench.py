"""The workbench in containers for the tests: a project of its own, free ports, gone with its volumes afterwards."""

import json
import os
import shutil
import socket
import subprocess
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
import requests
from fake_course import CHECKOUT, clean_environment

HERE = CHECKOUT / "workbench"
SETTINGS = ("COMPOSE_", "WORKBENCH_", "POSTGRES_", "DEMO_PORT", "API_PORT", "PYSTOCK_")
REQUIRED = bool(os.environ.get("COURSE_REQUIRE_DOCKER"))  # set by .ci/run; conftest.py unsets it later
PORTS = ("JUPYTER_PORT", "MLFLOW_PORT", "DEMO_PORT", "API_PORT")


@cache
def require_docker() -> None:
    """Skip where no Docker engine answers; fail there if COURSE_REQUIRE_DOCKER is set, as in .ci/run."""
    docker = shutil.which("docker")
    asked = docker and subprocess.run([docker, "info"], capture_output=True, text=True, timeout=60)
    if not docker or asked.returncode:
        reason = "`docker info` does not answer: start a Docker engine to run this test"
        (pytest.fail if REQUIRED else pytest.skip)(reason)


def docker(*arguments: str, seconds: float = 300, check: bool = True, **options) -> subprocess.CompletedProcess:
    env = {name: value for name, value in clean_environment().items() if not name.startswith(SETTINGS)}
    env |= options.pop("env", {})
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=seconds, env=env, **options)
    assert not check or done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done


def status(url: str, *, user: str = "", method: str = "GET", body: object = None, **headers: str) -> tuple[int, str]:
    """Status and text of the answer. `user` is name:password."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    auth = tuple(user.split(":")) if user else None
    more = {"auth": auth, "proxies": {"http": ""}, "timeout": 30}  # no proxy, which would not reach this machine
    answer = requests.request(method, url, json=body, headers=headers, **more)
    return answer.status_code, answer.text


class Workbench:
    """One workbench for a `with`, which removes it: the services of `more` files, and `settings` over those of .env."""

    def __init__(self, name: str, folder: Path, *more: Path, **settings: str):
        require_docker()
        self.project = f"wbtest-{os.getpid()}-{name}"
        self._files = [HERE / "compose.yaml", *more]
        (folder / "workbench").mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / "init", folder / "workbench")
        subprocess.run([folder / "workbench/init"], check=True, capture_output=True)
        self._env_file = folder / "workbench/.env"
        with ExitStack() as drawn:  # all open until the last one is drawn, so that no two are the same
            sockets = [drawn.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in PORTS]
            ports = {name: str(each.getsockname()[1]) for name, each in zip(PORTS, sockets)}
        self.settings = ports | settings
        self.jupyter, self.mlflow, self.demo, self.api = (f"http://127.0.0.1:{ports[name]}" for name in PORTS)

    @property
    def env(self) -> dict[str, str]:
        lines = [line for line in self._env_file.read_text().splitlines() if "=" in line and line[0] != "#"]
        return dict(line.split("=", 1) for line in lines)

    def command(self, *arguments: str, demo: bool = False) -> list[str]:
        files = self._files + [HERE / "compose.demo.yaml"][:demo]
        chosen = [word for file in files for word in ("-f", str(file))]
        own = ["--progress", "plain", "--env-file", str(self._env_file), "-p", self.project]
        return ["compose", *own, *chosen, *arguments]

    def compose(self, *arguments: str, demo: bool = False, settings: dict | None = None, **options):
        env = self.settings | (settings or {})
        return docker(*self.command(*arguments, demo=demo), env=env, **options)

    def up(self, *arguments: str, seconds: float = 1500, **options):
        return self.compose("up", "--detach", "--wait", *arguments, seconds=seconds, **options)

    def __enter__(self) -> "Workbench":
        return self

    def __exit__(self, *_: object) -> None:
        # every profile and both files, or their containers would keep the networks
        self.compose("--profile", "*", "down", "--volumes", "--timeout", "2", "--rmi", "all", demo=True, check=False)

    def container(self, service: str) -> dict:
        name = f"{self.project}-{service}-1"
        return json.loads(docker("container", "inspect", name).stdout)[0]

    def published(self, service: str) -> set[tuple[str, str, str]]:
        """The ports of a service that this machine has: each inside, then the address and the port here."""
        ports = self.container(service)["NetworkSettings"]["Ports"].items()
        return {(inside, one["HostIp"], one["HostPort"]) for inside, outside in ports for one in outside or []}

    def run(self, service: str, *command: str, env: dict | None = None, **options):
        more = [f"--env={name}={value}" for name, value in (env or {}).items()]
        return self.compose("exec", "--no-TTY", *more, service, *command, **options)

    def python(self, code: str, service: str = "jupyter", **options) -> str:
        """A script in the container of a service; returns what it printed."""
        return self.run(service, "python", "-", input=code, **options).stdout

    def start_python(self, code: str) -> subprocess.Popen:
        """A script in the jupyter container, in the background; its standard output is a pipe of lines."""
        words = ["docker", *self.command("exec", "--no-TTY", "jupyter", "python", "-u", "-c", code)]
        env, pipes = clean_environment(**self.settings), {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(words, text=True, env=env, **pipes)
