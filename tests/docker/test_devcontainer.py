"""The development container: what `.devcontainer/devcontainer.json` says, done step by step without an editor.

Its set-up is the real one, but for Keras and TensorFlow: `--without deep` is proven along with it.
"""

import json
import os
import shutil

import pytest
from docker_workbench import docker, require_docker
from fake_course import CHECKOUT

FOLDER = CHECKOUT / ".devcontainer"
WORKSPACE = "/workspaces/Kurs für alle"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


@pytest.fixture
def container(tmp_path):
    """A function that runs a shell command in a copy of the checkout as the container's user; and the settings."""
    require_docker()
    settings = json.loads((FOLDER / "devcontainer.json").read_text(encoding="utf-8"))
    image = name = f"devcontainer-test-{os.getpid()}"
    docker("build", "-t", image, "-f", str(FOLDER / settings["build"]["dockerfile"]), str(FOLDER), seconds=600)
    ignored = shutil.ignore_patterns(".venv", ".git", ".course", "work", "__pycache__", ".*_cache")
    shutil.copytree(CHECKOUT, tmp_path / "copy", ignore=ignored)
    # uv trusts what pip trusts, and keeps no second copy of the packages
    env = settings["containerEnv"] | {"SSL_CERT_FILE": CERTIFICATES, "UV_NO_CACHE": "1"}
    words = [word for pair in env.items() for word in ("--env", "=".join(pair))]
    try:
        docker("run", "--detach", "--name", name, *words, image, "sleep", "infinity")
        docker("exec", name, "mkdir", "/workspaces")
        docker("cp", str(tmp_path / "copy"), f"{name}:{WORKSPACE}")
        docker("exec", name, "chown", "-R", settings["remoteUser"], "/workspaces")

        def run(command, **options):
            user = ["--user", settings["remoteUser"], "--workdir", WORKSPACE]
            return docker("exec", *user, name, "bash", "-c", command, **options).stdout

        yield run, settings
    finally:
        docker("rm", "--force", "--volumes", name, check=False, seconds=900)  # 100,000 files
        docker("image", "rm", "--force", image, check=False)


@pytest.mark.timeout(3000)  # a whole set-up, and a chapter
def test_the_development_container_sets_itself_up_and_runs_a_chapter(container):
    run, settings = container
    assert run("whoami").strip() != "root", "PostgreSQL refuses root"
    run(settings["postCreateCommand"] + " --without deep", seconds=1500)
    interpreter = settings["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    interpreter = interpreter.replace("${containerWorkspaceFolder}", ".")
    assert run(f"{interpreter} -c 'import sys; print(sys.prefix)'").strip() == f"{WORKSPACE}/.venv"
    healthy = run(".venv/bin/course doctor")
    assert "[fail]" not in healthy and "[ ok ] without deep, as you chose" in healthy
    assert "01_first_tracked_pipeline  passed" in run(".venv/bin/course run 01", seconds=900)
    assert run(".venv/bin/course run 04 || true").rstrip().count("Chapter 04 needs keras") == 1
    assert run("make setup && git --version").startswith("git version"), "make set up more than was chosen"
