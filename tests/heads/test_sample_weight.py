"""Weights of rows: 0 is no row, 2 is two rows, and the optima are those of scikit-learn's own weighted fits."""

import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.model_selection import cross_val_score
from sklearn.utils.validation import has_fit_parameter

from tests.heads.every_head import CLASSES, quick
from transfer.errors import RowsError, UsageError
from transfer.heads import (
    KnnProbe,
    KnnRegressor,
    LogisticProbe,
    MlpProbe,
    NearestMeanProbe,
    RidgeProbe,
    RidgeRegressor,
    SgdProbe,
)
from transfer.heads.estimator import Regressor

pytestmark = pytest.mark.usefixtures("compiled_quickly")

DIGITS, LABELS = load_digits(return_X_y=True)
X, Y, XV = DIGITS[:120].astype(np.float32), LABELS[:120], DIGITS[120:300].astype(np.float32)
RANDOM = np.random.default_rng(0)
WHOLE = RANDOM.integers(0, 4, len(X))
PARTS = RANDOM.uniform(0, 3, len(X)) * (RANDOM.random(len(X)) < 0.9)
SEVERAL = np.stack([Y % 2, Y > 4, Y == 3], axis=1).astype(int)
WEIGHED = [name for name in CLASSES if has_fit_parameter(CLASSES[name](), "sample_weight")]


def y_of(head):
    return X[:, [20, 30]] * 2 + 1 if isinstance(head, Regressor) else Y


def test_neighbours_alone_take_none():
    assert set(CLASSES) - set(WEIGHED) == {"KnnProbe", "KnnRegressor"}
    for head in (KnnProbe(), KnnRegressor()):
        with pytest.raises(TypeError, match="sample_weight"):
            head.fit(X, y_of(head), sample_weight=WHOLE)


@pytest.mark.parametrize("scaling", [None, "standard"])
@pytest.mark.parametrize("name", WEIGHED)
def test_rows_of_weight_0_are_left_out_to_the_bit(name, scaling):
    head = quick(name, epochs=2, scaling=scaling)
    kept = (WHOLE > 0) & (Y != 7)  # and a whole class
    y = y_of(head)
    found = head.fit(X, y, sample_weight=kept).logits(XV)
    np.testing.assert_array_equal(found, quick(name, epochs=2, scaling=scaling).fit(X[kept], y[kept]).logits(XV))
    if not isinstance(head, Regressor):
        assert 7 not in head.classes_


REPEATED = {
    "logistic": (LogisticProbe(0.1, scaling=None), 0.02),
    "logistic, balanced": (LogisticProbe(0.1, scaling=None, class_weight="balanced"), 0.02),
    "ridge": (RidgeProbe(10.0), 1e-4),
    "ridge, balanced": (RidgeProbe(10.0, class_weight="balanced"), 1e-4),
    "ridge, wide": (RidgeProbe(10.0, scaling="whiten"), 1e-3),
    "ridge, values": (RidgeRegressor(10.0), 1e-3),
    "means": (NearestMeanProbe(), 1e-3),
    "means, cosine": (NearestMeanProbe("cosine"), 1e-3),
}


@pytest.mark.parametrize("scaling", [None, "standard", "whiten", "columns", "whole"])
@pytest.mark.parametrize("head, tolerance", REPEATED.values(), ids=REPEATED)
def test_whole_weights_are_rows_that_repeat(head, tolerance, scaling):
    head.set_params(scaling=scaling)
    y = y_of(head)
    weighted = head.fit(X, y, sample_weight=WHOLE).logits(XV)
    repeated = head.fit(X.repeat(WHOLE, axis=0), y.repeat(WHOLE, axis=0)).logits(XV)
    np.testing.assert_allclose(weighted, repeated, atol=tolerance * np.abs(repeated).max())


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_whole_weights_of_rows_with_several_labels(metric):
    for head in (NearestMeanProbe(metric), RidgeProbe(5.0), LogisticProbe(0.1, scaling=None)):
        weighted = head.fit(X, SEVERAL, sample_weight=WHOLE).predict_proba(XV)
        repeated = head.fit(X.repeat(WHOLE, axis=0), SEVERAL.repeat(WHOLE, axis=0)).predict_proba(XV)
        np.testing.assert_allclose(weighted, repeated, atol=5e-3)


@pytest.mark.parametrize("name", ["SgdProbe", "SgdRegressor", "MlpProbe"])
def test_of_heads_trained_step_by_step_whole_weights_repeat_rows_that_are_one_batch(name):
    """A batch's loss is over its rows, not over their weights; Adam steps alike whatever the gradient's size."""
    head, x, weight = quick(name, batch_size=1000, epochs=10, momentum=0.5), X / 16, WHOLE + 1
    y, rate = y_of(head), 0.05 if name.startswith("Sgd") else 1e-3
    repeated = head.set_params(learning_rate=rate).fit(x.repeat(weight, axis=0), y.repeat(weight, axis=0))
    expected = repeated.logits(XV / 16)
    rate *= len(x) / weight.sum() if name.startswith("Sgd") else 1
    found = head.set_params(learning_rate=rate).fit(x, y, sample_weight=weight).logits(XV / 16)
    np.testing.assert_allclose(found, expected, atol=1e-2 * np.abs(expected).max())


