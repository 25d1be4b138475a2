"""Scalings: as scikit-learn's where it has one, and finite whatever the rows are."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.preprocessing import Normalizer, StandardScaler

from transfer.errors import UsageError
from transfer.heads import KnnProbe, LogisticProbe, RidgeRegressor, scaling

DIGITS = load_digits().data.astype(np.float32)
TRAIN, OTHERS = DIGITS[:600], DIGITS[600:700]


def scaled(name, x, *others):
    scaler = scaling.fit(name, x)
    return [np.asarray(scaling.apply(scaler, rows)) for rows in (x, *others)]


@pytest.mark.parametrize("name, theirs", [("standard", StandardScaler()), ("l2", Normalizer())])
def test_as_scikit_learn(name, theirs):
    theirs.fit(TRAIN.astype(np.float64))
    train, others = scaled(name, TRAIN, OTHERS)
    np.testing.assert_allclose(train, theirs.transform(TRAIN), rtol=1e-4, atol=1e-5)
    varies = TRAIN.std(axis=0) > 0
    np.testing.assert_allclose(others[:, varies], theirs.transform(OTHERS)[:, varies], rtol=1e-4, atol=1e-5)
    if name == "standard":
        assert not others[:, ~varies].any(), "a column that does not vary becomes 0, on other rows too"


def separable(offset, dtype=np.float32, width=6):
    """Rows (400, D) far from 0, whose three classes a few units set apart, and their labels."""
    random = np.random.default_rng(0)
    labels = random.integers(3, size=400)
    x = random.standard_normal((400, width))
    x[np.arange(400), labels] += 6
    return (x + offset).astype(dtype), labels


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 1e3, 2e6, -5e6, 1e7])
@pytest.mark.parametrize("name", ["standard", "whiten", "columns", "whole"])
def test_rows_far_from_0_are_told_apart_as_scikit_learn_does(name, offset, dtype):
    x, y = separable(offset, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error", scaling.DroppedColumns)
        assert LogisticProbe(scaling=name).fit(x[:300], y[:300]).score(x[300:], y[300:]) == 1


@pytest.mark.parametrize("offset", [0.0, 1e3, 2e6, 1e7])
def test_standard_far_from_0_is_scikit_learns_but_for_the_rounding_of_the_mean(offset):
    x, _ = separable(offset)
    ours, theirs = scaled("standard", x)[0], StandardScaler().fit_transform(x.astype(np.float64))
    np.testing.assert_allclose(ours - ours[0], theirs - theirs[0], atol=0.01)
    assert np.abs(ours - theirs).max() < 0.01 + np.spacing(np.float32(offset))


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-3, 3e8, -7.7e20])
@pytest.mark.parametrize("head", [LogisticProbe, RidgeRegressor, KnnProbe])
@pytest.mark.parametrize("name", ["standard", "columns"])
def test_columns_that_do_not_vary_are_counted(name, head, value):
    x, y = separable(0)
    x[:, [1, 4]] = value
    with pytest.warns(scaling.DroppedColumns, match=f"scaling='{name}': 2 of 6 columns do not vary") as caught:
        fitted = head(scaling=name).fit(x, y)
    assert len(caught) == 1 and caught[0].filename == __file__
    x[:, [1, 4]] = 5
    assert not np.asarray(scaling.apply(fitted.scaler_, x))[:, [1, 4]].any()


def test_what_float32_cannot_tell_apart_is_said():
    x, y = separable(1e10, np.float64)
    with pytest.warns(scaling.DroppedColumns, match="6 of 6 columns do not vary on the training rows, or by less than"):
        LogisticProbe().fit(x, y)


def test_what_varies_is_scaled_to_the_bit_as_ever():
    """Columns near 0, whose deviation is computed of the values as they are."""
    found, varies = scaling.fit("standard", TRAIN), TRAIN.std(axis=0) > 0
    x = jnp.asarray(TRAIN)
    size = jnp.maximum(jnp.abs(x).max(axis=0), 1e-37)
    unit = x / size
    mean = unit[0] + jnp.mean(unit - unit[0], axis=0)
    deviation = jnp.sqrt(jnp.mean((unit - mean) ** 2, axis=0))
    np.testing.assert_array_equal(found.mean[varies], (mean * size)[varies])
    np.testing.assert_array_equal(found.factors[varies], (1 / (deviation * size))[varies])


def test_whitening_is_scikit_learns_up_to_signs():
    rank = np.linalg.matrix_rank(TRAIN - TRAIN.mean(axis=0))
    theirs = PCA(rank, whiten=True, svd_solver="full").fit(TRAIN.astype(np.float64))
    train, others = scaled("whiten", TRAIN, OTHERS)
    assert train.shape == (600, 64) and not train[:, rank:].any() and not others[:, rank:].any()
    np.testing.assert_allclose(train[:, :rank].T @ train[:, :rank] / 599, np.eye(rank), atol=1e-4)
    expected = theirs.transform(OTHERS)
    # distances, as signs, and the directions of components that are alike, are free
    distances = [((rows[:, None] - rows[None]) ** 2).sum(-1) for rows in (others, expected)]
    np.testing.assert_allclose(*distances, rtol=1e-2)


@pytest.mark.parametrize("name", ["columns", "whole"])
def test_rows_of_unit_norm_whatever_the_features(name):
    (train,) = scaled(name, TRAIN * 1e3 + 5)
    assert np.square(train).sum(axis=1).mean() == pytest.approx(1, rel=1e-3)


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from([*scaling.SCALINGS, None]),
    # few shapes, few compilations
    shape=st.sampled_from([(1, 3), (3, 5)]),
    size=st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e4, 1e15]),
    offset=st.sampled_from([0.0, 1.0, -1e4]),
    kind=st.sampled_from(["varied", "equal rows", "a constant column", "zeros"]),
    seed=st.integers(0, 99),
)
def test_never_nan(name, shape, size, offset, kind, seed):
    x = np.random.default_rng(seed).normal(size=shape)
    if kind == "equal rows":
        x[:] = x[0]
    elif kind == "a constant column":
        x[:, 0] = 0
    elif kind == "zeros":
        x[:] = 0
    x = (x * size + offset).astype(np.float32)
    train, others = scaled(name, x, np.ones((2, shape[1]), np.float32) * 3)
    assert np.isfinite(train).all() and np.isfinite(others).all()
    assert train.dtype == np.float32
    if name in ("standard", "whiten") and kind in ("equal rows", "zeros"):
        assert not train.any()
    if name == "l2":
        assert (np.linalg.norm(train, axis=1)[x.any(axis=1)] == pytest.approx(1, rel=1e-5)) or size in (0, 1e-30)


def test_a_scaler_is_a_pytree_and_pure_jax():
    one = jax.jit(scaling.fit, static_argnums=0)("standard", TRAIN[:50])
    assert one.name == "standard" and len(jax.tree.leaves(one)) == 2
    many = jax.vmap(lambda x: scaling.apply(scaling.fit("standard", x), x))(TRAIN[:100].reshape(2, 50, 64))
    np.testing.assert_allclose(many[0], scaling.apply(one, TRAIN[:50]), rtol=1e-4, atol=1e-5)
    assert jax.tree.leaves(scaling.fit(None, TRAIN)) == [] == jax.tree.leaves(scaling.fit("l2", TRAIN))


def test_another_name():
    with pytest.raises(UsageError, match="scaling='minmax' is unknown; there is: standard, l2, whiten, columns, whole"):
        scaling.fit("minmax", TRAIN)
