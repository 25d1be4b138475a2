"""The feature store: one row of features, label and id for every image, written batch by batch, resumable, checked.

`transfer.store.format` says what it consists of, `transfer.store.writer` in which order it is written.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from transfer.errors import TransferError
from transfer.store.format import (
    CONTENT,
    MISSING,
    SKIPPED,
    ChunkedArray,
    chunk_rows,
    decode_ids,
    existing_metadata,
    open_array,
    scan_checks,
    target_of,
)


class StoredArray:
    """An array of a store, whose rows are read when they are asked for: `array[10:20]`, `array[indices]`, `array[:]`.

    Args:
        gaps: rows of `stored`, int64 and ascending, that are not rows of the store: images skipped or missing.
    """

    def __init__(self, stored: ChunkedArray, gaps: np.ndarray) -> None:
        self._stored = stored
        self._kept_before_gap = gaps - np.arange(len(gaps))
        self.shape = (stored.shape[0] - len(gaps), *stored.shape[1:])
        self.dtype, self.ndim = stored.dtype, len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        """Indexes as NumPy does; only the chunks that hold the selected rows are read."""
        first, *rest = key if isinstance(key, tuple) else (key,)
        if first is Ellipsis:
            return self[:][key]
        single = np.ndim(first) == 0 and not isinstance(first, (slice, bool, np.bool_))
        values = self._read(_selected([first] if single else first, len(self)))
        return values[(0 if single else slice(None), *rest)]

    def _read(self, rows: slice | np.ndarray) -> np.ndarray:
        """Reads `rows` of the store, a slice of step 1 or indices from 0."""
        if len(self._kept_before_gap):
            indices = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
            rows = _as_slice(indices + np.searchsorted(self._kept_before_gap, indices, side="right"))
        return self._stored.read(rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)


def _selected(key: Any, count: int) -> slice | np.ndarray:
    """The indices that NumPy selects of `count` rows by a slice, a list, a mask or an array; IndexError as NumPy's."""
    if isinstance(key, slice):
        start, stop, step = key.indices(count)
        return slice(start, max(start, stop)) if step == 1 else _as_slice(np.arange(start, stop, step))
    indices = np.asarray(key)
    if indices.dtype == bool:
        if indices.shape != (count,):
            raise IndexError(f"a mask of shape {indices.shape} for {count} rows")
        return _as_slice(np.flatnonzero(indices))
    if not indices.size:
        return slice(0, 0)
    if indices.dtype.kind not in "iu":
        raise IndexError(f"rows are chosen by integers, slices and masks, not by {indices.dtype}")
    if not (-count <= indices.min() and indices.max() < count):
        raise IndexError(f"row {indices.max() if indices.max() >= count else indices.min()} of {count}")
    return _as_slice(indices.astype(np.int64) % count)


def _as_slice(rows: np.ndarray) -> slice | np.ndarray:
    if rows.ndim == 1 and len(rows) and (np.diff(rows) == 1).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows if len(rows) else slice(0, 0)


class StoredIds(Sequence[str]):
    """The ids of the rows of a store, read when they are asked for."""

    def __init__(self, encoded: StoredArray) -> None:
        self._encoded = encoded

    def __len__(self) -> int:
        return len(self._encoded)

    def __getitem__(self, key: Any) -> Any:
        """One id by a number, a list of them by a slice, a list or an array of numbers, or a mask."""
        encoded = self._encoded[key]
        return decode_ids(encoded[None])[0] if encoded.ndim == 1 else decode_ids(encoded)


