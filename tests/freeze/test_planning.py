"""The planner: what it may choose, how good the choices are by the committed measurements, and autotuning."""

import json
import statistics
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from transfer.freeze.convolutions import ALGORITHMS, Geometry
from transfer.freeze.freeze import freeze
from transfer.freeze.plan import ON_CPU, choices, fitted, only_alone, plan_for
from transfer.models.layers import conv

pytestmark = pytest.mark.usefixtures("compiled_quickly")

MEASUREMENTS = Path(__file__).parents[2] / "benchmarks" / "convolutions.json"
NONE, AROUND = ((0, 0), (0, 0)), ((1, 1), (1, 1))


def plan(geometry: Geometry, precision: str = "high", platform: str = "cpu", dtype: object = jnp.float32) -> str:
    plans = plan_for({"layer": geometry}, precision=precision, platform=platform, dtype=dtype, autotune=False)
    return plans["layer"]


sides = st.integers(1, 300)
geometries = st.builds(
    lambda batch, side, channels, features, window, strides, pad, groups: Geometry(
        batch,
        max(side, *window),
        max(side, *window),
        channels * groups,
        features * groups,
        window,
        strides,
        ((pad, pad), (pad, pad)),
        groups,
    ),
    *[st.integers(1, 64), sides, sides, sides],
    st.sampled_from([(1, 1), (3, 3), (1, 7), (5, 5)]),
    st.sampled_from([(1, 1), (2, 2), (1, 2)]),
    st.integers(0, 2),
    st.sampled_from([1, 1, 2, 8]),
)


@given(geometries)
def test_what_is_chosen_fits_and_keeps_the_promised_precision(geometry: Geometry) -> None:
    for precision in ("high", "default"):
        assert ALGORITHMS[plan(geometry, precision)].fits(geometry)
    for chosen in (plan(geometry, "highest"), plan(geometry, "high", dtype=jnp.bfloat16)):
        assert ALGORITHMS[chosen].fits(geometry) and ALGORITHMS[chosen].exact
    assert plan(geometry, "default", "gpu") == "direct_ohwi"
    assert plan(geometry, "default", "tpu") == "direct"


@given(geometries)
def test_twice_the_images_take_longer(geometry: Geometry) -> None:
    twice = Geometry(**{**vars(geometry), "batch": 2 * geometry.batch})
    for name in choices(geometry):
        once, more = (fitted().costs[name].seconds(ALGORITHMS[name].work(batch)) for batch in (geometry, twice))
        assert 0 < once < more


def test_winograd_where_it_saves_most() -> None:
    wide = Geometry(8, 28, 28, 256, 256, (3, 3), (1, 1), AROUND)
    assert plan(wide).startswith("winograd") and not plan(wide, "highest").startswith("winograd")
    assert plan(Geometry(8, 28, 28, 256, 256, (1, 1))) in ("pointwise", "direct")


def test_every_algorithm_of_a_cpu_has_its_costs() -> None:
    assert fitted().costs.keys() == fitted().misses.keys() == set(ON_CPU) == ALGORITHMS.keys() - {"direct_ohwi"}


def test_the_committed_costs_choose_well_among_the_committed_measurements() -> None:
    """Nothing is timed: the figures are those of the machine that both were made on."""
    ratios = []
    for row in json.loads(MEASUREMENTS.read_text())["measurements"]:
        pairs = {name: tuple(row["geometry"][name]) for name in ("window", "strides")}
        padding = tuple(map(tuple, row["geometry"]["padding"]))
        geometry, seconds = Geometry(**row["geometry"] | pairs | {"padding": padding}), row["seconds"]
        assert seconds.keys() >= set(choices(geometry))
        in_a_network = [time for name, time in seconds.items() if not only_alone(name, geometry)]
        ratios.append(seconds[plan(geometry)] / min(in_a_network))
    assert len(ratios) > 100 and statistics.geometric_mean(ratios) < 1.02 and max(ratios) < 1.3


