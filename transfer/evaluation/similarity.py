"""How alike two representations of the same images are: linear CKA, between two arrays or between all taps of stores.

Linear centred kernel alignment (Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited") of X
(N, D) and Y (N, E), both less their column means, is |X'Y|² / (|X'X| |Y'Y|) with Frobenius norms: 1 for the same
representation up to rotation and scale. |X'Y|² equals the inner product of XX' and YY', so whichever of D and N is
smaller decides which is computed; neither an (N, N) matrix of many rows nor a (D, D) one of many columns is made.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from transfer.errors import TransferError

# Features that take no more than this together are held in memory; others are read as they are needed, twice or more.
HELD_BYTES = 1 << 30
BLOCK_BYTES = 64 << 20
# Of the (N, N) products of all representations with more columns than rows.
MOST_GRAM_BYTES = 4 << 30
# Below this share of the mean's square, a variance is rounding.
_ROUNDING = 1e-20
# The debiased form divides by N - 2 and estimates from quadruples of rows.
FEWEST_ROWS = {False: 2, True: 4}


def linear_cka(x: Any, y: Any, *, debiased: bool = False) -> float:
    """Linear CKA of two representations of the same rows, computed in float64.

    Args:
        x, y: (N, ...) and (N, ...) numbers, rows in the same order; arrays, or rows of a `FeatureStore`, which are
            read block by block.
        debiased: with the unbiased estimator of HSIC (Song et al. 2007) in numerator and denominator. The plain form
            tends to 1 as columns outnumber rows, whatever they hold; the debiased one does not, and may be negative.

    Both are `feature_space_linear_cka` of google-research/representation_similarity. Raises TransferError for another
    number of rows, too few, NaN or infinity, or a representation that does not vary.
    """
    value = float(cka_matrix({"x": x}, {"y": y}, debiased=debiased)[0, 0])
    if np.isnan(value):
        raise TransferError(
            "CKA is not defined: the rows of one side do not vary" + (", or too few do for debiased=True" * debiased)
        )
    return value


def cka_matrix(
    xs: Mapping[str, Any],
    ys: Mapping[str, Any] | None = None,
    *,
    debiased: bool = False,
    done: Callable[[], object] = lambda: None,
) -> np.ndarray:
    """`linear_cka` of each of `xs` with each of `ys` (None: with each other), float64 (len(xs), len(ys)).

    Args:
        xs, ys: name -> (N, ...) features; the names are for messages.
        done: called after each of the values.

    A value is NaN where it is not defined: for a representation that does not vary over the rows, and, debiased, where
    rows are too few for its estimate. Raises TransferError as `linear_cka` does for the rest.
    """
    given = [*xs.items(), *(() if ys is None else ys.items())]
    counts = {name: len(features) for name, features in given}
    if len(set(counts.values())) != 1:
        shown = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise TransferError(f"representations of the same images have as many rows; these have: {shown}")
    if (num_rows := len(given[0][1])) < FEWEST_ROWS[debiased]:
        raise TransferError(f"CKA of {num_rows} rows is not defined; it takes at least {FEWEST_ROWS[debiased]}")
    wide = sum(width(features) > num_rows for _, features in given)
    if wide * num_rows**2 * 8 > MOST_GRAM_BYTES:
        raise TransferError(
            f"{wide} representations have more columns than the {num_rows} rows, and comparing them takes "
            f"{wide * num_rows**2 * 8 / 1e9:.0f} GB; take fewer rows (--rows)"
        )
    if sum(num_rows * width(features) * 4 for _, features in given) <= HELD_BYTES:  # read once
        given = [(name, np.asarray(features[:])) for name, features in given]
    representations = [_Representation(name, features, debiased) for name, features in given]
    left, right = representations[: len(xs)], representations[0 if ys is None else len(xs) :]
    values = np.empty((len(left), len(right)))
    for i, x in enumerate(left):
        for j, y in enumerate(right):
            if ys is None and j < i:
                values[i, j] = values[j, i]
            elif x.varies and y.varies and x.own > 0 and y.own > 0:
                values[i, j] = _hsic(x, y) / math.sqrt(x.own * y.own)
            else:  # the debiased estimate of a norm may be negative, where rows are too few to tell
                values[i, j] = math.nan
            done()
    return values


def width(features: Any) -> int:
    """How many numbers each row of features (N, ...) has."""
    return math.prod(features.shape[1:])


def blocks(features: Any, num_rows: int) -> Iterator[np.ndarray]:
    """Float64 (up to `num_rows`, D), row after row of features (N, ...)."""
    for start in range(0, len(features), num_rows):
        block = np.asarray(features[start : start + num_rows])
        yield block.reshape(len(block), -1).astype(np.float64)


def row_products(features: np.ndarray, mean: np.ndarray | float, block_bytes: int) -> np.ndarray:
    """Float64 (N, N), the products of rows (N, D) less their mean (D,), some columns at a time."""
    products = np.zeros((len(features), len(features)))
    mean, step = np.broadcast_to(mean, features.shape[1]), max(1, block_bytes // (8 * len(features)))
    for start in range(0, features.shape[1], step):
        columns = features[:, start : start + step].astype(np.float64) - mean[start : start + step]
        products += columns @ columns.T
    return products


class _Representation:
    """Features (N, ...), read block by block; what CKA takes of them alone is computed when it is asked for."""

    def __init__(self, name: str, features: Any, debiased: bool) -> None:
        self.name, self.features, self.debiased = name, features, debiased
        self.rows, self.width = len(features), width(features)
        self.is_wide = self.width > self.rows
        self.block_rows = max(1, BLOCK_BYTES // max(8 * self.width, 1))

    def centred(self, num_rows: int) -> Iterator[np.ndarray]:
        """`blocks` of so many rows, less the mean of all."""
        return (block - self.mean for block in blocks(self.features, num_rows))

    @cached_property
    def mean(self) -> np.ndarray:
        """Float64 (D,)."""
        total = np.zeros(self.width)
        for block in blocks(self.features, self.block_rows):
            total += block.sum(axis=0)
        if not np.isfinite(total).all():
            raise TransferError(f"features of {self.name} have NaN or infinity")
        return total / self.rows

    @cached_property
    def squares(self) -> np.ndarray:
        """Float64 (N,), the squared norm of each centred row."""
        return np.concatenate([np.einsum("nd,nd->n", block, block) for block in self.centred(self.block_rows)])

    @cached_property
    def varies(self) -> bool:
        """Whether any column of the features varies."""
        return bool(self.squares.sum() > _ROUNDING * self.rows * (self.mean @ self.mean))

    @cached_property
    def gram(self) -> np.ndarray:
        """Float64 (N, N), inner products of the centred rows."""
        return row_products(np.asarray(self.features[:]).reshape(self.rows, -1), self.mean, BLOCK_BYTES)

    @cached_property
    def own(self) -> float:
        """HSIC with itself."""
        return _hsic(self, self)


def _hsic(x: _Representation, y: _Representation) -> float:
    """HSIC of the linear kernel, times a factor of N that CKA does without."""
    # |X'Y|², or equally the inner product of XX' and YY'
    if x.is_wide and y.is_wide:
        inner = float(np.vdot(x.gram, y.gram))
    elif x.is_wide or y.is_wide:
        wide, narrow = (x, y) if x.is_wide else (y, x)
        (rows,) = narrow.centred(narrow.rows)
        inner = float(np.vdot(wide.gram @ rows, rows))
    else:
        products, step = np.zeros((x.width, y.width)), min(x.block_rows, y.block_rows)
        for left, right in zip(x.centred(step), y.centred(step), strict=True):
            products += left.T @ right
        inner = float(np.vdot(products, products))
    if not x.debiased:
        return inner
    n = x.rows
    correction = n / (n - 2) * (x.squares @ y.squares) - x.squares.sum() * y.squares.sum() / ((n - 1) * (n - 2))
    return inner - float(correction)
