"""The profile `auth` and a class: who may do what, and that nothing is published without asking who comes."""

import json
import socket

import pytest
import requests
from class_accounts import accounts_in, run_learners, variables
from docker_workbench import Workbench, docker, status

API = "/api/2.0/mlflow"
ACCOUNT = """
import sys
from mlflow.server import get_app_client
client = get_app_client("basic-auth", "http://mlflow:5000")
role = client.create_role("default", "class")
client.add_role_permission(role.id, "workspace", "*", "USE")
for name in ("ada", "bob"):
    client.create_user(name, name * 5)
    client.assign_role(name, role.id)
"""
ADA, BOB = "ada:adaadaadaadaada", "bob:bobbobbobbobbob"
SEARCH, CREATE = f"{API}/experiments/search?max_results=1", f"{API}/experiments/create"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A class's workbench: on every address of this machine, with authentication, and accounts for ada and bob."""
    settings = {"COMPOSE_PROFILES": "auth", "WORKBENCH_BIND": "0.0.0.0", "WORKBENCH_HOST": "mlflow.example"}
    with Workbench("class", tmp_path_factory.mktemp("class"), **settings) as made:
        made.up("--build")
        made.python(ACCOUNT, env=teacher(made))
        yield made


def teacher(made: Workbench) -> dict[str, str]:
    return {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": made.env["MLFLOW_ADMIN_PASSWORD"]}


def learner(made: Workbench) -> str:
    """The account of the notebooks."""
    return f"learner:{made.env['MLFLOW_LEARNER_PASSWORD']}"


@pytest.fixture(scope="module")
def outside(shared):
    """An address of this machine that is not its loopback."""
    return docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}").stdout.strip()


def test_a_learner_cannot_delete_anothers_experiment(shared):
    code, text = status(shared.mlflow + CREATE, user=ADA, method="POST", body={"name": "ada's"})
    assert code == 200, text
    delete, body = f"{shared.mlflow}{API}/experiments/delete", json.loads(text)
    for other in (BOB, learner(shared)):
        assert status(delete, user=other, method="POST", body=body) == (403, "Permission denied")
    assert status(delete, user=ADA, method="POST", body=body)[0] == 200


@pytest.mark.parametrize("user", ["", "ada:wrongwrongwrong", "nobody:adaadaadaadaada", "admin:password1234"])
def test_who_does_not_say_who_they_are_is_turned_away(shared, user):
    code, text = status(shared.mlflow + SEARCH, user=user)
    assert code == 401 and text.startswith("You are not authenticated.")


def test_the_notebooks_have_an_account_that_is_not_the_administrators(shared):
    for experiment in ("notebook", "Default"):  # the second was there before the account
        shared.python(f"import mlflow; mlflow.set_experiment('{experiment}'); mlflow.log_metric('m', 1)")
    body = {"username": "eve", "password": "eveeveeveeve"}
    assert status(f"{shared.mlflow}{API}/users/create", user=learner(shared), method="POST", body=body)[0] == 403
    assert shared.env["MLFLOW_ADMIN_PASSWORD"] not in shared.run("jupyter", "env").stdout


def test_the_users_are_in_postgresql_and_stay(shared):
    query = ["psql", "-At", "-U", "postgres", "-d", "mlflow_auth", "-c", "SELECT username FROM users ORDER BY username"]
    before = shared.run("postgres", *query).stdout.split()
    assert before == ["ada", "admin", "bob", "learner"]
    shared.up("--force-recreate", "--no-deps", "postgres", "mlflow")
    assert shared.run("postgres", *query).stdout.split() == before
    assert status(shared.mlflow + SEARCH, user=ADA)[0] == 200


def test_a_class_reaches_mlflow_by_the_name_that_is_allowed(shared, outside):
    port = shared.settings["MLFLOW_PORT"]
    allowed, others = (f"mlflow.example:{port}", "mlflow.example"), (f"other.example:{port}", f"{outside}:{port}")
    for host, code in [*dict.fromkeys(allowed, 200).items(), *dict.fromkeys(others, 403).items()]:
        assert status(f"http://{outside}:{port}{SEARCH}", user=ADA, Host=host)[0] == code, host
    # a browser sends the page's address as Origin with everything that changes something
    for origin, code in ((f"http://mlflow.example:{port}", 200), ("http://evil.example", 403)):
        headers = {"Host": f"mlflow.example:{port}", "Origin": origin}
        body = {"name": f"from {origin}"}
        assert status(f"http://{outside}:{port}{CREATE}", user=ADA, method="POST", body=body, **headers)[0] == code


def test_a_class_never_reaches_jupyter(shared, outside):
    with socket.create_connection((outside, int(shared.settings["MLFLOW_PORT"])), timeout=5):
        pass
    with pytest.raises((ConnectionRefusedError, TimeoutError)):  # a firewall may drop it
        socket.create_connection((outside, int(shared.settings["JUPYTER_PORT"])), timeout=5)
    assert status(f"{shared.jupyter}/login")[0] == 200


LEARNER = """
import mlflow
mlflow.set_experiment("prices")
mlflow.log_text("mine", "note.txt")
print(*sorted(one.name for one in mlflow.search_experiments()))
try:
    mlflow.set_workspace("default")
    mlflow.set_experiment("not mine")
except mlflow.MlflowException as error:
    print("403" if "403" in str(error) or "Permission denied" in str(error) else error)
"""


def test_a_workspace_and_an_account_for_each_learner(shared, tmp_path):
    """As workbench/README.md says: from this machine, with the administrator's password."""
    names = tmp_path / "names.txt"
    names.write_text("cora\n")
    done = run_learners(names, COURSE_TRACKING_URI=shared.mlflow, **teacher(shared))
    assert done.returncode == 0, done.stderr
    (account,) = accounts_in(names.with_name("names.txt-accounts"))
    shown = shared.python(LEARNER, env=variables(account) | {"MLFLOW_TRACKING_URI": "http://mlflow:5000"}).splitlines()
    assert shown == ["prices", "403"]


@pytest.mark.parametrize(("service", "setting", "sentence"), [
    ("mlflow", "COMPOSE_PROFILES=", "without authentication: set COMPOSE_PROFILES=auth in workbench/.env too, or "),
    ("mlflow", "WORKBENCH_HOST=", "needs the host name that the class uses for this machine: set WORKBENCH_HOST"),
    ("mlflow", "WORKBENCH_HOST=*", "WORKBENCH_HOST=* is not a host name: give one name, without port or wildcard."),
    ("accounts", "COMPOSE_PROFILES=", "without authentication, because it cannot see `--profile auth`"),
])  # fmt: skip
def test_an_open_server_is_refused(shared, service, setting, sentence):
    profile = ["--profile", "auth"] if service == "accounts" else []
    name, value = setting.split("=")
    done = shared.compose(*profile, "run", "--rm", "--no-deps", service, settings={name: value}, check=False)
    assert done.returncode == 1 and sentence in done.stderr + done.stdout


def test_a_refused_server_makes_the_start_fail_and_serves_nothing(tmp_path, shared):
    """After the other workbench, whose images it takes from the cache."""
    with Workbench("refused", tmp_path, WORKBENCH_BIND="0.0.0.0") as refused:
        assert refused.up("--build", check=False).returncode != 0
        assert "is not allowed without authentication" in refused.compose("logs", "mlflow").stdout
        with pytest.raises(requests.ConnectionError):
            status(f"{refused.mlflow}/health")
