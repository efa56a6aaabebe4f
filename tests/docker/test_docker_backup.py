"""`course backup --docker` and `course restore --docker`: back up, destroy with all volumes, restore, all is there."""

import subprocess
import sys

import pytest
from backup_content import READ, WORK, changed
from docker_workbench import Workbench, status
from fake_course import COURSE, clean_environment

SECOND = 'import mlflow; mlflow.set_experiment("kept"); mlflow.start_run(); mlflow.log_text("later", "later.txt")'


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """With authentication, and without the part that a backup has nothing of: JupyterLab."""
    with Workbench("backup", tmp_path_factory.mktemp("bench"), COMPOSE_PROFILES="auth") as made:
        made.up("--build", "mlflow")
        made.compose("up", "accounts")
        yield made


def course(bench, *arguments: str) -> subprocess.CompletedProcess:
    env = clean_environment(**(bench.env | bench.settings | {"COMPOSE_PROJECT_NAME": bench.project}))
    return subprocess.run([COURSE, *arguments, "--docker"], capture_output=True, text=True, timeout=900, env=env)


def client(bench, code: str) -> str:
    """The last line that a script of the administrator's prints, on this machine."""
    password = (bench.env | bench.settings)["MLFLOW_ADMIN_PASSWORD"]
    account = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": password}
    env = clean_environment(MLFLOW_TRACKING_URI=bench.mlflow, **account)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stderr
    return (done.stdout.splitlines() or [""])[-1]


def runs(bench) -> int:
    return int(client(bench, 'import mlflow; print(len(mlflow.search_runs(experiment_names=["kept"])))'))


def files(bench) -> set[str]:
    return set(bench.run("mlflow", "find", "/artifacts").stdout.splitlines())


def test_all_is_there_after_it_was_destroyed(bench, tmp_path):
    file = tmp_path / "für später.tar"
    before = client(bench, WORK + READ)
    there = files(bench)
    done = course(bench, "backup", str(file))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{file} holds 1 runs, 1 model versions and ")
    assert file.stat().st_mode & 0o777 == 0o600

    # never over what is there, and never from what is damaged or of the other kind
    refused = course(bench, "restore", str(file))
    assert refused.returncode == 1 and "already holds data: to replace it with" in refused.stderr
    bad = tmp_path / "bad.tar"
    bad.write_bytes(file.read_bytes()[:-1])
    for reason in ("is not a backup of a workbench, or is damaged", "comes from a workbench without containers"):
        refused = course(bench, "restore", str(bad), "--force")
        assert refused.returncode == 1 and f"{bad} {reason}" in refused.stderr
        changed(file, bad, '"kind": "docker"', '"kind": "process"')
    assert files(bench) == there and runs(bench) == 1

    # the next one has other passwords in its .env: the administrator's is that one, the users keep theirs
    bench.compose("--profile", "*", "down", "--volumes", "--timeout", "5")
    bench.settings["MLFLOW_ADMIN_PASSWORD"] = "another-password-of-the-admin"
    done = course(bench, "restore", str(file))
    assert done.returncode == 0, done.stderr
    bench.up("mlflow")
    bench.compose("up", "accounts")
    assert client(bench, READ) == before
    assert files(bench) == there
    learner = f"learner:{bench.env['MLFLOW_LEARNER_PASSWORD']}"
    assert status(f"{bench.mlflow}/api/2.0/mlflow/experiments/get?experiment_id=0", user=learner)[0] == 200

    # by force: what was there is a backup itself
    client(bench, SECOND)
    assert runs(bench) == 2 and len(files(bench)) > len(there)
    done = course(bench, "restore", str(file), "--force")
    assert done.returncode == 0, done.stderr
    kept = tmp_path / "für später.kept-1.tar"
    assert f"The previous data is kept as {kept}: `course restore --docker` restores it.\n" in done.stdout
    assert client(bench, READ) == before and files(bench) == there
    done = course(bench, "restore", str(kept), "--force")
    assert done.returncode == 0, done.stderr
    assert runs(bench) == 2 and len(files(bench)) > len(there)
