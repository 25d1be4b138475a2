"""How long a convolution takes on a core of a CPU, by algorithm: an interpretable model with a few fitted numbers.

An algorithm is matrix products and bytes that are moved around them. A product's rate grows with each of its sides and
levels off; moving is slower where the data worked on at a time outgrow a cache:

    seconds = call + flops / rate + bytes (near + far w / (w + cache)),
    rate = peak K / (K + inner) N / (N + columns) M / (M + rows)

`benchmarks/convolutions.py` fits the numbers to measurements. Only ratios between algorithms are of use on another
machine.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from transfer.convolutions import ALGORITHMS, Geometry

FITTED = Path(__file__).parent / "convolutions" / "costs.json"
BYTES = 4


@dataclass(frozen=True)
class Work:
    """What an algorithm does for a geometry.

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
        """Of the products."""
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
        """Of one call on one core."""
        grown = (
            work.rows / (work.rows + self.rows)
            * (work.inner / (work.inner + self.inner))
            * (work.columns / (work.columns + self.columns))
        )  # fmt: skip
        a_byte = self.near + self.far * work.held / (work.held + self.cache)
        return self.call + work.flops / (self.peak * grown) + work.moved * a_byte


@cache
def fitted() -> Mapping[str, Costs]:
    """Algorithm -> its numbers, as the package has them."""
    return {name: Costs(**numbers) for name, numbers in json.loads(FITTED.read_text())["costs"].items()}


def predicted(geometry: Geometry, costs: Mapping[str, Costs] | None = None) -> dict[str, float]:
    """Algorithm -> seconds, of those that are a choice for this geometry and have been fitted."""
    costs = fitted() if costs is None else costs
    return {name: costs[name].seconds(WORK[name](geometry)) for name in choices(geometry) if name in costs}


def choices(geometry: Geometry) -> list[str]:
    """The algorithms that fit, without those that another can only beat."""
    fits = {name for name in WORK if ALGORITHMS[name].fits(geometry)}
    return [name for name in WORK if name in fits and DOMINATED.get(name) not in fits]
