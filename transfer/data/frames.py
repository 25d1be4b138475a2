"""What becomes of an image on its way into a batch: it stays, is resized here, or goes into a canvas.

An `Array` and `Canvases` are where the images of one batch gather, by its threads, each row by one of them:

    put(source, row, slot)  loads image `row` of the source as number `slot` of the batch; BrokenImage if it cannot
    drop(slot)              leaves zeros, whatever a failed `put` left
    finish()                (images, bands if they are canvases) when every slot is filled
"""

import functools
import threading
from collections.abc import Callable

import numpy as np

from transfer.data import canvas
from transfer.data.buffers import Buffers
from transfer.data.canvas import Bands
from transfer.data.decode import Divisor
from transfer.data.source import Source
from transfer.errors import TransferError
from transfer.preprocess import recipe as preprocess
from transfer.preprocess.recipe import Preprocessing

LARGEST_ON_DEVICE = 1024 * 1024  # pixels; a batch of larger images is better resized before it travels


def needs_resizing(source: Source, preprocessing: Preprocessing | None = None) -> bool:
    """Whether images do not simply travel at their size: sizes are mixed, or very large, or shrunk as they decode."""
    shape = source.uniform_shape
    if shape is None or shape[0] * shape[1] > LARGEST_ON_DEVICE:
        return True
    divisor = _draft_divisor(preprocessing)
    return divisor is not None and divisor(*shape[:2]) > 1


def _draft_divisor(preprocessing: Preprocessing | None) -> Divisor | None:
    """How JPEGs are shrunk as they decode: not at all but for `resize="draft"`."""
    if preprocessing is None or preprocessing.resize != "draft":
        return None
    return functools.partial(preprocess.draft_divisor, preprocessing)


_OF_THREAD = threading.local()


def _scratch() -> np.ndarray:
    """Memory that each thread decodes into again and again; it lives as long as the thread."""
    if not hasattr(_OF_THREAD, "scratch"):
        _OF_THREAD.scratch = np.empty(LARGEST_ON_DEVICE * 3, np.uint8)
    return _OF_THREAD.scratch


class Array:
    """One array (B, h, w, 3): images of one size, decoded into it, or any, resized by `preprocessing`.

    Slots from `used` on are left black.
    """

    def __init__(self, images: np.ndarray, used: int, preprocessing: Preprocessing | None = None) -> None:
        self.images, self.preprocessing, self.divisor = images, preprocessing, _draft_divisor(preprocessing)
        images[used:] = 0

    def put(self, source: Source, row: int, slot: int) -> None:
        place = self.images[slot]
        if self.preprocessing is not None:
            image = source.image_into(row, _scratch(), self.divisor)
            place[...] = preprocess.resize_on_host(self.preprocessing, image)
            return
        image = source.image_into(row, place)
        if image.shape != place.shape:
            raise TransferError(f"{source.name}: {source.ids[row]} is {image.shape}, others {place.shape}")
        if not np.may_share_memory(image, place):
            place[...] = image

    def drop(self, slot: int) -> None:
        self.images[slot] = 0

    def finish(self) -> tuple[np.ndarray, None]:
        return self.images, None


class Canvases:
    """Images of any size, for the device to resize; what they are decoded into comes from `rough`."""

    def __init__(self, batch_size: int, preprocessing: Preprocessing, buffers: Buffers, rough: Buffers) -> None:
        self.preprocessing, self.divisor, self.buffers = preprocessing, _draft_divisor(preprocessing), buffers
        # room for the largest; pages that no image needs are never touched
        self.room: np.ndarray | None = rough.array((batch_size, canvas.LARGEST_SIDE**2 * 3))
        self.items: list[tuple[np.ndarray, Bands] | None] = [None] * batch_size

    def put(self, source: Source, row: int, slot: int) -> None:
        assert self.room is not None
        image = source.image_into(row, self.room[slot], self.divisor)
        bands = canvas.bands_of_size(self.preprocessing, *image.shape[:2])
        if bands is None:
            image = preprocess.resize_on_host(self.preprocessing, image)
            bands = canvas.identity_bands(self.preprocessing.image_size)
        self.items[slot] = image, bands

    def drop(self, slot: int) -> None:
        self.items[slot] = None

    def finish(self) -> tuple[np.ndarray, Bands]:
        if not any(self.items):  # none could be read
            size = self.preprocessing.image_size
            self.items[0] = np.zeros((*size, 3), np.uint8), canvas.identity_bands(size)
        finished = canvas.assemble(self.items, self.buffers)
        self.items, self.room = [], None
        return finished


def frames(
    source: Source, batch_size: int, preprocessing: Preprocessing | None, canvases: bool
) -> Callable[[int], Array | Canvases]:
    """A function that makes the frame of a batch of so many images, `batch_size` at most.

    Raises TransferError where images of several sizes meet no `preprocessing`.
    """
    buffers, shape = Buffers(), source.uniform_shape
    if preprocessing is None or not needs_resizing(source, preprocessing):
        if shape is None:
            raise TransferError(f"{source.name}: images of several sizes need a size to resize to")
        return lambda used: Array(buffers.array((batch_size, *shape)), used)
    if canvases and not preprocess.gives_floats(preprocessing):  # canvases give 8 bits
        rough = Buffers(huge_pages=False)
        return lambda used: Canvases(batch_size, preprocessing, buffers, rough)
    return lambda used: Array(buffers.array(*resized_as(preprocessing, batch_size)), used, preprocessing)


def resized_as(preprocessing: Preprocessing, count: int) -> tuple[tuple[int, ...], type]:
    """The (shape, dtype) of so many images that the host has resized."""
    dtype = np.float32 if preprocess.gives_floats(preprocessing) else np.uint8
    return (count, *preprocessing.image_size, 3), dtype
