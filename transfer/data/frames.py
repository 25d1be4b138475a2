"""The images of a batch, each decoded into its place: as it is, resized by the host, or in a canvas for the device.

An `Array` and `Canvases` are where the images of one batch gather, by its threads, each row by one of them:

    put(source, row, slot)  loads image `row` of the source as number `slot` of the batch; BrokenImage if it cannot
    drop(slot)              leaves zeros, whatever a failed `put` left
    finish()                (images, bands if they are canvases) when every slot is filled

On a machine with an accelerator, resizing by the host takes longer than decoding and starves the device. So images of
several sizes travel in canvases: each in the upper left corner of one that has room for the largest of its batch,
beside the two bands (`transfer.preprocess.resample`) that resize it. One program gives Pillow's pixels of all that
share a size of canvas.
"""

import functools
import mmap
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from transfer.data.decode import Divisor
from transfer.data.source import Source
from transfer.errors import TransferError
from transfer.preprocess import recipe, resample
from transfer.preprocess.recipe import Preprocessing

LARGEST_ON_DEVICE = 1024 * 1024  # pixels; a batch of larger images is better resized before it travels
# Images with a longer side (pixels), or that take longer sums, are resized by the host and copied into their canvas.
LARGEST_SIDE = 1024
MOST_TAPS = 16
_HUGE_PAGES = getattr(mmap, "MADV_HUGEPAGE", None)  # Linux only
# Python's default is shared memory, which has no huge pages.
_PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}


class Buffers:
    """Hands out arrays; the memory of one is used again as soon as nothing refers to it, slices and devices included.

    A new array of a batch's size costs its page faults, which take as long as decoding into it: with 2 threads, a JPEG
    of 1000x750 takes 4.0 ms of a core in a new array, 2.4 ms in one that was used before.

    From any thread. It holds as much memory as was in use at one time.
    """

    def __init__(self, huge_pages: bool = True) -> None:
        self._huge_pages = huge_pages
        self._free: list[mmap.mmap] = []
        self._lock = threading.Lock()

    def array(self, shape: tuple[int, ...], dtype: type = np.uint8) -> np.ndarray:
        """Returns an array that begins at a page, so that a CPU device may take it as it is; it holds anything."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = self._take(max(size, 1))
        # what is made of `flat` refers to it and not to the array it was made of, so it dies last
        flat = np.frombuffer(memory, np.uint8)
        weakref.finalize(flat, self._free.append, memory).atexit = False
        return flat[:size].view(dtype).reshape(shape)

    def _take(self, size: int) -> mmap.mmap:
        # no lock where memory comes back: that happens at any moment, in any thread, this one too
        with self._lock:
            fitting = sorted((memory for memory in list(self._free) if len(memory) >= size), key=len)
            if fitting:
                self._free.remove(fitting[0])
                return fitting[0]
            self._free.clear()  # what is free is too small, or nothing is
        memory = mmap.mmap(-1, size, **_PRIVATE)
        if self._huge_pages and _HUGE_PAGES is not None:
            memory.madvise(_HUGE_PAGES)
        return memory


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
    return functools.partial(recipe.draft_divisor, preprocessing)


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
            place[...] = recipe.resize_on_host(self.preprocessing, image)
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
        self.room: np.ndarray | None = rough.array((batch_size, LARGEST_SIDE**2 * 3))
        self.items: list[tuple[np.ndarray, Bands] | None] = [None] * batch_size

    def put(self, source: Source, row: int, slot: int) -> None:
        assert self.room is not None
        image = source.image_into(row, self.room[slot], self.divisor)
        bands = bands_of_size(self.preprocessing, *image.shape[:2])
        if bands is None:
            image = recipe.resize_on_host(self.preprocessing, image)
            bands = identity_bands(self.preprocessing.image_size)
        self.items[slot] = image, bands

    def drop(self, slot: int) -> None:
        self.items[slot] = None

    def finish(self) -> tuple[np.ndarray, Bands]:
        if not any(self.items):  # none could be read
            size = self.preprocessing.image_size
            self.items[0] = np.zeros((*size, 3), np.uint8), identity_bands(size)
        finished = assemble(self.items, self.buffers)
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
    if canvases and not recipe.gives_floats(preprocessing):  # canvases give 8 bits
        rough = Buffers(huge_pages=False)
        return lambda used: Canvases(batch_size, preprocessing, buffers, rough)
    return lambda used: Array(buffers.array(*resized_as(preprocessing, batch_size)), used, preprocessing)


def resized_as(preprocessing: Preprocessing, count: int) -> tuple[tuple[int, ...], type]:
    """The (shape, dtype) of so many images that the host has resized."""
    dtype = np.float32 if recipe.gives_floats(preprocessing) else np.uint8
    return (count, *preprocessing.image_size, 3), dtype
