"""What becomes of an image on its way into a batch: it stays, is resized here, or goes into a canvas."""

import abc
import functools

import numpy as np

from transfer import preprocess
from transfer.data import canvas
from transfer.data.canvas import Bands
from transfer.data.decode import Divisor
from transfer.data.source import Source
from transfer.errors import TransferError
from transfer.preprocess import Preprocessing

LARGEST_ON_DEVICE = 1024 * 1024  # pixels; a batch of larger images is better resized before it travels


def needs_resizing(source: Source, preprocessing: Preprocessing | None = None) -> bool:
    """Whether images do not simply travel at their size: sizes are mixed, or very large, or shrunk as they decode."""
    shape = source.uniform_shape
    if shape is None or shape[0] * shape[1] > LARGEST_ON_DEVICE:
        return True
    divisor = divisor_of(preprocessing)
    return divisor is not None and divisor(*shape[:2]) > 1


def divisor_of(preprocessing: Preprocessing | None) -> Divisor | None:
    """How JPEGs are shrunk as they decode: not at all but for `resize="draft"`."""
    if preprocessing is None or preprocessing.resize != "draft":
        return None
    return functools.partial(preprocess.draft_divisor, preprocessing)


class Frame(abc.ABC):
    """Where the images of one batch gather, by its threads, each row by one of them."""

    @abc.abstractmethod
    def put(self, source: Source, row: int, slot: int) -> None:
        """Loads image `row` of the source as number `slot` of the batch; BrokenImage if it cannot be."""

    @abc.abstractmethod
    def drop(self, slot: int) -> None:
        """Leaves zeros, whatever a failed `put` left."""

    def finish(self) -> tuple[np.ndarray, Bands | None]:
        """(images, bands if they are canvases) when every slot is filled."""
        raise NotImplementedError


class Array(Frame):
    """One array of `shape` (B, h, w, 3): images of one size, decoded into it, or any, resized by a `recipe`."""

    def __init__(self, shape: tuple[int, ...], dtype: type = np.uint8, recipe: Preprocessing | None = None) -> None:
        self.images: np.ndarray = np.zeros(shape, dtype)
        self.recipe, self.divisor = recipe, divisor_of(recipe)

    def put(self, source: Source, row: int, slot: int) -> None:
        place = self.images[slot]
        if self.recipe is not None:
            place[...] = preprocess.resize_on_host(self.recipe, source.image_into(row, divisor=self.divisor))
            return
        image = source.image_into(row, place)
        if image.shape != place.shape:
            raise TransferError(f"{source.name}: {source.ids[row]} is {image.shape}, others {place.shape}")
        if image is not place:
            place[...] = image

    def drop(self, slot: int) -> None:
        self.images[slot] = 0

    def finish(self) -> tuple[np.ndarray, None]:
        return self.images, None


class Canvases(Frame):
    """Images of any size, for the device to resize by `recipe`."""

    def __init__(self, batch_size: int, recipe: Preprocessing) -> None:
        self.recipe, self.divisor = recipe, divisor_of(recipe)
        self.images: list[np.ndarray | None] = [None] * batch_size
        self.bands: list[Bands | None] = [None] * batch_size

    def put(self, source: Source, row: int, slot: int) -> None:
        image = source.image_into(row, divisor=self.divisor)
        bands = canvas.bands(self.recipe, *image.shape[:2])
        if bands is None:
            image, bands = preprocess.resize_on_host(self.recipe, image), canvas.copying(self.recipe.image_size)
        self.images[slot], self.bands[slot] = image, bands

    def drop(self, slot: int) -> None:
        self.images[slot] = self.bands[slot] = None

    def finish(self) -> tuple[np.ndarray, Bands]:
        if not any(bands is not None for bands in self.bands):  # none could be read
            size = self.recipe.image_size
            self.images[0], self.bands[0] = np.zeros((*size, 3), np.uint8), canvas.copying(size)
        images = canvas.assemble(self.images, self.bands)
        self.images.clear()
        return images


def resized(batch_size: int, preprocessing: Preprocessing) -> Array:
    """A frame of images that are resized by the host."""
    dtype = np.float32 if preprocess.gives_floats(preprocessing) else np.uint8
    return Array((batch_size, *preprocessing.image_size, 3), dtype, preprocessing)
