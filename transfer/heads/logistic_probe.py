"""Logistic regression at its optimum, by L-BFGS: no learning rate and no length of training, only a penalty."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval

from transfer.heads.dense import linear_scores
from transfer.heads.estimator import Grid, LinearHead, Probe, Rows
from transfer.heads.logistic_path import logistic_path

# The grid of DINOv2's evaluation (dinov2/eval/log_regression.py): 45 values, the strongest penalty first.
GRID = tuple(float(value) for value in 10.0 ** np.linspace(-6, 5, 45))


@dataclass(eq=False, repr=False)
class LogisticProbe(Probe, LinearHead):
    """Logistic regression with an L2 penalty at its optimum, which is that of scikit-learn's `LogisticRegression`.

    Several classes are a softmax, two are one sigmoid, several labels a sigmoid each; the intercept is free.

    Args:
        C: inverse of the penalty, as in scikit-learn: `C * (loss summed over rows) + |coef|^2 / 2`.
        scaling, class_weight: see `Head`.
        tol: how far above its optimum the objective may be, over the rows (see `transfer.heads.logistic_path`). Not
            scikit-learn's, which bounds the gradient.
        max_iter: most steps of L-BFGS; a ConvergenceWarning says when they do not suffice.

    After `fit`: `coef_` (C, D) and `intercept_` (C,) float32, also of two classes, where they are one another's
    negative; `n_iter_`, int.
    """

    SIDE_BY_SIDE: ClassVar[tuple[str, ...]] = ("C",)
    GRID: ClassVar[dict[str, tuple]] = {"C": GRID}

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **Probe._parameter_constraints,
        **dict.fromkeys(("C", "tol"), [Interval(Real, 0, np.inf, closed="neither")]),
        "max_iter": [Interval(Integral, 1, None, closed="left")],
    }

    C: float = 1.0
    scaling: str | None = "standard"
    class_weight: str | dict[Any, float] | None = None
    tol: float = 1e-5
    max_iter: int = 1000

    def _fit(self, rows: Rows) -> None:
        (self.coef_,), (self.intercept_,), (self.n_iter_,) = self._solve(rows, [self.C])

    def _fit_many(self, rows: Rows, grid: Grid) -> Callable[[np.ndarray], np.ndarray]:
        kernels, biases, _ = self._solve(rows, grid["C"])
        stacked = kernels.reshape(-1, kernels.shape[-1]), biases.ravel()
        return lambda x: linear_scores(x, *stacked).reshape(len(x), *biases.shape).swapaxes(0, 1)

    def _solve(self, rows: Rows, values: Sequence[float]) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Kernels (H, C, D), biases (H, C) and steps of heads that differ in C."""
        kind, one_hot = rows.targets.kind, rows.targets.to_matrix()
        one_sigmoid = kind == "classes" and one_hot.shape[1] == 2
        if one_sigmoid:
            kind, one_hot = "labels", one_hot[:, 1:]
        penalties = 1 / np.asarray(values, np.float64)
        solutions = logistic_path(
            rows.x, one_hot, kind, penalties, weight=rows.weight, tolerance=self.tol, max_steps=self.max_iter
        )
        steps = np.asarray(solutions.steps).tolist()
        if len(unconverged := np.flatnonzero(~np.asarray(solutions.converged))):
            first = unconverged[0]
            warnings.warn(
                f"{len(unconverged)} of {len(values)} heads have not converged, the first of C={values[first]:g} after "
                f"{steps[first]} steps of max_iter={self.max_iter}; scaling='standard', a smaller C or more steps help",
                ConvergenceWarning,
                stacklevel=4,
            )
        kernels, biases = np.swapaxes(np.asarray(solutions.kernel), 1, 2), np.asarray(solutions.bias)
        if one_sigmoid:  # half of it for the one class, half against the other
            kernels, biases = (np.concatenate([-half, half], axis=1) for half in (kernels / 2, biases / 2))
        return np.ascontiguousarray(kernels), np.ascontiguousarray(biases), steps
