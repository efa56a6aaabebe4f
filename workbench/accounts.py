"""In the profile `auth`: create the account `learner`, which the notebooks of the jupyter container use.

It may change everything in the default workspace, including what was logged before authentication was on, but delete
only what it created itself. A second run changes nothing but the password, if workbench/.env has a new one.
"""

import os
import sys

from mlflow.exceptions import MlflowException
from mlflow.server import get_app_client

NAME, ROLE, WORKSPACE = "learner", "notebooks", "default"
GRANTS = {"workspace": "USE", "experiment": "EDIT", "registered_model": "EDIT"}

if "auth" not in os.environ["COMPOSE_PROFILES"].split(","):
    sys.exit(
        "workbench: the server runs without authentication, because it cannot see `--profile auth`: set "
        "COMPOSE_PROFILES=auth in workbench/.env instead, and start it again without `--profile`."
    )

password = os.environ["MLFLOW_LEARNER_PASSWORD"]
client = get_app_client("basic-auth", os.environ["MLFLOW_TRACKING_URI"])
try:
    client.create_user(NAME, password)
except MlflowException as error:
    if error.error_code != "RESOURCE_ALREADY_EXISTS":
        raise
    client.update_user_password(NAME, password)

role = next((role for role in client.list_roles(WORKSPACE) if role.name == ROLE), None)
role = role or client.create_role(WORKSPACE, ROLE)
granted = {permission.resource_type for permission in client.list_role_permissions(role.id)}
for resource in GRANTS.keys() - granted:
    client.add_role_permission(role.id, resource, "*", GRANTS[resource])
if role.id not in [one.id for one in client.list_user_roles(NAME)]:
    client.assign_role(NAME, role.id)
print(f"workbench: the account {NAME} is ready.")
