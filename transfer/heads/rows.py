"""Checks of the rows that a head is given: finite numbers, one label each; anything else is one clear line."""

import numpy as np
from numpy.typing import ArrayLike

from transfer.errors import RowsError


def flat_features(features: ArrayLike, name: str = "features") -> np.ndarray:
    """Returns `features` (N, ...) as float32 (N, D); raises RowsError if empty, not numbers or not finite."""
    array = np.asarray(features)
    if array.ndim == 0 or len(array) == 0:
        raise RowsError(f"{name} are empty: there is no row to work on")
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise RowsError(f"{name} must be numbers, not {array.dtype}")
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused below
        array = array.reshape(len(array), -1).astype(np.float32, copy=False)
    if array.shape[1] == 0:
        raise RowsError(f"{name} are empty: a row has no value")
    bad = rows_not_finite(array)
    if len(bad):
        raise RowsError(f"{name} have NaN or infinity in {len(bad)} of {len(array)} rows, first in row {bad[0]}")
    return array


def rows_not_finite(features: np.ndarray) -> np.ndarray:
    """The numbers of the rows of float32 (N, D) that hold NaN or infinity: int (n,)."""
    with np.errstate(over="ignore", invalid="ignore"):
        # one multi-threaded pass without an array of truths; huge values overflow it, and are looked at one by one
        if np.isfinite(np.vdot(features, features)):
            return np.empty(0, np.int64)
    return np.flatnonzero(~np.isfinite(features).all(axis=1))


def are_whole(labels: np.ndarray) -> bool:
    """Whether labels are integers, or floats that are."""
    return labels.dtype.kind in "iu" or (labels.dtype.kind == "f" and bool(np.all(labels == np.floor(labels))))


def flat_labels(labels: ArrayLike | None, num_rows: int, name: str = "labels") -> np.ndarray:
    """Returns `labels` (N,) or (N, 1) as (N,), their dtype kept; raises RowsError if N is not `num_rows`."""
    if labels is None:
        raise RowsError(f"{num_rows} rows of features but no {name}")
    array = np.asarray(labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise RowsError(f"{name} must be one label a row, (N,) or (N, 1), not of shape {array.shape}")
    if len(array) != num_rows:
        raise RowsError(f"{num_rows} rows of features but {len(array)} {name}: the two must be of one length")
    return array


def class_indices(labels: ArrayLike | None, num_rows: int, num_classes: int, name: str = "labels") -> np.ndarray:
    """Returns `labels` as int32 (N,); raises RowsError unless all are whole numbers in [0, num_classes)."""
    array = flat_labels(labels, num_rows, name)
    if not are_whole(array):
        raise RowsError(f"{name} must be whole numbers from 0, not {array.dtype}")
    low, high = array.min(), array.max()
    if low < 0 or high >= num_classes:
        raise RowsError(f"{name} run from {low:g} to {high:g}, but the head has {num_classes} classes, from 0")
    return array.astype(np.int32)
