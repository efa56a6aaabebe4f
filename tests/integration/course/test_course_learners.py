"""`course learners` and `course checkpoint` on a server: a class on one workbench with authentication."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
from class_accounts import accounts_in, as_learner, run_learners, variables
from fake_course import FakeCourse, clean_environment
from mlflow import MlflowClient, MlflowException

from course import store
from course.environment import QUIET_MLFLOW
from course.servers import MLFLOW_SERVER_ENVIRONMENT, free_port, mlflow_server, start_server
from course.workbench import local as workbench

pytestmark = [pytest.mark.skipif(os.name == "nt", reason="no PostgreSQL there"), pytest.mark.xdist_group("learners")]

WORK = """
import course, mlflow, sys
from sklearn.linear_model import LinearRegression

course.begin("01")
mlflow.set_experiment("prices")
with mlflow.start_run() as run:
    mlflow.log_metric("error", 0.5)
    mlflow.log_text("mine", "note.txt")
    model = LinearRegression().fit([[0], [1]], [0, 1])
    about = {"pip_requirements": ["scikit-learn"], "registered_model_name": "line"}
    saved = mlflow.sklearn.log_model(model, name="line", **about)
client = mlflow.MlflowClient()
client.set_registered_model_alias("line", "champion", 1)
assert mlflow.sklearn.load_model("models:/line@champion").predict([[1]]).round(6).tolist() == [1]
assert [one.name for one in mlflow.list_workspaces()] == [sys.argv[1]]
print("made", run.info.experiment_id, run.info.run_id, saved.model_id)
"""


class Class:
    """ada and bob on a workbench with authentication, who have each logged a run and registered a model."""

    def __init__(self, bench, folder: Path):
        self.bench, self.folder, self.file = bench, folder, folder / "names.txt"
        self.accounts = folder / "names.txt-accounts"
        user, password = workbench.admin(bench.folder)
        self.admin = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
        self.file.write_text("# those of Monday\nada\n\nbob  # new\n")
        self.done = self.run()
        assert self.done.returncode == 0, self.done.stderr
        self.ada, self.bob = accounts_in(self.accounts)
        self.ids = [self.work(account) for account in (self.ada, self.bob)]  # experiment, run, model

    def work(self, account: dict) -> list[str]:
        env = clean_environment(COURSE_STATE=self.folder / account["learner"], **variables(account))
        command = [sys.executable, "-c", WORK, account["learner"]]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.split("\nmade ")[1].split()

    def run(self, file: Path | None = None):
        login = ":".join(self.admin.values()) + "@"  # in the address, which the learners get without it
        return run_learners(file or self.file, COURSE_TRACKING_URI=self.bench.url.replace("//", f"//{login}"))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    bench = workbench.start_workbench(auth=True)
    try:
        yield Class(bench, tmp_path_factory.mktemp("class"))
    finally:
        bench.discard()


def test_accounts(two):
    """Passwords stand in a file for the teacher alone; what is printed holds none."""
    assert two.accounts.stat().st_mode & 0o777 == 0o600
    for account, name in ((two.ada, "ada"), (two.bob, "bob")):
        assert account["learner"] == account["workspace"] == name
        assert len(account["password"]) >= 12 and account["password"] not in two.done.stdout + two.done.stderr
        assert re.search(rf"^{name} +workspace created, account created$", two.done.stdout, re.MULTILINE)
        assert variables(account)["COURSE_TRACKING_URI"] == two.bench.url
    assert two.bench.command.endswith("--artifacts-destination file:///FOLDER/artifacts --app-name basic-auth")
    assert two.ada["password"] != two.bob["password"]


def test_a_workspace_is_its_learners_alone(two, tmp_path):
    experiment, run, model = two.ids[1]
    with as_learner(two.ada):
        own = MlflowClient(two.bench.url)
        assert [one.name for one in own.search_experiments()] == ["prices"]
        assert own.get_run(two.ids[0][1]).data.metrics == {"error": 0.5}
    refused = [(method, run) for method in ("get_run", "list_artifacts", "delete_run")]
    refused += [("log_metric", run, "error", 0), ("log_text", run, "changed", "note.txt"), ("set_tag", run, "a", "b")]
    refused += [("get_logged_model", model), ("delete_experiment", experiment)]
    refused += [("delete_workspace", "bob"), ("create_workspace", "eve")]
    elsewhere = [("get_registered_model", "line"), ("create_registered_model", "a"), ("create_experiment", "a")]
    for workspace in ("ada", "bob", "default"):
        with as_learner(two.ada, MLFLOW_WORKSPACE=workspace):
            client = MlflowClient(two.bench.url)
            assert client.search_runs([experiment]) == []
            assert not client.search_logged_models(experiment_ids=[experiment])
            if workspace != "ada":
                assert client.search_experiments() == [] and client.search_registered_models() == []
            for method, *arguments in refused + (elsewhere if workspace != "ada" else []):
                with pytest.raises(MlflowException, match="403|Permission denied"):
                    getattr(client, method)(*arguments)
    with as_learner(two.bob):
        client = MlflowClient(two.bench.url)
        assert client.get_run(run).data.metrics == {"error": 0.5}
        assert Path(client.download_artifacts(run, "note.txt", tmp_path)).read_text() == "mine"


def test_called_again(two):
    """What is there stays; what an earlier call left undone is done; a new name is added."""
    before = two.accounts.read_text()
    again = two.run()
    assert again.returncode == 0 and re.search(r"ada +workspace kept, account kept\n", again.stdout)
    assert two.accounts.read_text() == before

    from mlflow.server import get_app_client

    with patch.dict(os.environ, QUIET_MLFLOW | two.admin):
        auth = get_app_client("basic-auth", two.bench.url)
        role = next(role for role in auth.list_roles("bob") if role.name == "learner")
        auth.unassign_role("bob", role.id)
        MlflowClient(two.bench.url).create_workspace("eve")
    with open(two.accounts, "a", newline="") as book:  # written down, and killed before the account was made
        csv.writer(book).writerow(["eve", "eve", "a-password-of-eve", "cut off"])
    file = two.folder / "more.txt"
    file.write_text("bob\neve\n")
    two.accounts.rename(file.with_name("more.txt-accounts"))
    done = two.run(file)
    assert re.search(r"bob +workspace kept, account kept\neve +workspace kept, account created\n", done.stdout), done
    last = accounts_in(file.with_name("more.txt-accounts"))[-1]
    assert last["password"] == "a-password-of-eve"
    for account, experiments in ((two.bob, ["prices"]), (last, [])):
        with as_learner(account):
            assert [one.name for one in MlflowClient(two.bench.url).search_experiments()] == experiments
    file.with_name("more.txt-accounts").rename(two.accounts)


def test_a_checkpoint_on_the_server(two, tmp_path):
    """The chapters before it run in the learner's workspace, also a second time, and it says how long that took."""
    fake = FakeCourse(tmp_path / "Kurs für alle")
    log = "import mlflow\nmlflow.set_experiment('kept')\nwith mlflow.start_run(): mlflow.log_metric('x', 1)"
    fake.chapter("01", "import course\ncourse.begin('01')", log)
    fake.chapter("02", "raise ValueError('too much')")
    fake.chapter("03", "x = 1")
    learner = variables(two.ada)
    with as_learner(two.ada):
        client = MlflowClient(two.bench.url)
        for runs in (1, 2):
            done = fake.run("checkpoint", "02", **learner)
            assert re.search(r"The server is ready for chapter 02\. This took \d+ s\.\n$", done.stdout), done
            kept = client.get_experiment_by_name("kept")
            assert len(client.search_runs([kept.experiment_id])) == runs
    assert not (fake.state / "store").exists()
    failed = fake.run("checkpoint", "03", **learner)
    assert failed.returncode == 1
    assert re.search(r"Chapter 02 failed in cell \d+, `raise ValueError\('too much'\)`: ", failed.stdout), failed.stdout
    with as_learner(two.bob):
        assert MlflowClient(two.bench.url).get_experiment_by_name("kept") is None


