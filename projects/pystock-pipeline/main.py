"""Run the data pipeline and then the training pipeline, as children of one run: the command that a scheduler calls."""

import argparse
from pathlib import Path

import mlflow
from mlflow.exceptions import ExecutionException

from pystock.features import FEATURES, TARGETS
from pystock.pipeline import PipelineError, end_step, run
from pystock.training import DATA_PIPELINE, PIPELINE, SETTINGS, parse_settings

PROJECTS = Path(__file__).resolve().parents[1]


def arguments() -> dict[str, str]:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--market", default="sp500", help="one market")
    parser.add_argument("--target", choices=list(TARGETS), default="big_move")
    parser.add_argument("--features", choices=list(FEATURES), default="volatility")
    parser.add_argument("--source", default="embedded", help="as for pystock-data-features")
    parser.add_argument("--stages", default="", help="folder of the stages; empty: the data pipeline's own default")
    parser.add_argument("--family", choices=list(SETTINGS), default="xgboost")
    parser.add_argument("--settings", default="", help="over the family's defaults: max_depth=2,years=5")
    parser.add_argument("--promote", choices=["yes", "no"], default="yes")
    parser.add_argument("--force", choices=["yes", "no"], default="no", nargs="?", const="yes")
    options = vars(parser.parse_args())
    if "," in options["market"] or options["market"] == "all":
        parser.error(f"argument --market: {options['market']!r} is not one market: call this once for each")
    try:
        parse_settings(options["family"], options["settings"])
    except PipelineError as error:
        parser.error(f"argument --settings: {error}")
    return options


def project(name: str, **parameters: str) -> mlflow.entities.Run:
    """Run a project of this repository in an interpreter of its own, as a child of the active run."""
    experiment, parent = mlflow.active_run().info.experiment_id, mlflow.active_run().info.run_id
    try:
        made = mlflow.projects.run(
            str(PROJECTS / name), parameters=parameters, env_manager="local", experiment_id=experiment
        )
    except ExecutionException as error:
        failed = mlflow.search_runs(
            [experiment],
            f"tags.`mlflow.parentRunId` = '{parent}'",
            order_by=["attributes.start_time DESC"],
            max_results=1,
            output_format="list",
        )
        tags = failed[0].data.tags if failed else {}
        because = f"{tags['failed_step']}: {tags['failed_because']}" if "failed_step" in tags else str(error)
        raise PipelineError(f"{name} failed ({because}): the lines above say more.") from None
    return mlflow.get_run(made.run_id)


def table_of(data: mlflow.entities.Run) -> str:
    """The id of the run that made the table: the data pipeline's last step, or the one that it found unchanged."""
    steps = mlflow.search_runs(
        [data.info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{data.info.run_id}' and tags.step = 'feature_set_generation'",
        output_format="list",
    )
    return steps[0].data.tags.get("made_by", steps[0].info.run_id)


options = arguments()
question = {name: options[name] for name in ("market", "target", "features")}
claim = f"pystock-pipeline {' '.join(question.values())}"

with run("pystock-pipeline", "main", question, claim=claim) as step:
    with step("data"):
        stages = {"stages": str(Path(options["stages"]).resolve())} if options["stages"] else {}
        data = project(DATA_PIPELINE, **question, source=options["source"], force=options["force"], **stages)
        end_step(data.data.tags["outcome"], data.data.tags["said"])
    with step("training"):
        rest = {name: options[name] for name in ("family", "settings", "promote", "force")}
        trained = project(PIPELINE, **question, data=table_of(data), **rest)
        end_step(trained.data.tags["outcome"], trained.data.tags["said"], model=trained.data.tags["model"])
    outcomes = {data.data.tags["outcome"], trained.data.tags["outcome"]}
    end_step("done" if "done" in outcomes else "skipped", f"data: {data.data.tags['said']}; {trained.data.tags['said']}")
