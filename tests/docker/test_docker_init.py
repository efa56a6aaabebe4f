"""workbench/init, and what compose says where it was not run."""

import os
import re
import shutil
import subprocess

import pytest
from docker_workbench import HERE, docker, require_docker

SECRETS = ("TOKEN", "PASSWORD", "KEY")


@pytest.fixture
def init(tmp_path):
    """workbench/init in a folder of its own with a space and an umlaut; call it to run it."""
    folder = tmp_path / "my wörkbench"
    folder.mkdir()
    shutil.copy(HERE / "init", folder)

    def run(umask="022"):
        return subprocess.run(["sh", "-c", f"umask {umask}; ./init"], cwd=folder, capture_output=True, text=True)

    run.env = folder / ".env"
    return run


def test_the_secrets_are_new_and_for_you_alone(init):
    assert init(umask="000").returncode == 0 and init.env.stat().st_mode & 0o777 == 0o600
    first = secrets(init.env)
    init.env.unlink()
    init()
    second = secrets(init.env)
    assert len(first) == 6 and all(re.fullmatch("[A-Za-z0-9]{32}", value) for value in first.values())
    assert len({*first.values(), *second.values()}) == 12


def secrets(env):
    pairs = (line.split("=", 1) for line in env.read_text().splitlines() if "=" in line and not line.startswith("#"))
    return {name: value for name, value in pairs if name.endswith(SECRETS)}


def test_what_is_there_stays(init):
    init.env.symlink_to("nowhere")  # a link, also where it leads nowhere
    assert "was not changed" in init().stdout
    assert os.readlink(init.env) == "nowhere" and not init.env.exists()
    init.env.unlink()
    init.env.write_text("MINE=1\n")
    done = init()
    assert (done.returncode, done.stdout) == (0, "workbench/.env already exists, so it was not changed.\n")
    assert init.env.read_text() == "MINE=1\n"


def test_git_ignores_what_it_writes():
    assert subprocess.run(["git", "check-ignore", "--quiet", ".env"], cwd=HERE).returncode == 0


@pytest.mark.parametrize("files", [["compose.yaml"], ["compose.yaml", "compose.demo.yaml"]])
def test_compose_names_init_where_it_was_not_run(files):
    require_docker()
    chosen = [word for file in files for word in ("-f", str(HERE / file))]
    done = docker("compose", "--env-file", os.devnull, *chosen, "up", check=False)
    assert done.returncode != 0 and "run workbench/init first" in done.stderr
