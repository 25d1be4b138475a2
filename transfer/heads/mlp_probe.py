"""Perceptrons with dropout as scikit-learn estimators; see `transfer.heads.programs`."""

from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from transfer.heads.dense import Dense, linear_scores
from transfer.heads.estimator import Probe, Regressor
from transfer.heads.gradient import Params, all_layers
from transfer.heads.programs import MLP, checked_hidden
from transfer.heads.trained import Trained


@dataclass(eq=False, repr=False)
class _Layers:
    """Parameters that come before those of `Trained`."""

    hidden: tuple[int, ...] = (256,)
    dropout: float = 0.5


class _Perceptron(Trained, _Layers):
    """The part that the classifier and the regressor share."""

    program = MLP
    GRID = {"dropout": (0.75, 0.5, 0.25, 0.0), "learning_rate": (1e-4, 3e-4, 1e-3, 3e-3)}

    def check_parameters(self) -> None:
        super().check_parameters()
        checked_hidden(self.hidden)

    def _keep(self, params: Params) -> None:
        self.coefs_ = [np.asarray(layer["kernel"]) for layer in all_layers(params)]
        self.intercepts_ = [np.asarray(layer["bias"]) for layer in all_layers(params)]

    def _scores(self, x: np.ndarray) -> np.ndarray:
        *hidden, (kernel, bias) = zip(self.coefs_, self.intercepts_, strict=True)
        for of_units, threshold in hidden:
            x = np.maximum(linear_scores(x, of_units.T, threshold), 0)
        return linear_scores(x, kernel.T, bias)

    def dense(self) -> Dense:
        kernels, biases = ([array.astype(np.float64) for array in arrays] for arrays in (self.coefs_, self.intercepts_))
        return Dense(kernels, biases)


@dataclass(eq=False, repr=False)
class MlpProbe(Probe, _Perceptron):
    """A perceptron on features: hidden layers with ReLU and dropout, softmax, by Adam.

    Args:
        hidden: units of each hidden layer.
        dropout: share of the hidden units that a step leaves out, below 1; none is left out of a prediction.

    The others as `LinearProbe`'s; `seed` is also that of what is left out.

    After `fit`: `classes_`; `coefs_` and `intercepts_`, those of each layer as scikit-learn's `MLPClassifier` has
    them, (D, U) and (U,) float32; `history_` and `n_iter_` as `LinearProbe`'s.
    """

    _: KW_ONLY
    class_weight: str | dict[Any, float] | None = None


@dataclass(eq=False, repr=False)
class MlpRegressor(Regressor, _Perceptron):
    """A perceptron on features that predicts numbers; args as `MlpProbe`'s, `history_` as `LinearRegressor`'s."""

    dropout: float = 0.0
    _: KW_ONLY
    scaling: str | None = "standard"
