"""Least squares with an L2 penalty in closed form: one eigendecomposition, then any number of penalties.

Rows are centred (the intercept is free) and, where they have weights, scaled by the root of theirs; X = U S V' is then
found from the smaller of X'X and X X', in float64. The coefficients of a penalty are V S / (S^2 + penalty) U'Y.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import eigh

# Rows in float64 at a time.
_CHUNK = 8192
# Some rows, by slice or number -> their targets, float64 (n, C).
TargetsOf = Callable[[Any], np.ndarray]


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
        kernel = self.vectors @ ((self.values / (self.values**2 + alpha))[:, None] * self.projected)
        return kernel, self.offset - self.centre @ kernel


def decompose(x: np.ndarray, targets_of: TargetsOf, weight: np.ndarray | None = None) -> Spectrum:
    """Decomposes rows `x`, float32 (N, D), and their targets, with weights (N,) of which some are above 0.

    Of more rows than columns, targets are made some rows at a time: N times C never are together.
    """
    weight = np.ones(len(x)) if weight is None else np.asarray(weight, np.float64)
    centre = sum(weight[rows] @ x[rows].astype(np.float64) for rows in _chunks(len(x))) / weight.sum()
    offset = sum(weight[rows] @ targets_of(rows) for rows in _chunks(len(x))) / weight.sum()
    root = np.sqrt(weight)

    def centred(rows: slice) -> np.ndarray:
        return (x[rows].astype(np.float64) - centre) * root[rows, None]

    def centred_targets(rows: slice) -> np.ndarray:
        return root[rows, None] * (targets_of(rows) - offset)

    everything = slice(None)
    if len(x) < x.shape[1]:
        rows = centred(everything)
        values, left = _significant(rows @ rows.T, max(x.shape))
        return Spectrum(centre, offset, rows.T @ left / values, values, left.T @ centred_targets(everything))
    gram, product = np.zeros((x.shape[1],) * 2), np.zeros((x.shape[1], len(offset)))
    for chunk in _chunks(len(x)):
        rows = centred(chunk)
        gram += rows.T @ rows
        product += rows.T @ centred_targets(chunk)
    values, vectors = _significant(gram, max(x.shape))
    return Spectrum(centre, offset, vectors, values, vectors.T @ product / values[:, None])


def _chunks(num_rows: int) -> Iterator[slice]:
    return (slice(start, start + _CHUNK) for start in range(0, num_rows, _CHUNK))


def _significant(gram: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Singular values and vectors without what is rounding: it carries nothing of the targets, 1 / S would blow it up.

    Args:
        gram: (K, K), the rows' products.
        size: the larger of the rows' two lengths.
    """
    squares, vectors = eigh(gram, driver="evd")
    kept = squares > size * np.finfo(np.float64).eps * max(float(squares[-1]), 0.0)
    return np.sqrt(squares[kept]), vectors[:, kept]


def left_out(
    spectrum: Spectrum,
    alpha: float,
    x: np.ndarray,
    targets_of: TargetsOf,
    weight: np.ndarray | None,
    rows: np.ndarray,
    sample_weight: np.ndarray | None = None,
) -> np.ndarray:
    """Scores (n, C) of the rows numbered `rows`, each by the fit to all others: leave-one-out in closed form.

    A row's residual grows by 1 / (1 - h), where h, the row's part in its own score, is the diagonal of the hat matrix
    (Cook & Weisberg 1982), that of the intercept included. A row that decides its score alone (h = 1) gets the mean.
    Of a row that stands for several, `sample_weight` (N,), one is left out.
    """
    weight = np.ones(len(x)) if weight is None else np.asarray(weight, np.float64)
    coordinates = (x[rows].astype(np.float64) - spectrum.centre) @ spectrum.vectors
    kernel = (spectrum.values / (spectrum.values**2 + alpha))[:, None] * spectrum.projected
    expected = targets_of(rows)
    residual = expected - (coordinates @ kernel + spectrum.offset)
    one = weight[rows] if sample_weight is None else weight[rows] / np.maximum(sample_weight[rows], 1)
    own = one * (1 / weight.sum() + coordinates**2 @ (1 / (spectrum.values**2 + alpha)))
    rest = (1 - own)[:, None]
    return np.where(rest > 1e-9, expected - residual / np.maximum(rest, 1e-9), spectrum.offset)
