"""Ridge: scikit-learn's optimum for every penalty from one decomposition, and probabilities from rows left out."""

import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge, RidgeClassifier

from transfer.errors import UsageError
from transfer.heads import RidgeProbe, RidgeRegressor, ridge_probe, temperature
from transfer.heads.ridge_probe import ALPHAS, Spectrum

DIGITS, LABELS = load_digits(return_X_y=True)
# Rows, classes: more rows than columns, fewer rows than columns, two classes.
SIZES = {"tall": (400, 10), "wide": (40, 10), "two classes": (100, 2)}


def rows(size):
    count, classes = SIZES[size]
    own = classes > LABELS
    return DIGITS[own][:count].astype(np.float32), LABELS[own][:count]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weight", [None, "balanced", "by hand"])
@pytest.mark.parametrize("alpha", [1e-2, 10.0])
def test_it_is_scikit_learns_ridge_classifier(size, weight, alpha):
    x, y = rows(size)
    weight = {0: 20.0, 1: 0.1} | dict.fromkeys(range(2, 10), 1) if weight == "by hand" else weight
    weight = {label: weight[label] for label in np.unique(y)} if isinstance(weight, dict) else weight
    ours = RidgeProbe(alpha, class_weight=weight).fit(x, y)
    theirs = RidgeClassifier(alpha=alpha, class_weight=weight).fit(x.astype(np.float64), y)
    coefficients, intercept = theirs.coef_, theirs.intercept_
    if len(ours.classes_) == 2:  # scikit-learn has a row for the second alone
        coefficients, intercept = np.vstack([-coefficients, coefficients]), np.r_[-intercept, intercept]
    np.testing.assert_allclose(ours.coef_, coefficients, atol=1e-5)
    np.testing.assert_allclose(ours.intercept_, intercept, atol=1e-5)
    np.testing.assert_array_equal(ours.predict(DIGITS), theirs.predict(DIGITS))
    assert ours.predict_proba(DIGITS).argmax(axis=1).tolist() == ours.logits(DIGITS).argmax(axis=1).tolist()


def test_several_labels_are_scikit_learns_too():
    x, y = rows("tall")
    several = np.stack([y % 2, y > 4, y == 3], axis=1).astype(int)
    ours, theirs = RidgeProbe(3.0).fit(x, several), RidgeClassifier(alpha=3.0).fit(x, several)
    np.testing.assert_array_equal(ours.predict(DIGITS), theirs.predict(DIGITS.astype(np.float32)))
    assert ((ours.predict_proba(DIGITS) > 0.5) == ours.predict(DIGITS)).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("columns", [1, 3])
def test_the_regressor_is_scikit_learns_ridge(size, columns):
    x, _ = rows(size)
    y = (x[:, :columns] - 2 * x[:, 30 : 30 + columns] + 100) / 7
    ours, theirs = RidgeRegressor(0.5).fit(x, y), Ridge(0.5).fit(x.astype(np.float64), y)
    np.testing.assert_allclose(ours.predict(DIGITS), theirs.predict(DIGITS).reshape(-1, columns), rtol=1e-4, atol=1e-3)
    assert RidgeRegressor(0.5).fit(x, y[:, 0]).predict(DIGITS).shape == (len(DIGITS),)


@pytest.mark.parametrize("size", SIZES)
def test_every_penalty_is_fitted_from_one_decomposition(size, monkeypatch):
    x, y = rows(size)
    calls = []
    monkeypatch.setattr(ridge_probe, "Spectrum", lambda *args: calls.append(1) or Spectrum(*args))
    scores = RidgeProbe(scaling="standard").fit_many(x, y, {"alpha": ALPHAS})(DIGITS)
    assert scores.shape == (len(ALPHAS), len(DIGITS), len(np.unique(y))) and len(calls) == 1
    for alpha, found in zip(ALPHAS[::4], scores[::4], strict=True):
        alone = RidgeProbe(alpha, scaling="standard").fit(x, y).logits(DIGITS)
        np.testing.assert_allclose(found, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(12, 5), (12, 30)])
@pytest.mark.parametrize("weighted", [False, True])
def test_leaving_a_row_out_is_fitting_without_it(shape, weighted):
    random = np.random.default_rng(0)
    x, y = random.normal(size=shape).astype(np.float32), random.normal(size=(len(range(shape[0])), 2))
    weight = random.uniform(0, 2, shape[0]) if weighted else None
    found = Spectrum(x, y.__getitem__, weight).left_out(0.7, np.arange(12))
    for row in range(12):
        others = np.delete(np.arange(12), row)
        alone = Spectrum(x[others], y[others].__getitem__, None if weight is None else weight[others])
        kernel, bias = alone.coefficients(0.7)
        np.testing.assert_allclose(found[row], x[row] @ kernel + bias, rtol=1e-6, atol=1e-6)


def test_without_a_penalty_it_is_the_least_of_all_that_fit():
    x, y = rows("wide")
    found, theirs = RidgeRegressor(0.0).fit(x, y), np.linalg.pinv(x - x.mean(0, np.float64)) @ (y - y.mean())
    np.testing.assert_allclose(found.predict(x), y, atol=1e-3)
    np.testing.assert_allclose(found.coef_[0], theirs, atol=1e-5)


def test_the_temperature_is_the_best():
    x, y = rows("tall")
    probe = RidgeProbe(10.0).fit(x, y)
    targets_of = (2.0 * np.eye(10)[y] - 1).__getitem__
    scores = Spectrum(x, targets_of).left_out(10.0, np.arange(400))

    def loss(divisor):
        return (logsumexp(scores / divisor, axis=1) - scores[range(400), y] / divisor).mean()

    best = min(np.geomspace(0.01, 10, 400), key=loss)
    assert probe.temperature_ == pytest.approx(best, rel=0.1)
    # on other rows, too, far better than scores as they are
    logits, others = probe.logits(DIGITS[400:]), LABELS[400:]
    losses = [
        (logsumexp(values, axis=1) - values[range(len(others)), others]).mean()
        for values in (logits, logits * probe.temperature_)
    ]
    assert losses[0] < 0.7 * losses[1]


@pytest.mark.parametrize(
    "x, y",
    {
        "one row": (np.ones((1, 3)), [5]),
        "equal rows": (np.ones((6, 3)), [0, 1, 2, 0, 1, 2]),
        "separable": (np.array([[-1.0], [-2], [1], [2]]), [0, 0, 1, 1]),
        "one class": (np.eye(4), ["a"] * 4),
        "huge": (np.eye(4) * 1e30, [0, 1, 0, 1]),
    }.values(),
)
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_rows_that_say_little(x, y, alpha):
    probe = RidgeProbe(alpha).fit(x, y)
    probabilities = probe.predict_proba(x)
    assert np.isfinite(probe.logits(x)).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    if len(np.unique(x)) > 2:
        assert probe.score(x, y) == 1 and temperature.fit(np.zeros((4, 2)), probe._known(y, 4)) == 1


@pytest.mark.parametrize("alpha", [-1, float("nan"), float("inf")])
def test_a_bad_penalty(alpha):
    with pytest.raises(UsageError, match=r"alpha must be a float in the range \[0.0, inf\), not"):
        RidgeProbe(alpha).fit(*rows("wide"))
    with pytest.raises(UsageError, match=r"alpha must be a float in the range \[0.0, inf\), not"):
        RidgeProbe().fit_many(*rows("wide"), {"alpha": [1.0, alpha]})
