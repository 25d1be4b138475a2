"""Scalings of features, fitted on training rows and applied to any: what a head sees of them. Pure JAX."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from transfer.errors import UsageError

# A deviation below this share of the values' size is lost in what is computed of the values as they are.
_ROUNDING = 1e-6
# A deviation below this share is that of float32 values which are rounded to the nearest.
_NONE = float(jnp.finfo(jnp.float32).eps) / 2
# Least magnitude whose inverse float32 holds.
_TINY = 1e-37

_Array = TypeVar("_Array", np.ndarray, jax.Array)


@functools.partial(jax.tree_util.register_dataclass, data_fields=("mean", "factors"), meta_fields=("name",))
@dataclass(frozen=True)
class Scaler:
    """A fitted scaling, as a pytree; see `apply`."""

    name: str | None = None  # of the scaling, None for none
    mean: jax.Array | None = None  # float32 (D,)
    factors: jax.Array | None = None  # float32, (D,) or () to multiply by, or a matrix (D, K)


def unit_rows(x: _Array) -> _Array:
    """Rows (..., D), of NumPy or JAX, at unit norm, their dtype kept; rows of zeros stay zeros."""
    xp = jnp if isinstance(x, jax.Array) else np
    x = x / xp.maximum(abs(x).max(axis=-1, keepdims=True), _TINY)  # squares of what is huge would overflow
    norm = xp.sqrt(xp.sum(x**2, axis=-1, keepdims=True))
    return x / xp.where(norm > 0, norm, 1)


def _size(x: jax.Array) -> jax.Array:
    return jnp.maximum(jnp.abs(x).max(axis=0), _TINY)


def _mean(x: jax.Array, weight: jax.Array | None) -> jax.Array:
    """The mean (D,) of rows (N, D) by their weights (N,)."""
    return jnp.average(x, axis=0, weights=weight)


def _exact_mean(x: jax.Array, weight: jax.Array | None) -> jax.Array:
    """The mean (D,), exact for a column that does not vary, whatever its size."""
    return x[0] + _mean(x - x[0], weight)


def _deviation(x: jax.Array, mean: jax.Array, weight: jax.Array | None) -> jax.Array:
    return jnp.sqrt(_mean((x - mean) ** 2, weight))


def _mean_and_factors(
    x: jax.Array, weight: jax.Array | None, mean: jax.Array, deviation: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Mean and 1 / deviation (D,), those of columns far from 0 by their differences; 0 of one that does not vary."""
    size = _size(x)
    near = deviation > _ROUNDING * size
    apart = x - x[0]  # exact where columns are far from 0
    unit = apart / _size(apart)
    unit_mean = _mean(unit, weight)
    mean = jnp.where(near, mean, x[0] + unit_mean * _size(apart))
    deviation = jnp.where(near, deviation, _deviation(unit, unit_mean, weight) * _size(apart))
    varies = (deviation > _NONE * size) & (deviation > _TINY)
    return mean, jnp.where(varies, 1 / jnp.where(varies, deviation, 1), 0)


