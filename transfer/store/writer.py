"""How a feature store comes to be: created or resumed, filled batch by batch in any order, counted, marked complete.

What is durable in which order makes it safe to kill the writer at any moment. Labels and ids come first, then the
metadata: a directory without metadata is no store yet and is begun anew. Of each batch the features come first, each
chunk whole or not at all, then the checksums of its rows: rows without one are computed again and overwrite what may
lie there. `complete` is set when every row has been counted by its index.
"""

import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
from absl import logging

from transfer.errors import TransferError, UsageError
from transfer.runtime.files import lock
from transfer.runtime.files.kvstore import Directory, repair_hint
from transfer.store import format as layout

# Batches on their way to the disk or bucket while the next ones are computed.
WRITES_IN_FLIGHT = 4


class StoreWriter:
    """Creates the store at `path`, or goes on with it; use as a context manager.

    Args:
        taps: tap -> shape of one image's features.
        labels: int64 (N,), of every image of the source; float32 (N, T) of several labels and of values.
        ids: N strings, which are asked for in slices and one by one.
        class_names: name of each label, or of each column of them.
        data: where the images come from, for messages; it binds nothing, what binds is in the fingerprint.
        fingerprint: nested dict of all settings that the features depend on, JSON values.
        batch_size: rows per chunk.
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
        wanted = {
            "kind": layout.KIND,
            "format": layout.FORMAT,
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
            unwritten = [] if self.complete else layout.arrays(self.metadata)
            names = [name for name in unwritten if name not in layout.ROW_METADATA]
            self._arrays = {name: layout.open_array(self.path, self.metadata, name) for name in names}
            self._content = content if layout.CONTENT in self._arrays else None
        except BaseException:
            self._open.close()
            raise
        self._pool = ThreadPoolExecutor(WRITES_IN_FLIGHT, thread_name_prefix="feature-store")
        self._writing: deque[Future[None]] = deque()

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
            if kind is None:
                self.flush()
        finally:
            # after an error too: what has been computed is worth its moment on the disk
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

        A batch whose chunks are not all there is missing too.
        """
        has_chunks = np.ones(-(-self.num_images // self.batch_size), bool)  # of every tap, by batch
        for array in self._taps.values():
            keys = self._directory.list(f"{array.spec.name}/c/")
            has_chunks &= [array.spec.chunk_key(batch) in keys for batch in range(len(has_chunks))]
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
        """Hands a batch to the writing threads; waits only where several batches are on their way already.

        Args:
            start: row of its first image, a multiple of the batch size.
            features: tap -> float32 (rows, ...), without padding.
            skipped: rows of the source whose image could not be read.

        Raises:
            OSError: an earlier batch could not be written (disk full).
            TransferError: another process has taken the store over.
        """
        skipped_here = np.asarray(skipped, int) - start
        values = {tap: np.array(features[tap], layout.DTYPES[self.metadata["features_dtype"]]) for tap in self._taps}
        for array in values.values():
            array[skipped_here] = np.nan
        self.flush(WRITES_IN_FLIGHT - 1)
        self._lock.check()
        self._writing.append(self._pool.submit(self._commit, start, values, skipped_here))

    def _commit(self, start: int, values: Mapping[str, np.ndarray], skipped: np.ndarray) -> None:
        writing = [array.write(start, values[tap]) for tap, array in self._taps.items()]
        rows = slice(start, start + len(next(iter(values.values()))))
        labels = layout.source_values(self, self.metadata, "labels", rows.start, rows.stop)
        ids = layout.raw_ids(self.ids[rows])
        checks = layout.row_checks(start, labels, ids, list(values.values()))
        checks[skipped] = layout.SKIPPED
        if self._content is not None:
            writing.append(self._arrays[layout.CONTENT].write(start, self._content(range(start, start + len(checks)))))
        for wait in writing:
            wait()
        # only now: the features of these rows are on the disk
        self._arrays["checks"].write(start, checks)()

    def flush(self, in_flight: int = 0) -> None:
        """Waits until at most `in_flight` batches are on their way; OSError where one could not be written."""
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

    A complete store may have more taps than are wanted. The batch size binds only one that is not complete: its chunks
    are batches, and it may change low bits.
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
