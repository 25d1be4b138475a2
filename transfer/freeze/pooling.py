"""Pools as maxima and sums of strided slices: on a CPU faster than XLA's windowed reduction, which uses no vectors."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from transfer.models.graph.trace import Node

Pool = Callable[[jax.Array], jax.Array]


def pool_of(node: Node) -> Pool | None:
    """The function that computes a `max_pool` or `avg_pool` node of a graph read with its values; None for any other.

    PyTorch's adaptive average is none: it is a pair of matrix products already.
    """
    if node.op == "max_pool":
        pad_value = float(node.chain[0].constants[1]) if node.attributes.get("explicit") else -np.inf
        return lambda images: _over_windows(node, jnp.maximum, pad_value, images)
    if node.op != "avg_pool" or "kernel" not in node.attributes:
        return None
    # the factor of each window's sum, (1, H', W', 1): the model's own answer to ones, over their sum
    images = node.chain[0].equation.invars[0].aval
    answer = jnp.ones((node.shape[0], *images.shape[1:3], node.shape[-1]), images.dtype)
    for applied in node.chain:
        answer = applied([answer], list(applied.constants.values()))
    sums = _over_windows(node, jnp.add, 0.0, jnp.ones((1, *images.shape[1:3], 1), jnp.float32))
    weights = np.broadcast_to(np.asarray(answer, np.float32), node.shape)[:1, :, :, :1] / np.asarray(sums)
    return lambda images: _over_windows(node, jnp.add, 0.0, images) * weights.astype(images.dtype)


def _over_windows(
    node: Node, join: Callable[[jax.Array, jax.Array], jax.Array], pad_value: float, images: jax.Array
) -> jax.Array:
    """Joins the pixels of each window, as NHWC images."""
    (height, width), (down, across) = node.attributes["kernel"], node.attributes["strides"]
    rows, columns = node.shape[1:3]
    padding = ((0, 0, 0), *((low, high, 0) for low, high in node.attributes["padding"]), (0, 0, 0))
    around = lax.pad(images, jnp.asarray(pad_value, images.dtype), padding)
    # rows first, then columns: height + width slices instead of height x width
    joined = functools.reduce(join, [around[:, y : y + (rows - 1) * down + 1 : down] for y in range(height)])
    wide = [joined[:, :, x : x + (columns - 1) * across + 1 : across] for x in range(width)]
    return functools.reduce(join, wide)
