"""The published head as scikit-learn estimators; all epochs run as one jitted program."""

from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import jax

from transfer.heads.estimator import Probe, Regressor
from transfer.heads.programs import LINEAR
from transfer.heads.trained import Trained


@dataclass(eq=False, repr=False)
class LinearProbe(Probe, Trained):
    """Softmax on features, trained by Adam: the published recipe where nothing else is asked for.

    Args:
        epochs: passes over the rows.
        batch_size: rows a step; an epoch's last batch has what is left.
        learning_rate: of Adam, constant. The recipe's 1e-3 suits features of about unit size.
        seed: of the first weights and of each epoch's shuffle.
        shuffle: False keeps the order of the rows.
        weight_decay: of the kernel, beside Adam's step, as in AdamW.
        scaling, class_weight: see `Head`; a batch's loss is the sum of weighted losses over its rows.

    After `fit`: `classes_` (C,) the labels in sorted order; `coef_` (C, D) and `intercept_` (C,) float32;
    `n_features_in_`, D; `n_iter_`, the epochs; `history_`, metric name -> float32 (epochs,), as
    `transfer.heads.gradient.train_epoch` defines them, the validation's only if `fit` was given such rows.
    """

    program = LINEAR
    GRID = {"learning_rate": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)}

    _: KW_ONLY
    class_weight: str | dict[Any, float] | None = None

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # the recipe's steps are too few and too small for a few hundred rows
        tags.classifier_tags.poor_score = True
        return tags


@dataclass(eq=False, repr=False)
class LinearRegressor(Regressor, Trained):
    """Linear regression by Adam: for what is too large for `RidgeRegressor`, which has the optimum itself.

    Args as `LinearProbe`'s. After `fit`: `coef_` (T, D), `intercept_` (T,); `history_` of the loss (half the squared
    error of values brought to deviation 1) and of `r2`.
    """

    # no recipe asks for another start, and from zero it is not far
    program = replace(LINEAR, initializer=jax.nn.initializers.zeros)
    GRID = LinearProbe.GRID

    learning_rate: float = 1e-2
    _: KW_ONLY
    scaling: str | None = "standard"