class Tiny(nnx.Module):
    """Two distinct convolutions, one of them twice."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.a, self.b, self.c = conv(3, 8, 3, rngs=rngs), conv(8, 8, 3, rngs=rngs), conv(8, 8, 3, rngs=rngs)

    def __call__(self, images):
        x = self.c(self.b(self.a(images)))
        return x, {"last": x}


def autotuned(caplog: pytest.LogCaptureFixture, dtype: object = jnp.float32) -> tuple[dict[str, str], str]:
    """The plan, and what was logged."""
    caplog.clear()
    found = freeze(Tiny(), (2, 6, 6, 3), ("last",), dtype=dtype, autotune=True).plan
    return found, caplog.text


@pytest.fixture
def cache(tmp_path, monkeypatch, caplog):
    """An empty cache, and what is logged."""
    monkeypatch.setenv("TRANSFER_CACHE", str(tmp_path))
    caplog.set_level("INFO")
    return tmp_path / "convolutions"


def test_autotuning_measures_once(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, said = autotuned(caplog)
    assert said.count("autotune: 2/2 convolutions") == 1
    (file,) = cache.iterdir()
    held = json.loads(file.read_text())
    assert len(held) == 2 and all(len(times) > 1 and min(times.values()) > 0 for times in held.values())
    assert first["b"] == first["c"] and set(first) == {"a", "b", "c"}
    assert autotuned(caplog) == (first, "")
    # the measurements decide, not the cost model
    measured_for_both = set.intersection(*map(set, held.values()))
    assert len(measured_for_both) > 1
    for slowest in measured_for_both:
        changed = {key: times | {slowest: 1e-9} for key, times in held.items()}
        file.write_text(json.dumps(changed))
        assert autotuned(caplog) == ({"a": slowest, "b": slowest, "c": slowest}, "")


def test_a_cache_that_is_no_file_of_ours_is_measured_again(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    autotuned(caplog)
    (file,) = cache.iterdir()
    file.write_text('{"half": ')
    assert "2/2" in autotuned(caplog)[1]
    assert len(json.loads(file.read_text())) == 2
    # another type is another measurement
    assert "2/2" in autotuned(caplog, jnp.bfloat16)[1]
    assert len(list(cache.iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_one_warning(
    cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = cache.parent / "file"
    file.write_text("")
    monkeypatch.setenv("TRANSFER_CACHE", str(file))
    found, _ = autotuned(caplog)
    assert set(found) == {"a", "b", "c"}
    assert [r.message for r in caplog.records if r.levelname == "WARNING"] == [
        next(r.message for r in caplog.records if "measurements are not kept" in r.message)
    ]


def test_a_platform_that_is_not_here_is_not_measured(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    frozen = freeze(Tiny(), (2, 6, 6, 3), ("last",), platform="tpu", autotune=True)
    assert set(frozen.plan.values()) == {"direct"} and not cache.exists()
    assert "no tpu on this machine" in caplog.text


@pytest.mark.parametrize("backend", ["gpu", "cuda", "rocm"])
def test_a_gpu_is_one_by_any_name(backend: str, caplog: pytest.LogCaptureFixture, monkeypatch) -> None:
    geometry = Geometry(1, 4, 4, 3, 3, (1, 1))
    times = {"direct_ohwi": 2.0, "direct": 3.0, "pointwise": 1.0}
    monkeypatch.setattr(jax, "default_backend", lambda: backend)

    def measured(wanted: dict[Geometry, list[str]], _: object) -> dict[Geometry, dict[str, float]]:
        return {key: {name: times[name] for name in names} for key, names in wanted.items()}

    monkeypatch.setattr("transfer.freeze.plan.measured", measured)
    settings = dict(precision="high", dtype=jnp.float32, autotune=True)
    assert plan_for({"a": geometry}, platform="gpu", **settings) == {"a": "pointwise"} and not caplog.text
    assert plan_for({"a": geometry}, platform="tpu", **settings) == {"a": "direct"} and "no tpu" in caplog.text


def test_strips_and_pointwise_convolutions_by_themselves() -> None:
    """A strip's transformed data, 36 numbers of 4 bytes a tile and channel, against 16 MiB."""
    for geometry, just_less, more in [
        (Geometry(1, 4, 4, 58_254, 58_254, (3, 3)), True, 1),
        (Geometry(1, 8, 5, 14_563, 14_563, (3, 3), padding=((1, 1), (1, 1))), True, 2),
        (Geometry(2, 8, 5, 7_281, 7_282, (3, 3), padding=((1, 1), (1, 1))), True, 1),
    ]:
        assert only_alone("winograd4_strip1", geometry) is just_less
        assert not only_alone("winograd4_strip1", replace(geometry, features=geometry.features + more))
        assert not only_alone("winograd4", geometry) and not only_alone("direct", geometry)
    for name in ("direct", "patches", "pointwise"):
        assert only_alone(name, Geometry(1, 4, 4, 3, 3, (1, 1))) is (name != "pointwise")
