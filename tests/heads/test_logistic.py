"""Logistic regression at its optimum: scikit-learn's, whatever the rows, the penalty and the features' scale."""

import warnings

import numpy as np
import pytest
from scipy.special import expit, logsumexp, softmax
from sklearn.datasets import load_digits, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from transfer.errors import UsageError
from transfer.heads import LogisticProbe, logistic_path
from transfer.heads.logistic_probe import GRID

DIGITS, LABELS = load_digits(return_X_y=True)
STANDARD = (DIGITS - DIGITS.mean(0)) / np.where(DIGITS.std(0) > 0, DIGITS.std(0), 1)
RANDOM = np.random.default_rng(0)


def unequal_columns(x):
    return x * np.geomspace(0.01, 100, x.shape[1])


def one_row_each():
    rows = [np.flatnonzero(label == LABELS)[0] for label in range(10)]
    return STANDARD[rows], LABELS[rows]


# Name -> features, labels, C, class weight.
CASES = {
    "digits": (STANDARD[:600], LABELS[:600], 1.0, None),
    "digits, a strong penalty": (STANDARD[:600], LABELS[:600], 1e-5, None),
    "digits, a weak penalty": (STANDARD[:600], LABELS[:600], 1e4, None),
    "digits, weights": (STANDARD[:600], LABELS[:600], 0.1, {0: 20.0, 1: 0.1} | dict.fromkeys(range(2, 10), 1.0)),
    "two classes": (STANDARD[LABELS < 2][:100], LABELS[LABELS < 2][:100], 1.0, None),
    "two classes that overlap": (STANDARD[:600], (LABELS % 2)[:600], 10.0, "balanced"),
    "fewer rows than columns": (STANDARD[:40], LABELS[:40], 1.0, None),
    "fewer rows, a weak penalty": (STANDARD[:40], LABELS[:40], 1e4, None),
    "separable": (STANDARD[:600], (LABELS[:600] == 0).astype(int), 1e5, None),
    "small features": (DIGITS[:600] / 1000, LABELS[:600], 1.0, None),
    "large features": (DIGITS[:600] * 100, LABELS[:600], 1e-4, None),
    "unequal features": (unequal_columns(STANDARD[:600]), LABELS[:600], 1e-3, None),
    "far from the origin": (DIGITS[:600] / 16 + 50, LABELS[:600], 1.0, None),
    "one row a class": (*one_row_each(), 1.0, None),
    "rare classes": (STANDARD[:600], np.where(RANDOM.random(600) < 0.98, 0, LABELS[:600]), 1.0, None),
}


def mean_objective(x, wide, weight, coefficients, intercept, C):
    """In float64, per row. `wide` (N, C), or (N, 1) for one sigmoid."""
    scores = x.astype(np.float64) @ coefficients.T.astype(np.float64) + intercept
    if wide.shape[1] == 1:
        losses = np.logaddexp(0, scores[:, 0]) - wide[:, 0] * scores[:, 0]
    else:
        losses = logsumexp(scores, axis=1) - (wide * scores).sum(1)
    return (weight @ losses + np.sum(np.float64(coefficients) ** 2) / (2 * C)) / weight.sum()


def column_of_two(probe):
    """scikit-learn's one row of coefficients."""
    return probe.coef_[1:] - probe.coef_[:1], probe.intercept_[1:] - probe.intercept_[:1]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_optimum_is_scikit_learns(case):
    x, y, C, class_weight = CASES[case]
    ours = LogisticProbe(C, scaling=None, class_weight=class_weight).fit(x, y)
    theirs = LogisticRegression(C=C, class_weight=class_weight, solver="newton-cholesky", tol=1e-8, max_iter=1000)
    theirs.fit(x, y)
    two = len(theirs.classes_) == 2
    wide = (y[:, None] == theirs.classes_[1:] if two else y[:, None] == theirs.classes_).astype(float)
    given = class_weight if isinstance(class_weight, dict) else {}
    if class_weight == "balanced":
        given = {label: len(y) / (2 * np.sum(y == label)) for label in (0, 1)}
    weight = np.array([given.get(label, 1.0) for label in y])
    found = column_of_two(ours) if two else (ours.coef_, ours.intercept_)
    reached = mean_objective(x, wide, weight, *found, C)
    best = mean_objective(x, wide, weight, theirs.coef_, theirs.intercept_, C)
    assert -1e-7 < reached - best < 2e-5
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=0.02)


@pytest.mark.slow
def test_many_penalties_are_as_good_as_each_alone():
    x, y = STANDARD[:600], LABELS[:600]
    values = [*GRID[::-1], 1.0, 1.0]  # in any order, and again
    scores = LogisticProbe(scaling=None).fit_many(x, y, {"C": values})(STANDARD[600:])
    assert scores.shape == (len(values), len(STANDARD) - 600, 10) and scores.dtype == np.float32
    np.testing.assert_array_equal(scores[-1], scores[-2])
    wide, ones = np.eye(10)[y], np.ones(len(y))
    found = logistic_path.logistic_path(x, wide, "classes", 1 / np.array(values))
    for place in (0, 10, 20, 30, 44):
        alone = LogisticProbe(values[place], scaling=None).fit(x, y)
        reached = [
            mean_objective(x, wide, ones, kernel, bias, values[place])
            for kernel, bias in (
                (np.asarray(found.kernel[place]).T, np.asarray(found.bias[place])),
                (alone.coef_, alone.intercept_),
            )
        ]
        assert abs(reached[0] - reached[1]) < 2e-5
        agree = scores[place].argmax(axis=1) == alone.predict(STANDARD[600:])
        assert agree.mean() > 0.995


