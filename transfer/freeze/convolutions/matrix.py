"""Convolutions as one matrix product: 1x1, patches (im2col), and the whole of a tiny image at once."""

import jax
import jax.numpy as jnp
import numpy as np

from transfer.freeze.convolutions.geometry import Epilogue, Geometry, padded


class Pointwise:
    """A 1x1 convolution: every pixel times the matrix, after the pixels that a stride skips are left out."""

    exact = True

    def fits(self, geometry: Geometry) -> bool:
        """True for 1x1 kernels without padding or groups."""
        return geometry.window == (1, 1) and geometry.groups == 1 and not any(map(sum, geometry.padding))

    def prepare(self, kernel: np.ndarray, geometry: Geometry) -> np.ndarray:
        """HWIO -> (C, K)."""
        return kernel.reshape(kernel.shape[2:])

    def run(self, images: jax.Array, kernel: jax.Array, geometry: Geometry, epilogue: Epilogue) -> jax.Array:
        """(B, H, W, C) -> (B, H', W', K)."""
        down, across = geometry.strides
        kept = images[:, ::down, ::across]
        rows = kept.reshape(-1, geometry.channels)
        return epilogue((rows @ kernel).reshape(*kept.shape[:3], geometry.features))


class Patches:
    """A product of two matrices: the patch of each output pixel as a row, times the kernel (im2col)."""

    exact = True

    def fits(self, geometry: Geometry) -> bool:
        """True for every convolution without groups."""
        return geometry.groups == 1

    def prepare(self, kernel: np.ndarray, geometry: Geometry) -> np.ndarray:
        """HWIO -> (HWI, K)."""
        return kernel.reshape(-1, kernel.shape[-1])

    def run(self, images: jax.Array, kernel: jax.Array, geometry: Geometry, epilogue: Epilogue) -> jax.Array:
        """(B, H, W, C) -> (B, H', W', K)."""
        (rows, columns), (down, across) = geometry.output, geometry.strides
        around = padded(images, geometry.padding)
        patches = [
            around[:, y : y + (rows - 1) * down + 1 : down, x : x + (columns - 1) * across + 1 : across]
            for y in range(geometry.window[0])
            for x in range(geometry.window[1])
        ]
        matrix = jnp.concatenate(patches, axis=-1).reshape(-1, kernel.shape[0])
        return epilogue((matrix @ kernel).reshape(images.shape[0], rows, columns, geometry.features))


class Whole:
    """All pixels of a tiny image times one matrix that holds every tap inside the image; padding costs nothing.

    At 2x2 pixels a padded 3x3 has 16 products for each pair of channels instead of 36, at 1x1 one instead of nine.
    """

    exact = True
    # More pixels cost more in the matrix's zeros, and in its size, than they save.
    PIXELS = 4

    def fits(self, geometry: Geometry) -> bool:
        """True for at most four pixels in and out and no groups; a 1x1 kernel would leave the matrix all but empty."""
        pixels = max(geometry.height * geometry.width, geometry.output[0] * geometry.output[1])
        return geometry.groups == 1 and geometry.window != (1, 1) and 1 <= pixels <= self.PIXELS

    def prepare(self, kernel: np.ndarray, geometry: Geometry) -> np.ndarray:
        """HWIO -> (H W C, H' W' K)."""
        height, width, (rows, columns) = geometry.height, geometry.width, geometry.output
        (down, across), ((top, _), (left, _)) = geometry.strides, geometry.padding
        matrix = np.zeros((height, width, geometry.channels, rows, columns, geometry.features), kernel.dtype)
        for y, x, row, column in np.ndindex(height, width, rows, columns):
            tap = (y - row * down + top, x - column * across + left)
            if 0 <= tap[0] < kernel.shape[0] and 0 <= tap[1] < kernel.shape[1]:
                matrix[y, x, :, row, column] = kernel[tap]
        return matrix.reshape(height * width * geometry.channels, -1)

    def run(self, images: jax.Array, kernel: jax.Array, geometry: Geometry, epilogue: Epilogue) -> jax.Array:
        """(B, H, W, C) -> (B, H', W', K)."""
        result = images.reshape(images.shape[0], -1) @ kernel
        return epilogue(result.reshape(images.shape[0], *geometry.output, geometry.features))
