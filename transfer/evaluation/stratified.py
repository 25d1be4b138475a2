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


def counted(labels: np.ndarray, *masks: np.ndarray) -> list[np.ndarray]:
    """Float64 (C,) each: of the classes that have rows how many, and how many of those of each mask (N,)."""
    _, classes = np.unique(labels, return_inverse=True)
    return [np.bincount(classes, rows) for rows in (np.ones(len(classes)), *masks)]


def of_shares(right: np.ndarray, rows: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """The interval of the mean of the shares right / rows, (..., C) and (C,), no class without a row."""
    wrong, none = rows - right, np.zeros_like(rows)
    return 1 + _lowest(wrong, none, rows, confidence), -_lowest(right, none, rows, confidence)


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
    apart = ((only_second - only_first) / rows).mean(axis=-1)
    more = (apart > 0)[..., None]
    down, up = np.where(more, only_first, only_second), np.where(more, only_second, only_first)
    z2 = _moved_until(lambda moved: moved.difference <= 0, down, up, rows).z2
    return np.where(apart == 0, 1.0, 2 * np.vectorize(NormalDist().cdf, otypes=[float])(-np.sqrt(z2)))


def _lowest(down: np.ndarray, up: np.ndarray, rows: np.ndarray, confidence: float) -> np.ndarray:
    """The low end of the mean of (up - down) / rows."""
    least = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    return _moved_until(lambda moved: moved.z2 >= least, down, up, rows).difference


class _Moved(NamedTuple):
    """What the likeliest shares come to that are moved away from those of the rows.

    Attributes:
        difference: its mean over classes.
        z2: how far that is from the mean of the rows, squared, in its variances.
    """

    difference: np.ndarray
    z2: np.ndarray


def _moved_until(enough: Callable[[_Moved], np.ndarray], down: np.ndarray, up: np.ndarray, rows: np.ndarray) -> _Moved:
    """The nearest that is far enough from the rows, downwards; where none is, the farthest."""
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
        there = enough(_moved(np.exp2(middle), down, up, rows, weight))
        low, high = np.where(there, low, middle), np.where(there, middle, high)
    return _moved(np.exp2(high), down, up, rows, weight)


def _moved(multiplier: np.ndarray, down: np.ndarray, up: np.ndarray, rows: np.ndarray, weight: np.ndarray) -> _Moved:
    force = multiplier[..., None] * weight
    # Lagrange: the shares are down / (level - force), up / (level + force) and the rest / level, which add up to 1 at
    # one level; it is found as its distance from the force, 0 where a class without a row that is down must have some
    above, most = np.zeros_like(force), np.broadcast_to(rows, force.shape)
    for _ in range(_STEPS):
        middle = (above + most) / 2
        short = down / middle + up / (middle + 2 * force) + (rows - down - up) / (middle + force) < 1
        above, most = np.where(short, above, middle), np.where(short, middle, most)
    share_up, same = up / (most + 2 * force), (rows - down - up) / (most + force)
    share_down = np.maximum(1 - share_up - same, 0)
    difference = share_up - share_down
    variance = weight**2 * np.maximum(share_up + share_down - difference**2, 0) / rows
    moved = multiplier * variance.sum(axis=-1)
    scale = (variance * _shortage(rows, weight)).sum(axis=-1)
    z2 = np.divide(moved**2, scale, out=np.zeros_like(moved), where=scale > 0)
    return _Moved((weight * difference).sum(axis=-1), z2)


def _shortage(rows: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(C,): by how much the spread of so few rows of a class is larger than they show.

    Of many classes by rows / (rows - 1); of one that decides by itself by nothing, as its share follows from the mean.
    """
    parts = weight**2 / rows
    classes = parts.sum() ** 2 / (parts**2).sum()  # that decide
    return 1 + max(0.0, 1 - 2 / classes) / np.maximum(rows - 1, 1)
