"""Least squares with an L2 penalty in closed form: one eigendecomposition, then any number of penalties.

Rows are centred (the intercept is free) and, where they have weights, scaled by the root of theirs; X = U S V' is then
found from the smaller of X'X and X X', in float64. The coefficients of a penalty are V S / (S^2 + penalty) U'Y.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh

# Rows in float64 at a time.
_CHUNK = 8192


class Spectrum(NamedTuple):
    """Rows and targets, decomposed; all float64.

    Attributes:
        centre: (D,), mean of the rows.
        offset: (C,), mean of the targets.
        vectors: (D, K), V; K is the rows' numerical rank.
        values: (K,), S.
        projected: (K, C), U'Y.
    """

    centre: np.ndarray
    offset: np.ndarray
    vectors: np.ndarray
    values: np.ndarray
    projected: np.ndarray

    def coefficients(self, alpha: float) -> tuple[np.ndarray, np.ndarray]:
        """(D, C) and (C,): what minimises the summed squares + `alpha` |coefficients|^2, least in norm for 0."""
        shrunk = (self.values / (self.values**2 + alpha))[:, None] * self.projected
        kernel = self.vectors @ shrunk
        return kernel, self.offset - self.centre @ kernel


def decompose(x: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None) -> Spectrum:
    """Decomposes rows `x`, float32 (N, D), and targets `y` (N, C), with weights (N,) of which some are above 0."""
    share = np.ones(len(x)) if weight is None else np.asarray(weight, np.float64)
    centre = sum(share[rows] @ x[rows].astype(np.float64) for rows in _chunks(len(x))) / share.sum()
    offset = share @ y / share.sum()
    root = np.sqrt(share)
    aims = root[:, None] * (y - offset)

    def centred(rows: slice) -> np.ndarray:
        return (x[rows].astype(np.float64) - centre) * root[rows, None]

    if len(x) < x.shape[1]:
        whole = centred(slice(None))
        squares, left = eigh(whole @ whole.T, driver="evd")
        squares, left = _significant(squares, left, max(x.shape))
        values = np.sqrt(squares)
        return Spectrum(centre, offset, whole.T @ left / values, values, left.T @ aims)
    gram, product = np.zeros((x.shape[1],) * 2), np.zeros((x.shape[1], y.shape[1]))
    for rows in _chunks(len(x)):
        some = centred(rows)
        gram += some.T @ some
        product += some.T @ aims[rows]
    squares, vectors = eigh(gram, driver="evd")
    squares, vectors = _significant(squares, vectors, max(x.shape))
    values = np.sqrt(squares)
    return Spectrum(centre, offset, vectors, values, vectors.T @ product / values[:, None])


def _chunks(num_rows: int) -> Iterator[slice]:
    return (slice(start, start + _CHUNK) for start in range(0, num_rows, _CHUNK))


def _significant(squares: np.ndarray, vectors: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Without what is rounding: the others carry nothing of the targets, and 1 / S would blow it up."""
    least = size * np.finfo(np.float64).eps * max(float(squares[-1]), 0.0)
    kept = squares > least
    return squares[kept], vectors[:, kept]


def left_out(
    found: Spectrum, alpha: float, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None, rows: np.ndarray
) -> np.ndarray:
    """Scores (n, C) of the rows numbered `rows`, each by the fit to all others: leave-one-out in closed form.

    A row's residual grows by 1 / (1 - h), where h, the row's part in its own score, is the diagonal of the hat matrix
    (Cook & Weisberg 1982), that of the intercept included. A row that decides its score alone (h = 1) gets the mean.
    """
    share = np.ones(len(x)) if weight is None else np.asarray(weight, np.float64)
    some, aims = x[rows].astype(np.float64) - found.centre, y[rows]
    along = some @ found.vectors
    kernel = (found.values / (found.values**2 + alpha))[:, None] * found.projected
    residual = aims - (along @ kernel + found.offset)
    own = share[rows] * (1 / share.sum() + along**2 @ (1 / (found.values**2 + alpha)))
    rest = (1 - own)[:, None]
    return np.where(rest > 1e-9, aims - residual / np.maximum(rest, 1e-9), found.offset)