@pytest.mark.slow
def test_several_labels_are_a_scikit_learn_head_each():
    x, several = STANDARD[:600], np.stack([LABELS[:600] % 2, LABELS[:600] > 4, LABELS[:600] == 3], axis=1).astype(int)
    probe = LogisticProbe(0.1, scaling=None).fit(x, several)
    assert probe.predict(x).shape == several.shape
    for label, column in enumerate(several.T):
        theirs = LogisticRegression(C=0.1, tol=1e-8, max_iter=1000).fit(x, column)
        np.testing.assert_allclose(probe.predict_proba(x)[:, label], theirs.predict_proba(x)[:, 1], atol=0.01)
        np.testing.assert_allclose(probe.coef_[label], theirs.coef_[0], atol=0.01)


@pytest.mark.parametrize(
    "given, padded",
    [((1, 1), (32, 8)), ((32, 8), (32, 8)), ((33, 9), (64, 16)), ((257, 33), (512, 64)), ((512, 64), (512, 64)),
     ((513, 65), (513, 65))],
)  # fmt: skip
def test_small_problems_share_the_shapes_that_are_compiled(given, padded):
    x, weight = np.ones(given, np.float32), np.arange(1, given[0] + 1)
    rows, one_hot, weights = logistic_path._pad(x, np.ones((given[0], 3)), weight)
    assert rows.shape == padded and one_hot.shape == (3, padded[0]) and weights.shape == padded[:1]
    np.testing.assert_array_equal(rows, np.arange(padded[1]) < np.full((padded[0], 1), given[1]))
    np.testing.assert_array_equal(weights, np.pad(weight, (0, padded[0] - given[0])))


@pytest.mark.parametrize("kind, rotate", [("classes", True), ("labels", False)])
def test_the_start_knows_the_shares_of_classes_and_nothing_else(kind, rotate):
    x, weight = STANDARD[:32] * 7 + 3, np.linspace(0.5, 2, 32).astype(np.float32)
    one_hot = np.eye(3, dtype=np.float32)[np.arange(32) % 5 % 3].T
    problem = logistic_path._prepare(x.astype(np.float32), one_hot, weight, kind=kind, rotate=rotate)
    kernel, bias = logistic_path._to_features(problem.start[None], problem)
    assert not np.any(kernel)
    shares = softmax(bias[0]) if kind == "classes" else expit(bias[0])
    np.testing.assert_allclose(shares, one_hot @ weight / weight.sum(), rtol=1e-5)
    np.testing.assert_allclose(problem.centre, weight @ x / weight.sum(), rtol=1e-4, atol=1e-4)


def test_wide_rows_are_solved_as_they_are(monkeypatch):
    x, y = STANDARD[:600], LABELS[:600]
    rotated = LogisticProbe(scaling=None).fit(x, y)
    monkeypatch.setattr(logistic_path, "MAX_ROTATED_AXES", 1)
    np.testing.assert_allclose(LogisticProbe(scaling=None).fit(x, y).coef_, rotated.coef_, atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    "x, y",
    {
        "one row": (np.ones((1, 3)), [5]),
        "equal rows": (np.ones((6, 3)), [0, 1, 2, 0, 1, 2]),
        "separable": (np.array([[-1.0], [-2], [1], [2]]), [0, 0, 1, 1]),
        "one class": (np.eye(4), ["a"] * 4),
        "huge": (np.eye(4) * 1e30, [0, 1, 0, 1]),
        "tiny": (np.eye(4) * 1e-30, [0, 1, 0, 1]),
        "a label on no row": (np.eye(4), [[0, 1], [0, 0], [0, 1], [0, 1]]),
    }.values(),
)
@pytest.mark.parametrize("scaling", [None, "standard"])
def test_rows_that_say_little(x, y, scaling):
    probe = LogisticProbe(scaling=scaling).fit(x, y)
    assert np.isfinite(probe.logits(x)).all() and np.isfinite(probe.predict_proba(x)).all()


@pytest.mark.slow
def test_a_class_of_no_weight_is_not_learned():
    x, y = STANDARD[:200], LABELS[:200] % 3
    probe = LogisticProbe(class_weight={0: 0.0, 1: 1.0, 2: 1.0}).fit(x, y)
    assert set(probe.predict(x)) == {1, 2}


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"C": 0}, r"C must be a float in the range \(0.0, inf\), not 0"),
        ({"C": float("nan")}, r"C must be a float in the range \(0.0, inf\), not nan"),
        ({"tol": 0}, "tol must be a float in the range"),
        ({"max_iter": 0}, "max_iter must be an int in the range"),
    ],
)
def test_a_bad_parameter_is_one_clear_line(parameters, message):
    with pytest.raises(UsageError, match=message):
        LogisticProbe(**parameters).fit(STANDARD[:20], LABELS[:20])
    if "C" in parameters:
        with pytest.raises(UsageError, match=message):
            LogisticProbe().fit_many(STANDARD[:20], LABELS[:20], {"C": [1.0, parameters["C"]]})


def test_too_few_steps_are_said():
    with pytest.warns(ConvergenceWarning, match=r"1 of 1 heads have not converged, the first of C=10 after 2 steps"):
        LogisticProbe(10.0, max_iter=2).fit(STANDARD[:600], LABELS[:600])


def test_float32_that_resolves_no_step_any_more_is_said_too():
    """Raw wine: columns of 0.1 beside a column of 1,000, classes that separate, and no penalty to speak of."""
    x, y = load_wine(return_X_y=True)
    with pytest.warns(ConvergenceWarning, match=r"the first of C=1e\+06 after \d+ steps of max_iter=1000; scaling"):
        LogisticProbe(1e6, scaling=None).fit(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for C, scaling in ((1e2, None), (1e6, "standard")):
            LogisticProbe(C, scaling=scaling).fit(x, y)
