"""Rows over the devices of a mesh: the arrays that hold them, and which rows of a batch lie on which device.

`transfer.training.parallel.resident` keeps all rows on the devices, `transfer.training.parallel.streamed` reads a
window of them at a time. Both give the same batches for the same order, seed and epoch, as chunks that
`transfer.training.parallel.step` works through.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from transfer.training.parallel.step import DATA


class TrainChunk(NamedTuple):
    """Some batches that follow each other, as `step.train` takes them.

    Attributes:
        data: features and labels on the devices.
        indices, batch_sizes: see `assign_rows_to_devices`.
        num_steps: as `train` takes it.
        batches_done: batches of the epoch that are done after it.
    """

    data: tuple[jax.Array, jax.Array]
    indices: np.ndarray
    batch_sizes: np.ndarray
    num_steps: int | None
    batches_done: int


class EvaluateChunk(NamedTuple):
    """Some rows to validate on, as `step.evaluate` takes them.

    Attributes:
        data: features and labels on the devices.
        num_rows: int32 (num_shards,), how many rows each shard has.
    """

    data: tuple[jax.Array, jax.Array]
    num_rows: np.ndarray


class DataMesh:
    """The shards of a mesh along its axis `data`, at each of which lies one block of rows.

    Attributes:
        mesh: as given.
        num_shards: how many there are.
        local_shards: those at which this process has a device.
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


def blocks_of(start: int, stop: int, block: int, num_shards: int) -> list[tuple[int, int]]:
    """(start, stop) of each shard's block of [start, stop): `block` rows each; the last may be shorter, or empty."""
    edges = [min(start + i * block, stop) for i in range(num_shards + 1)]
    return list(zip(edges, edges[1:], strict=False))


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
    width = max(min_width, min(rounded_width(int(counts.max(initial=0))), batch_size))
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
