"""A linear head under SGD with momentum, its learning rate falling along a cosine: the ImageNet linear probe.

So MoCo (`main_lincls.py`: SGD, momentum 0.9, no weight decay, a kernel from a normal distribution of deviation 0.01)
and DINOv2 (`dinov2/eval/linear.py`: the same, the learning rate annealed to 0 step by step) train a probe. Both
multiply the learning rate by the rows of a step over 256; here it is that of a step.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.typing import ArrayLike

from transfer.heads import gradient
from transfer.heads.gradient import Method, Metrics, State
from transfer.heads.layers import init_key, logits
from transfer.heads.optimisers import check_rates, rates_of

__all__ = ["init_key", "init_state", "logits", "make_epoch"]

DEVIATION = 0.01


@functools.partial(jax.jit, static_argnames=("num_features", "num_classes"))
def init_state(num_features: int, num_classes: int, key: jax.Array) -> State:
    """Fresh state of a head of `num_features` inputs: a plain pytree of arrays, as Orbax wants it. Pure JAX."""
    start = jax.nn.initializers.normal(DEVIATION)
    return gradient.init_state(num_features, num_classes, key, initializer=start, optimiser="sgd")


def make_epoch(
    features: ArrayLike,
    labels: ArrayLike,
    validation_features: ArrayLike | None,
    validation_labels: ArrayLike | None,
    batch_size: int = 256,
    learning_rate: float = 0.1,
    *,
    epochs: int = 50,
    seed: int = 0,
    shuffle: bool = True,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    class_weight: Any = None,
    kind: str = "classes",
) -> Callable[[State, int], tuple[State, Metrics]]:
    """Puts the rows on the device once and returns `epoch(state, index) -> (state, metrics)`, jitted.

    Args:
        learning_rate: of the first step.
        epochs: after which the learning rate is 0. A run that is to be longer is another run from its first step on.
        weight_decay: of the kernel, part of its gradient as in PyTorch's SGD.

    The others, the metrics and what is raised: see `transfer.heads.linear.make_epoch`.
    """
    check_rates(learning_rate, momentum=momentum)
    method = Method(batch_size, shuffle, kind, "sgd", momentum, cosine=epochs)
    rows = (features, labels, validation_features, validation_labels)
    rates = rates_of(learning_rate, weight_decay)
    return gradient.make_epoch(*gradient.split(*rows, kind, class_weight), rates, method, seed)
