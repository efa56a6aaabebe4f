"""The projects in containers for the tests: the base image under a name of its own, and projects/docker/run.py."""

import atexit
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from docker_workbench import docker, require_docker
from environments import INSTALLED, SHARED, locked
from fake_course import CHECKOUT, clean_environment
from filelock import FileLock

BASE = "python:3.12-slim"  # of our Dockerfiles
RUN = CHECKOUT / "projects" / "docker" / "run.py"
# From the build to the end of the run: another worker, which builds it on its own base, would take the name away
IMAGES = FileLock(Path(SHARED) / "course-tests-images.lock")
MADE = ("stockpred", "pystock-training", "waits")  # images of projects, named by MLflow


@cache
def base_image() -> str:
    """The name of the base image, built once for all tests as projects/docker/README.md says, but for the name."""
    require_docker()
    name = f"pystock-test-{os.getpid()}"
    atexit.register(_remove, name)
    words = ["-f", str(CHECKOUT / "projects/docker/Dockerfile"), "-t", name, "--label", f"test={name}", str(CHECKOUT)]
    docker("build", *words, seconds=1500)
    return name


def _remove(name: str) -> None:
    with IMAGES:
        docker("image", "rm", "--force", name, *MADE, check=False)
        # MLflow gives the name of a project's image to the next one; the label is the base's, and inherited
        docker("image", "prune", "--force", "--filter", f"label=test={name}", check=False)


def environment(server: str, **more: str) -> dict[str, str]:
    quiet = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    activated = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    return clean_environment(MLFLOW_TRACKING_URI=server, PATH=activated, **quiet, **more)


def in_container(project: str, server: str, *arguments: str, seconds: float = 900, **env: str):
    """`run.py projects/PROJECT ARGUMENTS` on a server, to its end, which must be a good one."""
    command = [sys.executable, str(RUN), f"projects/{project}", *arguments]
    env = environment(server, PYSTOCK_IMAGE=base_image(), **env)
    with IMAGES:
        done = subprocess.run(command, cwd=CHECKOUT, env=env, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stderr[-3000:]


def python(image: str, code: str) -> str:
    """What a script prints in a new container of an image."""
    return docker("run", "--rm", "--entrypoint", "python", image, "-c", code).stdout


def megabytes(image: str) -> float:
    return int(docker("image", "inspect", "--format", "{{.Size}}", image).stdout) / 1e6


def check_image(image: str, name: str, heavy: str, record_property) -> dict[str, str]:
    """Hold an image to the lock's packages, none `heavy`, and no root as its user; return them, and say its size."""
    ours, total = megabytes(image) - megabytes(BASE), megabytes(image)
    record_property("measured", f"{name}: our layers {ours:.0f} MB, with the stand-in base {BASE} {total:.0f} MB")
    packages = json.loads(python(image, INSTALLED))
    assert packages == {package: locked()[package] for package in packages}
    heavy = ["tensorflow", "jupyterlab", "course", "workbench", "pytest", "uv", *heavy.split()]
    code = f"import importlib.util as u, os; print([name for name in {heavy} if u.find_spec(name)], os.getuid() > 0)"
    assert python(image, code) == "[] True\n"
    return packages
