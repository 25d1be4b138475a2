"""One program per device, where one over all devices of a process cannot be: their parts never meet anyway."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from transfer.extract.program import Program, platform_of
from transfer.runtime.devices import AXIS


def necessary(mesh: Mesh) -> bool:
    """Whether programs over `mesh` have to be compiled for each of its devices.

    The mesh of a process is a part of the slice where there are more processes, and a TPU v5e's compiler refuses a
    program over the part that begins at the slice's corner, from 8x8 chips on: "On platforms with limited ICI routing
    device assignment should include all slice devices". It takes programs for one chip everywhere.
    """
    return mesh.size > 1 and platform_of(mesh) == "tpu" and jax.process_count() > 1


class Separate:
    """Stands in for a `Program`: images sharded over `mesh` in, features sharded likewise out.

    Args:
        mesh: axis `batch`.
        program_on: makes the program of a mesh of one device; the first one's frozen backbone is that of all.
    """

    def __init__(self, mesh: Mesh, program_on: Callable[[Mesh], Program]) -> None:
        self.mesh, self.sharding = mesh, NamedSharding(mesh, P(AXIS))
        self.programs = [program_on(Mesh(np.array([device]), (AXIS,))) for device in mesh.devices.flat]
        for program in self.programs[1:]:
            program.frozen = self.programs[0].frozen

    @property
    def arrays(self) -> Sequence[Mapping[str, jax.Array]]:
        """The arrays of the frozen backbone on each device."""
        return [program.arrays for program in self.programs]

    def compile(self, shape: Sequence[int], dtype: Any = np.uint8, resized: bool = False) -> "Compiled":
        """Compiles all programs, side by side; `shape` is that of a batch over all devices."""
        part = (shape[0] // self.mesh.size, *shape[1:])
        with ThreadPoolExecutor(len(self.programs)) as pool:
            each = pool.map(lambda program: program.compile(part, dtype, resized), self.programs)
            return Compiled(self.sharding, list(each))


class Compiled:
    """Runs the compiled programs of all devices at once; called as what `Program.compile` returns."""

    def __init__(self, sharding: NamedSharding, each: Sequence[jax.stages.Compiled]) -> None:
        self.sharding, self.each = sharding, each

    def __call__(self, arrays: Sequence[Mapping[str, jax.Array]], images: jax.Array) -> dict[str, jax.Array]:
        """Returns the features, sharded, and perhaps not yet computed."""
        shards, devices = {shard.device: shard.data for shard in images.addressable_shards}, self.sharding.mesh.devices
        parts = [
            compiled(own, shards[device]) for compiled, own, device in zip(self.each, arrays, devices.flat, strict=True)
        ]

        def joined(name: str) -> jax.Array:
            pieces = [part[name].addressable_shards[0].data for part in parts]
            shape = (len(pieces) * pieces[0].shape[0], *pieces[0].shape[1:])
            return jax.make_array_from_single_device_arrays(shape, self.sharding, pieces)

        return {name: joined(name) for name in parts[0]}

    def memory_analysis(self) -> Any:
        """The memory of one of them: they are alike."""
        return self.each[0].memory_analysis()
