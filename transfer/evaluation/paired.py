"""Whether one run is better than another on the same rows: a test of the measure that is shown, Holm's correction.

Two runs that are right and wrong on the same rows may differ for certain though their intervals overlap; so runs are
compared row by row.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from transfer.errors import TransferError
from transfer.evaluation import intervals
from transfer.evaluation.intervals import FEW, RESAMPLES
from transfer.evaluation.measures import MEASURES, Measure, counts_by_class, value
from transfer.evaluation.predictions import Predictions
from transfer.runtime.files.untrusted import printable


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

    only_first, only_second = _discordant(np.asarray(first, bool), np.asarray(second, bool))
    discordant = only_first + only_second
    p = stats.binomtest(only_first, discordant).pvalue if discordant else 1.0
    return McNemar(only_first, only_second, float(p))


def _discordant(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    """How many rows only the first has, and how many only the second."""
    return int((first & ~second).sum()), int((second & ~first).sum())


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's p (1979) of each of several comparisons: of one in twenty that are below 0.05 by chance none is left."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    # the smallest p counts as often as there are comparisons, the next one time less; none below the one before
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted.tolist()


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
    unlike = np.flatnonzero((_truth(a) != _truth(b)).reshape(len(ids), -1).any(axis=1))
    if len(unlike):
        which = printable(str(ids[unlike[0]]))
        raise TransferError(f"{len(unlike)} of {len(ids)} rows with the same id have another label, first {which!r}")
    return a, b


def _truth(predictions: Predictions) -> np.ndarray:
    """The right labels, as names where there are any: classes may be numbered differently."""
    if predictions.kind == "classes" and predictions.class_names:
        return np.asarray(predictions.class_names)[predictions.labels]
    if predictions.kind == "classes":
        return predictions.labels.astype(str)
    return predictions.labels


def difference(
    first: Predictions, second: Predictions, measure: str, *, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """A measure's difference between two runs whose rows are `aligned`; see `of_resamples`."""
    paired = paired_resamples(first, second, measure, resamples=resamples, seed=seed)
    return of_resamples(first, second, measure, paired)


def paired_resamples(
    first: Predictions, second: Predictions, measure: str, *, resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray | None:
    """The difference of both on the same resamples of the rows, (R,); None for a measure that needs none."""
    if MEASURES[first.kind][measure].by_class:
        return None
    functions = {which: MEASURES[first.kind][measure].of(run) for which, run in (("first", first), ("second", second))}
    values = intervals.resampled(functions, len(first), resamples=resamples, seed=seed)
    return values["second"] - values["first"]


def of_resamples(first: Predictions, second: Predictions, measure: str, resamples: np.ndarray | None) -> Difference:
    """The difference between two runs whose rows are aligned, from its values on resamples of the rows, (R,).

    Of an accuracy that differs on few rows, of which resamples are too coarse, Agresti and Min's interval; of one that
    is averaged over classes the score interval.
    """
    known = MEASURES[first.kind][measure]
    apart = value(second, measure) - value(first, measure)
    if known.by_class:
        low, high = intervals.class_mean_difference(*_discordant_by_class(known, first, second))
        return Difference(apart, float(low), float(high))
    assert resamples is not None
    if known.hits is not None:
        only_first, only_second = _discordant(known.hits(first), known.hits(second))
        if only_first + only_second < FEW:
            return Difference(apart, *intervals.matched(only_first, only_second, len(first)))
    return Difference(apart, *intervals.between(known, apart, resamples))


def _discordant_by_class(
    measure: Measure, first: Predictions, second: Predictions
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows of each class that only the first hits, those that only the second hits, and all: float64 (C,) each."""
    assert measure.hits is not None
    a, b = measure.hits(first), measure.hits(second)
    rows, only_first, only_second = counts_by_class(first.labels, a & ~b, b & ~a)
    return only_first, only_second, rows


def chance(first: Predictions, second: Predictions, measure: str, resamples: np.ndarray | None) -> float:
    """Whether the difference of `of_resamples` may be chance: p, two-sided, of the test that `name_of_test` names."""
    known = MEASURES[first.kind][measure]
    if known.by_class:
        return float(intervals.p_of_class_mean_difference(*_discordant_by_class(known, first, second)))
    if known.hits is not None:
        return mcnemar(known.hits(first), known.hits(second)).p
    assert resamples is not None
    differences = resamples[~np.isnan(resamples)]
    if known.biased:  # mirrored, as its interval is
        differences = 2 * (value(second, measure) - value(first, measure)) - differences
    # the sample is one more of those that might have been drawn (Davison & Hinkley 1997, section 4.2)
    beyond = 1 + min(np.count_nonzero(differences <= 0), np.count_nonzero(differences >= 0))
    return float(min(1.0, 2 * beyond / (len(differences) + 1)))


def name_of_test(measure: Measure) -> str:
    """The name of the test of a difference of the measure, for a table."""
    if measure.by_class:
        return "a score test of the mean over classes"
    return "McNemar's exact test" if measure.hits is not None else "a paired bootstrap over validation images"
