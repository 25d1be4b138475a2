"""Bootstrap intervals: what scipy's are, as wide as they claim to be; the summary of a run."""

import json

import numpy as np
import pytest
from scipy import stats

from transfer.evaluation import intervals, measures
from transfer.evaluation.calibration import bins_of, error_interval, expected_calibration_error
from transfer.evaluation.intervals import interval, percentiles, resampled, wilson
from transfer.evaluation.measures import MEASURES, applicable
from transfer.evaluation.predictions import Predictions
from transfer.evaluation.summary import per_class, summary


def classes(seed, rows=200, width=7, raised=1.5):
    random = np.random.default_rng(seed)
    labels = random.integers(width, size=rows)
    logits = random.standard_normal((rows, width)).astype(np.float32)
    logits[np.arange(rows), labels] += raised
    return Predictions.of_logits(logits, labels)


def functions(predictions):
    return {name: measure.of(predictions) for name, measure in applicable(predictions).items()}


def test_intervals_are_scipy_s():
    found = classes(0)
    ours = resampled(functions(found), len(found), resamples=4000)
    for name, values in {"accuracy": found.right, "log_loss": found.nll}.items():
        theirs = stats.bootstrap(
            (values.astype(float),), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
        ).confidence_interval
        # both are samples of one distribution: their ends agree to a few hundredths of its width
        np.testing.assert_allclose(percentiles(ours[name]), theirs, atol=0.06 * (theirs.high - theirs.low))


def test_intervals_cover_the_truth():
    """Of 95 % intervals about as many hold the value of the population."""
    population = classes(0, rows=20000)
    wanted = ("accuracy", "log_loss")
    truth = {name: MEASURES["classes"][name].of(population)(np.ones((1, 20000)))[0] for name in wanted}
    random, covered, samples = np.random.default_rng(1), dict.fromkeys(wanted, 0), 150
    for _ in range(samples):
        sample = population.rows(random.integers(20000, size=150))
        found = resampled({name: MEASURES["classes"][name].of(sample) for name in wanted}, 150, resamples=200)
        for name in wanted:
            low, high = percentiles(found[name])
            covered[name] += low <= truth[name] <= high
    # 95 % less or more four standard deviations of 150 tries, and what percentiles of a skewed measure may lack
    assert all(0.86 < count / samples <= 1 for count in covered.values()), covered


def sure(random, rows):
    return np.clip(random.beta(6, 1.5, rows), 0.5, 1)


def of_any_sureness(random, rows):
    return random.uniform(0.1, 1, rows)


def very_sure(random, rows):
    return 1 - random.beta(1, 30, rows)


def mostly_sure(random, rows):
    return np.where(random.random(rows) < 0.9, 0.97, 0.6) + random.uniform(-0.03, 0.03, rows)


def too_sure(confidence):
    """Accuracies of a head whose logits are twice as large as they should be."""
    return 1 / (1 + np.sqrt((1 - confidence) / confidence))


def alternating(confidence):
    return np.clip(confidence + np.where(bins_of(confidence) % 2, 0.08, -0.08), 0, 1)


# Confidences, how often they are right, and how many rows.
CALIBRATIONS = {
    "calibrated": (sure, lambda confidence: confidence, 300),
    "calibrated, any": (of_any_sureness, lambda confidence: confidence, 100),
    "a little off": (sure, lambda confidence: confidence - 0.03, 300),
    "all off": (of_any_sureness, lambda confidence: confidence - 0.1, 300),
    "too sure": (sure, too_sure, 100),
    "too sure, any": (of_any_sureness, too_sure, 1000),
    "up and down": (of_any_sureness, alternating, 300),
    "five rows": (of_any_sureness, lambda confidence: confidence, 5),
    "twelve rows": (sure, lambda confidence: confidence, 12),
    "twelve rows, nearly all right": (very_sure, lambda confidence: confidence - 0.03, 12),
    "twelve rows, all right": (sure, np.ones_like, 12),
    "thirty rows, all off": (of_any_sureness, lambda confidence: confidence - 0.1, 30),
    "one of ten is hard": (mostly_sure, lambda confidence: confidence - 0.25 * (confidence < 0.8), 100),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CALIBRATIONS)
