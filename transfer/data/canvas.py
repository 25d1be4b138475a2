"""Images of several sizes in one array, and the program that resizes them all: Pillow's pixels, on the device.

On a machine with an accelerator, resizing by the host takes longer than decoding and starves the device. Each image
lies in the upper left corner of a canvas that has room for the largest of its batch, beside the two bands
(`transfer.preprocess.resample`) that resize it, as arrays; so one program serves all sizes that share a canvas.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transfer.data.buffers import Buffers
from transfer.preprocess import recipe, resample
from transfer.preprocess.recipe import Preprocessing

# Images with a longer side (pixels), or that take longer sums, are resized by the host and copied into their canvas.
LARGEST_SIDE = 1024
MOST_TAPS = 16


class Bands(NamedTuple):
    """For each output pixel of an axis: where its run of input pixels starts, and their weights (22 bits, int32).

    starts: (out,) int32; weights: (out, taps) int32. Of a batch: one axis more in front. Weights of zero give black.
    """

    row_starts: np.ndarray
    row_weights: np.ndarray
    column_starts: np.ndarray
    column_weights: np.ndarray


@functools.lru_cache(maxsize=2048)  # 10 KB each
def bands(preprocessing: Preprocessing, height: int, width: int) -> Bands | None:
    """The bands of images of this size, None where the host has to resize them."""
    if max(height, width) > LARGEST_SIDE:
        return None
    rows, columns, rows_first = recipe.bands(preprocessing, height, width)
    if rows_first or max(rows.weights.shape[1], columns.weights.shape[1]) > MOST_TAPS:
        return None
    return Bands(*_fixed(rows), *_fixed(columns))


def _fixed(band: resample.Band) -> tuple[np.ndarray, np.ndarray]:
    return band.starts.astype(np.int32), resample.fixed_point(band.weights)


@functools.cache
def copying(size: tuple[int, int]) -> Bands:
    """The bands of an image that has the network's size already."""
    rows, columns = (_fixed(resample.Band(np.arange(side), np.ones((side, 1)))) for side in size)
    return Bands(*rows, *columns)


def assemble(
    images: Sequence[np.ndarray | None], each: Sequence[Bands | None], buffers: Buffers
) -> tuple[np.ndarray, Bands]:
    """(B, h, w, 3) uint8 canvases and their bands, for `resize`; outside of the image, a canvas holds anything.

    Args:
        images: (h, w, 3) uint8 each; None is one that failed or is padding, and comes out black.
        each: their bands; at least one is not None.
    """
    sizes = [image.shape[:2] for image in images if image is not None]
    height, width = (_rounded_up(max(sides)) for sides in zip(*sizes, strict=True))
    canvases = buffers.array((len(images), height, width, 3))
    for canvas, image in zip(canvases, images, strict=True):
        if image is not None:
            canvas[: image.shape[0], : image.shape[1]] = image
    return canvases, _stacked(each)


def _rounded_up(side: int) -> int:
    """A side of a canvas for it, 16, 24, 32, 48, 64, 96, …: few canvases and so few compilations."""
    powers = (1 << exponent for exponent in range(4, 32))
    return next(size for power in powers for size in (power, power + power // 2) if size >= side)


def _stacked(each: Sequence[Bands | None]) -> Bands:
    present = [(place, bands_) for place, bands_ in enumerate(each) if bands_ is not None]
    stacked = []
    for field, example in enumerate(present[0][1]):
        width = max(bands_[field].shape[-1] for _, bands_ in present)
        if example.ndim == 2:
            width += width % 2  # so that fewer shapes are compiled
        array: np.ndarray = np.zeros((len(each), *example.shape[:-1], width), np.int32)
        for place, bands_ in present:
            array[place, ..., : bands_[field].shape[-1]] = bands_[field]
        stacked.append(array)
    return Bands(*stacked)


@jax.jit
def resize(canvases: jax.Array, bands_: Bands) -> jax.Array:
    """(B, h, w, 3) uint8 and their bands -> (B, H, W, 3) uint8 in the network's size."""

    def resize_one(image: jax.Array, bands_: Bands) -> jax.Array:
        image = _resize_axis(image, bands_.column_starts, bands_.column_weights, axis=1)
        return _resize_axis(image, bands_.row_starts, bands_.row_weights, axis=0)

    return jax.vmap(resize_one)(canvases, bands_)


def _resize_axis(
    image: jax.Array, starts: jax.Array | np.ndarray, weights: jax.Array | np.ndarray, axis: int
) -> jax.Array:
    shape = [1] * image.ndim
    shape[axis] = len(starts)

    def tap(t: int) -> jax.Array:
        pixels = jnp.take(image, starts + t, axis=axis, mode="clip")
        return pixels.astype(weights.dtype) * weights[:, t].reshape(shape)

    return resample.rounded_8bit(functools.reduce(jnp.add, map(tap, range(weights.shape[1]))))
