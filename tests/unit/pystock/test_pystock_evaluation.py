"""Splits, baselines, scores and their intervals: small cases by hand, the design's numbers on real data."""

import numpy as np
import pandas as pd
import pytest
from arch.bootstrap import MovingBlockBootstrap
from sklearn import metrics
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, f1_score, log_loss, matthews_corrcoef, roc_auc_score
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pystock import data, evaluation, features


def series(values, start="2020-01-01"):
    return pd.Series(values, index=pd.bdate_range(start, periods=len(values), name="Date"))


@pytest.fixture(scope="module")
def held_out():
    """Big moves on the S&P 500: the held-out outcomes, a model's probabilities, the rolling and the frozen rate."""
    X, y = features.dataset(data.load("sp500"), "big_move", "volatility")
    X_train, X_test, y_train, y_test = evaluation.time_split(X, y)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1)).fit(X_train, y_train)
    rolling = evaluation.rolling_base_rate(y, y_test.index)
    return y_test, model.predict_proba(X_test)[:, 1], rolling, evaluation.frozen_base_rate(y_train, y_test.index)


# Splits


def test_time_split_by_hand():
    y = series([0, 1, 0, 1, 0, 1, 0, 1], start="2020-01-01")  # Wed 1, Thu 2, Fri 3, Mon 6, Tue 7 … Fri 10
    X = y.to_frame("x").astype("float64")
    X_train, X_test, y_train, y_test = evaluation.time_split(X, y, "2020-01-03", "2020-01-09")
    # The outcome of Friday 3 is known on Monday 6, in the test period; that of Thursday 9 on Friday 10, after it.
    assert list(X_train.index.day) == [1, 2] and list(X_test.index.day) == [6, 7, 8]
    assert X_train.index.equals(y_train.index) and X_test.index.equals(y_test.index)
    assert list(evaluation.time_split(X, y, "2020-01-03", "2020-01-09", gap=0)[0].index.day) == [1, 2, 3]
    assert list(evaluation.time_split(X, y, "2020-01-03", "2020-01-09", gap=2)[0].index.day) == [1]
    assert list(evaluation.time_split(X, y, "2020-01-05", "2020-01-12")[1].index.day) == [6, 7, 8, 9, 10]


@pytest.mark.parametrize("name", features.FEATURES)
def test_time_split_by_the_courses_clock(name):
    prices = data.load("sp500")
    X, y = features.dataset(prices, features=name)
    X_train, X_test, y_train, y_test = evaluation.time_split(X, y)
    days = prices.index
    outcomes = [days[days.get_indexer(part.index) + 1] for part in (X_train, X_test)]
    assert outcomes[0].max() == pd.Timestamp("2009-12-31") and outcomes[1].max() == pd.Timestamp("2014-12-31")
    assert X_test.index[0] == pd.Timestamp("2010-01-04") and len(X_test) == 1257
    # Loading no more than the held-out years gives the same rows: nothing hangs on data of the production years.
    early = evaluation.time_split(*features.dataset(data.load("sp500", end=evaluation.TEST_END), features=name))
    assert all(a.equals(b) for a, b in zip(early, (X_train, X_test, y_train, y_test), strict=True))


def test_time_split_refuses():
    y = series([0, 1] * 10)
    X = y.to_frame()
    for arguments, reason in (
        ((X.iloc[1:], y), "different rows"),
        ((X.iloc[::-1], y.iloc[::-1]), "time order"),
        ((X, y, "2020-01-10", "2020-01-20", -1), "negative"),
        ((X, y, "2020-01-10", "2020-01-20", 99), "no training rows"),
        ((X, y, "2019-01-10", "2020-01-20"), "no training rows"),
        ((X, y, "2020-01-10", "2020-01-10"), "no test rows"),
        ((X, y), "no training rows: the data cover 2020-01-01 to 2020-01-28"),
    ):
        with pytest.raises(ValueError, match=reason):
            evaluation.time_split(*arguments)


