"""What trained heads are measured by, row by row: losses and scores of each kind of targets, of class-major scores."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Criterion(NamedTuple):
    """What a head of a kind is measured by. Functions of class-major scores (..., C, N), column by column a row.

    Attributes:
        score: name of the metric that says how good it is.
        losses: scores and targets -> (..., N): `transfer.heads.targets.LOSSES` where nothing has to be transposed.
        parts: scores, targets and their variance (C,) -> (..., N), whose mean is the score.
    """

    score: str
    losses: Callable[[jax.Array, jax.Array], jax.Array]
    parts: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def _cross_entropy(scores: jax.Array, classes: jax.Array) -> jax.Array:
    of_label = jnp.arange(scores.shape[-2])[:, None] == classes
    return jax.nn.logsumexp(scores, axis=-2) - jnp.sum(jnp.where(of_label, scores, 0), axis=-2)


def _sigmoid_cross_entropy(scores: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.sum(jax.nn.softplus(scores) - labels.T * scores, axis=-2)


def _half_square(scores: jax.Array, values: jax.Array) -> jax.Array:
    return jnp.sum((scores - values.T) ** 2, axis=-2) / 2


def _right_class(scores: jax.Array, classes: jax.Array, _: jax.Array) -> jax.Array:
    return (scores.argmax(axis=-2) == classes).astype(jnp.float32)


def _right_labels(scores: jax.Array, labels: jax.Array, _: jax.Array) -> jax.Array:
    return jnp.mean((scores > 0) == (labels.T > 0), axis=-2, dtype=jnp.float32)


def _explained(scores: jax.Array, values: jax.Array, variance: jax.Array) -> jax.Array:
    varies = variance[:, None] > 0
    return 1 - jnp.mean((scores - values.T) ** 2 / jnp.where(varies, variance[:, None], 1), axis=-2)


# The share of right classes, that of right labels, and the share of the variance that is explained, R squared.
CRITERIA: Mapping[str, Criterion] = {
    "classes": Criterion("accuracy", _cross_entropy, _right_class),
    "labels": Criterion("accuracy", _sigmoid_cross_entropy, _right_labels),
    "values": Criterion("r2", _half_square, _explained),
}
