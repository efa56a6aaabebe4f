"""Splits, baselines, scores and their intervals."""

import numpy as np
import pandas as pd
import pytest
from arch.bootstrap import MovingBlockBootstrap
from sklearn import metrics
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pystock import data, evaluation, features
from pystock.evaluation import brier_difference, score_table, skill, time_split


def series(values, start="2020-01-01"):
    return pd.Series(values, index=pd.bdate_range(start, periods=len(values), name="Date"))


def forecast(market, target, name):
    """The held-out outcomes, the probabilities of a logistic regression, the rolling and the frozen base rate."""
    X, y = features.dataset(data.load(market), target, name)
    X_train, X_test, y_train, y_test = time_split(X, y)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1)).fit(X_train, y_train)
    rolling = evaluation.rolling_base_rate(y, y_test.index)
    return y_test, model.predict_proba(X_test)[:, 1], rolling, evaluation.frozen_base_rate(y_train, y_test.index)


@pytest.fixture(scope="module")
def held_out():
    return forecast("sp500", "big_move", "volatility")[:3]


@pytest.mark.parametrize(("train_end", "test_end", "gap", "train", "test"), [
    # The outcome of Friday 3 is known on Monday 6, in the test period; that of Thursday 9 on Friday 10, after it.
    ("2020-01-03", "2020-01-09", 1, [1, 2], [6, 7, 8]),
    ("2020-01-03", "2020-01-09", 0, [1, 2, 3], [6, 7, 8]),
    ("2020-01-03", "2020-01-09", 2, [1], [6, 7, 8]),
    ("2020-01-05", "2020-01-12", 1, [1, 2], [6, 7, 8, 9, 10]),
])  # fmt: skip
def test_time_split_by_hand(train_end, test_end, gap, train, test):
    y = series([0, 1, 0, 1, 0, 1, 0, 1], start="2020-01-01")  # Wed 1, Thu 2, Fri 3, Mon 6, Tue 7 … Fri 10
    X = y.to_frame("x").astype("float64")
    X_train, X_test, y_train, y_test = time_split(X, y, train_end, test_end, gap)
    assert (list(X_train.index.day), list(X_test.index.day)) == (train, test)
    assert X_train.index.equals(y_train.index) and X_test.index.equals(y_test.index)


@pytest.mark.parametrize("name", features.FEATURES)
def test_time_split_by_the_courses_clock(name):
    prices = data.load("sp500")
    parts = time_split(*features.dataset(prices, features=name))
    outcomes = [prices.index[prices.index.get_indexer(part.index) + 1].max() for part in parts[:2]]
    assert outcomes == [pd.Timestamp("2009-12-31"), pd.Timestamp("2014-12-31")]
    assert parts[1].index[0] == pd.Timestamp("2010-01-04") and len(parts[1]) == 1257
    # Loading no more than the held-out years gives the same rows: nothing hangs on data of the production years.
    early = time_split(*features.dataset(data.load("sp500", end=evaluation.TEST_END), features=name))
    assert all(a.equals(b) for a, b in zip(early, parts, strict=True))


@pytest.mark.parametrize(("rows", "arguments", "reason"), [
    (slice(None, None, -1), (), "time order"),
    (slice(None), ("2020-01-10", "2020-01-20", -1), "negative"),
    (slice(None), ("2020-01-10", "2020-01-20", 99), "no training rows"),
    (slice(None), ("2019-01-10", "2020-01-20"), "no training rows"),
    (slice(None), ("2020-01-10", "2020-01-10"), "no test rows"),
    (slice(None), (), "no training rows: the data covers 2020-01-01 to 2020-01-28"),
])  # fmt: skip
def test_time_split_refuses(rows, arguments, reason):
    y = series([0, 1] * 10)[rows]
    with pytest.raises(ValueError, match=reason):
        time_split(y.to_frame(), y, *arguments)
    with pytest.raises(ValueError, match="different rows"):
        time_split(y.to_frame().iloc[1:], y, *arguments)