def test_the_loss_of_a_batch_is_the_weighted_sum_over_its_rows():
    x, weight = (X / 16).astype(np.float64), PARTS + 0.1
    head = SgdProbe(epochs=1, batch_size=len(x), learning_rate=0.5, momentum=0.0, shuffle=False)
    start = head.fit(x, Y, sample_weight=np.full(len(x), 1e-20)).coef_.astype(np.float64)
    scores = x @ start.T
    wrong = np.exp(scores - logsumexp(scores, axis=1, keepdims=True)) - np.eye(10)[Y]
    expected = start - 0.5 * (weight[:, None] * wrong).T @ x / len(x)
    np.testing.assert_allclose(head.fit(x, Y, sample_weight=weight).coef_, expected, atol=1e-5)


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_logistic_is_scikit_learns(classes, class_weight):
    x, y, C = X / 16, Y % classes, 1.0
    ours = LogisticProbe(C, scaling=None, class_weight=class_weight).fit(x, y, sample_weight=PARTS)
    theirs = LogisticRegression(C=C, class_weight=class_weight, solver="newton-cholesky", tol=1e-8, max_iter=1000).fit(
        x.astype(np.float64), y, sample_weight=PARTS
    )
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x.astype(np.float64)), atol=0.02)
    scores, expected = ours.decision_function(x), theirs.decision_function(x.astype(np.float64))
    assert scores.shape == expected.shape
    if classes > 2:  # up to what all classes share
        scores, expected = (values - values.mean(axis=1, keepdims=True) for values in (scores, expected))
    np.testing.assert_allclose(scores, expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize("rows", [120, 30])
@pytest.mark.parametrize("alpha", [1e-2, 10.0])
def test_ridge_is_scikit_learns(rows, alpha):
    x, y, weight = X[:rows].astype(np.float64), Y[:rows], PARTS[:rows]
    present = np.isin(y, np.unique(y[weight > 0]))
    x, y, weight = x[present], y[present], weight[present]
    ours, theirs = RidgeProbe(alpha), RidgeClassifier(alpha=alpha)
    for head in (ours, theirs):
        head.fit(x, y, sample_weight=weight)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-5)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-5)
    np.testing.assert_allclose(ours.decision_function(x) * ours.temperature_, theirs.decision_function(x), atol=1e-4)
    values = (x[:, 20] - 2 * x[:, 30] + 100) / 7
    of_values = Ridge(alpha).fit(x, values, sample_weight=weight)
    found = RidgeRegressor(alpha).fit(x, values, sample_weight=weight)
    np.testing.assert_allclose(found.predict(DIGITS), of_values.predict(DIGITS), rtol=1e-4, atol=1e-3)


def test_means_are_weighted_means():
    head = NearestMeanProbe().fit(X, Y, sample_weight=PARTS)
    expected = [np.average(X[label == Y], axis=0, weights=PARTS[label == Y]) for label in range(10)]
    np.testing.assert_allclose(head.means_, expected, atol=1e-4)


BAD = {
    "lengths": (np.ones(3), "sample_weight"),
    "columns": (np.ones((len(X), 2)), "sample_weight.*1D"),
    "NaN": (np.full(len(X), np.nan), "sample_weight.*NaN"),
    "below 0": (np.full(len(X), -1.0), "sample_weight must be 0 or more"),
    "none": (np.zeros(len(X)), "sample_weight"),
}


@pytest.mark.parametrize("weight, message", BAD.values(), ids=BAD)
def test_bad_weights_are_one_clear_line(weight, message):
    with pytest.raises(RowsError, match=message) as caught:
        RidgeProbe().fit(X, Y, weight)
    assert "\n" not in str(caught.value)
    with pytest.raises(RowsError, match="120 rows of features but 3 labels"):
        RidgeProbe().fit(X, Y[:3], WHOLE)


def test_weights_that_are_taken_for_validation_rows():
    with pytest.raises(UsageError, match=r"validation_data must be \(features, labels\), not 120 things"):
        MlpProbe(epochs=1).fit(X, Y, WHOLE)


@pytest.mark.parametrize("name", [name for name in CLASSES if name.endswith("Probe")])
def test_decision_function_has_the_shapes_of_scikit_learn(name):
    head = quick(name, epochs=2)
    for y, shape in ((Y % 2, (len(XV),)), (Y, (len(XV), 10)), (SEVERAL, (len(XV), 3))):
        scores, predicted = head.fit(X, y).decision_function(XV), head.predict(XV)
        assert scores.shape == shape and scores.dtype == np.float32
        chosen = scores.argmax(axis=1) if y is Y else scores > 0
        np.testing.assert_array_equal(chosen, predicted)
    if name == "RidgeProbe":
        assert cross_val_score(head, X, Y % 2, scoring="roc_auc", cv=3).min() > 0.8


def test_steps_are_counted():
    assert SgdProbe(epochs=3).fit(X, Y).n_iter_ == MlpProbe(epochs=3).fit(X, Y).n_iter_ == 3
    assert 1 < LogisticProbe().fit(X, Y).n_iter_ < 1000