def test_intervals_of_the_calibration_error_cover_the_truth(case):
    """Percentiles cover it in hardly any sample, and a mirrored bootstrap in 31 to 94 %: samples show more than is.

    So few rows as five are no exception: what they say is wide, not wrong.
    """
    confidences, accuracy, rows = CALIBRATIONS[case]
    random, samples = np.random.default_rng(7), 200
    population = confidences(random, 200_000)
    gaps = np.bincount(bins_of(population), population - np.clip(accuracy(population), 0, 1))
    truth = np.abs(gaps).sum() / len(population)
    covered = 0
    for seed in range(samples):
        drawn = random.choice(population, rows)
        right = random.random(rows) < accuracy(drawn)
        low, high = error_interval(drawn, right, draws=150, seed=seed)
        assert 0 <= low <= expected_calibration_error(drawn, right) <= high + 1e-12
        covered += low - 1e-9 <= truth <= high + 1e-9
    # 95 % less three standard deviations of 200 tries; of a calibrated one only the low end can miss
    assert covered >= 0.905 * samples, covered


@pytest.mark.slow
@pytest.mark.parametrize(
    "share, apart, rows, labels, together",
    [
        (0.05, 2, 100, 3, False),
        (0.02, 2, 300, 3, False),
        (0.05, 4, 100, 3, False),
        (0.1, 1, 30, 5, False),
        (0.2, 1, 100, 8, False),
        (0.2, 1, 100, 8, True),
        (0.3, 1, 200, 20, True),
    ],
)
def test_intervals_of_the_mean_average_precision_cover_the_truth(share, apart, rows, labels, together):
    """Percentiles do so in 60 to 92 % of samples, as few rows with a label rank well by chance; score intervals alone
    in 39 to 61 % where labels come `together`."""
    random, samples, name = np.random.default_rng(0), 80, "mean_average_precision"
    size, measure = (20_000, labels), MEASURES["labels"][name]
    truth = np.broadcast_to(random.random((20_000, 1)), size) if together else random.random(size)
    noise = 0.6 * random.normal(size=size) + 0.8 * random.normal(size=(20_000, 1) if together else size)
    has = (truth < share).astype(int)
    population = Predictions.of_logits(apart * has + noise, has, kind="labels")
    wanted, covered = measures.value(population, name), 0
    for seed in range(samples):
        sample = population.rows(random.integers(len(population), size=rows))
        resamples = resampled({name: measure.of(sample)}, rows, resamples=100, seed=seed)[name]
        low, high = intervals.interval_of(measure, sample, measures.value(sample, name), resamples)
        covered += low <= wanted <= high
    # of labels that come together 92 %, less three standard deviations of 80 tries
    assert (0.83 if together else 0.89) * samples <= covered, covered


def test_a_sample_without_any_calibration_error_may_be_of_some():
    low, high = error_interval(np.ones(50), np.ones(50, bool))
    # of 50 rows that are all right Clopper and Pearson's interval ends there, too
    assert low == 0 and high == pytest.approx(1 - stats.binomtest(50, 50).proportion_ci().low, abs=0.01)
    assert error_interval(np.full(50, 0.6), np.zeros(50, bool))[0] > 0.4


def test_a_dozen_rows_that_are_all_right_are_not_certain():
    """Twelve of twelve may be as few as 74 % of all: the error is 0 if they are as good as they say, else up to 0.2."""
    low, high = error_interval(np.full(12, 0.926), np.ones(12, bool))
    assert low == 0 and high >= 0.926 - stats.binomtest(12, 12).proportion_ci().low


@pytest.mark.parametrize("rows, accuracy", [(360, 0.99), (360, 0.7), (100, 0.9), (1000, 0.98), (20, 0.8)])
def test_intervals_of_an_accuracy_cover_the_truth(rows, accuracy):
    """Summed over every number of rows that may be right; resamples of a share are binomial."""
    right = np.arange(rows + 1)
    covered = 0.0
    for count, chance in zip(right, stats.binom.pmf(right, rows, accuracy), strict=True):
        if chance > 1e-6:
            resamples = stats.binom.ppf(np.linspace(0.0005, 0.9995, 1000), rows, count / rows) / rows
            low, high = interval(MEASURES["classes"]["accuracy"], count / rows, resamples, rows)
            covered += chance * (low <= accuracy <= high)
    assert covered > 0.92


# Rows of each class, and their true recalls.
IMBALANCED = [
    ([1000, 10], [0.99, 0.8]),
    ([1000, 10], [0.9, 0.6]),
    ([1000, 10], [0.7, 0.95]),
    ([2000, 20], [0.99, 0.8]),
    ([2000, 20], [0.9, 0.7]),
    ([2000, 20], [0.9, 0.99]),
    ([300, 300, 15], [0.9, 0.7, 0.5]),
    ([300, 300, 15], [0.99, 0.98, 0.95]),
    ([300, 300, 15], [0.99, 0.9, 0.97]),
    ([200, 5, 5, 5], [0.99, 0.8, 0.6, 0.7]),
    ([200, 5, 5, 5], [0.9, 0.7, 0.5, 0.5]),
    ([200, 5, 5, 5], [0.9, 0.97, 0.95, 0.9]),
    ([100, 100], [0.9, 0.7]),
    ([100, 100, 100], [0.95, 0.98, 0.9]),
    ([12] * 10, [0.9, 0.7, 0.8, 0.95, 0.6] * 2),
    ([2] * 40, [0.9, 0.7] * 20),
    ([1] * 60 + [6] * 20, [0.8] * 80),
]


