"""Run an MLflow project in a container:

    python projects/docker/run.py projects/stockpred --experiment-name example-stockpred -P trees=200

The arguments after the project's folder are those of `mlflow run`. The run goes to the server in MLFLOW_TRACKING_URI.
README.md in this folder lists what you need first.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from urllib.parse import urlsplit

import yaml

IMAGE = os.environ.get("PYSTOCK_IMAGE", "pystock")
# What the container needs to reach the server, in addition to the address, which MLflow passes on itself.
ENVIRONMENT = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_WORKSPACE", "MLFLOW_HTTP_REQUEST_MAX_RETRIES")
# MLflow puts ENVIRONMENT on a command line and into its log. These two are passed through a file with their names only.
SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


def what_is_missing(project: Path, arguments: list[str]) -> str | None:
    """The first reason why the project cannot run in a container, as a sentence; None if there is none."""
    address = os.environ.get("MLFLOW_TRACKING_URI", "")
    store = urlsplit(address)
    if not project.is_dir() or not mlproject(project):
        return f"{project} has no MLproject file: give the folder of a project, such as projects/stockpred."
    if store.scheme not in ("http", "https"):
        return (
            f"MLFLOW_TRACKING_URI is {address or 'not set'}, but a container can reach only a server, not a file of "
            "this machine: set it to a server's address, such as http://127.0.0.1:5050 for the workbench."
        )
    local = store.hostname in ("localhost", "127.0.0.1", "::1")
    if local and sys.platform != "linux" and not names_network(arguments):
        return (
            f"{address} is this machine's own address, which containers of Docker Desktop cannot reach: turn on "
            "host networking in its settings, and add -A network=host."
        )
    try:
        asked = subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        return "the command docker was not found: install Docker, or run the project with --env-manager local."
    except subprocess.TimeoutExpired:
        return "Docker did not respond within a minute: restart its engine."
    if "no such image" in asked.stderr.lower():
        build = f"docker build -f projects/docker/Dockerfile -t {IMAGE} ."
        return f"the image {IMAGE} does not exist: run `{build}` in the checkout."
    if asked.returncode:
        return f"Docker does not respond ({asked.stderr.strip().splitlines()[-1]}): start its engine."
    return None


def mlproject(folder: Path) -> Path | None:
    return next((file for file in folder.iterdir() if file.name.lower() == "mlproject"), None)


def names_network(arguments: list[str]) -> bool:
    return any("network=" in word or "net=" in word for word in arguments)


def with_docker_env(project: Path, folder: Path) -> Path:
    """A copy of the project in `folder` whose one environment is docker_env, in the image `IMAGE`."""
    left_out = shutil.ignore_patterns("__pycache__", "stages", "mlruns", "*.db")
    copy = Path(shutil.copytree(project, folder / project.resolve().name, ignore=left_out))
    file = mlproject(copy)
    assert file is not None  # what_is_missing has checked
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    for other in ("python_env", "conda_env"):  # an MLproject may name only one
        settings.pop(other, None)
    names = [name for name in ENVIRONMENT if name in os.environ]
    settings["docker_env"] = {"image": IMAGE, "environment": names}
    file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return copy


def run(command: list[str], container: str) -> int:
    """The command's exit code. A signal that ends this process ends the container, too, except SIGKILL."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    process = subprocess.Popen(command, start_new_session=True)
    try:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                # as Ctrl-C in a terminal: MLflow ends the run, and docker passes the signal on to the container
                os.killpg(process.pid, signal.SIGINT)
    finally:
        subprocess.run(["docker", "rm", "--force", container], capture_output=True)


def main() -> int:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    project, arguments = Path(sys.argv[1]), sys.argv[2:]
    if problem := what_is_missing(project, arguments):
        sys.exit(f"run.py: {problem}")
    name = f"pystock-{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory() as folder:
        secrets = Path(folder, "secrets")
        secrets.write_text("".join(f"{one}\n" for one in SECRETS if one in os.environ))
        # Set the host name as well: on the host's network a container has the host's name but its own PIDs, and pystock
        # identifies a process by both.
        docker = [f"name={name}", f"hostname={name}", f"env-file={secrets}"]
        if sys.platform == "linux" and not names_network(arguments):
            docker.append("network=host")  # then 127.0.0.1 in the container is the server's, too
        words = [word for option in docker for word in ("-A", option)]
        copy = with_docker_env(project, Path(folder))
        return run([sys.executable, "-m", "mlflow", "run", str(copy), "--build-image", *words, *arguments], name)


if __name__ == "__main__":
    sys.exit(main())
