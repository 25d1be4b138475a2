"""Ridge regression on features, in closed form: to 1 and -1, which makes a classifier, or to numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval

from transfer.heads import affine, ridge, temperature
from transfer.heads.dense import Dense
from transfer.heads.estimator import Grid, Head, Probe, Regressor, Rows

# The strongest first.
ALPHAS = tuple(10.0**power for power in range(6, -5, -1))


class _Ridge(Head):
    """The part that the classifier and the regressor share."""

    SIDE_BY_SIDE: ClassVar[tuple[str, ...]] = ("alpha",)
    GRID: ClassVar[dict[str, tuple]] = {"alpha": ALPHAS}

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **Head._parameter_constraints,
        "alpha": [Interval(Real, 0, np.inf, closed="left")],
    }

    alpha: float
    coef_: np.ndarray
    intercept_: np.ndarray
    temperature_: float

    def _fit(self, rows: Rows) -> None:
        self.coef_, self.intercept_, self.temperature_ = _solver(rows)(self.alpha)

    def _scores(self, x: np.ndarray) -> np.ndarray:
        return affine.scores(x, self.coef_, self.intercept_, self.temperature_)

    def dense(self) -> Dense:
        return Dense.of(self.coef_, self.intercept_, self.temperature_)

    def _fit_many(self, rows: Rows, grid: Grid) -> Callable[[np.ndarray], np.ndarray]:
        solutions = list(map(_solver(rows), grid["alpha"]))
        return lambda x: np.stack([affine.scores(x, *solution) for solution in solutions])


def _solver(rows: Rows) -> Callable[[float], tuple[np.ndarray, np.ndarray, float]]:
    """The function from alpha to float32 (C, D), scikit-learn's layout, and (C,), and the temperature of the scores."""
    values = rows.targets.kind == "values"

    def targets_of(which: Any) -> np.ndarray:
        """1 for the row's class or labels and -1 for the others, as scikit-learn has it; or the values."""
        matrix = rows.targets.to_matrix(which).astype(np.float64)
        return matrix if values else 2 * matrix - 1

    spectrum = ridge.decompose(rows.x, targets_of, rows.weight)

    def solve(alpha: float) -> tuple[np.ndarray, np.ndarray, float]:
        kernel, bias = (np.ascontiguousarray(array.T, np.float32) for array in spectrum.coefficients(alpha))
        if values:
            return kernel, bias, 1.0
        which = temperature.rows_to_fit(len(rows.x), rows.targets.num_outputs)
        scores = ridge.left_out(spectrum, alpha, rows.x, targets_of, rows.weight, which, rows.sample_weight)
        weights = (None if array is None else array[which] for array in (rows.weight, rows.sample_weight))
        return kernel, bias, temperature.fit(scores, rows.targets.rows(which), *weights)

    return solve


@dataclass(eq=False, repr=False)
class RidgeProbe(Probe, _Ridge):
    """Least squares to 1 (the row's class) and -1 (the others): the optimum of scikit-learn's `RidgeClassifier`.

    Args:
        alpha: penalty, of the squared coefficients beside the summed squares; the intercept is free. 0: none, and the
            least coefficients of all that fit.
        scaling: a name of `transfer.heads.scaling.SCALINGS`, fitted on the training rows; None: features as they are.
        class_weight: None, "balanced" or {class: weight}, as in scikit-learn.

    `predict_proba` is the softmax (of labels the sigmoid) of the scores over a temperature: the one that suits the
    training rows best, each scored by the fit to all the others. scikit-learn's has none, and its `decision_function`
    is not divided by it.

    After `fit`: `coef_` (C, D) and `intercept_` (C,) float32, also of two classes; `temperature_`.
    """

    alpha: float = 1.0
    scaling: str | None = None
    class_weight: str | dict[Any, float] | None = None


@dataclass(eq=False, repr=False)
class RidgeRegressor(Regressor, _Ridge):
    """Ridge regression, as scikit-learn's `Ridge`, whose optimum it is; see `RidgeProbe` for `alpha` and `scaling`.

    After `fit`: `coef_` (T, D) and `intercept_` (T,) float32.
    """

    alpha: float = 1.0
    scaling: str | None = None
