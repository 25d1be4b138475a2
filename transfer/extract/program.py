"""The extractor's program: a frozen backbone behind its preprocessing, over a mesh, through a batch in chunks."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from transfer.extract.taps import Tap, apply_taps
from transfer.freeze.freeze import Frozen, freeze
from transfer.preprocess import recipe
from transfer.preprocess.recipe import Preprocessing
from transfer.runtime.devices import AXIS, compiler_options, platform_kind

# What JAX calls the precision that keeps our word's promise, where that is not the word itself. "high" is within 1e-4
# of "highest": on a GPU any less would be TF32, on a CPU all are float32.
PRECISIONS: Mapping[str, Mapping[str, str]] = {
    "highest": {},
    "high": {"cpu": "highest", "gpu": "highest"},
    "default": {},
}
# A core works through its part of a batch in chunks whose activations, with what they are made from, take this many
# bytes. Measured with ResNet-50 at 224 px and Inception v3 at 299: 3 and 6 MiB alike, 20 slower by a tenth.
CHUNK_BYTES = 6 * 2**20


@dataclass(eq=False)
class Program:
    """The program of one model, preprocessing and batch size: uint8 images (B, h, w, 3) -> features.

    Attributes:
        mesh: over whose axis `batch` the images are spread.
        dtype: of parameters and activations.
        precision: a key of `PRECISIONS`.
        autotune: measures convolutions on the spot (`transfer.freeze`).
    """

    model: nnx.Module
    taps: Sequence[Tap]
    preprocessing: Preprocessing
    mesh: Mesh
    batch_size: int
    dtype: Any
    precision: str
    autotune: bool = False

    @cached_property
    def frozen(self) -> Frozen:
        """The backbone, planned for one device's part of a batch; its arrays are on no mesh yet."""
        platform = platform_of(self.mesh)
        by_cores = platform == "cpu" and self.mesh.size > 1
        with jax.default_matmul_precision(self._matmul_precision):
            return freeze(
                self.model,
                (self.batch_size // self.mesh.size, *self.preprocessing.input_shape),
                list(dict.fromkeys(tap.endpoint for tap in self.taps)),
                dtype=self.dtype,
                precision=self.precision,
                platform=platform,
                autotune=self.autotune,
                chunk_bytes=CHUNK_BYTES if by_cores else None,
            )

    @cached_property
    def arrays(self) -> dict[str, jax.Array]:
        """The frozen backbone's arrays, on every device of the mesh."""
        return jax.device_put(self.frozen.arrays, NamedSharding(self.mesh, P()))

    @property
    def sharding(self) -> NamedSharding:
        """How the images, and everything that is returned, lie on the devices."""
        return NamedSharding(self.mesh, P(AXIS))

    def lower(self, shape: Sequence[int], dtype: Any = np.uint8, resized: bool = False) -> jax.stages.Lowered:
        """The program for images of this `shape` (batch_size, h, w, 3); weights are arguments, not constants.

        `resized`: the images have the network's size already.
        """
        replicated = NamedSharding(self.mesh, P())
        arrays = {
            name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=replicated)
            for name, array in self.frozen.arrays.items()
        }
        images = jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=self.sharding)
        spread = jax.shard_map(
            partial(self._part, resized=resized),
            mesh=self.mesh,
            in_specs=(P(), P(AXIS)),
            out_specs=P(AXIS),
            check_vma=False,  # loops over chunks start from values that are the same everywhere
        )
        # the images cannot be donated: no output has their shape and type
        return jax.jit(spread).lower(arrays, images)

    def compile(self, shape: Sequence[int], dtype: Any = np.uint8, resized: bool = False) -> jax.stages.Compiled:
        """The program compiled for the mesh; call it with `arrays` and images."""
        return self.lower(shape, dtype, resized).compile(compiler_options=compiler_options(self.mesh))

    def _part(self, arrays: Mapping[str, Any], images: jax.Array, resized: bool) -> dict[str, jax.Array]:
        """Computes one device's part of a batch."""
        with jax.default_matmul_precision(self._matmul_precision):
            prepare = recipe.normalise if resized else recipe.apply
            endpoints = self.frozen(arrays, prepare(self.preprocessing, images).astype(self.dtype))
            return apply_taps(self.taps, endpoints)

    @property
    def _matmul_precision(self) -> str:
        # products of bfloat16 are exact in float32: more passes would add nothing, and keep a TPU from fusing
        if jnp.dtype(self.dtype) == jnp.bfloat16:
            return "default"
        return PRECISIONS[self.precision].get(platform_of(self.mesh), self.precision)


def platform_of(mesh: Mesh) -> str:
    """The kind of its devices: "cpu", "gpu" or "tpu"."""
    return platform_kind(mesh.devices.flat[0].platform)


def must_separate(mesh: Mesh) -> bool:
    """True if programs over `mesh` have to be compiled for each of its devices.

    The mesh of a process is a part of the slice where there are more processes, and a TPU v5e's compiler refuses a
    program over the part that begins at the slice's corner, from 8x8 chips on: "On platforms with limited ICI routing
    device assignment should include all slice devices". It takes programs for one chip everywhere.
    """
    return mesh.size > 1 and platform_of(mesh) == "tpu" and jax.process_count() > 1


class Separate:
    """One program per device, whose parts never meet anyway: sharded images in, features sharded likewise out.

    `program_on` makes the program of a mesh of one device; the first one's frozen backbone is that of all.
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

    def compile(self, shape: Sequence[int], dtype: Any = np.uint8, resized: bool = False) -> Callable[..., Any]:
        """Compiles all programs, side by side, for a batch of `shape` over all devices; called as one of them."""
        part = (shape[0] // self.mesh.size, *shape[1:])
        with ThreadPoolExecutor(len(self.programs)) as pool:
            compiled = list(pool.map(lambda program: program.compile(part, dtype, resized), self.programs))

        def run(arrays: Sequence[Mapping[str, jax.Array]], images: jax.Array) -> dict[str, jax.Array]:
            shards = {shard.device: shard.data for shard in images.addressable_shards}
            devices = self.mesh.devices.flat
            parts = [one(own, shards[device]) for one, own, device in zip(compiled, arrays, devices, strict=True)]
            joined: dict[str, jax.Array] = {}
            for name in parts[0]:
                pieces = [part[name].addressable_shards[0].data for part in parts]
                whole = (len(pieces) * pieces[0].shape[0], *pieces[0].shape[1:])
                joined[name] = jax.make_array_from_single_device_arrays(whole, self.sharding, pieces)
            return joined

        return run
