"""What a data set is to the rest of the package: RGB images and what they show, listed at once, read one by one."""

import abc
import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from absl import logging

from transfer.data.ids import LazyIds, numbered
from transfer.errors import TransferError
from transfer.runtime.files.untrusted import MAX_CLASSES

TEXTS_AT_ONCE = 1 << 16
# What is known of an image: its class, which of several labels it has, or numbers.
TARGETS = ("classes", "labels", "values")


class BrokenImage(TransferError):
    """One image cannot be decoded; `on_error="skip"` may drop it. The message names it."""


class Source(abc.ABC):
    """Images, each with its class, with several labels, or with values.

    Attributes:
      name: the spec that opened it and its split, for messages.
      target: what is known of an image: "classes", "labels" or "values", as `config.head.target` has it.
      class_names: name of each class, in the order of the labels; of several labels and of values, of each column;
        none where images have no labels.
      labels: (N,) int64, indices into `class_names`; (N, L) float32 of 0 and 1; or (N, T) float32.
      groups: (N,) int64, alike where images belong together, as those of a patient do; None: each stands for itself.
      ids: N strings that stay the same between runs: the relative path, or "train/000123".
      in_order: whether images are read much faster in their order than in another.
      left_out: lines on what of the data set is not among the images, as `leave_out` logs them.
    """

    in_order: bool = False
    left_out: tuple[str, ...] = ()
    target: str = "classes"
    groups: np.ndarray | None = None
    name: str
    class_names: tuple[str, ...]
    labels: np.ndarray
    ids: Sequence[str]

    def __len__(self) -> int:
        return len(self.ids)

    def leave_out(self, what: str) -> None:
        """Warns of something of the data set that is not among the images, in a line that `left_out` keeps."""
        self.left_out += (f"{self.name}: {what}",)
        logging.warning("%s: %s", self.name, what)

    def renumber(self, class_names: tuple[str, ...]) -> None:
        """Makes `class_names`, which has all names of the source and perhaps more, those of the source."""
        number = {name: place for place, name in enumerate(class_names)}
        places, labels = np.array([number[name] for name in self.class_names], np.int64), self.labels
        if self.target == "classes":
            self.labels = places[labels]
        else:
            self.labels = np.zeros((len(labels), len(class_names)), labels.dtype)
            self.labels[:, places] = labels
        self.class_names = class_names

    @abc.abstractmethod
    def image(self, index: int) -> np.ndarray:
        """Image `index` as (h, w, 3) uint8, RGB, grey repeated. Raises BrokenImage. Called from many threads."""

    def image_into(
        self, index: int, out: np.ndarray | None = None, divisor: Callable[[int, int], int] | None = None
    ) -> np.ndarray:
        """`image(index)`, where the source can and it saves a copy in `out`: contiguous uint8 memory with room for it.

        `divisor(h, w)` is by how much a JPEG's decoder may divide the sides of the image; pixels of another kind come
        at their size. Raises BrokenImage, and `out` may then hold anything.
        """
        return self.image(index)

    @functools.cached_property
    def uniform_shape(self) -> tuple[int, int, int] | None:
        """The shape (h, w, 3) of every image, None where sizes differ or are not known without decoding."""
        return self.shared_shape(range(len(self)))

    @abc.abstractmethod
    def shared_shape(self, indices: Iterable[int]) -> tuple[int, int, int] | None:
        """`uniform_shape` of the images `indices`."""

    def file_stamps(self, rows: Sequence[int]) -> np.ndarray | None:
        """A number, int64, for each of some images that changes when its file is written to, moved or copied.

        None where the images are no files of their own, so that `fingerprint` has seen all of them.
        """
        return None

    def file_checksums(self, rows: Sequence[int]) -> np.ndarray:
        """CRC-32 of the files of some images as they are now, int64; -1 of what cannot be read."""
        return np.full(len(rows), -1, np.int64)

    def file_checksums_read(self, rows: Sequence[int]) -> np.ndarray | None:
        """`file_checksums` as the images were read, -1 of those that were not; None where there are no files."""
        return None

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Hex digest of what is listed: ids, labels, class names, sizes or checksums of images; no dates or paths."""


def digest(source: Source, content: Iterable[bytes | memoryview]) -> str:
    """SHA-256 of the ids, labels and class names of a source and of what stands for its pixels."""
    hasher = hashlib.sha256()
    for texts in (source.ids, source.class_names):
        hasher.update(f"{sum(map(len, texts)) + max(len(texts) - 1, 0)}:".encode())
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            text = "\n" * (start > 0) + "\n".join(texts[start : start + TEXTS_AT_ONCE])
            hasher.update(text.encode("utf-8", "surrogateescape"))
    if source.target == "classes":
        hasher.update(np.ascontiguousarray(source.labels, "<i8").tobytes())
    else:
        hasher.update(source.target.encode() + np.ascontiguousarray(source.labels, "<f4").tobytes())
    for part in content:
        hasher.update(part)
    return hasher.hexdigest()


def rows_of_each(source: Source, labels: np.ndarray) -> np.ndarray:
    """How many of some labels of a source are of each class, or have each label, int64 (C,); of values all of them."""
    if source.target == "classes":
        return np.bincount(labels, minlength=len(source.class_names))[: len(source.class_names)]
    return (labels > 0 if source.target == "labels" else np.ones_like(labels, bool)).sum(axis=0)


def checked_labels(labels: object, count: int, where: str, num_classes: int | None = None) -> np.ndarray:
    """Labels of shape (N,) or (N, 1) as int64 (count,); raises TransferError naming `where` otherwise."""
    try:
        array = np.asarray(labels)
    except ValueError as error:  # lists of unlike lengths
        raise TransferError(f"{where}: labels that are no array") from error
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise TransferError(f"{where}: labels of shape {array.shape}; expected (N,) or (N, 1)")
    if len(array) != count:
        raise TransferError(f"{where}: {count} images but {len(array)} labels")
    if array.dtype.kind not in "iuf" or not np.all(array == np.floor(array)):
        raise TransferError(f"{where}: labels of type {array.dtype}; expected whole numbers")
    if count and array.min() < 0:
        raise TransferError(f"{where}: a label is negative ({int(array.min())})")
    if count and num_classes is not None and array.max() >= num_classes:
        raise TransferError(f"{where}: label {int(array.max())} among {num_classes} classes")
    if count and array.max() >= MAX_CLASSES:
        raise TransferError(f"{where}: a label is {array.max()}; there may be {MAX_CLASSES} classes")
    return array.astype(np.int64)


class ArraySource(Source):
    """Images that lie in memory as one array, (N, h, w), (N, h, w, 1) or (N, h, w, 3) uint8.

    Labels are (N,) or (N, 1), or a column of 0 and 1 for each class, of which one or several may be 1. `class_names`
    left out, the classes are the labels that occur. A `split` leads the ids ("train" -> "train/000123").
    Raises TransferError naming `name` where images and labels do not fit together.
    """

    def __init__(
        self,
        name: str,
        images: np.ndarray,
        labels: object,
        class_names: Sequence[str] | None = None,
        split: str | None = None,
    ) -> None:
        kind = getattr(images, "dtype", type(images).__name__)
        if kind != np.uint8:
            raise TransferError(f"{name}: images of type {kind}; expected a uint8 array")
        if images.ndim == 3:
            images = images[..., None]
        if images.ndim != 4 or images.shape[-1] not in (1, 3):
            raise TransferError(f"{name}: images of shape {images.shape}; expected (N, height, width, 3 or 1)")
        if not images.size:
            raise TransferError(f"{name}: holds no images")
        self.name, self.images = name, images
        marks = labels if isinstance(labels, np.ndarray) and labels.ndim == 2 and labels.shape[1] > 1 else None
        if marks is not None and len(marks) == len(images) and marks.any() and np.isin(marks, (0, 1)).all():
            class_names = class_names or list(map(str, range(marks.shape[1])))
            labels = marks.argmax(axis=1)  # one-hot
            self.target = "classes" if (marks.sum(axis=1) == 1).all() else "labels"
        self.labels = checked_labels(labels, len(images), name, None if class_names is None else len(class_names))
        if marks is not None and self.target == "labels":
            self.labels = marks.astype(np.float32)
        if class_names is None:  # numbered from 1 on, or with gaps: there is no class without an image
            numbers, self.labels = np.unique(self.labels, return_inverse=True)
            class_names = list(map(str, numbers.tolist()))
        self.class_names = tuple(class_names)
        self.ids = numbered(len(images), split)

    def image(self, index: int) -> np.ndarray:
        image = self.images[index]
        return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image

    def shared_shape(self, indices: Iterable[int]) -> tuple[int, int, int]:
        return (*self.images.shape[1:3], 3)

    @functools.cached_property
    def fingerprint(self) -> str:
        return digest(self, (repr(self.images.shape).encode(), np.ascontiguousarray(self.images).data))


class Selection(Source):
    """Some images of another source, in the order of `indices`."""

    def __init__(self, source: Source, indices: Sequence[int] | np.ndarray) -> None:
        self.source, self.indices = source, np.asarray(indices, np.int64).reshape(-1)
        self.name, self.class_names, self.in_order = source.name, source.class_names, source.in_order
        self.left_out = source.left_out
        self.target, self.labels = source.target, source.labels[self.indices]
        self.groups = None if source.groups is None else source.groups[self.indices]
        self.ids = LazyIds(len(self.indices), lambda row: source.ids[int(self.indices[row])])

    def image(self, index: int) -> np.ndarray:
        return self.source.image(int(self.indices[index]))

    def image_into(
        self, index: int, out: np.ndarray | None = None, divisor: Callable[[int, int], int] | None = None
    ) -> np.ndarray:
        return self.source.image_into(int(self.indices[index]), out, divisor)

    def shared_shape(self, indices: Iterable[int]) -> tuple[int, int, int] | None:
        return self.source.shared_shape(int(self.indices[i]) for i in indices)

    def file_stamps(self, rows: Sequence[int]) -> np.ndarray | None:
        return self.source.file_stamps(self.indices[rows].tolist())

    def file_checksums(self, rows: Sequence[int]) -> np.ndarray:
        return self.source.file_checksums(self.indices[rows].tolist())

    def file_checksums_read(self, rows: Sequence[int]) -> np.ndarray | None:
        return self.source.file_checksums_read(self.indices[rows].tolist())

    @functools.cached_property
    def fingerprint(self) -> str:
        return digest(self, (self.source.fingerprint.encode(), self.indices.astype("<i8").tobytes()))


def select(source: Source, indices: Sequence[int] | np.ndarray) -> Source:
    """The images `indices` of `source`, in that order, as a source of their own; nothing is read."""
    return Selection(source, indices)
