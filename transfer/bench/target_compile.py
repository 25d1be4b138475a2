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

from transfer.bench.cases import NetworkSpec, load
from transfer.bench.target import EXTRACTORS, Target
from transfer.bench.target_hlo import COLLECTIVES, kernels, loop_collectives, read
from transfer.heads import gradient
from transfer.heads.gradient import Examples, Method, Rates
from transfer.heads.programs import LINEAR
from transfer.runtime.devices import AXIS
from transfer.training.parallel import batches, step

# What a head is trained on here: rows a chip, classes, and the recipe's batch.
HEAD_ROWS, HEAD_CLASSES, HEAD_BATCH = 4096, 10, 256
# And over a pod: ImageNet's rows, bfloat16, and classes.
POD_ROWS, POD_CLASSES, POD_BATCH, POD_DTYPE = 1_281_167, 1000, 4096, "bfloat16"

Devices = Sequence[jax.Device]


class Lowered(NamedTuple):
    """A program for the target.

    Attributes:
      program: not yet compiled.
      devices: that it runs on.
      examples: images or rows, over all of these.
      gflops: multiply-adds of one of them as the model defines them, times 2, in 1e9.
      facts: more about it, for the row.
    """

    program: jax.stages.Lowered
    devices: int
    examples: int
    gflops: float
    facts: dict[str, Any]


def describe_devices(target: Target) -> Devices:
    """The devices of the target, as its compiler describes them."""
    if target.platform == "tpu":
        # a chip by itself is a host by itself; the compiler's own idea of a host has 2x2
        host = {"chips_per_host_bounds": (1, 1, 1)} if target.chips == 1 else {}
        return topologies.get_topology_desc(f"{target.kind}:{target.topology}", "tpu", **host).devices
    config = resources.files("transfer.bench").joinpath(f"targets/{target.kind}.txtpb").read_text()
    return topologies.get_topology_desc(platform="cuda", target_config=config, topology="1x1x1").devices


def figures(job: dict[str, Any]) -> dict[str, Any]:
    """Compiles `job["program"]` and returns what the compiler says of it, fields of a row."""
    target = Target(*job["target"])
    devices = describe_devices(target)
    lowered = (_extractor if job["program"] in EXTRACTORS else _head)(job, target, devices)
    start = time.monotonic()
    compiled = lowered.program.compile()
    seconds = time.monotonic() - start
    cores = len(devices) // target.chips  # a TPU v4 has two a chip
    examples = lowered.examples // lowered.devices
    memory: Any = compiled.memory_analysis()
    sizes = {
        f"{field}_bytes": int(getattr(memory, f"{short}_size_in_bytes")) * cores
        for field, short in (("argument", "argument"), ("output", "output"), ("temporary", "temp"))
    }
    # the compiler's own count takes the body of a loop once, and a GPU's has none
    costs: Any = compiled.cost_analysis() or {}
    costs = costs[0] if isinstance(costs, list) else costs
    program = read(compiled.as_text() or "")
    all_kernels = list(kernels(program))
    calls = collections.Counter[str]()
    for kernel in all_kernels:
        calls[kernel.kind] += kernel.calls
    cycles = sum(kernel.cycles * kernel.calls for kernel in all_kernels)
    return {
        **lowered.facts,
        "devices_compiled_for": lowered.devices,
        "cores_per_chip": cores,
        "chips": target.chips,
        "compile_seconds": seconds,
        "gflops_per_example": lowered.gflops,
        **sizes,
        "memory_bytes": sum(sizes.values()),
        "capacity_bytes": target.chip.memory,
        "compiler_gflops_per_example": costs["flops"] / examples / 1e9 if "flops" in costs else None,
        "compiler_mb_per_example": costs["bytes accessed"] / examples / 1e6 if "bytes accessed" in costs else None,
        "kernels": dict(calls.most_common()),
        "kernel_transposes": sum(k.calls for k in all_kernels if k.only_weights and k.kind.startswith("transpose")),
        "main_memory_mb_per_example": sum(k.bytes * k.calls for k in all_kernels) / examples / 1e6,
        "collectives": {kind: calls[kind] for kind in COLLECTIVES if calls[kind]},
        "cycles_per_example": cycles / examples if cycles else None,
        "collectives_a_step": loop_collectives(program),
    }


