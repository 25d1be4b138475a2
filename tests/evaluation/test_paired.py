"""Paired comparisons against statsmodels' values and scipy's; rows that two runs share."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from transfer.errors import TransferError
from transfer.evaluation import intervals
from transfer.evaluation.intervals import matched
from transfer.evaluation.measures import MEASURES, value
from transfer.evaluation.paired import (
    aligned,
    chance,
    difference,
    holm,
    mcnemar,
    name_of_test,
    of_resamples,
    paired_resamples,
)
from transfer.evaluation.predictions import Predictions

RECORD = json.loads((Path(__file__).parents[1] / "golden" / "calibration.json").read_text())


@pytest.mark.parametrize("only_first, only_second, p", RECORD["mcnemar"])
def test_mcnemar_is_statsmodels_s(only_first, only_second, p):
    first = np.repeat([True, True, False, False], [5, only_first, only_second, 7])
    second = np.repeat([True, False, True, False], [5, only_first, only_second, 7])
    found = mcnemar(first, second)
    assert found[:2] == (only_first, only_second) and found.p == pytest.approx(p, rel=1e-12)


def test_holm_is_statsmodels_s():
    np.testing.assert_allclose(holm(RECORD["holm"]["p"]), RECORD["holm"]["adjusted"], rtol=1e-12)
    assert holm([]) == [] and holm([0.3]) == [0.3]


def two_runs(rows=150, seed=0):
    """The first right on fewer rows, both mostly right on the same."""
    random = np.random.default_rng(seed)
    labels = random.integers(5, size=rows)
    shared = random.standard_normal((rows, 5))
    shared[np.arange(rows), labels] += 2
    return tuple(
        Predictions.of_logits(shared + noise * random.standard_normal((rows, 5)), labels) for noise in (0.8, 0.3)
    )


@pytest.mark.parametrize("measure", ["accuracy", "log_loss"])
def test_difference_is_scipy_s(measure):
    first, second = two_runs()
    a, b = (one.right.astype(float) if measure == "accuracy" else one.nll.astype(float) for one in (first, second))
    found = difference(first, second, measure, resamples=4000)
    theirs = stats.bootstrap(
        (a, b),
        lambda x, y, axis: y.mean(axis) - x.mean(axis),
        paired=True,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert found.value == pytest.approx(b.mean() - a.mean())
    np.testing.assert_allclose(found[1:], theirs, atol=0.06 * (theirs.high - theirs.low))
    # less uncertain than the runs by themselves
    assert found.high - found.low < 2 * 1.96 * np.hypot(a.std(), b.std()) / np.sqrt(len(a))


@pytest.mark.parametrize(
    "rows, differ", [([1000, 10], [0.1, 0.3]), ([2000, 20], [0.02, 0.2]), ([300, 300, 15], [0.1, 0.1, 0.2]),
                     ([200, 5, 5, 5], [0.1, 0.2, 0.3, 0.3]), ([100, 100, 100], [0.1, 0.1, 0.1])]
)  # fmt: skip
@pytest.mark.parametrize("for_the_second", [0.5, 0.8])
def test_differences_of_the_balanced_accuracy_cover_the_truth(rows, differ, for_the_second):
    """In 93 % of samples or more (of a few discordant rows more are unavoidable); a bootstrap's do in 86 to 95 %."""
    random, rows = np.random.default_rng(0), np.array(rows, float)
    second = np.array(differ) * for_the_second
    first = np.array(differ) - second
    drawn = [
        random.multinomial(int(n), [a, b, 1 - a - b], size=1200) for n, a, b in zip(rows, first, second, strict=True)
    ]
    a, b = (np.stack([one[:, place] for one in drawn], axis=1).astype(float) for place in (0, 1))
    low, high = intervals.class_mean_difference(a, b, rows, 0.95)
    assert np.mean((low <= (second - first).mean()) & ((second - first).mean() <= high)) >= 0.93
    p = intervals.p_of_class_mean_difference(a, b, rows)
    np.testing.assert_array_equal(p < 0.05, (low > 0) | (high < 0))
    if for_the_second == 0.5:
        assert np.mean(p < 0.05) <= 0.07  # as often as it may be wrong


@pytest.mark.parametrize("only_first, only_second", [(3, 9), (9, 3), (0, 6), (40, 41), (5, 5), (0, 0)])
def test_the_score_test_of_one_class_is_mcnemar_s_without_continuity(only_first, only_second):
    found = intervals.p_of_class_mean_difference(*(np.array([float(x)]) for x in (only_first, only_second, 100)))
    chi = abs(only_second - only_first) / np.sqrt(max(only_first + only_second, 1))
    assert found == pytest.approx(2 * stats.norm.sf(chi), rel=1e-6)


def test_a_rare_class_without_a_differing_row_is_not_certain():
    labels = np.repeat([0, 1], [1000, 10])
    first, second = (np.eye(2)[np.where(np.arange(1010) < wrong, 1 - labels, labels)] for wrong in (60, 40))
    found = difference(*(Predictions.of_logits(9 * one, labels) for one in (first, second)), "balanced_accuracy")
    assert found.value == pytest.approx(0.01) and found.low < -0.1 and found.high > 0.1


