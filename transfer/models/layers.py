"""Layers that several families share, thin over Flax NNX and in the layouts of their sources."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from transfer.errors import UsageError

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Below this many output pixels a side, patches + matmul wins on a CPU; above it, the patches' traffic does not pay.
SMALL_SIDE = 8


def normal(deviation: Callable[[Sequence[int]], float]) -> nnx.Initializer:
    """An initialiser that draws with NumPy: XLA would compile a program for each of a model's many shapes."""

    def draw(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        if isinstance(key, jax.core.Tracer):  # only shapes are wanted, or the caller compiles on purpose
            return deviation(shape) * jax.random.normal(key, shape, dtype)
        generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        return jnp.asarray(generator.standard_normal(shape, np.float32) * np.float32(deviation(shape)), dtype)

    return draw


# He et al. 2015 (arXiv:1502.01852), fan-out, as torchvision initialises VGG and ResNet.
he_normal = normal(lambda shape: math.sqrt(2 / (math.prod(shape[:-2]) * shape[-1])))
small_normal = normal(lambda shape: 0.01)


def convolve(
    images: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """A drop-in for `lax.conv_general_dilated` over NHWC images and HWIO kernels, same result up to rounding.

    XLA's CPU convolution collapses on small images (3x3, 512 -> 512 channels at 2x2 pixels: 80 times slower than the
    same arithmetic as one matrix product), so there it becomes patches times a matrix.
    """
    dilations = {*(options.get("lhs_dilation") or ()), *(options.get("rhs_dilation") or ())}
    ordinary = options.get("feature_group_count", 1) == 1 and dilations <= {1}
    if ordinary and not isinstance(padding, str) and jax.default_backend() == "cpu":
        geometry = zip(images.shape[1:3], kernel.shape[:2], strides, padding, strict=True)
        sides = [(size + low + high - window) // stride + 1 for size, window, stride, (low, high) in geometry]
        if max(sides) <= SMALL_SIDE:
            padded = jnp.pad(images, ((0, 0), *padding, (0, 0)))
            matrix = kernel.reshape(-1, kernel.shape[-1])
            return jnp.matmul(patches(padded, kernel.shape, strides, sides), matrix, precision=options.get("precision"))
    return lax.conv_general_dilated(images, kernel, strides, padding, **options)


def patches(images: jax.Array, window: Sequence[int], strides: Sequence[int], sides: Sequence[int]) -> jax.Array:
    """The window of each output pixel, (B, rows, columns, height width C), of padded images (im2col)."""
    (rows, columns), (down, across) = sides, strides
    slices = [
        images[:, y : y + (rows - 1) * down + 1 : down, x : x + (columns - 1) * across + 1 : across]
        for y in range(window[0])
        for x in range(window[1])
    ]
    return jnp.concatenate(slices, axis=-1)


def conv(
    channels: int,
    features: int,
    size: int | tuple[int, int],
    *,
    stride: int = 1,
    padding: int | None = None,
    groups: int = 1,
    bias: bool = True,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """A convolution of `size` (an int is square) with symmetric zero padding (default: half of `size`), never `SAME`.

    `SAME` pads asymmetrically at stride 2 and would match neither torchvision nor Keras.
    """
    window = (size, size) if isinstance(size, int) else size
    pads = tuple(side // 2 if padding is None else padding for side in window)
    return nnx.Conv(
        channels,
        features,
        window,
        strides=(stride, stride),
        padding=tuple((pad, pad) for pad in pads),
        feature_group_count=groups,
        use_bias=bias,
        kernel_init=he_normal,
        conv_general_dilated=convolve,
        rngs=rngs,
    )


def batch_norm(features: int, *, epsilon: float = 1e-5, use_scale: bool = True, rngs: nnx.Rngs) -> nnx.BatchNorm:
    """Batch norm in inference mode; `model.train()` switches the whole model to batch statistics.

    The momentum is torchvision's 0.1 in Flax's convention (the share that is kept).
    """
    return nnx.BatchNorm(
        features, use_running_average=True, momentum=0.9, epsilon=epsilon, use_scale=use_scale, rngs=rngs
    )


class ConvNorm(nnx.Module):
    """A convolution without bias, batch norm, ReLU: the brick of GoogLeNet and Inception."""

    def __init__(
        self,
        channels: int,
        features: int,
        size: int | tuple[int, int],
        *,
        epsilon: float,
        use_scale: bool = True,
        rngs: nnx.Rngs,
        **geometry: int | None,
    ) -> None:
        self.conv = conv(channels, features, size, bias=False, rngs=rngs, **geometry)  # type: ignore[arg-type]
        self.bn = batch_norm(features, epsilon=epsilon, use_scale=use_scale, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.bn(self.conv(x)))


class Stage(nnx.Module):
    """Units at one resolution, one after the other: `unit1`, `unit2`, …"""

    def __init__(self, units: Sequence[nnx.Module]) -> None:
        self.depth = len(units)
        for i, unit in enumerate(units, 1):
            setattr(self, f"unit{i}", unit)

    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(1, self.depth + 1):
            x = getattr(self, f"unit{i}")(x)
        return x


def dense(inputs: int, features: int, *, rngs: nnx.Rngs) -> nnx.Linear:
    """A fully connected layer, initialised as torchvision's VGG does (normal, 0.01)."""
    return nnx.Linear(inputs, features, kernel_init=small_normal, rngs=rngs)


def max_pool(
    images: jax.Array,
    size: int,
    stride: int,
    padding: int = 0,
    pad_value: float = -jnp.inf,
    ceil_mode: bool = False,
) -> jax.Array:
    """Max-pool over NHWC; `pad_value` is -inf in torchvision, 0 in Keras' explicit padding.

    `ceil_mode` keeps a last window that hangs over the edge, as PyTorch does, unless it starts in the padding.
    """
    # The comparison starts from -inf, so that a padding of zeros takes part as a value.
    over = [_overhang(side, size, stride, padding) if ceil_mode else 0 for side in images.shape[1:3]]
    pads = ((0, 0), *((padding, padding + more) for more in over), (0, 0))
    if padding and pad_value != -jnp.inf:
        images = jnp.pad(images, pads, constant_values=pad_value)
        pads = ((0, 0),) * 4
    if size == stride and not padding and not any(over):
        # windows that do not overlap: a reshape and a maximum, which has a fast gradient (no select-and-scatter)
        batch, height, width, channels = images.shape
        rows, columns = height // size, width // size
        cropped = images[:, : rows * size, : columns * size]
        return cropped.reshape(batch, rows, size, columns, size, channels).max(axis=(2, 4))
    lowest = np.array(-np.inf, images.dtype)  # of NumPy: known while traced, so that JAX has a gradient for the maximum
    return lax.reduce_window(images, lowest, lax.max, (1, size, size, 1), (1, stride, stride, 1), pads)


def _overhang(side: int, size: int, stride: int, padding: int) -> int:
    """How far PyTorch's `ceil_mode` lets the last window reach past the padded edge."""
    steps = -(-(side + 2 * padding - size) // stride)
    if steps * stride >= side + padding:
        steps -= 1
    return max(0, steps * stride + size - side - 2 * padding)


def average_pool(images: jax.Array, size: int, stride: int, padding: int = 0, count_padding: bool = True) -> jax.Array:
    """Average-pool over NHWC; `count_padding` divides by the whole window at an edge too (PyTorch, not Keras)."""
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    zero = np.array(0, images.dtype)  # of NumPy: known while traced, so that JAX has a gradient for the sum
    sums = lax.reduce_window(images, zero, lax.add, window, strides, pads)
    if count_padding or not padding:
        return sums / size**2
    ones = np.ones((1, *images.shape[1:3], 1), images.dtype)
    return sums / lax.reduce_window(ones, zero, lax.add, window, strides, pads)


def adaptive_average_pool(images: jax.Array, size: int) -> jax.Array:
    """PyTorch's AdaptiveAvgPool2d over NHWC: cell i averages rows floor(i*n/size) to ceil((i+1)*n/size)."""
    height, width = images.shape[1:3]
    if (height, width) == (size, size):
        return images
    rows, columns = _averaging_matrix(height, size), _averaging_matrix(width, size)
    return jnp.einsum("bhwc,ih,jw->bijc", images, rows.astype(images.dtype), columns.astype(images.dtype))


def _averaging_matrix(length: int, cells: int) -> np.ndarray:
    matrix = np.zeros((cells, length), np.float32)
    for cell in range(cells):
        start, stop = cell * length // cells, -(-(cell + 1) * length // cells)
        matrix[cell, start:stop] = 1 / (stop - start)
    return matrix


def global_average_pool(images: jax.Array) -> jax.Array:
    """(B, H, W, C) -> (B, C)."""
    return images.mean(axis=(1, 2))


def scaled(channels: int, width: float) -> int:
    """A channel count times the width multiplier, at least 1."""
    return max(1, round(channels * width))


def imagenet_to_half(images: jax.Array) -> jax.Array:
    """Input normalised by ImageNet's mean and deviation, normalised by 0.5 and 0.5 instead.

    What torchvision calls `transform_input`: its Inception weights come from TensorFlow, which scaled to [-1, 1].
    """
    mean, deviation = np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_DEVIATION, np.float32)
    return images * (deviation / 0.5) + (mean - 0.5) / 0.5


def check_transform_input(transform_input: bool, channels: int) -> None:
    """Raises UsageError where `imagenet_to_half`, which has a number for each of three colours, meets other images."""
    if transform_input and channels != len(IMAGENET_MEAN):
        raise UsageError(
            f"transform_input=True is for images of 3 channels, not {channels}; take a set of weights without it"
        )


def check_images(images: jax.Array, minimum: int, model: str, channels: int = 3) -> None:
    """Raises UsageError unless `images` is (B, H, W, channels) with both sides at least `minimum` pixels."""
    if images.ndim != 4 or images.shape[-1] != channels or min(images.shape[1:3]) < minimum:
        raise UsageError(
            f"{model} takes images (batch, height, width, {channels}) of at least {minimum}x{minimum} pixels "
            f"(image_size), got {tuple(images.shape)}"
        )
