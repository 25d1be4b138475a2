"""The ways to compute a convolution, by name: equal up to rounding, and each the fastest somewhere."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from transfer.models.layers import max_pool, patches

Pairs = tuple[tuple[int, int], tuple[int, int]]
BYTES = 4  # of a number


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


@dataclass(frozen=True)
class Geometry:
    """An ordinary convolution over NHWC images: no dilation.

    Attributes:
      batch, height, width, channels: of the input.
      features: output channels.
      window, strides: (height, width).
      padding: zeros (low, high) of each side.
      groups: of channels.
    """

    batch: int
    height: int
    width: int
    channels: int
    features: int
    window: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: Pairs = ((0, 0), (0, 0))
    groups: int = 1

    @property
    def output(self) -> tuple[int, int]:
        """Height and width of the output."""
        sides = zip((self.height, self.width), self.window, self.strides, self.padding, strict=True)
        rows, columns = [(size + low + high - window) // stride + 1 for size, window, stride, (low, high) in sides]
        return rows, columns

    @property
    def sizes(self) -> tuple[int, int, int]:
        """How many numbers the input, the output and the kernel have."""
        output = self.batch * math.prod(self.output) * self.features
        kernel = math.prod(self.window) * self.channels // self.groups * self.features
        return self.batch * self.height * self.width * self.channels, output, kernel


@dataclass(frozen=True)
class Epilogue:
    """The operations after a convolution that are cheapest where its output is made.

    Attributes:
      bias: (K,), or None.
      relu: whether a ReLU follows (after the residual).
      pool: whether a 2x2 max-pool at stride 2 follows, odd rows and columns left out.
      residual: of the output's shape, added before the ReLU; not together with `pool`.
    """

    bias: jax.Array | None = None
    relu: bool = False
    pool: bool = False
    residual: jax.Array | None = None

    def pointwise(self, values: jax.Array) -> jax.Array:
        """Applies all but the pool to (..., K)."""
        for added in (self.bias, self.residual):
            values = values if added is None else values + added
        return jax.nn.relu(values) if self.relu else values

    def __call__(self, values: jax.Array) -> jax.Array:
        """Applies bias, residual, ReLU and pool to (B, H, W, K)."""
        values = self.pointwise(values)
        return max_pool(values, 2, 2) if self.pool else values


def padded(images: jax.Array, padding: Pairs) -> jax.Array:
    """Pads images with zeros; a negative count crops."""
    if padding == ((0, 0), (0, 0)):
        return images
    zero = jnp.zeros((), images.dtype)
    return lax.pad(images, zero, ((0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)))


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


class Algorithm:
    """A way to compute a convolution.

    Attributes:
      exact: whether it does nothing but the definition's products and sums, in another order.
    """

    exact = True

    def fits(self, geometry: Geometry) -> bool:
        """True if this algorithm can compute a convolution of this geometry."""
        raise NotImplementedError

    def prepare(self, kernel: np.ndarray, geometry: Geometry) -> np.ndarray:
        """Lays out an HWIO kernel as `run` wants it; once, ahead of time, in the kernel's own dtype."""
        raise NotImplementedError

    def run(self, images: jax.Array, kernel: jax.Array, geometry: Geometry, epilogue: Epilogue) -> jax.Array:
        """(B, H, W, C) -> (B, H', W', K), the epilogue included; B need not be the geometry's."""
        raise NotImplementedError

    def work(self, geometry: Geometry) -> Work:
        """The work on a CPU, from which `transfer.freeze.plan` predicts the time."""
        raise NotImplementedError


