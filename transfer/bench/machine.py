"""Where a benchmark ran: devices, versions, flags and commit, peaks of the devices, and the memory held and free."""

import contextlib
import functools
import importlib.metadata
import os
import platform
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transfer.bench.worker import usable_cores
from transfer.errors import TransferError
from transfer.runtime.memory import available_memory
from transfer.runtime.timing import interleaved

# Versions that are noted where they are installed.
PEER_PACKAGES = ("torch", "torchvision", "onnxruntime", "openvino", "keras", "scikit-learn")

# Dense TFLOP/s of one device by what its units multiply: the makers' data sheets, those with sparsity halved.
# GPUs: bfloat16 and tf32 in tensor cores, float32 outside them. TPUs multiply in bfloat16 only, whatever the dtype.
H100_SXM = {"bfloat16": 989.4, "tf32": 494.7, "float32": 66.9}
H100_NVL = {"bfloat16": 835.5, "tf32": 417.5, "float32": 60.0}
A100 = {"bfloat16": 312.0, "tf32": 156.0, "float32": 19.5}
# `device_kind` as JAX spells it -> peaks. A slice of a GPU (MIG) has another name, and no entry.
PEAKS = {
    "NVIDIA H100 80GB HBM3": H100_SXM,
    "NVIDIA H100 NVL": H100_NVL,
    "NVIDIA H100 PCIe": {"bfloat16": 756.0, "tf32": 378.0, "float32": 51.0},
    "NVIDIA H200": H100_SXM,
    "NVIDIA H200 NVL": H100_NVL,
    **dict.fromkeys(("NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-80GB"), A100),
    **dict.fromkeys(("NVIDIA A100-PCIE-40GB", "NVIDIA A100 80GB PCIe"), A100),
    "NVIDIA L4": {"bfloat16": 121.0, "tf32": 60.0, "float32": 30.3},
    # its tensor cores know neither bfloat16 nor TF32
    "Tesla T4": {"float32": 8.1},
    "TPU v4": {"bfloat16": 275.0},
    **dict.fromkeys(("TPU v5 lite", "TPU v5e"), {"bfloat16": 197.0}),
    **dict.fromkeys(("TPU v5", "TPU v5p"), {"bfloat16": 459.0}),
    **dict.fromkeys(("TPU v6 lite", "TPU v6e"), {"bfloat16": 918.0}),
}
MATRIX = 2048  # rows and columns of what is multiplied on a CPU
# Linux: writing 5 there sets the peak of the resident set (VmHWM) back to what is resident now.
CLEAR = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")
KILOBYTE = 1024


@functools.cache
def machine() -> dict[str, Any]:
    """The facts that every row of a run shares, JSON-able.

    `devices` are those of this host, which the extractor uses; `hosts` counts JAX's processes; `commit` ends in `+`
    where files differed from it and is None outside a repository; `packages` are those that may be compared with.
    """
    devices = jax.local_devices()
    versions = {package.name: package.version for package in importlib.metadata.distributions()}
    return {
        "device_kind": devices[0].device_kind,
        "platform": jax.default_backend(),
        "processor": _processor(),
        "devices": len(devices),
        "hosts": jax.process_count(),
        "cores": usable_cores(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "commit": _commit(),
        "packages": {name: versions[name] for name in PEER_PACKAGES if name in versions},
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


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


def published_peak(device_kind: str, dtype: str, precision: str) -> float | None:
    """Dense peak of one device, TFLOP/s; None where none is known.

    Args:
      device_kind: of a `jax.Device`.
      dtype: "float32" or "bfloat16".
      precision: "default" lets a GPU multiply float32 as TF32.
    """
    peaks = PEAKS.get(device_kind, {})
    if device_kind.startswith("TPU"):
        return peaks.get("bfloat16")
    if dtype == "float32" and precision == "default" and "tf32" in peaks:
        return peaks["tf32"]
    return peaks.get(dtype)


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
