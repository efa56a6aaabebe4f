"""What a version must show before it may become champion: four conditions, and a number for each.

`pystock.registry.gate` calls this; that module moves the alias, this one only judges.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException

from pystock.data import load
from pystock.evaluation import TEST_END, brier_difference, rolling_base_rate, skill, time_split
from pystock.features import dataset
from pystock.runs import first_line

CLEAN_TIMEOUT = 120  # seconds for a new interpreter to load two models and predict five years


class Condition(NamedTuple):
    """One condition of the gate: its name, whether it holds, and the number that says so."""

    name: str
    passed: bool
    evidence: str
    metrics: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"{'passed' if self.passed else 'FAILED'}  {self.name}: {self.evidence}"


class _Unjudged(ValueError):
    """Why a version cannot be judged."""


def judge(client, version, champion: int | None, margin: float) -> list[Condition]:
    """The four conditions of `pystock.registry.gate` on a version of the registry, with the champion's number.

    `client` is a MlflowClient, `version` its ModelVersion, `margin` a difference of Brier scores.
    """
    signature = signature_of(version)
    try:
        question = _question(client, version)
        X_test, y, y_test = held_out(question)
    except _Unjudged as reason:
        later = [Condition(name, False, f"cannot be judged: {reason}") for name in ("base rate", "champion")]
        return [signature, *later, Condition("clean process", False, f"not tried: {reason}")]
    asked, rival = [(_uri(version), X_test)], None
    if champion not in (None, int(version.version)):
        try:
            asked.append(_rival(client, client.get_model_version(version.name, str(champion)), question))
        except _Unjudged as reason:
            rival = str(reason)
    probability, *rest = _clean_process(asked)
    rival = rest[0] if rest else rival
    if isinstance(probability, str):
        lost = "cannot be judged: no predictions from a clean process"
        later = [Condition(name, False, lost) for name in ("base rate", "champion")]
        return [signature, *later, Condition("clean process", False, probability)]
    if champion is None:
        compared = Condition("champion", True, "there is none yet to compare with")
    elif rival is None:
        compared = Condition("champion", True, "it is the champion itself")
    elif isinstance(rival, str):
        compared = Condition("champion", False, f"cannot be compared with version {champion}: {rival}")
    else:
        compared = _judged("champion", _not_worse, y_test, probability, rival, champion, margin)
    base_rate = _judged("base rate", _beats_base_rate, y_test, probability, rolling_base_rate(y, y_test.index))
    clean = Condition("clean process", True, f"a new interpreter predicted {len(y_test)} held-out days")
    return [signature, base_rate, compared, clean]


def signature_of(version) -> Condition:
    """Whether a version says what goes in and comes out, and one output is named `probability`."""
    try:
        signature = mlflow.models.get_model_info(_uri(version)).signature
    except Exception as error:  # each kind of artifact store has errors of its own
        return Condition("signature", False, f"its files cannot be read: {first_line(error)}")
    if signature is None or not signature.inputs or not signature.outputs:
        missing = [side for side in ("inputs", "outputs") if not getattr(signature, side, None)]
        return Condition("signature", False, f"it says nothing of its {' and '.join(missing)}")
    names = [str(name) for name in signature.outputs.input_names()]
    evidence = f"{len(signature.inputs)} inputs, outputs {', '.join(names)}"
    return Condition("signature", "probability" in names, evidence)


def _question(client, version) -> dict[str, str]:
    """Target, features and market, from the tags of the version's source run."""
    if not version.run_id:
        raise _Unjudged("it has no source run, which would say what it was asked; log the model in a run")
    try:
        tags = client.get_run(version.run_id).data.tags
    except MlflowException as error:
        raise _Unjudged(f"its source run cannot be read ({first_line(error)})") from None
    if missing := [tag for tag in ("target", "features", "market") if tag not in tags]:
        raise _Unjudged(f"its source run lacks the tag {', '.join(missing)}; set it there")
    return {tag: tags[tag] for tag in ("target", "features", "market")}


