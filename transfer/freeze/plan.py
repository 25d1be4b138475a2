"""Which algorithm computes a convolution: a cost model fitted to measurements, or measured on the spot and kept.

On a core of a CPU an algorithm is matrix products and bytes that are moved around them. A product's rate grows with
each of its sides and levels off; moving is slower where the data worked on at a time outgrow a cache:

    seconds = call + flops / rate + bytes (near + far w / (w + cache)),
    rate = peak K / (K + inner) N / (N + columns) M / (M + rows)

`benchmarks/convolutions.py` fits the numbers to measurements. What the model misses there is kept, and a convolution
that resembles a measured one is corrected by it. Only ratios between algorithms are of use on another machine.
"""

import json
import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from transfer.freeze.convolutions import ALGORITHMS, Epilogue, Geometry, Work
from transfer.runtime.cache import cache_dir
from transfer.runtime.devices import AXIS, compiler_options, platform_kind
from transfer.runtime.files import atomic
from transfer.runtime.progress import Progress
from transfer.runtime.timing import interleaved

# Elsewhere than on a CPU the first of these, the library's convolution in the layout that the compiler prefers: it
# fuses what follows. The others are measured where that is asked for.
LIBRARY = {"gpu": ("direct_ohwi", "direct", "pointwise"), "tpu": ("direct", "pointwise")}
# Strips, of tiles of 4x4, are for layers such as VGG's at 224 and 112 px, whose transformed data no cache holds.
STRIP_BYTES, TILE = 16 * 2**20, 4
# An algorithm predicted to take this many times longer than the fastest is not measured.
HOPELESS = 4
# Of each algorithm; long enough for a clock, short enough for a model of a hundred convolutions.
ROUNDS, SECONDS = 5, 0.02
# How alike two geometries have to be, as a distance between logarithms of sizes; and how much the model itself weighs
# beside a measurement at no distance.
ALIKE, TRUST = 0.3, 0.1
FITTED = Path(__file__).with_name("costs.json")
# The kernel's layout makes no difference on a CPU.
ON_CPU = tuple(name for name in ALGORITHMS if name != "direct_ohwi")
# The same product with a copy more on the way: not a choice where the other fits.
DOMINATED = {"patches": "pointwise"}


def plan_for(
    geometries: Mapping[Any, Geometry], *, precision: str, platform: str, dtype: Any, autotune: bool
) -> dict[Any, str]:
    """The algorithm for each convolution that should take least time, by the keys of `geometries`.

    Args:
      geometries: of the images that one device computes at a time.
      precision: "highest" keeps to exact algorithms.
      platform: "cpu", "gpu" or "tpu".
      dtype: of the images; in less than float32 Winograd's transforms would lose most of the digits that are left.
      autotune: measures the candidates once on this machine instead of predicting; for a platform that is not here,
        the prediction stays.
    """
    if autotune and platform != platform_kind(jax.default_backend()):
        logging.warning("autotune: no %s on this machine; the cost model decides", platform)
        autotune = False
    exact = precision == "highest" or jnp.finfo(dtype).bits < 32
    candidates = {geometry: _candidates(geometry, exact, platform) for geometry in dict.fromkeys(geometries.values())}
    if autotune:
        times = measured(candidates, dtype)
        candidates = {geometry: sorted(each, key=each.__getitem__) for geometry, each in times.items()}
    return {key: candidates[geometry][0] for key, geometry in geometries.items()}


def _candidates(geometry: Geometry, exact: bool, platform: str) -> list[str]:
    """Algorithms worth a measurement, the one to be chosen without any first."""
    if platform in LIBRARY:
        return [name for name in LIBRARY[platform] if ALGORITHMS[name].fits(geometry)]
    times = {
        name: fitted().seconds(name, geometry)
        for name in choices(geometry)
        if (ALGORITHMS[name].exact or not exact) and not only_alone(name, geometry)
    }
    least = min(times.values())
    return sorted((name for name, time in times.items() if time <= HOPELESS * least), key=times.__getitem__)


