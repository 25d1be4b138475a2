"""Logistic regression at its optimum, by L-BFGS: no learning rate and no length of training, only a penalty."""

import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from transfer.errors import UsageError
from transfer.heads import affine
from transfer.heads.dense import Dense
from transfer.heads.estimator import Grid, Probe, Rows
from transfer.heads.logistic_path import Solutions, logistic_path

# The grid of DINOv2's evaluation (dinov2/eval/log_regression.py): 45 values, the strongest penalty first.
GRID = tuple(float(value) for value in 10.0 ** np.linspace(-6, 5, 45))


class LogisticProbe(Probe):
    """Logistic regression with an L2 penalty at its optimum, which is that of scikit-learn's `LogisticRegression`.

    Several classes are a softmax, two are one sigmoid, several labels a sigmoid each; the intercept is free.

    Args:
        C: inverse of the penalty, as in scikit-learn: `C * (loss summed over rows) + |coef|^2 / 2`.
        scaling: a name of `transfer.heads.scaling.SCALINGS`, fitted on the training rows; None: features as they are.
        class_weight: None, "balanced" or {class: weight}, as in scikit-learn.
        tol: how far above its optimum the objective may be, over the rows (see `transfer.heads.logistic_path`). Not
            scikit-learn's, which bounds the gradient.
        max_iter: most steps of L-BFGS; a ConvergenceWarning says when they do not suffice.

    After `fit`: `coef_` (C, D) and `intercept_` (C,) float32, also of two classes, where they are one another's
    negative; `n_iter_`, int.
    """

    SIDE_BY_SIDE: ClassVar[tuple[str, ...]] = ("C",)
    GRID: ClassVar[dict[str, tuple]] = {"C": GRID}

    coef_: np.ndarray
    intercept_: np.ndarray
    n_iter_: int

    def __init__(
        self,
        C: float = 1.0,
        scaling: str | None = "standard",
        class_weight: str | dict[Any, float] | None = None,
        tol: float = 1e-5,
        max_iter: int = 1000,
    ) -> None:
        self.C = C
        self.scaling = scaling
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter

    def _check_parameters(self) -> None:
        super()._check_parameters()
        _check_inverse_penalty(self.C)
        if not 0 < self.tol < float("inf"):
            raise UsageError(f"tol must be a number above 0, not {self.tol!r}")
        if self.max_iter < 1:
            raise UsageError(f"max_iter must be at least 1, not {self.max_iter!r}")

    def _fit(self, rows: Rows) -> None:
        found = self._optima(rows, [self.C])
        self.coef_, self.intercept_ = (array[0] for array in _both_classes(found, rows))
        self.n_iter_ = int(found.steps[0])

    def _scores(self, x: np.ndarray) -> np.ndarray:
        return affine.scores(x, self.coef_, self.intercept_)

    def dense(self) -> Dense:
        return Dense.of(self.coef_, self.intercept_)

    def _fit_many(self, rows: Rows, grid: Grid) -> Callable[[np.ndarray], np.ndarray]:
        for value in grid["C"]:
            _check_inverse_penalty(value)
        kernels, biases = _both_classes(self._optima(rows, grid["C"]), rows)
        stacked = kernels.reshape(-1, kernels.shape[-1]), biases.ravel()

        def scores(x: np.ndarray) -> np.ndarray:
            return affine.scores(x, *stacked).reshape(len(x), *biases.shape).swapaxes(0, 1)

        return scores

    def _optima(self, rows: Rows, inverse_penalties: Any) -> Solutions:
        kind, one_hot = rows.targets.kind, rows.targets.wide()
        if kind == "classes" and one_hot.shape[1] == 2:
            kind, one_hot = "labels", one_hot[:, 1:]
        values = np.asarray(inverse_penalties, np.float64)
        solutions = logistic_path(
            rows.x, one_hot, kind, 1 / values, weight=rows.weight, tolerance=self.tol, max_steps=self.max_iter
        )
        unconverged = np.flatnonzero(~np.asarray(solutions.converged))
        if len(unconverged):
            first = unconverged[0]
            warnings.warn(
                f"{len(unconverged)} of {len(values)} heads have not converged, the first of C={values[first]:g} after "
                f"{solutions.steps[first]} steps of max_iter={self.max_iter}; scaling='standard', a smaller C or more "
                "steps help",
                ConvergenceWarning,
                stacklevel=4,
            )
        return solutions


def _check_inverse_penalty(value: Any) -> None:
    if not 0 < value < float("inf"):
        raise UsageError(f"C must be a number above 0, not {value!r}")


def _both_classes(found: Solutions, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Kernels (H, C, D) and biases (H, C), whose one column of two classes becomes half of it against the other."""
    kernels, biases = np.swapaxes(np.asarray(found.kernel), 1, 2), np.asarray(found.bias)
    if rows.targets.num_outputs == 2 and biases.shape[1] == 1:
        kernels, biases = (np.concatenate([-half, half], axis=1) for half in (kernels / 2, biases / 2))
    return np.ascontiguousarray(kernels), np.ascontiguousarray(biases)