def test_walk_forward_folds_keep_the_gap_and_the_order():
    folds = list(evaluation.walk_forward(n_splits=3, gap=2).split(np.zeros(40)))
    assert len(folds) == 3
    for train, validation in folds:
        assert train[0] == 0 and train[-1] + 3 == validation[0] and (np.diff(validation) == 1).all()
    assert folds[-1][1][-1] == 39
    assert [len(test) for _, test in evaluation.walk_forward(2, test_size=5).split(np.zeros(40))] == [5, 5]
    X, y = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 2
    assert len(cross_val_score(LogisticRegression(), X, y, cv=evaluation.walk_forward())) == 5


# Baselines


def test_baselines_by_hand():
    y = series([1, 1, 0, 0, 1, 0])
    index = y.index[3:]
    assert evaluation.always_up(index).tolist() == [1, 1, 1]
    assert evaluation.frozen_base_rate(y.iloc[:3], index).tolist() == pytest.approx([2 / 3] * 3)
    # At row 3 the outcomes of rows 0, 1, 2 are known; that of row 3 is tomorrow's.
    assert evaluation.rolling_base_rate(y, index, window=3).tolist() == pytest.approx([2 / 3, 1 / 3, 1 / 3])
    assert evaluation.yesterdays_class(y, index).tolist() == [0, 0, 1]
    for baseline in (evaluation.rolling_base_rate(y, index, 2), evaluation.yesterdays_class(y, index)):
        assert baseline.index.equals(index) and baseline.dtype == "float64"


def test_baselines_on_the_day_after_the_last_outcome():
    y = series([1, 1, 0, 0, 1, 0])
    tomorrow = pd.DatetimeIndex(["2020-01-09"])
    assert evaluation.rolling_base_rate(y, tomorrow, window=3).tolist() == pytest.approx([1 / 3])
    assert evaluation.yesterdays_class(y, tomorrow).tolist() == [0]


@pytest.mark.parametrize("baseline", [evaluation.rolling_base_rate, evaluation.yesterdays_class])
def test_baselines_do_not_see_the_outcome_they_forecast(baseline):
    y = series(np.random.default_rng(0).integers(0, 2, 600))
    index = y.index[300:]
    expected = baseline(y, index)
    for row in (300, 301, 450, 599):
        changed = y.copy()
        changed.iloc[row:] = 1 - changed.iloc[row:]
        assert baseline(changed, index)[: y.index[row]].equals(expected[: y.index[row]])


def test_yesterdays_class_of_big_move_is_what_today_was():
    prices = data.load("sp500", "2009-01-01", "2010-12-31")
    y = features.big_move(prices)
    today = (features.log_returns(prices).abs() > 0.01).loc[y.index[1:]]
    assert (evaluation.yesterdays_class(y, y.index[1:]) == today).all()


def test_rolling_base_rate_refuses_outcomes_of_one_period_alone():
    y = series([0, 1] * 200)
    with pytest.raises(ValueError, match="not of the test period alone"):
        evaluation.rolling_base_rate(y.iloc[200:], y.index[200:])
    with pytest.raises(ValueError, match="not of the training period alone"):
        evaluation.rolling_base_rate(y.iloc[:300], y.index[300:])


# Scores


def test_skill_score_by_hand():
    # Brier of the forecast (0.04 + 0.09) / 2 = 0.065, of the reference 0.25.
    assert evaluation.brier_skill_score([1, 0], [0.8, 0.3], [0.5, 0.5]) == pytest.approx(1 - 0.065 / 0.25)


