"""Nearest class mean: scikit-learn's `NearestCentroid`, with probabilities from rows that were left out."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestCentroid

from transfer.errors import UsageError
from transfer.heads import NearestMeanProbe, temperature
from transfer.heads.estimator import Rows
from transfer.heads.nearest_mean_probe import _scores_without, _sums
from transfer.heads.scaling import unit_rows
from transfer.heads.targets import Targets

DIGITS, LABELS = load_digits(return_X_y=True)
X, Y, XV = DIGITS[:300].astype(np.float32), LABELS[:300], DIGITS[300:].astype(np.float32)


@pytest.mark.filterwarnings("ignore:self.within_class_std_dev_")  # scikit-learn's, of pixels that are always 0
@pytest.mark.parametrize("offset", [0, 1e4])
def test_it_is_scikit_learns_nearest_centroid(offset):
    ours, theirs = NearestMeanProbe().fit(X + offset, Y), NearestCentroid().fit(X, Y)
    np.testing.assert_array_equal(ours.predict(XV + offset), theirs.predict(XV))
    np.testing.assert_allclose(ours.means_ - offset, theirs.centroids_, atol=2e-3 if offset else 1e-5)


def test_cosine_is_nearest_by_angle():
    probe = NearestMeanProbe("cosine").fit(X, Y)
    means = np.stack([unit_rows(X[label == Y]).mean(axis=0) for label in range(10)])
    expected = (unit_rows(XV) @ unit_rows(means).T).argmax(axis=1)
    np.testing.assert_array_equal(probe.predict(XV), expected)
    np.testing.assert_allclose(probe.means_, unit_rows(means), atol=1e-6)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_leaving_a_row_out_is_means_without_it(metric):
    x = (unit_rows(X) if metric == "cosine" else X)[:60].astype(np.float64)

    def sums(which):
        return _sums(x[which], Rows(x[which], Targets("classes", Y[which], 10), None))

    found = _scores_without(x, Y[:60, None] == np.arange(10), sums(np.arange(60)), metric)
    for row in range(0, 60, 7):
        prototypes = sums(np.delete(np.arange(60), row)).prototypes(metric)
        expected = prototypes @ x[row] - np.square(prototypes).sum(axis=1) / 2
        np.testing.assert_allclose(found[row], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("kind", ["classes", "labels"])
def test_the_temperature_is_that_of_rows_each_scored_by_means_without_it(metric, kind):
    """But for rows that are alone in their class, or alone have a label, or alone lack one."""
    x, y = X[:40], np.where(np.arange(40) == 7, 9, Y[:40] % 3)
    several = np.stack([Y[:40] % 2, Y[:40] > 4, np.arange(40) == 7, np.arange(40) != 9], axis=1).astype(int)
    kept = np.flatnonzero(np.arange(40) != 7) if kind == "classes" else np.delete(np.arange(40), [7, 9])
    probe = NearestMeanProbe(metric).fit(x, y if kind == "classes" else several)
    scores = []
    for row in kept:
        others, target = np.delete(np.arange(40), row), y if kind == "classes" else several
        alone = NearestMeanProbe(metric).fit(x[others], target[others])
        logits = alone.logits(x[[row]])[0] * alone.temperature_
        # scores of "l2" are but for what the centre, which is that of the rows, adds to all classes
        scores.append(logits)
    expected = temperature.fit(np.array(scores), probe._known(target[kept], len(kept)))
    assert probe.temperature_ == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_probabilities_are_about_as_sure_as_right(metric):
    probe = NearestMeanProbe(metric).fit(X, Y)
    sure = probe.predict_proba(XV).max(axis=1).mean()
    assert sure == pytest.approx(probe.score(XV, LABELS[300:]), abs=0.08)


def test_several_labels():
    several = np.stack([Y % 2, Y > 4, Y * 0, Y * 0 + 1], axis=1)
    found = NearestMeanProbe().fit(X, several)
    for label in range(2):
        alone = NearestMeanProbe().fit(X, several[:, label])
        np.testing.assert_array_equal(found.predict(XV)[:, label], alone.predict(XV))
    # of a label that no row has, or each, there is nothing to tell
    assert not found.predict(XV)[:, 2].any() and found.predict(XV)[:, 3].all()


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize(
    "x, y", [(np.eye(3), ["a", "b", "c"]), (np.ones((1, 2)), [4]), (np.zeros((4, 2)), [0, 0, 1, 1])]
)
def test_rows_that_say_little(metric, x, y):
    probe = NearestMeanProbe(metric).fit(x, y)
    assert np.isfinite(probe.predict_proba(x)).all() and probe.temperature_ > 0
    assert probe.predict(x).tolist() == list(y) or not x.any()


def test_bad_use_is_one_clear_line():
    with pytest.raises(UsageError, match="metric must be a str among {'cosine', 'l2'}, not 'l1'"):
        NearestMeanProbe("l1").fit(X, Y)
