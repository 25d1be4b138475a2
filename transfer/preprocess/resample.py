"""Resampling along one axis as Pillow does it: coefficients made in NumPy, sums that run on any device in JAX.

An output pixel is a weighted sum of a short run of input pixels, so an axis is described by a `Band`: where
each run starts, and its weights. The arithmetic follows `precompute_coeffs` and `normalize_coeffs_8bpc` of
Pillow's `src/libImaging/Resample.c` (weights rounded to 22 bits, results to 8), and `jax.image.resize` for
floats.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import PIL

PRECISION_BITS = 32 - 8 - 2  # of Pillow's fixed-point weights: 8 bits of pixel, 2 of head room
UNROLLED_TAPS = 16  # longer runs go through a loop, so that a strong reduction stays a small program


class Band(NamedTuple):
    """Output pixel `i` = sum over `t` of `weights[i, t]` * input pixel `starts[i] + t`."""

    starts: np.ndarray  # (out,) int64
    weights: np.ndarray  # (out, taps) float64


# The kernels take arrays of NumPy or of JAX, traced ones too: each array says by which library it is computed on.
def _triangle(x: Any) -> Any:
    return x.__array_namespace__().maximum(1.0 - abs(x), 0.0)


def _keys_cubic(x: Any) -> Any:
    xp = x.__array_namespace__()
    a, x = -0.5, abs(x)
    inner = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    outer = (((x - 5) * x + 8) * x - 4) * a
    return xp.where(x < 1.0, inner, xp.where(x < 2.0, outer, 0.0))


def _sinc(x: Any) -> Any:
    xp = x.__array_namespace__()
    x = x * np.pi
    return xp.where(x == 0.0, 1.0, xp.sin(x) / xp.where(x == 0.0, 1.0, x))


def _lanczos3(x: Any) -> Any:
    return x.__array_namespace__().where((x >= -3.0) & (x < 3.0), _sinc(x) * _sinc(x / 3), 0.0)


# interpolation -> (radius in input pixels, kernel); "nearest" picks pixels and has no kernel
KERNELS: dict[str, tuple[float, Callable[[Any], Any]]] = {
    "bilinear": (1.0, _triangle),
    "bicubic": (2.0, _keys_cubic),
    "lanczos": (3.0, _lanczos3),
}


@functools.lru_cache(maxsize=512)
def band(size: int, new_size: int, interpolation: str, antialias: bool = True) -> Band:
    """The band that resizes an axis of `size` pixels to `new_size`; Pillow's own doubles when antialiased."""
    radius, kernel = KERNELS[interpolation]
    scale = size / new_size
    stretch = max(scale, 1.0) if antialias else 1.0
    support = radius * stretch
    centres = (np.arange(new_size) + 0.5) * scale
    starts = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    stops = np.minimum((centres + support + 0.5).astype(np.int64), size)
    taps = np.arange(int((stops - starts).max()))
    positions = starts[:, None] + taps
    weights = kernel((positions - centres[:, None] + 0.5) * (1.0 / stretch))
    weights = np.where(positions < stops[:, None], weights, 0.0)
    total = np.cumsum(weights, axis=1)[:, -1:]  # cumsum adds in order, as the C loop does
    weights = weights / np.where(total == 0.0, 1.0, total)
    # a run at the far end may hang over the edge with weights of zero; move it back inside
    overhang = np.maximum(starts + len(taps) - size, 0)
    for row in np.flatnonzero(overhang):
        weights[row] = np.roll(weights[row], overhang[row])
    weights.flags.writeable = False
    return Band(starts - overhang, weights)


@functools.lru_cache(maxsize=512)
def nearest_indices(size: int, new_size: int, resize: str) -> np.ndarray:
    """Which input pixel each output pixel copies, (new_size,) int64.

    "pil" and "draft" keep the running sum of doubles of `ImagingScaleAffine`, "float" the float32 product of
    `jax.image.resize`; they part where a centre falls between two pixels.
    """
    if resize != "float":
        steps = np.full(new_size, size / new_size)
        steps[0] *= 0.5
        centres = np.cumsum(steps)
    else:
        step = np.float32(size) * (np.float32(1) / np.float32(new_size))  # so XLA folds `* size / new_size`
        centres = (np.arange(new_size, dtype=np.float32) + np.float32(0.5)) * step
    indices = np.minimum(centres.astype(np.int64), size - 1)
    indices.flags.writeable = False
    return indices


def rows_first(height: int, width: int, new_height: int, new_width: int) -> bool:
    """True if Pillow runs its vertical pass first, which decides what is rounded first.

    From version 13 on it does where the height shrinks by more than twice as many pixels as the width (pull
    request 9549); before that the horizontal pass always came first.
    """
    lost_rows, lost_columns = height - new_height, width - new_width
    return int(PIL.__version__.split(".")[0]) >= 13 and lost_rows > max(0, 2 * lost_columns)


def fixed_point(weights: Any) -> Any:
    """Pillow's int32 weights of 22 bits, rounded half away from zero."""
    xp = weights.__array_namespace__()
    return xp.trunc(weights * (1 << PRECISION_BITS) + xp.where(weights < 0, -0.5, 0.5)).astype(xp.int32)


def rounded_8bit(total: Any) -> Any:
    """A sum of pixels times `fixed_point` weights, int32, as Pillow makes a uint8 of it."""
    xp = total.__array_namespace__()
    return xp.clip((total + (1 << (PRECISION_BITS - 1))) >> PRECISION_BITS, 0, 255).astype(xp.uint8)


def resize_axis(images: Any, band_: Band, axis: int, floats: bool) -> Any:
    """Runs one pass over images of NumPy or of JAX; no array is larger than the result in the dtype of the weights.

    Args:
        floats: the weighted sum in float32, as `jax.image.resize` computes it (no matmul, so no matmul precision
            either); else uint8, the sum rounded half up and clipped, as Pillow does. A band of single pixels copies
            them in their dtype either way.
    """
    xp, (starts, weights) = images.__array_namespace__(), band_
    shape = [1] * images.ndim
    shape[axis] = len(starts)
    if weights.shape[1] == 1:  # of weight 1, or 0 where black
        if (np.diff(starts) == 1).all() and weights.all():
            return images[(slice(None),) * axis + (slice(starts[0], starts[-1] + 1),)]
        copied = xp.take(images, xp.asarray(starts), axis=axis, mode="clip")
        return xp.where(weights.astype(bool).reshape(shape), copied, xp.zeros((), copied.dtype))
    weights = weights.astype(np.float32) if floats else fixed_point(weights)

    def tap(start: Any, weight: Any) -> Any:
        pixels = xp.take(images, xp.asarray(start), axis=axis, mode="clip")
        return pixels.astype(weights.dtype) * xp.reshape(xp.asarray(weight), shape)

    taps = weights.shape[1]
    if xp is np or taps <= UNROLLED_TAPS:
        total = functools.reduce(xp.add, (tap(starts + t, weights[:, t]) for t in range(taps)))
    else:
        all_starts, all_weights = jnp.asarray(starts), jnp.asarray(weights.T)
        first = tap(starts, weights[:, 0])
        total = jax.lax.fori_loop(1, taps, lambda t, total: total + tap(all_starts + t, all_weights[t]), first)
    return total if floats else rounded_8bit(total)
