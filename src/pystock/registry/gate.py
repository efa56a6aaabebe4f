"""What a version must show before it may become champion: four conditions, and a number for each."""

import json
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import NamedTuple

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models.model import ModelInfo

from pystock.data import load
from pystock.errors import first_line
from pystock.evaluation import TEST_END, TRAIN_END, brier_difference, rolling_base_rate, skill
from pystock.features import dataset
from pystock.model_uri import uri_of
from pystock.models import TRAINED_UNTIL

MARGIN = 0.002  # Brier score: how much worse than the champion a version may be, at the end of the interval
CLEAN_TIMEOUT = 120  # seconds for a new interpreter to load two models and predict five years
MIN_DAYS = 250  # a year: big moves cluster in blocks of up to 55 days, and an interval needs several blocks


class Condition(NamedTuple):
    """One condition of the gate: its name, whether it holds, and the evidence."""

    name: str
    passed: bool
    evidence: str
    metrics: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"{'passed' if self.passed else 'FAILED'}  {self.name}: {self.evidence}"


class _Unjudged(ValueError):
    """Why a version cannot be judged."""


def judge(
    client: MlflowClient, version: ModelVersion, champion: int | None, evaluate_after: str = TRAIN_END
) -> list[Condition]:
    """Return the four conditions of `pystock.registry.gate` for a version, compared with the version `champion`."""
    info, usual = _model_info(version), evaluate_after == TRAIN_END
    signature = _signature(info)
    try:
        run, question = source_run(client, version)
        X, y, y_test = evaluation_days(question, evaluate_after)
        _check_unseen(_trained_until(run, info), y_test.index)
    except _Unjudged as reason:
        return _unjudged(signature, str(reason), f"not tried: {reason}")
    jobs = [(uri_of(version), X)]
    rival: np.ndarray | str | None = None
    if champion not in (None, int(version.version)):
        try:
            jobs.append(_rival(client, client.get_model_version(version.name, str(champion)), question, X.index))
        except _Unjudged as reason:
            rival = str(reason)
    probability, *rest = _clean_process(jobs)
    rival = rest[0] if rest else rival
    if isinstance(probability, str):
        return _unjudged(signature, "no predictions from a clean process", probability)
    if champion is None:
        compared = Condition("champion", True, "there is no champion yet to compare with")
    elif rival is None:
        compared = Condition("champion", True, "it is the champion itself")
    elif isinstance(rival, str):
        compared = Condition("champion", False, f"cannot be compared with version {champion}: {rival}")
    else:  # the champion may have been trained on the first days
        both = slice(len(y_test) - len(rival), None)
        where = _where(y_test[both], usual and len(rival) == len(y_test))
        compared = _not_worse(y_test[both], probability[both], rival, champion, where)
    reference = rolling_base_rate(y, y_test.index)
    base_rate = _beats_base_rate(y_test, probability, reference, _where(y_test, usual))
    clean = Condition("clean process", True, f"a new interpreter predicted {len(y_test)} held-out days")
    return [signature, base_rate, compared, clean]


def _unjudged(signature: Condition, reason: str, clean: str) -> list[Condition]:
    later = [Condition(name, False, f"cannot be judged: {reason}") for name in ("base rate", "champion")]
    return [signature, *later, Condition("clean process", False, clean)]


def signature_of(version: ModelVersion) -> Condition:
    """Return whether a version declares its inputs and outputs, with one output named `probability`."""
    return _signature(_model_info(version))


def _model_info(version: ModelVersion) -> ModelInfo | str:
    """Return what a version's files say about it, or why they cannot be read."""
    try:
        return mlflow.models.get_model_info(uri_of(version))
    except Exception as error:  # each kind of artifact store has its own errors
        return f"its files cannot be read: {first_line(error)}"


def _signature(info: ModelInfo | str) -> Condition:
    if isinstance(info, str):
        return Condition("signature", False, info)
    signature = info.signature
    if signature is None or not signature.inputs or not signature.outputs:
        missing = [side for side in ("inputs", "outputs") if not getattr(signature, side, None)]
        return Condition("signature", False, f"it does not declare its {' and '.join(missing)}")
    names = [str(name) for name in signature.outputs.input_names()]
    evidence = f"{len(signature.inputs)} inputs, outputs {', '.join(names)}"
    return Condition("signature", "probability" in names, evidence)


