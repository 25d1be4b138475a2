"""Which rows of the source are rows of a store, where images were skipped or are missing: a few runs of them."""

from collections.abc import Sequence

import numpy as np

from transfer.store.format import SKIPPED


class KeptRows:
    """The rows of `runs`, (start, stop) each, in order; it takes memory by the run, not by the row."""

    def __init__(self, runs: np.ndarray) -> None:
        runs = runs.reshape(-1, 2)
        self._starts = runs[:, 0]
        # rows kept before each run, and in the end all of them
        self._before = np.concatenate([[0], np.cumsum(runs[:, 1] - runs[:, 0])])

    @classmethod
    def without(cls, skipped: Sequence[int], rows: int) -> "KeptRows":
        """All of `rows` rows but `skipped`, which ascend."""
        gaps = np.asarray(skipped, np.int64)
        runs = np.stack([np.concatenate([[0], gaps + 1]), np.concatenate([gaps, [rows]])], axis=1)
        return cls(runs[runs[:, 0] < runs[:, 1]])

    @staticmethod
    def runs_of(start: int, checks: np.ndarray) -> np.ndarray:
        """The runs of rows that are there, int64 (R, 2), from the checks of the rows from `start` on."""
        there = np.concatenate([[False], checks > SKIPPED, [False]])
        return start + np.flatnonzero(there[1:] != there[:-1]).reshape(-1, 2)

    def __len__(self) -> int:
        return int(self._before[-1])

    def positions(self, rows: np.ndarray) -> np.ndarray:
        """Where rows of the store, indices in [0, len), lie in the source."""
        run = np.searchsorted(self._before, rows, side="right") - 1
        return self._starts[run] + rows - self._before[run]

    def before(self, position: int) -> int:
        """How many rows of the source before `position` are kept."""
        run = int(np.searchsorted(self._starts, position, side="right")) - 1
        if run < 0:
            return 0
        return int(min(self._before[run] + position - self._starts[run], self._before[run + 1]))
