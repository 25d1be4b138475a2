"""How far a share may be off that is averaged over classes, each of which counts alike however few its rows are.

Resamples of ten rows that are all right are all right, so that a bootstrap takes a rare class for certain. The score
interval does not (Martín Andrés et al. 2011, "Inferences about a linear combination of proportions"): it holds the
averages that the rows do not refute, each by the spread that the likeliest shares with that average have. Of one
class it is Wilson's, of a difference Tango's (1998).
"""

from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

# As often a bracket is halved: as far as float64 tells numbers apart.
_STEPS = 48
# The multiplier lies between these powers of two, from what thousands of millions of rows need to what one does.
_POWERS = (-12.0, 52.0)


def counts_by_class(labels: np.ndarray, *masks: np.ndarray) -> list[np.ndarray]:
    """The rows of each class that has any, and those of them in each mask (N,): float64 (C,) each."""
    _, classes = np.unique(labels, return_inverse=True)
    return [np.bincount(classes, weights) for weights in (np.ones(len(classes)), *masks)]


def of_shares(right: np.ndarray, rows: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """The interval of the mean of the shares right / rows, (..., C) and (C,), no class without a row."""
    none = np.zeros_like(rows)
    return 1 + _lowest(rows - right, none, rows, confidence), -_lowest(right, none, rows, confidence)


def of_differences(
    only_first: np.ndarray, only_second: np.ndarray, rows: np.ndarray, confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """The interval of the mean over classes of the second's share less the first's, both of the same rows.

    Args:
        only_first, only_second: (..., C), how many rows of each class only either of them has right.
        rows: (C,), how many there are.
    """
    low = _lowest(only_first, only_second, rows, confidence)
    return low, -_lowest(only_second, only_first, rows, confidence)


def p_of_difference(only_first: np.ndarray, only_second: np.ndarray, rows: np.ndarray) -> np.ndarray:
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
    """The likeliest shares whose mean difference is lower than that of the rows.

    Attributes:
        difference: its mean over classes.
        z2: how far that is from the mean of the rows, squared, in its variances.
    """

    difference: np.ndarray
    z2: np.ndarray


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