def source_run(client: MlflowClient, version: ModelVersion) -> tuple[Run, dict[str, str]]:
    """Return a version's source run and its tags with target, features and market; ValueError if one is missing."""
    if not version.run_id:
        raise _Unjudged("it has no source run to record target, features and market; log the model in a run")
    try:
        run = client.get_run(version.run_id)
    except MlflowException as error:
        raise _Unjudged(f"its source run cannot be read ({first_line(error)})") from None
    if missing := [tag for tag in ("target", "features", "market") if tag not in run.data.tags]:
        raise _Unjudged(f"its source run lacks the tag {', '.join(missing)}; set it there")
    return run, run.data.tags


def _trained_until(run: Run, info: ModelInfo | str) -> pd.Timestamp:
    """Return the last day that a model was trained on: the latest of what it and its source run have recorded."""
    metadata = {} if isinstance(info, str) else info.metadata or {}
    named = [metadata.get(TRAINED_UNTIL), run.data.params.get("train_end"), run.data.tags.get("train_end")]
    recorded = [str(day) for day in named if day]
    if not recorded:
        call = f"MlflowClient().set_tag('{run.info.run_id}', 'train_end', '{TRAIN_END}')"
        fix = f"add the last one to its source run with {call}"
        raise _Unjudged(f"the days that it was trained on are not recorded; {fix}")
    try:
        return max(pd.Timestamp(date.fromisoformat(day)) for day in recorded)
    except ValueError:
        said = f"its last training day is recorded as {' and '.join(recorded)}"
        raise _Unjudged(f"{said}; write a date as {TRAIN_END}") from None


def _check_unseen(trained_until: pd.Timestamp, days: pd.DatetimeIndex) -> None:
    until, first, last = (f"{day:%Y-%m-%d}" for day in (trained_until, days[0], days[-1]))
    trained = f"it was trained on days up to {until}"
    if trained_until >= days[-1]:
        raise _Unjudged(f"{trained}, but the evaluation days end on {last}, so no day is left to evaluate it")
    if trained_until >= days[0]:
        fix = f"evaluate it on later days, with evaluate_after='{until}'"
        raise _Unjudged(f"{trained}, which overlap the evaluation days that begin on {first}; {fix}")


def _rival(
    client: MlflowClient, champion: ModelVersion, question: dict[str, str], days: pd.DatetimeIndex
) -> tuple[str, pd.DataFrame]:
    """Return the champion's URI, and its own features of those evaluation days that it was not trained on."""
    run, its = source_run(client, champion)
    if (its["target"], its["market"]) != (question["target"], question["market"]):
        raise _Unjudged(f"that version forecasts {its['target']} on {its['market']}")
    until = _trained_until(run, _model_info(champion))
    unseen = days[days > until]
    if len(unseen) < min(MIN_DAYS, len(days)):
        left = f"{len(unseen)} of the evaluation days from {days[0]:%Y-%m-%d} to {days[-1]:%Y-%m-%d}"
        trained = f"it was trained on days up to {until:%Y-%m-%d}"
        raise _Unjudged(f"{trained}, which leaves {left}, but an interval needs {MIN_DAYS}")
    return uri_of(champion), _features(its)[0].loc[unseen]


def evaluation_days(
    question: dict[str, str], evaluate_after: str = TRAIN_END
) -> tuple[pd.DataFrame, pd.Series, pd.Series]:
    """Return the features of the evaluation days, the outcomes of all days up to their end, and those of these days.

    The evaluation days are those after `evaluate_after` up to the end of 2014. `question` has the keys target, features
    and market. Raises ValueError if one of them does not exist, and if fewer than `MIN_DAYS` days are left.
    """
    X, y = _features(question)
    later = X.index > pd.Timestamp(evaluate_after)
    if later.sum() < MIN_DAYS:
        left = f"{later.sum()} evaluation days are left after {evaluate_after}, because they end on {TEST_END}"
        raise _Unjudged(f"{left}, but an interval needs {MIN_DAYS}")
    return X[later], y, y[later]


