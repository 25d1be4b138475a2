"""Rows that are read as training goes: a window of whole chunks at a time, the next one ahead.

The chunks of a window are assigned to the shards along `data`; a process reads those of its own shards and no other
row. One call trains on all batches that a window completes. What is left of it, less than a batch, waits at the shards
that have it, and is part of the next window's first batch; so the batches are those of rows that are all in memory.
"""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from transfer.training.parallel.batches import (
    DataMesh,
    TrainChunk,
    assign_rows_to_devices,
    rank_in_group,
    rounded_width,
    usual_width,
)
from transfer.training.parallel.reader import Piece, Reader
from transfer.training.parallel.shuffle import Chunks
from transfer.training.parallel.step import ROWS

# Of each local shard: features (R, D), labels (R,).
Buffers = Mapping[int, tuple[np.ndarray, np.ndarray]]


class Waiting(NamedTuple):
    """Rows that wait for the next window, in the order of training.

    Attributes:
        shard_of_row: the shard that has each.
        rows: of each local shard its rows, features (n, D) and labels (n,), in that order.
    """

    shard_of_row: np.ndarray
    rows: Buffers


class Streamed:
    """Rows to train on, in the order of `chunks`, read while training goes."""

    def __init__(self, reader: Reader, mesh: Mesh, batch_size: int, chunks: Chunks) -> None:
        self.num_rows, self.batch_size, self.order = reader.num_rows, batch_size, chunks.settings()
        self._reader, self._mesh, self._chunks = reader, DataMesh(mesh), chunks
        # rows of a window at one shard
        self._window_rows = math.ceil(chunks.most_chunks / self._mesh.num_shards) * chunks.chunk_rows
        self._min_width = usual_width(batch_size, self._mesh.num_shards, batch_size)
        # most batches that a window completes
        self._most_steps = math.ceil(chunks.most_chunks * chunks.chunk_rows / batch_size) + 1

    def chunks(self, seed: int, epoch: int, batches_done: int) -> Iterator[TrainChunk]:
        """The chunks of an epoch of which so many batches are done already."""
        num_windows, num_shards = self._chunks.num_windows, self._mesh.num_shards
        # the window that has the first row that is still to be trained on, and how many rows before it the window has
        window, done_rows = 0, batches_done * self.batch_size
        while window < num_windows and done_rows >= (size := self._chunks.size(window, seed, epoch)):
            done_rows, window = done_rows - size, window + 1
        waiting = Waiting(np.empty(0, np.int64), {})
        for number in range(window, num_windows):
            shard_of_row, local_index, buffers = self._read(number, seed, epoch, waiting)
            if number == window:  # no row waits yet
                shard_of_row, local_index = shard_of_row[done_rows:], local_index[done_rows:]
            whole, rest = divmod(len(shard_of_row), self.batch_size)
            batches = whole + (number == num_windows - 1 and rest > 0)
            trained = batches * self.batch_size
            left, left_index = shard_of_row[trained:], local_index[trained:]
            kept = {shard: left_index[left == shard] for shard in buffers}
            waiting = Waiting(left, {shard: (x[kept[shard]], y[kept[shard]]) for shard, (x, y) in buffers.items()})
            if not batches:
                continue
            batches_done += batches
            indices, batch_sizes = assign_rows_to_devices(
                shard_of_row[:trained], local_index[:trained], self.batch_size, num_shards, self._min_width
            )
            padding = self._most_steps - len(batch_sizes)
            indices = np.pad(indices, ((0, padding), (0, 0), (0, 0)), constant_values=-1)
            features, labels = (
                self._mesh.put_blocks(ROWS, {shard: arrays[i] for shard, arrays in buffers.items()}) for i in (0, 1)
            )
            del buffers
            yield TrainChunk((features, labels), indices, np.pad(batch_sizes, (0, padding)), None, batches_done)
            del features, labels  # the next rows are read before these would be let go of

    def _read(self, number: int, seed: int, epoch: int, waiting: Waiting) -> tuple[np.ndarray, np.ndarray, Buffers]:
        """The rows that waited and those of a window: the shard of each, where it lies there, and the rows."""
        window, chunk_rows = self._chunks.window(number, seed, epoch), self._chunks.chunk_rows
        num_shards = self._mesh.num_shards
        waiting_index = rank_in_group(waiting.shard_of_row, num_shards)
        # room for as many as wait usually; for more, where more do
        room = max(self._min_width, rounded_width(int(waiting_index.max(initial=-1)) + 1))
        buffers = {shard: self._reader.buffers(self._window_rows + room) for shard in self._mesh.local_shards}
        jobs = []
        for shard, shard_buffers in buffers.items():
            starts = (window.chunks[shard::num_shards] * chunk_rows).tolist()
            stops = [min(start + chunk_rows, self.num_rows) for start in starts]
            offsets = range(0, len(starts) * chunk_rows, chunk_rows)
            jobs.append((shard_buffers, list(map(Piece, offsets, starts, stops))))
            for buffer, kept in zip(shard_buffers, waiting.rows.get(shard, ()), strict=False):
                buffer[self._window_rows : self._window_rows + len(kept)] = kept
        self._reader.fill(jobs)
        slot, row = window.slots // chunk_rows, window.slots % chunk_rows
        shard_of_row = np.concatenate([waiting.shard_of_row, slot % num_shards])
        local_index = np.concatenate([self._window_rows + waiting_index, slot // num_shards * chunk_rows + row])
        return shard_of_row, local_index, buffers
