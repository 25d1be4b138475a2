"""Few-shot accuracies: against scikit-learn seed by seed, and blind to what should not decide."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from transfer.data.splits import per_class
from transfer.errors import TransferError, UsageError
from transfer.heads.fewshot import accuracy_by_seed
from transfer.heads.linear import Recipe
from transfer.heads.logistic import Logistic

SEEDS = 3
SCALINGS = ("columns", "whole")


@pytest.fixture(scope="module")
def digits():
    features, labels = load_digits(return_X_y=True)
    return features[:900].astype(np.float32), labels[:900], features[900:].astype(np.float32), labels[900:]


@pytest.fixture(scope="module")
def accuracies(digits):
    return {scaling: accuracy_by_seed(*digits[:2], 10, SEEDS, *digits[2:], scaling=scaling) for scaling in SCALINGS}


def scaled(x, scaling):
    """Centred; each column, or all of them together, to unit variance; rows to unit norm. In float64."""
    deviation = np.where(x.std(0) > 0, x.std(0), np.inf) if scaling == "columns" else np.sqrt(np.mean(x.var(0)))
    width = np.sum(x.std(0) > 0) if scaling == "columns" else x.shape[1]
    return lambda rows: (rows - x.mean(0)) / deviation / np.sqrt(width)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_each_seed_is_scikit_learns_logistic_regression(digits, accuracies, scaling):
    x, y, xv, yv = (array.astype(np.float64) for array in digits)
    for seed, accuracy in enumerate(accuracies[scaling]):
        rows = per_class(y, 10, seed)
        scale = scaled(x[rows], scaling)
        reference = LogisticRegression(C=1 / (Logistic().l2 * len(rows)), max_iter=5000, tol=1e-8)
        expected = reference.fit(scale(x[rows]), y[rows]).score(scale(xv), yv)
        assert abs(accuracy - expected) <= 2.5 / len(xv), "more than two rows decided otherwise"


def test_neither_scale_nor_offset_nor_columns_that_are_dead_in_training_decide(digits, accuracies):
    x, y, xv, yv = digits
    dead = x.std(axis=0) == 0
    assert dead.any()
    changed = 0.001 * np.where(dead, 0.3, x) + 2, 0.001 * np.where(dead, 1e4, xv) + 2
    result = accuracy_by_seed(changed[0].reshape(-1, 1, 8, 8), y, 10, SEEDS, changed[1], yv)
    np.testing.assert_allclose(result, accuracies["columns"], atol=2.5 / len(xv))


def test_seeds_may_be_named_and_labels_may_be_strings(digits, accuracies):
    x, y, xv, yv = digits
    names = np.array(list("abcdefghij"))
    named = accuracy_by_seed(x, names[y], 10, [2, 0, 1], xv, names[yv])
    np.testing.assert_allclose(named, accuracies["columns"][[2, 0, 1]], atol=1.5 / len(xv))
    assert len(set(accuracies["columns"])) > 1, "every seed drew the same rows"


@pytest.mark.slow
def test_another_head_is_trained_the_same_way(digits, accuracies):
    x, y, xv, yv = digits
    recipe = Recipe(epochs=200, learning_rate=3e-2)
    result = accuracy_by_seed(x, y, 10, SEEDS, xv, yv, head=recipe)
    np.testing.assert_allclose(result, accuracies["columns"], atol=0.06)


def test_bad_rows_are_one_clear_line(digits):
    x, y, xv, yv = digits
    bad = [
        ((x * np.nan, y, 5, 2, xv, yv), {}, TransferError, "features have NaN"),
        ((x, y[1:], 5, 2, xv, yv), {}, TransferError, "900 rows of features but 899 labels"),
        ((x, y, 5, 2, xv[:, 1:], yv), {}, TransferError, "validation features are 63 a row, training features 64"),
        ((x, y % 9, 5, 2, xv, yv), {}, TransferError, "validation label 9 is on no training row"),
        ((x, y, 500, 2, xv, yv), {}, UsageError, "fewer than the 500"),
        ((x, y, 5, 0, xv, yv), {}, UsageError, "at least one seed"),
        ((x, y, 5, 2, xv, yv), {"scaling": "rows"}, UsageError, "scaling='rows' is unknown"),
    ]
    for arguments, options, kind, message in bad:
        with pytest.raises(kind, match=message):
            accuracy_by_seed(*arguments, **options)
