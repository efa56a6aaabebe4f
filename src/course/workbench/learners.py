"""`course learners`: make a workspace for each learner of a class and, with authentication, an account for it."""

import csv
import json
import os
import re
import secrets
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO
from unittest.mock import patch

from mlflow import MlflowClient, MlflowException
from mlflow.server import get_app_client

from course import store
from course.errors import CourseError
from course.session import IMPATIENT, log_in
from course.workbench import local as workbench

if TYPE_CHECKING:
    from mlflow.server.auth.client import AuthServiceClient

TAKEN = ["admin", "default", "workspaces", "api", "ajax-api", "static-files"]  # by MLflow, in its addresses


def learners(file: Path) -> None:
    """Create what is missing on the server. Writes each learner's settings and password to FILE-accounts."""
    names: list[str] = []
    accounts = file.with_name(file.name + "-accounts")
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
        name = line.partition("#")[0].strip()
        if name in names + TAKEN or not re.fullmatch("|[a-z0-9][-a-z0-9]{0,61}[a-z0-9]", name):
            rule = "a name has 2 to 63 of a-z, 0-9 and inner hyphens, appears once, and is not reserved by MLflow"
            raise CourseError(f"{file}, line {number}: `{name}` is not a valid name, so nothing was created: {rule}.")
        names += [name] if name else []
    with patch.dict(os.environ, IMPATIENT, MLFLOW_WORKSPACE="default"):
        url = _server()
        with warnings.catch_warnings(action="ignore"):  # about MLflow's own code
            client, auth = MlflowClient(url), get_app_client("basic-auth", url)
        try:
            client.search_experiments(max_results=1)  # raises if workspaces are off, unlike the next call
            there = {workspace.name for workspace in client.list_workspaces()}
            with os.fdopen(os.open(accounts, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "a+", newline="") as book:
                for name in names:
                    if name not in there:
                        client.create_workspace(name)
                    account = _account(auth, name, url, book)
                    print(f"{name:20} workspace {'kept' if name in there else 'created'}, account {account}")
        except MlflowException as error:
            reason = str(error).splitlines()[0]
            if error.get_http_status_code() in (401, 403):
                reason = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD are not those of the server's admin "
                reason += "account: for the workbench, set them to admin and MLFLOW_ADMIN_PASSWORD from workbench/.env"
            raise CourseError(f"Not all learners were created on {url}: {reason}") from None
    print(f"The settings and the password for each learner are in {accounts}.")


def _server() -> str:
    """Return the server's address. If it is the workbench of this folder, log in as its administrator."""
    running = workbench.folder() / "running.json"
    if running.exists():
        with suppress(CourseError):  # it runs
            workbench.lock(workbench.folder()).release()  # removes the file of one that was killed or copied
    here = json.loads(running.read_text())["MLflow"] if running.exists() else None
    named = os.environ.get("COURSE_TRACKING_URI") or os.environ.get("MLFLOW_TRACKING_URI") or here
    url = log_in(store.in_use(named))
    if not url.startswith("http"):
        raise CourseError("Learners share a server: start `course workbench`, or set COURSE_TRACKING_URI to its URL.")
    if url == here and (admin := workbench.admin(workbench.folder())):
        os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"] = admin
    return url


def _account(auth: "AuthServiceClient", name: str, url: str, book: TextIO) -> str:
    """Create or complete the account, if the server has accounts; return what was done."""
    book.seek(0)
    rows = list(csv.reader(book))
    password = next((row[2] for row in reversed(rows) if row[0] == name), "")
    try:
        auth.get_user(name)
        done = "kept" if password else "kept (its password is not in this file)"
    except MlflowException as error:
        if error.get_http_status_code() != 404:
            raise
        done = "created" if error.error_code == "RESOURCE_DOES_NOT_EXIST" else "not needed"
    password = password or (secrets.token_hex(8) if done == "created" else "")
    lines = f"export COURSE_TRACKING_URI={url}\nexport MLFLOW_WORKSPACE={name}\n"
    lines += f"export MLFLOW_TRACKING_USERNAME={name} MLFLOW_TRACKING_PASSWORD={password}" if password else ""
    row = [name, name, password, lines]
    if row not in rows:  # written first: a crash must not leave a password that nobody knows
        csv.writer(book).writerows([row] if rows else [["learner", "workspace", "password", "lines"], row])
        book.flush()
    if done == "created":
        auth.create_user(name, password)
    if done != "not needed":
        role = next((role for role in auth.list_roles(name) if role.name == "learner"), None)
        role = role or auth.create_role(name, "learner")
        if not auth.list_role_permissions(role.id):
            auth.add_role_permission(role.id, "workspace", "*", "USE")
        if role.id not in [one.id for one in auth.list_user_roles(name)]:
            auth.assign_role(name, role.id)
    return done