def _standard(x: jax.Array, weight: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    size = _size(x)
    unit = x / size  # squares of what is huge would overflow
    mean = _exact_mean(unit, weight)
    return _mean_and_factors(x, weight, mean * size, _deviation(unit, mean, weight) * size)


def _whiten(x: jax.Array, weight: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Components (D, K), K = min(N, D), as factors; those beyond the rows' numerical rank are columns of zeros."""
    size = jnp.maximum(jnp.abs(x).max(), _TINY)
    mean = _exact_mean(x / size, weight)
    centred = x / size - mean
    if weight is not None:
        centred = centred * jnp.sqrt(weight)[:, None]
    num_rows = len(x) if weight is None else weight.sum()
    _, singular, components = jnp.linalg.svd(centred, full_matrices=False)
    # the rank as numpy.linalg.matrix_rank finds it; rows of one value leave nothing but rounding
    least = max(x.shape) * jnp.finfo(jnp.float32).eps * jnp.maximum(singular[0], _ROUNDING)
    counts = singular > least
    factors = jnp.where(counts, jnp.sqrt(jnp.maximum(num_rows - 1, 1)) / jnp.where(counts, singular, 1), 0)
    return mean * size, components.T * (factors / size)


def _by_column(x: jax.Array, weight: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """The factor of each column, 1 / deviation; 0 for a column that does not vary."""
    mean = _mean(x, weight)
    deviation = x.std(axis=0) if weight is None else _deviation(x, mean, weight)
    mean, factors = _mean_and_factors(x, weight, mean, deviation)
    return mean, factors / jnp.sqrt(jnp.maximum((factors > 0).sum(), 1))


def _as_a_whole(x: jax.Array, weight: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """The factor of all columns, which keep their proportions."""
    mean = _mean(x, weight)
    square = (x.var(axis=0) if weight is None else _mean((x - mean) ** 2, weight)).sum()
    return mean, 1 / jnp.sqrt(jnp.where(square > 0, square, 1))


# Name -> training rows (N, D) and their weights to mean and factors. "standard" as scikit-learn's `StandardScaler`,
# "whiten" as its `PCA(whiten=True)`; "l2" brings each row to unit norm and learns nothing. "columns" and "whole" bring
# centred rows to unit norm (root mean square) whatever their scale and width, so that one L2 penalty means the same
# for 64 pixels and for 2,048 features: column by column, or by one factor for all.
SCALINGS: Mapping[str, Callable[[jax.Array, jax.Array | None], tuple[jax.Array | None, jax.Array | None]]] = {
    "standard": _standard,
    "l2": lambda x, weight: (None, None),
    "whiten": _whiten,
    "columns": _by_column,
    "whole": _as_a_whole,
}


def check(name: str | None) -> None:
    """Raises UsageError for a scaling that there is not."""
    if name is not None and name not in SCALINGS:
        raise UsageError(f"scaling={name!r} is unknown; there is: {', '.join(SCALINGS)}, None")


def fit(name: str | None, x: ArrayLike, weight: ArrayLike | None = None) -> Scaler:
    """The scaling `name` of `SCALINGS` fitted to rows float32 (N, D), N > 0; None leaves rows as they are.

    `weight` is (N,), above 0, of each row: 2 counts as two equal rows; None: 1. Finite for one row, for columns that do
    not vary (which become 0, with "standard", "whiten" and "columns"; see `dropped`) and for more columns than rows.
    Raises UsageError for another name.
    """
    check(name)
    if name is None:
        return Scaler()
    weight = None if weight is None else jnp.asarray(weight, jnp.float32)
    return Scaler(name, *SCALINGS[name](jnp.asarray(x), weight))


class DroppedColumns(UserWarning):
    """Columns of the training rows do not vary, so that a head sees nothing of them."""


def dropped(scaler: Scaler) -> str | None:
    """A line that counts the columns which "standard" and "columns" have made 0; None where they are none."""
    if scaler.factors is None or scaler.factors.ndim != 1 or not (count := int((scaler.factors == 0).sum())):
        return None
    return (
        f"scaling={scaler.name!r}: {count} of {len(scaler.factors)} columns do not vary on the training rows, or by "
        "less than float32 tells apart, and are dropped"
    )


def apply(scaler: Scaler, x: ArrayLike) -> jax.Array:
    """Rows (M, D) -> (M, D), or (M, K) for "whiten"; rows of zeros stay zeros under "l2"."""
    rows = jnp.asarray(x)
    if scaler.name == "l2":
        return unit_rows(rows)
    if scaler.mean is None or scaler.factors is None:
        return rows
    rows = rows - scaler.mean
    if scaler.factors.ndim < 2:
        return rows * scaler.factors
    return jnp.dot(rows, scaler.factors, precision=jax.lax.Precision.HIGHEST)
