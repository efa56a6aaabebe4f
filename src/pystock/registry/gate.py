"""The gate: what a model must show on held-out rows before it may become champion, with a number for each condition.

A condition is a function from a `Case` to a `Condition`. Copy one, change it, and pass `[*CONDITIONS, yours]`.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import mlflow
import pandas as pd
from mlflow.models import EvaluationResult, MetricThreshold
from mlflow.models.model import ModelInfo

from pystock.evaluation import brier_difference, skill
from pystock.models import predict_elsewhere, trained_until

MARGIN = 0.002  # Brier score: how much worse than the champion a model may be, at the end of the interval
MSE = "mean_squared_error"  # MLflow's name
LOWER = MetricThreshold(min_absolute_change=1e-9, greater_is_better=False)  # than the baseline


class Condition(NamedTuple):
    """A condition's name, whether it holds, the evidence in words, and its numbers, which `promote` logs."""

    name: str
    passed: bool
    evidence: str
    metrics: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"{'passed' if self.passed else 'FAILED'}  {self.name}: {self.evidence}"


class Case(NamedTuple):
    """What the conditions judge: forecasts of held-out rows, and what to compare them with. `y` is 0 or 1."""

    info: ModelInfo
    y: pd.Series
    probability: pd.Series
    reference: pd.Series
    champion: pd.Series | None = None
    margin: float = MARGIN


def scores_better(case: Case) -> Condition:
    """Return whether the Brier score is below the reference's, by MLflow's evaluation and validation alone."""
    rows = pd.DataFrame({"y": case.y.astype("float64"), "p": case.probability})
    result = mlflow.models.evaluate(data=rows, targets="y", predictions="p", extra_metrics=[mlflow.metrics.mse()])
    baseline = EvaluationResult({MSE: float(((case.reference - rows["y"]) ** 2).mean())}, artifacts={})
    evidence = f"Brier score {result.metrics[MSE]:.4f}, the reference has {baseline.metrics[MSE]:.4f}"
    try:
        mlflow.validate_evaluation_results({MSE: LOWER}, result, baseline)
    except mlflow.MlflowException:  # ModelValidationFailedException
        return Condition("score", False, evidence)
    return Condition("score", True, evidence)


def beats_reference(case: Case) -> Condition:
    """Return whether the Brier skill against the reference has its whole 95 % interval above 0."""
    score = skill(case.y, case.probability, case.reference)
    evidence = f"Brier skill {score} on {len(case.y)} rows; must start above 0"
    metrics = {f"brier_skill_{end}": value for end, value in score._asdict().items()}
    return Condition("reference", score.low > 0, evidence, metrics)


def is_not_worse(case: Case) -> Condition:
    """Return whether the model is not worse than the champion by more than the margin: a non-inferiority test.

    The difference of the Brier scores must have its whole 95 % interval below it (Piaggio et al. 2012, JAMA 308, 2594).
    """
    if case.champion is None:
        return Condition("champion", True, "there is no champion yet to compare with")
    score = brier_difference(case.y, case.probability, case.champion)
    evidence = f"Brier difference {score}; must end below {case.margin:+g}"
    metrics = {f"brier_difference_{end}": value for end, value in score._asdict().items()}
    return Condition("champion", score.high < case.margin, evidence, metrics)


CONDITIONS = (scores_better, beats_reference, is_not_worse)


def judge(
    model: str,
    X: pd.DataFrame,
    y: pd.Series,
    reference: pd.Series,
    champion: str | None = None,
    *,
    margin: float = MARGIN,
    conditions: Iterable[Callable[[Case], Condition]] = CONDITIONS,
) -> list[Condition]:
    """Judge a model on held-out rows: signature, unseen rows and clean process first, then each of `conditions`.

    `model` and `champion` are model URIs. `X` has the columns of both, `y` the outcomes (0 or 1), `reference` the
    probabilities to beat. If their rows have dates, the training of neither model may reach them. A new interpreter
    makes the forecasts. If one of the first three conditions fails, the others are not tried. MLflow's evaluation logs
    the Brier score to the active run, or starts one.

    Raises ValueError if the rows of X, y and reference differ, and MlflowException if a model cannot be read.
    """
    if not (X.index.is_unique and X.index.equals(y.index) and X.index.equals(reference.index)):
        raise ValueError("X, y and reference have different rows, or rows twice: select them with .loc[y.index].")
    models = [model, champion] if champion else [model]
    infos, dated = [mlflow.models.get_model_info(each) for each in models], isinstance(y.index, pd.DatetimeIndex)
    judged = [_signature(infos[0]), *(_unseen(*each, y.index) for each in zip(("it", "the champion"), infos) if dated)]
    if all(each.passed for each in judged):
        forecasts, lost = predict_elsewhere(models, X)
        evidence = lost or f"a new interpreter predicted {len(X)} held-out rows"
        judged.append(Condition("clean process", not lost, evidence))
    for condition in conditions if all(each.passed for each in judged) else ():
        try:
            case = Case(infos[0], y, forecasts[0], reference, forecasts[-1] if champion else None, margin)
            judged.append(condition(case))
        except ValueError as error:  # invalid probabilities, or too few rows
            judged.append(Condition(condition.__name__, False, f"cannot be judged: {error}"))
    return judged


def _signature(info: ModelInfo) -> Condition:
    signature = info.signature
    if missing := [side for side in ("inputs", "outputs") if not getattr(signature, side, None)]:
        return Condition("signature", False, f"it does not declare its {' and '.join(missing)}")
    names = [str(name) for name in signature.outputs.input_names()]
    return Condition("signature", "probability" in names, f"{len(signature.inputs)} inputs, outputs {', '.join(names)}")


def _unseen(which: str, info: ModelInfo, rows: pd.DatetimeIndex) -> Condition:
    try:
        until = trained_until(info)
    except ValueError as reason:
        return Condition("unseen rows", False, f"{which}: {reason}")
    evidence = f"{which} was trained up to {until:%Y-%m-%d}, and is judged from {rows.min():%Y-%m-%d}"
    return Condition("unseen rows", until < rows.min(), evidence)