@pytest.mark.parametrize("rows, recalls", IMBALANCED)
def test_intervals_of_the_balanced_accuracy_cover_the_truth(rows, recalls):
    """In 93 to 97 % of samples, however few rows a class has. A bootstrap's do in as few as 25 %."""
    rows, recalls = np.array(rows, float), np.array(recalls)
    samples = np.random.default_rng(0).binomial(
        rows.astype(int), recalls, size=(2500 if len(rows) < 9 else 700, len(rows))
    )
    right, times = np.unique(samples, axis=0, return_counts=True)
    low, high = intervals.class_mean(right.astype(float), rows, 0.95)
    covered = times[(low <= recalls.mean()) & (recalls.mean() <= high)].sum() / times.sum()
    assert 0.93 <= covered <= 0.97


def test_intervals_of_the_balanced_accuracy_cover_recalls_up_to_1_on_average():
    """Of ten rows nothing can cover every recall in 93 to 97 %: of 0.98 there are 82 % or 98 %, none between."""
    rows, recalls = np.array([1000.0, 10.0]), np.random.default_rng(0).uniform(0.5, 1, size=(3000, 2))
    right = np.random.default_rng(1).binomial(rows.astype(int), recalls).astype(float)
    low, high = intervals.class_mean(right, rows, 0.95)
    assert 0.93 <= np.mean((low <= recalls.mean(axis=1)) & (recalls.mean(axis=1) <= high)) <= 0.97


@pytest.mark.parametrize("right, rows", [(0, 1), (1, 1), (0, 20), (20, 20), (7, 9), (480, 500)])
def test_the_score_interval_of_one_class_and_of_equal_ones_that_are_all_right_is_wilson_s(right, rows):
    expected = np.ravel(wilson(np.array([right]), np.array([rows])))
    found = intervals.class_mean(np.array([float(right)]), np.array([float(rows)]), 0.95)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    twice = intervals.class_mean(np.full(2, 7.0), np.full(2, 7.0), 0.95)
    np.testing.assert_allclose(twice, np.ravel(wilson(np.array([14]), np.array([14]))), atol=1e-9)


def of_classes(rows, right):
    """Predictions with so many rows of each class, of which so many are right."""
    labels = np.repeat(np.arange(len(rows)), rows)
    hits = np.concatenate([np.arange(n) < k for n, k in zip(rows, right, strict=True)])
    return Predictions.of_logits(9 * np.eye(len(rows))[np.where(hits, labels, (labels + 1) % len(rows))], labels)


@pytest.mark.parametrize("rows, right", [([1000, 10], [1000, 10]), ([300, 1, 15], [290, 0, 15]), ([4, 900], [0, 900])])
def test_a_rare_class_is_as_uncertain_in_the_balanced_accuracy_as_alone(rows, right):
    found = summary(of_classes(rows, right))
    of_class = found["per_class"]
    rare = min(of_class, key=lambda one: one["rows"])
    balanced = found["balanced_accuracy"]
    assert balanced["value"] == pytest.approx(np.mean(np.divide(right, rows)), abs=1e-6)
    assert balanced["low"] <= balanced["value"] <= balanced["high"]
    width = balanced["high"] - balanced["low"]
    assert width >= 0.99 * (rare["high"] - rare["low"]) / len(rows)
    assert width <= sum(one["high"] - one["low"] for one in of_class) / len(rows)


def test_seeded_and_the_same_in_any_number_of_blocks(monkeypatch):
    found = classes(0)
    one, other = (resampled(functions(found), len(found), resamples=50, seed=seed) for seed in (3, 4))
    monkeypatch.setattr(intervals, "BLOCK_BYTES", 8 * len(found) * 7)
    again = resampled(functions(found), len(found), resamples=50, seed=3)
    for name in one:
        np.testing.assert_allclose(again[name], one[name])
        assert not np.array_equal(one[name], other[name])


# Measure, value on 1,000 rows, the middle 95 % of its resamples -> its interval.
ENDS = {
    "percentiles": ("accuracy", 0.5, (0.4, 0.65), (0.4, 0.65)),
    "of no share": ("log_loss", 0.001, (0.0, 0.2), (0.0, 0.2)),
    "enough wrong": ("accuracy", 0.989, (0.98, 0.995), (0.98, 0.995)),
    "few wrong": ("accuracy", 0.991, (0.98, 0.995), np.ravel(wilson(np.array([991]), np.array([1000])))),
    "few right": ("accuracy", 0.009, (0.0, 0.01), np.ravel(wilson(np.array([9]), np.array([1000])))),
}


