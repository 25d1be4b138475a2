"""Ridge regression on features, in closed form: to 1 and -1, which makes a classifier, or to numbers."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from transfer.errors import UsageError
from transfer.heads import affine, ridge, temperature
from transfer.heads.dense import Dense
from transfer.heads.estimator import Grid, Head, Probe, Regressor, Rows
from transfer.heads.targets import Targets

# The strongest first.
ALPHAS = tuple(10.0**power for power in range(6, -5, -1))


class _Ridge(Head):
    """What the classifier and the regressor share."""

    SIDE_BY_SIDE: ClassVar[tuple[str, ...]] = ("alpha",)
    GRID: ClassVar[dict[str, tuple]] = {"alpha": ALPHAS}

    alpha: float
    coef_: np.ndarray
    intercept_: np.ndarray
    temperature_: float

    def _check_parameters(self) -> None:
        super()._check_parameters()
        _check_alpha(self.alpha)

    def _fit(self, rows: Rows) -> None:
        y = _aims(rows.targets)
        found = ridge.decompose(rows.x, y, rows.weight)
        self.coef_, self.intercept_, self.temperature_ = _solution(found, self.alpha, rows, y)

    def _scores(self, x: np.ndarray) -> np.ndarray:
        return affine.scores(x, self.coef_, self.intercept_, self.temperature_)

    def dense(self) -> Dense:
        return Dense.of(self.coef_, self.intercept_, self.temperature_)

    def _fit_many(self, rows: Rows, grid: Grid) -> Callable[[np.ndarray], np.ndarray]:
        y = _aims(rows.targets)
        found = ridge.decompose(rows.x, y, rows.weight)
        for alpha in grid["alpha"]:
            _check_alpha(alpha)
        solutions = [_solution(found, alpha, rows, y) for alpha in grid["alpha"]]
        return lambda x: np.stack([affine.scores(x, *solution) for solution in solutions])


def _check_alpha(alpha: Any) -> None:
    if not 0 <= alpha < float("inf"):
        raise UsageError(f"alpha must be a number from 0, not {alpha!r}")


def _aims(targets: Targets) -> np.ndarray:
    """float64 (N, C): 1 for the row's class or labels and -1 for the others, as scikit-learn has it; or the values."""
    wide = targets.wide().astype(np.float64)
    return wide if targets.kind == "values" else 2 * wide - 1


def _solution(found: ridge.Spectrum, alpha: float, rows: Rows, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Float32 (C, D), scikit-learn's layout, and (C,); and the temperature of the scores."""
    kernel, bias = (np.ascontiguousarray(array.T, np.float32) for array in found.coefficients(alpha))
    if rows.targets.kind == "values":
        return kernel, bias, 1.0
    some = temperature.some_rows(len(y))
    scores = ridge.left_out(found, alpha, rows.x, y, rows.weight, some)
    weight = None if rows.weight is None else rows.weight[some]
    return kernel, bias, temperature.fit(scores, rows.targets._replace(array=rows.targets.array[some]), weight)


class RidgeProbe(Probe, _Ridge):
    """Least squares to 1 (the row's class) and -1 (the others): the optimum of scikit-learn's `RidgeClassifier`.

    Args:
        alpha: penalty, of the squared coefficients beside the summed squares; the intercept is free. 0: none, and the
            least coefficients of all that fit.
        scaling: a name of `transfer.heads.scaling.SCALINGS`, fitted on the training rows; None: features as they are.
        class_weight: None, "balanced" or {class: weight}, as in scikit-learn.

    `predict_proba` is the softmax (of labels the sigmoid) of the scores over a temperature: the one that suits the
    training rows best, each scored by the fit to all the others. scikit-learn's has none.

    After `fit`: `coef_` (C, D) and `intercept_` (C,) float32, also of two classes; `temperature_`.
    """

    def __init__(
        self, alpha: float = 1.0, scaling: str | None = None, class_weight: str | dict[Any, float] | None = None
    ) -> None:
        self.alpha = alpha
        self.scaling = scaling
        self.class_weight = class_weight


class RidgeRegressor(Regressor, _Ridge):
    """Ridge regression, as scikit-learn's `Ridge`, whose optimum it is; see `RidgeProbe` for `alpha` and `scaling`.

    After `fit`: `coef_` (T, D) and `intercept_` (T,) float32.
    """

    def __init__(self, alpha: float = 1.0, scaling: str | None = None) -> None:
        self.alpha = alpha
        self.scaling = scaling
