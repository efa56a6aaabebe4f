"""Run an MLflow project in a container:

    python projects/docker/run.py projects/stockpred --experiment-name example-stockpred -P trees=200

What follows the project's folder are the arguments of `mlflow run`. The run goes to the server that MLFLOW_TRACKING_URI
names. README.md beside this file says what is needed before.
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
# What the container needs to reach the server, beside the address, which MLflow hands on itself.
ENVIRONMENT = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_WORKSPACE", "MLFLOW_HTTP_REQUEST_MAX_RETRIES")
# MLflow puts ENVIRONMENT on a command line, and into its log. These two go by a file that holds their names alone.
SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


def what_is_missing(project: Path, arguments: list[str]) -> str | None:
    """The first reason why the project cannot run in a container, as a sentence; None where there is none."""
    address = os.environ.get("MLFLOW_TRACKING_URI", "")
    store = urlsplit(address)
    if not project.is_dir() or not mlproject(project):
        return f"{project} holds no MLproject: give the folder of a project, as projects/stockpred."
    if store.scheme not in ("http", "https"):
        return (
            f"MLFLOW_TRACKING_URI is {address or 'not set'}, but a container shares a server with this machine, "
            "no file: set it to the address of one, as http://127.0.0.1:5050 for the workbench."
        )
    local = store.hostname in ("localhost", "127.0.0.1", "::1")
    if local and sys.platform != "linux" and not names_network(arguments):
        return (
            f"{address} is this machine's own address, which containers of Docker Desktop do not reach: turn on "
            "host networking in its settings, and add -A network=host."
        )
    try:
        asked = subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        return "there is no command docker: install Docker, or run the project with --env-manager local."
    except subprocess.TimeoutExpired:
        return "Docker has not answered for a minute: start its engine anew."
    if "no such image" in asked.stderr.lower():
        build = f"docker build -f projects/docker/Dockerfile -t {IMAGE} ."
        return f"the image {IMAGE} is not built: type `{build}` in the checkout."
    if asked.returncode:
        return f"Docker does not answer ({asked.stderr.strip().splitlines()[-1]}): start its engine."
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
    assert file is not None  # what_is_missing has looked
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    for other in ("python_env", "conda_env"):  # an MLproject may name one alone
        settings.pop(other, None)
    names = [name for name in ENVIRONMENT if name in os.environ]
    settings["docker_env"] = {"image": IMAGE, "environment": names}
    file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return copy


def run(command: list[str], container: str) -> int:
    """The command's exit code. What ends this process ends the container too, except a kill that it cannot hear."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    process = subprocess.Popen(command, start_new_session=True)
    try:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                # as Ctrl-C in a terminal: MLflow ends the run, and docker hands the signal on into the container
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
        # The host name too: on the machine's network a container has the machine's, but process numbers of its own,
        # and pystock knows a process by both.
        docker = [f"name={name}", f"hostname={name}", f"env-file={secrets}"]
        if sys.platform == "linux" and not names_network(arguments):
            docker.append("network=host")  # the server's 127.0.0.1 is then the container's too
        words = [word for option in docker for word in ("-A", option)]
        copy = with_docker_env(project, Path(folder))
        return run([sys.executable, "-m", "mlflow", "run", str(copy), "--build-image", *words, *arguments], name)


if __name__ == "__main__":
    sys.exit(main())
