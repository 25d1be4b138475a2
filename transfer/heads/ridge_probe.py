"""Ridge regression on features, in closed form: to 1 and -1, which makes a classifier, or to numbers.

Rows are centred (the intercept is free) and, where they have weights, scaled by the root of theirs; X = U S V' is then
found from the smaller of X'X and X X', in float64. The coefficients of a penalty are V S / (S^2 + penalty) U'Y: one
eigendecomposition, then any number of penalties.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from scipy.linalg import eigh
from sklearn.utils._param_validation import Interval

from transfer.heads import temperature
from transfer.heads.dense import linear_scores
from transfer.heads.estimator import Grid, LinearHead, Probe, Regressor, Rows

# The strongest first.
ALPHAS = tuple(10.0**power for power in range(6, -5, -1))
# Rows in float64 at a time.
_CHUNK = 8192
# Some rows, by slice or number -> their targets, float64 (n, C).
TargetsOf = Callable[[Any], np.ndarray]


class Spectrum:
    """Rows float32 (N, D), their targets and weights (N,), of which some are above 0, decomposed; all float64.

    Of more rows than columns, targets are made some rows at a time: N times C never are together.

    Attributes:
        centre: (D,), mean of the rows.
        offset: (C,), mean of the targets.
        vectors: (D, K), V; K is the rows' numerical rank.
        values: (K,), S.
        projected: (K, C), U'Y.
    """

    def __init__(self, x: np.ndarray, targets_of: TargetsOf, weight: np.ndarray | None = None) -> None:
        self.x, self.targets_of = x, targets_of
        self.weight = weight = np.ones(len(x)) if weight is None else np.asarray(weight, np.float64)
        self.centre = sum(weight[rows] @ x[rows].astype(np.float64) for rows in self._chunks()) / weight.sum()
        self.offset = sum(weight[rows] @ targets_of(rows) for rows in self._chunks()) / weight.sum()
        if len(x) < x.shape[1]:
            rows, targets = self._centred(slice(None))
            self.values, left = _significant(rows @ rows.T, max(x.shape))
            self.vectors, self.projected = rows.T @ left / self.values, left.T @ targets
            return
        gram, product = np.zeros((x.shape[1],) * 2), np.zeros((x.shape[1], len(self.offset)))
        for chunk in self._chunks():
            rows, targets = self._centred(chunk)
            gram += rows.T @ rows
            product += rows.T @ targets
        self.values, self.vectors = _significant(gram, max(x.shape))
        self.projected = self.vectors.T @ product / self.values[:, None]

    def _chunks(self) -> Iterator[slice]:
        return (slice(start, start + _CHUNK) for start in range(0, len(self.x), _CHUNK))

    def _centred(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        root = np.sqrt(self.weight[rows])[:, None]
        return (self.x[rows].astype(np.float64) - self.centre) * root, root * (self.targets_of(rows) - self.offset)

    def coefficients(self, alpha: float) -> tuple[np.ndarray, np.ndarray]:
        """(D, C) and (C,): what minimises the summed squares + `alpha` |coefficients|^2, least in norm for 0."""
        kernel = self.vectors @ ((self.values / (self.values**2 + alpha))[:, None] * self.projected)
        return kernel, self.offset - self.centre @ kernel

    def left_out(self, alpha: float, rows: np.ndarray, sample_weight: np.ndarray | None = None) -> np.ndarray:
        """Scores (n, C) of the rows numbered `rows`, each by the fit to all others: leave-one-out in closed form.

        A row's residual grows by 1 / (1 - h), where h, the row's part in its own score, is the diagonal of the hat
        matrix (Cook & Weisberg 1982), that of the intercept included. A row that decides its score alone (h = 1) gets
        the mean. Of a row that stands for several, `sample_weight` (N,), one is left out.
        """
        coordinates = (self.x[rows].astype(np.float64) - self.centre) @ self.vectors
        kernel = (self.values / (self.values**2 + alpha))[:, None] * self.projected
        expected, weight = self.targets_of(rows), self.weight[rows]
        residual = expected - (coordinates @ kernel + self.offset)
        if sample_weight is not None:
            weight = weight / np.maximum(sample_weight[rows], 1)
        rest = 1 - weight * (1 / self.weight.sum() + coordinates**2 @ (1 / (self.values**2 + alpha)))
        rest = rest[:, None]
        return np.where(rest > 1e-9, expected - residual / np.maximum(rest, 1e-9), self.offset)


def _significant(gram: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Singular values and vectors by the rows' products, without what is rounding, which 1 / S would blow up."""
    squares, vectors = eigh(gram, driver="evd")
    kept = squares > size * np.finfo(np.float64).eps * max(float(squares[-1]), 0.0)
    return np.sqrt(squares[kept]), vectors[:, kept]


