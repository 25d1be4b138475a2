"""Rows to train on and to validate on, as chunks of batches over the devices of a mesh, for `step` to work through.

`Resident` keeps all rows on the devices, each of which has a block of them that is read once. `Streamed` reads them as
training goes, a window of whole chunks at a time, the next one ahead. Both give the same batches for the same order,
seed and epoch.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from transfer.training.parallel.reader import Piece, Reader, pieces
from transfer.training.parallel.shuffle import Chunks
from transfer.training.parallel.step import BATCHES, DATA, ROWS, Batches

# Batches of a chunk at most: between two chunks a run can be stopped.
MOST_BATCHES = 1024
# Rows that a thread reads at a time.
PIECE_ROWS = 1024

# Of each local shard: features (R, D), labels (R,).
Buffers = Mapping[int, tuple[np.ndarray, np.ndarray]]


class TrainChunk(NamedTuple):
    """Batches that follow each other, with `num_steps`, for `step.train`; so many of the epoch are done after it."""

    batches: Batches
    num_steps: int | None
    batches_done: int


class EvaluateChunk(NamedTuple):
    """Rows as `step.evaluate` takes them: of each device a block, of which the first `num_rows` are rows."""

    features: jax.Array
    labels: jax.Array
    num_rows: jax.Array


class DataMesh:
    """The `num_shards` shards of a mesh along its axis `data`, at each of which lies one block of rows.

    At the `local_shards` this process has a device.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.mesh, self.num_shards = mesh, mesh.shape[DATA]
        by_shard = np.moveaxis(mesh.devices, mesh.axis_names.index(DATA), 0).reshape(self.num_shards, -1)
        here = jax.process_index()
        local = {shard: [d for d in devices if d.process_index == here] for shard, devices in enumerate(by_shard)}
        self._devices = {shard: devices for shard, devices in local.items() if devices}
        self.local_shards = list(self._devices)

    def device_put_shard(self, shard: int, block: np.ndarray) -> list[jax.Array]:
        """The block on each of this process' devices at the shard."""
        return [jax.device_put(block, device) for device in self._devices[shard]]

    def make_global_array(self, spec: PartitionSpec, parts: list[jax.Array]) -> jax.Array:
        """The global array of what `device_put_shard` returned, shard by shard, along the axis of `data` in `spec`."""
        shape = list(parts[0].shape)
        shape[list(spec).index(DATA)] *= self.num_shards
        return jax.make_array_from_single_device_arrays(tuple(shape), NamedSharding(self.mesh, spec), parts)

    def put_blocks(self, spec: PartitionSpec, blocks: Mapping[int, np.ndarray]) -> jax.Array:
        """The global array of the blocks, all of one shape, of this process' shards."""
        parts = [self.device_put_shard(shard, blocks[shard]) for shard in self.local_shards]
        return self.make_global_array(spec, sum(parts, []))

    def put_indices(self, indices: np.ndarray) -> jax.Array:
        """Indices (S, num_shards, K), each shard's where its rows are."""
        return self.put_blocks(BATCHES, {shard: indices[:, shard] for shard in self.local_shards})


def usual_width(batch_size: int, num_devices: int, rows_per_device: int) -> int:
    """Rows of a batch on one device that hardly any batch exceeds: K, by which the program is compiled.

    Of rows that are assigned at random six standard deviations above the mean.
    """
    mean = batch_size / num_devices
    most = math.ceil(mean + 6 * math.sqrt(mean * (1 - 1 / num_devices)))
    return min(rounded_width(most), batch_size, rows_per_device)


def rounded_width(count: int) -> int:
    """A width, up to a power of two or one and a half of it, so that there are few widths, and few compilations."""
    power = 1 << max(count - 1, 0).bit_length()
    return power * 3 // 4 if count <= power * 3 // 4 and power >= 4 else power


