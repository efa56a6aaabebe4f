"""The exercises of chapter 12."""

import re

import yaml

from course.checks import Exercise, Wrong, need_function

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
        raise Wrong(f"With {permission}, an account can only read the model. The server refuses the action with 403.")
    if permission == "EDIT":
        raise Wrong(
            "With EDIT, the status is 403: an account can set an alias, but not remove one. Try the next permission."
        )
    if permission != "MANAGE":
        raise Wrong(f"{answer!r} is not a permission. Give READ, USE, EDIT or MANAGE as text.")


def red_box(answer, market):
    text = str(answer).strip().upper().replace(" ", "_")
    if text in ("403", "PERMISSION_DENIED", "FORBIDDEN"):
        raise Wrong("That is what the server sends to a client. Read the text of the red box in the UI's dialog.")
    if "INTERNAL_ERROR" not in text:
        raise Wrong(
            "That isn't the text of the box. If there is no red box, the alias was saved: are you logged in as rosa or "
            "admin? Log in as ada."
        )


def repaired(answer, market):
    if not isinstance(answer, str):
        raise Wrong("Give the repaired workflow as text, in three quotes.")
    try:
        workflow = yaml.safe_load(answer)
        (job,) = workflow["jobs"].values()
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise Wrong(
            f"That is not a workflow with one job ({type(error).__name__}). Start with the colleague's text again, and "
            "check the indentation."
        ) from None
    concurrency = workflow.get("concurrency") or job.get("concurrency") or {}
    concurrency = {"group": concurrency} if isinstance(concurrency, str) else concurrency
    group = str(concurrency.get("group", ""))
    if not group or ("${{" in group and "inputs.name" not in group):
        raise Wrong(f"The group is {group!r}. Two jobs for one model must have the same group: use the model's name.")
    if concurrency.get("cancel-in-progress"):
        raise Wrong("cancel-in-progress is true, so the next job stops this one, perhaps in the middle of a promotion.")
    environment = job.get("environment", "")
    environment = environment.get("name", "") if isinstance(environment, dict) else environment
    if environment != "production":
        raise Wrong(f"The environment is {environment!r}, so no reviewer of production approves the job.")
    _inputs_are_variables(workflow, job)


def _inputs_are_variables(workflow, job):
    steps = [step for step in job.get("steps") or [] if isinstance(step, dict) and "run" in step]
    script = "\n".join(str(step["run"]) for step in steps)
    if "promote.py" not in script:
        raise Wrong("No step runs promote.py: keep the colleague's step, and change only its arguments.")
    if "${{" in script:
        raise Wrong("`run` still contains ${{ … }}: an input with $(…) in it would run as code.")
    variables = {}
    for place in (workflow, job, *steps):
        variables |= place.get("env") or {}
    for name in ("name", "version", "why"):
        names = [key for key, value in variables.items() if re.search(rf"inputs\.{name}\b", str(value))]
        if not names:
            raise Wrong(f"No variable in `env` has the value ${{{{ inputs.{name} }}}}.")
        if not any(f'"${key}"' in script or f'"${{{key}}}"' in script for key in names):
            raise Wrong(f'`run` does not contain "${names[0]}". Write it in double quotes: the text may have spaces.')


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
    need_function(answer, "wants_test")
    for event, expected in _events():
        kind, data = f"{event['entity']}.{event['action']}", event["data"]
        try:
            result = answer(event)
        except (AttributeError, KeyError, TypeError) as error:
            raise Wrong(f"Your function raises {type(error).__name__}: {error} for the event {kind}, {data}.") from None
        if bool(result) != expected:
            raise Wrong(f"For the event {kind}, {data}, your function returns {result!r}, not {expected}.")


EXERCISES = [
    Exercise("12.1", test=least_permission, wrong=["EDIT", "READ"]),
    Exercise("12.2", test=red_box, wrong=["Permission denied", "champion"]),
    Exercise(
        "12.3",
        test=event_filter,
        wrong=[lambda event: event["data"]["alias"] == "challenger", lambda event: event["action"] == "created"],
    ),
    Exercise("12.4", test=repaired, wrong=[ORIGINAL, ORIGINAL.replace("github.run_id", "inputs.name")]),
]
