"""The layers of heads: their first weights, and the scores that they give rows.

A state holds kernels as the field does, (D, C). Training transposes them to (C, D), "class-major", for the length of
its loops, and scores to (C, N): with few classes XLA's CPU product for the gradient is 8 times faster so (a step of 256
rows: 0.10 ms instead of 0.48 at 512 features, 0.44 instead of 2.07 at 2,048), and so is a softmax whose inner loop
runs over rows.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

# {"kernel" (D, C), "bias" (C,)} of the last layer and, of a perceptron, "hidden1", "hidden2", … of the same two each
Params = dict[str, Any]
GLOROT = jax.nn.initializers.glorot_uniform()


def init_key(seed: ArrayLike) -> jax.Array:
    """Key of a seed's first weights. The shuffles fold an epoch's number into the same seed; this number is none."""
    return jax.random.fold_in(jax.random.key(seed), np.uint32(2**32 - 1))


def init_params(
    num_features: int,
    num_outputs: int,
    key: jax.Array,
    hidden: tuple[int, ...],
    initializer: jax.nn.initializers.Initializer,
) -> Params:
    """Fresh weights of a head with `hidden` units a layer: zero biases, kernels by `initializer`."""
    keys = jax.random.split(key, len(hidden) + 1) if hidden else [key]

    def layer(i: int) -> Params:
        inputs, outputs = (num_features, *hidden, num_outputs)[i : i + 2]
        kernel = initializer(keys[i], (inputs, outputs), jnp.float32)
        return {"kernel": kernel, "bias": jnp.zeros(outputs, jnp.float32)}

    return layer(len(hidden)) | {f"hidden{i + 1}": layer(i) for i in range(len(hidden))}


def all_layers(params: Params) -> list[Params]:
    """The layers in their order, each with its kernel and bias; the last one's are those of `params` itself."""
    return [*(params[f"hidden{i + 1}"] for i in range(len(params) - 2)), params]


def logits(params: Params, features: jax.Array) -> jax.Array:
    """(N, D) float32 -> (N, C) float32. Full precision everywhere: a head is bound by memory, not by arithmetic."""
    product = functools.partial(jnp.dot, precision=jax.lax.Precision.HIGHEST)
    for layer in all_layers(params)[:-1]:
        features = jax.nn.relu(product(features, layer["kernel"]) + layer["bias"])
    return product(features, params["kernel"]) + params["bias"]


# (D, C) kernels, and their moments, to (C, D) and back; vectors and numbers stay as they are.
transpose_tree = functools.partial(jax.tree.map, jnp.transpose)


def scores(
    class_major: Params, features: jax.Array, dropout: Callable[[int, jax.Array], jax.Array] | None = None
) -> jax.Array:
    """Kernels (C, D), biases (C,); (N, D) -> (C, N): `logits`, one column a row.

    `dropout(i, units)` returns the units (U, N) of hidden layer i without those that are left out.
    """
    *hidden, last = all_layers(class_major)
    inputs, axis = features, 1
    for i, layer in enumerate(hidden):
        inputs, axis = jax.nn.relu(_layer(layer, inputs, axis)), 0
        inputs = inputs if dropout is None else dropout(i, inputs)
    return _layer(last, inputs, axis)


def _layer(layer: Params, inputs: jax.Array, axis: int) -> jax.Array:
    """(C, N) of (N, D) or, with axis 0, of (D, N)."""
    product = jax.lax.dot_general(
        layer["kernel"], inputs, (((1,), (axis,)), ((), ())), precision=jax.lax.Precision.HIGHEST
    )
    return product + layer["bias"][:, None]


def dropout_by(rate: ArrayLike, key: jax.Array) -> Callable[[int, jax.Array], jax.Array]:
    """Dropout for `scores`: leaves units out, and scales the others up. Heads side by side draw the same bits."""

    def dropout(i: int, units: jax.Array) -> jax.Array:
        # 16 bits a unit: drawing them is most of what dropout costs
        bits = jax.random.bits(jax.random.fold_in(key, i), units.shape, jnp.uint16).astype(jnp.float32)
        return jnp.where(bits >= rate * 2.0**16, units / (1 - rate), 0)

    return dropout