class Direct(Algorithm):
    """`lax.conv_general_dilated`: every geometry, and the right choice on GPU and TPU.

    Args:
      layout: of the kernel; cuDNN fuses bias, residual and ReLU into a convolution whose kernel is OHWI.
    """

    def __init__(self, layout: str = "HWIO") -> None:
        self.layout = layout

    def fits(self, geometry: Geometry) -> bool:
        return True

    def prepare(self, kernel: np.ndarray, geometry: Geometry) -> np.ndarray:
        return kernel.transpose(["HWIO".index(axis) for axis in self.layout])

    def run(self, images: jax.Array, kernel: jax.Array, geometry: Geometry, epilogue: Epilogue) -> jax.Array:
        result = lax.conv_general_dilated(
            images,
            kernel,
            geometry.strides,
            geometry.padding,
            dimension_numbers=("NHWC", self.layout, "NHWC"),
            feature_group_count=geometry.groups,
        )
        return epilogue(result)

    def work(self, geometry: Geometry) -> Work:
        g, moved = geometry, BYTES * sum(geometry.sizes)
        inner = math.prod(g.window) * g.channels // g.groups
        return Work(g.groups, g.batch * math.prod(g.output), inner, g.features // g.groups, moved, moved)


class Pointwise(Algorithm):
    """A 1x1 convolution: every pixel times the matrix, after the pixels that a stride skips are left out."""

    def fits(self, geometry: Geometry) -> bool:
        """True for 1x1 kernels without padding or groups."""
        return geometry.window == (1, 1) and geometry.groups == 1 and not any(map(sum, geometry.padding))

    def prepare(self, kernel: np.ndarray, geometry: Geometry) -> np.ndarray:
        """HWIO -> (C, K)."""
        return kernel.reshape(kernel.shape[2:])

    def run(self, images: jax.Array, kernel: jax.Array, geometry: Geometry, epilogue: Epilogue) -> jax.Array:
        down, across = geometry.strides
        kept = images[:, ::down, ::across]
        rows = kept.reshape(-1, geometry.channels)
        return epilogue((rows @ kernel).reshape(*kept.shape[:3], geometry.features))

    def work(self, geometry: Geometry) -> Work:
        g, (_, output, kernel) = geometry, geometry.sizes
        rows = g.batch * math.prod(g.output)
        copies = 1 if g.strides == (1, 1) else 3  # pixels that are kept are read, written and read again
        moved = BYTES * (copies * rows * g.channels + 2 * output + kernel)
        return Work(1, rows, g.channels, g.features, moved, moved)


class Patches(Algorithm):
    """A product of two matrices: the patch of each output pixel as a row, times the kernel (im2col)."""

    def fits(self, geometry: Geometry) -> bool:
        """True for every convolution without groups."""
        return geometry.groups == 1

    def prepare(self, kernel: np.ndarray, geometry: Geometry) -> np.ndarray:
        """HWIO -> (HWI, K)."""
        return kernel.reshape(-1, kernel.shape[-1])

    def run(self, images: jax.Array, kernel: jax.Array, geometry: Geometry, epilogue: Epilogue) -> jax.Array:
        around = padded(images, geometry.padding)
        rows = patches(around, geometry.window, geometry.strides, geometry.output).reshape(-1, kernel.shape[0])
        return epilogue((rows @ kernel).reshape(images.shape[0], *geometry.output, geometry.features))

    def work(self, geometry: Geometry) -> Work:
        g, (images, output, kernel) = geometry, geometry.sizes
        rows, inner = g.batch * math.prod(g.output), math.prod(g.window) * g.channels
        moved = BYTES * (2 * images + 2 * rows * inner + 2 * output + kernel)
        return Work(1, rows, inner, g.features, moved, BYTES * rows * inner)


class Whole(Algorithm):
    """All pixels of a tiny image times one matrix that holds every tap inside the image; padding costs nothing.

    At 2x2 pixels a padded 3x3 has 16 products for each pair of channels instead of 36, at 1x1 one instead of nine.
    """

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
        result = images.reshape(images.shape[0], -1) @ kernel
        return epilogue(result.reshape(images.shape[0], *geometry.output, geometry.features))

    def work(self, geometry: Geometry) -> Work:
        g, (images, output, _) = geometry, geometry.sizes
        inner, columns = g.height * g.width * g.channels, math.prod(g.output) * g.features
        moved = BYTES * (images + 2 * output + inner * columns)
        return Work(1, g.batch, inner, columns, moved, moved)


class Winograd(Algorithm):
    """Winograd's minimal filtering for 3x3 at stride 1 (Lavin & Gray 2015, arXiv:1509.09308).

    F(m x m, 3 x 3) makes an m x m tile of the output from an (m + 2) x (m + 2) tile of the input with (m + 2)^2
    products for each pair of channels instead of 9 m^2: 2.25 times fewer for m = 2, 4 times for m = 4. The products are
    one matrix product for each of the (m + 2)^2 positions of a tile; what comes before and after are sums of strided
    slices.

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
        (down, across), (height, width), tile = self._tiles(geometry), geometry.output, self.tile
        strips = -(-down // self.strip) if self.strip else 1
        rows = -(-down // strips) * strips
        (top, _), (left, _) = geometry.padding
        bottom = rows * tile + 2 - top - geometry.height
        right = across * tile + 2 - left - geometry.width
        around = padded(images, ((top, bottom), (left, right)))
        inner = epilogue if epilogue.residual is None else Epilogue()
        if self.strip:
            result = _by_strips(around, kernel, tile, rows // strips, inner)
        else:
            result = _tiles_convolved(around, kernel, tile, inner)
        if epilogue.residual is not None:
            return epilogue(result[:, :height, :width])
        return result[:, : height // 2, : width // 2] if epilogue.pool else result[:, :height, :width]

    def work(self, geometry: Geometry) -> Work:
        g, (images, output, _), (down, across) = geometry, geometry.sizes, self._tiles(geometry)
        times = g.batch * -(-down // self.strip) if self.strip else 1
        rows = self.strip * across if self.strip else g.batch * down * across
        positions = (self.tile + 2) ** 2
        kernel = positions * g.channels * g.features
        half = positions * self.tile / (self.tile + 2)  # one of the two directions transformed
        transformed = int(rows * ((positions + half) * g.channels + (positions + half) * g.features))
        moved = BYTES * (images + output + times * (2 * transformed + kernel))
        return Work(positions * times, rows, g.channels, g.features, moved, BYTES * (transformed + kernel))

    def _tiles(self, geometry: Geometry) -> tuple[int, int]:
        rows, columns = geometry.output
        return -(-rows // self.tile), -(-columns // self.tile)


def _by_strips(images: jax.Array, kernel: jax.Array, tile: int, rows: int, epilogue: Epilogue) -> jax.Array:
    """Convolves strips of `rows` rows of tiles, one after another."""
    batch, height, width, channels = images.shape
    strips = (height - 2) // (rows * tile)

    def convolved(position: jax.Array) -> jax.Array:
        image, strip = position // strips, position % strips
        size = (1, rows * tile + 2, width, channels)
        part = lax.dynamic_slice(images, (image, strip * rows * tile, 0, 0), size)
        return _tiles_convolved(part, kernel, tile, epilogue)

    parts = lax.map(convolved, jnp.arange(batch * strips))
    return parts.reshape(batch, -1, *parts.shape[3:])


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


# A new algorithm is a class and a line here; it is chosen once `benchmarks/convolutions.json` has been measured again.
ALGORITHMS: dict[str, Algorithm] = {
    "direct": Direct(),
    "direct_ohwi": Direct("OHWI"),
    "pointwise": Pointwise(),
    "patches": Patches(),
    "whole": Whole(),
    "winograd2": Winograd(2),
    "winograd4": Winograd(4),
    "winograd4_strip1": Winograd(4, strip=1),
    "winograd4_strip2": Winograd(4, strip=2),
    "winograd4_strip4": Winograd(4, strip=4),
}
