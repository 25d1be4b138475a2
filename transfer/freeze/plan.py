"""Which algorithm computes a convolution: a cost model fitted to measurements, or measured on the spot."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from transfer.freeze import autotune as tuning
from transfer.freeze.convolutions import ALGORITHMS, Geometry
from transfer.freeze.convolutions.winograd import transformed_bytes
from transfer.freeze.costs import predicted

# Elsewhere than on a CPU the first of these, the library's convolution in the layout that the compiler prefers: it
# fuses what follows. The others are measured where that is asked for.
LIBRARY = {"gpu": ("direct_ohwi", "direct", "pointwise"), "tpu": ("direct", "pointwise")}
# Strips are for layers such as VGG's at 224 and 112 px, whose transformed data no cache holds.
STRIP_BYTES = 16 * 2**20
# An algorithm predicted to take this many times longer than the fastest is not measured.
HOPELESS = 4


def plan_for(
    geometries: Mapping[str, Geometry], *, precision: str, platform: str, dtype: Any, autotune: bool
) -> dict[str, str]:
    """Layer -> algorithm, the one that should take least time.

    Args:
      geometries: layer -> its convolution, of the images that one device computes at a time.
      precision: "highest" keeps to exact algorithms.
      platform: "cpu", "gpu" or "tpu".
      dtype: of the images; in less than float32 Winograd's transforms would lose most of the digits that are left.
      autotune: measures the candidates once on this machine (`transfer.freeze.autotune`) instead of predicting; for a
        platform that is not here, the prediction stays.
    """
    backend = jax.default_backend()
    if autotune and platform != {"cuda": "gpu", "rocm": "gpu"}.get(backend, backend):
        logging.warning("autotune: no %s on this machine; the cost model decides", platform)
        autotune = False
    exact = precision == "highest" or jnp.finfo(dtype).bits < 32
    candidates = {geometry: _candidates(geometry, exact, platform) for geometry in dict.fromkeys(geometries.values())}
    if autotune:
        times = tuning.measured(candidates, dtype)
        candidates = {geometry: sorted(each, key=each.__getitem__) for geometry, each in times.items()}
    return {layer: candidates[geometry][0] for layer, geometry in geometries.items()}


def _candidates(geometry: Geometry, exact: bool, platform: str) -> list[str]:
    """Algorithms worth a measurement, the one to be chosen without any first."""
    if platform in LIBRARY:
        return [name for name in LIBRARY[platform] if ALGORITHMS[name].fits(geometry)]
    times = {
        name: seconds
        for name, seconds in predicted(geometry).items()
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
        return transformed_bytes(geometry) < STRIP_BYTES
    return name in ("direct", "patches") and ALGORITHMS["pointwise"].fits(geometry)
