"""Resizing of images whose size is known only when the program runs: Pillow's pixels, the crop included.

`transfer.preprocess.recipe.resize` knows the size when it is traced, and makes its weights in NumPy. Here height and
width are symbols of `jax.export`, so the program makes the weights itself, in float64 as Pillow does, tap by tap: its
loops are as long as the image at hand needs. What follows from a size (`transfer.preprocess`) is arithmetic of int64
scalars.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from transfer.preprocess import resample
from transfer.preprocess.recipe import Preprocessing, gives_floats


class _Axis(NamedTuple):
    """An axis: `size` pixels become `resized`; pixel i of the output is number i + `offset` of those, or black."""

    size: jax.Array
    resized: jax.Array
    offset: jax.Array
    length: int

    @property
    def kept(self) -> jax.Array:
        """int64 (length,): the output's pixels as numbers of the resized ones."""
        return jnp.arange(self.length) + self.offset

    @property
    def inside(self) -> jax.Array:
        """bool (length,): false where the crop is larger than what it is cut from, which gives black."""
        return (self.kept >= 0) & (self.kept < self.resized)


def resize(preprocessing: Preprocessing, images: jax.Array) -> jax.Array:
    """`transfer.preprocess.recipe.resize` of (B, h, w, 3) uint8, whose B, h and w may be symbols -> (B, H, W, 3).

    uint8, the same pixels as Pillow's; float32 where `preprocess.gives_floats`, the same up to the rounding of sums.
    """
    with jax.enable_x64(True):
        height, width = (jnp.asarray(images.shape[i], jnp.int64) for i in (1, 2))
        rows, columns = _axes(preprocessing, height, width)

        def columns_first(pixels: jax.Array) -> jax.Array:
            return _along(preprocessing, _along(preprocessing, pixels, columns, 2), rows, 1)

        def rows_first(pixels: jax.Array) -> jax.Array:
            return _along(preprocessing, _along(preprocessing, pixels, rows, 1), columns, 2)

        # whether this Pillow ever starts with the rows
        if preprocessing.resize == "float" or not resample.rows_first(2, 1, 1, 1):
            return columns_first(images)
        lost_rows, lost_columns = height - rows.resized, width - columns.resized
        return lax.cond(lost_rows > jnp.maximum(0, 2 * lost_columns), rows_first, columns_first, images)


def _axes(preprocessing: Preprocessing, height: jax.Array, width: jax.Array) -> tuple[_Axis, _Axis]:
    """The vertical and the horizontal axis of an image of this size."""
    rows, columns = preprocessing.image_size
    if (short := preprocessing.resize_to) is None:
        new_height, new_width = (jnp.asarray(side, jnp.int64) for side in (rows, columns))
    else:
        long = short * jnp.maximum(height, width) // jnp.minimum(height, width)
        new_height, new_width = jnp.where(height <= width, short, long), jnp.where(height <= width, long, short)
    return _cropped(height, new_height, rows), _cropped(width, new_width, columns)


def _cropped(size: jax.Array, resized: jax.Array, length: int) -> _Axis:
    extra = resized - length
    half = extra // 2
    # as Python rounds: halves to the even neighbour; what is missing goes rather to the end
    start = jnp.where(extra % 2 == 1, half + half % 2, half)
    return _Axis(size, resized, jnp.where(extra < 0, -(-extra // 2), start), length)


def _along(preprocessing: Preprocessing, images: jax.Array, axis: _Axis, number: int) -> jax.Array:
    """Resizes (B, h, w, 3) along dimension `number`."""
    if preprocessing.interpolation == "nearest":
        picked = _picked(images, _nearest(preprocessing, axis), number)
        return jnp.where(_shaped(axis.inside, number), picked, 0)
    starts, taps, weight_of = _runs(preprocessing, axis)
    floats = preprocessing.resize == "float"
    kind = jnp.float32 if floats else jnp.int32

    def tap(t: jax.Array, total: jax.Array) -> jax.Array:
        weight = weight_of(t)
        weight = weight.astype(kind) if floats else resample.fixed_point(weight)
        return total + _picked(images, starts + t, number).astype(kind) * _shaped(weight, number)

    shape = tuple(axis.length if i == number else side for i, side in enumerate(images.shape))
    total = lax.fori_loop(0, taps, tap, jnp.zeros(shape, kind))
    return total if floats else resample.rounded_8bit(total)


def _picked(images: jax.Array, numbers: jax.Array, axis: int) -> jax.Array:
    return jnp.take(images, numbers.astype(jnp.int32), axis=axis, mode="clip")


def _shaped(values: jax.Array, axis: int) -> jax.Array:
    return values.reshape([-1 if i == axis else 1 for i in range(4)])


def _runs(preprocessing: Preprocessing, axis: _Axis) -> tuple[jax.Array, jax.Array, Callable[[jax.Array], jax.Array]]:
    """The pixels that each of the kept ones is made from, as `resample.band` has them.

    The first of each run, int64 (length,); the pixels of the longest; t -> the weights of the pixels `starts` + t,
    float64 (length,), 0 past the end of a run.
    """
    radius, kernel = resample.KERNELS[preprocessing.interpolation]
    size, scale = axis.size, axis.size.astype(jnp.float64) / axis.resized.astype(jnp.float64)
    antialias = preprocessing.antialias or not gives_floats(preprocessing)
    stretch = jnp.maximum(scale, 1.0) if antialias else jnp.ones((), jnp.float64)
    support, centres = radius * stretch, (axis.kept + 0.5) * scale
    starts = jnp.maximum((centres - support + 0.5).astype(jnp.int64), 0)
    stops = jnp.where(axis.inside, jnp.minimum((centres + support + 0.5).astype(jnp.int64), size), 0)
    taps = jnp.max(stops - starts)

    def unscaled(t: jax.Array) -> jax.Array:
        weight = kernel((starts + t - centres + 0.5) * (1.0 / stretch))
        return jnp.where(starts + t < stops, weight, 0.0)

    total = lax.fori_loop(0, taps, lambda t, sums: sums + unscaled(t), jnp.zeros(axis.length, jnp.float64))
    divisor = jnp.where(total == 0.0, 1.0, total)
    return starts, taps, lambda t: unscaled(t) / divisor


def _nearest(preprocessing: Preprocessing, axis: _Axis) -> jax.Array:
    """The numbers of the nearest pixels, as `resample.nearest_indices`: int64 (length,); any number where outside."""
    if preprocessing.resize == "float":
        step = axis.size.astype(jnp.float32) * (np.float32(1) / axis.resized.astype(jnp.float32))
        return jnp.minimum(((axis.kept.astype(jnp.float32) + np.float32(0.5)) * step).astype(jnp.int64), axis.size - 1)
    step = axis.size.astype(jnp.float64) / axis.resized.astype(jnp.float64)
    # a running sum from the first of the resized pixels on, in their order, as Pillow has it
    first = lax.fori_loop(0, jnp.maximum(axis.offset, 0), lambda _, centre: centre + step, step * 0.5)

    def one(centre: jax.Array, number: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.where(number < 0, centre, centre + step), centre

    _, centres = lax.scan(one, first, axis.kept)
    return jnp.minimum(centres.astype(jnp.int64), axis.size - 1)
