"""How far a measure may be off because the rows are a sample: percentile bootstrap, and score intervals of shares.

Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13; Wilson 1927. The expected calibration error, of
which a sample shows more than there is and a resample more again, has an interval of its own
(`transfer.evaluation.calibration.error_interval`). A difference of it has the basic bootstrap's (Davison & Hinkley
1997, section 5.2): the resamples mirrored in the sample's value.

A share that is averaged over classes, each of which counts alike however few its rows are: resamples of ten rows that
are all right are all right, so that a bootstrap takes a rare class for certain. The score interval does not (Martín
Andrés et al. 2011, "Inferences about a linear combination of proportions"): it holds the averages that the rows do not
refute, each by the spread that the likeliest shares with that average have. Of one class it is Wilson's, of a
difference Tango's (1998). A mean average precision is a mean over the rows that have a label, and bounded so, too:
where five of a hundred do, percentiles hold the truth in 69 to 85 % of samples, the score interval in 93 to 97. Where
twenty labels come together, it is the score interval that does in 40 %, percentiles in 91. So the ends are the outer
ones of both, the low one less what a resample shows more than the rows, as these do: in 92 to 100 %.
"""

import math
from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from transfer.evaluation.calibration import error_interval
from transfer.evaluation.measures import Measure, Weighted
from transfer.evaluation.predictions import Predictions
from transfer.runtime.progress import NOTICEABLE_SECONDS, Progress

CONFIDENCE = 0.95
RESAMPLES = 2000
# Rows wrong, or right, below which an accuracy's interval is Wilson's; rows that one of two runs alone has right, below
# which their difference's is Agresti and Min's. Of 360 rows and an accuracy of 99 % percentiles hold the truth in 89 %
# of samples, with this in 97 %; of 100 rows and differences on 2.5 of them in 84 %, with this in 99 %.
FEW = 10
# Counts of resamples that are in memory together.
BLOCK_BYTES = 16 << 20
# As often a bracket is halved: as far as float64 tells numbers apart.
_STEPS = 48
# The multiplier lies between these powers of two, from what thousands of millions of rows need to what one does.
_POWERS = (-12.0, 52.0)


