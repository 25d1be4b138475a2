"""Optimisers of heads: Adam as Keras has it, SGD with momentum; and the rates that a sweep traces."""

import numbers
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from transfer.errors import UsageError

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7  # Keras' defaults; optax's epsilon would be 1e-8


class Rates(NamedTuple):
    """The rates in which heads that train side by side differ: numbers, or arrays (H,) of them; None: there is none.

    Attributes:
        learning_rate: of the optimiser; where a schedule lowers it, at the start.
        weight_decay: of kernels, not of biases.
        dropout: the share of a perceptron's hidden units that a step leaves out.
    """

    learning_rate: ArrayLike
    weight_decay: ArrayLike | None = None
    dropout: ArrayLike | None = None


# Rate -> whether a number is in its range, and the range in words.
RANGES: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "learning_rate": (lambda value: 0 < value < np.inf, "above 0"),
    "weight_decay": (lambda value: 0 <= value < np.inf, "0 or more"),
    "dropout": (lambda value: 0 <= value < 1, "from 0 to below 1"),
    "momentum": (lambda value: 0 <= value < 1, "from 0 to below 1"),
}


def check_rates(settings: Mapping[str, Any]) -> None:
    """Raises UsageError for a rate among the settings that is out of its range."""
    for name, (in_range, words) in RANGES.items():
        if name in settings and not (isinstance(settings[name], numbers.Real) and in_range(settings[name])):
            raise UsageError(f"{name} must be a number {words}, not {settings[name]!r}")


def keras_adam(learning_rate: ArrayLike) -> optax.GradientTransformation:
    """Adam where Keras puts epsilon: beside the square root of the second moment *before* its bias correction.

    Keras (and section 2 of Kingma & Ba, "epsilon hat") steps by `lr sqrt(c2)/c1 m / (sqrt(v) + eps)`, with
    `c = 1 - beta^t`; optax by `lr (m/c1) / (sqrt(v/c2) + eps)`. The two are one where optax's epsilon is
    `eps / sqrt(c2)`: 32 times larger at the first step, equal after a few thousand. So that is its schedule.
    The learning rate is no part of the state, so that a sweep may trace it.
    """

    def epsilon(count: jax.Array) -> jax.Array:
        return EPSILON / jnp.sqrt(1 - BETA_2 ** (count + 1))

    adam = optax.inject_hyperparams(optax.scale_by_adam, static_args=("b1", "b2", "eps_root"))
    return optax.chain(adam(b1=BETA_1, b2=BETA_2, eps=epsilon), optax.scale_by_learning_rate(learning_rate))


class Optimiser(NamedTuple):
    """An optimiser, and how it takes weight decay.

    Attributes:
        make: learning rate and momentum -> the transformation, whose state's shape depends on neither.
        decoupled: whether weight decay shrinks the kernels beside the step (as in AdamW), instead of being part of
            the gradient (as in PyTorch's SGD).
    """

    make: Callable[[ArrayLike, float], optax.GradientTransformation]
    decoupled: bool


OPTIMISERS: Mapping[str, Optimiser] = {
    "adam": Optimiser(lambda rate, _: keras_adam(rate), decoupled=True),
    "sgd": Optimiser(lambda rate, momentum: optax.sgd(rate, momentum), decoupled=False),
}


def stepped(
    optimiser: str,
    params: Any,
    opt_state: Any,
    gradients: Any,
    rate: ArrayLike,
    momentum: float,
    weight_decay: ArrayLike | None,
) -> tuple[Any, Any]:
    """Weights and state of an optimiser (a key of `OPTIMISERS`) after one step."""

    def decayed(tree: Any, by: ArrayLike) -> Any:
        """Kernels of `params` times `by` added to `tree`."""
        return jax.tree.map(lambda leaf, value: leaf + by * value if value.ndim == 2 else leaf, tree, params)

    make, decoupled = OPTIMISERS[optimiser]
    if weight_decay is not None and not decoupled:
        gradients = decayed(gradients, weight_decay)
    updates, opt_state = make(rate, momentum).update(gradients, opt_state, params)
    if weight_decay is not None and decoupled:
        updates = decayed(updates, -jnp.multiply(rate, weight_decay))
    return optax.apply_updates(params, updates), opt_state


def cosine(steps: jax.Array, total: int) -> jax.Array:
    """Share of the learning rate at each step, from 1 to 0 after `total` of them: PyTorch's `CosineAnnealingLR`."""
    return (1 + jnp.cos(jnp.pi * jnp.minimum(steps / total, 1))) / 2
