"""What a device can do at most: published for accelerators, measured for a CPU."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from transfer.runtime.timing import interleaved, median_p10_p90

# Dense TFLOP/s of one device by what its units multiply: the makers' data sheets, those with sparsity halved.
# GPUs: bfloat16 and tf32 in tensor cores, float32 outside them. TPUs multiply in bfloat16 only, whatever the dtype.
PUBLISHED = {
    "H100 SXM": {"bfloat16": 989.4, "tf32": 494.7, "float32": 66.9},
    "H100 NVL": {"bfloat16": 835.5, "tf32": 417.5, "float32": 60.0},
    "H100 PCIe": {"bfloat16": 756.0, "tf32": 378.0, "float32": 51.0},
    "H200 SXM": {"bfloat16": 989.4, "tf32": 494.7, "float32": 66.9},
    "H200 NVL": {"bfloat16": 835.5, "tf32": 417.5, "float32": 60.0},
    "A100": {"bfloat16": 312.0, "tf32": 156.0, "float32": 19.5},
    "L4": {"bfloat16": 121.0, "tf32": 60.0, "float32": 30.3},
    # its tensor cores know neither bfloat16 nor TF32
    "T4": {"float32": 8.1},
    "TPU v4": {"bfloat16": 275.0},
    "TPU v5e": {"bfloat16": 197.0},
    "TPU v5p": {"bfloat16": 459.0},
    "TPU v6e": {"bfloat16": 918.0},
}
# `device_kind` as JAX spells it -> key above. A slice of a GPU (MIG) has another name, and no entry.
DEVICE_KINDS = {
    "NVIDIA H100 80GB HBM3": "H100 SXM",
    "NVIDIA H100 NVL": "H100 NVL",
    "NVIDIA H100 PCIe": "H100 PCIe",
    "NVIDIA H200": "H200 SXM",
    "NVIDIA H200 NVL": "H200 NVL",
    "NVIDIA A100-SXM4-40GB": "A100",
    "NVIDIA A100-SXM4-80GB": "A100",
    "NVIDIA A100-PCIE-40GB": "A100",
    "NVIDIA A100 80GB PCIe": "A100",
    "NVIDIA L4": "L4",
    "Tesla T4": "T4",
    "TPU v4": "TPU v4",
    "TPU v5 lite": "TPU v5e",
    "TPU v5e": "TPU v5e",
    "TPU v5": "TPU v5p",
    "TPU v5p": "TPU v5p",
    "TPU v6 lite": "TPU v6e",
    "TPU v6e": "TPU v6e",
}
MATRIX = 2048  # rows and columns of what is multiplied on a CPU


def published(device_kind: str, dtype: str, precision: str) -> float | None:
    """Dense peak of one device, TFLOP/s; None where none is known.

    Args:
      device_kind: of a `jax.Device`.
      dtype: "float32" or "bfloat16".
      precision: "default" lets a GPU multiply float32 as TF32.
    """
    peaks = PUBLISHED.get(DEVICE_KINDS.get(device_kind, ""), {})
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
    rate = {name: way.tflop / median_p10_p90(seconds[name])[0] for name, way in ways.items()}
    return ways[max(rate, key=rate.__getitem__)]
