"""Winograd's minimal filtering for 3x3 at stride 1 (Lavin & Gray 2015, arXiv:1509.09308).

F(m x m, 3 x 3) makes an m x m tile of the output from an (m + 2) x (m + 2) tile of the input with (m + 2)^2 products
for each pair of channels instead of 9 m^2: 2.25 times fewer for m = 2, 4 times for m = 4. The products are one matrix
product for each of the (m + 2)^2 positions of a tile; what comes before and after are sums of strided slices.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from transfer.freeze.convolutions.geometry import Epilogue, Geometry, padded

# Output tile -> transforms of the input, the output and the kernel.
INPUT = {
    2: ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
    4: (
        (4, 0, -5, 0, 1, 0),
        (0, -4, -4, 1, 1, 0),
        (0, 4, -4, -1, 1, 0),
        (0, -2, -1, 2, 1, 0),
        (0, 2, -1, -2, 1, 0),
        (0, 4, 0, -5, 0, 1),
    ),
}
OUTPUT = {
    2: ((1, 1, 1, 0), (0, 1, -1, -1)),
    4: ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
}
KERNEL = {
    2: ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
    4: (
        (1 / 4, 0, 0),
        (-1 / 6, -1 / 6, -1 / 6),
        (-1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6),
        (1 / 24, -1 / 12, 1 / 6),
        (0, 0, 1),
    ),
}


class Winograd:
    """F(tile x tile, 3 x 3), over the whole batch or over one image (or a strip of one) after another.

    Args:
      tile: 2 or 4; 4 saves more and rounds about ten times worse.
      strip: rows of tiles that are worked on at a time, so that the transformed data stay in the cache; 0: the whole
        batch at once.
    """

    exact = False

    def __init__(self, tile: int, strip: int = 0) -> None:
        self.tile, self.strip = tile, strip

    def fits(self, geometry: Geometry) -> bool:
        """True for 3x3 at stride 1 without groups; with strips, for images of at least as many rows of tiles."""
        ordinary = geometry.window == (3, 3) and geometry.strides == (1, 1) and geometry.groups == 1
        return ordinary and min(geometry.output) >= 1 and (not self.strip or self._tiles(geometry)[0] >= self.strip)

    def prepare(self, kernel: np.ndarray, geometry: Geometry) -> np.ndarray:
        """HWIO -> (a a, C, K), a = tile + 2."""
        transform = np.array(KERNEL[self.tile])
        by_height = np.tensordot(transform, kernel, 1)  # (row, w, C, K)
        inner = np.tensordot(transform, by_height, ((1,), (1,)))  # (column, row, C, K), the order of the products
        return inner.reshape(-1, *kernel.shape[2:])

    def run(self, images: jax.Array, kernel: jax.Array, geometry: Geometry, epilogue: Epilogue) -> jax.Array:
        """(B, H, W, C) -> (B, H', W', K), or half of H' and W' with the pool."""
        (down, across), (height, width), tile = self._tiles(geometry), geometry.output, self.tile
        strips = -(-down // self.strip) if self.strip else 1
        rows = -(-down // strips) * strips
        (top, _), (left, _) = geometry.padding
        bottom = rows * tile + 2 - top - geometry.height
        right = across * tile + 2 - left - geometry.width
        around = padded(images, ((top, bottom), (left, right)))
        inner = Epilogue(epilogue.bias, epilogue.relu, epilogue.pool) if epilogue.residual is None else Epilogue()
        if self.strip:
            result = _by_strips(around, kernel, tile, rows // strips, inner)
        else:
            result = _tiles_convolved(around, kernel, tile, inner)
        if epilogue.residual is not None:
            return epilogue(result[:, :height, :width])
        return result[:, : height // 2, : width // 2] if epilogue.pool else result[:, :height, :width]

    def _tiles(self, geometry: Geometry) -> tuple[int, int]:
        rows, columns = geometry.output
        return -(-rows // self.tile), -(-columns // self.tile)


def transformed_bytes(geometry: Geometry, tile: int = 4) -> int:
    """Bytes of the transformed input and of the products of a batch, in float32."""
    rows, columns = geometry.output
    tiles = geometry.batch * -(-rows // tile) * -(-columns // tile)
    return 4 * tiles * (tile + 2) ** 2 * (geometry.channels + geometry.features)


def _by_strips(images: jax.Array, kernel: jax.Array, tile: int, rows: int, epilogue: Epilogue) -> jax.Array:
    """Convolves strips of `rows` rows of tiles, one after another."""
    batch, height, width, channels = images.shape
    strips = (height - 2) // (rows * tile)

    def convolved(position: jax.Array) -> jax.Array:
        image, strip = position // strips, position % strips
        size = (1, rows * tile + 2, width, channels)
        part = lax.dynamic_slice(images, (image, strip * rows * tile, 0, 0), size)
        return _tiles_convolved(part, kernel, tile, epilogue)[0]

    parts = lax.map(convolved, jnp.arange(batch * strips))
    return parts.reshape(batch, strips * parts.shape[1], *parts.shape[2:])


def _tiles_convolved(images: jax.Array, kernel: jax.Array, tile: int, epilogue: Epilogue) -> jax.Array:
    """(B, rows tile + 2, columns tile + 2, C) -> (B, rows tile, columns tile, K), halved by the pool."""
    batch, height, width, channels = images.shape
    rows, columns = (height - 2) // tile, (width - 2) // tile
    inside = range(tile + 2)

    def every(first: int, count: int) -> slice:
        return slice(first, first + (count - 1) * tile + 1, tile)

    # Rows, then columns: each stage is written once. Left to itself, XLA would compute the first again in each sum.
    slices = [images[:, every(i, rows)] for i in inside]
    by_rows = lax.optimization_barrier(jnp.stack([_combined(row, slices) for row in INPUT[tile]]))
    slices = [by_rows[:, :, :, every(i, columns)] for i in inside]
    both = jnp.stack([_combined(row, slices) for row in INPUT[tile]])  # (column, row, B, rows, columns, C)
    flat = both.reshape(len(inside) ** 2, batch * rows * columns, channels)
    products = lax.dot_general(flat, kernel, (((2,), (1,)), ((0,), (0,))))
    products = products.reshape(len(inside), len(inside), batch, rows, columns, -1)
    across = lax.optimization_barrier(jnp.stack([_combined(row, list(products)) for row in OUTPUT[tile]]))
    parts = [[epilogue.pointwise(_combined(row, list(across[i]))) for i in range(tile)] for row in OUTPUT[tile]]
    if epilogue.pool:
        parts = _pooled(parts)
    joined = jnp.stack([jnp.stack(row, axis=3) for row in parts], axis=2)  # (B, rows, i, columns, j, K)
    return joined.reshape(batch, rows * len(parts), columns * len(parts), -1)


def _combined(weights: Sequence[float], parts: Sequence[jax.Array]) -> jax.Array:
    terms = [part if weight == 1 else weight * part for weight, part in zip(weights, parts, strict=True) if weight]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _pooled(parts: list[list[jax.Array]]) -> list[list[jax.Array]]:
    """The maximum of each 2x2 of a tile's pixels."""

    def cell(i: int, j: int) -> jax.Array:
        above = jnp.maximum(parts[i][j], parts[i][j + 1])
        return jnp.maximum(above, jnp.maximum(parts[i + 1][j], parts[i + 1][j + 1]))

    return [[cell(i, j) for j in range(0, len(parts), 2)] for i in range(0, len(parts), 2)]
