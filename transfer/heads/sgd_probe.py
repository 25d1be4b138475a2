"""A linear head under SGD with momentum and a cosine schedule; see `transfer.heads.programs.SGD`."""

from dataclasses import KW_ONLY, dataclass
from typing import Any

from transfer.heads.estimator import Probe, Regressor
from transfer.heads.programs import SGD
from transfer.heads.trained import Trained


@dataclass(eq=False, repr=False)
class SgdProbe(Probe, Trained):
    """Softmax on features by SGD with momentum, the learning rate falling to 0 along a cosine.

    The linear probe of MoCo and DINOv2, whose learning rates are for 256 rows a step and suit their features; DINOv2
    tries 13 of them, `SgdProbe.GRID`.

    Args:
        learning_rate: of the first step.
        weight_decay: of the kernel, part of its gradient.
        momentum: from 0, none, to below 1.

    The others, and what there is after `fit`, as `LinearProbe`'s.
    """

    program = SGD
    # Those of DINOv2's linear evaluation, for a step of 256 rows.
    GRID = {"learning_rate": (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)}

    learning_rate: float = 0.1
    _: KW_ONLY
    momentum: float = 0.9
    class_weight: str | dict[Any, float] | None = None


@dataclass(eq=False, repr=False)
class SgdRegressor(Regressor, Trained):
    """Linear regression by SGD with momentum and a cosine schedule; see `SgdProbe`, and `LinearRegressor`."""

    program = SGD
    GRID = SgdProbe.GRID

    learning_rate: float = 1e-2
    _: KW_ONLY
    momentum: float = 0.9
    scaling: str | None = "standard"
