"""The feature store: one row of features, label and id for every image, written batch by batch, resumable, checked.

A store is a Zarr v3 group that any Zarr reader opens:

    PATH/zarr.json          the metadata, as the group's attributes; written last at creation and at completion
    PATH/features/TAP       float32 (N, ...), one array for each tap, a chunk for each batch
    PATH/labels             int64 (N,)
    PATH/ids                uint8 (N, W), UTF-8 padded by zeros
    PATH/status             uint8 (N,): 0 not there yet, 1 a row, 2 an image that was skipped; a chunk for each batch

`transfer.store_writer` says in which order it is written.
"""

from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np

from transfer.chunks import ChunkedArray, Directory
from transfer.errors import TransferError

METADATA = "zarr.json"
KIND = "transfer.features"
FORMAT = 1
MISSING, ROW, SKIPPED = 0, 1, 2


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
