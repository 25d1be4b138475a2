"""How a feature store comes to be: created or resumed, filled batch by batch in any order, counted, marked complete.

What is durable in which order makes it safe to kill the writer at any moment. Labels and ids come first, then the
metadata: a directory without metadata is no store yet and is begun anew. Of each batch the features come first, each
chunk whole or not at all, then the checksums of its rows: rows without one are computed again and overwrite what may
lie there. `complete` is set when every row has been counted by its index.
"""

import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
from absl import logging

from transfer.errors import TransferError, UsageError
from transfer.runtime.files import lock
from transfer.runtime.files.kvstore import Directory, repair_hint
from transfer.store.arrays import ChunkedArray
from transfer.store.differences import differences
from transfer.store.format import (
    CONTENT,
    DTYPES,
    FORMAT,
    GROUP,
    KIND,
    METADATA,
    MISSING,
    OLD_FORMAT,
    ROWS_AT_ONCE,
    SKIPPED,
    arrays,
    encode_ids,
    open_array,
    raw_ids,
    read_metadata,
    scan_checks,
    write_metadata,
)
from transfer.store.row_checks import row_checks
from transfer.store.upgrade import upgrade

# Batches on their way to the disk or bucket while the next ones are computed.
WRITES_IN_FLIGHT = 4


@dataclass
class Count:
    """What is there: runs of batches (start, stop) that are `missing`, rows `skipped`, the `crc` of all checks."""

    missing: list[tuple[int, int]] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    crc: int = 0


