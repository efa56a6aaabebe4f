"""What the steps of the data pipeline leave in MLflow: data sets, artifacts, metrics and tags of the active run.

One function for each step, called by `main` and by the step's own entry point; it returns the outcome. Each goes
through its markets one by one, keeps what is to be logged on disk and not in memory, and writes to the store in few
calls at the end.
"""

import json
import platform
import tempfile
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.data.dataset import Dataset
from mlflow.data.meta_dataset import MetaDataset
from mlflow.data.sources import LocalArtifactDatasetSource  # type: ignore[attr-defined]  # MLflow makes it at run time
from mlflow.exceptions import MlflowException

from pystock.data_pipeline import contract, profile, stages
from pystock.data_pipeline import steps as data_pipeline
from pystock.data_pipeline.steps import Result, TooManyBad
from pystock.pipeline import PipelineError, Step, end_step

PIPELINE = "pystock-data-features"


def claim(stages_folder: str) -> str:
    """Return what `pipeline.run` is to claim: the folder of the stages, on this machine.

    The lock on the folder alone would do. With the claim the second is told which run is at it, and runs of a process
    that was killed are ended by the next one.
    """
    return f"the stages in {stages_folder} on {platform.node()}".replace("'", "_")  # the quote of MLflow's filters


def finished(run_id: str) -> bool:
    """Return whether the store has this run, not deleted and FINISHED: only then may a step be skipped for it."""
    try:
        run = mlflow.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return run.info.status == "FINISHED" and run.info.lifecycle_stage == "active"


def markets(options: Namespace) -> list[str]:
    """Return the markets to work on; for a step without a source, `all` are those that have a folder of stages."""
    if "source" in options:
        return data_pipeline.markets_of(options.market, options.source)
    if options.market != "all":
        return data_pipeline.names(options.market)
    found = sorted(path.parents[1].name for path in Path(options.stages).glob("*/raw/manifest.json"))
    if not found:
        raise PipelineError(f"{options.stages} holds no market yet: run load_raw_data first, or main.")
    return found


def load_raw_data(markets: list[str], stages_folder: str, source: str, force: bool) -> str:
    """Run the step raw: log a data set for each market that was not skipped, and raw/MARKET.manifest.json."""
    with _step() as log:
        for market in markets:
            result = data_pipeline.load_raw(stages_folder, market, source, **log.how(force))
            log.add(result, {f"raw/{market}.manifest.json": _json(result.manifest)})
    return log.outcome()


def check_verify_data(markets: list[str], stages_folder: str, exchange: str, force: bool) -> str:
    """Run the step staging: log data sets, profiles, quarantines, contract.yaml, and the findings as metrics."""
    with _step() as log:
        for market in markets:
            quarantine_file = Path(stages_folder) / market / "quarantine.csv"
            try:
                result = data_pipeline.check(stages_folder, market, exchange=exchange, **log.how(force))
            except TooManyBad as error:
                log.files({f"quarantine/{market}.csv": quarantine_file.read_text(encoding="utf-8")})
                log.sums.update(error.findings)
                raise
            if result.outcome == "skipped":
                log.add(result)
                continue
            bad = data_pipeline.read_quarantine(quarantine_file)
            staging = stages.read(stages.stage_folder(stages_folder, market, "staging"))
            days = pd.DatetimeIndex(result.manifest["missing_days"])
            files = {
                f"profile/{market}.html": profile.page(staging, bad, days, f"{market}: what is in staging"),
                f"staging/{market}.manifest.json": _json(result.manifest),
                "contract.yaml": contract.to_yaml(exchange),
            }
            if len(bad):
                files[f"quarantine/{market}.csv"] = bad.to_csv()
            log.add(result, files)
    return log.outcome()


def feature_set_generation(market: str, options: Namespace) -> str:
    """Run the step training of one market: log the table, its manifest, and the data set that models are traced to."""
    target, features = options.target, options.features
    with _step() as log:
        how = log.how(options.force)
        result = data_pipeline.make_features(options.stages, market, target, features, end=options.end, **how)
        if result.outcome == "skipped":
            log.add(result)
            return log.outcome()
        folder = stages.stage_folder(options.stages, market, "training", f"{target}-{features}")
        table = stages.read(folder)
        log.files({f"training/{market}.manifest.json": _json(result.manifest)})
        table.to_parquet(log.folder / f"training/{market}.parquet")
        # As chapter 04 describes a table, so that the same rows have the same name and digest everywhere
        described = mlflow.data.from_pandas(  # type: ignore[attr-defined]  # MLflow makes it at run time
            table.astype({target: float}),
            source=LocalArtifactDatasetSource(result.manifest["source"]),
            targets=target,
            name=f"{market}-{target}-{features}",
        )
        log.tags = {"digest": described.digest}
        log.add(result, dataset=described)
    return log.outcome()


