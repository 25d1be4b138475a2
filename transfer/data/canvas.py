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
    """The bands that resize an image: where the run of input pixels of each output pixel starts, and weights (22 bits).

    starts: (out,) int32; weights: (out, taps) int32. Of a batch: one axis more in front. Weights of zero give black.
    """

    row_starts: np.ndarray
    row_weights: np.ndarray
    column_starts: np.ndarray
    column_weights: np.ndarray


@functools.lru_cache(maxsize=2048)  # 10 KB each
def bands_of_size(preprocessing: Preprocessing, height: int, width: int) -> Bands | None:
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
def identity_bands(size: tuple[int, int]) -> Bands:
    """The bands of an image that has the network's size already."""
    rows, columns = (_fixed(resample.Band(np.arange(side), np.ones((side, 1)))) for side in size)
    return Bands(*rows, *columns)


def assemble(items: Sequence[tuple[np.ndarray, Bands] | None], buffers: Buffers) -> tuple[np.ndarray, Bands]:
    """Puts images into canvases, uint8 (B, h, w, 3), beside their bands, for `resize`.

    Outside of the image, a canvas holds anything.

    Args:
        items: image (h, w, 3) uint8 and its bands; None is one that failed or is padding, and comes out black. At
            least one is not None.
    """
    filled = [(slot, *item) for slot, item in enumerate(items) if item is not None]
    height, width = (_rounded_up(max(image.shape[axis] for _, image, _ in filled)) for axis in (0, 1))
    canvases = buffers.array((len(items), height, width, 3))
    for slot, image, _ in filled:
        canvases[slot, : image.shape[0], : image.shape[1]] = image
    fields = []
    for field, example in enumerate(filled[0][2]):
        length = max(bands[field].shape[-1] for _, _, bands in filled)
        if example.ndim == 2:
            length += length % 2  # so that fewer shapes are compiled
        array: np.ndarray = np.zeros((len(items), *example.shape[:-1], length), np.int32)
        for slot, _, bands in filled:
            array[slot, ..., : bands[field].shape[-1]] = bands[field]
        fields.append(array)
    return canvases, Bands(*fields)


def _rounded_up(side: int) -> int:
    """The next of 16, 24, 32, 48, 64, 96, …: few sizes of canvases and so few compilations."""
    powers = (1 << exponent for exponent in range(4, 32))
    return next(size for power in powers for size in (power, power + power // 2) if size >= side)


@jax.jit
def resize(canvases: jax.Array, bands: Bands) -> jax.Array:
    """Resizes canvases (B, h, w, 3) uint8 by their bands -> (B, H, W, 3) uint8 in the network's size."""

    def resize_one(image: jax.Array, bands: Bands) -> jax.Array:
        image = _resize_axis(image, bands.column_starts, bands.column_weights, axis=1)
        return _resize_axis(image, bands.row_starts, bands.row_weights, axis=0)

    return jax.vmap(resize_one)(canvases, bands)


def _resize_axis(
    image: jax.Array, starts: jax.Array | np.ndarray, weights: jax.Array | np.ndarray, axis: int
) -> jax.Array:
    shape = [1] * image.ndim
    shape[axis] = len(starts)

    def tap(t: int) -> jax.Array:
        pixels = jnp.take(image, starts + t, axis=axis, mode="clip")
        return pixels.astype(weights.dtype) * weights[:, t].reshape(shape)

    return resample.rounded_8bit(functools.reduce(jnp.add, map(tap, range(weights.shape[1]))))
