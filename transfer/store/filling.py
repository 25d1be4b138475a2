"""The rows of one file of each array of a store while they are computed: a batch, or a shard of many batches."""

import time
from collections.abc import Mapping, Sequence

import numpy as np

from transfer.store.format import MISSING, UNREAD

# Rows that have come together, and those of them that were skipped, counted from the first row of the file.
Batch = tuple[slice, np.ndarray]


class Filling:
    """Rows [start, stop) of a store in memory, of which some are there and some are to come.

    Attributes:
        features: tap -> (rows, ...), as they are stored.
        checks, content: of the rows that are on the disk, or are about to be; the others are missing.
        there: which rows have come.
    """

    def __init__(self, start: int, stop: int, taps: Mapping[str, Sequence[int]], dtype: np.dtype) -> None:
        self.start, self.stop, rows = start, stop, stop - start
        self.features = {tap: np.empty((rows, *shape), dtype) for tap, shape in taps.items()}
        self.checks, self.content = np.full(rows, MISSING, np.uint32), np.full(rows, UNREAD, np.int64)
        self.there = np.zeros(rows, bool)
        self._unsaved, self._since = list[Batch](), time.monotonic()

    @property
    def whole(self) -> bool:
        """Whether all rows of the file have come."""
        return bool(self.there.all())

    @property
    def unsaved_seconds(self) -> float:
        """How long the batches have been there that are to be saved."""
        return time.monotonic() - self._since

    def put(self, start: int, features: Mapping[str, np.ndarray], skipped: Sequence[int]) -> None:
        """Takes a batch from row `start` on; `skipped` rows have no features."""
        at, without = start - self.start, np.asarray(skipped, int) - self.start
        for tap, values in self.features.items():
            rows = slice(at, at + len(features[tap]))
            values[rows] = features[tap]
            values[without] = np.nan
        self.there[rows] = True
        if not self._unsaved:
            self._since = time.monotonic()
        self._unsaved.append((rows, without))

    def take(self) -> list[Batch]:
        """The batches to save now."""
        for values in self.features.values() if not self.whole else ():
            values[~self.there] = np.nan
        taken, self._unsaved = self._unsaved, []
        return taken
