"""Rows of a feature store or of arrays, read in pieces, by several threads, into the place where they are wanted."""

import itertools
import math
import mmap
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from transfer.errors import TransferError
from transfer.heads.targets import are_whole, rows_not_finite

# A piece of a store in a bucket takes a twentieth of a second to come, most of it waiting.
THREADS = 16
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


class Split(NamedTuple):
    """Rows to train or to validate on: arrays, or what reads slices of rows as NumPy does (`store.features`)."""

    features: Any  # (N, ...) numbers, with `shape` and `dtype`
    labels: Any  # (N,) or (N, 1) whole numbers from 0

    @property
    def num_features(self) -> int:
        """The number of features of a row, flat."""
        return int(np.prod(self.features.shape[1:]))

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the rows on a device: bfloat16 where they are stored so, else float32."""
        return BFLOAT16 if np.dtype(self.features.dtype) == BFLOAT16 else np.dtype(np.float32)


class Piece(NamedTuple):
    """Rows [start, stop) of a split, to be put at `offset` of a buffer."""

    offset: int
    start: int
    stop: int


def pieces(start: int, stop: int, rows: int) -> list[Piece]:
    """Rows [start, stop) in pieces that begin at multiples of `rows`, at most so long, one behind the other."""
    edges = [start, *range((start // rows + 1) * rows, stop, rows), stop]
    return [Piece(a - start, a, b) for a, b in itertools.pairwise(edges) if b > a]


def _zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Memory straight from the system, which gets it back: an allocator with many threads keeps some of each window."""
    size = math.prod(shape)
    return np.frombuffer(mmap.mmap(-1, max(size * dtype.itemsize, 1)), dtype, size).reshape(shape)


class Reader:
    """Reads a split, and refuses rows that no head can use; labels must be below `num_classes`.

    Raises TransferError, which begins with `which`, "" or "validation ", for no row, no value in a row, what are not
    numbers, and another number of labels.
    """

    def __init__(self, split: Split, num_classes: int, which: str = "") -> None:
        self.split, self.num_classes, self.which = split, num_classes, which
        self.num_rows = len(split.features)
        if not self.num_rows or not split.num_features:
            raise TransferError(f"{which}features are empty: there is nothing to work on")
        dtype = np.dtype(split.features.dtype)
        if dtype.kind not in "fiub" and dtype != BFLOAT16:
            raise TransferError(f"{which}features must be numbers, not {dtype}")
        if len(split.labels) != self.num_rows:
            raise TransferError(
                f"{self.num_rows} rows of features but {len(split.labels)} {which}labels: the two must be of one length"
            )

    def buffers(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Features (rows, D) and labels int32 (rows,), all zero: what is not filled takes no memory."""
        return _zeros((rows, self.split.num_features), self.split.dtype), _zeros((rows,), np.dtype(np.int32))

    def fill(self, jobs: Iterable[tuple[tuple[np.ndarray, np.ndarray], Sequence[Piece]]]) -> None:
        """Reads pieces into buffers, all at once.

        Raises TransferError for NaN, infinity, labels that are no classes, and what a store raises.
        """
        tasks = [(buffers, piece) for buffers, of_buffers in jobs for piece in of_buffers]
        for _ in self._pool.map(self._read, tasks) if len(tasks) > 1 else map(self._read, tasks):
            pass

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        # kept: with new threads for every window, what the allocator holds for each of them would add up
        return ThreadPoolExecutor(THREADS, thread_name_prefix="rows")

    def _read(self, task: tuple[tuple[np.ndarray, np.ndarray], Piece]) -> None:
        (features, labels), (offset, start, stop) = task
        target = slice(offset, offset + stop - start)
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused
            features[target] = np.asarray(self.split.features[start:stop]).reshape(stop - start, -1)
        bad = rows_not_finite(features[target].astype(np.float32, copy=False))
        if len(bad):
            raise TransferError(f"{self.which}features have NaN or infinity in row {start + int(bad[0])}")
        labels[target] = self._classes(np.asarray(self.split.labels[start:stop]), start)

    def _classes(self, labels: np.ndarray, start: int) -> np.ndarray:
        if labels.shape[1:] not in ((), (1,)):
            raise TransferError(f"{self.which}labels must be one label a row, not of shape {labels.shape[1:]} a row")
        labels = labels.reshape(-1)
        if not are_whole(labels):
            raise TransferError(f"{self.which}labels must be whole numbers from 0, not {labels.dtype}")
        wrong = (labels < 0) | (labels >= self.num_classes)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise TransferError(
                f"the {self.which}label of row {start + row} is {labels[row]:g}, but the head has "
                f"{self.num_classes} classes, from 0"
            )
        return labels.astype(np.int32)