def _solver(rows: Rows) -> Callable[[float], tuple[np.ndarray, np.ndarray, float]]:
    """The function from alpha to float32 (C, D), scikit-learn's layout, and (C,), and the temperature of the scores."""
    values = rows.targets.kind == "values"

    def targets_of(which: Any) -> np.ndarray:
        """1 for the row's class or labels and -1 for the others, as scikit-learn has it; or the values."""
        matrix = rows.targets.to_matrix(which).astype(np.float64)
        return matrix if values else 2 * matrix - 1

    spectrum = Spectrum(rows.x, targets_of, rows.weight)

    def solve(alpha: float) -> tuple[np.ndarray, np.ndarray, float]:
        kernel, bias = (np.ascontiguousarray(array.T, np.float32) for array in spectrum.coefficients(alpha))
        if values:
            return kernel, bias, 1.0
        which = temperature.rows_to_fit(len(rows.x), rows.targets.num_outputs)
        scores = spectrum.left_out(alpha, which, rows.sample_weight)
        weights = (None if array is None else array[which] for array in (rows.weight, rows.sample_weight))
        return kernel, bias, temperature.fit(scores, rows.targets.rows(which), *weights)

    return solve


@dataclass(eq=False, repr=False)
class _Ridge(LinearHead):
    """The part that the classifier and the regressor share."""

    SIDE_BY_SIDE: ClassVar[tuple[str, ...]] = ("alpha",)
    GRID: ClassVar[dict[str, tuple]] = {"alpha": ALPHAS}

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **LinearHead._parameter_constraints,
        "alpha": [Interval(Real, 0, np.inf, closed="left")],
    }

    alpha: float = 1.0
    scaling: str | None = None

    def _fit(self, rows: Rows) -> None:
        self.coef_, self.intercept_, self.temperature_ = _solver(rows)(self.alpha)

    def _fit_many(self, rows: Rows, grid: Grid) -> Callable[[np.ndarray], np.ndarray]:
        solutions = list(map(_solver(rows), grid["alpha"]))
        return lambda x: np.stack([linear_scores(x, *solution) for solution in solutions])


@dataclass(eq=False, repr=False)
class RidgeProbe(Probe, _Ridge):
    """Least squares to 1 (the row's class) and -1 (the others): the optimum of scikit-learn's `RidgeClassifier`.

    Args:
        alpha: penalty, of the squared coefficients beside the summed squares; the intercept is free. 0: none, and the
            least coefficients of all that fit.
        scaling, class_weight: see `Head`.

    `predict_proba` is the softmax (of labels the sigmoid) of the scores over a temperature: the one that suits the
    training rows best, each scored by the fit to all the others. scikit-learn's has none, and its `decision_function`
    is not divided by it.

    After `fit`: `coef_` (C, D) and `intercept_` (C,) float32, also of two classes; `temperature_`.
    """

    class_weight: str | dict[Any, float] | None = None


class RidgeRegressor(Regressor, _Ridge):
    """Ridge regression, as scikit-learn's `Ridge`, whose optimum it is; see `RidgeProbe` for `alpha` and `scaling`.

    After `fit`: `coef_` (T, D) and `intercept_` (T,) float32.
    """