def resampled(
    measures: Mapping[Any, Weighted], num_rows: int, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[Any, np.ndarray]:
    """Each measure on the same resamples of the rows, with replacement: float64 (resamples,), drawn by `seed` alone."""
    if not measures:
        return {}
    values: dict[Any, np.ndarray] = {name: np.empty(resamples) for name in measures}
    random, step = np.random.default_rng(seed), max(1, BLOCK_BYTES // (8 * num_rows))
    with Progress("resampling", resamples, "resamples", delay=NOTICEABLE_SECONDS) as progress:
        for start in range(0, resamples, step):
            counts = np.empty((min(step, resamples - start), num_rows))  # how often each row is drawn
            for row in counts:
                row[:] = np.bincount(random.integers(num_rows, size=num_rows), minlength=num_rows)
            for name, measure in measures.items():
                values[name][start : start + step] = measure(counts)
            progress.update(len(counts))
    return values


def percentiles(values: np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The ends of the middle `confidence` of resampled values (R,), without those that are NaN."""
    known = values[~np.isnan(values)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def interval_of(
    measure: Measure, predictions: Predictions, value: float, resamples: np.ndarray | None
) -> tuple[float, float]:
    """The ends of the interval of a measure of predictions, which is `value`.

    Of a share that is averaged over classes the score interval, and of a calibration error one of its own, neither of
    which needs resamples; of a mean average precision the outer ends of two; else `interval`.
    """
    if measure.biased:
        return error_interval(predictions.probability[:, 0], predictions.right)
    if measure.shares is None:
        assert resamples is not None
        return interval(measure, value, resamples, len(predictions))
    low, high = map(float, class_mean(*measure.shares(predictions)))
    if resamples is None:
        return low, high
    resampled_low, resampled_high = percentiles(resamples)
    excess = max(0.0, float(np.nanmean(resamples)) - value)
    return max(0.0, min(low, resampled_low) - excess), max(high, resampled_high)


def interval(measure: Measure, value: float, resamples: np.ndarray, num_rows: int) -> tuple[float, float]:
    """The ends of a measure's interval, from its value on N rows and on their resamples (R,).

    Percentiles; of an accuracy with few rows wrong, or few right, Wilson's, as of so few the resamples are too coarse.
    """
    low, high = percentiles(resamples)
    if measure.hits is not None and num_rows * min(value, 1 - value) < FEW:
        low, high = map(float, wilson(np.array(value * num_rows), np.array(num_rows)))
    return low, high


def between(measure: Measure, value: float, resamples: np.ndarray) -> tuple[float, float]:
    """The ends of the bootstrap's interval of a difference of a measure."""
    low, high = percentiles(resamples)
    return (2 * value - high, 2 * value - low) if measure.biased else (low, high)


def wilson(successes: np.ndarray, trials: np.ndarray, confidence: float = CONFIDENCE) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's interval of shares successes / trials, (C,) each; right also of few trials, and of none or all of them.

    0 and 1 where there is no trial.
    """
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    n = np.asarray(trials, np.float64)
    k = np.asarray(successes, np.float64)
    middle = (k + z2 / 2) / (n + z2)
    share = np.divide(k, n, out=np.zeros_like(k), where=n > 0)
    half = np.sqrt(z2 * (n * share * (1 - share) + z2 / 4)) / (n + z2)
    # at the ends exactly, not but for rounding
    return np.where(k == 0, 0.0, middle - half), np.where(k == n, 1.0, middle + half)


def matched(only_first: int, only_second: int, num_rows: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The interval of the difference of two shares of the same rows, from how many only either of them has.

    Agresti & Min 2005, "Simple improved confidence intervals for comparing matched proportions": Wald's, with half a
    row more in each of the four cells.
    """
    rows = num_rows + 2
    difference = (only_second - only_first) / rows
    error = math.sqrt((only_first + only_second + 1) / rows - difference**2) / math.sqrt(rows)
    half = NormalDist().inv_cdf((1 + confidence) / 2) * error
    return difference - half, difference + half


def class_mean(right: np.ndarray, rows: np.ndarray, confidence: float = CONFIDENCE) -> tuple[np.ndarray, np.ndarray]:
    """The score interval of the mean of the shares right / rows, (..., C) and (C,), no class without a row."""
    none = np.zeros_like(rows)
    return 1 + _lowest(rows - right, none, rows, confidence), -_lowest(right, none, rows, confidence)


def class_mean_difference(
    only_first: np.ndarray, only_second: np.ndarray, rows: np.ndarray, confidence: float = CONFIDENCE
) -> tuple[np.ndarray, np.ndarray]:
    """The score interval of the mean over classes of the second's share less the first's, both of the same rows.

    Args:
        only_first, only_second: (..., C), how many rows of each class only either of them has right.
        rows: (C,), how many there are.
    """
    low = _lowest(only_first, only_second, rows, confidence)
    return low, -_lowest(only_second, only_first, rows, confidence)


def p_of_class_mean_difference(only_first: np.ndarray, only_second: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Whether the mean difference may be chance, two-sided: p is below 0.05 where the 95 % interval leaves out 0."""
    difference = ((only_second - only_first) / rows).mean(axis=-1)
    positive = (difference > 0)[..., None]
    down, up = np.where(positive, only_first, only_second), np.where(positive, only_second, only_first)
    z2 = _nearest_alternative(lambda shares: shares.difference <= 0, down, up, rows).z2
    return np.where(difference == 0, 1.0, 2 * np.vectorize(NormalDist().cdf, otypes=[float])(-np.sqrt(z2)))


def _lowest(down: np.ndarray, up: np.ndarray, rows: np.ndarray, confidence: float) -> np.ndarray:
    """The low end of the mean of (up - down) / rows."""
    least = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    return _nearest_alternative(lambda shares: shares.z2 >= least, down, up, rows).difference


class _Alternative(NamedTuple):
    """The likeliest shares whose mean difference is lower than that of the rows."""

    difference: np.ndarray  # its mean over classes
    z2: np.ndarray  # how far that is from the mean of the rows, squared, in its variances


def _nearest_alternative(
    is_enough: Callable[[_Alternative], np.ndarray], down: np.ndarray, up: np.ndarray, rows: np.ndarray
) -> _Alternative:
    """The nearest alternative that is far enough below the rows; where none is, the farthest."""
    single = rows == 1
    weight = np.full(len(rows), 1 / len(rows))
    if single.sum() > 1:  # one row says nothing of how far others of its class would be from it; many do of each other
        down, up, rows, weight = (
            np.concatenate([x[..., ~single], x[..., single].sum(axis=-1, keepdims=True)], axis=-1)
            for x in (down, up, rows, weight)
        )
    low, high = (np.full(np.shape(down)[:-1], power) for power in _POWERS)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        enough = is_enough(_alternative(np.exp2(middle), down, up, rows, weight))
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return _alternative(np.exp2(high), down, up, rows, weight)


def _alternative(
    multiplier: np.ndarray, down: np.ndarray, up: np.ndarray, rows: np.ndarray, weight: np.ndarray
) -> _Alternative:
    """The alternative at a Lagrange multiplier (...): the larger, the farther."""
    force = multiplier[..., None] * weight
    # the shares are down / (level - force), up / (level + force) and the rest / level, which add up to 1 at one level;
    # it is found as its distance from the force, 0 where a class without a row that is down must have some
    low, high = np.zeros_like(force), np.broadcast_to(rows, force.shape)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        short = down / middle + up / (middle + 2 * force) + (rows - down - up) / (middle + force) < 1
        low, high = np.where(short, low, middle), np.where(short, middle, high)
    share_up, share_same = up / (high + 2 * force), (rows - down - up) / (high + force)
    share_down = np.maximum(1 - share_up - share_same, 0)
    difference = share_up - share_down
    variance = weight**2 * np.maximum(share_up + share_down - difference**2, 0) / rows
    # so few rows of a class show less spread than there is: of many classes by (rows - 1) / rows; of one that decides
    # by itself by nothing, as its share follows from the mean
    parts = weight**2 / rows
    deciding_classes = parts.sum() ** 2 / (parts**2).sum()
    shortage = 1 + max(0.0, 1 - 2 / deciding_classes) / np.maximum(rows - 1, 1)
    moved, scale = multiplier * variance.sum(axis=-1), (variance * shortage).sum(axis=-1)
    z2 = np.divide(moved**2, scale, out=np.zeros_like(moved), where=scale > 0)
    return _Alternative((weight * difference).sum(axis=-1), z2)
