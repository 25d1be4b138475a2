"""How a feature store comes to be: created or resumed, filled batch by batch in any order, counted, marked complete.

What is durable in which order makes it safe to kill the writer at any moment. Labels and ids come first, then the
metadata: a directory without metadata is no store yet and is begun anew. Of each batch the features come first, each
chunk whole or not at all, then the status: rows whose status is 0 are computed again and overwrite what may lie
there. `complete` is set when every row has been counted by its index.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import numpy as np
from absl import logging

from transfer import lock
from transfer.chunks import ChunkedArray, Directory
from transfer.errors import TransferError
from transfer.features import FORMAT, KIND, METADATA, MISSING, ROW, SKIPPED, encode_ids, read_metadata
from transfer.fingerprint import differences

# Batches on their way to the disk or bucket while the next ones are computed.
WRITES_IN_FLIGHT = 4


class StoreWriter:
    """Creates the store at `path`, or goes on with it; use as a context manager.

    Args:
        taps: tap -> shape of one image's features.
        labels: int64 (N,), of every image of the source.
        ids: N strings.
        class_names: name of each label.
        data: where the images come from, for messages; it binds nothing, what binds is in the fingerprint.
        fingerprint: nested dict of all settings that the features depend on, JSON values.
        batch_size: rows of a chunk.
        provenance: what may change low bits only (device, versions), JSON values.
        create: False in the processes that help the one that has created the store: they find it there, take no lock
            and do not `finish`.

    Raises:
        TransferError: the store was made with other settings, or another process is writing it.
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
    ) -> None:
        self.path, self.batch_size, self.num_images = str(path), batch_size, len(ids)
        self._directory = Directory(self.path)
        self._ids = ids
        wanted: dict[str, Any] = {
            "kind": KIND,
            "format": FORMAT,
            "complete": False,
            "data": data,
            "fingerprint": dict(fingerprint),
            "taps": {tap: list(shape) for tap, shape in taps.items()},
            "num_images": len(ids),
            "class_names": list(class_names),
            "skipped": [],
            "batch_size": batch_size,
            "provenance": dict(provenance or {}),
        }
        self._create_allowed = create
        self._lock = lock.Held()
        self._open = ExitStack()
        try:
            self.metadata = self._settled(wanted, labels)
            self.batch_size = self.metadata["batch_size"]
            self._taps = {tap: ChunkedArray.open(self.path, f"features/{tap}") for tap in taps}
            self._status = ChunkedArray.open(self.path, "status", optional_chunks=True)
        except BaseException:
            self._open.close()
            raise
        self._pool = ThreadPoolExecutor(WRITES_IN_FLIGHT, thread_name_prefix="feature-store")
        self._writing: deque[Future[None]] = deque()

    def _settled(self, wanted: dict[str, Any], labels: np.ndarray) -> dict[str, Any]:
        """The metadata of the store, which is created or found to be the one that is wanted."""
        found = read_metadata(self.path)
        if self._create_allowed and not (found and found["complete"]):
            self._lock = self._open.enter_context(lock.held(self.path, "feature store"))
            found = read_metadata(self.path)  # another process may have ended since
        if found is None and not self._create_allowed:
            raise TransferError(f"no feature store at {self.path}, which the first process should have created")
        if found is None:
            self._create(wanted, labels)
            return wanted
        check_same(self.path, found, wanted)
        self._warn_of_other_provenance(found, wanted)
        return found

    def _warn_of_other_provenance(self, found: dict[str, Any], wanted: dict[str, Any]) -> None:
        if not found["complete"] and (changed := differences(found["provenance"], wanted["provenance"])):
            logging.warning("%s: %s; low bits of the remaining rows may differ", self.path, "; ".join(changed))

    def _create(self, metadata: dict[str, Any], labels: np.ndarray) -> None:
        for prefix in ("features/", "labels/", "ids/", "status/"):  # of a creation that was cut short
            self._directory.delete(prefix)
        rows = self.num_images
        for tap, shape in metadata["taps"].items():
            ChunkedArray.create(self.path, f"features/{tap}", (rows, *shape), "float32", self.batch_size, "NaN")
        ChunkedArray.create(self.path, "status", (rows,), "uint8", self.batch_size, MISSING)
        ids = encode_ids(self._ids)
        for name, values in (("labels", np.asarray(labels, np.int64)), ("ids", ids)):
            array = ChunkedArray.create(self.path, name, values.shape, values.dtype.name, max(rows, 1))
            array.wait(array.write(0, values))
        self._directory.write_json("features/" + METADATA, {"zarr_format": 3, "node_type": "group", "attributes": {}})
        self._write_metadata(metadata)

    def _write_metadata(self, metadata: dict[str, Any]) -> None:
        group = {"zarr_format": 3, "node_type": "group", "attributes": metadata}
        self._directory.write_json(METADATA, group)
        self.metadata = metadata

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

    @property
    def status(self) -> np.ndarray:
        """MISSING, ROW or SKIPPED for every image, uint8 (N,)."""
        return self._status.read(slice(0, self.num_images))

    def skipped_ids(self) -> list[str]:
        """Ids of the images that could not be read so far."""
        return [self._ids[int(row)] for row in np.flatnonzero(self.status == SKIPPED)]

    def pending(self) -> list[tuple[int, int]]:
        """Runs of whole batches that are still missing, as (start, stop) rows, in order."""
        status = self.status
        chunks = {tap: self._directory.list(f"features/{tap}/c/") for tap in self._taps}
        runs: list[tuple[int, int]] = []
        for start in range(0, self.num_images, self.batch_size):
            stop = min(start + self.batch_size, self.num_images)
            keys = {tap: self._chunk_key(tap, start) for tap in self._taps}
            if status[start:stop].all() and all(key in chunks[tap] for tap, key in keys.items()):
                continue
            if runs and runs[-1][1] == start:
                start = runs.pop()[0]
            runs.append((start, stop))
        return runs

    def _chunk_key(self, tap: str, start: int) -> str:
        return "/".join([str(start // self.batch_size)] + ["0"] * (len(self._taps[tap].shape) - 1))

    def write(self, start: int, features: Mapping[str, np.ndarray], skipped: Sequence[int] = ()) -> None:
        """Hands a batch to the writing threads; waits only where several batches are on their way already.

        Args:
            start: row of its first image, a multiple of the batch size.
            features: tap -> float32 (rows, ...), without padding.
            skipped: rows of the source whose image could not be read.

        Raises:
            OSError: an earlier batch could not be written (disk full).
        """
        rows = len(next(iter(features.values())))
        status = np.full(rows, ROW, np.uint8)
        skipped_here = np.asarray(skipped, int) - start
        status[skipped_here] = SKIPPED
        values = {tap: np.array(features[tap], np.float32) for tap in self._taps}
        for array in values.values():
            array[skipped_here] = np.nan
        self._drain(WRITES_IN_FLIGHT - 1)
        self._lock.check()
        self._writing.append(self._pool.submit(self._commit, start, values, status))

    def _commit(self, start: int, values: Mapping[str, np.ndarray], status: np.ndarray) -> None:
        writing = [(array, array.write(start, values[tap])) for tap, array in self._taps.items()]
        for array, future in writing:
            array.wait(future)
        # only now: the features of these rows are on the disk
        self._status.wait(self._status.write(start, status))

    def _drain(self, leave: int) -> None:
        while len(self._writing) > leave:
            self._writing.popleft().result()

    def finish(self) -> None:
        """Waits for all batches, counts the rows by index, then marks the store complete.

        Raises:
            TransferError: rows are missing, or no image at all could be read.
        """
        self._drain(0)
        if missing := self.pending():
            rows = ", ".join(f"{start} to {stop - 1}" for start, stop in missing[:3])
            raise TransferError(f"{self.path} still lacks rows {rows}; run the same command again")
        skipped = self.skipped_ids()
        if len(skipped) == self.num_images:
            raise TransferError(f"none of the {self.num_images} images could be read; {self.path} has no rows")
        self._write_metadata({**self.metadata, "complete": True, "skipped": skipped})


def check_same(path: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises TransferError that names every setting in which the store `found` differs from what is `wanted`.

    The batch size binds only a store that is not complete: its chunks are batches, and it may change low bits.
    """
    keys = ["taps", "num_images", "class_names"] + ([] if found["complete"] else ["batch_size"])
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
