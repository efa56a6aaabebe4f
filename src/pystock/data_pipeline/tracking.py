"""What the steps of the data pipeline log to MLflow: data sets, artifacts, metrics and tags of the active run.

One function for each step, which returns the outcome. The files to log are kept on disk until the step's end.
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

from pystock import runs
from pystock.data_pipeline import contract, profile, stages, steps
from pystock.data_pipeline.steps import StepResult, TooManyBad
from pystock.pipeline import PipelineError, Step, active_run_id, end_step, existing_run

PIPELINE = "pystock-data-features"


def claim(stages_folder: str) -> str:
    """Return what `pipeline.run` claims: the folder of the stages, on this machine."""
    return f"the stages in {stages_folder} on {platform.node()}".replace("'", "_")  # the quote of MLflow's filters


def finished(run_id: str) -> bool:
    """Return whether the store has this run, not deleted and FINISHED: only then may a step be skipped for it."""
    run = existing_run(run_id)
    return run is not None and run.info.status == "FINISHED"


def markets(options: Namespace) -> list[str]:
    """Return the markets to work on; for a step without a source, `all` are those that have a folder of stages."""
    if "source" in options:
        return steps.markets_of(options.market, options.source)
    if options.market != "all":
        return steps.parse_markets(options.market)
    found = sorted(path.parents[1].name for path in Path(options.stages).glob("*/raw/manifest.json"))
    if not found:
        raise PipelineError(f"{options.stages} has no market yet: run load_raw_data first, or main.")
    return found


def load_raw_data(markets: list[str], stages_folder: str, source: str, force: bool) -> str:
    """Run the step raw: log a data set for each market that was not skipped, and raw/MARKET.manifest.json."""
    with _step() as log:
        for market in markets:
            log.add(steps.load_raw(stages_folder, market, source, force=force, **log.how))
    return log.outcome()


def check_verify_data(markets: list[str], stages_folder: str, exchange: str, force: bool) -> str:
    """Run the step staging: log data sets, profiles, quarantines, contract.yaml, and the findings as metrics."""
    with _step() as log:
        for market in markets:
            quarantine_file = Path(stages_folder) / market / "quarantine.csv"
            try:
                result = steps.check(stages_folder, market, exchange=exchange, force=force, **log.how)
            except TooManyBad as error:
                log.files({f"quarantine/{market}.csv": quarantine_file.read_text(encoding="utf-8")})
                log.sums.update(error.findings)
                raise
            if result.outcome == "skipped":
                log.add(result)
                continue
            bad = steps.read_quarantine(quarantine_file)
            staging = stages.read(stages.stage_folder(stages_folder, market, "staging"))
            days = pd.DatetimeIndex(result.manifest["missing_days"])
            page = profile.page(staging, bad, days, f"{market}: what is in staging")
            files = {f"profile/{market}.html": page, "contract.yaml": contract.to_yaml(exchange)}
            if len(bad):
                files[f"quarantine/{market}.csv"] = bad.to_csv()
            log.add(result, files)
    return log.outcome()


def feature_set_generation(market: str, options: Namespace) -> str:
    """Run the step training of one market: log the table, its manifest, and the data set that models are traced to."""
    target, features = options.target, options.features
    mlflow.set_tag("market", market)
    with _step() as log:
        how = log.how | {"end": options.end, "force": options.force}
        result = steps.make_features(options.stages, market, target, features, **how)
        if result.outcome == "skipped":
            log.add(result)
            return "skipped"
        table = stages.read(stages.stage_folder(options.stages, market, "training", f"{target}-{features}"))
        described = runs.data_set(table, result.manifest["source"], market, target, features)
        mlflow.set_tag("digest", described.digest)
        log.add(result, dataset=described)
        table.to_parquet(log.folder / f"training/{market}.parquet")
    return log.outcome()


class _Log:
    """What a step logs, gathered until its end."""

    def __init__(self, folder: Path):
        self.folder = folder
        # cached, since many markets were made by the same run
        self.how: dict[str, Any] = {"made_by": active_run_id(), "alive": cache(finished)}
        self.results: list[StepResult] = []
        self.datasets: list[Dataset | None] = []
        self.sums: Counter[str] = Counter()  # of several markets

    def done(self) -> list[StepResult]:
        return [result for result in self.results if result.outcome == "done"]

    def outcome(self) -> str:
        return "done" if self.done() else "skipped"

    def add(self, result: StepResult, files: dict[str, str] | None = None, dataset: Dataset | None = None) -> None:
        self.results.append(result)
        self.sums.update(result.findings | {"rows": result.manifest["rows"], "new_rows": result.new_rows})
        if result.outcome == "skipped":
            return
        manifest = json.dumps(result.manifest, indent=2) + "\n"
        self.files({f"{result.stage}/{result.market}.manifest.json": manifest} | (files or {}))
        if dataset is None:  # no more than the facts about it, since its rows would stay in memory
            source = LocalArtifactDatasetSource(result.manifest["source"])
            name, digest = f"{result.market}-{result.stage}", result.manifest["digest"]
            dataset = MetaDataset(source, name, digest)  # type: ignore[abstract]  # MLflow's own
        self.datasets.append(dataset)

    def files(self, texts: dict[str, str]) -> None:
        for name, text in texts.items():
            path = self.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="")

    def write(self) -> None:
        mlflow.log_metrics(dict[str, float](self.sums))
        if any(self.folder.iterdir()):
            mlflow.log_artifacts(str(self.folder))
        if self.datasets:
            contexts: list[str | None] = [result.stage for result in self.done()]
            mlflow.log_inputs(self.datasets, contexts, [{} for _ in contexts])


@contextmanager
def _step() -> Iterator[_Log]:
    """Yield a log for the step. It is written even if the step fails, but then the run gets no outcome."""
    with tempfile.TemporaryDirectory(prefix="pystock-") as folder:
        log = _Log(Path(folder))
        try:
            yield log
        finally:
            log.write()
    done, number = [result.said for result in log.done()], len(log.results)
    said = f"{number} markets: {len(done)} done, {number - len(done)} skipped"
    said += "".join(f"; {one}" for one in done[:3]) + (" …" if len(done) > 3 else "")
    makers = {} if done else {"made_by": ",".join({result.manifest["made_by"]: "" for result in log.results})}
    end_step(log.outcome(), log.results[0].said if number == 1 else said, **makers)


def run_steps(step: Step, markets: list[str], options: Namespace) -> None:
    """Run all three steps as child runs; the last one once for each market, since models are traced to its run."""
    with stages.locked(options.stages):
        with step("load_raw_data"):
            outcomes = [load_raw_data(markets, options.stages, options.source, options.force)]
        with step("check_verify_data"):
            outcomes.append(check_verify_data(markets, options.stages, options.exchange, options.force))
        generate(step, markets, options, outcomes)


def generate(step: Step, markets: list[str], options: Namespace, before: list[str] | None = None) -> None:
    """Run the step training in a child run for each market; for one, if no step ran before, in the active run."""
    if len(markets) == 1 and not before:
        feature_set_generation(markets[0], options)
        return
    outcomes = before or []
    with stages.locked(options.stages):
        for market in markets:
            with step("feature_set_generation"):
                outcomes.append(feature_set_generation(market, options))
    done = outcomes.count("done")
    end_step("done" if done else "skipped", f"{done} of {len(outcomes)} steps had something to do")