def _extractor(job: dict[str, Any], target: Target, devices: Devices) -> Lowered:
    """The very program that runs where one process has all devices, images of the network's size.

    Of "process" that of a pod's process, which runs it on each of its devices (`transfer.extract.program`): one.
    """
    batch = job["batch_per_chip"] * target.chips
    if job["program"] == "process":
        batch, devices = batch // len(devices), devices[:1]
    spec = NetworkSpec(**job["network"])
    network = load(spec)
    extractor = network.extractor(spec.tap, batch_size=batch, dtype=job["dtype"], precision=job["precision"])
    program = extractor.program_on(Mesh(np.array(devices), (AXIS,)))
    graph = network.graph(tuple(dict.fromkeys(tap.endpoint for tap in program.taps)))
    size = network.preprocessing.image_size
    facts = {"batch": batch, "image_size": size, "weights": network.weights, "parameters": graph.parameters}
    return Lowered(program.lower((batch, *size, 3)), len(devices), batch, 2 * graph.macs / 1e9, facts)


def _head(job: dict[str, Any], target: Target, devices: Devices) -> Lowered:
    """The epoch of the published recipe on features of the network's tap, the rows spread over the chips.

    Of "pod head" it is ImageNet's rows, and classes over as many devices as `job["classes_over"]`.
    """
    spec = NetworkSpec(**job["network"])
    features = sum(math.prod(shape) for shape in load(spec).extractor(spec.tap).shapes.values())
    over, pod = job["classes_over"], job["program"] == "pod head"
    rows, classes, batch, dtype = HEAD_ROWS * target.chips, HEAD_CLASSES, HEAD_BATCH, "float32"
    if pod:
        rows, classes, batch, dtype = POD_ROWS, POD_CLASSES, POD_BATCH, POD_DTYPE
    facts: dict[str, Any] = {"rows": rows, "features": features, "classes": classes, "batch": batch}
    if pod:
        facts |= {"rows_over": len(devices) // over, "classes_over": over, "features_dtype": dtype}
    if len(devices) == 1:
        program = _on_one_device(devices[0], rows, features)
    else:
        data = len(devices) // over
        rows_per_device = math.ceil(rows / data)
        mesh = Mesh(np.array(devices).reshape(data, over), (step.DATA, step.MODEL))
        steps = math.ceil(rows / batch)
        shape = (rows_per_device, batches.usual_width(batch, data, rows_per_device), features, classes, steps)
        program = step.train.lower(*step.abstract_arguments(mesh, *shape, dtype), mesh=mesh, num_steps=steps)
    # forward, and the gradient of the kernel
    return Lowered(program, len(devices), rows, 2 * 2 * features * classes / 1e9, facts)


def _on_one_device(device: jax.Device, rows: int, features: int) -> jax.stages.Lowered:
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(lambda k: LINEAR.init_state(features, HEAD_CLASSES, k), key)
    scalars = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((), jnp.float32)
    data = jax.ShapeDtypeStruct((rows, features), jnp.float32), jax.ShapeDtypeStruct((rows,), jnp.int32)
    state, seed, learning_rate, examples = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=SingleDeviceSharding(device)),
        (state, *scalars, data),
    )
    return gradient.train_all.lower(
        state, seed, Rates(learning_rate), Examples(*examples), None, epochs=1, method=Method(HEAD_BATCH)
    )


def main() -> None:
    """Reads one job on stdin; prints its figures, or `{"failed": why}`, as the last line."""
    try:
        answer = figures(json.load(sys.stdin))
    except Exception as error:  # whatever the compiler raises is the row's
        answer = {"failed": " ".join(f"{type(error).__name__}: {error}".split())[:500]}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
