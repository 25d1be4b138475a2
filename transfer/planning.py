"""Which algorithm computes a convolution: a cost model fitted to measurements, or measured on the spot."""

from collections.abc import Mapping
from typing import Any

from transfer.convolutions import ALGORITHMS, Geometry


def plan_for(
    geometries: Mapping[str, Geometry], *, precision: str, platform: str, dtype: Any, autotune: bool
) -> dict[str, str]:
    return {layer: _choice(g, precision, platform) for layer, g in geometries.items()}


def _choice(g: Geometry, precision, platform):
    if platform == "gpu":
        return "direct_ohwi"
    if platform == "tpu":
        return "direct"
    A = ALGORITHMS
    if A["whole"].fits(g):
        return "whole"
    if A["pointwise"].fits(g):
        return "pointwise"
    if precision != "highest" and A["winograd4"].fits(g) and g.channels >= 48:
        return "winograd4" if g.width < 200 else "winograd4_strip2"
    if max(g.output) <= 8 and A["patches"].fits(g):
        return "patches"
    return "direct"
