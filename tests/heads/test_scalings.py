"""Scalings: as scikit-learn's where it has one, and finite whatever the rows are."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.preprocessing import Normalizer, StandardScaler

from transfer.errors import UsageError
from transfer.heads import scaling

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
