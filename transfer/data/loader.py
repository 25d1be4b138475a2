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

    Images of one size keep it, uint8, to be resized on the device. Images of mixed sizes are resized here by
    `preprocessing` (uint8 or float32, not yet normalised). `prefetch` batches are decoded ahead by `workers` threads.

    Raises UsageError for an unknown `on_error`, TransferError where mixed sizes meet no `preprocessing`, and with
    on_error="raise" the BrokenImage of the first image that fails; "skip" lists it in `Batch.failed` instead.
    """
    _check(on_error)
    shape, resized = source.uniform_shape, None
    if shape is None:
        if preprocessing is None:
            raise TransferError(f"{source.name}: images of several sizes need a size to resize to")
        shape, resized = (*preprocessing.image_size, 3), preprocessing
    floats = resized is not None and resized.resize == "float" and resized.interpolation != "nearest"
    workers = workers or default_workers()
    starts = iter(range(start, stop, batch_size))
    pending: collections.deque[tuple[Batch, list[Future]]] = collections.deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")

    def submit() -> None:
        first = next(starts, None)
        if first is None:
            return
        images = np.zeros((batch_size, *shape), np.float32 if floats else np.uint8)
        batch = Batch(images, first, min(batch_size, stop - first), [])
        step = -(-batch.size // workers)
        futures = [
            pool.submit(_fill, source, range(a, min(a + step, first + batch.size)), first, batch, resized, on_error)
            for a in range(first, first + batch.size, step)
        ]
        pending.append((batch, futures))

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


def _check(on_error: str) -> None:
    if on_error not in ON_ERROR:
        raise UsageError(f"on_error={on_error!r} is not one of {', '.join(ON_ERROR)}")


def _fill(source: Source, rows: range, first: int, batch: Batch, resized: Preprocessing | None, on_error: str) -> None:
    for row in rows:
        try:
            image = source.image(row)
        except BrokenImage:
            if on_error == "raise":
                raise
            batch.failed.append(row)
            continue
        if resized is not None:
            image = preprocess.resize_on_host(resized, image)
        elif image.shape != batch.images.shape[1:]:
            raise TransferError(f"{source.name}: {source.ids[row]} is {image.shape}, others {batch.images.shape[1:]}")
        batch.images[row - first] = image


def load_all(source: Source, workers: int | None = None) -> np.ndarray:
    """All images of a source whose images have one size, decoded by threads: (N, h, w, 3) uint8.

    Raises BrokenImage for an image that cannot be decoded and TransferError where a size differs, naming it.
    """
    if not len(source):
        raise TransferError(f"{source.name}: holds no images")
    images = np.zeros((len(source), *source.image(0).shape), np.uint8)
    batch = Batch(images, 0, len(source), [])
    with ThreadPoolExecutor(workers or default_workers(), thread_name_prefix="decode") as pool:
        tasks = [
            pool.submit(_fill, source, range(a, min(a + IMAGES_A_TASK, len(source))), 0, batch, None, "raise")
            for a in range(0, len(source), IMAGES_A_TASK)
        ]
        try:
            for task in tasks:
                task.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return images
