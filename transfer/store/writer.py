"""How a feature store comes to be: created or resumed, filled batch by batch in any order, counted, marked complete.

What is durable in which order makes it safe to kill the writer at any moment. Labels and ids come first, then the
metadata: a directory without metadata is no store yet and is begun anew. Of each file the features come first, whole
or not at all, then the checksums of its rows: rows without one are computed again and overwrite what may lie there.
`complete` is set when every row has been counted by its index.

A file that is a shard is written when it is whole. Before that it is written as far as it is, all of it anew, when
writing ends, or when what came last has waited for SECONDS_AT_RISK: a kill loses no more than that and a batch.
"""

import math
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
from absl import logging

from transfer.errors import TransferError, UsageError
from transfer.runtime.files import lock
from transfer.runtime.files.kvstore import Directory, repair_hint
from transfer.store import format as layout
from transfer.store import sizes
from transfer.store.filling import Batch, Filling

# Files on their way to the disk or bucket while the next ones are computed; fewer of those that are large.
WRITES_IN_FLIGHT = 4
# After which a shard is written as far as it is.
SECONDS_AT_RISK = 60.0


class StoreWriter:
    """Creates the store at `path`, or goes on with it; use as a context manager.

    Args:
        taps: tap -> shape of one image's features.
        labels: int64 (N,), of every image of the source; float32 (N, T) of several labels and of values.
        ids: N strings, which are asked for in slices and one by one.
        class_names: name of each label, or of each column of them.
        data: where the images come from, for messages; it binds nothing, what binds is in the fingerprint.
        fingerprint: nested dict of all settings that the features depend on, JSON values.
        batch_size: rows of a batch, and of a file, unless the store is large (`transfer.store.sizes`).
        provenance: what may change low bits only (device, versions), JSON values.
        create: False in the processes that help the one that has created the store: they find it there, take no lock
            and do not `finish`.
        features_dtype: "float32", or "bfloat16" for half the bytes: float32 rounded to 8 bits of mantissa. TensorStore
            reads it back as `ml_dtypes.bfloat16`; zarr-python does not know the type and refuses the array.
        target: what labels are: "classes", "labels" or "values".
        content: gives the CRC-32 of the files of some rows' images, int64, as they were read; None where they are none.

    Raises:
        TransferError: the store was made with other settings, is damaged, or another process is writing it.
        UsageError: an unknown `features_dtype`.
    """

    def __init__(
        self,
        path: Any,
        *,
        taps: Mapping[str, Sequence[int]],
        labels: np.ndarray,
        ids: Sequence[str],
        class_names: Sequence[str],
        data: str,
        fingerprint: Mapping[str, Any],
        batch_size: int,
        provenance: Mapping[str, Any] | None = None,
        create: bool = True,
        features_dtype: str = "float32",
        target: str = "classes",
        content: Callable[[range], np.ndarray] | None = None,
    ) -> None:
        if features_dtype not in layout.DTYPES:
            raise UsageError(f"features_dtype={features_dtype!r} is not one of {', '.join(layout.DTYPES)}")
        self.path, self.labels, self.ids, self.num_images = str(path), labels, ids, len(ids)
        self._directory, self._create_allowed = Directory(self.path), create
        itemsize = layout.DTYPES[features_dtype].itemsize
        row_bytes = [math.prod(shape) * itemsize for shape in taps.values()]
        shards = sizes.of_shards(self.num_images, batch_size, row_bytes)
        wanted = {
            "kind": layout.KIND,
            "format": layout.FORMAT_OF_SHARDS if shards else layout.FORMAT,
            "complete": False,
            "data": data,
            "fingerprint": dict(fingerprint),
            "taps": {tap: list(shape) for tap, shape in taps.items()},
            "features_dtype": features_dtype,
            "num_images": self.num_images,
            "class_names": list(class_names),
            "skipped": [],
            "skipped_rows": [],
            "checks_crc32": None,
            "batch_size": batch_size,
            **shards,
            "row_chunk": max(min(self.num_images, layout.ROWS_AT_ONCE), 1),
            "provenance": dict(provenance or {}),
            **({layout.CONTENT: True} if content else {}),
            **({} if target == "classes" else {layout.TARGET: target}),
        }
        self._lock = lock.Lock()
        self._open = ExitStack()
        try:
            self.metadata = self._create_or_resume(wanted)
            self.batch_size: int = self.metadata["batch_size"]
            # rows that one process writes
            self.file_rows = layout.file_rows(self.metadata)
            unwritten = [] if self.complete else layout.arrays(self.metadata)
            names = [name for name in unwritten if name not in layout.ROW_METADATA]
            self._arrays = {name: layout.open_array(self.path, self.metadata, name) for name in names}
            self._content = content if layout.CONTENT in self._arrays else None
        except BaseException:
            self._open.close()
            raise
        file_bytes = self.file_rows * sum(row_bytes)
        self._in_flight = max(min(WRITES_IN_FLIGHT, sizes.SHARD_BYTES // max(file_bytes, 1)), 1)
        self._pool = ThreadPoolExecutor(self._in_flight, thread_name_prefix="feature-store")
        self._writing: deque[Future[None]] = deque()
        self._filling: Filling | None = None
        self._part_on_way = False  # of a shard

    @property
    def _taps(self) -> dict[str, layout.ChunkedArray]:
        return {name.removeprefix("features/"): array for name, array in self._arrays.items() if "/" in name}

    def _create_or_resume(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """The metadata of the store, which is created or found to be the one that is wanted."""
        found = layout.read_metadata(self.path)
        if self._create_allowed and not (found and found["complete"]):
            self._lock = self._open.enter_context(lock.hold(self.path, "feature store"))
            found = layout.read_metadata(self.path)  # another process may have ended since
        if found is None and not self._create_allowed:
            raise TransferError(f"no feature store at {self.path}, which the first process should have created")
        if found is None:
            return self._create(wanted)
        check_same(self.path, found, wanted)
        if self._create_allowed and not found["complete"]:
            if changed := differences(found["provenance"], wanted["provenance"]):
                logging.warning("%s: %s; low bits of the remaining rows may differ", self.path, "; ".join(changed))
            self._check_source(found)
        return found

    def _create(self, metadata: dict[str, Any]) -> dict[str, Any]:
        for name in ("features", "labels", "ids", "checks", layout.CONTENT):  # of a creation that was cut short
            self._directory.delete(f"{name}/")
        starts = range(0, self.num_images, layout.ROWS_AT_ONCE)
        widths = (max(map(len, layout.raw_ids(self.ids[start : start + layout.ROWS_AT_ONCE]))) for start in starts)
        metadata = {**metadata, "id_width": max(widths, default=0) or 1}
        created = {
            name: layout.ChunkedArray(self.path, spec, create=True) for name, spec in layout.arrays(metadata).items()
        }
        for start in range(0, self.num_images, metadata["row_chunk"]):
            values = {
                name: layout.source_values(self, metadata, name, start, start + metadata["row_chunk"])
                for name in layout.ROW_METADATA
            }
            for wait in [created[name].write(start, rows) for name, rows in values.items()]:
                wait()
        self._directory.write_json("features/" + layout.METADATA, {**layout.GROUP, "attributes": {}})
        return layout.write_metadata(self.path, metadata)

    def _check_source(self, metadata: dict[str, Any]) -> None:
        """Raises TransferError unless labels and ids are the source's: what is computed next is stored beside them."""
        for name in layout.ROW_METADATA:
            stored, chunk = layout.open_array(self.path, metadata, name), metadata["row_chunk"]
            for start in range(0, self.num_images, chunk):
                stop = min(start + chunk, self.num_images)
                expected = layout.source_values(self, metadata, name, start, stop)
                if not np.array_equal(stored.read(slice(start, stop)), expected):
                    raise TransferError(
                        f"{self.path}: {name} among the rows {start} to {stop - 1} are not the source's; "
                        + repair_hint(self.path)
                    )

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            # after an error too: what has been computed is worth its moment on the disk
            with suppress(*([] if kind is None else [OSError, TransferError])):
                self.flush()
        finally:
            self._pool.shutdown(wait=True)
            self._open.close()

    @property
    def complete(self) -> bool:
        """True if there is nothing left to do."""
        return bool(self.metadata["complete"])

    def skipped_ids(self) -> list[str]:
        """Ids of the images that could not be read so far."""
        if self.complete:
            return list(self.metadata["skipped"])
        return [self.ids[row] for row in self._count()[1]]

    def pending(self) -> list[tuple[int, int]]:
        """Runs of whole batches that are still missing, as (start, stop) rows, in order."""
        return [] if self.complete else self._count()[0]

    def _count(self) -> tuple[list[tuple[int, int]], list[int], int]:
        """Runs of batches (start, stop) still missing, rows skipped, and the CRC of all checks: of rows by their index.

        A batch whose files are not all there is missing too.
        """
        has_files = np.ones(-(-self.num_images // self.file_rows), bool)  # of every tap
        for array in self._taps.values():
            keys = self._directory.list(f"{array.spec.name}/c/")
            has_files &= [array.spec.file_key(index) in keys for index in range(len(has_files))]
        has_chunks = np.repeat(has_files, self.file_rows // self.batch_size)  # by batch
        missing: list[tuple[int, int]] = []
        skipped: list[int] = []
        crc = 0
        for start, checks in layout.scan_checks(self.path, self.metadata):
            starts = np.arange(0, len(checks), self.batch_size)
            first = start // self.batch_size
            written = (np.minimum.reduceat(checks, starts) != layout.MISSING) & has_chunks[first : first + len(starts)]
            for batch in (start + starts[~written]).tolist():
                layout.append_run(missing, batch, min(batch + self.batch_size, self.num_images))
            skipped += (start + np.flatnonzero(checks == layout.SKIPPED)).tolist()
            crc = zlib.crc32(checks.astype("<u4").tobytes(), crc)
        return missing, skipped, crc

    def write(self, start: int, features: Mapping[str, np.ndarray], skipped: Sequence[int] = ()) -> None:
        """Takes a batch, and hands a file to the writing threads; waits only where several are on their way already.

        Best in order: what a shard has as another one begins is written, and read again when its next batch comes.

        Args:
            start: row of its first image, a multiple of the batch size.
            features: tap -> float32 (rows, ...), without padding.
            skipped: rows of the source whose image could not be read.

        Raises:
            OSError: an earlier batch could not be written (disk full).
            TransferError: another process has taken the store over.
        """
        if self._filling is None or not self._filling.start <= start < self._filling.stop:
            self._save()
            self._filling = self._begin(start)
        self._filling.put(start, features, skipped)
        if self._filling.whole or self._filling.unsaved_seconds > SECONDS_AT_RISK:
            self._save()

    def _begin(self, row: int) -> Filling:
        """The file that has a row, with what is on the disk of a shard already."""
        start = row // self.file_rows * self.file_rows
        stop, dtype = min(start + self.file_rows, self.num_images), layout.DTYPES[self.metadata["features_dtype"]]
        filling = Filling(start, stop, self.metadata["taps"], dtype)
        if self.file_rows > self.batch_size:
            if self._part_on_way:
                self._wait(0)
            checks = self._arrays["checks"].read(slice(start, stop))
            edges = np.flatnonzero(np.diff(checks != layout.MISSING, prepend=False, append=False)).tolist()
            for first, last in zip(edges[::2], edges[1::2], strict=True):
                rows, stored = slice(first, last), slice(start + first, start + last)
                for tap, array in self._taps.items():
                    filling.features[tap][rows] = array.read(stored)
                if self._content is not None:
                    filling.content[rows] = self._arrays[layout.CONTENT].read(stored)
                filling.checks[rows], filling.there[rows] = checks[rows], True
        return filling

    def _save(self) -> None:
        """Hands what has come of a file to the writing threads, and waits until there is room for it."""
        filling = self._filling
        if filling is not None and (batches := filling.take()):
            # a part of this shard may be on its way, and is not to overwrite what comes after it
            self._wait(0 if self._part_on_way else self._in_flight - 1)
            self._lock.check()
            self._part_on_way = not filling.whole
            self._writing.append(self._pool.submit(self._commit, filling, batches))

    def _commit(self, filling: Filling, batches: Sequence[Batch]) -> None:
        for rows, skipped in batches:
            start, stop = filling.start + rows.start, filling.start + rows.stop
            labels = layout.source_values(self, self.metadata, "labels", start, stop)
            features = [values[rows] for values in filling.features.values()]
            filling.checks[rows] = layout.row_checks(start, labels, layout.raw_ids(self.ids[start:stop]), features)
            filling.checks[skipped] = layout.SKIPPED
            if self._content is not None:
                filling.content[rows] = self._content(range(start, stop))
        last = filling.whole  # nothing is put there any more
        writing = [array.write(filling.start, filling.features[tap], last) for tap, array in self._taps.items()]
        if self._content is not None:
            writing.append(self._arrays[layout.CONTENT].write(filling.start, filling.content))
        for wait in writing:
            wait()
        # only now: the features of these rows are on the disk
        self._arrays["checks"].write(filling.start, filling.checks)()

    def flush(self) -> None:
        """Waits until all batches are on the disk; OSError where one could not be written."""
        self._save()
        self._wait(0)

    def _wait(self, in_flight: int) -> None:
        """Waits until at most `in_flight` files are on their way."""
        while len(self._writing) > in_flight:
            self._writing.popleft().result()

    def finish(self) -> None:
        """Waits for all batches, counts the rows by index, then marks the store complete.

        Raises:
            TransferError: rows are missing, or no image at all could be read.
        """
        self.flush()
        if self.complete:
            return
        missing, skipped, crc = self._count()
        if missing:
            rows = ", ".join(f"{start} to {stop - 1}" for start, stop in missing[:3])
            raise TransferError(f"{self.path} still lacks rows {rows}; run the same command again")
        if len(skipped) == self.num_images:
            raise TransferError(f"none of the {self.num_images} images could be read; {self.path} has no rows")
        ids = [self.ids[row] for row in skipped]
        done = {"complete": True, "skipped": ids, "skipped_rows": skipped, "checks_crc32": crc}
        self.metadata = layout.write_metadata(self.path, {**self.metadata, **done})


def check_same(path: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises TransferError that names every setting in which the store `found` differs from what is `wanted`.

    A complete store may have more taps than are wanted. The batch size binds only one that is not complete: its files
    are whole batches, and it may change low bits.
    """
    if found["complete"] and (shared := {tap: found["taps"][tap] for tap in wanted["taps"] if tap in found["taps"]}):
        found = {**found, "taps": shared}
    keys = ["taps", "features_dtype", "num_images", "class_names"] + ([] if found["complete"] else ["batch_size"])
    if found["fingerprint"].get("images") != wanted["fingerprint"].get("images"):
        keys.insert(0, "data")  # its name explains the hash
    different = differences(
        {**found["fingerprint"], **{key: found[key] for key in keys}},
        {**wanted["fingerprint"], **{key: wanted[key] for key in keys}},
    )
    if different:
        begun = "made" if found["complete"] else "begun"
        raise TransferError(
            f"the feature store {path} was {begun} with other settings: {'; '.join(different)}. "
            "Choose another --workdir, or delete the store"
        )


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """A phrase for each setting that differs, nested ones by dotted name: "dtype was 'float32', now 'bfloat16'"."""
    was, now = _flatten(found), _flatten(wanted)

    def shortened(settings: Mapping[str, Any], key: str) -> str:
        text = repr(settings[key]) if key in settings else "absent"
        return text if len(text) <= 60 else f"{text[:40]}…"

    changed = [key for key in {**was, **now} if not (key in was and key in now and was[key] == now[key])]
    return [f"{key} was {shortened(was, key)}, now {shortened(now, key)}" for key in changed]


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat
