"""Compiles one program for a target in a process of its own: a job as JSON on stdin, figures as JSON on stdout.

A compiler for devices that are not here wants settings before JAX is imported, and may end the whole process when
something goes wrong inside it; so the command that wants its figures runs it as a child (`transfer.bench.target`).
"""

import collections
import json
import sys
import time
from importlib import resources
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from transfer.bench.network import Wanted, load
from transfer.bench.target_chips import Target
from transfer.bench.target_hlo import COLLECTIVES, Kernel, kernels, read
from transfer.devices import AXIS
from transfer.extract import Extractor
from transfer.heads import linear

# What a head is trained on here: rows a chip, classes, and the recipe's batch.
HEAD_ROWS, HEAD_CLASSES, HEAD_BATCH = 4096, 10, 256


class Lowered(NamedTuple):
    """A program for the target.

    Attributes:
      program: not yet compiled.
      examples: images or rows, over all devices.
      gflops: multiply-adds of one of them as the model defines them, times 2, in 1e9.
      said: more about it, for the row.
    """

    program: jax.stages.Lowered
    examples: int
    gflops: float
    said: dict[str, Any]


def devices(target: Target) -> list[jax.Device]:
    """Of the target, as its compiler describes them."""
    if target.platform == "tpu":
        return topologies.get_topology_desc(f"{target.kind}:{target.topology}", "tpu").devices
    config = resources.files("transfer.bench").joinpath(f"targets/{target.kind}.txtpb").read_text()
    return topologies.get_topology_desc(platform="cuda", target_config=config, topology="1x1x1").devices


def figures(job: dict[str, Any]) -> dict[str, Any]:
    """What the compiler says of `job["program"]`: fields of a row."""
    target = Target(*job["target"])
    mesh = Mesh(np.array(devices(target)), (AXIS,))
    lowered = PROGRAMS[job["program"]](job, target, mesh)
    start = time.monotonic()
    compiled = lowered.program.compile()
    seconds = time.monotonic() - start
    found = list(kernels(read(compiled.as_text() or "")))
    # a TPU v4 has two devices a chip
    cores = mesh.size // target.chips
    return {
        **lowered.said,
        "devices_compiled_for": mesh.size,
        "chips": target.chips,
        "compile_seconds": seconds,
        "gflops_per_example": lowered.gflops,
        **_memory(compiled, cores, target.chip.memory),
        **_costs(compiled, lowered.examples // mesh.size),
        **_kernels(found, lowered.examples // mesh.size),
    }


def _memory(compiled: jax.stages.Compiled, cores: int, capacity: int) -> dict[str, int]:
    """Bytes a chip."""
    said: Any = compiled.memory_analysis()
    sizes = {
        "argument_bytes": said.argument_size_in_bytes,
        "output_bytes": said.output_size_in_bytes,
        "temporary_bytes": said.temp_size_in_bytes,
    }
    sizes = {name: int(size) * cores for name, size in sizes.items()}
    return sizes | {"memory_bytes": sum(sizes.values()), "capacity_bytes": capacity}


def _costs(compiled: jax.stages.Compiled, examples: int) -> dict[str, float | None]:
    """The compiler's own count, an example; it takes the body of a loop once, and a GPU's has none."""
    said = compiled.cost_analysis() or {}
    said = said[0] if isinstance(said, list) else said
    return {
        "compiler_gflops_per_example": said["flops"] / examples / 1e9 if "flops" in said else None,
        "compiler_mb_per_example": said["bytes accessed"] / examples / 1e6 if "bytes accessed" in said else None,
    }


def _kernels(found: list[Kernel], examples: int) -> dict[str, Any]:
    """Calls by kind, bytes in main memory and estimated cycles an example, collectives by kind."""
    calls = collections.Counter[str]()
    for kernel in found:
        calls[kernel.kind] += kernel.calls
    cycles = sum(kernel.cycles * kernel.calls for kernel in found)
    return {
        "kernels": dict(calls.most_common()),
        "kernel_transposes": sum(k.calls for k in found if k.only_weights and k.kind.startswith("transpose")),
        "main_memory_mb_per_example": sum(k.bytes * k.calls for k in found) / examples / 1e6,
        "collectives": {kind: calls[kind] for kind in COLLECTIVES if calls[kind]},
        "cycles_per_example": cycles / examples if cycles else None,
    }


def _extractor(job: dict[str, Any], target: Target, mesh: Mesh) -> Lowered:
    """The very program that runs, images of the network's size."""
    network = load(Wanted(**job["network"]))
    batch = job["batch_per_chip"] * target.chips
    extractor = Extractor(
        network.model,
        tap=job["network"]["tap"],
        batch_size=batch,
        dtype=job["dtype"],
        precision=job["precision"],
        preprocessing=network.preprocessing,
    )
    program = extractor.program_on(mesh)
    graph = network.graph(tuple(program.endpoints))
    size = network.preprocessing.image_size
    said = {"batch": batch, "image_size": size, "weights": network.weights, "parameters": graph.parameters}
    return Lowered(program.lower((batch, *size, 3)), batch, 2 * graph.macs / 1e9, said)


def _head(job: dict[str, Any], target: Target, mesh: Mesh) -> Lowered:
    """One epoch of the published recipe on features of the network's tap, the rows spread over the chips."""
    network = load(Wanted(**job["network"]))
    extractor = Extractor(network.model, tap=job["network"]["tap"], preprocessing=network.preprocessing)
    width = sum(int(np.prod(shape)) for shape in extractor.shapes.values())
    rows = HEAD_ROWS * target.chips
    replicated, spread = NamedSharding(mesh, P()), NamedSharding(mesh, P(AXIS))

    def typed(value: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding)

    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(lambda k: linear.init_state(width, HEAD_CLASSES, k), key)
    state = jax.tree.map(lambda leaf: typed(leaf, replicated), state)
    features = jax.ShapeDtypeStruct((rows, width), jnp.float32, sharding=spread)
    labels = jax.ShapeDtypeStruct((rows,), jnp.int32, sharding=spread)
    scalars = (
        jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated),
        jax.ShapeDtypeStruct((), jnp.float32, sharding=replicated),
    )
    program = linear.train_all.lower(state, *scalars, (features, labels), None, epochs=1, batch_size=HEAD_BATCH)
    # forward, and the gradient of the kernel
    gflops = 2 * 2 * width * HEAD_CLASSES / 1e9
    return Lowered(
        program, rows, gflops, {"rows": rows, "features": width, "classes": HEAD_CLASSES, "batch": HEAD_BATCH}
    )


PROGRAMS = {"extractor": _extractor, "head": _head}


def main() -> None:
    """One job on stdin, its figures or `{"failed": why}` as the last line on stdout."""
    try:
        answer = figures(json.load(sys.stdin))
    except Exception as error:  # whatever the compiler raises is the row's
        answer = {"failed": " ".join(f"{type(error).__name__}: {error}".split())[:500]}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