@pytest.mark.parametrize("name, value, middle, expected", ENDS.values(), ids=ENDS)
def test_ends_of_an_interval(name, value, middle, expected):
    measure, resamples = MEASURES["classes"][name], np.repeat(middle, 500)
    np.testing.assert_allclose(interval(measure, value, resamples, 1000), expected, atol=1e-12)
    np.testing.assert_allclose(intervals.between(measure, value, resamples), middle)
    mirrored = (2 * value - middle[1], 2 * value - middle[0])
    np.testing.assert_allclose(intervals.between(MEASURES["classes"]["ece"], value, resamples), mirrored)


def test_a_resample_may_leave_a_measure_open():
    assert percentiles(np.array([np.nan, 1.0, 2.0]))[0] >= 1 and np.isnan(percentiles(np.full(3, np.nan))).all()
    labels = np.zeros((6, 1))
    labels[0] = 1
    found = Predictions.of_logits(np.arange(6.0)[:, None], labels, kind="labels")
    assert 0 <= summary(found)["mean_average_precision"]["low"] <= summary(found)["mean_average_precision"]["high"]


@pytest.mark.parametrize("right, rows", [(0, 1), (1, 1), (0, 20), (20, 20), (7, 9), (480, 500)])
def test_wilson_is_scipy_s(right, rows):
    theirs = stats.binomtest(right, rows).proportion_ci(method="wilson")
    np.testing.assert_allclose(np.ravel(wilson(np.array([right]), np.array([rows]))), theirs, atol=1e-12)


def test_summary_of_classes():
    labels = np.array([0, 0, 2, 2, 3])
    logits = np.eye(4)[[0, 1, 2, 2, 3]] * 9
    found = summary(Predictions.of_logits(logits, labels, class_names=["cat", "dog", "cow", "hen"]))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["accuracy"]["value"] == 0.8 and found["balanced_accuracy"]["value"] == round(2.5 / 3, 6)
    assert found["accuracy"]["low"] < 0.8 < found["accuracy"]["high"] and "top_5_accuracy" not in found
    assert found["classes_without_rows"] == ["dog"] and [row["class"] for row in found["per_class"]] == [
        "cat",
        "cow",
        "hen",
    ]
    cat = found["per_class"][0]
    assert (cat["rows"], cat["value"]) == (2, 0.5) and 0 < cat["low"] < 0.5 < cat["high"] < 1
    assert found["rows"] == 5 and found["confidence"] == 0.95 and found["resamples"] == 2000 and found["seed"] == 0
    assert list(found) == ["accuracy", "balanced_accuracy", "log_loss", "ece", "rows", "confidence", "resamples",
                           "seed", "majority", "per_class", "classes_without_rows"]  # fmt: skip
    assert found["majority"] == {"class": "cat", "value": 0.4}


def test_an_accuracy_of_one_is_not_certain():
    found = summary(Predictions.of_logits(np.eye(3) * 9, np.arange(3)))
    assert found["accuracy"]["high"] == 1 and 0.3 < found["accuracy"]["low"] < 0.5
    assert found["balanced_accuracy"] == found["accuracy"]


@pytest.mark.parametrize("kind", ["labels", "values"])
def test_summary_of_other_kinds(kind):
    random = np.random.default_rng(0)
    scores = random.standard_normal((50, 3))
    found = summary(Predictions.of_logits(scores, scores + 1 > 1 if kind == "labels" else scores + 1, kind=kind))
    assert list(found) == [*MEASURES[kind], "rows", "confidence", "resamples", "seed"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_of_many_classes_none_is_named():
    hundred = summary(Predictions.of_logits(np.zeros((3, 100)), np.zeros(3, int)))
    assert len(hundred["per_class"]) == 1 and hundred["classes_without_rows"] == [*map(str, range(1, 100))]
    found = Predictions.of_logits(np.zeros((3, 102)), np.zeros(3, int))
    assert "per_class" not in summary(found) and len(per_class(found)) == 102
    assert summary(found)["classes_without_rows"] == [*map(str, range(1, 101))]
    assert per_class(found, ["a"])[:2] == [
        {"class": "a", "rows": 3, "value": 1.0, "low": per_class(found)[0]["low"], "high": 1.0},
        {"class": "1", "rows": 0, "value": None, "low": None, "high": None},
    ]


def test_one_row():
    found = summary(Predictions.of_logits([[0.0, 1.0]], [1]))
    assert found["accuracy"]["value"] == 1 and found["rows"] == 1
