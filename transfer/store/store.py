"""The feature store: one row of features, label and id for every image, written batch by batch, resumable, checked.

`transfer.store.format` says what it consists of, `transfer.store.writer` in which order it is written.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, SupportsIndex, overload

import numpy as np

from transfer.errors import TransferError
from transfer.store.arrays import ChunkedArray
from transfer.store.format import MISSING, check_metadata, decode_ids, open_array, read_metadata, scan_checks
from transfer.store.kept_rows import KeptRows


class Rows:
    """Rows of an array in the store, read when they are asked for: `rows[10:20]`, `rows[indices]`, `rows[:]`."""

    def __init__(self, array: ChunkedArray, kept: KeptRows | None) -> None:
        self._array = array
        # Which rows of the array they are; None where they are all.
        self._kept = kept
        self.shape = (array.shape[0] if kept is None else len(kept), *array.shape[1:])
        self.dtype, self.ndim = array.dtype, len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        """NumPy's own indexing; only the chunks that hold the asked rows are read."""
        first, *rest = key if isinstance(key, tuple) else (key,)
        if first is Ellipsis:
            return self[:][key]
        if _is_one(first):
            row = int(_in_range(np.asarray(first), len(self)))
            return self._read(slice(row, row + 1))[0][tuple(rest)]
        values = self._read(_selected(first, len(self)))
        return values[(slice(None), *rest)] if rest else values

    def _read(self, rows: slice | np.ndarray) -> np.ndarray:
        """`rows` in the store, a slice of step 1 or indices from 0."""
        if self._kept is None:
            return self._array.read(rows)
        indices = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        return self._array.read(_as_slice(self._kept.positions(indices)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)


def _is_one(key: Any) -> bool:
    return isinstance(key, SupportsIndex) and np.ndim(np.asarray(key)) == 0 and not isinstance(key, (bool, np.bool_))


def _selected(key: Any, count: int) -> slice | np.ndarray:
    """What NumPy selects from `count` rows by a slice, a list, a mask or an array of indices."""
    if isinstance(key, slice):
        start, stop, step = key.indices(count)
        return slice(start, max(start, stop)) if step == 1 else _as_slice(np.arange(start, stop, step))
    indices = np.asarray(key)
    if indices.dtype == bool:
        if indices.shape != (count,):
            raise IndexError(f"a mask of shape {indices.shape} for {count} rows")
        indices = np.flatnonzero(indices)
    elif not indices.size:
        indices = indices.astype(np.int64)
    return _as_slice(_in_range(indices, count))


def _in_range(indices: np.ndarray, count: int) -> np.ndarray:
    """Indices from 0; IndexError as NumPy raises it."""
    if indices.dtype.kind not in "iu":
        raise IndexError(f"rows are chosen by integers, slices and masks, not by {indices.dtype}")
    if indices.size and not (-count <= indices.min() and indices.max() < count):
        worst = indices.max() if indices.max() >= count else indices.min()
        raise IndexError(f"row {worst} of {count}")
    indices = indices.astype(np.int64, copy=False)
    return np.where(indices < 0, indices + count, indices)


def _as_slice(rows: np.ndarray) -> slice | np.ndarray:
    if rows.ndim == 1 and len(rows) and (np.diff(rows) == 1).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows if len(rows) else slice(0, 0)


class IdRows(Sequence[str]):
    """The ids of the rows of a store, read when they are asked for."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, key: int) -> str: ...
    @overload
    def __getitem__(self, key: slice) -> list[str]: ...
    def __getitem__(self, key: Any) -> str | list[str]:
        """One id by a number, a list of them by a slice, a list or an array of numbers, or a mask."""
        found = self._rows[key]
        return decode_ids(found[None])[0] if found.ndim == 1 else decode_ids(found)


class FeatureStore:
    """A store opened for reading; see `FeatureStore.open`. It takes no memory by the row until rows are asked for.

    Attributes:
        features: rows of the only or first tap, float32 or bfloat16 (`ml_dtypes.bfloat16`).
        label_rows, id_rows: labels (int64) and ids of some rows: `store.label_rows[10:20]`.
        class_names: name of each label.
        complete: whether every image of the source is there.
        metadata: fingerprint, taps, `skipped` (ids of images that could not be read), batch size, device.
    """

    def __init__(self, path: str, metadata: dict[str, Any]) -> None:
        self.path, self.metadata = path, metadata
        self.complete: bool = metadata["complete"]
        self.class_names: tuple[str, ...] = tuple(metadata["class_names"])
        self.taps: tuple[str, ...] = tuple(metadata["taps"])
        self.num_missing = 0
        self._kept = self._find_kept()
        self.features = self.tap(self.taps[0])

    def _find_kept(self) -> KeptRows | None:
        """Which rows of the source are here; None for all. The checks are read only where that is not known."""
        rows = self.metadata["num_images"]
        if self.complete and "skipped_rows" in self.metadata:
            skipped = self.metadata["skipped_rows"]
            return KeptRows.without(skipped, rows) if skipped else None
        blocks = []
        for start, checks in scan_checks(self.path, self.metadata):
            self.num_missing += int((checks == MISSING).sum())
            blocks.append(KeptRows.runs_of(start, checks))
        if not blocks:
            raise TransferError(f"{self.path}: its metadata are of no image; delete the store and extract again")
        kept = KeptRows(np.concatenate(blocks))
        return None if len(kept) == rows else kept

    @classmethod
    def open(cls, path: Any, incomplete: bool = False) -> "FeatureStore":
        """Opens the store at `path`, local or `gs://`.

        Args:
            incomplete: also open a store that lacks images still, as far as it has come.

        Raises:
            TransferError: no store there, an incomplete one, or one whose metadata are damaged.
        """
        metadata = read_metadata(str(path))
        if metadata is None:
            raise TransferError(f"no feature store at {path}; python -m transfer extract makes one")
        check_metadata(str(path), metadata)
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
        """The label of each row, int64 (N,)."""
        return self.label_rows[:]

    @cached_property
    def ids(self) -> list[str]:
        """The id of each row, as the source names its images."""
        return self.id_rows[:]

    @cached_property
    def label_rows(self) -> Rows:
        """The labels, read where they are asked for: `store.label_rows[10:20]`, int64."""
        return self._rows("labels")

    @cached_property
    def id_rows(self) -> IdRows:
        """The ids, read where they are asked for: `store.id_rows[10:20]`, a list of strings."""
        return IdRows(self._rows("ids"))

    @property
    def num_chunks(self) -> int:
        """Chunks of features: as many files a tap; see `chunk`."""
        return -(-self.metadata["num_images"] // self.metadata["batch_size"])

    def chunk(self, index: int) -> slice:
        """The rows of the store that lie in the chunk `index` of its features; reading them reads one file a tap."""
        batch, rows = self.metadata["batch_size"], self.metadata["num_images"]
        start, stop = index * batch, min((index + 1) * batch, rows)
        if self._kept is None:
            return slice(start, stop)
        return slice(self._kept.before(start), self._kept.before(stop))

    def tap(self, name: str) -> Rows:
        """Rows of the tap `name`, such as `"pre_logits"`; TransferError if the store does not have it."""
        if name not in self.taps:
            raise TransferError(f"the feature store {self.path} has no tap {name!r}; it has {', '.join(self.taps)}")
        return self._rows(f"features/{name}")

    def _rows(self, name: str) -> Rows:
        return Rows(open_array(self.path, self.metadata, name), self._kept)
