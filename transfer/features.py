"""The feature store: one row of features, label and id for every image, written batch by batch, resumable, checked.

A store is a Zarr v3 group that any Zarr reader opens:

    PATH/zarr.json          the metadata, as the group's attributes; written last at creation and at completion
    PATH/features/TAP       float32 (N, ...), one array for each tap, a chunk for each batch
    PATH/labels             int64 (N,)
    PATH/ids                uint8 (N, W), UTF-8 padded by zeros
    PATH/status             uint8 (N,): 0 not there yet, 1 a row, 2 an image that was skipped; a chunk for each batch

What is durable in which order makes it safe to kill the writer at any moment. Labels and ids come first, then the
metadata: a directory without metadata is no store yet and is begun anew. Of each batch the features come first, each
chunk whole or not at all, then the status: rows whose status is 0 are computed again and overwrite what may lie
there. `complete` is set when every row has been counted by its index.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, SupportsIndex

import numpy as np

from transfer.chunks import ChunkedArray, Directory
from transfer.errors import TransferError
from transfer.fingerprint import differences

METADATA = "zarr.json"
KIND = "transfer.features"
FORMAT = 1
MISSING, ROW, SKIPPED = 0, 1, 2
# Batches on their way to the disk or bucket while the next ones are computed.
WRITES_IN_FLIGHT = 4


class Rows:
    """Rows of an array in the store, read when they are asked for: `rows[10:20]`, `rows[indices]`, `rows[:]`."""

    def __init__(self, array: ChunkedArray, index: np.ndarray | None) -> None:
        self._array = array
        # Position of each row in the array; None where they are the same.
        self._index = index
        self.shape = (array.shape[0] if index is None else len(index), *array.shape[1:])
        self.dtype, self.ndim = array.dtype, len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        """NumPy's own indexing; only the chunks that hold the asked rows are read."""
        first, *rest = key if isinstance(key, tuple) else (key,)
        positions = np.arange(len(self)) if self._index is None else self._index
        chosen = positions[first]
        if isinstance(first, SupportsIndex) and np.ndim(chosen) == 0:
            return self._array.read(slice(int(chosen), int(chosen) + 1))[0][tuple(rest)]
        values = self._array.read(_as_slice(chosen))
        return values[(slice(None), *rest)] if rest else values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)


def _as_slice(rows: np.ndarray) -> slice | np.ndarray:
    if rows.ndim == 1 and len(rows) and (np.diff(rows) == 1).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows if len(rows) else slice(0, 0)


class FeatureStore:
    """A store opened for reading; see `FeatureStore.open`.

    Attributes:
        features: rows of the only or first tap, float32.
        labels: int64 (N,).
        ids: list of N strings, as the source names its images.
        class_names: name of each label.
        complete: whether every image of the source is there.
        metadata: fingerprint, taps, `skipped` (ids of images that could not be read), batch size, device.
    """

    def __init__(self, path: str, metadata: dict[str, Any]) -> None:
        self.path, self.metadata = path, metadata
        self.complete: bool = metadata["complete"]
        self.class_names: tuple[str, ...] = tuple(metadata["class_names"])
        self.taps: tuple[str, ...] = tuple(metadata["taps"])
        status = read_status(path)
        self.num_missing = int((status == MISSING).sum())
        rows = np.flatnonzero(status == ROW)
        self._index = None if len(rows) == len(status) else rows
        self.labels = self._rows("labels")[:]
        self.features = self.tap(self.taps[0])
        self._ids: list[str] | None = None

    @classmethod
    def open(cls, path: Any, incomplete: bool = False) -> "FeatureStore":
        """Opens the store at `path`, local or `gs://`.

        Args:
            incomplete: also open a store that lacks images still, as far as it has come.

        Raises:
            TransferError: no store there, or an incomplete one.
        """
        metadata = read_metadata(str(path))
        if metadata is None:
            raise TransferError(f"no feature store at {path}; extract.py makes one")
        store = cls(str(path), metadata)
        if not (store.complete or incomplete):
            raise TransferError(
                f"the feature store {path} is incomplete ({store.num_missing} of {metadata['num_images']} images "
                "missing); run the command that began it again and it goes on where it stopped"
            )
        return store

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def ids(self) -> list[str]:
        """The id of each row."""
        if self._ids is None:
            self._ids = decode_ids(self._rows("ids")[:])
        return self._ids

    def tap(self, name: str) -> Rows:
        """Rows of the tap `name`, such as `"pre_logits"`; TransferError if the store does not have it."""
        if name not in self.taps:
            raise TransferError(f"the feature store {self.path} has no tap {name!r}; it has {', '.join(self.taps)}")
        return self._rows(f"features/{name}")

    def _rows(self, name: str) -> Rows:
        return Rows(ChunkedArray.open(self.path, name), self._index)