def only_alone(name: str, geometry: Geometry) -> bool:
    """True if an algorithm is as fast as it was measured only with nothing before and after it.

    In a network XLA fuses what is around a matrix product into it and into Winograd's transforms, and not through the
    loop over strips: ResNet-50 at 224 px is 7 % faster without them, where the transformed data are small anyway.
    """
    if "strip" in name:
        (rows, columns), positions = geometry.output, (TILE + 2) ** 2
        tiles = geometry.batch * -(-rows // TILE) * -(-columns // TILE)
        return 4 * tiles * positions * (geometry.channels + geometry.features) < STRIP_BYTES
    return name in ("direct", "patches") and ALGORITHMS["pointwise"].fits(geometry)


@dataclass(frozen=True)
class Costs:
    """The fitted numbers of an algorithm.

    Attributes:
      call: seconds.
      peak: floating-point operations a second.
      rows, inner, columns: the side of a product at which its rate is half of what it levels off at.
      near, far: seconds a byte, and those added where the data outgrow the cache.
      cache: bytes.
    """

    call: float
    peak: float
    rows: float
    inner: float
    columns: float
    near: float
    far: float
    cache: float

    def seconds(self, work: Work) -> float:
        """Seconds of one call on one core."""
        grown = (
            work.rows / (work.rows + self.rows)
            * (work.inner / (work.inner + self.inner))
            * (work.columns / (work.columns + self.columns))
        )  # fmt: skip
        a_byte = self.near + self.far * work.held / (work.held + self.cache)
        return self.call + work.flops / (self.peak * grown) + work.moved * a_byte


@dataclass(frozen=True)
class Fitted:
    """The fitted cost model.

    Attributes:
      costs: algorithm -> its numbers.
      places: `place` of each measured geometry, (measurements, 6).
      misses: algorithm -> log of measured over modelled seconds, NaN where it was not measured, (measurements,).
    """

    costs: Mapping[str, Costs]
    places: np.ndarray
    misses: Mapping[str, np.ndarray]

    def seconds(self, name: str, geometry: Geometry) -> float:
        """Seconds of an algorithm: the model's, times what it missed at similar geometries."""
        misses = self.misses[name]
        distances = np.square(self.places - place(geometry)).sum(axis=1)
        weights = np.where(np.isnan(misses), 0, np.exp(-distances / (2 * ALIKE**2)))
        correction = weights @ np.nan_to_num(misses) / (weights.sum() + TRUST)
        return self.costs[name].seconds(ALGORITHMS[name].work(geometry)) * math.exp(correction)


def place(geometry: Geometry) -> list[float]:
    """Logarithms of a geometry's sizes."""
    g = geometry
    sizes = (g.batch, g.height * g.width, g.channels, g.features, math.prod(g.window), math.prod(g.strides))
    return [round(math.log(size), 3) for size in sizes]


def fitted_from(held: Mapping[str, Any]) -> Fitted:
    """Makes the cost model from the package's JSON."""
    costs = {name: Costs(**numbers) for name, numbers in held["costs"].items()}
    misses = {name: np.array([row.get(name, np.nan) for row in held["misses"]]) for name in costs}
    return Fitted(costs, np.array(held["places"]), misses)


@cache
def fitted() -> Fitted:
    """The cost model that comes with the package."""
    return fitted_from(json.loads(FITTED.read_text()))


def choices(geometry: Geometry) -> list[str]:
    """The algorithms that fit, without those that another can only beat."""
    fits = [name for name in ON_CPU if ALGORITHMS[name].fits(geometry)]
    return [name for name in fits if DOMINATED.get(name) not in fits]


def measured(wanted: Mapping[Geometry, Iterable[str]], dtype: Any = jnp.float32) -> dict[Geometry, dict[str, float]]:
    """Geometry -> algorithm that is `wanted` for it -> seconds, of every device working on a batch of its own at once.

    What the user's cache holds for this kind of device, number of them, dtype, precision of matrix products (the
    caller's `jax.default_matmul_precision`) and jaxlib is not measured again; a folder that cannot be written costs one
    warning.
    """
    mesh = Mesh(np.array(jax.local_devices()), (AXIS,))
    precision = jax.config.jax_default_matmul_precision or "default"  # type: ignore[attr-defined]
    path = cache_dir() / "convolutions" / f"{machine(mesh)}-{jnp.dtype(dtype).name}-{precision}.json"
    known = _read(path)
    times = {
        geometry: known.setdefault(json.dumps(astuple(geometry), separators=(",", ":")), {}) for geometry in wanted
    }
    missing = {geometry: [name for name in names if name not in times[geometry]] for geometry, names in wanted.items()}
    if to_measure := {geometry: names for geometry, names in missing.items() if names}:
        with Progress("autotune", len(to_measure), "convolutions") as progress:
            for geometry, names in to_measure.items():
                times[geometry].update(seconds(geometry, names, mesh, dtype))
                progress.update()
        _write(path, known)
    return {geometry: {name: times[geometry][name] for name in names} for geometry, names in wanted.items()}


def seconds(geometry: Geometry, names: Iterable[str], mesh: Mesh, dtype: Any) -> dict[str, float]:
    """Algorithm -> median seconds of a call, the algorithms taking turns.

    Each device of `mesh` computes a batch of this geometry at the same time, as in the extractor.
    """
    contenders = {name: _program(name, geometry, mesh, dtype) for name in names}
    samples = interleaved(contenders, ROUNDS, warmup=1, seconds=SECONDS)
    return {name: statistics.median(times) for name, times in samples.items()}


def _program(name: str, geometry: Geometry, mesh: Mesh, dtype: Any) -> Callable[[], Any]:
    """A call of the algorithm with bias and ReLU, on zeros: how fast it is does not depend on the values."""
    algorithm = ALGORITHMS[name]
    spread, everywhere = NamedSharding(mesh, P(AXIS)), NamedSharding(mesh, P())
    shape = (mesh.size * geometry.batch, geometry.height, geometry.width, geometry.channels)
    inputs = geometry.channels // geometry.groups
    kernel = algorithm.prepare(np.zeros((*geometry.window, inputs, geometry.features), np.float32), geometry)

    def run(images: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        return algorithm.run(images, kernel, geometry, Epilogue(bias, relu=True))

    arguments = (
        jax.device_put(np.zeros(shape, dtype), spread),
        jax.device_put(kernel.astype(dtype), everywhere),
        jax.device_put(np.zeros(geometry.features, dtype), everywhere),
    )
    program = jax.shard_map(run, mesh=mesh, in_specs=(P(AXIS), P(), P()), out_specs=P(AXIS), check_vma=False)
    compiled = jax.jit(program).lower(*arguments).compile(compiler_options=compiler_options(mesh))
    return lambda: jax.block_until_ready(compiled(*arguments))


def machine(mesh: Mesh) -> str:
    """Kind of the devices, how many, and the compiler's version, as a file's name."""
    device = mesh.devices.flat[0]
    kind = device.device_kind
    if device.platform == "cpu":  # JAX calls every processor "cpu"
        with suppress(OSError):
            names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
            kind = names[0].partition(":")[2].strip() if names else kind
    return re.sub(r"[^\w.]+", "-", f"{kind}-{mesh.size}-jaxlib-{jaxlib.__version__}")


def _read(path: Path) -> dict[str, dict[str, float]]:
    """Geometry as text -> algorithm -> seconds, of the file; empty where there is none, or it is not of this form."""
    try:
        stored = json.loads(path.read_text())
        return {text: {name: float(time) for name, time in times.items()} for text, times in stored.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _write(path: Path, known: Mapping[str, Mapping[str, float]]) -> None:
    """Writes the measurements atomically, together with what another process wrote meanwhile."""
    merged = _read(path)
    for text, times in known.items():
        merged.setdefault(text, {}).update(times)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.writing(path, shared=True) as file:
            file.write(json.dumps(merged).encode())
    except OSError as error:
        logging.warning("%s: %s; measurements are not kept (TRANSFER_CACHE=DIR)", path, error.strerror)
