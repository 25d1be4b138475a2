"""The nearest of many rows, exact, on the device, some rows at a time."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

METRICS = ("cosine", "l2")
# Rows that are searched at a time, similarities that are held, and queries.
BLOCK, MAX_SIMILARITIES, MAX_QUERIES = 1 << 16, 1 << 25, 1024


def search(queries: np.ndarray, rows: np.ndarray, k: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """The `k` rows most similar to each query, the most similar first, and of equals the first.

    Args:
        queries: float32 (M, D); for "cosine" of unit norm.
        rows: float32 (N, D), N >= k; the same.
        metric: "cosine": similarity is the product; "l2": half the squared distance, negative, which for rows of unit
            norm is the product - 1. Rows far from 0 should be centred.

    Returns:
        float32 (M, k) similarities, int32 (M, k) rows.
    """
    size = min(MAX_QUERIES, max(1, MAX_SIMILARITIES // min(len(rows), BLOCK)))
    size = min(size, 1 << (max(len(queries), 1) - 1).bit_length())
    num_blocks = math.ceil(len(rows) / BLOCK)
    edges = [len(rows) * block // num_blocks for block in range(num_blocks + 1)]
    blocks = [jnp.asarray(rows[start:stop]) for start, stop in itertools.pairwise(edges)]
    results = []
    for start in range(0, len(queries), size):
        batch = queries[start : start + size]
        batch = np.pad(batch, ((0, size - len(batch)), (0, 0)))  # one shape, one compilation
        parts = [nearest(batch, block, min(k, block.shape[0]), metric) for block in blocks]
        best = parts[0] if num_blocks == 1 else _merged(parts, tuple(edges[:-1]), k)
        results.append([np.asarray(array)[: len(queries) - start] for array in best])
    similarities, index = map(np.concatenate, zip(*results, strict=True))
    return similarities, index


@functools.partial(jax.jit, static_argnames=("k", "metric"))
def nearest(queries: jax.Array, rows: jax.Array, k: int, metric: str) -> tuple[jax.Array, jax.Array]:
    """`search` on the device, of all rows at once; traceable."""
    products = jax.lax.dot_general(queries, rows, (((1,), (1,)), ((), ())), precision=jax.lax.Precision.HIGHEST)
    if metric == "cosine":
        return jax.lax.top_k(products, k)
    highest, index = jax.lax.top_k(products - jnp.sum(rows**2, axis=1) / 2, k)
    return jnp.minimum(highest - jnp.sum(queries**2, axis=1, keepdims=True) / 2, 0), index


@functools.partial(jax.jit, static_argnames=("starts", "k"))
def _merged(parts: list[tuple[jax.Array, jax.Array]], starts: tuple[int, ...], k: int) -> tuple[jax.Array, jax.Array]:
    """The best of the blocks' best; ties go to the earlier block."""
    similarities = jnp.concatenate([part[0] for part in parts], axis=1)
    index = jnp.concatenate([part[1] + start for part, start in zip(parts, starts, strict=True)], axis=1)
    best, columns = jax.lax.top_k(similarities, k)
    return best, jnp.take_along_axis(index, columns, axis=1)
