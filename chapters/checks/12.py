"""The exercises of chapter 12."""

import base64
import hashlib
import hmac
import re

import yaml

from course.checks import Exercise, Wrong

ORIGINAL = """
on: {workflow_dispatch: {inputs: {name: {}, version: {}, why: {}}}}
concurrency: {group: "promote-${{ github.run_id }}", cancel-in-progress: true}
jobs:
  promote:
    runs-on: ubuntu-latest
    environment: development
    steps:
      - run: python promote.py "${{ inputs.name }}" "${{ inputs.version }}" "${{ inputs.why }}"
"""


def least_permission(answer, market):
    permission = answer.strip().upper() if isinstance(answer, str) else answer
    if permission in ("READ", "USE"):
        raise Wrong(f"With {permission}, an account can't change a model: the server refuses all but reading with 403.")
    if permission == "EDIT":
        raise Wrong(
            "With EDIT, the status is 403: an account can set an alias, but not remove one. Try the next level."
        )
    if permission != "MANAGE":
        raise Wrong(f"{answer!r} is not a permission: give one of READ, USE, EDIT and MANAGE.")


def red_box(answer, market):
    text = str(answer).strip().upper().replace(" ", "_")
    if text in ("403", "PERMISSION_DENIED", "FORBIDDEN"):
        raise Wrong("That is what the server tells a client in Python. Read the red box in the UI's dialog.")
    if text != "INTERNAL_ERROR":
        raise Wrong("If there is no red box, the alias was saved: are you logged in as rosa or admin? Log in as ada.")


def repaired(answer, market):
    if not isinstance(answer, str):
        raise Wrong("Give the repaired workflow as text, in three quotes.")
    try:
        workflow = yaml.safe_load(answer)
        (job,) = workflow["jobs"].values()
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise Wrong(
            f"That is not a workflow with one job ({type(error).__name__}): change only the four lines."
        ) from None
    concurrency = workflow.get("concurrency") or job.get("concurrency") or {}
    concurrency = {"group": concurrency} if isinstance(concurrency, str) else concurrency
    group = str(concurrency.get("group", ""))
    if not group or ("${{" in group and "inputs.name" not in group):
        raise Wrong(f"The group is {group!r}, and two jobs for one model must have the same: use the model's name.")
    if concurrency.get("cancel-in-progress"):
        raise Wrong(
            "cancel-in-progress is true, so the next job stops this one, perhaps before it has closed its record."
        )
    environment = job.get("environment", "")
    environment = environment.get("name", "") if isinstance(environment, dict) else environment
    if environment != "production":
        raise Wrong(f"The environment is {environment!r}: its reviewers would not be those of production.")
    _inputs_are_variables(workflow, job)


def _inputs_are_variables(workflow, job):
    for step in job["steps"]:
        if "${{" in (script := str(step.get("run", ""))):
            raise Wrong("`run` still contains ${{ … }}: an input with $(…) in it would run as code.")
        variables = (workflow.get("env") or {}) | (job.get("env") or {}) | (step.get("env") or {})
        for name in ("name", "version", "why") if script else ():
            names = [key for key, value in variables.items() if re.search(rf"inputs\.{name}\b", str(value))]
            if not names:
                raise Wrong(f"No variable in `env` has the value ${{{{ inputs.{name} }}}}.")
            if not any(f'"${key}"' in script or f'"${{{key}}}"' in script for key in names):
                raise Wrong(
                    f'`run` does not pass "${names[0]}": write it in double quotes, because it may hold spaces.'
                )


def _events():
    """Events, and whether the test should start: what another event of the registry looks like."""
    alias = {"name": "prod.big-move", "alias": "challenger", "version": "3"}
    tag = {"name": "prod.big-move", "version": "3", "key": "validation_status", "value": "pending"}
    for entity, action, data, expected in (
        ("model_version_alias", "created", alias, True),
        ("model_version_alias", "created", alias | {"alias": "champion"}, False),
        ("model_version_alias", "created", alias | {"name": "dev.big-move"}, False),
        ("model_version_alias", "deleted", alias, False),
        ("model_version_tag", "set", tag, False),
        ("registered_model", "created", {"name": "prod.big-move", "tags": {}, "description": None}, False),
    ):
        yield {"entity": entity, "action": action, "timestamp": "2026-01-05T21:00:00+00:00", "data": data}, expected


def event_filter(answer, market):
    if not callable(answer):
        raise Wrong("The answer is the function itself: answer = wants_test, without parentheses.")
    for event, expected in _events():
        kind, data = f"{event['entity']}.{event['action']}", event["data"]
        try:
            result = answer(event)
        except (KeyError, TypeError) as error:
            raise Wrong(f"Your function raises {type(error).__name__}: {error} for the event {kind}, {data}.") from None
        if bool(result) != expected:
            raise Wrong(f"For the event {kind}, {data}, your function returns {result!r}, not {expected}.")


def _signature(message, secret="open sesame"):
    return "v1," + base64.b64encode(hmac.new(secret.encode(), message.encode(), hashlib.sha256).digest()).decode()


def event_signature(answer, market):
    body = '{"entity": "model_version_tag", "action": "set"}'
    right = _signature(f"d-1.1700000000.{body}")
    if not isinstance(answer, str):
        raise Wrong("Give the value of the header as text. It begins with v1.")
    if answer == right:
        return
    if f"v1,{answer}" == right:
        raise Wrong("Nearly: the header begins with v1 and a comma, the version of the scheme.")
    if answer == _signature(body):
        raise Wrong("You signed only the body. The message begins with the delivery's ID and the timestamp.")
    if len(answer) != len(right):
        raise Wrong("A signature has v1, and then 32 bytes in base64, not in hexadecimal digits.")
    raise Wrong("Check the message: the delivery's ID, the timestamp and the body, in this order, joined with dots.")


EXERCISES = [
    Exercise("12.1", test=least_permission, wrong=["EDIT", "READ"]),
    Exercise("12.2", test=red_box, wrong=["Permission denied", "champion"]),
    Exercise("12.3", test=repaired, wrong=[ORIGINAL, ORIGINAL.replace("github.run_id", "inputs.name")]),
    Exercise(
        "12.4",
        test=event_filter,
        wrong=[lambda event: event["data"]["alias"] == "challenger", lambda event: event["action"] == "created"],
    ),
    Exercise("12.5", test=event_signature, wrong=["v1,b3BlbiBzZXNhbWU=", _signature("d-1.1700000000")]),
]
