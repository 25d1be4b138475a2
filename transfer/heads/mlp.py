"""A perceptron with hidden layers, ReLU and dropout, under Adam: what features hold that no linear head can read."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from transfer.errors import UsageError
from transfer.heads import gradient
from transfer.heads.gradient import Method, Metrics, State
from transfer.heads.layers import init_key, logits
from transfer.heads.optimisers import rates_of

__all__ = ["init_key", "init_state", "logits", "make_epoch"]

HIDDEN = (256,)


def init_state(num_features: int, num_classes: int, key: jax.Array, *, hidden: Sequence[int] = HIDDEN) -> State:
    """Fresh state of a head of `num_features` inputs and `hidden` units a layer, all kernels Glorot-uniform."""
    return _init_state(num_features, num_classes, key, checked_hidden(hidden))


def checked_hidden(hidden: Sequence[int]) -> tuple[int, ...]:
    """The units of each hidden layer; UsageError where there is no layer, or one without units."""
    if isinstance(hidden, str) or not isinstance(hidden, Sequence) or not hidden:
        raise UsageError(f"hidden={hidden!r} must be the units of one layer or more, such as (256,)")
    if not all(isinstance(units, int | np.integer) and units > 0 for units in hidden):
        raise UsageError(f"hidden={tuple(hidden)} must be whole numbers of units, each at least 1")
    return tuple(int(units) for units in hidden)


@functools.partial(jax.jit, static_argnames=("num_features", "num_classes", "hidden"))
def _init_state(num_features: int, num_classes: int, key: jax.Array, hidden: tuple[int, ...]) -> State:
    return gradient.init_state(num_features, num_classes, key, hidden=hidden)


def make_epoch(
    features: ArrayLike,
    labels: ArrayLike,
    validation_features: ArrayLike | None,
    validation_labels: ArrayLike | None,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    *,
    seed: int = 0,
    shuffle: bool = True,
    dropout: float = 0.5,
    weight_decay: float = 0.0,
    class_weight: Any = None,
    kind: str = "classes",
) -> Callable[[State, int], tuple[State, Metrics]]:
    """Puts the rows on the device once and returns `epoch(state, index) -> (state, metrics)`, jitted.

    Args:
        dropout: the share of hidden units that a step leaves out, below 1. Loss and accuracy are those of the others;
            nothing is left out of what the validation rows meet.
        weight_decay: of the kernels, beside Adam's step (AdamW).

    The others, the metrics and what is raised: see `transfer.heads.linear.make_epoch`.
    """
    method = Method(batch_size, shuffle, kind)
    rows = (features, labels, validation_features, validation_labels)
    rates = rates_of(learning_rate, weight_decay, dropout)
    return gradient.make_epoch(*gradient.split(*rows, kind, class_weight), rates, method, seed)
