"""How good a forecast is, compared with what, and how certain that is.

A forecast is a probability for each row that its outcome is 1. "Beats the base rate" means one thing in this system:
`skill` against the rolling base rate has its whole 95 % interval above zero on the held-out years.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn import metrics
from sklearn.metrics import brier_score_loss
from sklearn.model_selection import TimeSeriesSplit

# The course's clock: trained on 1999 to 2009, held out 2010 to 2014, in production from 2015 to 2018.
TRAIN_END, TEST_END = "2009-12-31", "2014-12-31"

NINE = ("accuracy", "average_precision", "f1", "jaccard", "log_loss", "mcc", "precision", "recall", "zero_one_loss")

MIN_ROWS = 30  # for an interval: fewer say nothing about how outcomes cluster
MIN_BLOCK = 5  # days: a trading week


# Splits ----------------------------------------------------------------------------------------------------------


def time_split(
    X: pd.DataFrame, y: pd.Series, train_end: str = TRAIN_END, test_end: str = TEST_END, gap: int = 1
) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series, pd.Series]:
    """Return X_train, X_test, y_train, y_test: rows up to `train_end`, and after it up to `test_end`.

    An outcome is known one trading day after its row. So `gap` drops the last training rows (with 1, the one whose
    outcome falls into the test period), and a test row whose outcome falls after `test_end` is dropped too. Raises
    ValueError if X and y have different rows, the rows are not in time order, the gap is negative or a side is empty.
    """
    if not X.index.equals(y.index):
        raise ValueError("X and y have different rows: take both from one call to dataset().")
    if not X.index.is_monotonic_increasing:
        raise ValueError("the rows are not in time order: sort them by date before splitting.")
    if gap < 0:
        raise ValueError(f"a gap of {gap} rows is negative: give 0 or more.")
    train_end, test_end = pd.Timestamp(train_end), pd.Timestamp(test_end)
    # The day of a row's outcome is the next row's. The last row has none, but its outcome is known, so it came later.
    outcome = X.index[1:].append(X.index[-1:] + pd.Timedelta(days=1))
    train = np.flatnonzero(X.index <= train_end)
    train = train[: max(len(train) - gap, 0)]
    test = np.flatnonzero((X.index > train_end) & (outcome <= test_end))
    for name, rows in (("training", train), ("test", test)):
        if not len(rows):
            cover = f"the data covers {X.index[0]:%Y-%m-%d} to {X.index[-1]:%Y-%m-%d}"
            raise ValueError(f"no {name} rows: {cover}, the split is at {train_end:%Y-%m-%d} and {test_end:%Y-%m-%d}.")
    return X.iloc[train], X.iloc[test], y.iloc[train], y.iloc[test]


def walk_forward(n_splits: int = 5, gap: int = 1, **options: int) -> TimeSeriesSplit:
    """Return folds that train on the past and validate on what follows, as `cv` inside the training period.

    `gap` as in `time_split`; `options` (test_size, max_train_size) go to scikit-learn's TimeSeriesSplit.
    """
    return TimeSeriesSplit(n_splits, gap=gap, **options)


# Baselines: forecasts that look at no feature --------------------------------------------------------------------


def frozen_base_rate(y_train: pd.Series, index: pd.Index) -> pd.Series:
    """Return the share of ones in the training outcomes, on every row of `index`."""
    return pd.Series(float(y_train.mean()), index=index, name="frozen_base_rate")


def rolling_base_rate(y: pd.Series, index: pd.Index, window: int = 250) -> pd.Series:
    """Return the share of ones among the last `window` outcomes known at the close of each day of `index`.

    At the close of day t the newest outcome known is that of row t-1. `y` holds the outcomes of all days (not of the
    test period alone), `index` the days to forecast, up to one day after the end of `y`. Raises ValueError if fewer
    than `window` outcomes are known, or if those that would be known are not in `y`.
    """
    known = _known(y, index, window)
    ones = np.concatenate([[0], np.cumsum(y.to_numpy())])  # integers: a moving mean of floats drifts out of [0, 1]
    return pd.Series((ones[known] - ones[known - window]) / window, index=index, name="rolling_base_rate")


def yesterdays_class(y: pd.Series, index: pd.Index) -> pd.Series:
    """Return the newest outcome known at the close of each day, that of the row before, as a probability of 0 or 1.

    Arguments and errors as `rolling_base_rate`.
    """
    return pd.Series(y.to_numpy(dtype="float64")[_known(y, index, 1) - 1], index=index, name="yesterdays_class")


def _known(y: pd.Series, index: pd.Index, needed: int) -> np.ndarray:
    """Return for each day of `index` how many outcomes of `y` are known at its close."""
    known: np.ndarray = y.index.searchsorted(index, side="left")
    if len(index) and known.min() < needed:
        few = f"{known.min()} outcomes are known on {index[known.argmin()]:%Y-%m-%d}, {needed} are needed"
        raise ValueError(f"{few}: pass the outcomes of all days, not only of the test period.")
    if (index > y.index[-1]).sum() > 1:
        ends = f"the outcomes end on {y.index[-1]:%Y-%m-%d}, but the days to forecast on {index[-1]:%Y-%m-%d}"
        raise ValueError(f"{ends}: pass the outcomes of all days, not only of the training period.")
    return known


# Scores, with an interval ----------------------------------------------------------------------------------------


class _Estimate(NamedTuple):
    """A score and its 95 % interval."""

    value: float
    low: float
    high: float


class Skill(_Estimate):
    """A Brier skill score and its 95 % interval; prints as `+0.135 [+0.088, +0.195]`."""

    def __repr__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


class Difference(_Estimate):
    """A difference of two Brier scores and its 95 % interval; prints as `-0.0012 [-0.0031, +0.0007]`."""

    def __repr__(self) -> str:
        return f"{self.value:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def skill(
    y: ArrayLike, probability: ArrayLike, reference: ArrayLike, *, replicates: int = 1000, seed: int = 0
) -> Skill:
    """Return the Brier skill score 1 - Brier(probability) / Brier(reference), with its 95 % interval by moving blocks.

    Above 0 is better than the reference, 1 is perfect (Brier 1950, Monthly Weather Review 78, 1-3; Murphy 1973, Journal
    of Applied Meteorology 12, 595-600). Arguments and errors as `score_table`.
    """
    y, probability, reference = _checked(y, probability=probability, reference=reference)
    counts = _resamples(y, replicates, seed)
    value = 1 - brier_score_loss(y, probability) / brier_score_loss(y, reference)
    resampled = 1 - (counts @ (probability - y) ** 2) / (counts @ (reference - y) ** 2)
    return Skill(value, *_interval(resampled))


def brier_difference(
    y: ArrayLike, probability: ArrayLike, other: ArrayLike, *, replicates: int = 1000, seed: int = 0
) -> Difference:
    """Return Brier(probability) - Brier(other) on the same rows, with its 95 % interval: below 0 is better.

    The two are resampled together, in the moving blocks of `score_table`: what is hard for both on a day cancels in the
    difference, and its interval is narrower than those of the two scores. Arguments and errors as `score_table`.
    """
    y, probability, other = _checked(y, probability=probability, other=other)
    differences = (probability - y) ** 2 - (other - y) ** 2
    return Difference(differences.mean(), *_interval(_resamples(y, replicates, seed) @ differences / len(y)))


def score_table(
    y: ArrayLike,
    probability: ArrayLike,
    reference: ArrayLike,
    threshold: float = 0.5,
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Return six scores with their 95 % intervals: a frame with the columns value, low, high.

    Rows: auc, brier, brier_skill (against `reference`), log_loss, f1, mcc; the last two call 1 what has a probability
    above `threshold`. `y` holds outcomes 0 or 1, `probability` and `reference` probabilities of a 1, in time order:
    arrays or Series of one length, Series with one index. A forecast of exactly 0 or 1 that is wrong costs a log loss
    of 36 (scikit-learn clips it).

    The interval is the percentile interval of a moving-block bootstrap (Künsch 1989, Annals of Statistics 17,
    1217-1241), since outcomes that cluster carry less information than as many independent ones; the block length is
    `block_length(y)`. A resample with one class has no AUC and is left out of that interval.

    Raises ValueError, in one sentence, for different lengths or rows, missing values, outcomes other than 0 and 1,
    probabilities outside [0, 1], a reference without error, fewer than 30 rows, and a single class.
    """
    y, probability, reference = _checked(y, probability=probability, reference=reference)
    counts = _resamples(y, replicates, seed)
    predicted = (probability > threshold).astype("float64")
    brier, brier_reference = brier_score_loss(y, probability), brier_score_loss(y, reference)
    # The same scores on all resamples at once: scikit-learn's functions, called a thousand times, take seconds.
    squares, squares_reference = counts @ (probability - y) ** 2, counts @ (reference - y) ** 2
    eps = np.finfo("float64").eps
    likelihood = np.clip(np.where(y == 1, probability, 1 - probability), eps, 1 - eps)
    tp, fp = counts @ (predicted * y), counts @ (predicted * (1 - y))
    fn, tn = counts @ ((1 - predicted) * y), counts @ ((1 - predicted) * (1 - y))
    margins = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    scores = {
        "auc": (metrics.roc_auc_score(y, probability), _aucs(y, probability, counts)),
        "brier": (brier, squares / len(y)),
        "brier_skill": (1 - brier / brier_reference, 1 - squares / squares_reference),
        "log_loss": (metrics.log_loss(y, probability, labels=[0, 1]), counts @ -np.log(likelihood) / len(y)),
        "f1": (metrics.f1_score(y, predicted, zero_division=0), _ratio(2 * tp, 2 * tp + fp + fn, otherwise=0)),
        "mcc": (metrics.matthews_corrcoef(y, predicted), _ratio(tp * tn - fp * fn, margins, otherwise=0)),
    }
    rows = {name: (value, *_interval(resampled)) for name, (value, resampled) in scores.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"]).rename_axis("score")


def nine_metrics(outcome: ArrayLike, probability: ArrayLike, threshold: float) -> dict[str, float]:
    """Return the nine scores of `NINE`; a decision is 1 where the probability is above `threshold`.

    `outcome` (0 or 1) and `probability` are arrays or Series of one length. Average precision and log loss are
    computed from the probabilities, the other seven from the decisions. A ratio without any case is 0.
    """
    outcome, probability = np.asarray(outcome), np.asarray(probability, dtype="float64")
    decision = (probability > threshold).astype("int64")
    return {
        "accuracy": float(metrics.accuracy_score(outcome, decision)),
        "average_precision": float(metrics.average_precision_score(outcome, probability)),
        "f1": float(metrics.f1_score(outcome, decision, zero_division=0)),
        "jaccard": float(metrics.jaccard_score(outcome, decision, zero_division=0)),
        "log_loss": float(metrics.log_loss(outcome, probability, labels=[0, 1])),
        "mcc": float(metrics.matthews_corrcoef(outcome, decision)),
        "precision": float(metrics.precision_score(outcome, decision, zero_division=0)),
        "recall": float(metrics.recall_score(outcome, decision, zero_division=0)),
        "zero_one_loss": float(metrics.zero_one_loss(outcome, decision)),
    }


def block_length(y: ArrayLike) -> int:
    """Return the days in a block of the bootstrap: arch's optimal length, but at least 5.

    See Politis & White 2004, Econometric Reviews 23, 53-70. The estimate is that for the circular block bootstrap,
    whose blocks are of a fixed length like the moving ones. At least 5: where outcomes alone look independent
    (direction: about 1), forecasts built on the last days' flags are not.
    """
    (y,) = _checked(y)
    if len(y) < MIN_ROWS:
        raise ValueError(f"{len(y)} rows are too few for an interval: give at least {MIN_ROWS}.")
    if y.min() == y.max():
        raise ValueError(f"all {len(y)} outcomes are {y[0]:.0f}: scores and intervals need both classes.")
    from arch.bootstrap import optimal_block_length  # late: arch takes 1.5 s to import, and a split needs none of it

    return max(MIN_BLOCK, int(np.ceil(optimal_block_length(y)["circular"].iloc[0])))


def _resamples(y: np.ndarray, replicates: int, seed: int) -> np.ndarray:
    """Return how often each row occurs in each resample, (replicates, rows), for sums by matrix products."""
    from arch.bootstrap import MovingBlockBootstrap

    bootstrap = MovingBlockBootstrap(block_length(y), np.arange(len(y)), seed=seed)
    draws = (positional[0] for positional, _ in bootstrap.bootstrap(replicates))
    return np.stack([np.bincount(draw, minlength=len(y)) for draw in draws]).astype("float64")


def _interval(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.nanquantile(values, [0.025, 0.975]))


def _ratio(numerator: np.ndarray, denominator: np.ndarray, otherwise: float) -> np.ndarray:
    ratio = np.full(len(numerator), float(otherwise))
    np.divide(numerator, denominator, out=ratio, where=denominator > 0)
    return ratio


def _aucs(y: np.ndarray, probability: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the AUC of each resample: the share of pairs (a one, a zero) in the right order, ties counting half."""
    order = np.argsort(probability, kind="stable")
    ties = np.flatnonzero(np.diff(probability[order], prepend=-1))  # where each distinct probability begins
    ones = np.add.reduceat(counts[:, order] * y[order], ties, axis=1)
    zeros = np.add.reduceat(counts[:, order] * (1 - y[order]), ties, axis=1)
    below = np.cumsum(zeros, axis=1) - zeros
    pairs = ones.sum(axis=1) * zeros.sum(axis=1)
    return _ratio((ones * (below + zeros / 2)).sum(axis=1), pairs, otherwise=np.nan)


def _checked(y: ArrayLike, **probabilities: ArrayLike) -> list[np.ndarray]:
    """Return the arguments as float64 arrays; raises ValueError, in one sentence, if something is wrong with them."""
    arrays: list[np.ndarray] = []
    for name, values in {"y": y, **probabilities}.items():
        array = np.asarray(values, dtype="float64")
        if array.ndim != 1 or not len(array):
            raise ValueError(f"{name} has the shape {array.shape}: give one value per row.")
        if arrays and len(array) != len(arrays[0]):
            raise ValueError(f"{name} has {len(array)} values but y has {len(arrays[0])}: give one value per row.")
        if isinstance(y, pd.Series) and isinstance(values, pd.Series) and not values.index.equals(y.index):
            raise ValueError(f"{name} and y have different rows: select the days of y with .loc[y.index].")
        if np.isnan(array).any():
            raise ValueError(f"{name} has {np.isnan(array).sum()} missing values: drop or fill those rows first.")
        arrays.append(array)
    if not np.isin(arrays[0], (0, 1)).all():
        raise ValueError("y has values other than 0 and 1: give outcomes, not probabilities or returns.")
    for name, array in zip(probabilities, arrays[1:], strict=True):
        if array.min() < 0 or array.max() > 1:
            raise ValueError(f"{name} ranges from {array.min():.3g} to {array.max():.3g}: give probabilities, 0 to 1.")
    if "reference" in probabilities and np.array_equal(arrays[0], arrays[-1]):
        raise ValueError("the reference has no error, so skill is undefined: did you pass the outcomes as reference?")
    return arrays
