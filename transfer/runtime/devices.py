"""The devices that a program is spread over, and what they can hold.

The extractor's are those of its process, on a CPU its cores; a head's may be those of all processes.
"""

import contextlib
import itertools
import os
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from transfer.errors import UsageError
from transfer.runtime.memory import host_memory

AXIS = "batch"
# Each core's program runs on that core alone; without it, every operation of every core would ask for all of them.
ONE_CORE: dict[str, str | bool] = {"xla_cpu_multi_thread_eigen": False}


def use_cores() -> None:
    """Makes each usable core a CPU device, unless JAX's backend runs already; a setting of the user's stays."""
    given = "JAX_NUM_CPU_DEVICES" in os.environ or "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not given and jax.config.jax_num_cpu_devices < 1:  # type: ignore[attr-defined]
        with contextlib.suppress(RuntimeError):  # JAX runs already, with the devices that it found
            jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


def platform_kind(platform: str) -> str:
    """The platform "cpu", "gpu" or "tpu" of a name that JAX has for it: each maker's GPUs have one of their own."""
    return "gpu" if platform in ("cuda", "rocm") else platform


def mesh_for(batch: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the one axis `batch`, of as many of `devices` (default: this process') as divide the batch evenly."""
    available = list(jax.local_devices() if devices is None else devices)
    count = next(n for n in range(min(len(available), batch), 0, -1) if batch % n == 0)
    return Mesh(np.array(available[:count]), (AXIS,))


def compiler_options(mesh: Mesh) -> dict[str, str | bool]:
    """The compiler's options for a program over this mesh."""
    return ONE_CORE if mesh.size > 1 and mesh.devices.flat[0].platform == "cpu" else {}


def head_mesh(data: int | None = None, model: int = 1) -> Mesh:
    """A mesh with the axes `data` and `model` over equally many devices of every process.

    Args:
        data: None: all accelerators; on CPUs one device of each process, as its cores work on one product together.

    Raises:
        UsageError: there are not so many devices, or the processes cannot have equally many of them.
    """
    by_process = [list(own) for _, own in itertools.groupby(jax.devices(), lambda device: device.process_index)]
    fewest, processes = min(map(len, by_process)), len(by_process)
    most = 1 if data is None and by_process[0][0].platform == "cpu" else fewest
    wanted = most * processes if data is None else data * model
    if wanted % model or wanted % processes or wanted // processes > fewest:
        available = f"{processes} processes with {fewest} devices each" if processes > 1 else most
        raise UsageError(
            f"config.mesh.data={data}, config.mesh.model={model}: a head's devices have to be a rectangle of equally "
            f"many of each process; there are {available}"
        )
    chosen = [device for own in by_process for device in own[: wanted // processes]]
    return Mesh(np.array(chosen).reshape(-1, model), ("data", "model"))


def memory_limit(mesh: Mesh) -> int | None:
    """The bytes that all devices along `data` can hold together; None where they do not tell."""
    device = mesh.local_devices[0]
    if device.platform == "cpu":
        return host_memory() * len({device.process_index for device in mesh.devices.flat})
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return limit and limit * mesh.shape["data"]
