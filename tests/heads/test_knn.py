"""kNN: exact, equal to scikit-learn's, in blocks as at once; votes by temperature as DINO counts them."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from transfer.errors import UsageError
from transfer.evaluation.predictions import Predictions
from transfer.evaluation.summary import summary
from transfer.heads import KnnProbe, KnnRegressor, knn_probe
from transfer.heads.scaling import unit_rows

DIGITS, LABELS = load_digits(return_X_y=True)
# without ties, which are settled by chance
DIGITS = (DIGITS + np.random.default_rng(0).uniform(0, 1, DIGITS.shape)).astype(np.float32)
X, Y, XV, YV = DIGITS[:600], LABELS[:600], DIGITS[600:900], LABELS[600:900]
METRICS = {"cosine": "cosine", "l2": "euclidean"}
SEVERAL = np.stack([LABELS % 2, LABELS > 4, LABELS == 3], axis=1).astype(int)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 5, 20])
def test_equal_votes_are_scikit_learns(metric, k):
    ours = KnnProbe(k, None, metric).fit(X, Y)
    theirs = KNeighborsClassifier(k, metric=METRICS[metric], algorithm="brute").fit(X, Y)
    np.testing.assert_array_equal(ours.predict(XV), theirs.predict(XV))
    np.testing.assert_allclose(ours.predict_proba(XV), theirs.predict_proba(XV), atol=2e-6)


@pytest.mark.parametrize("k, temperature", [(1, None), (1, 0.07), (3, None), (20, None), (20, 0.07), (600, None)])
@pytest.mark.parametrize("names", ["abcdefghij", "jihgfedcba", "ecafbdhgij"])
def test_a_class_without_a_vote_is_not_among_the_five(k, temperature, names):
    """Whatever the classes are called: of one neighbour top-5 is the accuracy."""
    called = np.array(list(names))
    probe = KnnProbe(k, temperature).fit(X, called[Y])
    places = np.argsort(np.argsort(called))
    measured = summary(Predictions.of_logits(probe.logits(XV), places[YV]), resamples=2)
    nearest = knn_probe.search(unit_rows(XV), probe.rows_, k, "cosine")[1]
    voted = (Y[nearest] == YV[:, None]).any(axis=1).mean()
    accuracy, among = measured["accuracy"]["value"], measured["top_5_accuracy"]["value"]
    assert among <= voted + 1e-6 and (k > 1 or among == accuracy)
    same = summary(Predictions.of_logits(KnnProbe(k, temperature).fit(X, Y).logits(XV), YV), resamples=2)
    assert among == same["top_5_accuracy"]["value"]


def test_several_labels_and_values_are_scikit_learns_too():
    theirs = KNeighborsClassifier(6, algorithm="brute").fit(X, SEVERAL[:600])
    ours = KnnProbe(6, None, "l2").fit(X, SEVERAL[:600])
    np.testing.assert_array_equal(ours.predict(XV), theirs.predict(XV))
    expected = np.stack([of_label[:, 1] for of_label in theirs.predict_proba(XV)], axis=1)
    np.testing.assert_allclose(ours.predict_proba(XV), expected, atol=2e-6)
    values = np.stack([X[:, 20], X[:, 30] * 2], axis=1)
    for y in (values, values[:, 0]):
        found = KnnRegressor().fit(X, y).predict(XV)
        np.testing.assert_allclose(found, KNeighborsRegressor().fit(X, y).predict(XV), rtol=1e-5)


def test_votes_by_temperature_are_those_of_dino():
    """Softmax over the k neighbours' similarities, times 1 / 0.07, summed by class."""
    probe = KnnProbe(20, 0.07).fit(X, Y)
    units = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (X.astype(np.float64), XV)]
    similarities = units[1] @ units[0].T
    nearest = np.argsort(-similarities, axis=1)[:, :20]
    votes = np.exp(np.take_along_axis(similarities, nearest, axis=1) / 0.07)
    expected = np.stack([(votes * (Y[nearest] == label)).sum(axis=1) for label in range(10)], axis=1)
    np.testing.assert_allclose(probe.predict_proba(XV), expected / votes.sum(axis=1, keepdims=True), atol=1e-5)
    # l2 on rows of unit norm is the same
    same = KnnProbe(20, 0.07, "l2", scaling="l2").fit(X, Y)
    np.testing.assert_allclose(same.predict_proba(XV), probe.predict_proba(XV), atol=1e-4)


