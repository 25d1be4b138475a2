"""Linear CKA: the values of published code, and what must not change it."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from golden import make_representation as golden
from hypothesis import given, settings
from hypothesis import strategies as st

from transfer.errors import TransferError
from transfer.evaluation import similarity
from transfer.evaluation.similarity import cka_matrix, linear_cka

VALUES = json.loads(Path(golden.FILE).read_text())["values"]
FORMS = {False: "cka", True: "cka_debiased"}


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("debiased", FORMS)
@pytest.mark.parametrize("name", VALUES)
def test_values_of_the_published_code(name, debiased, held, monkeypatch):
    if not held:
        monkeypatch.setattr(similarity, "HELD_BYTES", 0)
        monkeypatch.setattr(similarity, "BLOCK_BYTES", 8 * 20 * 7)  # a few rows, a few columns at a time
    x, y, _ = golden.pair(name)
    expected = VALUES[name][FORMS[debiased]]
    assert linear_cka(x, y, debiased=debiased) == pytest.approx(expected, rel=1e-9)
    assert linear_cka(y, x, debiased=debiased) == pytest.approx(expected, rel=1e-9)


def test_values_that_the_published_notebook_prints():
    random = np.random.RandomState(1337)
    x = random.randn(100, 10)
    y = random.randn(100, 10) + x
    assert round(linear_cka(x, y), 5) == 0.55761
    assert round(linear_cka(x, y, debiased=True), 5) == 0.51346


@settings(max_examples=30, deadline=None)
@given(st.integers(5, 40), st.integers(1, 30), st.booleans(), st.integers(0, 1000))
def test_rotation_scale_and_offset_do_not_change_it(rows, width, debiased, seed):
    random = np.random.default_rng(seed)
    x, y = random.standard_normal((rows, width)), random.standard_normal((rows, 3))
    rotation, _ = np.linalg.qr(random.standard_normal((width, width)))
    moved = 7.5 * x @ rotation + random.standard_normal(width)
    values = cka_matrix({"x": x, "moved": moved}, {"y": y, "x": x}, debiased=debiased)
    np.testing.assert_allclose(values[0], values[1], rtol=1e-8, atol=1e-10)
    if not np.isnan(values[0, 1]):  # debiased, few rows may not tell
        assert values[0, 1] == pytest.approx(1) and np.abs(values[0, 0]) <= 1 + (1e9 if debiased else 1e-9)


def test_a_matrix_of_taps_with_each_other_is_symmetric_and_of_any_shape_of_features():
    taps = {name: golden.pair("tall")[side] for name, side in (("a", 0), ("b", 1))}
    taps["map"] = taps["b"].reshape(-1, 2, 2, 5).astype(np.float32)
    values = cka_matrix(taps)
    np.testing.assert_allclose(values, values.T)
    np.testing.assert_allclose(np.diag(values), 1)
    np.testing.assert_allclose(values[0, 2], values[0, 1], rtol=1e-5)


def test_what_does_not_vary_is_not_a_number_in_a_matrix_and_an_error_alone():
    x, y, _ = golden.pair("tall")
    still = np.full_like(y, 3.7, np.float32)
    assert np.isnan(cka_matrix({"x": x}, {"still": still, "y": y})).tolist() == [[True, False]]
    with pytest.raises(TransferError, match="the rows of one side do not vary"):
        linear_cka(x, still)


X = np.arange(20.0).reshape(5, 4) ** 2
BAD = {
    "another number of rows": (X, X[1:], {}, "as many rows; these have: x 5, y 4"),
    "one row": (X[:1], X[:1], {}, "CKA of 1 rows is not defined; it takes at least 2"),
    "three rows, debiased": (X[:3], X[:3], {"debiased": True}, "it takes at least 4"),
    "NaN": (X, np.where(X == 0, np.nan, X), {}, "features of y have NaN or infinity"),
    "infinity": (np.where(X == 0, np.inf, X), X, {}, "features of x have NaN or infinity"),
}


@pytest.mark.parametrize("x, y, options, message", BAD.values(), ids=BAD)
def test_bad_rows_are_one_clear_line(x, y, options, message):
    with pytest.raises(TransferError, match=message):
        linear_cka(x, y, **options)


def test_no_product_of_rows_is_made_for_representations_that_are_not_wide():
    """The limit counts (N, N) products of the wide ones alone, of which there is one here beside six others."""
    random = np.random.default_rng(0)
    taps = {"wide": random.standard_normal((400, 401))} | {f"{i}": random.standard_normal((400, 4)) for i in range(6)}
    tracemalloc.start()
    cka_matrix(taps)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * 8 * 400**2  # that product, one of a part of the columns, and copies of the wide one's columns


def test_products_that_would_not_fit_are_refused(monkeypatch):
    monkeypatch.setattr(similarity, "MOST_GRAM_BYTES", 1000)
    with pytest.raises(TransferError, match="more columns than the 30 rows.*; take fewer rows"):
        linear_cka(*golden.pair("wide")[:2])