def test_scores_are_scikit_learns(held_out):
    y, probability, reference, _ = held_out
    table = evaluation.score_table(y, probability, reference, threshold=0.4)
    assert list(table.columns) == ["value", "low", "high"]
    predicted = probability > 0.4
    assert table["value"].to_dict() == pytest.approx(
        {
            "auc": roc_auc_score(y, probability),
            "brier": brier_score_loss(y, probability),
            "brier_skill": 1 - brier_score_loss(y, probability) / brier_score_loss(y, reference),
            "log_loss": log_loss(y, probability),
            "f1": f1_score(y, predicted),
            "mcc": matthews_corrcoef(y, predicted),
        }
    )
    assert ((table["low"] < table["value"]) & (table["value"] < table["high"])).all()


@pytest.mark.parametrize("digits", [16, 1], ids=["no ties", "ties"])
def test_intervals_are_those_of_scikit_learn_on_each_resample(held_out, digits):
    """The resampled scores are computed by matrix products; here by arch and scikit-learn, one resample at a time."""
    y, probability, reference = held_out[0].to_numpy(), held_out[1].round(digits), held_out[2].to_numpy()
    bootstrap = MovingBlockBootstrap(evaluation.block_length(y), y, probability, reference, seed=7)

    def scores(y, probability, reference):
        brier, predicted = brier_score_loss(y, probability), probability > 0.5
        skill = 1 - brier / brier_score_loss(y, reference)
        one_sided = f1_score(y, predicted, zero_division=0), matthews_corrcoef(y, predicted)
        return [roc_auc_score(y, probability), brier, skill, log_loss(y, probability, labels=[0, 1]), *one_sided]

    expected = np.quantile([scores(*resample) for resample, _ in bootstrap.bootstrap(40)], [0.025, 0.975], axis=0)
    table = evaluation.score_table(y, probability, reference, replicates=40, seed=7)
    assert table["low"].to_numpy() == pytest.approx(expected[0])
    assert table["high"].to_numpy() == pytest.approx(expected[1])


def test_intervals_are_reproducible_and_agree(held_out):
    y, probability, reference, _ = held_out
    table = evaluation.score_table(y, probability, reference)
    assert table.equals(evaluation.score_table(y, probability, reference))
    assert not table.equals(evaluation.score_table(y, probability, reference, seed=1))
    assert tuple(table.loc["brier_skill"]) == pytest.approx(evaluation.skill(y, probability, reference))


def test_skill_prints_well():
    assert str(evaluation.Skill(0.1349, 0.0881, 0.1951)) == "+0.135 [+0.088, +0.195]"
    assert repr(evaluation.Skill(-0.014, -0.03, 0.0021)) == "-0.014 [-0.030, +0.002]"


def test_nine_metrics_are_scikit_learns():
    random = np.random.default_rng(0)
    outcome, probability = random.integers(0, 2, 500), random.random(500)
    decision = probability > 0.3
    found = evaluation.nine_metrics(outcome, probability, 0.3)
    assert tuple(found) == evaluation.NINE
    assert found == {
        "accuracy": metrics.accuracy_score(outcome, decision),
        "average_precision": metrics.average_precision_score(outcome, probability),
        "f1": metrics.f1_score(outcome, decision),
        "jaccard": metrics.jaccard_score(outcome, decision),
        "log_loss": metrics.log_loss(outcome, probability),
        "mcc": metrics.matthews_corrcoef(outcome, decision),
        "precision": metrics.precision_score(outcome, decision),
        "recall": metrics.recall_score(outcome, decision),
        "zero_one_loss": metrics.zero_one_loss(outcome, decision),
    }
    # from decisions these two would say something else
    assert found["average_precision"] != metrics.average_precision_score(outcome, decision)
    assert metrics.log_loss(outcome, decision) > 10 > found["log_loss"]
    never = evaluation.nine_metrics(outcome, probability, 1)
    assert (never["precision"], never["recall"], never["f1"]) == (0, 0, 0)


def test_block_length_follows_how_outcomes_cluster():
    for market, big_move in (("sp500", 55), ("nasdaq", 37)):
        prices = data.load(market)
        for target, length in (("direction", 5), ("big_move", big_move)):
            y_test = evaluation.time_split(*features.dataset(prices, target))[3]
            assert evaluation.block_length(y_test) == length


