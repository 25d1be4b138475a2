"""`lax.conv_general_dilated`: every geometry, and the right choice on GPU and TPU."""

import jax
import numpy as np
from jax import lax

from transfer.freeze.convolutions.geometry import Epilogue, Geometry

# cuDNN fuses bias, residual and ReLU into a convolution whose kernel is OHWI; elsewhere HWIO is the natural layout.
KERNEL_LAYOUTS = {"gpu": "OHWI"}


class Direct:
    """The library's convolution."""

    exact = True

    def __init__(self, platform: str = "cpu") -> None:
        self.layout = KERNEL_LAYOUTS.get(platform, "HWIO")

    def fits(self, geometry: Geometry) -> bool:
        """True for every convolution."""
        return True

    def prepare(self, kernel: np.ndarray, geometry: Geometry) -> np.ndarray:
        """HWIO -> the layout of the platform."""
        return kernel.transpose([("HWIO").index(axis) for axis in self.layout])

    def run(self, images: jax.Array, kernel: jax.Array, geometry: Geometry, epilogue: Epilogue) -> jax.Array:
        """(B, H, W, C) -> (B, H', W', K)."""
        result = lax.conv_general_dilated(
            images,
            kernel,
            geometry.strides,
            geometry.padding,
            dimension_numbers=("NHWC", self.layout, "NHWC"),
            feature_group_count=geometry.groups,
        )
        return epilogue(result)
