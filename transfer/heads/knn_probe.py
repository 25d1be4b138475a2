"""k nearest neighbours among the training rows: exact, on the device, some rows at a time."""

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
from transfer.heads.neighbours import METRICS, nearest, search
from transfer.heads.scaling import unit_rows

# The least share of the votes that a class, or a label, is given, so that the logarithm of none is finite.
LEAST = 1e-6


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

    n_neighbors: int
    temperature: float | None
    metric: str
    num_outputs_: int

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:  # type: ignore[override]
        """Keeps the rows; see `Head.fit`. There is no `sample_weight`, as k neighbours are k, whatever they weigh."""
        self.check_parameters()
        self._fit(self.prepare(X, y))
        return self

    def _fit(self, rows: Rows) -> None:
        # l2: centred, as float32 keeps the distances of rows that are far from 0
        self.centre_ = np.zeros(rows.x.shape[1], np.float32)
        if self.metric == "l2":
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
        return [self._votes(similarities[:, :k], index[:, :k], temperature) for k, temperature in settings]

    def _votes(self, similarities: np.ndarray, index: np.ndarray, temperature: float | None) -> np.ndarray:
        """Scores float32 (M, C) by the votes of the neighbours (M, k)."""
        votes = np.ones(similarities.shape)
        if temperature is not None:
            votes = np.exp((similarities - similarities[:, :1]) / temperature)
        votes = votes * self.weight_[index]
        votes = votes / votes.sum(axis=1, keepdims=True)
        targets = self.targets_[index]
        if self.kind_ == "classes":
            shape = len(votes), self.num_outputs_
            votes_of = np.arange(shape[0])[:, None] * shape[1] + targets
            shares = np.bincount(votes_of.ravel(), votes.ravel(), math.prod(shape)).reshape(shape)
            return np.log(np.maximum(shares, LEAST / shape[1])).astype(np.float32)
        shares = np.einsum("mk,mkt->mt", votes, targets)
        if self.kind_ == "labels":
            shares = np.clip(shares, LEAST, 1 - LEAST)
            shares = np.log(shares / (1 - shares))
        return shares.astype(np.float32)

    def _traced_scores(self, x: jax.Array) -> jax.Array:
        similarities, index = nearest(self._placed(x), self.rows_, min(self.n_neighbors, len(self.rows_)), self.metric)
        votes = jnp.ones_like(similarities)
        if self.temperature is not None:
            votes = jnp.exp((similarities - similarities[:, :1]) / self.temperature)
        votes = votes * jnp.asarray(self.weight_)[index]
        votes = votes / votes.sum(axis=1, keepdims=True)
        targets = jnp.asarray(self.targets_)[index]
        if self.kind_ == "classes":
            targets = jax.nn.one_hot(targets, self.num_outputs_)
        shares = (votes[..., None] * targets).sum(axis=1)
        if self.kind_ == "classes":
            return jnp.log(jnp.maximum(shares, LEAST / self.num_outputs_))
        return shares if self.kind_ == "values" else jax.scipy.special.logit(jnp.clip(shares, LEAST, 1 - LEAST))


@dataclass(eq=False, repr=False)
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

    n_neighbors: int = 20
    temperature: float | None = 0.07
    metric: str = "cosine"
    scaling: str | None = None
    class_weight: str | dict[Any, float] | None = None


@dataclass(eq=False, repr=False)
class KnnRegressor(Regressor, _Neighbours):
    """The mean of the nearest training rows' values; see `KnnProbe`. As scikit-learn's `KNeighborsRegressor`."""

    n_neighbors: int = 5
    temperature: float | None = None
    metric: str = "l2"
    scaling: str | None = None