class _Log:
    """What a step has to say, gathered until its end."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.alive = cache(finished)  # two hundred markets were made by the same run
        run = mlflow.active_run()
        assert run is not None  # an entry point has opened it
        self.run_id = run.info.run_id
        self.results: list[Result] = []
        self.datasets: dict[str, list[Any]] = {"dataset": [], "context": []}
        self.sums: Counter[str] = Counter()  # of several markets
        self.tags: dict[str, str] = {}

    def done(self) -> list[Result]:
        return [result for result in self.results if result.outcome == "done"]

    def outcome(self) -> str:
        return "done" if self.done() else "skipped"

    def how(self, force: bool) -> dict[str, Any]:
        return {"force": force, "made_by": self.run_id, "alive": self.alive}

    def add(self, result: Result, files: dict[str, str] | None = None, dataset: Dataset | None = None) -> None:
        self.results.append(result)
        self.sums.update(result.findings | {"rows": result.manifest["rows"], "new_rows": result.new_rows})
        if result.outcome == "skipped":
            return
        self.files(files or {})
        if dataset is None:  # no more than the facts about it, since its rows would stay in memory
            source = LocalArtifactDatasetSource(result.manifest["source"])
            name, digest = f"{result.market}-{result.stage}", result.manifest["digest"]
            dataset = MetaDataset(source, name, digest)  # type: ignore[abstract]  # MLflow's own
        self.datasets["dataset"].append(dataset)
        self.datasets["context"].append(result.stage)

    def files(self, texts: dict[str, str]) -> None:
        for name, text in texts.items():
            path = self.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="")

    def write(self) -> None:
        if self.sums:
            mlflow.log_metrics(dict[str, float](self.sums))
        if any(self.folder.iterdir()):
            mlflow.log_artifacts(str(self.folder))
        if datasets := self.datasets["dataset"]:
            mlflow.log_inputs(datasets, self.datasets["context"], [{} for _ in datasets])
        if self.tags:
            mlflow.set_tags(self.tags)


@contextmanager
def _step() -> Iterator[_Log]:
    """Give a log for the step; it is written also if the step fails, and only a step that does not has an outcome."""
    with tempfile.TemporaryDirectory(prefix="pystock-") as folder:
        log = _Log(Path(folder))
        try:
            yield log
        finally:
            log.write()
        done, all_of_them = [result.said for result in log.done()], len(log.results)
        makers = ",".join(dict.fromkeys(result.manifest["made_by"] for result in log.results))
        said = f"{all_of_them} markets: {len(done)} done, {all_of_them - len(done)} skipped"
        said += "".join(f"; {one}" for one in done[:3]) + (" …" if len(done) > 3 else "")
        if all_of_them == 1:
            said = log.results[0].said
        end_step(log.outcome(), said, **({} if done else {"made_by": makers}))


def _json(manifest: dict[str, Any]) -> str:
    return json.dumps(manifest, indent=2) + "\n"


def run_steps(step: Step, markets: list[str], options: Namespace) -> None:
    """Run all three steps as child runs; the last one once for each market, since models are traced to its run."""
    with stages.locked(options.stages):
        with step("load_raw_data"):
            outcomes = [load_raw_data(markets, options.stages, options.source, options.force)]
        with step("check_verify_data"):
            outcomes.append(check_verify_data(markets, options.stages, options.exchange, options.force))
        _generate(step, markets, options, outcomes)


def generate(step: Step, markets: list[str], options: Namespace) -> None:
    """Run the step training alone: for one market in the active run, for several in a child run each."""
    if len(markets) == 1:
        mlflow.set_tag("market", markets[0])
        feature_set_generation(markets[0], options)
    else:
        with stages.locked(options.stages):
            _generate(step, markets, options, [])


def _generate(step: Step, markets: list[str], options: Namespace, outcomes: list[str]) -> None:
    for market in markets:
        with step("feature_set_generation"):
            mlflow.set_tag("market", market)
            outcomes.append(feature_set_generation(market, options))
    done = outcomes.count("done")
    end_step("done" if done else "skipped", f"{done} of {len(outcomes)} steps had something to do")
