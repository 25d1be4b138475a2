"""How alike two representations of the same images are: linear CKA, between two arrays or between all taps of stores.

Linear centred kernel alignment (Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited") of X
(N, D) and Y (N, E), both less their column means, is |X'Y|² / (|X'X| |Y'Y|) with Frobenius norms: 1 for the same
representation up to rotation and scale. |X'Y|² equals the inner product of XX' and YY', so whichever of D and N is
smaller decides which is computed; neither an (N, N) matrix of many rows nor a (D, D) one of many columns is made.
"""

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

    Both are `feature_space_linear_cka` of google-research/representation_similarity.

    Raises:
        TransferError: another number of rows, too few, NaN or infinity, or a representation that does not vary.
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
    num_rows = _num_rows(given, debiased)
    wide = sum(_width(features) > num_rows for _, features in given)
    if wide * num_rows**2 * 8 > MOST_GRAM_BYTES:
        raise TransferError(
            f"{wide} representations have more columns than the {num_rows} rows, and comparing them takes "
            f"{wide * num_rows**2 * 8 / 1e9:.0f} GB; take fewer rows (--rows)"
        )
    hold = sum(num_rows * _width(features) * 4 for _, features in given) <= HELD_BYTES
    sides = [_Side(name, features, hold, debiased) for name, features in given]
    left = sides[: len(xs)]
    right = left if ys is None else sides[len(xs) :]
    values = np.empty((len(left), len(right)))
    for i, x in enumerate(left):
        for j, y in enumerate(right):
            mirrored = ys is None and j < i
            values[i, j] = values[j, i] if mirrored else _cka(x, y)
            done()
    return values


def _num_rows(given: list[tuple[str, Any]], debiased: bool) -> int:
    counts = {name: len(features) for name, features in given}
    if len(set(counts.values())) != 1:
        shown = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise TransferError(f"representations of the same images have as many rows; these have: {shown}")
    (count,) = set(counts.values())
    if count < FEWEST_ROWS[debiased]:
        raise TransferError(f"CKA of {count} rows is not defined; it takes at least {FEWEST_ROWS[debiased]}")
    return count


def _width(features: Any) -> int:
    return int(np.prod(features.shape[1:]))


class _Side:
    """One representation: its centred rows in blocks, and what of it alone CKA takes; each is computed when asked for.

    Args:
        hold: whether to read the rows into memory, once.
    """

    def __init__(self, name: str, features: Any, hold: bool, debiased: bool) -> None:
        self.name, self.rows, self.debiased = name, len(features), debiased
        self.width = _width(features)
        self.wide = self.width > self.rows
        self._features = np.asarray(features[:]) if hold else features
        self._block_rows = max(1, BLOCK_BYTES // max(8 * self.width, 1))

    def blocks(self, step: int) -> Iterator[np.ndarray]:
        """float64 (up to `step`, D), row after row."""
        for start in range(0, self.rows, step):
            block = np.asarray(self._features[start : start + step])
            yield block.reshape(len(block), -1).astype(np.float64)

    def centred(self, step: int) -> Iterator[np.ndarray]:
        """`blocks`, less the mean of all rows."""
        return (block - self.mean for block in self.blocks(step))

    @cached_property
    def mean(self) -> np.ndarray:
        """float64 (D,)."""
        total = np.zeros(self.width)
        for block in self.blocks(self._block_rows):
            total += block.sum(axis=0)
        if not np.isfinite(total).all():
            raise TransferError(f"features of {self.name} have NaN or infinity")
        return total / self.rows

    @cached_property
    def squares(self) -> np.ndarray:
        """float64 (N,), the squared norm of each centred row."""
        return np.concatenate([np.einsum("nd,nd->n", block, block) for block in self.centred(self._block_rows)])

    @cached_property
    def varies(self) -> bool:
        """Whether any column does."""
        return bool(self.squares.sum() > _ROUNDING * self.rows * (self.mean @ self.mean))

    @cached_property
    def gram(self) -> np.ndarray:
        """float64 (N, N), inner products of the centred rows; a few columns of the features at a time."""
        features = np.asarray(self._features[:]).reshape(self.rows, -1)
        products = np.zeros((self.rows, self.rows))
        step = max(1, BLOCK_BYTES // (8 * self.rows))
        for start in range(0, self.width, step):
            columns = features[:, start : start + step].astype(np.float64) - self.mean[start : start + step]
            products += columns @ columns.T
        return products

    @cached_property
    def own(self) -> float:
        """HSIC of the representation with itself."""
        return _hsic(self, self, self.debiased)

    def step_with(self, other: "_Side") -> int:
        """Rows of a block where both are gone through together."""
        return min(self._block_rows, other._block_rows)


def _inner(x: _Side, y: _Side) -> float:
    """|X'Y|², or equally the inner product of XX' and YY'."""
    if x.wide and y.wide:
        return float(np.vdot(x.gram, y.gram))
    if x.wide or y.wide:
        wide, narrow = (x, y) if x.wide else (y, x)
        rows = np.concatenate(list(narrow.centred(narrow.rows)))
        return float(np.vdot(wide.gram @ rows, rows))
    products = np.zeros((x.width, y.width))
    step = x.step_with(y)
    for left, right in zip(x.centred(step), y.centred(step), strict=True):
        products += left.T @ right
    return float(np.vdot(products, products))


def _hsic(x: _Side, y: _Side, debiased: bool) -> float:
    """Of the linear kernel, times a factor of N that CKA does without."""
    inner = _inner(x, y)
    if not debiased:
        return inner
    n = x.rows
    correction = n / (n - 2) * (x.squares @ y.squares) - x.squares.sum() * y.squares.sum() / ((n - 1) * (n - 2))
    return inner - float(correction)


def _cka(x: _Side, y: _Side) -> float:
    # the debiased estimate of a norm may be negative, where rows are too few to tell
    if not (x.varies and y.varies and x.own > 0 and y.own > 0):
        return float("nan")
    return _hsic(x, y, x.debiased) / np.sqrt(x.own * y.own)