def _features(question: dict[str, str]) -> tuple[pd.DataFrame, pd.Series]:
    try:
        return dataset(load(question["market"], end=TEST_END), question["target"], question["features"])
    except ValueError as error:  # no such market, target or feature set
        raise _Unjudged(f"the tags of its source run are invalid ({error})") from None


def _beats_base_rate(y: pd.Series, probability: np.ndarray, reference: pd.Series, where: str) -> Condition:
    try:
        score = skill(y, probability, reference)
    except ValueError as error:  # invalid probabilities
        return Condition("base rate", False, f"cannot be judged: {error}")
    evidence = f"Brier skill {score} against the rolling base rate{where}; the interval must be above 0"
    metrics = {f"brier_skill_{key}": value for key, value in score._asdict().items()}
    return Condition("base rate", score.low > 0, evidence, metrics)


def _not_worse(y: pd.Series, probability: np.ndarray, rival: np.ndarray, champion: int, where: str) -> Condition:
    try:
        score = brier_difference(y, probability, rival)
    except ValueError as error:
        return Condition("champion", False, f"cannot be judged: {error}")
    evidence = f"Brier score {score} against version {champion}{where}; the interval must be below {MARGIN:+g}"
    metrics = {f"brier_difference_{key}": value for key, value in score._asdict().items()}
    return Condition("champion", score.high < MARGIN, evidence, metrics)


def _where(y: pd.Series, usual: bool) -> str:
    """Return which days these are, unless they are the usual evaluation days."""
    return "" if usual else f" on {len(y)} days from {y.index[0]:%Y-%m-%d}"


CLEAN = """
import json, sys
for folder in sys.argv[1:]:
    try:
        import mlflow.pyfunc, pandas
        model = mlflow.pyfunc.load_model(folder + "/model", suppress_warnings=True)
        result = [float(value) for value in model.predict(pandas.read_pickle(folder + "/rows"))["probability"]]
    except Exception as error:
        result = f"{type(error).__name__}: {error}"
    with open(folder + "/answer", "w") as file:
        json.dump(result, file)
"""


def _clean_process(jobs: list[tuple[str, pd.DataFrame]]) -> list[np.ndarray | str]:
    """Return for each model URI and its rows what a new interpreter predicts: probabilities, or why there are none.

    It needs no store, because the models' files are fetched here. `-I` ignores the working directory and the variables
    from which this process can import modules that another process would not find.
    """
    with tempfile.TemporaryDirectory() as folder:
        answers: list[np.ndarray | str] = []
        for number, (uri, rows) in enumerate(jobs):
            place = Path(folder) / str(number)
            (place / "model").mkdir(parents=True)
            rows.to_pickle(place / "rows")
            try:
                mlflow.artifacts.download_artifacts(uri, dst_path=str(place / "model"))
                answers.append("")
            except Exception as error:  # as in _model_info
                answers.append(f"its files cannot be fetched: {first_line(error)}")
        command = [sys.executable, "-I", "-c", CLEAN, *(str(n) for n in range(len(jobs)))]
        try:
            done = subprocess.run(
                command, timeout=CLEAN_TIMEOUT, cwd=folder, capture_output=True, text=True, errors="replace"
            )
            last_words = first_line(done.stderr.strip().rpartition("\n")[2])
            failure = f"the process exited with {done.returncode}: {last_words}"
        except subprocess.TimeoutExpired:
            failure = f"no result within {CLEAN_TIMEOUT} s"
        for number, (_, rows) in enumerate(jobs):
            try:
                answer = json.loads((Path(folder) / str(number) / "answer").read_text())
            except (OSError, ValueError):  # it died before it wrote it, or while
                answer = failure
            if isinstance(answer, list) and len(answer) != len(rows):
                answer = f"{len(answer)} predictions for {len(rows)} days"
            answers[number] = answers[number] or (first_line(answer) if isinstance(answer, str) else np.array(answer))
        return answers