def test_interval_is_wider_where_outcomes_cluster():
    rng = np.random.default_rng(3)
    alone = rng.integers(0, 2, 1000)
    runs = np.repeat(rng.integers(0, 2, 50), 20)
    reference = np.full(1000, 0.5)
    widths = []
    for y in (alone, runs):
        interval = evaluation.skill(y, np.where(y == 1, 0.6, 0.45), reference)
        widths.append(interval.high - interval.low)
    assert widths[1] > 2 * widths[0]


def test_interval_covers_what_it_says():
    """Of 200 forecasts with a true skill of 0.04, about 95 % have it inside their interval."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        truth = np.where(rng.random(500) < 0.5, 0.6, 0.4)
        interval = evaluation.skill(rng.random(500) < truth, truth, np.full(500, 0.5), replicates=200)
        covered += interval.low <= 1 - 0.24 / 0.25 <= interval.high
    assert 178 <= covered <= 200


# The criterion, and the design's table


def test_beats_is_the_designs_criterion(held_out):
    y, probability, rolling, frozen = held_out
    assert evaluation.beats(y, probability, rolling) is True
    assert evaluation.skill(y, probability, rolling) == pytest.approx((0.135, 0.088, 0.195), abs=0.005)
    assert evaluation.beats(y, frozen, rolling) is False
    assert evaluation.beats(y, rolling, rolling) is False  # an interval of exactly zero is not above zero
    # A skill that is positive, but not surely
    noisy = 0.95 * rolling + 0.05 * y.sample(frac=1, random_state=1).to_numpy()
    interval = evaluation.skill(y, noisy, rolling)
    assert interval.low < 0 < interval.high and evaluation.beats(y, noisy, rolling) is False


def test_the_difference_of_two_brier_scores_by_arch(held_out):
    """By matrix products as by arch and scikit-learn, one resample at a time, both forecasts on the same rows."""
    y, probability, rolling, _ = (np.asarray(each) for each in held_out)
    bootstrap = MovingBlockBootstrap(evaluation.block_length(y), y, probability, rolling, seed=7)

    def difference(y, probability, other):
        return brier_score_loss(y, probability) - brier_score_loss(y, other)

    expected = np.quantile([difference(*resample) for resample, _ in bootstrap.bootstrap(40)], [0.025, 0.975])
    found = evaluation.brier_difference(y, probability, rolling, replicates=40, seed=7)
    assert found == pytest.approx((difference(y, probability, rolling), *expected))


def test_a_difference_is_that_of_the_pair(held_out):
    y, probability, rolling, _ = held_out
    better = evaluation.brier_difference(y, probability, rolling)
    assert better.high < 0 and better.value == pytest.approx(
        -evaluation.brier_difference(y, rolling, probability).value
    )
    assert evaluation.brier_difference(y, probability, probability) == (0, 0, 0)
    # Two forecasts that err alike: each score is unsure, their difference is not.
    near = evaluation.brier_difference(y, probability, (probability + 0.01).clip(0, 1))
    scores = evaluation.score_table(y, probability, rolling).loc["brier"]
    assert near.high - near.low < (scores["high"] - scores["low"]) / 10
    assert str(evaluation.Difference(-0.00124, -0.0031, 0.00066)) == "-0.0012 [-0.0031, +0.0007]"
    with pytest.raises(ValueError, match="other has 1 values and y has 1257"):
        evaluation.brier_difference(y, probability, [0.5])


DESIGN = [  # market, target, features, AUC, skill against the rolling rate, against the frozen one
    ("sp500", "direction", "flags", 0.503, -0.013, -0.012),
    ("nasdaq", "direction", "flags", 0.495, -0.009, -0.007),
    ("sp500", "big_move", "flags", 0.619, -0.002, +0.047),
    ("nasdaq", "big_move", "flags", 0.621, -0.092, +0.062),
    ("sp500", "big_move", "volatility", 0.728, +0.136, +0.177),
    ("nasdaq", "big_move", "volatility", 0.688, +0.091, +0.215),
]


@pytest.mark.parametrize(("market", "target", "name", "auc", "rolling", "frozen"), DESIGN)
def test_logistic_regression_on_each_question(market, target, name, auc, rolling, frozen):
    """The story's numbers: no skill in direction, skill in big moves, and only with the volatility features."""
    X, y = features.dataset(data.load(market), target, name)
    X_train, X_test, y_train, y_test = evaluation.time_split(X, y)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1)).fit(X_train, y_train)
    probability = model.predict_proba(X_test)[:, 1]
    reference = evaluation.rolling_base_rate(y, y_test.index)
    assert roc_auc_score(y_test, probability) == pytest.approx(auc, abs=0.002)
    assert evaluation.brier_skill_score(y_test, probability, reference) == pytest.approx(rolling, abs=0.002)
    base = evaluation.frozen_base_rate(y_train, y_test.index)
    assert evaluation.brier_skill_score(y_test, probability, base) == pytest.approx(frozen, abs=0.002)
    assert evaluation.beats(y_test, probability, reference) is (name == "volatility")