@pytest.mark.parametrize("metric", METRICS)
def test_blocks_are_searched_as_if_at_once(metric, monkeypatch):
    rows, queries = (unit_rows(x) if metric == "cosine" else x - X.mean(axis=0) for x in (X, XV[:70]))
    whole = knn_probe.search(queries, rows, 9, metric)
    monkeypatch.setattr(knn_probe, "BLOCK", 250)
    monkeypatch.setattr(knn_probe, "MAX_QUERIES", 32)
    some = knn_probe.search(queries, rows, 9, metric)
    np.testing.assert_array_equal(some[1], whole[1])
    np.testing.assert_allclose(some[0], whole[0], rtol=1e-5, atol=1e-4)
    assert (np.diff(whole[0], axis=1) <= 0).all()


def test_rows_far_from_zero_keep_their_distances():
    near = KnnProbe(3, None, "l2").fit(X + 1e4, Y)
    np.testing.assert_array_equal(near.predict(XV + 1e4), KnnProbe(3, None, "l2").fit(X, Y).predict(XV))


def test_no_row_is_nearer_than_one_that_equals_it():
    similarities, index = knn_probe.search(X, X, 2, "l2")
    np.testing.assert_array_equal(index[:, 0], np.arange(len(X)))
    assert (similarities <= 0).all() and (similarities[:, 0] > -0.01).all()  # of -1,000 and less


def test_many_settings_from_one_search(monkeypatch):
    calls, search = [], knn_probe.search
    monkeypatch.setattr("transfer.heads.knn_probe.search", lambda *args: calls.append(args[2]) or search(*args))
    grid = {"n_neighbors": [1, 9, 3], "temperature": [None, 0.1, 0.07]}
    scores = KnnProbe().fit_many(X, Y, grid)(XV)
    assert calls == [9]
    for place, found in enumerate(scores):
        alone = KnnProbe(grid["n_neighbors"][place], grid["temperature"][place]).fit(X, Y)
        np.testing.assert_allclose(found, alone.logits(XV), rtol=1e-5, atol=1e-5)


def test_more_neighbours_than_rows_and_rows_of_zeros():
    few = KnnProbe(50, None).fit(X[:4], ["a", "b", "b", "b"])
    assert set(few.predict(XV)) == {"b"}
    assert few.logits(XV).shape == (300, 2) and np.isfinite(few.logits(np.zeros((1, 64)))).all()
    assert np.isfinite(KnnProbe(1).fit(X[:3] * 0, [1, 2, 3]).logits(X)).all()


def test_weights_of_classes_weigh_votes():
    heavy = KnnProbe(30, None, class_weight={label: 1000 if label == 3 else 1 for label in range(10)}).fit(X, Y)
    light = KnnProbe(30, None, class_weight={label: label != 3 for label in range(10)}).fit(X, Y)
    assert (heavy.predict(XV) == 3).sum() > (YV == 3).sum() and not (light.predict(XV) == 3).any()


BAD = {
    "metric": (dict(metric="l1"), "metric must be a str among {'cosine', 'l2'}, not 'l1'"),
    "k": (dict(n_neighbors=0), r"n_neighbors must be an int in the range \[1, inf\), not 0"),
    "temperature": (dict(temperature=0.0), r"temperature must be a float in the range \(0.0, inf\) or None, not 0.0"),
}


@pytest.mark.parametrize("parameters, message", BAD.values(), ids=BAD.keys())
def test_bad_use_is_one_clear_line(parameters, message):
    with pytest.raises(UsageError, match=message):
        KnnProbe(**parameters).fit(X, Y)