def read_metadata(path: str) -> dict[str, Any] | None:
    """The metadata of the store at `path`, None where there is none; TransferError if it is something else's."""
    group = Directory(path).read_json(METADATA)
    if group is None:
        return None
    metadata = group.get("attributes", {}) if isinstance(group, dict) else {}
    if metadata.get("kind") != KIND:
        raise TransferError(f"{path} is not a feature store, though it has a {METADATA}; choose another directory")
    if metadata.get("format") != FORMAT:
        raise TransferError(
            f"the feature store {path} has format {metadata.get('format')}, this version reads {FORMAT}; "
            "delete it and extract again"
        )
    return metadata


def read_status(path: str) -> np.ndarray:
    """The status of each image of the source, uint8 (N,)."""
    status = ChunkedArray.open(path, "status", optional_chunks=True)
    return status.read(slice(0, status.shape[0]))


def encode_ids(ids: Sequence[str]) -> np.ndarray:
    """Strings -> uint8 (N, W), UTF-8 padded by zeros; file names that are not UTF-8 keep their bytes."""
    raw = np.array([text.encode("utf-8", "surrogateescape") for text in ids], dtype=np.bytes_)
    width = max(raw.dtype.itemsize, 1)
    return np.frombuffer(raw.astype(f"S{width}").tobytes(), np.uint8).reshape(len(ids), width)


def decode_ids(ids: np.ndarray) -> list[str]:
    """The inverse of `encode_ids`."""
    raw = np.ascontiguousarray(ids).view(f"S{ids.shape[1]}").reshape(len(ids))
    return [text.decode("utf-8", "surrogateescape") for text in raw]


class StoreWriter:
    """Creates the store at `path`, or goes on with it; use as a context manager.

    Args:
        taps: tap -> shape of one image's features.
        labels: int64 (N,), of every image of the source.
        ids: N strings.
        fingerprint: nested dict of all settings that the features depend on, JSON values.
        batch_size: rows of a chunk.
        provenance: what may change low bits only (device, versions), JSON values.

    Raises:
        TransferError: the store was made with other settings.
    """

    def __init__(
        self,
        path: Any,
        *,
        taps: Mapping[str, Sequence[int]],
        labels: np.ndarray,
        ids: Sequence[str],
        class_names: Sequence[str],
        fingerprint: Mapping[str, Any],
        batch_size: int,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.path, self.batch_size, self.num_images = str(path), batch_size, len(ids)
        self._directory = Directory(self.path)
        self._ids = ids
        wanted: dict[str, Any] = {
            "kind": KIND,
            "format": FORMAT,
            "complete": False,
            "fingerprint": dict(fingerprint),
            "taps": {tap: list(shape) for tap, shape in taps.items()},
            "num_images": len(ids),
            "class_names": list(class_names),
            "skipped": [],
            "batch_size": batch_size,
            "provenance": dict(provenance or {}),
        }
        found = read_metadata(self.path)
        if found is None:
            self._create(wanted, labels)
        else:
            check_same(self.path, found, wanted)
        self.metadata = found or wanted
        self.batch_size = self.metadata["batch_size"]
        self._taps = {tap: ChunkedArray.open(self.path, f"features/{tap}") for tap in taps}
        self._status = ChunkedArray.open(self.path, "status", optional_chunks=True)
        self._pool = ThreadPoolExecutor(WRITES_IN_FLIGHT, thread_name_prefix="feature-store")
        self._writing: deque[Future[None]] = deque()

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
            self._pool.shutdown(wait=True, cancel_futures=True)

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