def _rival(client, champion, question: dict[str, str]) -> tuple[str, pd.DataFrame]:
    """The champion's address and its own features of the held-out days."""
    its = _question(client, champion)
    if (its["target"], its["market"]) != (question["target"], question["market"]):
        raise _Unjudged(f"that one forecasts {its['target']} on {its['market']}")
    return _uri(champion), held_out(its)[0]


def held_out(question: dict[str, str]) -> tuple[pd.DataFrame, pd.Series, pd.Series]:
    """The features of the held-out days, the outcomes of all days up to their end, and those of the held-out days.

    `question` has the keys target, features and market. Raises ValueError where one of them names what is not there.
    """
    try:
        X, y = dataset(load(question["market"], end=TEST_END), question["target"], question["features"])
    except ValueError as error:  # no such market, target or feature set
        raise _Unjudged(f"the tags of its source run name what is not there ({error})") from None
    _, X_test, _, y_test = time_split(X, y)
    return X_test, y, y_test


def _judged(name: str, condition: Callable, *arguments) -> Condition:
    try:
        return condition(*arguments)
    except ValueError as error:  # probabilities that are none
        return Condition(name, False, f"cannot be judged: {error}")


def _beats_base_rate(y, probability, reference) -> Condition:
    found = skill(y, probability, reference)
    evidence = f"Brier skill {found} against the rolling base rate; the interval must lie above 0"
    metrics = {f"brier_skill_{key}": value for key, value in found._asdict().items()}
    return Condition("base rate", found.low > 0, evidence, metrics)


def _not_worse(y, probability, rival, champion: int, margin: float) -> Condition:
    found = brier_difference(y, probability, rival)
    evidence = f"Brier score {found} against version {champion}; the interval must lie below {margin:+g}"
    metrics = {f"brier_difference_{key}": value for key, value in found._asdict().items()}
    return Condition("champion", found.high < margin, evidence, metrics)


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


def _clean_process(asked: list[tuple[str, pd.DataFrame]]) -> list[np.ndarray | str]:
    """For each model and its rows what it predicts in a new interpreter: probabilities, or why there are none.

    One process for all, since starting it takes the time; each answer is written before the next model is loaded. The
    models' files are fetched here: the new process needs no store. `-I` leaves out the folder and the variables from
    which this process may import what another would not find. MLflow's warnings go unread there, so it looks for none.
    """
    with tempfile.TemporaryDirectory() as folder:
        answers: list[np.ndarray | str] = []
        for number, (uri, rows) in enumerate(asked):
            place = Path(folder) / str(number)
            (place / "model").mkdir(parents=True)
            rows.to_pickle(place / "rows")
            try:
                mlflow.artifacts.download_artifacts(uri, dst_path=str(place / "model"))
                answers.append("")
            except Exception as error:  # as in signature_of
                answers.append(f"its files cannot be fetched: {first_line(error)}")
        command = [sys.executable, "-I", "-c", CLEAN, *(str(n) for n in range(len(asked)))]
        options = {"cwd": folder, "capture_output": True, "text": True, "errors": "replace"}
        try:
            done = subprocess.run(command, timeout=CLEAN_TIMEOUT, **options)
            said = first_line(done.stderr.strip().rpartition("\n")[2])
            died = f"the process ended with {done.returncode}: {said}"
        except subprocess.TimeoutExpired:
            died = f"no answer within {CLEAN_TIMEOUT} s"
        for number, (_, rows) in enumerate(asked):
            try:
                answer = json.loads((Path(folder) / str(number) / "answer").read_text())
            except (OSError, ValueError):  # it died before it wrote it, or while
                answer = died
            if isinstance(answer, list) and len(answer) != len(rows):
                answer = f"{len(answer)} predictions for {len(rows)} days"
            answers[number] = answers[number] or (first_line(answer) if isinstance(answer, str) else np.array(answer))
        return answers


def _uri(version) -> str:
    return f"models:/{version.name}/{version.version}"
