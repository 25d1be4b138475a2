"""The features of a data set into a store, by one process or by several."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from transfer.data.frames import needs_resizing
from transfer.data.loader import ON_ERROR, Batch, batches
from transfer.data.source import Source
from transfer.errors import TransferError, UsageError
from transfer.extract.extractor import Extractor
from transfer.runtime import distributed, preemption
from transfer.runtime.files import lock
from transfer.runtime.progress import Progress
from transfer.store import images as store_images
from transfer.store.format import append_run
from transfer.store.store import FeatureStore
from transfer.store.writer import StoreWriter

# Where images of mixed sizes are resized by the device: gathers are slow on a TPU, and a CPU is the host itself.
RESIZING_BACKENDS = ("gpu",)

Runs = list[tuple[int, int]]  # of rows, (start, stop)


def extract_to_store(
    extractor: Extractor,
    source: Source,
    path: Any,
    on_error: str = "raise",
    title: str = "features",
    features_dtype: str = "float32",
) -> FeatureStore:
    """Extracts every image of `source` into the store at `path`, or goes on where an earlier run stopped.

    Whatever stopped it, even SIGKILL, the finished store is bit for bit that of an uninterrupted run on the same
    device and versions. A finished store is left as it is.

    Where several processes run this together (`transfer.runtime.distributed`), each reads, computes and writes an equal
    share of the missing batches, on its own devices, into the one store; how many they are does not show in it.

    Args:
        path: directory, local or `gs://`.
        on_error: "raise" stops at an image that cannot be read; "skip" drops it with its label and records its id.
        title: shown with the progress.
        features_dtype: "float32", or "bfloat16" for half the bytes, whatever the network computes in.

    Raises:
        TransferError: the store was made with other settings (they are named) or of images that have changed since,
            an image cannot be read, a feature is NaN or infinite.
        Preempted: SIGTERM came, here or to another of the processes; what has been computed is in the store.
        OSError: the disk is full; nothing half-written is left.
    """
    if on_error not in ON_ERROR:
        raise UsageError(f"on_error={on_error!r} is not one of {', '.join(ON_ERROR)}")
    if not len(source):
        raise TransferError(f"{source.name} has no images")
    with _open_writer(path, extractor, source, features_dtype) as writer:
        if distributed.is_main():
            skipped = writer.skipped_ids()
            if skipped and on_error == "raise":
                raise TransferError(
                    f"{writer.path} was made with on_error=skip and lacks {len(skipped)} images that could not be "
                    f"read, the first is {skipped[0]}; keep on_error=skip, or repair them and delete the store"
                )
            # of a store that has just been created too: it takes down the dates of the files before they are read
            if changed := store_images.changed(writer.path, writer.metadata, source):
                raise TransferError(
                    f"{writer.path} was made from other images: {store_images.describe_changes(changed)}; "
                    "choose another path, or delete the store"
                )
        if writer.complete:
            logging.info("%s: %s is complete, %d images; nothing to do", title, path, len(source))
        else:
            stopped = _fill(writer, extractor, source, on_error, title)
            preemption.part_is_over()
            writer.flush()
            lock.check_folders(at_once=True)
            if distributed.any_of(stopped, "filled"):
                raise preemption.Preempted(
                    f"{title}: stopped on request, what is done is saved; run the same command again to continue"
                )
            if distributed.is_main():
                writer.finish()
    distributed.barrier("finished")
    return FeatureStore.open(path)


def _open_writer(path: Any, extractor: Extractor, source: Source, features_dtype: str) -> StoreWriter:
    """The writer of the store, which process 0 creates, or goes on with, before the others look for it."""
    settings: dict[str, Any] = dict(
        taps=extractor.shapes,
        labels=source.labels,
        ids=source.ids,
        class_names=source.class_names,
        data=source.name,
        fingerprint={**extractor.fingerprint(), "images": source.fingerprint},
        batch_size=extractor.batch_size,
        provenance={"device": jax.local_devices()[0].device_kind, "jax": jax.__version__},
        features_dtype=features_dtype,
        target=getattr(source, "target", "classes"),  # a source need not be a `Source`
        content=store_images.reader(source),
    )
    writer = StoreWriter(path, **settings) if distributed.is_main() else None
    distributed.barrier("created")
    return writer or StoreWriter(path, create=False, **settings)


def _fill(writer: StoreWriter, extractor: Extractor, source: Source, on_error: str, title: str) -> bool:
    """Computes this process' share of what is missing; whether it was asked to stop before its end."""
    # what is missing is looked up by one, before any of them writes
    pending = [(start, stop) for start, stop in distributed.asked_once(writer.pending, "runs")]
    missing = sum(stop - start for start, stop in pending)
    if missing < len(source):
        logging.info("%s: going on, %d of %d images are there", title, len(source) - missing, len(source))
    processes = distributed.process_count()
    runs = share_of_process(pending, writer.file_rows, distributed.process_index(), processes)
    left = sum(stop - start for start, stop in runs)
    # images of one size travel as they are and are resized on the device; others too, where that is not the host
    resized = needs_resizing(source, extractor.preprocessing)
    settings: dict[str, Any] = dict(on_error=on_error, canvases=jax.default_backend() in RESIZING_BACKENDS)
    with Progress(title, len(source), "images", done=len(source) - missing, shared=True) as progress:
        for start, stop in runs:
            loaded = batches(source, start, stop, extractor.batch_size, extractor.preprocessing, **settings)
            for batch, features in extractor.stream(loaded, resized):
                _check_finite(features, batch, source)
                writer.write(batch.start, features, batch.failed)
                preemption.begin()
                progress.update(batch.size)
                left -= batch.size
                if preemption.requested():  # what has been begun ahead is dropped
                    return left > 0
    return left > 0


def share_of_process(runs: Sequence[tuple[int, int]], file_rows: int, index: int, count: int) -> Runs:
    """The part of process `index` of `count`: what is missing of files one after the other, equally many but for one.

    `runs` are (start, stop) rows, in order; a file of the store has `file_rows` rows, and one process writes it.
    """
    of_file: dict[int, Runs] = {}
    for first, stop in runs:
        for number in range(first // file_rows, -(-stop // file_rows)):
            rows = max(first, number * file_rows), min(stop, (number + 1) * file_rows)
            of_file.setdefault(number, []).append(rows)
    part: Runs = []
    for number in list(of_file)[len(of_file) * index // count : len(of_file) * (index + 1) // count]:
        for start, stop in of_file[number]:
            append_run(part, start, stop)
    return part


def _check_finite(features: Mapping[str, np.ndarray], batch: Batch, source: Source) -> None:
    for name, values in features.items():
        finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if not finite.all():
            row = batch.start + int(np.flatnonzero(~finite)[0])
            raise TransferError(
                f"tap {name} of {source.ids[row]} is NaN or infinite; "
                "check the weights (config.model), or use dtype=float32 (config.dtype)"
            )