# Bad input


def test_bad_input_is_one_clear_sentence():
    y = series([0, 1] * 20)
    half = pd.Series(0.5, index=y.index)
    for arguments, reason in (
        ((y, half.iloc[1:], half), "probability has 39 values and y has 40"),
        ((y, half, half.to_numpy()[1:]), "reference has 39 values and y has 40"),
        ((y, half.shift(1, freq="D"), half), "probability and y have different rows"),
        ((y, half.where(y == 1), half), "probability has 20 missing values"),
        ((y, half + 0.6, half), "probability goes from 1.1 to 1.1"),
        ((y, half, half - 0.6), "reference goes from -0.1 to -0.1"),
        ((y + 1, half, half), "y has values other than 0 and 1"),
        ((y, half.to_frame().assign(other=0), half), r"probability has the shape \(40, 2\)"),
        ((y * 0, half, half), "all 40 outcomes are 0"),
        ((y.iloc[:20], half.iloc[:20], half.iloc[:20]), "20 rows are too few"),
        ((y, half, y), "the reference makes no error"),
    ):
        for function in (evaluation.score_table, evaluation.skill, evaluation.beats):
            with pytest.raises(ValueError, match=reason) as caught:
                function(*arguments)
            assert "\n" not in str(caught.value) and str(caught.value).endswith((".", "?"))


def test_resamples_with_one_class_are_left_out():
    """One block of ones in ninety zeros: many resamples have no one in them, and then no AUC."""
    y = np.zeros(90)
    y[40:43] = 1
    table = evaluation.score_table(y, np.linspace(0.1, 0.9, 90), np.full(90, 0.1))
    assert table.notna().all(axis=None)


def test_forecasts_of_certainty_have_finite_scores():
    y = series([0, 1] * 30)
    table = evaluation.score_table(y, evaluation.always_up(y.index), pd.Series(0.5, index=y.index))
    assert np.isfinite(table).all(axis=None)
    assert table.loc["log_loss", "value"] == pytest.approx(18, abs=0.1) and table.loc["auc", "value"] == 0.5
    assert table.loc["f1", "value"] == pytest.approx(2 / 3) and table.loc["mcc", "value"] == 0


def test_arrays_and_series_give_the_same(held_out):
    y, probability, reference, _ = held_out
    as_series = pd.Series(probability, index=y.index)
    assert evaluation.score_table(y.to_numpy(), probability, reference.to_numpy()).equals(
        evaluation.score_table(y, as_series, reference)
    )
    assert evaluation.skill(y, probability.astype("float32"), reference).value == pytest.approx(
        evaluation.skill(y, probability, reference).value, abs=1e-6
    )
