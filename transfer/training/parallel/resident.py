"""Rows that stay on the devices: each has a block of them, which is read once."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from transfer.training.parallel.calls import EvaluateCall, TrainCall, lengths, shares
from transfer.training.parallel.dealing import deal, usual_width
from transfer.training.parallel.placing import Placing
from transfer.training.parallel.reader import Reader, pieces
from transfer.training.parallel.sharded import ROWS

# Batches of a call at most: between two of them a run can be stopped.
MOST_BATCHES = 1024
# Rows that a thread reads at a time.
PIECE = 1024


class Resident:
    """Rows to train on; see `transfer.training.parallel.calls.Training`.

    Args:
        reader: of the rows.
        mesh: whose devices hold them.
        batch_size: rows of a step.
        rows_of: (seed, epoch) -> int (N,), the order of the rows.
        order: what it depends on beside these two.
    """

    def __init__(
        self,
        reader: Reader,
        mesh: Mesh,
        batch_size: int,
        rows_of: Callable[[int, int], np.ndarray],
        order: dict[str, Any],
    ) -> None:
        self.num_rows, self.batch_size, self.order = reader.num_rows, batch_size, order
        self._rows_of, self._placing = rows_of, Placing(mesh)
        self._block, blocks = shares(0, self.num_rows, self._placing.places)
        self._arrays = _placed(reader, self._placing, self._block, blocks)

    def calls(self, seed: int, epoch: int, done: int) -> Iterator[TrainCall]:
        """See `transfer.training.parallel.calls.Training`."""
        order, places = self._rows_of(seed, epoch), self._placing.places
        usual = usual_width(self.batch_size, places, self._block)
        batches = math.ceil(self.num_rows / self.batch_size)
        parts = math.ceil(batches / MOST_BATCHES)
        for part in range(parts):
            start, stop = (batches * edge // parts for edge in (part, part + 1))
            if stop > done:
                rows = order[max(start, done) * self.batch_size : stop * self.batch_size]
                taken, counts = deal(rows // self._block, rows % self._block, self.batch_size, places, usual)
                yield TrainCall(lambda: self._arrays, taken, counts, len(counts), stop)


class ResidentValidation:
    """Rows to validate on; see `transfer.training.parallel.calls.Validation`."""

    def __init__(self, reader: Reader, mesh: Mesh) -> None:
        self.num_rows, placing = reader.num_rows, Placing(mesh)
        block, blocks = shares(0, self.num_rows, placing.places)
        self._arrays, self._real = _placed(reader, placing, block, blocks), lengths(blocks)

    def calls(self) -> Iterator[EvaluateCall]:
        """See `transfer.training.parallel.calls.Validation`."""
        yield EvaluateCall(lambda: self._arrays, self._real)


def _placed(reader: Reader, placing: Placing, block: int, blocks: list[tuple[int, int]]) -> tuple[jax.Array, jax.Array]:
    """Reads the block of one place after the other: the host need not hold them all."""
    features, labels = [], []
    for place in placing.own:
        buffers = reader.buffers(block)
        reader.fill([(buffers, pieces(*blocks[place], PIECE))])
        features += placing.put(place, buffers[0])
        labels += placing.put(place, buffers[1])
    return placing.joined(ROWS, features), placing.joined(ROWS, labels)