class FeatureStore:
    """A store opened for reading; see `FeatureStore.open`. A whole one takes no memory by the row until rows are read.

    Attributes:
        features: rows of the only or first tap, float32 or bfloat16 (`ml_dtypes.bfloat16`).
        label_rows, id_rows: labels (int64) and ids of some rows: `store.label_rows[10:20]`.
        target: what labels are: "classes", one a row; "labels", any of several; "values", numbers.
        class_names: name of each label; of several labels and of values, of each column.
        complete: whether every image of the source is there.
        metadata: fingerprint, taps, `skipped` (ids of images that could not be read), batch size, device.
    """

    def __init__(self, path: str, metadata: dict[str, Any]) -> None:
        self.path, self.metadata = path, metadata
        self.complete: bool = metadata["complete"]
        self.target = target_of(metadata)
        self.class_names: tuple[str, ...] = tuple(metadata["class_names"])
        self.taps: tuple[str, ...] = tuple(metadata["taps"])
        self.num_missing = 0
        self._gaps = self._find_gaps()
        self.features = self.tap(self.taps[0])

    def _find_gaps(self) -> np.ndarray:
        """Rows of the source that are not here, int64, ascending. The checks are read of an incomplete store only."""
        if self.complete:
            return np.asarray(self.metadata["skipped_rows"], np.int64)
        if not self.metadata["num_images"]:
            raise TransferError(f"{self.path}: its metadata are of no image; delete the store and extract again")
        gaps = []
        for start, checks in scan_checks(self.path, self.metadata):
            self.num_missing += int((checks == MISSING).sum())
            gaps.append(start + np.flatnonzero(checks <= SKIPPED))
        return np.concatenate(gaps)

    @classmethod
    def open(cls, path: Any, incomplete: bool = False) -> "FeatureStore":
        """Opens the store at `path`, local or `gs://`.

        Args:
            incomplete: also open a store that lacks images still, as far as it has come.

        Raises:
            TransferError: no store there, an incomplete one, or one whose metadata are damaged.
        """
        metadata = existing_metadata(str(path))
        store = cls(str(path), metadata)
        if not (store.complete or incomplete):
            raise TransferError(
                f"the feature store {path} is incomplete ({store.num_missing} of {metadata['num_images']} images "
                "missing); run the command that began it again and it goes on where it stopped"
            )
        return store

    def __len__(self) -> int:
        return len(self.features)

    @cached_property
    def labels(self) -> np.ndarray:
        """The label of each row, int64 (N,); several labels or values, float32 (N, T)."""
        return self.label_rows[:]

    @cached_property
    def ids(self) -> list[str]:
        """The id of each row, as the source names its images."""
        return self.id_rows[:]

    @cached_property
    def label_rows(self) -> StoredArray:
        """The labels, read where they are asked for: `store.label_rows[10:20]`."""
        return self._array("labels")

    @cached_property
    def id_rows(self) -> StoredIds:
        """The ids, read where they are asked for: `store.id_rows[10:20]`, a list of strings."""
        return StoredIds(self._array("ids"))

    @cached_property
    def content(self) -> StoredArray | None:
        """The checksum of each row's file as it was read, int64; None where images are no files."""
        return self._array(CONTENT) if self.metadata.get(CONTENT) else None

    @property
    def chunk_rows(self) -> int:
        """Rows of features that are read as a whole, images left out included."""
        return chunk_rows(self.metadata)

    @property
    def num_chunks(self) -> int:
        """Chunks of features; see `chunk`."""
        return -(-self.metadata["num_images"] // self.chunk_rows)

    def chunk(self, index: int) -> slice:
        """The rows of the store that lie in the chunk `index` of its features, which reading reads of each tap."""
        rows, size = self.metadata["num_images"], self.chunk_rows
        edges = (index * size, min((index + 1) * size, rows))
        return slice(*(int(row - np.searchsorted(self._gaps, row)) for row in edges))

    def tap(self, name: str) -> StoredArray:
        """Rows of the tap `name`, such as `"pre_logits"`; TransferError if the store does not have it."""
        if name not in self.taps:
            raise TransferError(f"the feature store {self.path} has no tap {name!r}; it has {', '.join(self.taps)}")
        return self._array(f"features/{name}")

    def _array(self, name: str) -> StoredArray:
        return StoredArray(open_array(self.path, self.metadata, name), self._gaps)
