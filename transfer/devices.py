"""The devices that a program is spread over: all of this process, and on a CPU its cores."""

import contextlib
import os
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

AXIS = "batch"
# Each core's program runs on that core alone; without it, every operation of every core would ask for all of them.
ONE_CORE: dict[str, str | bool] = {"xla_cpu_multi_thread_eigen": False}


def use_cores() -> None:
    """Makes each usable core a CPU device, unless JAX's backend runs already; a setting of the user's stays."""
    given = "JAX_NUM_CPU_DEVICES" in os.environ or "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not given and jax.config.jax_num_cpu_devices < 1:  # type: ignore[attr-defined]
        with contextlib.suppress(RuntimeError):  # JAX runs already, with the devices that it found
            jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


def mesh_for(batch: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the one axis `batch`, of as many of `devices` (default: this process') as divide the batch evenly."""
    given = list(jax.local_devices() if devices is None else devices)
    count = next(n for n in range(min(len(given), batch), 0, -1) if batch % n == 0)
    return Mesh(np.array(given[:count]), (AXIS,))


def compiler_options(mesh: Mesh) -> dict[str, str | bool]:
    """What the compiler has to be told for a program over this mesh."""
    return ONE_CORE if mesh.size > 1 and mesh.devices.flat[0].platform == "cpu" else {}
