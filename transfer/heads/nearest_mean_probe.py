"""The class whose mean is nearest: the head with nothing to train, and next to nothing to choose."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils._param_validation import StrOptions

from transfer.heads import temperature
from transfer.heads.dense import Dense
from transfer.heads.estimator import LinearHead, Probe, Rows
from transfer.heads.knn_probe import METRICS
from transfer.heads.scaling import unit_rows


class _Sums(NamedTuple):
    """The sums (G, D) of G groups of rows, and how many rows each has (G,), by weight; float64."""

    sums: np.ndarray
    counts: np.ndarray

    def prototypes(self, metric: str) -> np.ndarray:
        """(G, D): means, for "cosine" of unit norm; zeros for a group without rows."""
        means = self.sums / np.where(self.counts > 0, self.counts, 1)[:, None]
        return unit_rows(means) if metric == "cosine" else means


@dataclass(eq=False, repr=False)
class NearestMeanProbe(Probe, LinearHead):
    """Nearest class mean, as scikit-learn's `NearestCentroid`; a label is there if the mean of rows with it is nearer.

    Args:
        metric: "l2", or "cosine": rows and means of unit norm.
        scaling: see `Head`.

    Scores are half the squared distances, negative, less what all classes share; so they are linear in the row.
    `predict_proba` is their softmax (of labels the sigmoid) over a temperature: the one that suits the training rows
    best, each scored by means without it.

    After `fit`: `means_` (C, D) float32, of labels the means of rows with each; `coef_` (C, D) and `intercept_` (C,)
    float32; `temperature_`.
    """

    _parameter_constraints: ClassVar[dict[str, list]] = {
        **Probe._parameter_constraints,
        "metric": [StrOptions(dict.fromkeys(METRICS).keys())],
    }

    metric: str = "l2"
    scaling: str | None = None

    def _fit(self, rows: Rows) -> None:
        # centred: float32 keeps the distances of rows that are far from 0
        self.centre_ = np.zeros(rows.x.shape[1], np.float32)
        if self.metric == "l2":
            mean = rows.x.mean(axis=0, dtype=np.float64)
            if rows.weight is not None:
                mean = rows.weight.astype(np.float64) @ rows.x / rows.weight.sum(dtype=np.float64)
            self.centre_ = mean.astype(np.float32)
        x = self._placed(rows.x)
        groups, others = _sums(x, rows), None
        if rows.targets.kind == "labels":
            others = _sums(x, rows._replace(targets=rows.targets._replace(array=1 - rows.targets.array)))
        # scores are -|x - mean|^2 / 2 less -|x|^2 / 2, less that of the others
        kernel = means = groups.prototypes(self.metric)
        bias = -np.square(means).sum(axis=1) / 2
        if others is not None:
            against = others.prototypes(self.metric)
            kernel, bias = kernel - against, bias + np.square(against).sum(axis=1) / 2
            # a label that all rows have, or none, is predicted of every row, or of none
            always = np.where(groups.counts == 0, -1.0, 1.0)
            constant = (groups.counts == 0) | (others.counts == 0)
            kernel, bias = np.where(constant[:, None], 0, kernel), np.where(constant, always, bias)
        self.means_ = (means + self.centre_).astype(np.float32)
        self.coef_, self.intercept_ = kernel.astype(np.float32), bias.astype(np.float32)
        self.temperature_ = self._temperature(x, rows, groups, others)

    def _placed(self, x: np.ndarray) -> np.ndarray:
        return unit_rows(x) if self.metric == "cosine" else x - self.centre_

    def _scores(self, x: np.ndarray) -> ArrayLike:
        return super()._scores(self._placed(x))

    def dense(self) -> Dense:
        of_centre = self.coef_.astype(np.float64) @ self.centre_.astype(np.float64)
        return Dense.of(self.coef_, self.intercept_ - of_centre, self.temperature_, unit=self.metric == "cosine")

    def _traced_scores(self, x: jax.Array) -> jax.Array:
        # centred first: float32 keeps what is left
        return Dense.of(*self._layer(), unit=self.metric == "cosine").scores(x - self.centre_)

    def _temperature(self, x: np.ndarray, rows: Rows, groups: _Sums, others: _Sums | None) -> float:
        """The one for scores of rows by means without them; rows that are their group's only one have none."""
        which = temperature.rows_to_fit(len(x), rows.targets.num_outputs)
        # of a row that stands for several, one is left out
        part = np.ones((len(x), 1)) if rows.weight is None else np.minimum(rows.weight, 1)[:, None]
        member = rows.targets.to_matrix(which) * part[which]
        has_others = (member <= 0) | (groups.counts > member)
        if others is not None:
            has_others &= (member > 0) | (others.counts > part[which])
        which, member = which[kept := has_others.all(axis=1)], member[kept]
        if not len(which):  # nothing to tell by: as far as the means are apart
            return float(np.square(self.coef_).sum(axis=1).mean()) or 1.0
        left_out = x[which].astype(np.float64)
        scores = _scores_without(left_out, member, groups, self.metric)
        if others is not None:
            scores = scores - _scores_without(left_out, part[which] - member, others, self.metric)
        weight = None if rows.weight is None else rows.weight[which]
        return temperature.fit(scores, rows.targets.rows(which), weight, weight)


def _sums(x: np.ndarray, rows: Rows) -> _Sums:
    """The sums of the rows (N, D) of each class, or with each label."""
    weight = np.ones(len(x)) if rows.weight is None else rows.weight.astype(np.float64)
    if rows.targets.kind == "classes":  # sorted by class, so that N times C are never together
        order = np.argsort(rows.targets.array, kind="stable")
        members = np.split(order, np.cumsum(np.bincount(rows.targets.array, minlength=rows.targets.num_outputs))[:-1])
    else:
        members = [np.flatnonzero(label) for label in rows.targets.array.T]
    sums = [(x[group] * weight[group, None]).sum(axis=0, dtype=np.float64) for group in members]
    return _Sums(np.stack(sums), np.array([weight[group].sum() for group in members]))


def _scores_without(x: np.ndarray, member: np.ndarray, groups: _Sums, metric: str) -> np.ndarray:
    """Scores (n, G) as `_fit` has them, by means without the row, whose weight in each group is `member` (n, G)."""
    counts = np.where(groups.counts > member, groups.counts - member, 1)
    norms2, products = np.square(x).sum(axis=1, keepdims=True), x @ groups.sums.T
    # of the row with the sum without it, and of that sum with itself
    product = products - member * norms2
    squares = np.square(groups.sums).sum(axis=1) - member * (2 * products - member * norms2)
    if metric == "cosine":
        norms = np.sqrt(np.maximum(squares, 0))
        return np.where(norms > 0, product / np.where(norms > 0, norms, 1), 0) - 0.5 * (norms > 0)
    return product / counts - squares / counts**2 / 2