class StoreWriter:
    """Creates the store at `path`, or goes on with it; use as a context manager.

    Args:
        taps: tap -> shape of one image's features.
        labels: int64 (N,), of every image of the source.
        ids: N strings, which are asked for in slices and one by one.
        class_names: name of each label.
        data: where the images come from, for messages; it binds nothing, what binds is in the fingerprint.
        fingerprint: nested dict of all settings that the features depend on, JSON values.
        batch_size: rows of a chunk.
        provenance: what may change low bits only (device, versions), JSON values.
        create: False in the processes that help the one that has created the store: they find it there, take no lock
            and do not `finish`.
        features_dtype: "float32", or "bfloat16" for half the bytes: float32 rounded to 8 bits of mantissa. TensorStore
            reads it back as `ml_dtypes.bfloat16`; zarr-python does not know the type and refuses the array.
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
        content: Callable[[range], np.ndarray] | None = None,
    ) -> None:
        self.path, self.num_images = str(path), len(ids)
        self._directory = Directory(self.path)
        self._ids, self._labels = ids, labels
        wanted = new_metadata(
            taps=taps,
            num_images=len(ids),
            class_names=class_names,
            data=data,
            fingerprint=fingerprint,
            batch_size=batch_size,
            provenance=provenance,
            features_dtype=features_dtype,
            content=content is not None,
        )
        self._create_allowed = create
        self._lock = lock.Lock()
        self._open = ExitStack()
        try:
            self.metadata = self._settled(wanted)
            self.batch_size: int = self.metadata["batch_size"]
            self._taps = {tap: open_array(self.path, self.metadata, f"features/{tap}") for tap in self.metadata["taps"]}
            self._checks = None if self.complete else open_array(self.path, self.metadata, "checks")
            self._content = None
            if content is not None and self.metadata.get(CONTENT) and not self.complete:
                self._content = open_array(self.path, self.metadata, CONTENT), content
        except BaseException:
            self._open.close()
            raise
        self._pool = ThreadPoolExecutor(WRITES_IN_FLIGHT, thread_name_prefix="feature-store")
        self._writing: deque[Future[None]] = deque()

    def _settled(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """The metadata of the store, which is created or found to be the one that is wanted."""
        found = read_metadata(self.path)
        if self._create_allowed and not (found and found["complete"]):
            self._lock = self._open.enter_context(lock.hold(self.path, "feature store"))
            found = read_metadata(self.path)  # another process may have ended since
        if found is None and not self._create_allowed:
            raise TransferError(f"no feature store at {self.path}, which the first process should have created")
        if found is None:
            return self._create(wanted)
        check_same(self.path, found, wanted)
        if self._create_allowed and not found["complete"]:
            if changed := differences(found["provenance"], wanted["provenance"]):
                logging.warning("%s: %s; low bits of the remaining rows may differ", self.path, "; ".join(changed))
            if found["format"] == OLD_FORMAT:
                found = upgrade(self.path, found)
            self._check_source(found)
        return found

    def _create(self, metadata: dict[str, Any]) -> dict[str, Any]:
        for name in ("features", "labels", "ids", "checks", CONTENT, "status"):  # of a creation that was cut short
            self._directory.delete(f"{name}/")
        metadata = {**metadata, "id_width": id_width(self._ids)}
        created = {name: ChunkedArray.create(self.path, spec) for name, spec in arrays(metadata).items()}
        for start, labels, ids in self._source(metadata["row_chunk"]):
            writing = [
                (created["labels"], created["labels"].write(start, labels)),
                (created["ids"], created["ids"].write(start, encode_ids(ids, metadata["id_width"]))),
            ]
            for array, future in writing:
                array.wait(future)
        self._directory.write_json("features/" + METADATA, {**GROUP, "attributes": {}})
        return write_metadata(self.path, metadata)

    def _source(self, step: int) -> Iterator[tuple[int, np.ndarray, Sequence[str]]]:
        """Yields (first row, labels int64, ids) of all rows of the source, `step` at a time."""
        for start in range(0, self.num_images, step):
            yield start, *self._rows_of_source(start, start + step)

    def _rows_of_source(self, start: int, stop: int) -> tuple[np.ndarray, Sequence[str]]:
        return np.asarray(self._labels[start:stop], np.int64), self._ids[start:stop]

    def _check_source(self, metadata: dict[str, Any]) -> None:
        """Raises TransferError unless labels and ids are the source's: what is computed next is stored beside them."""
        found = {name: open_array(self.path, metadata, name) for name in ("labels", "ids")}
        for start, labels, ids in self._source(metadata["row_chunk"]):
            rows = slice(start, start + len(labels))
            same_ids = np.array_equal(found["ids"].read(rows), encode_ids(ids, metadata["id_width"]))
            if not (same_ids and np.array_equal(found["labels"].read(rows), labels)):
                raise TransferError(
                    f"{self.path}: labels or ids among the rows {start} to {rows.stop - 1} are not the source's; "
                    + repair_hint(self.path)
                )

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._drain(0)
        finally:
            # after an error too: what has been computed is worth its moment on the disk
            self._pool.shutdown(wait=True)
            self._open.close()

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to do."""
        return bool(self.metadata["complete"])

    def skipped_ids(self) -> list[str]:
        """Ids of the images that could not be read so far."""
        if self.complete:
            return list(self.metadata["skipped"])
        return [self._ids[row] for row in self._count().skipped]

    def pending(self) -> list[tuple[int, int]]:
        """Runs of whole batches that are still missing, as (start, stop) rows, in order."""
        return [] if self.complete else self._count().missing

    def _count(self) -> Count:
        """Counts all rows by their index, and looks for the chunks of those that should be there."""
        written = self._chunks_there()
        count = Count()
        for start, checks in scan_checks(self.path, self.metadata):
            starts = np.arange(0, len(checks), self.batch_size)
            first = start // self.batch_size
            there = np.minimum.reduceat(checks, starts) != MISSING
            there &= written[first : first + len(starts)]
            for batch in (start + starts[~there]).tolist():
                stop = min(batch + self.batch_size, self.num_images)
                if count.missing and count.missing[-1][1] == batch:
                    batch = count.missing.pop()[0]
                count.missing.append((batch, stop))
            count.skipped += (start + np.flatnonzero(checks == SKIPPED)).tolist()
            count.crc = zlib.crc32(checks.astype("<u4").tobytes(), count.crc)
        return count

    def _chunks_there(self) -> np.ndarray:
        """Which batches have a chunk of every tap, bool (batches,)."""
        there = np.ones(-(-self.num_images // self.batch_size), bool)
        for spec in arrays(self.metadata).values():
            if spec.name.startswith("features/"):
                keys = self._directory.list(f"{spec.name}/c/")
                there &= np.fromiter((spec.chunk_key(i) in keys for i in range(len(there))), bool, len(there))
        return there

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
        values = {tap: np.array(features[tap], DTYPES[self.metadata["features_dtype"]]) for tap in self._taps}
        for array in values.values():
            array[skipped_here] = np.nan
        self._drain(WRITES_IN_FLIGHT - 1)
        self._lock.check()
        self._writing.append(self._pool.submit(self._commit, start, values, skipped_here))

    def _commit(self, start: int, values: Mapping[str, np.ndarray], skipped: np.ndarray) -> None:
        assert self._checks is not None, "a complete store is not written"
        writing = [(array, array.write(start, values[tap])) for tap, array in self._taps.items()]
        labels, ids = self._rows_of_source(start, start + len(next(iter(values.values()))))
        checks = row_checks(start, labels, raw_ids(ids), list(values.values()))
        checks[skipped] = SKIPPED
        if self._content is not None:
            array, read = self._content
            writing.append((array, array.write(start, read(range(start, start + len(checks))))))
        for array, future in writing:
            array.wait(future)
        # only now: the features of these rows are on the disk
        self._checks.wait(self._checks.write(start, checks))

    def flush(self) -> None:
        """Waits until all batches so far are on the disk; raises OSError where one could not be written."""
        self._drain(0)

    def _drain(self, leave: int) -> None:
        while len(self._writing) > leave:
            self._writing.popleft().result()

    def finish(self) -> None:
        """Waits for all batches, counts the rows by index, then marks the store complete.

        Raises:
            TransferError: rows are missing, or no image at all could be read.
        """
        self._drain(0)
        if self.complete:
            return
        count = self._count()
        if count.missing:
            rows = ", ".join(f"{start} to {stop - 1}" for start, stop in count.missing[:3])
            raise TransferError(f"{self.path} still lacks rows {rows}; run the same command again")
        if len(count.skipped) == self.num_images:
            raise TransferError(f"none of the {self.num_images} images could be read; {self.path} has no rows")
        facts = {
            "complete": True,
            "skipped": [self._ids[row] for row in count.skipped],
            "skipped_rows": count.skipped,
            "checks_crc32": count.crc,
        }
        self.metadata = write_metadata(self.path, {**self.metadata, **facts})


def new_metadata(
    *,
    taps: Mapping[str, Sequence[int]],
    num_images: int,
    class_names: Sequence[str],
    data: str,
    fingerprint: Mapping[str, Any],
    batch_size: int,
    provenance: Mapping[str, Any] | None = None,
    features_dtype: str = "float32",
    content: bool = False,
) -> dict[str, Any]:
    """The metadata of a store that is begun, but for `id_width`; UsageError for an unknown `features_dtype`."""
    if features_dtype not in DTYPES:
        raise UsageError(f"features_dtype={features_dtype!r} is not one of {', '.join(DTYPES)}")
    return {
        "kind": KIND,
        "format": FORMAT,
        "complete": False,
        "data": data,
        "fingerprint": dict(fingerprint),
        "taps": {tap: list(shape) for tap, shape in taps.items()},
        "features_dtype": features_dtype,
        "num_images": num_images,
        "class_names": list(class_names),
        "skipped": [],
        "skipped_rows": [],
        "checks_crc32": None,
        "batch_size": batch_size,
        "row_chunk": max(min(num_images, ROWS_AT_ONCE), 1),
        "provenance": dict(provenance or {}),
        **({CONTENT: True} if content else {}),
    }


def id_width(ids: Sequence[str]) -> int:
    """Bytes of the longest id, at least 1."""
    slices = (ids[start : start + ROWS_AT_ONCE] for start in range(0, len(ids), ROWS_AT_ONCE))
    return max((len(raw) for part in slices for raw in raw_ids(part)), default=1) or 1


def check_same(path: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises TransferError that names every setting in which the store `found` differs from what is `wanted`.

    A complete store may have more taps than are wanted. The batch size binds only one that is not complete: its chunks
    are batches, and it may change low bits.
    """
    found = {"features_dtype": "float32", **found}  # format 1 has no other
    if found["complete"] and (shared := {tap: found["taps"][tap] for tap in wanted["taps"] if tap in found["taps"]}):
        found["taps"] = shared
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
