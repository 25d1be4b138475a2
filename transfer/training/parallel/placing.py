"""Arrays over the mesh of a head, from what each process has of them."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from transfer.training.parallel.sharded import DATA, state_sharding


class Placing:
    """The places along the mesh's axis `data`, at each of which lies one block of rows.

    Attributes:
        mesh: as given.
        places: how many there are.
        own: those at which this process has a device.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.mesh, self.places = mesh, mesh.shape[DATA]
        self.own = sorted(self._devices)

    @cached_property
    def _devices(self) -> dict[int, list[jax.Device]]:
        """The devices of this process at each place that it has one at."""
        here = jax.process_index()
        found = {}
        for place, devices in enumerate(np.moveaxis(self.mesh.devices, self.mesh.axis_names.index(DATA), 0)):
            if own := [device for device in devices.flat if device.process_index == here]:
                found[place] = own
        return found

    def put(self, place: int, block: np.ndarray) -> list[jax.Array]:
        """The block on each of this process' devices at the place."""
        return [jax.device_put(block, device) for device in self._devices[place]]

    def joined(self, spec: PartitionSpec, parts: list[jax.Array]) -> jax.Array:
        """The global array of what `put` returned, place by place; they lie along the axis of `data` in `spec`."""
        shape = list(parts[0].shape)
        shape[list(spec).index(DATA)] *= self.places
        return jax.make_array_from_single_device_arrays(tuple(shape), NamedSharding(self.mesh, spec), parts)

    def from_blocks(self, spec: PartitionSpec, blocks: Mapping[int, np.ndarray]) -> jax.Array:
        """The global array of the blocks, of one shape all, of this process' places."""
        return self.joined(spec, [array for place in self.own for array in self.put(place, blocks[place])])


def place_state(state: Any, mesh: Mesh) -> Any:
    """A state that every process has whole, in its shards; `state_sharding` says which."""
    host = jax.tree.map(np.asarray, state)

    def place(leaf: np.ndarray, sharding: NamedSharding) -> jax.Array:
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(place, host, state_sharding(host, mesh))