def test_walk_forward_folds_keep_the_gap():
    for train, validation in evaluation.walk_forward(n_splits=3).split(np.zeros(40)):
        assert train[-1] + 2 == validation[0]


def test_baselines_by_hand():
    y = series([1, 1, 0, 0, 1, 0])
    index = y.index[3:].append(pd.DatetimeIndex(["2020-01-09"]))  # and the day after the last outcome
    assert evaluation.frozen_base_rate(y.iloc[:3], index).tolist() == pytest.approx([2 / 3] * 4)
    # At row 3 the outcomes of rows 0, 1, 2 are known; that of row 3 is tomorrow's.
    rolling, yesterday = evaluation.rolling_base_rate(y, index, window=3), evaluation.yesterdays_class(y, index)
    assert rolling.tolist() == pytest.approx([2 / 3, 1 / 3, 1 / 3, 1 / 3]) and yesterday.tolist() == [0, 0, 1, 0]
    for baseline in (rolling, yesterday):
        assert baseline.index.equals(index) and baseline.dtype == "float64"
    with pytest.raises(ValueError, match="not only of the test period"):
        evaluation.rolling_base_rate(y.iloc[2:], index, window=2)
    with pytest.raises(ValueError, match="not only of the training period"):
        evaluation.rolling_base_rate(y.iloc[:3], index, window=2)


@pytest.mark.parametrize("baseline", [evaluation.rolling_base_rate, evaluation.yesterdays_class])
def test_baselines_do_not_see_the_outcome_they_forecast(baseline):
    y = series(np.random.default_rng(0).integers(0, 2, 600))
    index = y.index[300:]
    expected = baseline(y, index)
    for row in (300, 301, 450, 599):
        changed = y.copy()
        changed.iloc[row:] = 1 - changed.iloc[row:]
        assert baseline(changed, index)[: y.index[row]].equals(expected[: y.index[row]])


@pytest.mark.parametrize("digits", [16, 1], ids=["no ties", "ties"])
def test_scores_and_intervals_are_those_of_scikit_learn_on_each_resample(held_out, digits):
    """The resampled scores are computed by matrix products; here by arch and scikit-learn, one resample at a time."""
    y, probability, reference = held_out[0].to_numpy(), held_out[1].round(digits), held_out[2].to_numpy()

    def scores(y, probability, reference):
        brier, other = (metrics.brier_score_loss(y, each) for each in (probability, reference))
        predicted = probability > 0.4
        f1, mcc = metrics.f1_score(y, predicted, zero_division=0), metrics.matthews_corrcoef(y, predicted)
        log_loss = metrics.log_loss(y, probability, labels=[0, 1])
        return [metrics.roc_auc_score(y, probability), brier, 1 - brier / other, log_loss, f1, mcc, brier - other]

    bootstrap = MovingBlockBootstrap(evaluation.block_length(y), y, probability, reference, seed=7)
    resampled = np.quantile([scores(*resample) for resample, _ in bootstrap.bootstrap(40)], [0.025, 0.975], axis=0)
    expected = np.column_stack([scores(y, probability, reference), *resampled])
    table = score_table(y, probability, reference, threshold=0.4, replicates=40, seed=7)
    assert list(table.index) == ["auc", "brier", "brier_skill", "log_loss", "f1", "mcc"]
    assert table[["value", "low", "high"]].to_numpy() == pytest.approx(expected[:-1])
    assert brier_difference(y, probability, reference, replicates=40, seed=7) == pytest.approx(expected[-1])


def test_intervals_are_reproducible_and_agree(held_out):
    y, probability, reference = held_out
    table = score_table(y, probability, reference)
    assert table.equals(score_table(y.to_numpy(), pd.Series(probability), reference.to_numpy()))  # as arrays, too
    assert not table.equals(score_table(y, probability, reference, seed=1))
    value = skill(y, probability, reference)
    assert tuple(table.loc["brier_skill"]) == pytest.approx(value)
    assert skill(y, probability.astype("float32"), reference) == pytest.approx(value, abs=1e-6)