def test_servers_that_do_not_help(two, tmp_path, empty_store):
    file = tmp_path / "names.txt"
    file.write_text("zoe\n")
    gone = f"http://127.0.0.1:{free_port()}"
    store.copy(empty_store, tmp_path / "plain")
    command = mlflow_server(store.uri(tmp_path / "plain"))
    wrong = "MLFLOW_TRACKING_PASSWORD are not those of the server's admin account"
    with start_server(command, env=MLFLOW_SERVER_ENVIRONMENT, cwd=tmp_path, log=tmp_path / "log") as plain:
        for uri, more, sentence in (
            (two.bench.url, two.admin | {"MLFLOW_TRACKING_PASSWORD": "wrong-password"}, wrong),
            (two.bench.url, {}, wrong),
            (two.bench.url, variables(two.ada), wrong),
            (plain.url, {}, "Restart the server with --enable-workspaces"),
            (gone, {}, "failed with exception"),
            ("sqlite:///here.db", {}, "Learners share a server"),
            ("", {}, "Learners share a server"),
        ):
            done = run_learners(file, **(more | {"COURSE_TRACKING_URI": uri}))
            assert done.returncode == 1 and done.stdout == ""
            assert re.fullmatch(r"Error: [^\n]+\n", done.stderr) and sentence in done.stderr, done.stderr
    accounts = file.with_name("names.txt-accounts")
    assert not accounts.exists() or accounts.read_text() == ""


def test_the_workbench_here_is_found_with_its_administrator(two, tmp_path):
    """As `course workbench --auth` leaves it: nothing has to be set."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "workbench").symlink_to(two.bench.folder)
    file = tmp_path / "names.txt"
    file.write_text("ada\n")
    done = run_learners(file)
    assert re.match(r"ada +workspace kept, account kept \(its password is not in this file\)\n", done.stdout), done
