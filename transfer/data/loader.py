"""Images of a source as batches of one shape, decoded ahead by threads, in order, none lost."""

import collections
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from transfer import preprocess
from transfer.data.source import BrokenImage, Source
from transfer.errors import TransferError, UsageError
from transfer.preprocess import Preprocessing

ON_ERROR = ("raise", "skip")
IMAGES_A_TASK = 256  # of `load_all`: large enough that handing out work costs nothing


LARGEST_ON_DEVICE = 1024 * 1024  # pixels; a batch of larger images is better resized before it travels


class Batch(NamedTuple):
    """Rows `start` to `start + size` of a source; the rest of `images` is zeros that keep the shape.

    `failed` are the rows of the source (not of the batch) that could not be decoded; their images are zeros.
    """

    images: np.ndarray  # (batch_size, h, w, 3) uint8, or float32 where the host resized in floats
    start: int
    size: int
    failed: list[int]


def default_workers() -> int:
    """One thread a core that this process may use, at most 16."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 16)


def resizes_on_host(source: Source) -> bool:
    """Whether `batches` resizes by its `preprocessing`: sizes are mixed, or one size that is very large."""
    shape = source.uniform_shape
    return shape is None or shape[0] * shape[1] > LARGEST_ON_DEVICE


def batches(
    source: Source,
    start: int,
    stop: int,
    batch_size: int,
    preprocessing: Preprocessing | None,
    on_error: str = "raise",
    prefetch: int = 2,
    workers: int | None = None,
) -> Iterator[Batch]:
    """Yields rows `start` to `stop` of `source` in order, `batch_size` at a time, the last one padded with zeros.

    Where `resizes_on_host(source)` the images are resized here by `preprocessing` (uint8 or float32, not yet
    normalised). Others keep their size, uint8, to be resized on the device; so do all without `preprocessing`.
    `prefetch` batches are decoded ahead by `workers` threads.

    Raises UsageError for an unknown `on_error`, TransferError where mixed sizes meet no `preprocessing`, and with
    on_error="raise" the BrokenImage of the first image that fails; "skip" lists it in `Batch.failed` instead.
    """
    _check(on_error)
    frame = _frame(source, preprocessing)
    workers = workers or default_workers()
    starts = iter(range(start, stop, batch_size))
    pending: collections.deque[tuple[Batch, list[Future]]] = collections.deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")

    def submit() -> None:
        first = next(starts, None)
        if first is None:
            return
        last = min(first + batch_size, stop)
        batch = Batch(np.zeros((batch_size, *frame.shape), frame.dtype), first, last - first, [])
        step = -(-batch.size // workers)
        shares = [range(a, min(a + step, last)) for a in range(first, last, step)]
        pending.append((batch, [pool.submit(_fill, source, rows, batch, frame.recipe, on_error) for rows in shares]))

    try:
        for _ in range(prefetch + 1):
            submit()
        while pending:
            batch, futures = pending.popleft()
            for future in futures:
                future.result()
            submit()
            batch.failed.sort()
            yield batch
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Frame(NamedTuple):
    """What one image of a batch is; `recipe` resizes it, None leaves it as it is."""

    shape: tuple[int, int, int]
    dtype: type
    recipe: Preprocessing | None


def _frame(source: Source, preprocessing: Preprocessing | None) -> _Frame:
    if preprocessing is not None and resizes_on_host(source):
        return _resized_frame(preprocessing)
    shape = source.uniform_shape
    if shape is None:
        raise TransferError(f"{source.name}: images of several sizes need a size to resize to")
    return _Frame(shape, np.uint8, None)


def _resized_frame(preprocessing: Preprocessing) -> _Frame:
    floats = preprocessing.resize == "float" and preprocessing.interpolation != "nearest"
    return _Frame((*preprocessing.image_size, 3), np.float32 if floats else np.uint8, preprocessing)


def _check(on_error: str) -> None:
    if on_error not in ON_ERROR:
        raise UsageError(f"on_error={on_error!r} is not one of {', '.join(ON_ERROR)}")


def _fill(source: Source, rows: range, batch: Batch, recipe: Preprocessing | None, on_error: str) -> None:
    for row in rows:
        try:
            image = source.image(row)
        except BrokenImage:
            if on_error == "raise":
                raise
            batch.failed.append(row)
            continue
        if recipe is not None:
            image = preprocess.resize_on_host(recipe, image)
        elif image.shape != batch.images.shape[1:]:
            raise TransferError(f"{source.name}: {source.ids[row]} is {image.shape}, others {batch.images.shape[1:]}")
        batch.images[row - batch.start] = image


def load_all(source: Source, preprocessing: Preprocessing | None = None, workers: int | None = None) -> np.ndarray:
    """All images of a source, decoded by threads: (N, h, w, 3) uint8, all of one size.

    With `preprocessing`, images of any size are resized here, not yet normalised (float32 where it resizes in floats).

    Raises BrokenImage for an image that cannot be decoded and TransferError where a size differs, naming it.
    """
    if not len(source):
        raise TransferError(f"{source.name}: holds no images")
    frame = _Frame(source.image(0).shape, np.uint8, None) if preprocessing is None else _resized_frame(preprocessing)
    images: np.ndarray = np.zeros((len(source), *frame.shape), frame.dtype)
    batch = Batch(images, 0, len(source), [])
    with ThreadPoolExecutor(workers or default_workers(), thread_name_prefix="decode") as pool:
        tasks = [
            pool.submit(_fill, source, range(a, min(a + IMAGES_A_TASK, len(source))), batch, frame.recipe, "raise")
            for a in range(0, len(source), IMAGES_A_TASK)
        ]
        try:
            for task in tasks:
                task.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return images
