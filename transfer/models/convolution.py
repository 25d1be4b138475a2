"""One convolution, computed the way that suits its shape and the device it runs on.

XLA's CPU convolution collapses on small images (3x3, 512 -> 512 channels at 2x2 pixels: 80 times slower than the
same arithmetic as one matrix product), so there it becomes patches times a matrix. Accelerators get
`lax.conv_general_dilated` untouched.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# Below this many output pixels a side, patches + matmul wins on a CPU; above it, the patches' traffic does not pay.
SMALL_SIDE = 8


def convolve(
    images: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """A drop-in for `lax.conv_general_dilated` over NHWC images and HWIO kernels, same result up to rounding."""
    if _small_on_cpu(images, kernel, strides, padding, **options):
        return _patches_times_matrix(images, kernel, strides, padding, options.get("precision"))
    return lax.conv_general_dilated(images, kernel, strides, padding, **options)


def _small_on_cpu(
    images: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Any,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    feature_group_count: int = 1,
    **_: Any,
) -> bool:
    """True for an ordinary convolution (no groups, no dilation) to a small image, on a CPU."""
    dilations = {*(lhs_dilation or ()), *(rhs_dilation or ())}
    ordinary = feature_group_count == 1 and dilations <= {1} and not isinstance(padding, str)
    if not ordinary or jax.default_backend() != "cpu":
        return False
    return max(_output_sides(images, kernel, strides, padding)) <= SMALL_SIDE


def _output_sides(images: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any) -> list[int]:
    geometry = zip(images.shape[1:3], kernel.shape[:2], strides, padding, strict=True)
    return [(size + low + high - window) // stride + 1 for size, window, stride, (low, high) in geometry]


def _patches_times_matrix(
    images: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, precision: Any
) -> jax.Array:
    height, width, channels, features = kernel.shape
    rows, columns = _output_sides(images, kernel, strides, padding)
    down, across = strides
    padded = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    patches = [
        padded[:, y : y + (rows - 1) * down + 1 : down, x : x + (columns - 1) * across + 1 : across]
        for y in range(height)
        for x in range(width)
    ]
    matrix = kernel.reshape(height * width * channels, features)
    return jnp.matmul(jnp.concatenate(patches, axis=-1), matrix, precision=precision)
