"""Compiles one program for a target in a process of its own: a job as JSON on stdin, figures as JSON on stdout.

A compiler for devices that are not here wants settings before JAX is imported, and may end the whole process when
something goes wrong inside it; so the command that wants its figures runs it as a child (`transfer.bench.target`).
"""

import collections
import json
import math
import sys
import time
from collections.abc import Sequence
from importlib import resources
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, SingleDeviceSharding

from transfer.bench.network import NetworkSpec, load
from transfer.bench.target_chips import Target
from transfer.bench.target_hlo import COLLECTIVES, Kernel, kernels, loop_collectives, read
from transfer.extract.extractor import Extractor
from transfer.heads import gradient
from transfer.heads.gradient import Examples, Method
from transfer.heads.optimisers import Rates
from transfer.heads.programs import LINEAR
from transfer.runtime.devices import AXIS
from transfer.training.parallel import batches, step

# What a head is trained on here: rows a chip, classes, and the recipe's batch.
HEAD_ROWS, HEAD_CLASSES, HEAD_BATCH = 4096, 10, 256
# And over a pod: ImageNet's rows, bfloat16, and classes.
POD_ROWS, POD_CLASSES, POD_BATCH, POD_DTYPE = 1_281_167, 1000, 4096, "bfloat16"


class Lowered(NamedTuple):
    """A program for the target.

    Attributes:
      program: not yet compiled.
      devices: that it runs on.
      examples: images or rows, over all of these.
      gflops: multiply-adds of one of them as the model defines them, times 2, in 1e9.
      said: more about it, for the row.
    """

    program: jax.stages.Lowered
    devices: int
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
    there = devices(target)
    lowered = PROGRAMS[job["program"]](job, target, there)
    start = time.monotonic()
    compiled = lowered.program.compile()
    seconds = time.monotonic() - start
    program = read(compiled.as_text() or "")
    # a TPU v4 has two devices a chip
    cores = len(there) // target.chips
    return {
        **lowered.said,
        "devices_compiled_for": lowered.devices,
        "cores_per_chip": cores,
        "chips": target.chips,
        "compile_seconds": seconds,
        "gflops_per_example": lowered.gflops,
        **_memory(compiled, cores, target.chip.memory),
        **_costs(compiled, lowered.examples // lowered.devices),
        **_kernels(list(kernels(program)), lowered.examples // lowered.devices),
        "collectives_a_step": loop_collectives(program),
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


def _extractor(job: dict[str, Any], target: Target, there: Sequence[jax.Device]) -> Lowered:
    """The very program that runs where one process has all devices, images of the network's size."""
    return _extractor_on(job, job["batch_per_chip"] * target.chips, there)


def _process(job: dict[str, Any], target: Target, there: Sequence[jax.Device]) -> Lowered:
    """What a process of a pod runs on each of its devices (`transfer.extract.separate`), here on the very first one."""
    cores = len(there) // target.chips
    return _extractor_on(job, job["batch_per_chip"] // cores, there[:1])


def _extractor_on(job: dict[str, Any], batch: int, there: Sequence[jax.Device]) -> Lowered:
    network = load(NetworkSpec(**job["network"]))
    extractor = Extractor(
        network.model,
        tap=job["network"]["tap"],
        batch_size=batch,
        dtype=job["dtype"],
        precision=job["precision"],
        preprocessing=network.preprocessing,
    )
    program = extractor.program_on(Mesh(np.array(there), (AXIS,)))
    graph = network.graph(tuple(program.endpoints))
    size = network.preprocessing.image_size
    said = {"batch": batch, "image_size": size, "weights": network.weights, "parameters": graph.parameters}
    return Lowered(program.lower((batch, *size, 3)), len(there), batch, 2 * graph.macs / 1e9, said)


def _head(job: dict[str, Any], target: Target, there: Sequence[jax.Device]) -> Lowered:
    """One epoch of the published recipe on features of the network's tap, the rows spread over the chips."""
    width, rows = _features(job), HEAD_ROWS * target.chips
    said = {"rows": rows, "features": width, "classes": HEAD_CLASSES, "batch": HEAD_BATCH}
    if len(there) == 1:
        program = _on_one_device(there[0], rows, width)
    else:
        program = _sharded(there, 1, rows, width, HEAD_CLASSES, HEAD_BATCH, "float32")
    return Lowered(program, len(there), rows, _head_gflops(width, HEAD_CLASSES), said)


def _on_one_device(device: jax.Device, rows: int, width: int) -> jax.stages.Lowered:
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(lambda k: LINEAR.init_state(width, HEAD_CLASSES, k), key)
    scalars = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((), jnp.float32)
    data = jax.ShapeDtypeStruct((rows, width), jnp.float32), jax.ShapeDtypeStruct((rows,), jnp.int32)
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=SingleDeviceSharding(device)),
        (state, *scalars, data),
    )
    state, seed, learning_rate, examples = placed
    method = Method(HEAD_BATCH)
    return gradient.train_all.lower(
        state, seed, Rates(learning_rate), Examples(*examples), None, epochs=1, method=method
    )


def _pod_head(job: dict[str, Any], target: Target, there: Sequence[jax.Device]) -> Lowered:
    """One epoch over ImageNet's rows, which lie on the devices, classes over as many as `job["classes_over"]`."""
    width, model = _features(job), job["classes_over"]
    program = _sharded(there, model, POD_ROWS, width, POD_CLASSES, POD_BATCH, POD_DTYPE)
    said: dict[str, Any] = {"rows": POD_ROWS, "features": width, "classes": POD_CLASSES, "batch": POD_BATCH}
    said |= {"rows_over": len(there) // model, "classes_over": model, "features_dtype": POD_DTYPE}
    return Lowered(program, len(there), POD_ROWS, _head_gflops(width, POD_CLASSES), said)


def _sharded(
    there: Sequence[jax.Device], model: int, rows: int, width: int, classes: int, batch: int, dtype: str
) -> jax.stages.Lowered:
    data = len(there) // model
    own = math.ceil(rows / data)
    mesh, steps = Mesh(np.array(there).reshape(data, model), (step.DATA, step.MODEL)), math.ceil(rows / batch)
    shape = (own, batches.usual_width(batch, data, own), width, classes, steps)
    return step.train.lower(*step.abstract_arguments(mesh, *shape, dtype), mesh=mesh, num_steps=steps)


def _features(job: dict[str, Any]) -> int:
    """Of the network's tap."""
    network = load(NetworkSpec(**job["network"]))
    extractor = Extractor(network.model, tap=job["network"]["tap"], preprocessing=network.preprocessing)
    return sum(int(np.prod(shape)) for shape in extractor.shapes.values())


def _head_gflops(features: int, classes: int) -> float:
    """Forward, and the gradient of the kernel."""
    return 2 * 2 * features * classes / 1e9


PROGRAMS = {"extractor": _extractor, "process": _process, "head": _head, "pod head": _pod_head}


def main() -> None:
    """One job on stdin, its figures or `{"failed": why}` as the last line on stdout."""
    try:
        answer = figures(json.load(sys.stdin))
    except Exception as error:  # whatever the compiler raises is the row's
        answer = {"failed": " ".join(f"{type(error).__name__}: {error}".split())[:500]}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
