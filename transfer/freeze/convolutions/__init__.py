"""The ways to compute a convolution, by name: equal up to rounding, and each the fastest somewhere."""

from typing import Protocol

import jax
import numpy as np

from transfer.freeze.convolutions.direct import Direct
from transfer.freeze.convolutions.geometry import Epilogue, Geometry
from transfer.freeze.convolutions.matrix import Patches, Pointwise, Whole
from transfer.freeze.convolutions.winograd import Winograd

__all__ = ["ALGORITHMS", "Algorithm", "Epilogue", "Geometry"]


class Algorithm(Protocol):
    """A way to compute a convolution.

    Attributes:
      exact: whether it does nothing but the definition's products and sums, in another order.
    """

    exact: bool

    def fits(self, geometry: Geometry) -> bool:
        """True if this algorithm can compute a convolution of this geometry."""

    def prepare(self, kernel: np.ndarray, geometry: Geometry) -> np.ndarray:
        """Lays out an HWIO kernel as `run` wants it; once, ahead of time, in the kernel's own dtype."""

    def run(self, images: jax.Array, kernel: jax.Array, geometry: Geometry, epilogue: Epilogue) -> jax.Array:
        """(B, H, W, C) -> (B, H', W', K), the epilogue included; B need not be the geometry's."""


# A new algorithm is a class and a line here; it is chosen once `benchmarks/convolutions.json` has been measured again.
ALGORITHMS: dict[str, Algorithm] = {
    "direct": Direct(),
    "direct_ohwi": Direct("gpu"),
    "pointwise": Pointwise(),
    "patches": Patches(),
    "whole": Whole(),
    "winograd2": Winograd(2),
    "winograd4": Winograd(4),
    "winograd4_strip1": Winograd(4, strip=1),
    "winograd4_strip2": Winograd(4, strip=2),
    "winograd4_strip4": Winograd(4, strip=4),
}
