"""The table of published peaks, and the yardstick of a CPU."""

import pytest

from transfer.bench import machine


@pytest.mark.parametrize("kind", machine.PEAKS)
def test_every_device_that_is_known_has_a_peak(kind):
    assert machine.published_peak(kind, "float32", "highest")
    if kind != "Tesla T4":  # whose tensor cores know float16 only
        assert machine.published_peak(kind, "bfloat16", "high")


@pytest.mark.parametrize(
    "kind, dtype, precision, tflops",
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", "high", 989.4),
        ("NVIDIA H100 80GB HBM3", "float32", "default", 494.7),
        ("NVIDIA H100 80GB HBM3", "float32", "high", 66.9),
        ("Tesla T4", "float32", "default", 8.1),
        ("TPU v5 lite", "float32", "highest", 197.0),
        ("TPU v6 lite", "bfloat16", "high", 918.0),
    ],
)
def test_what_the_units_multiply_decides(kind, dtype, precision, tflops):
    assert machine.published_peak(kind, dtype, precision) == tflops


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA GeForce RTX 5090"])
def test_unknown_devices_have_none(kind):
    assert machine.published_peak(kind, "float32", "high") is None


def test_a_matmul_counts_what_it_computes():
    yardstick = machine.matmul("float32")
    yardstick()
    products = yardstick.tflop * 1e12 / (2 * machine.MATRIX**3)
    assert products == pytest.approx(round(products)) and products >= 1