def assign_rows_to_devices(
    device_of_row: np.ndarray, local_index: np.ndarray, batch_size: int, num_devices: int, min_width: int
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of some batches, by device.

    Args:
        device_of_row: int (n,), the device that holds each row, in the order of training.
        local_index: int (n,), where on that device the row lies.
        batch_size: rows of a batch; the last one may have fewer.
        min_width: the width K, unless a batch has more rows on one device. What K is depends on these rows alone, not
            on what came before, so that a resumed run computes the same bits.

    Returns:
        Local indices int32 (S, num_devices, K), -1 where there is no row; float32 (S,), rows of each batch.
    """
    steps = math.ceil(len(device_of_row) / batch_size)
    groups = np.arange(len(device_of_row)) // batch_size * num_devices + device_of_row
    counts = np.bincount(groups, minlength=steps * num_devices)
    width = max(min_width, min(rounded_width(int(counts.max())), batch_size))
    indices = np.full((steps * num_devices, width), -1, np.int32)
    indices[groups, rank_in_group(groups, steps * num_devices)] = local_index
    batch_sizes = counts.reshape(steps, num_devices).sum(axis=1).astype(np.float32)
    return indices.reshape(steps, num_devices, width), batch_sizes


def rank_in_group(groups: np.ndarray, num_groups: int) -> np.ndarray:
    """int (n,): of each element how many elements before it are of the same group, below `num_groups`."""
    sizes = np.bincount(groups, minlength=num_groups)
    order = np.argsort(groups, kind="stable")
    ranks = np.empty(len(groups), np.int64)
    ranks[order] = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return ranks


class RowBlocks:
    """Rows as `step.evaluate` takes them: kept on the devices, or `window_rows` of them read at a time.

    They are read by pieces of `piece_rows`, of which a window has whole ones.
    """

    def __init__(
        self, reader: Reader, mesh: DataMesh, window_rows: int | None = None, piece_rows: int = PIECE_ROWS
    ) -> None:
        self.num_rows, self._reader, self._mesh, self._piece_rows = reader.num_rows, reader, mesh, piece_rows
        windows_of = self.num_rows if window_rows is None else max(1, window_rows // piece_rows) * piece_rows
        self._window_rows = min(windows_of, self.num_rows)
        self._kept = list(map(self._window, self._starts())) if window_rows is None else None

    def chunks(self) -> Iterator[EvaluateChunk]:
        """All of the rows."""
        yield from map(partial(self._window, at_once=True), self._starts()) if self._kept is None else self._kept

    def _starts(self) -> range:
        return range(0, self.num_rows, self._window_rows)

    def _window(self, start: int, at_once: bool = False) -> EvaluateChunk:
        """Reads a window, a block for every shard, of which the last may have fewer rows, or none.

        Block by block, which spares the memory of the host, or all at once, which is faster.
        """
        mesh, stop = self._mesh, min(start + self._window_rows, self.num_rows)
        block = math.ceil(self._window_rows / mesh.num_shards)
        edges = [min(start + i * block, stop) for i in range(mesh.num_shards + 1)]
        features: list[jax.Array] = []
        labels: list[jax.Array] = []
        for shards in [mesh.local_shards] if at_once else [[shard] for shard in mesh.local_shards]:
            buffers = {shard: self._reader.buffers(block) for shard in shards}
            of_shards = {shard: pieces(edges[shard], edges[shard + 1], self._piece_rows) for shard in shards}
            self._reader.fill([(buffers[shard], of_shards[shard]) for shard in shards])
            for shard in shards:
                features += mesh.device_put_shard(shard, buffers[shard][0])
                labels += mesh.device_put_shard(shard, buffers[shard][1])
        counts = np.diff(edges).astype(np.int32)
        num_rows = mesh.put_blocks(ROWS, {shard: counts[shard : shard + 1] for shard in mesh.local_shards})
        return EvaluateChunk(mesh.make_global_array(ROWS, features), mesh.make_global_array(ROWS, labels), num_rows)


class Resident:
    """Rows to train on, all of them on the devices of `mesh`.

    `rows_of(seed, epoch)`, int (N,), is the order of the rows.
    """

    def __init__(self, reader: Reader, mesh: Mesh, batch_size: int, rows_of: Callable[[int, int], np.ndarray]) -> None:
        self.num_rows, self.batch_size = reader.num_rows, batch_size
        self._rows_of, self._mesh = rows_of, DataMesh(mesh)
        (chunk,) = RowBlocks(reader, self._mesh).chunks()
        self._data = chunk.features, chunk.labels

    def chunks(self, seed: int, epoch: int, batches_done: int) -> Iterator[TrainChunk]:
        """The chunks of an epoch of which so many batches are done already."""
        order, num_shards = self._rows_of(seed, epoch), self._mesh.num_shards
        block = math.ceil(self.num_rows / num_shards)
        min_width = usual_width(self.batch_size, num_shards, block)
        batches = math.ceil(self.num_rows / self.batch_size)
        parts = math.ceil(batches / MOST_BATCHES)
        for part in range(parts):
            start, stop = (batches * edge // parts for edge in (part, part + 1))
            if stop > batches_done:
                rows = order[max(start, batches_done) * self.batch_size : stop * self.batch_size]
                owners = rows // block, rows % block
                indices, sizes = assign_rows_to_devices(*owners, self.batch_size, num_shards, min_width)
                yield TrainChunk(Batches(*self._data, self._mesh.put_indices(indices), sizes), len(sizes), stop)


class Streamed:
    """Rows to train on, in the order of `chunks`, read while training goes.

    The chunks of a window are assigned to the shards along `data`; a process reads those of its own shards and no other
    row. One call trains on all batches that a window completes. What is left of it, less than a batch, waits at the
    shards that have it, and is part of the next window's first batch; so the batches are those of rows in memory.
    """

    def __init__(self, reader: Reader, mesh: Mesh, batch_size: int, chunks: Chunks) -> None:
        self.num_rows, self.batch_size = reader.num_rows, batch_size
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
        # the shard of each row that waits for the next window, in the order of training, and the rows of each shard
        waiting, waiting_rows = np.empty(0, np.int64), dict[int, tuple[np.ndarray, np.ndarray]]()
        for number in range(window, num_windows):
            shard_of_row, local_index, buffers = self._read(number, seed, epoch, waiting, waiting_rows)
            if number == window:  # no row waits yet
                shard_of_row, local_index = shard_of_row[done_rows:], local_index[done_rows:]
            whole, rest = divmod(len(shard_of_row), self.batch_size)
            count = whole + (number == num_windows - 1 and rest > 0)
            trained = count * self.batch_size
            waiting = shard_of_row[trained:]
            kept = {shard: local_index[trained:][waiting == shard] for shard in buffers}
            waiting_rows = {shard: (x[kept[shard]], y[kept[shard]]) for shard, (x, y) in buffers.items()}
            if not count:
                continue
            batches_done += count
            owners = shard_of_row[:trained], local_index[:trained]
            indices, sizes = assign_rows_to_devices(*owners, self.batch_size, num_shards, self._min_width)
            padding = self._most_steps - len(sizes)
            indices = np.pad(indices, ((0, padding), (0, 0), (0, 0)), constant_values=-1)
            features, labels = (
                self._mesh.put_blocks(ROWS, {shard: arrays[i] for shard, arrays in buffers.items()}) for i in (0, 1)
            )
            batches = Batches(features, labels, self._mesh.put_indices(indices), np.pad(sizes, (0, padding)))
            del buffers, features, labels
            yield TrainChunk(batches, None, batches_done)
            del batches  # the next rows are read before these would be let go of

    def _read(
        self, number: int, seed: int, epoch: int, waiting: np.ndarray, waiting_rows: Buffers
    ) -> tuple[np.ndarray, np.ndarray, Buffers]:
        """The rows that waited and those of a window: the shard of each, where it lies there, and the rows."""
        (chunks, slots), chunk_rows = self._chunks.window(number, seed, epoch), self._chunks.chunk_rows
        num_shards = self._mesh.num_shards
        waiting_index = rank_in_group(waiting, num_shards)
        # room for as many as wait usually; for more, where more do
        room = max(self._min_width, rounded_width(int(np.bincount(waiting, minlength=num_shards).max())))
        buffers = {shard: self._reader.buffers(self._window_rows + room) for shard in self._mesh.local_shards}
        jobs = []
        for shard, shard_buffers in buffers.items():
            starts = (chunks[shard::num_shards] * chunk_rows).tolist()
            stops = [min(start + chunk_rows, self.num_rows) for start in starts]
            offsets = range(0, len(starts) * chunk_rows, chunk_rows)
            jobs.append((shard_buffers, list(map(Piece, offsets, starts, stops))))
            for buffer, kept in zip(shard_buffers, waiting_rows.get(shard, ()), strict=False):
                buffer[self._window_rows : self._window_rows + len(kept)] = kept
        self._reader.fill(jobs)
        slot, row = slots // chunk_rows, slots % chunk_rows
        shard_of_row = np.concatenate([waiting, slot % num_shards])
        local_index = np.concatenate([self._window_rows + waiting_index, slot // num_shards * chunk_rows + row])
        return shard_of_row, local_index, buffers
