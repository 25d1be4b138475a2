"""The most that devices multiply by their data sheets, which MFU is a share of."""

import jax

# Dense TFLOP/s of one device by what its units multiply: the makers' data sheets, those with sparsity halved.
# GPUs: bfloat16 and tf32 in tensor cores, float32 outside them. TPUs multiply in bfloat16 only, whatever the dtype.
H100_SXM = {"bfloat16": 989.4, "tf32": 494.7, "float32": 66.9}
H100_NVL = {"bfloat16": 835.5, "tf32": 417.5, "float32": 60.0}
A100 = {"bfloat16": 312.0, "tf32": 156.0, "float32": 19.5}
# `device_kind` as JAX spells it -> peaks.
PEAKS = {
    "NVIDIA GB200": {"bfloat16": 2500.0, "tf32": 1250.0, "float32": 80.0},
    "NVIDIA B200": {"bfloat16": 2250.0, "tf32": 1125.0, "float32": 75.0},
    **dict.fromkeys(("NVIDIA GH200 480GB", "NVIDIA GH200 144G HBM3e"), H100_SXM),
    "NVIDIA H100 80GB HBM3": H100_SXM,
    "NVIDIA H100 NVL": H100_NVL,
    "NVIDIA H100 PCIe": {"bfloat16": 756.0, "tf32": 378.0, "float32": 51.0},
    "NVIDIA H200": H100_SXM,
    "NVIDIA H200 NVL": H100_NVL,
    **dict.fromkeys(("NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-80GB"), A100),
    **dict.fromkeys(("NVIDIA A100-PCIE-40GB", "NVIDIA A100 80GB PCIe"), A100),
    "NVIDIA A10": {"bfloat16": 125.0, "tf32": 62.5, "float32": 31.2},
    "NVIDIA A10G": {"bfloat16": 70.0, "tf32": 35.0, "float32": 31.5},
    "NVIDIA L40S": {"bfloat16": 362.1, "tf32": 183.0, "float32": 91.6},
    "NVIDIA L4": {"bfloat16": 121.0, "tf32": 60.0, "float32": 30.3},
    # their tensor cores know neither bfloat16 nor TF32
    "Tesla T4": {"float32": 8.1},
    **dict.fromkeys(("Tesla V100-SXM2-16GB", "Tesla V100-SXM2-32GB"), {"float32": 15.7}),
    **dict.fromkeys(("Tesla V100-PCIE-16GB", "Tesla V100-PCIE-32GB"), {"float32": 14.0}),
    "AMD Instinct MI300X": {"bfloat16": 1307.4, "tf32": 653.7, "float32": 163.4},
    # a device is one of a chip's two cores
    "TPU v2": {"bfloat16": 22.5},
    "TPU v3": {"bfloat16": 61.5},
    "TPU7x": {"bfloat16": 1153.5},
    "TPU v4": {"bfloat16": 275.0},
    **dict.fromkeys(("TPU v5 lite", "TPU v5e"), {"bfloat16": 197.0}),
    **dict.fromkeys(("TPU v5", "TPU v5p"), {"bfloat16": 459.0}),
    **dict.fromkeys(("TPU v6 lite", "TPU v6e"), {"bfloat16": 918.0}),
}
# Multiprocessors of GPUs that can be divided; a part (MIG) is called "NVIDIA H200 MIG 1g.18gb" and has some of them.
MULTIPROCESSORS = {
    "NVIDIA A100": 108,
    "NVIDIA H100 80GB HBM3": 132,
    "NVIDIA H200": 132,
    "NVIDIA GH200": 132,
    "NVIDIA B200": 148,
}


def published_peak(device_kind: str, dtype: str, precision: str, multiprocessors: int | None = None) -> float | None:
    """Dense peak of one device, TFLOP/s; None where none is known.

    Args:
      device_kind: of a `jax.Device`.
      dtype: "float32" or "bfloat16".
      precision: "default" lets a GPU multiply float32 as TF32.
      multiprocessors: that a part of a GPU has, as JAX says it.
    """
    whole, part, _ = device_kind.partition(" MIG ")
    peaks = PEAKS.get(whole, {})
    units = "tf32" if dtype == "float32" and precision == "default" and "tf32" in peaks else dtype
    peak = peaks.get("bfloat16" if whole.startswith("TPU") else units)
    if peak is None or not part:
        return peak
    of_whole = next((count for name, count in MULTIPROCESSORS.items() if whole.startswith(name)), None)
    return peak * multiprocessors / of_whole if of_whole and multiprocessors else None


def peak_of(device: jax.Device, dtype: str, precision: str) -> float | None:
    """`published_peak` of a device that is here."""
    return published_peak(device.device_kind, dtype, precision, getattr(device, "core_count", None))
