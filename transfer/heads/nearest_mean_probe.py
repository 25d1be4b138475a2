"""The class whose mean is nearest: the head with nothing to train, and next to nothing to choose."""

from typing import NamedTuple

import jax
import numpy as np

from transfer.errors import UsageError
from transfer.heads import affine, temperature
from transfer.heads.dense import Dense
from transfer.heads.estimator import Probe, Rows
from transfer.heads.neighbours import METRICS, unit_rows


class _Means(NamedTuple):
    """Of G groups of rows.

    Attributes:
        sums: float64 (G, D).
        counts: float64 (G,).
    """

    sums: np.ndarray
    counts: np.ndarray

    def prototypes(self, metric: str) -> np.ndarray:
        """(G, D): means, for "cosine" of unit norm; zeros for a group without rows."""
        means = self.sums / np.maximum(self.counts, 1)[:, None]
        return unit_rows(means) if metric == "cosine" else means


class NearestMeanProbe(Probe):
    """Nearest class mean, as scikit-learn's `NearestCentroid`; a label is there if the mean of rows with it is nearer.

    Args:
        metric: "l2", or "cosine": rows and means of unit norm.
        scaling: a name of `transfer.heads.scaling.SCALINGS`, fitted on the training rows; None: features as they are.

    Scores are half the squared distances, negative, less what all classes share; so they are linear in the row.
    `predict_proba` is their softmax (of labels the sigmoid) over a temperature: the one that suits the training rows
    best, each scored by means without it.

    After `fit`: `means_` (C, D) float32, of labels the means of rows with each; `coef_` (C, D) and `intercept_` (C,)
    float32; `temperature_`.
    """

    def __init__(self, metric: str = "l2", scaling: str | None = None) -> None:
        self.metric = metric
        self.scaling = scaling

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.metric not in METRICS:
            raise UsageError(f"metric={self.metric!r} is unknown; there is: {', '.join(METRICS)}")

    def _fit(self, rows: Rows) -> None:
        # centred: float32 keeps the distances of rows that are far from 0
        self.centre_ = np.zeros(rows.x.shape[1], np.float32)
        if self.metric == "l2":
            self.centre_ = rows.x.mean(axis=0, dtype=np.float64).astype(np.float32)
        x = self._placed(rows.x)
        member = rows.targets.wide().astype(bool)
        groups = _means(x, member)
        others = None if rows.targets.kind == "classes" else _means(x, ~member)
        kernel, bias = _linear(groups, others, self.metric)
        self.means_ = (groups.prototypes(self.metric) + self.centre_).astype(np.float32)
        self.coef_, self.intercept_ = kernel.astype(np.float32), bias.astype(np.float32)
        self.temperature_ = self._temperature(x, member, groups, others, rows)

    def _placed(self, x: np.ndarray) -> np.ndarray:
        return unit_rows(x) if self.metric == "cosine" else x - self.centre_

    def _scores(self, x: np.ndarray) -> np.ndarray:
        return affine.scores(self._placed(x), self.coef_, self.intercept_, self.temperature_)

    def dense(self) -> Dense:
        of_centre = self.coef_.astype(np.float64) @ self.centre_.astype(np.float64)
        return Dense.of(self.coef_, self.intercept_ - of_centre, self.temperature_, unit=self.metric == "cosine")

    def _traced_scores(self, x: jax.Array) -> jax.Array:
        # centred first: float32 keeps what is left
        return Dense.of(self.coef_, self.intercept_, self.temperature_, self.metric == "cosine").scores(
            x - self.centre_
        )

    def _temperature(
        self, x: np.ndarray, member: np.ndarray, groups: _Means, others: _Means | None, rows: Rows
    ) -> float:
        """Of scores of rows by means without them; rows that are their group's only one have none."""
        some = temperature.some_rows(len(x))
        some = some[(member[some] <= (groups.counts > 1)).all(axis=1)]
        if others is not None:
            some = some[(~member[some] <= (others.counts > 1)).all(axis=1)]
        scores = _left_out(x[some].astype(np.float64), member[some], groups, self.metric)
        if others is not None:
            scores = scores - _left_out(x[some].astype(np.float64), ~member[some], others, self.metric)
        found = temperature.fit(scores, rows.targets._replace(array=rows.targets.array[some]))
        # without rows to tell by: as far as the means are apart
        return found if len(some) else float(np.square(self.coef_).sum(axis=1).mean()) or 1.0


def _means(x: np.ndarray, member: np.ndarray) -> _Means:
    """Of the rows (N, D) of each group: member (N, G)."""
    sums = [x[np.flatnonzero(rows)].sum(axis=0, dtype=np.float64) for rows in member.T]
    return _Means(np.stack(sums), member.sum(axis=0, dtype=np.float64))


def _linear(groups: _Means, others: _Means | None, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Kernel (G, D) and bias (G,) of the scores; -|x - mean|^2 / 2 less -|x|^2 / 2, less that of the others."""
    means = groups.prototypes(metric)
    kernel, bias = means, -np.square(means).sum(axis=1) / 2
    if others is not None:
        against = others.prototypes(metric)
        kernel, bias = kernel - against, bias + np.square(against).sum(axis=1) / 2
        # of a label that all rows have, or none, there is nothing to tell: it stays so
        certain = np.where(groups.counts == 0, -1.0, 1.0)
        alone = (groups.counts == 0) | (others.counts == 0)
        kernel, bias = np.where(alone[:, None], 0, kernel), np.where(alone, certain, bias)
    return kernel, bias


def _left_out(x: np.ndarray, member: np.ndarray, groups: _Means, metric: str) -> np.ndarray:
    """(n, G): as `_linear` scores, by means without the row where it is one of the group."""
    counts = np.maximum(groups.counts - member, 1)
    product = x @ groups.sums.T - member * np.square(x).sum(axis=1, keepdims=True)
    # |sum - x|^2 of the row's own groups
    squares = np.square(groups.sums).sum(axis=1) - member * (2 * x @ groups.sums.T - np.square(x).sum(1, keepdims=True))
    if metric == "cosine":
        norms = np.sqrt(np.maximum(squares, 0))
        return np.where(norms > 0, product / np.where(norms > 0, norms, 1), 0) - 0.5 * (norms > 0)
    return product / counts - squares / counts**2 / 2
