"""The network as its Flax code says, jitted: what freezing is measured against."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class AsWritten:
    """Computes a batch up to `pre_logits` on one device; `images` are preprocessed float32 (B, H, W, C)."""

    NAME = "Flax, jitted"

    def __init__(self, model: nnx.Module, images: np.ndarray, dtype: str) -> None:
        graph, state = nnx.split(model)
        self._state = jax.tree.map(lambda leaf: _cast(leaf, DTYPES[dtype]), state)
        self._images = jnp.asarray(images, DTYPES[dtype])

        def forward(state: nnx.State, images: jax.Array) -> jax.Array:
            copy = nnx.merge(graph, state)
            copy.eval()
            return copy(images)[1]["pre_logits"]

        self._program = jax.jit(forward)

    def __call__(self) -> None:
        """One batch."""
        self._program(self._state, self._images).block_until_ready()


def _cast(leaf: jax.Array, dtype: Any) -> jax.Array:
    return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
