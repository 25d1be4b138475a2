"""Whether one run is better than another on the same rows: McNemar's test, paired bootstrap, Holm's correction.

Two runs that are right and wrong on the same rows may differ for certain though their intervals overlap; so runs are
compared row by row.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from transfer.errors import TransferError
from transfer.evaluation.intervals import FEW, RESAMPLES, between, matched, resampled
from transfer.evaluation.measures import MEASURES, value
from transfer.evaluation.predictions import Predictions
from transfer.untrusted import shown


class McNemar(NamedTuple):
    """Rows that only the first of two runs has right, those that only the second has, and the exact p, two-sided."""

    only_first: int
    only_second: int
    p: float


class Difference(NamedTuple):
    """The second run's measure less the first's, and its interval."""

    value: float
    low: float
    high: float


def mcnemar(first: ArrayLike, second: ArrayLike) -> McNemar:
    """Exact McNemar's test (1947) of whether two runs are right equally often, of bool (N,) each, row by row.

    The p of a binomial test of the rows on which they differ, as `statsmodels` has it; 1 where they differ on none.
    """
    from scipy import stats

    a, b = np.asarray(first, bool), np.asarray(second, bool)
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    differ = only_first + only_second
    p = 2 * stats.binom.cdf(min(only_first, only_second), differ, 0.5) if differ else 1.0
    return McNemar(only_first, only_second, float(min(p, 1.0)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's p (1979) of each of several comparisons: of one in twenty that are below 0.05 by chance none is left."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    # the smallest p counts as often as there are comparisons, the next one time less; none below the one before
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)) if len(p) else p
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return [float(one) for one in adjusted]


def aligned(first: Predictions, second: Predictions) -> tuple[Predictions, Predictions]:
    """The rows that both have, by id, in one order.

    Raises TransferError where they share none, and where the same ids do not go with the same labels.
    """
    if first.kind != second.kind:
        raise TransferError(f"one predicts {first.kind}, the other {second.kind}")
    ids, of_first, of_second = np.intersect1d(first.ids, second.ids, assume_unique=True, return_indices=True)
    if not len(ids):
        raise TransferError("they have no validation row in common")
    a, b = first.rows(of_first), second.rows(of_second)
    differ = np.flatnonzero((_truth(a) != _truth(b)).reshape(len(ids), -1).any(axis=1))
    if len(differ):
        which = shown(str(ids[differ[0]]))
        raise TransferError(f"{len(differ)} of {len(ids)} rows with the same id have another label, first {which!r}")
    return a, b


def _truth(predictions: Predictions) -> np.ndarray:
    """What is right, in words where they are known: classes may be numbered apart."""
    if predictions.kind == "classes" and predictions.class_names:
        return np.asarray(predictions.class_names)[predictions.labels]
    if predictions.kind == "classes":
        return predictions.labels.astype(str)
    return predictions.labels


def difference(
    first: Predictions, second: Predictions, measure: str, *, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """The paired bootstrap of a measure's difference: both on the same resamples of the rows, which are `aligned`."""
    functions = {name: MEASURES[one.kind][measure].of(one) for name, one in (("a", first), ("b", second))}
    found = resampled(functions, len(first), resamples=resamples, seed=seed)
    return of_resamples(first, second, measure, found["b"] - found["a"])


def of_resamples(first: Predictions, second: Predictions, measure: str, resamples: np.ndarray) -> Difference:
    """The difference between two runs whose rows are aligned, from its values on resamples of the rows, (R,).

    Of an accuracy that differs on few rows, of which resamples are too coarse, Agresti and Min's interval.
    """
    known = MEASURES[first.kind][measure]
    apart = value(second, measure) - value(first, measure)
    if known.hits is not None:
        a, b = known.hits(first), known.hits(second)
        only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
        if only_first + only_second < FEW:
            return Difference(apart, *matched(only_first, only_second, len(first)))
    return Difference(apart, *between(known, apart, resamples))
