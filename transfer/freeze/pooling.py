"""Pools as maxima and sums of strided slices: on a CPU faster than XLA's windowed reduction, which uses no vectors."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from transfer.models.graph.trace import Node

Pool = Callable[[jax.Array], jax.Array]


def pool_of(node: Node) -> Pool | None:
    """What computes a `max_pool` or `avg_pool` node of a graph read with its values; None for any other.

    PyTorch's adaptive average is none: it is a pair of matrix products already.
    """
    if node.op == "max_pool":
        return functools.partial(_over_windows, node, jnp.maximum, _pad_value(node))
    if node.op == "avg_pool" and "kernel" in node.attributes:
        return functools.partial(_average, node, _weights(node))
    return None


def _pad_value(node: Node) -> float:
    """-inf, or the number that the model itself pads with."""
    return float(node.chain[0].constants[1]) if node.attributes.get("explicit") else -np.inf


def _over_windows(
    node: Node, join: Callable[[jax.Array, jax.Array], jax.Array], pad_value: float, images: jax.Array
) -> jax.Array:
    (height, width), (down, across) = node.attributes["kernel"], node.attributes["strides"]
    rows, columns = node.shape[1:3]
    padding = ((0, 0, 0), *((low, high, 0) for low, high in node.attributes["padding"]), (0, 0, 0))
    around = lax.pad(images, jnp.asarray(pad_value, images.dtype), padding)
    # rows first, then columns: height + width slices instead of height x width
    tall = [around[:, y : y + (rows - 1) * down + 1 : down] for y in range(height)]
    joined = functools.reduce(join, tall)
    wide = [joined[:, :, x : x + (columns - 1) * across + 1 : across] for x in range(width)]
    return functools.reduce(join, wide)


def _average(node: Node, weights: np.ndarray, images: jax.Array) -> jax.Array:
    sums = _over_windows(node, jnp.add, 0.0, images)
    return sums * weights.astype(images.dtype)


def _weights(node: Node) -> np.ndarray:
    """What each window's sum is multiplied by, (1, H', W', 1): the model's own answer to ones, over their sum."""
    shape = _input_shape(node)
    ones = np.ones((1, *shape, 1), np.float32)
    answer = np.broadcast_to(_run(node, np.ones((node.shape[0], *shape, node.shape[-1]), np.float32)), node.shape)
    return answer[:1, :, :, :1] / np.asarray(_over_windows(node, jnp.add, 0.0, jnp.asarray(ones)))


def _input_shape(node: Node) -> tuple[int, ...]:
    aval = node.chain[0].equation.invars[0].aval
    return tuple(aval.shape[1:3])


def _run(node: Node, images: np.ndarray) -> np.ndarray:
    value: Sequence[jax.Array] = [jnp.asarray(images, node.chain[0].equation.invars[0].aval.dtype)]
    for applied in node.chain:
        value = [applied(value, list(applied.constants.values()))]
    return np.asarray(value[0], np.float32)
