"""k nearest neighbours among the training rows: exact, on the device, some rows at a time."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from transfer.errors import UsageError
from transfer.heads.dense import unit_rows as traced_unit_rows
from transfer.heads.estimator import Grid, Head, Probe, Regressor, Rows
from transfer.heads.neighbours import METRICS, nearest, search, unit_rows

# The least share of the votes that a class, or a label, is given, so that the logarithm of none is finite.
LEAST = 1e-6


class _Neighbours(Head):
    """What the classifier and the regressor share."""

    SIDE_BY_SIDE: ClassVar[tuple[str, ...]] = ("n_neighbors", "temperature")
    GRID: ClassVar[dict[str, tuple]] = {"n_neighbors": (200, 100, 50, 20, 10, 5, 1)}

    n_neighbors: int
    temperature: float | None
    metric: str
    num_outputs_: int

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.metric not in METRICS:
            raise UsageError(f"metric={self.metric!r} is unknown; there is: {', '.join(METRICS)}")
        _check_votes(self.n_neighbors, self.temperature)

    def _fit(self, rows: Rows) -> None:
        # l2: centred, as float32 keeps the distances of rows that are far from 0
        self.centre_ = np.zeros(rows.x.shape[1], np.float32)
        if self.metric == "l2":
            self.centre_ = rows.x.mean(axis=0, dtype=np.float64).astype(np.float32)
        weight = np.ones(len(rows.x), np.float32) if rows.weight is None else rows.weight
        kept = slice(None) if weight.all() else weight > 0  # rows without weight are no neighbours
        self.rows_, self.targets_, self.weight_ = self._placed(rows.x[kept]), rows.targets.array[kept], weight[kept]
        self.num_outputs_ = rows.targets.num_outputs

    def _placed(self, x: np.ndarray) -> np.ndarray:
        return unit_rows(x) if self.metric == "cosine" else x - self.centre_

    def _scores(self, x: np.ndarray) -> np.ndarray:
        return self._scores_many(x, [(self.n_neighbors, self.temperature)])[0]

    def _traced_scores(self, x: jax.Array) -> jax.Array:
        placed = traced_unit_rows(x) if self.metric == "cosine" else x - self.centre_
        similarities, index = nearest(placed, self.rows_, min(self.n_neighbors, len(self.rows_)), self.metric)
        warmth = self.temperature
        votes = jnp.ones_like(similarities)
        if warmth is not None:
            votes = jnp.exp((similarities - similarities[:, :1]) / warmth)
        votes = votes * jnp.asarray(self.weight_)[index]
        votes = votes / votes.sum(axis=1, keepdims=True)
        aims = jnp.asarray(self.targets_)[index]
        if self.kind_ == "classes":
            shares = (votes[..., None] * jax.nn.one_hot(aims, self.num_outputs_)).sum(axis=1)
            return jnp.log(jnp.maximum(shares, LEAST / self.num_outputs_))
        shares = (votes[..., None] * aims).sum(axis=1)
        if self.kind_ == "values":
            return shares
        shares = jnp.clip(shares, LEAST, 1 - LEAST)
        return jnp.log(shares / (1 - shares))

    def _fit_many(self, rows: Rows, grid: Grid) -> Callable[[np.ndarray], np.ndarray]:
        count = len(next(iter(grid.values())))
        ks = grid.get("n_neighbors", [self.n_neighbors] * count)
        settings = list(zip(ks, grid.get("temperature", [self.temperature] * count), strict=True))
        for setting in settings:
            _check_votes(*setting)
        self._fit(rows)
        return lambda x: np.stack(self._scores_many(x, settings))

    def _scores_many(self, x: np.ndarray, settings: list[tuple[int, float | None]]) -> list[np.ndarray]:
        """One search for all of (k, temperature)."""
        most = min(max(k for k, _ in settings), len(self.rows_))
        similarities, index = search(self._placed(x), self.rows_, most, self.metric)
        return [self._votes(similarities[:, :k], index[:, :k], warmth) for k, warmth in settings]

    def _votes(self, similarities: np.ndarray, index: np.ndarray, warmth: float | None) -> np.ndarray:
        """Float32 (M, C) of the neighbours (M, k)."""
        votes = np.ones(similarities.shape) if warmth is None else np.exp((similarities - similarities[:, :1]) / warmth)
        votes = votes * self.weight_[index]
        votes = votes / votes.sum(axis=1, keepdims=True)
        aims = self.targets_[index]
        if self.kind_ == "values":
            return np.einsum("mk,mkt->mt", votes, aims).astype(np.float32)
        if self.kind_ == "labels":
            share = np.clip(np.einsum("mk,mkl->ml", votes, aims), LEAST, 1 - LEAST)
            return np.log(share / (1 - share)).astype(np.float32)
        return np.log(np.maximum(_summed(votes, aims, self.num_outputs_), LEAST / self.num_outputs_)).astype(np.float32)


def _summed(votes: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    """(M, C): votes (M, k) of classes (M, k)."""
    places = np.arange(len(votes))[:, None] * num_classes + classes
    return np.bincount(places.ravel(), votes.ravel(), len(votes) * num_classes).reshape(-1, num_classes)


def _check_votes(k: Any, temperature: Any) -> None:
    if not k >= 1 or k != int(k):
        raise UsageError(f"n_neighbors must be a whole number from 1, not {k!r}")
    if temperature is not None and not 0 < temperature < float("inf"):
        raise UsageError(f"temperature must be a number above 0, or None for equal votes, not {temperature!r}")


class KnnProbe(Probe, _Neighbours):
    """The classes of the nearest training rows vote; any tie goes to the first in sorted order.

    Args:
        n_neighbors: k; all rows where there are fewer.
        temperature: a neighbour's vote is exp(similarity / temperature), as in DINO's and DINOv2's evaluation (Wu et
            al. 2018: 0.07); None: equal votes, which is scikit-learn's `KNeighborsClassifier`.
        metric: "cosine"; or "l2", where similarity is half the squared distance, negative: on rows of unit norm the
            same but for a constant.
        scaling: a name of `transfer.heads.scaling.SCALINGS`, fitted on the training rows; None: features as they are.
        class_weight: None, "balanced" or {class: weight}: what votes are multiplied by.

    `predict_proba`: each class' share of the votes (of labels each label's), 1e-6 / C at least.

    After `fit`: `rows_` (N, D) float32 as they are searched; `targets_`.
    """

    def __init__(
        self,
        n_neighbors: int = 20,
        temperature: float | None = 0.07,
        metric: str = "cosine",
        scaling: str | None = None,
        class_weight: str | dict[Any, float] | None = None,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.temperature = temperature
        self.metric = metric
        self.scaling = scaling
        self.class_weight = class_weight


class KnnRegressor(Regressor, _Neighbours):
    """The mean of the nearest training rows' values; see `KnnProbe`. As scikit-learn's `KNeighborsRegressor`."""

    def __init__(
        self,
        n_neighbors: int = 5,
        temperature: float | None = None,
        metric: str = "l2",
        scaling: str | None = None,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.temperature = temperature
        self.metric = metric
        self.scaling = scaling
