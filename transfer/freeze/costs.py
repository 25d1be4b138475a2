"""How long a convolution takes on a core of a CPU, by algorithm: an interpretable model with a few fitted numbers.

An algorithm is matrix products and bytes that are moved around them. A product's rate grows with each of its sides and
levels off; moving is slower where the data worked on at a time outgrow a cache:

    seconds = call + flops / rate + bytes (near + far w / (w + cache)),
    rate = peak K / (K + inner) N / (N + columns) M / (M + rows)

`benchmarks/convolutions.py` fits the numbers to measurements. What the model misses there is kept, and a convolution
that resembles a measured one is corrected by it. Only ratios between algorithms are of use on another
machine.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from transfer.freeze.convolutions import ALGORITHMS, Geometry, Work

# How alike two geometries have to be, as a distance between logarithms of sizes; and how much the model itself weighs
# beside a measurement at no distance.
ALIKE, TRUST = 0.3, 0.1
FITTED = Path(__file__).with_name("costs.json")
# The kernel's layout makes no difference on a CPU.
ON_CPU = tuple(name for name in ALGORITHMS if name != "direct_ohwi")
# The same product with a copy more on the way: not a choice where the other fits.
DOMINATED = {"patches": "pointwise"}


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


def predicted(geometry: Geometry, by: Fitted | None = None) -> dict[str, float]:
    """Algorithm -> seconds, for those that are a choice for this geometry and have been fitted."""
    by = fitted() if by is None else by
    return {name: by.seconds(name, geometry) for name in choices(geometry) if name in by.costs}


def choices(geometry: Geometry) -> list[str]:
    """The algorithms that fit, without those that another can only beat."""
    fits = [name for name in ON_CPU if ALGORITHMS[name].fits(geometry)]
    return [name for name in fits if DOMINATED.get(name) not in fits]
