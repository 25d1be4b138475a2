"""Images of a source as batches of one shape, prepared ahead by threads, in order, none lost."""

import collections
import itertools
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from transfer.data.frames import Array, Bands, Canvases, frames, resized_as
from transfer.data.source import BrokenImage, Source
from transfer.errors import TransferError, UsageError
from transfer.preprocess.recipe import Preprocessing

ON_ERROR = ("raise", "skip")
IMAGES_A_TASK = 256  # of `load_all`: large enough that handing out work costs nothing
# Beyond these, threads of one process only wait for Python's lock.
MOST_WORKERS = 32


class Batch(NamedTuple):
    """Rows `start` to `start + size` of a source; the rest of `images` is zeros that keep the shape."""

    images: np.ndarray  # (batch_size, h, w, 3) uint8, or float32 where the host resized in floats
    start: int
    size: int
    failed: list[int]  # rows of the source (not of the batch) that could not be decoded; their images are zeros
    bands: Bands | None = None  # with them, `images` are canvases, which `frames.resize` resizes


def default_workers() -> int:
    """How many threads decode: one per core that this process may use, within reason."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_WORKERS)


def batches(
    source: Source,
    start: int,
    stop: int,
    batch_size: int,
    preprocessing: Preprocessing | None,
    on_error: str = "raise",
    prefetch: int = 2,
    workers: int | None = None,
    canvases: bool = False,
) -> Iterator[Batch]:
    """Yields rows `start` to `stop` of `source` in order, `batch_size` at a time, the last one padded with zeros.

    Where `needs_resizing(source, preprocessing)` the images are resized here by `preprocessing` (uint8 or float32,
    not yet normalised), or with `canvases` on the device, where the recipe allows it. Others keep their size, uint8,
    to be resized on the device; so do all without `preprocessing`.

    `prefetch` batches are prepared ahead by `workers` threads; no more than `prefetch` + 2 are in memory with the
    consumer's. The threads end with the iterator, also where it is closed early.

    Raises UsageError for an unknown `on_error`, TransferError where mixed sizes meet no `preprocessing`, and with
    on_error="raise" the BrokenImage of the first image that fails; "skip" lists it in `Batch.failed` instead.
    """
    if on_error not in ON_ERROR:
        raise UsageError(f"on_error={on_error!r} is not one of {', '.join(ON_ERROR)}")
    make_frame = frames(source, batch_size, preprocessing, canvases)
    workers = workers or default_workers()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    stopped = threading.Event()
    starts = iter(range(start, stop, batch_size))
    loading: collections.deque[list[Future[Batch | None]]] = collections.deque()

    def begin() -> None:
        for first in itertools.islice(starts, 1):
            rows = range(first, min(first + batch_size, stop))
            loading.append(_load(pool, workers, source, rows, make_frame(len(rows)), on_error, stopped))

    try:
        for _ in range(prefetch + 1):
            begin()
        while loading:
            # in the order of the rows, so that of several that failed the first is raised
            (batch,) = filter(None, [task.result() for task in loading.popleft()])
            begin()
            yield batch
            del batch  # or it would stay in memory until the next one is here
    finally:
        stopped.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _load(
    pool: ThreadPoolExecutor,
    workers: int,
    source: Source,
    rows: range,
    frame: Array | Canvases,
    on_error: str,
    stopped: threading.Event,
) -> "list[Future[Batch | None]]":
    """Begins to load a batch: threads share its rows, and the one that is done last returns it, the others None."""
    failed: list[int] = []
    step = -(-len(rows) // workers)
    shares = [rows[at : at + step] for at in range(0, len(rows), step)]
    lock, unfinished = threading.Lock(), list(shares)

    def load(share: range) -> Batch | None:
        for row in share:
            if stopped.is_set():
                return None
            try:
                frame.put(source, row, row - rows.start)
            except BrokenImage:
                if on_error == "raise":
                    raise
                frame.drop(row - rows.start)
                failed.append(row)
        with lock:
            unfinished.remove(share)
            if unfinished:
                return None
        images, bands = frame.finish()
        return Batch(images, rows.start, len(rows), sorted(failed), bands)

    return [pool.submit(load, share) for share in shares]


def load_all(source: Source, preprocessing: Preprocessing | None = None) -> np.ndarray:
    """All images of a source, decoded by threads: (N, h, w, 3) uint8, all of one size.

    With `preprocessing`, images of any size are resized here, not yet normalised (float32 where it resizes in floats).

    Raises BrokenImage for an image that cannot be decoded and TransferError where a size differs, naming it.
    """
    count = len(source)
    if not count:
        raise TransferError(f"{source.name}: holds no images")
    if preprocessing is None:
        frame = Array(np.zeros((count, *source.image(0).shape), np.uint8), count)
    else:
        frame = Array(np.zeros(*resized_as(preprocessing, count)), count, preprocessing)

    def load(start: int) -> None:
        for row in range(start, min(start + IMAGES_A_TASK, count)):
            frame.put(source, row, row)

    with ThreadPoolExecutor(default_workers(), thread_name_prefix="decode") as pool:
        for _ in pool.map(load, range(0, count, IMAGES_A_TASK)):  # the first error stops what has not begun
            pass
    return frame.images