@pytest.mark.parametrize("kind, measure", [(kind, name) for kind, of_kind in MEASURES.items() for name in of_kind])
def test_every_measure_has_a_p_of_its_own(kind, measure):
    """Small where the second is plainly better by this measure, 1 of a run and itself; and it has a name."""
    random = np.random.default_rng(0)
    labels = {
        "classes": random.integers(7, size=300),
        "labels": random.random((300, 3)) < 0.3,
        "values": random.standard_normal((300, 3)),
    }[kind]
    truth = np.eye(7)[labels] * 4 if kind == "classes" else labels * 8 - 4.0 if kind == "labels" else labels
    # sure and often wrong, against less sure and seldom wrong
    worse, better = (
        Predictions.of_logits(scale * (truth + noise * random.standard_normal(truth.shape)), labels, kind=kind)
        for scale, noise in ((3, 4), (1, 0.7))
    )

    def p(a, b):
        return chance(a, b, measure, paired_resamples(a, b, measure, resamples=400))

    assert p(worse, better) < 0.01 and p(better, worse) < 0.01
    assert (value(better, measure) > value(worse, measure)) == MEASURES[kind][measure].more
    assert 0 <= value(worse, measure) <= 1 or not MEASURES[kind][measure].share
    assert p(worse, worse) == 1 and name_of_test(MEASURES[kind][measure])


def test_difference_of_a_run_to_itself():
    first, _ = two_runs()
    assert difference(first, first, "ece") == (0, 0, 0)
    found = difference(first, first, "accuracy")
    assert found.value == 0 and -0.02 < found.low == -found.high < 0  # 150 rows without one that differs are no proof


@pytest.mark.parametrize("only_first, only_second, rows", [(0, 4, 360), (2, 5, 100), (0, 0, 50), (3, 3, 2000)])
def test_intervals_of_few_rows_agree_with_the_exact_test(only_first, only_second, rows):
    low, high = matched(only_first, only_second, rows)
    cells = np.array([only_first, only_second, rows - only_first - only_second]) + [0.5, 0.5, 1]
    share = cells / cells.sum()  # Wald's interval of these cells, as Agresti and Min have it
    error = np.sqrt((share[0] + share[1] - (share[1] - share[0]) ** 2) / cells.sum())
    np.testing.assert_allclose([low, high], share[1] - share[0] + stats.norm.ppf(0.975) * error * np.array([-1, 1]))
    truths = np.repeat([True, False, True], [only_first, only_second, rows - only_first - only_second])
    others = np.repeat([False, True], [only_first, rows - only_first])
    assert (low <= 0 <= high) == (mcnemar(truths, others).p > 0.05)


@pytest.mark.parametrize("only_first, only_second, rows", [(0.02, 0.005, 100), (0.01, 0.002, 360), (0.05, 0.02, 360)])
def test_intervals_of_a_difference_cover_the_truth(only_first, only_second, rows):
    random, covered, truth = np.random.default_rng(0), 0, only_second - only_first
    chances = [only_first, only_second, 1 - only_first - only_second]
    for counts in random.multinomial(rows, chances, size=400):
        a = np.repeat([0, 1, 0], counts)
        b = np.repeat([1, 0, 0], counts)
        runs = [Predictions.of_logits(np.eye(2)[said], np.zeros(rows)) for said in (a, b)]
        resamples = random.multinomial(rows, counts / rows, size=300) @ [-1, 1, 0] / rows
        _, low, high = of_resamples(*runs, "accuracy", resamples)
        covered += low <= truth <= high
    assert covered >= 0.91 * 400


LOGITS, LABELS = np.eye(3), np.array([0, 1, 2])


def run(ids, labels=LABELS, **others):
    return Predictions.of_logits(LOGITS, labels, list(ids), **others)


def test_rows_are_aligned_by_id():
    first, second = aligned(run("abc"), run("cab", [2, 0, 1]))
    assert list(first.ids) == list(second.ids) == ["a", "b", "c"]
    np.testing.assert_array_equal(first.labels, second.labels)
    assert len(aligned(run("abc"), run("bcd", [1, 2, 0]))[0]) == 2


def test_classes_are_compared_by_name_where_they_have_one():
    aligned(run("abc", class_names="xyz"), run("abc", [2, 1, 0], class_names="zyx"))
    with pytest.raises(TransferError, match="2 of 3 rows"):
        aligned(run("abc", class_names="xyz"), run("abc", [2, 1, 0], class_names="xyz"))


APART = {
    "no row": (run("def"), "no validation row in common"),
    "other labels": (run("abc", [0, 2, 1]), "2 of 3 rows with the same id have another label, first 'b'"),
    "another kind": (Predictions.of_logits(LOGITS, LOGITS, list("abc"), kind="values"), "one predicts classes"),
}


@pytest.mark.parametrize("other, message", APART.values(), ids=APART)
def test_what_cannot_be_compared(other, message):
    with pytest.raises(TransferError, match=message):
        aligned(run("abc"), other)
