"""Perceptrons with dropout as scikit-learn estimators; see `transfer.heads.programs`."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from transfer.heads.estimator import Probe, Regressor
from transfer.heads.programs import MLP
from transfer.heads.trained import Trained

GRID = {"dropout": (0.75, 0.5, 0.25, 0.0), "learning_rate": (1e-4, 3e-4, 1e-3, 3e-3)}


@dataclass(eq=False, repr=False)
class MlpProbe(Probe, Trained):
    """A perceptron on features: hidden layers with ReLU and dropout, softmax, by Adam.

    Args:
        hidden: units of each hidden layer.
        dropout: share of the hidden units that a step leaves out, below 1; none is left out of a prediction.
        epochs: passes over the rows.
        batch_size: rows a step; an epoch's last batch has what is left.
        learning_rate: of Adam, constant.
        seed: of the first weights, of each epoch's shuffle and of what is left out.
        shuffle: False keeps the order of the rows.
        weight_decay: of the kernels, beside Adam's step, as in AdamW.
        scaling: a name of `transfer.heads.scaling.SCALINGS`, fitted on the training rows; None: features as they are.
        class_weight: None, "balanced" or {class: weight}; a batch's loss is the sum of weighted losses over its rows.

    After `fit`: `classes_`; `coefs_` and `intercepts_`, those of each layer as scikit-learn's `MLPClassifier` has
    them, (D, U) and (U,) float32; `history_` and `n_iter_` as `LinearProbe`'s.
    """

    program = MLP
    GRID: ClassVar[dict[str, tuple]] = GRID

    hidden: tuple[int, ...] = (256,)
    dropout: float = 0.5
    epochs: int = 50
    batch_size: int = 256
    learning_rate: float = 1e-3
    seed: int = 0
    shuffle: bool = True
    _: KW_ONLY
    weight_decay: float = 0.0
    scaling: str | None = None
    class_weight: str | dict[Any, float] | None = None


@dataclass(eq=False, repr=False)
class MlpRegressor(Regressor, Trained):
    """A perceptron on features that predicts numbers; args as `MlpProbe`'s, `history_` as `LinearRegressor`'s."""

    program = MLP
    GRID: ClassVar[dict[str, tuple]] = GRID

    hidden: tuple[int, ...] = (256,)
    dropout: float = 0.0
    epochs: int = 50
    batch_size: int = 256
    learning_rate: float = 1e-3
    seed: int = 0
    shuffle: bool = True
    _: KW_ONLY
    weight_decay: float = 0.0
    scaling: str | None = "standard"
