"""Rows that stay on the devices, each of which has a block of them that is read once; and rows to validate on."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from transfer.training.parallel.batches import (
    DataMesh,
    EvaluateChunk,
    TrainChunk,
    assign_rows_to_devices,
    blocks_of,
    usual_width,
)
from transfer.training.parallel.reader import Reader, pieces
from transfer.training.parallel.step import ROWS

# Batches of a chunk at most: between two chunks a run can be stopped.
MOST_BATCHES = 1024
# Rows that a thread reads at a time.
PIECE_ROWS = 1024


class Resident:
    """Rows to train on, all of them on the devices.

    Args:
        reader: of the rows.
        mesh: whose devices hold them.
        batch_size: rows of a step.
        rows_of: (seed, epoch) -> int (N,), the order of the rows.
        order: what it depends on beside these two, JSON values.
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
        self._rows_of, data_mesh = rows_of, DataMesh(mesh)
        self._num_shards = data_mesh.num_shards
        self._block = math.ceil(self.num_rows / self._num_shards)
        blocks = blocks_of(0, self.num_rows, self._block, self._num_shards)
        self._data = _load(reader, data_mesh, self._block, blocks, PIECE_ROWS)

    def chunks(self, seed: int, epoch: int, batches_done: int) -> Iterator[TrainChunk]:
        """The chunks of an epoch of which so many batches are done already."""
        order = self._rows_of(seed, epoch)
        min_width = usual_width(self.batch_size, self._num_shards, self._block)
        batches = math.ceil(self.num_rows / self.batch_size)
        parts = math.ceil(batches / MOST_BATCHES)
        for part in range(parts):
            start, stop = (batches * edge // parts for edge in (part, part + 1))
            if stop > batches_done:
                rows = order[max(start, batches_done) * self.batch_size : stop * self.batch_size]
                indices, batch_sizes = assign_rows_to_devices(
                    rows // self._block, rows % self._block, self.batch_size, self._num_shards, min_width
                )
                yield TrainChunk(self._data, indices, batch_sizes, len(batch_sizes), stop)


class Validation:
    """Rows to validate on: kept on the devices, or `window_rows` of them read at a time, by pieces of `piece_rows`."""

    def __init__(
        self, reader: Reader, mesh: Mesh, window_rows: int | None = None, piece_rows: int = PIECE_ROWS
    ) -> None:
        self.num_rows, self._reader, self._mesh, self._piece_rows = reader.num_rows, reader, DataMesh(mesh), piece_rows
        windows_of = self.num_rows if window_rows is None else max(1, window_rows // piece_rows) * piece_rows
        self._window_rows = min(windows_of, self.num_rows)
        self._kept = list(self._windows(one_by_one=True)) if window_rows is None else None

    def chunks(self) -> Iterator[EvaluateChunk]:
        """All of the rows."""
        yield from self._windows() if self._kept is None else self._kept

    def _windows(self, one_by_one: bool = False) -> Iterator[EvaluateChunk]:
        block = math.ceil(self._window_rows / self._mesh.num_shards)
        for start in range(0, self.num_rows, self._window_rows):
            stop = min(start + self._window_rows, self.num_rows)
            blocks = blocks_of(start, stop, block, self._mesh.num_shards)
            data = _load(self._reader, self._mesh, block, blocks, self._piece_rows, one_by_one)
            yield EvaluateChunk(data, np.array([stop - start for start, stop in blocks], np.int32))
            del data  # the next rows are read before these would be let go of


def _load(
    reader: Reader,
    mesh: DataMesh,
    block: int,
    blocks: list[tuple[int, int]],
    piece_rows: int,
    one_by_one: bool = True,
) -> tuple[jax.Array, jax.Array]:
    """Reads a block for each shard: one by one, which spares the memory of the host, or at once, which is faster."""
    features: list[jax.Array] = []
    labels: list[jax.Array] = []
    for shards in [[shard] for shard in mesh.local_shards] if one_by_one else [mesh.local_shards]:
        buffers = {shard: reader.buffers(block) for shard in shards}
        reader.fill([(buffers[shard], pieces(*blocks[shard], piece_rows)) for shard in shards])
        for shard in shards:
            features += mesh.device_put_shard(shard, buffers[shard][0])
            labels += mesh.device_put_shard(shard, buffers[shard][1])
    return mesh.make_global_array(ROWS, features), mesh.make_global_array(ROWS, labels)
