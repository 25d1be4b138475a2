"""The table of published peaks, the yardstick of a CPU, and what counts energy."""

import pytest

from transfer.bench import energy, machine
from transfer.bench.peaks import PEAKS, published_peak


@pytest.mark.parametrize("kind", PEAKS)
def test_every_device_that_is_known_has_a_peak(kind):
    assert published_peak(kind, "float32", "highest")
    if not kind.startswith("Tesla"):  # whose tensor cores know float16 only
        assert published_peak(kind, "bfloat16", "high")


@pytest.mark.parametrize(
    "kind, dtype, precision, tflops",
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", "high", 989.4),
        ("NVIDIA H100 80GB HBM3", "float32", "default", 494.7),
        ("NVIDIA H100 80GB HBM3", "float32", "high", 66.9),
        ("Tesla T4", "float32", "default", 8.1),
        ("TPU v5 lite", "float32", "highest", 197.0),
        ("TPU v6 lite", "bfloat16", "high", 918.0),
        # a device of these is half a chip
        ("TPU v3", "float32", "high", 123 / 2),
        ("TPU7x", "bfloat16", "high", 2307 / 2),
    ],
)
def test_what_the_units_multiply_decides(kind, dtype, precision, tflops):
    assert published_peak(kind, dtype, precision) == tflops


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA GeForce RTX 5090", "TPU v9"])
def test_unknown_devices_have_none(kind):
    assert published_peak(kind, "float32", "high") is None


def test_a_matmul_counts_what_it_computes():
    yardstick = machine.matmul("float32")
    yardstick()
    products = yardstick.tflop * 1e12 / (2 * machine.MATRIX**3)
    assert products == pytest.approx(round(products)) and products >= 1


@pytest.mark.parametrize(
    ("kind", "multiprocessors", "tflops"),
    [
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 14, 312.0 * 14 / 108),
        ("NVIDIA H200 MIG 3g.71gb", 60, 989.4 * 60 / 132),
        ("NVIDIA H100 80GB HBM3 MIG 7g.80gb", 132, 989.4),
        # JAX does not say how many, or nobody says how many the whole has
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None, None),
        ("NVIDIA H100 PCIe MIG 1g.10gb", 16, None),
    ],
)
def test_a_part_of_a_gpu_has_its_multiprocessors_share(kind, multiprocessors, tflops):
    assert published_peak(kind, "bfloat16", "high", multiprocessors) == (tflops and pytest.approx(tflops))


@pytest.fixture
def counters(tmp_path, monkeypatch):
    """Two packages as Linux shows them; sets what they count in microjoules."""
    monkeypatch.setattr(energy, "RAPL", tmp_path)
    energy._counters.cache_clear()

    def count(*microjoules):
        for number, value in enumerate(microjoules):
            folder = tmp_path / f"intel-rapl:{number}"
            folder.mkdir(exist_ok=True)
            (folder / "energy_uj").write_text(f"{value}\n")
            (folder / "max_energy_range_uj").write_text("10000000\n")
            (folder / "name").write_text(f"package-{number}\n")

    yield count
    energy._counters.cache_clear()


def test_joules_of_all_packages_one_of_which_begins_again(counters):
    counters(1_000_000, 9_000_000)
    meter = energy.Meter()
    counters(4_000_000, 500_000)
    assert meter.joules() == pytest.approx(3.0 + 1.5)


def test_what_is_no_package_is_not_counted_twice(counters, tmp_path):
    for part in ("psys", "core"):
        counters(1_000_000, 1_000_000)
        (tmp_path / "intel-rapl:1" / "name").write_text(f"{part}\n")
        energy._counters.cache_clear()
        meter = energy.Meter()
        (tmp_path / "intel-rapl:0" / "energy_uj").write_text("3000000")
        (tmp_path / "intel-rapl:1" / "energy_uj").write_text("9000000")
        assert meter.joules() == pytest.approx(2.0)


def test_one_package_of_two_is_not_all_that_was_used(counters, tmp_path):
    counters(1, 1)
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("")
    assert energy.Meter().joules() is None


def test_a_processor_does_not_count_what_a_tpu_uses(counters, monkeypatch):
    counters(1_000_000)
    monkeypatch.setattr(energy.jax, "default_backend", lambda: "tpu")
    assert energy.Meter().joules() is None


def test_nothing_counts_energy(counters):
    assert energy.Meter().joules() is None


def test_a_counter_that_may_not_be_read_is_none(counters, tmp_path):
    counters(1)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("")
    assert energy.Meter().joules() is None
