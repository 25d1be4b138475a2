"""One convolution, computed the way that suits its shape and the device it runs on.

XLA's CPU convolution collapses on small images (3x3, 512 -> 512 channels at 2x2 pixels: 80 times slower than the
same arithmetic as one matrix product), so there it becomes patches times a matrix. Accelerators get
`lax.conv_general_dilated` untouched.
"""

from collections.abc import Sequence

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
    **options: object,
) -> jax.Array:
    """A drop-in for `lax.conv_general_dilated` over NHWC images and HWIO kernels, same result up to rounding."""
    plain = (
        options.get("feature_group_count", 1) == 1
        and set(options.get("lhs_dilation") or (1,)) == {1}  # type: ignore[call-overload]
        and set(options.get("rhs_dilation") or (1,)) == {1}  # type: ignore[call-overload]
        and not isinstance(padding, str)
    )
    if plain and jax.default_backend() == "cpu":
        sides = [
            (size + low + high - window) // stride + 1
            for size, window, stride, (low, high) in zip(
                images.shape[1:3], kernel.shape[:2], strides, padding, strict=True
            )
        ]
        if max(sides) <= SMALL_SIDE:
            return _patches_times_matrix(images, kernel, strides, padding, sides, options.get("precision"))
    return lax.conv_general_dilated(images, kernel, strides, padding, **options)  # type: ignore[arg-type]


def _patches_times_matrix(
    images: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]] | str,
    sides: Sequence[int],
    precision: object,
) -> jax.Array:
    height, width, channels, features = kernel.shape
    (rows, columns), (down, across) = sides, strides
    padded = jnp.pad(images, ((0, 0), *padding, (0, 0)))  # type: ignore[misc]
    patches = [
        padded[:, y : y + (rows - 1) * down + 1 : down, x : x + (columns - 1) * across + 1 : across]
        for y in range(height)
        for x in range(width)
    ]
    matrix = kernel.reshape(height * width * channels, features)
    return jnp.matmul(jnp.concatenate(patches, axis=-1), matrix, precision=precision)  # type: ignore[arg-type]
