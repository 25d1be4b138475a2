"""Where a benchmark ran: devices, versions, flags and commit, how busy it was, and the memory held and free."""

import contextlib
import functools
import importlib.metadata
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transfer.bench.worker import usable_cores
from transfer.errors import TransferError
from transfer.runtime import distribution
from transfer.runtime.memory import available_memory, host_memory
from transfer.runtime.timing import interleaved

# Versions that are noted where they are installed: those of what runs, and of what may be compared with.
PACKAGES = ("numpy", "flax", "optax", "orbax-checkpoint", "libtpu")
PEER_PACKAGES = ("torch", "torchvision", "onnxruntime", "openvino", "keras", "scikit-learn")
# What a processor may multiply with, by Linux' names.
CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "sve", "bf16")
# Others' share of the cores from which on a machine is called busy, and how long it is watched for that.
BUSY, WATCHED_SECONDS = 0.1, 0.3

MATRIX = 2048  # rows and columns of what is multiplied on a CPU
# Linux: writing 5 there sets the peak of the resident set (VmHWM) back to what is resident now.
CLEAR = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")
KILOBYTE = 1024


@functools.cache
def machine() -> dict[str, Any]:
    """The facts that every row of a run shares, JSON-able.

    `devices` are those of this host, which the extractor uses; `hosts` counts JAX's processes; `commit` ends in `+`
    where files differed from it and is None outside a repository; `platform_version` is the driver's or libtpu's.
    """
    devices = jax.local_devices()
    versions = {package.name: package.version for package in importlib.metadata.distributions()}
    return {
        "device_kind": devices[0].device_kind,
        "platform": jax.default_backend(),
        "platform_version": " ".join(devices[0].client.platform_version.split()),
        "processor": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cpu_flags": sorted({*CPU_FLAGS} & {*(_cpuinfo("flags") or _cpuinfo("Features")).split()}),
        "host_memory_bytes": host_memory(),
        "devices": len(devices),
        "hosts": jax.process_count(),
        "cores": usable_cores(),
        "python": platform.python_version(),
        "transfer": distribution.VERSION,
        "jax": jax.__version__,
        "jaxlib": versions["jaxlib"],
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "commit": _commit(),
        "packages": {name: versions[name] for name in (*PACKAGES, *PEER_PACKAGES) if name in versions},
    }


def _cpuinfo(key: str) -> str:
    """What Linux says of the first core; "" where it does not."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def busy() -> float | None:
    """The share of the cores' time that is taken while this process sleeps, 0 to 1; None where it is not known."""
    before = _ticks()
    time.sleep(WATCHED_SECONDS)
    idle, total = (after - earlier for after, earlier in zip(_ticks(), before, strict=True))
    return 1 - idle / total if total else None


def _ticks() -> tuple[int, int]:
    """Of all cores since the start, idle and in all, by Linux' account; zeros elsewhere."""
    stat = Path("/proc/stat")
    ticks = [int(number) for number in stat.read_text().split("\n", 1)[0].split()[1:9]] if stat.exists() else [0] * 8
    return ticks[3] + ticks[4], sum(ticks)  # waiting for a disk is idle; what a host took ("steal") is not


def load() -> float | None:
    """The mean number of running processes in the last minute; None where the system does not say."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _commit() -> str | None:
    """The commit of the repository that these sources are part of; an installed package may lie in somebody else's."""

    def git(*arguments: str) -> str:
        command, folder = ["git", *arguments], Path(__file__).parent
        return subprocess.check_output(command, cwd=folder, stderr=subprocess.DEVNULL, text=True, timeout=10).strip()

    try:
        git("ls-files", "--error-unmatch", __file__)
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


class Matmul:
    """A product of square matrices on each of some devices, as a yardstick; `tflop` of arithmetic (1e12) a call."""

    def __init__(self, devices: Sequence[jax.Device], dtype: str) -> None:
        mesh = jax.sharding.Mesh(np.array(devices), ("device",))
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("device"))
        values = np.random.default_rng(0).standard_normal((len(devices), MATRIX, MATRIX), np.float32)
        self.tflop = 2 * len(devices) * MATRIX**3 / 1e12
        self._matrices = jax.device_put(values.astype(jnp.dtype(dtype)), sharding)
        self._program = jax.jit(lambda a: a @ a, out_shardings=sharding)

    def __call__(self) -> None:
        """Computes it once, and waits."""
        self._program(self._matrices).block_until_ready()


@functools.cache
def matmul(dtype: str) -> Matmul:
    """The faster of two ways to keep every local device busy: one product with all threads, or one on each device."""
    devices = jax.local_devices()
    ways = {"whole": Matmul(devices[:1], dtype)}
    if len(devices) > 1:
        ways["split"] = Matmul(devices, dtype)
    seconds = interleaved(ways, rounds=3, warmup=1, seconds=0.05)
    fastest = max(ways, key=lambda name: ways[name].tflop / statistics.median(seconds[name]))
    return ways[fastest]


class OutOfMemory(TransferError):
    """More memory was asked for than is free; the message says how much."""


class Peak:
    """The most memory held from its making on: `peak.bytes()`."""

    def __init__(self) -> None:
        self._before = _devices_peak()
        if not self._before:
            # where it is not there or not allowed, the peak is that of the whole process
            with contextlib.suppress(OSError):
                CLEAR.write_text("5")

    def bytes(self) -> int | None:
        """The peak of the fullest local device, on a CPU of the process; None where the runtime does not say.

        A device's own peak is never set back. Where it has not risen since the start, what it held before was more,
        and there is no figure.
        """
        peaks = _devices_peak()
        if not peaks:
            return _resident_peak() if jax.default_backend() == "cpu" else None
        risen = [after for before, after in zip(self._before, peaks, strict=True) if after > before]
        return max(risen, default=None)


def _devices_peak() -> list[int]:
    statistics = [device.memory_stats() or {} for device in jax.local_devices()]
    return [device["peak_bytes_in_use"] for device in statistics if "peak_bytes_in_use" in device]


def _resident_peak() -> int:
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * KILOBYTE
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * KILOBYTE


def require_host(bytes_needed: int) -> None:
    """OutOfMemory where the host has not so much left: asking for it would end the process, not raise."""
    free = available_memory()
    if free is not None and bytes_needed > free:
        raise OutOfMemory(f"{bytes_needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free")
