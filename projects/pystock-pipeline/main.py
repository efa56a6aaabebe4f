"""Run the data pipeline and then the training pipeline, as children of one run: the command that a scheduler calls."""

from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run, RunInfo
from mlflow.exceptions import ExecutionException

from pystock import cli
from pystock.pipeline import PipelineError, end_step, run
from pystock.training import DATA_PIPELINE, PIPELINE, SETTINGS, parse_settings

PROJECTS = Path(__file__).resolve().parents[1]


PARAMETERS: dict[str, dict[str, Any]] = {
    "market": {"default": "sp500", "help": "one market"},
    "target": cli.TARGET,
    "features": cli.FEATURE_SET,
    "source": {"default": "embedded", "help": "as for pystock-data-features"},
    "stages": {"default": "", "help": "folder of the stages; empty: the data pipeline's own default"},
    "family": {"choices": list(SETTINGS), "default": "xgboost"},
    "settings": {"default": "", "help": "override the family's defaults: max_depth=2,years=5"},
    "promote": cli.yes_no("yes", "no: a version that passes the gate is approved, and not promoted"),
    "force": cli.yes_no("no", "run all steps, even if nothing has changed"),
}


def check(values: dict[str, Any]) -> None:
    if "," in values["market"] or values["market"] == "all":
        raise ValueError(f"argument --market: {values['market']!r} is not one market: run this once for each market")
    try:
        parse_settings(values["family"], values["settings"])
    except PipelineError as error:
        raise ValueError(f"argument --settings: {error}") from None


def project(name: str, **parameters: str | bool) -> Run:
    """Run a project of this repository in a new interpreter, as a child of the active run."""
    texts = {key: value if isinstance(value, str) else ("yes" if value else "no") for key, value in parameters.items()}
    active = mlflow.active_run()
    assert active is not None  # the run of this command
    parent = active.info
    try:
        made = mlflow.projects.run(
            str(PROJECTS / name), parameters=texts, env_manager="local", experiment_id=parent.experiment_id
        )
    except ExecutionException as error:
        tags = children(parent, "attributes.status = 'FAILED'")[0].data.tags
        step = f"{name}, {tags['failed_step']}" if "failed_step" in tags else name
        because = tags.get("failed_because", str(error))
        mlflow.set_tags({"failed_step": step, "failed_because": because})
        raise PipelineError(f"{step} failed: {because}") from None
    return mlflow.get_run(made.run_id)


def children(parent: RunInfo, more: str) -> list[Run]:
    """Return the child runs of a run that meet a condition, newest first."""
    asked = f"tags.`mlflow.parentRunId` = '{parent.run_id}' and {more}"
    order = ["attributes.start_time DESC"]
    return mlflow.search_runs([parent.experiment_id], asked, order_by=order, output_format="list")


def table_of(data: Run) -> str:
    """Return the id of the run that made the table: the data pipeline's last step, or the run that it names."""
    step = children(data.info, "tags.step = 'feature_set_generation'")[0]
    run_id: str = step.data.tags.get("made_by", step.info.run_id)
    return run_id


options = cli.parse(__doc__, PARAMETERS, check)
question = {name: options[name] for name in ("market", "target", "features")}
claim = f"pystock-pipeline {' '.join(question.values())}"

with run("pystock-pipeline", "main", question, claim=claim):
    places = {name: options[name] for name in ("source", "stages", "force")}
    data = project(DATA_PIPELINE, **question, **places)
    rest = {name: options[name] for name in ("family", "settings", "promote", "force")}
    trained = project(PIPELINE, **question, data=table_of(data), **rest)
    ended = {name: made.data.tags for name, made in ((DATA_PIPELINE, data), (PIPELINE, trained))}
    outcome = "done" if any(tags["outcome"] == "done" for tags in ended.values()) else "skipped"
    end_step(
        outcome, "; ".join(f"{name}: {tags['said']}" for name, tags in ended.items()), model=ended[PIPELINE]["model"]
    )
