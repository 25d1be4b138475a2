"""k nearest neighbours among the training rows: exact, on the device, some rows at a time."""

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils._param_validation import Interval, StrOptions

from transfer.heads.estimator import Grid, Head, Probe, Regressor, Rows
from transfer.heads.scaling import unit_rows

METRICS = ("cosine", "l2")
# Rows that are searched at a time, similarities that are held, and queries.
BLOCK, MAX_SIMILARITIES, MAX_QUERIES = 1 << 16, 1 << 25, 1024
# The least share of the votes that a class, or a label, is given, so that the logarithm of none is finite.
LEAST = 1e-6


@dataclass(eq=False, repr=False)
class _Neighbours(Head):
    """The part that the classifier and the regressor share."""

    SIDE_BY_SIDE: ClassVar[tuple[str, ...]] = ("n_neighbors", "temperature")
    GRID: ClassVar[dict[str, tuple]] = {"n_neighbors": (200, 100, 50, 20, 10, 5, 1)}

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **Head._parameter_constraints,
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "temperature": [Interval(Real, 0, np.inf, closed="neither"), None],
        "metric": [StrOptions(dict.fromkeys(METRICS).keys())],
    }

    n_neighbors: int = 20
    temperature: float | None = 0.07
    metric: str = "cosine"
    scaling: str | None = None

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:  # type: ignore[override]
        """Keeps the rows; see `Head.fit`. There is no `sample_weight`, as k neighbours are k, whatever they weigh."""
        self.check_parameters()
        self._fit(self.prepare(X, y))
        return self

    def _fit(self, rows: Rows) -> None:
        self.centre_ = np.zeros(rows.x.shape[1], np.float32)
        if self.metric == "l2":  # centred: float32 keeps the distances of rows that are far from 0
            self.centre_ = rows.x.mean(axis=0, dtype=np.float64).astype(np.float32)
        weight = np.ones(len(rows.x), np.float32) if rows.weight is None else rows.weight
        kept = slice(None) if weight.all() else weight > 0  # rows without weight are no neighbours
        self.rows_, self.targets_, self.weight_ = self._placed(rows.x[kept]), rows.targets.array[kept], weight[kept]
        self.num_outputs_ = rows.targets.num_outputs

    def _placed(self, x: Any) -> Any:
        """Scaled rows, of NumPy or JAX, as they are searched."""
        return unit_rows(x) if self.metric == "cosine" else x - self.centre_

    def _scores(self, x: np.ndarray) -> np.ndarray:
        return self._scores_many(x, [(self.n_neighbors, self.temperature)])[0]

    def _fit_many(self, rows: Rows, grid: Grid) -> Callable[[np.ndarray], np.ndarray]:
        self._fit(rows)
        count = len(next(iter(grid.values())))
        columns = [grid.get(name, [getattr(self, name)] * count) for name in self.SIDE_BY_SIDE]
        return lambda x: np.stack(self._scores_many(x, list(zip(*columns, strict=True))))

    def _scores_many(self, x: np.ndarray, settings: list[tuple[int, float | None]]) -> list[np.ndarray]:
        """The scores for all of (k, temperature), by one search."""
        most = min(max(k for k, _ in settings), len(self.rows_))
        similarities, index = search(self._placed(x), self.rows_, most, self.metric)
        return [self._scores_of(similarities[:, :k], index[:, :k], temperature) for k, temperature in settings]

    def _scores_of(self, similarities: Any, index: Any, temperature: float | None) -> Any:
        """Scores float32 (M, C) by the votes of the neighbours (M, k), of NumPy or, traceable, of JAX."""
        xp = jnp if isinstance(index, jax.Array) else np
        votes = xp.ones(similarities.shape)
        if temperature is not None:
            votes = xp.exp((similarities - similarities[:, :1]) / temperature)
        votes = votes * xp.asarray(self.weight_)[index]
        votes = votes / votes.sum(axis=1, keepdims=True)
        targets = xp.asarray(self.targets_)[index]
        if xp is jnp:  # no product of matrices, which some devices round
            of_each = jax.nn.one_hot(targets, self.num_outputs_) if self.kind_ == "classes" else targets
            shares = (votes[..., None] * of_each).sum(axis=1)
        elif self.kind_ == "classes":  # M times k times C never are together
            shape = len(votes), self.num_outputs_
            columns = np.arange(shape[0])[:, None] * shape[1] + targets
            shares = np.bincount(columns.ravel(), votes.ravel(), math.prod(shape)).reshape(shape)
        else:
            shares = np.einsum("mk,mkt->mt", votes, targets)
        if self.kind_ == "classes":
            shares = xp.log(xp.maximum(shares, LEAST / self.num_outputs_))
        elif self.kind_ == "labels":
            shares = xp.clip(shares, LEAST, 1 - LEAST)
            shares = xp.log(shares / (1 - shares))
        return shares.astype(np.float32)

    def _traced_scores(self, x: jax.Array) -> jax.Array:
        k = min(self.n_neighbors, len(self.rows_))
        similarities, index = nearest(self._placed(x), self.rows_, k, self.metric)
        return self._scores_of(similarities, index, self.temperature)


def search(queries: np.ndarray, rows: np.ndarray, k: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Similarities float32 (M, k) and numbers int32 (M, k) of the rows most similar to each query, of equals the first.

    Args:
        queries: float32 (M, D); for "cosine" of unit norm.
        rows: float32 (N, D), N >= k; the same.
        metric: "cosine": similarity is the product; "l2": half the squared distance, negative, which for rows of unit
            norm is the product - 1. Rows far from 0 should be centred.
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


@dataclass(eq=False, repr=False)
class KnnProbe(Probe, _Neighbours):
    """The classes of the nearest training rows vote; any tie goes to the first in sorted order.

    Args:
        n_neighbors: k; all rows where there are fewer.
        temperature: a neighbour's vote is exp(similarity / temperature), as in DINO's and DINOv2's evaluation (Wu et
            al. 2018: 0.07); None: equal votes, which is scikit-learn's `KNeighborsClassifier`.
        metric: "cosine"; or "l2", where similarity is half the squared distance, negative: on rows of unit norm the
            same but for a constant.
        scaling, class_weight: see `Head`; votes are multiplied by a class's weight.

    `predict_proba`: each class' share of the votes (of labels each label's), 1e-6 / C at least.

    After `fit`: `rows_` (N, D) float32 as they are searched; `targets_`.
    """

    class_weight: str | dict[Any, float] | None = None


@dataclass(eq=False, repr=False)
class KnnRegressor(Regressor, _Neighbours):
    """The mean of the nearest training rows' values; see `KnnProbe`. As scikit-learn's `KNeighborsRegressor`."""

    n_neighbors: int = 5
    temperature: float | None = None
    metric: str = "l2"
