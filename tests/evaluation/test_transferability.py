"""LogME and LEEP: the values of published code, and of the definitions computed another way."""

import json
from pathlib import Path

import numpy as np
import pytest
from golden import make_representation as golden
from scipy.optimize import minimize
from scipy.special import softmax
from scipy.stats import multivariate_normal

from transfer.errors import TransferError
from transfer.evaluation import transferability
from transfer.evaluation.transferability import leep, logme

VALUES = json.loads(Path(golden.FILE).read_text())["values"]
TALL = [name for name in VALUES if "logme" in VALUES[name]]


@pytest.fixture(params=["whole", "in blocks"])
def in_blocks(request, monkeypatch):
    if request.param == "in blocks":
        monkeypatch.setattr(transferability, "BLOCK_BYTES", 8 * 20 * 7)


@pytest.mark.parametrize("name", TALL)
def test_logme_of_the_published_code(name, in_blocks):
    x, y, labels = golden.pair(name)
    assert logme(x, labels) == pytest.approx(VALUES[name]["logme"], rel=1e-9)
    assert logme(x, y) == pytest.approx(VALUES[name]["logme_values"], rel=1e-9)


@pytest.mark.parametrize("name", VALUES)
def test_logme_of_the_code_of_the_first_paper_up_to_where_it_stops(name, in_blocks):
    x, y, labels = golden.pair(name)
    assert logme(x, labels) == pytest.approx(VALUES[name]["logme_icml"], rel=2e-3)
    assert logme(x, y) == pytest.approx(VALUES[name]["logme_values_icml"], rel=2e-3)


@pytest.mark.parametrize("name", ["wide", "wide and narrow", "square"])
def test_logme_is_near_the_largest_evidence_of_a_bayesian_linear_model_and_not_beyond(name):
    x, _, labels = golden.pair(name)
    rows, products = len(x), x @ x.T

    def minus_evidence(logarithms, y):
        alpha, beta = np.exp(logarithms)
        return -multivariate_normal.logpdf(y, np.zeros(rows), np.eye(rows) / beta + products / alpha) / rows

    wanted = [(labels == label).astype(float) for label in np.unique(labels)]
    # there may be several maxima; the fixed point takes eleven steps towards the one that it begins at
    starts = [(a, b) for a in (0, 4, 8) for b in (1, 3)]
    best = np.mean([max(-minimize(minus_evidence, start, (y,)).fun for start in starts) for y in wanted])
    assert best - 0.02 <= logme(x, labels) <= best + 1e-3


def test_logme_of_columns_that_repeat_and_of_none_that_vary():
    x, _, labels = golden.pair("tall")
    twice = np.concatenate([x, x, np.zeros_like(x)], axis=1)
    assert np.isfinite(logme(twice, labels))
    np.testing.assert_allclose(logme(twice / np.sqrt(2), labels), logme(x, labels), rtol=1e-9)
    assert np.isfinite(logme(np.ones_like(x), labels))


@pytest.mark.parametrize("rows, columns, rank", [(60, 12, 12), (60, 12, 3), (60, 60, 7), (20, 60, 20), (20, 60, 5)])
def test_singular_values_that_are_rounding_are_left_out(rows, columns, rank):
    random = np.random.default_rng(0)
    x = random.standard_normal((rows, rank)) @ random.standard_normal((rank, columns))
    y = random.standard_normal((rows, 2))
    values, projected, rest = transferability._spectrum(x, y)
    vectors, singular, _ = np.linalg.svd(x)
    np.testing.assert_allclose(values, np.sort(singular[:rank] ** 2), rtol=1e-4)
    np.testing.assert_allclose(projected[::-1], (vectors[:, :rank].T @ y) ** 2, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(rest, ((vectors[:, rank:].T @ y) ** 2).sum(axis=0), rtol=1e-6, atol=1e-5)


def test_labels_of_any_kind_and_features_of_any_shape():
    x, _, labels = golden.pair("tall")
    names = np.array(["cat", "dog", "eel", "fox"])[labels]
    expected = logme(x, labels)
    assert logme(x.reshape(-1, 2, 2, 3), names) == logme(x, labels * 100 - 7) == expected
    assert leep(golden.answers("tall"), names) == leep(golden.answers("tall"), labels)


@pytest.mark.parametrize("name", VALUES)
def test_leep_of_the_published_code(name):
    labels = golden.pair(name)[2]
    assert leep(golden.answers(name), labels) == pytest.approx(VALUES[name]["leep"], rel=1e-12)


def test_leep_of_a_source_class_that_is_never_answered_and_of_a_perfect_one():
    labels = np.arange(12) % 3
    certain = np.eye(4)[labels]
    assert leep(certain, labels) == 0
    assert leep(softmax(1000 * certain, axis=1), labels) == 0


X, Y = np.arange(12.0).reshape(6, 2), np.arange(6) % 2
BAD = {
    "NaN": (logme, X * np.nan, Y, "features have NaN or infinity"),
    "targets of NaN": (logme, X, X * np.nan, "targets have NaN or infinity"),
    "another number of labels": (logme, X, Y[1:], "6 rows of features but 5 targets"),
    "no rows": (logme, X[:0], Y[:0], "0 rows of features but 0 targets"),
    "all zero": (logme, X * 0, Y, "all features are zero"),
    "logits": (leep, X, Y, "rows that sum to 1"),
    "flat": (leep, X[:, 0], Y, "not of shape"),
    "labels of another number": (leep, softmax(X, axis=1), Y[1:], "6 rows of probabilities but 5 labels"),
}


@pytest.mark.parametrize("measure, values, labels, message", BAD.values(), ids=BAD)
def test_bad_rows_are_one_clear_line(measure, values, labels, message):
    with pytest.raises(TransferError, match=message):
        measure(values, labels)
