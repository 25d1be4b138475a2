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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from transfer.freeze.convolutions import ALGORITHMS, Geometry

# How alike two geometries have to be, as a distance between logarithms of sizes; and how much the model itself weighs
# beside a measurement at no distance.
ALIKE, TRUST = 0.3, 0.1
FITTED = Path(__file__).with_name("costs.json")
BYTES = 4


@dataclass(frozen=True)
class Work:
    """The work of an algorithm for a geometry.

    Attributes:
      products: matrix products (M, K) x (K, N).
      rows, inner, columns: M, K, N.
      moved: bytes read and written beside the products, and their kernels'.
      held: bytes that are worked on at a time.
    """

    products: int
    rows: int
    inner: int
    columns: int
    moved: int
    held: int

    @property
    def flops(self) -> int:
        """Floating-point operations of the products."""
        return 2 * self.products * self.rows * self.inner * self.columns


def _sizes(g: Geometry) -> tuple[int, int, int]:
    """Elements of the input, the output and the kernel."""
    output = g.batch * math.prod(g.output) * g.features
    kernel = math.prod(g.window) * g.channels // g.groups * g.features
    return g.batch * g.height * g.width * g.channels, output, kernel


def _direct(g: Geometry) -> Work:
    moved = BYTES * sum(_sizes(g))
    inner = math.prod(g.window) * g.channels // g.groups
    return Work(g.groups, g.batch * math.prod(g.output), inner, g.features // g.groups, moved, moved)


def _pointwise(g: Geometry) -> Work:
    _, output, kernel = _sizes(g)
    rows = g.batch * math.prod(g.output)
    copies = 1 if g.strides == (1, 1) else 3  # pixels that are kept are read, written and read again
    moved = BYTES * (copies * rows * g.channels + 2 * output + kernel)
    return Work(1, rows, g.channels, g.features, moved, moved)


def _patches(g: Geometry) -> Work:
    images, output, kernel = _sizes(g)
    rows, inner = g.batch * math.prod(g.output), math.prod(g.window) * g.channels
    moved = BYTES * (2 * images + 2 * rows * inner + 2 * output + kernel)
    return Work(1, rows, inner, g.features, moved, BYTES * rows * inner)


def _whole(g: Geometry) -> Work:
    images, output, _ = _sizes(g)
    inner, columns = g.height * g.width * g.channels, math.prod(g.output) * g.features
    moved = BYTES * (images + 2 * output + inner * columns)
    return Work(1, g.batch, inner, columns, moved, moved)


def _winograd(tile: int, strip: int = 0) -> Callable[[Geometry], Work]:
    def work(g: Geometry) -> Work:
        images, output, _ = _sizes(g)
        down, across = (-(-side // tile) for side in g.output)
        times = g.batch * -(-down // strip) if strip else 1
        rows = strip * across if strip else g.batch * down * across
        positions = (tile + 2) ** 2
        kernel = positions * g.channels * g.features
        half = positions * tile / (tile + 2)  # one of the two directions transformed
        transformed = rows * ((positions + half) * g.channels + (positions + half) * g.features)
        moved = BYTES * (images + output + times * (2 * int(transformed) + kernel))
        return Work(positions * times, rows, g.channels, g.features, moved, BYTES * (int(transformed) + kernel))

    return work


# An algorithm without a line is not a choice on a CPU.
WORK: Mapping[str, Callable[[Geometry], Work]] = {
    "direct": _direct,
    "pointwise": _pointwise,
    "patches": _patches,
    "whole": _whole,
    "winograd2": _winograd(2),
    "winograd4": _winograd(4),
    "winograd4_strip1": _winograd(4, 1),
    "winograd4_strip2": _winograd(4, 2),
    "winograd4_strip4": _winograd(4, 4),
}
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
        return self.costs[name].seconds(WORK[name](geometry)) * math.exp(correction)


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
    fits = {name for name in WORK if ALGORITHMS[name].fits(geometry)}
    return [name for name in WORK if name in fits and DOMINATED.get(name) not in fits]