def test_a_difference_is_that_of_the_pair(held_out):
    y, probability, rolling = held_out
    better, worse = brier_difference(y, probability, rolling), brier_difference(y, rolling, probability)
    assert better.high < 0 and better.value == pytest.approx(-worse.value)
    assert brier_difference(y, probability, probability) == (0, 0, 0)
    with pytest.raises(ValueError, match="other has 1 values but y has 1257"):
        brier_difference(y, probability, [0.5])


@pytest.mark.parametrize(("target", "name", "auc", "rolling", "frozen", "block"), [
    # AUC, skill against the rolling rate and against the frozen one, and days in a block
    ("direction", "flags", 0.495, -0.009, -0.007, 5),
    ("big_move", "flags", 0.621, -0.092, +0.062, 37),
    ("big_move", "volatility", 0.688, +0.091, +0.215, 37),
])  # fmt: skip
def test_skill_and_block_length_on_nasdaq(target, name, auc, rolling, frozen, block):
    """Skill in big moves, and only with the volatility features. Chapters 02 and 04 show the S&P 500."""
    y, probability, *rates = forecast("nasdaq", target, name)
    skills = [skill(y, probability, rate) for rate in rates]
    scores = [metrics.roc_auc_score(y, probability), *(each.value for each in skills)]
    assert scores == pytest.approx([auc, rolling, frozen], abs=0.002)
    assert (skills[0].low > 0) == (name == "volatility") and evaluation.block_length(y) == block


ZEROS_AND_ONES = series([0, 1] * 20)
HALF = pd.Series(0.5, index=ZEROS_AND_ONES.index)


@pytest.mark.parametrize(("y", "probability", "reference", "reason"), [
    (ZEROS_AND_ONES, HALF.iloc[1:], HALF, "probability has 39 values but y has 40"),
    (ZEROS_AND_ONES, HALF, HALF.to_numpy()[1:], "reference has 39 values but y has 40"),
    (ZEROS_AND_ONES, HALF.shift(1, freq="D"), HALF, "probability and y have different rows"),
    (ZEROS_AND_ONES, HALF.where(ZEROS_AND_ONES == 1), HALF, "probability has 20 missing values"),
    (ZEROS_AND_ONES, HALF + 0.6, HALF, "probability ranges from 1.1 to 1.1"),
    (ZEROS_AND_ONES, HALF, HALF - 0.6, "reference ranges from -0.1 to -0.1"),
    (ZEROS_AND_ONES + 1, HALF, HALF, "y has values other than 0 and 1"),
    (ZEROS_AND_ONES, HALF.to_frame().assign(other=0), HALF, r"probability has the shape \(40, 2\)"),
    (ZEROS_AND_ONES * 0, HALF, HALF, "all 40 outcomes are 0"),
    (ZEROS_AND_ONES.iloc[:20], HALF.iloc[:20], HALF.iloc[:20], "20 rows are too few"),
    (ZEROS_AND_ONES, HALF, ZEROS_AND_ONES, "the reference has no error"),
])  # fmt: skip
@pytest.mark.parametrize("function", [score_table, skill])
def test_bad_input_is_one_clear_sentence(function, y, probability, reference, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        function(y, probability, reference)
    assert "\n" not in str(caught.value) and str(caught.value).endswith((".", "?"))


def test_resamples_with_one_class_are_left_out():
    """One block of ones in ninety zeros: many resamples have no one in them, and then no AUC."""
    y = np.zeros(90)
    y[40:43] = 1
    assert score_table(y, np.linspace(0.1, 0.9, 90), np.full(90, 0.1)).notna().all(axis=None)


def test_forecasts_of_certainty_have_finite_scores():
    table = score_table(ZEROS_AND_ONES, HALF + 0.5, HALF)
    assert np.isfinite(table).all(axis=None)
    assert table.loc["log_loss", "value"] == pytest.approx(18, abs=0.1) and table.loc["auc", "value"] == 0.5
    assert table.loc["f1", "value"] == pytest.approx(2 / 3) and table.loc["mcc", "value"] == 0
