"""Whether a feature store is what was written: every chunk, every row beside its label and id, every file; and repair.

Each chunk is read, and each row's checksum computed anew, a few batches at a time. Where the source is at hand, labels
and ids are compared with its own, row by row.

Repair writes anew what the source says (labels, ids) and what follows from the metadata. Of damaged rows the checksums
are removed first, then the store is no longer complete, then their features go: wherever that is interrupted, the
damage is found again, and rows without a checksum are computed by whatever completes the store.
"""

import errno
import json
import math
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from transfer.data.source import Source
from transfer.errors import TransferError
from transfer.runtime.files import lock
from transfer.runtime.files.kvstore import Directory, repair_hint
from transfer.runtime.progress import Progress
from transfer.store import format as layout
from transfer.store.images import SEEN, describe_changes

READERS = 4
MOST_LINES = 100
GROUP_OF_TAPS, TAPS_METADATA = "features/" + layout.METADATA, {**layout.GROUP, "attributes": {}}

# A batch that has been checked: (first row, its `checks`, what is wrong with it).
CheckedBatch = tuple[int, np.ndarray, list[str]]


@dataclass
class Damage:
    """The damage of a store.

    Attributes:
        lines: one for each problem, for people; the first hundred.
        more: how many there are beyond.
        batches_to_recompute: runs of whole batches (start, stop) whose features or checksums are damaged, in order.
        row_metadata: "labels" or "ids" -> indices of their chunks that are damaged.
        array_metadata: keys of the arrays' own metadata that are damaged.
        surplus: keys of files that do not belong to the store.
        missing: rows that have not been computed yet, of a store that is not complete.
        changed_images: rows whose images have other bytes now.
    """

    lines: list[str] = field(default_factory=list)
    more: int = 0
    batches_to_recompute: list[tuple[int, int]] = field(default_factory=list)
    row_metadata: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in layout.ROW_METADATA})
    array_metadata: list[str] = field(default_factory=list)
    surplus: list[str] = field(default_factory=list)
    missing: int = 0
    changed_images: int = 0

    def __bool__(self) -> bool:
        return bool(self.lines)

    def report(self, *lines: str) -> None:
        """Adds a line for each problem."""
        room = max(MOST_LINES - len(self.lines), 0)
        self.lines += lines[:room]
        self.more += len(lines[room:])

    @property
    def rows_to_recompute(self) -> int:
        """The number of rows in `batches_to_recompute`."""
        return sum(stop - start for start, stop in self.batches_to_recompute)


def verify(
    path: str, metadata: Mapping[str, Any], source: layout.Labelled | None = None, images: Source | None = None
) -> Damage:
    """Reads the whole store at `path` and returns what is wrong with it.

    Args:
        metadata: the store's.
        source: where the labels and ids come from, where that is at hand: N of each.
        images: where the images come from, whose files are read again and compared with what was read.

    Raises:
        OSError: files may not be read. A disk that cannot read a file any more is damage.
    """
    return _Verification(path, metadata, source, images).run()


class _Verification:
    """A pass over a store that collects its damage."""

    def __init__(
        self, path: str, metadata: Mapping[str, Any], source: layout.Labelled | None, images: Source | None
    ) -> None:
        self.path, self.metadata, self.source, self.images = path, metadata, source, images
        self.damage = Damage()
        self._directory = Directory(path)
        self._specs = layout.arrays(metadata)
        # as they should be: an array's own damaged metadata do not hide its chunks
        self._arrays = {name: layout.open_array(path, metadata, name, assume=True) for name in self._specs}
        self._taps = [name for name in self._specs if name.startswith("features/")]
        self._skipped = np.asarray(metadata["skipped_rows"], np.int64)
        self._changed: list[int] = []  # images of a batch, appended by threads

    def run(self) -> Damage:
        self._check_array_metadata()
        self._check_files()
        for name in layout.ROW_METADATA:
            self._check_row_metadata(name)
        crc, rows = 0, self.metadata["num_images"]
        with Progress(f"verify {self.path}", rows, "rows") as progress:
            for start, checks, lines in self._checked_batches():
                if lines:
                    self.damage.report(*lines)
                    layout.append_run(self.damage.batches_to_recompute, start, start + len(checks))
                self.damage.missing += int((checks == layout.MISSING).sum())
                crc = zlib.crc32(checks.astype("<u4").tobytes(), crc)
                progress.update(len(checks))
        self.damage.changed_images = sum(self._changed)
        if self.metadata["complete"] and not self.damage.batches_to_recompute and crc != self.metadata["checks_crc32"]:
            self.damage.batches_to_recompute = [(0, rows)]
            self.damage.report(
                "some rows are of another store: the checksums are not those that the store was completed with"
            )
        return self.damage

    def _check_array_metadata(self) -> None:
        for key, spec in (*self._specs.items(), (GROUP_OF_TAPS, None)):
            key = key if spec is None else f"{key}/{layout.METADATA}"
            try:
                if spec is not None:
                    layout.ChunkedArray(self.path, spec)
                else:
                    with suppress(ValueError):
                        if json.loads(self._directory.read(key) or b"") == TAPS_METADATA:
                            continue
                    raise TransferError(f"{self.path}/{key} is damaged or missing")
            except (TransferError, OSError) as error:
                self.damage.report(self._reason(error))
                self.damage.array_metadata.append(key)

    def _check_files(self) -> None:
        ours = (layout.METADATA, GROUP_OF_TAPS, lock.NAME, SEEN)
        surplus = [key for key in self._directory.list_outside([f"{name}/" for name in self._specs]) if key not in ours]
        for name, spec in self._specs.items():
            for key in self._directory.list(f"{name}/"):
                index = key.split("/")[1] if key.startswith("c/") else ""
                is_ours = index.isdecimal() and int(index) < spec.num_files
                if not (is_ours and key == f"c/{spec.file_key(int(index))}") and key != layout.METADATA:
                    surplus.append(f"{name}/{key}")
        self.damage.surplus = sorted(surplus)
        self.damage.report(*(f"{self.path}/{key} does not belong to the store" for key in self.damage.surplus))

    def _check_row_metadata(self, name: str) -> None:
        """Reads all labels or ids, and compares them with the source's, where there is one."""
        rows, chunk = self.metadata["num_images"], self.metadata["row_chunk"]
        for index, start in enumerate(range(0, rows, chunk)):
            stop, problems = min(start + chunk, rows), list[str]()
            stored = self._read(name, slice(start, stop), problems)
            if stored is not None and self.source is not None:
                expected = layout.source_values(self.source, self.metadata, name, start, stop)
                different = (stored != expected).reshape(len(stored), -1).any(axis=1)
                if different.any():
                    problems.append(f"{name} of {_rows(start, different)} are not the source's")
            if problems:
                self.damage.report(*problems)
                self.damage.row_metadata[name].append(index)

    def _read(self, name: str, rows: slice, problems: list[str]) -> np.ndarray | None:
        """Rows of an array as they are stored; None where they are damaged, which is added to `problems`."""
        try:
            return self._arrays[name].read(rows)
        except (TransferError, OSError) as error:
            problems.append(self._reason(error))
            return None

    def _expected(self, name: str, start: int, stop: int) -> np.ndarray | None:
        """Labels or ids of some rows as the source has them, else as they are stored; None where these are damaged."""
        if self.source is not None:
            return layout.source_values(self.source, self.metadata, name, start, stop)
        return self._read(name, slice(start, stop), [])  # `_check_row_metadata` has reported it

    def _checked_batches(self) -> Iterator[CheckedBatch]:
        """Yields each batch, checked, in order; threads read them, and keep no features.

        Where all are there it is as many together as have whole chunks, which are then read once.
        """
        batch = self.metadata["batch_size"]
        if self.metadata["complete"]:
            batch = math.lcm(batch, layout.chunk_rows(self.metadata))
        with ThreadPoolExecutor(READERS, thread_name_prefix="verify") as pool:
            for first, last in layout.blocks(self.metadata):
                labels, ids = self._expected("labels", first, last), self._expected("ids", first, last)
                starts = range(first, last, batch)
                stops = [min(start + batch, last) for start in starts]
                expected: list[tuple[np.ndarray, np.ndarray] | None] = [None] * len(starts)
                if labels is not None and ids is not None:
                    cuts = range(batch, last - first, batch)
                    expected = list(zip(np.split(labels, cuts), np.split(ids, cuts), strict=True))
                yield from pool.map(self._check_batch, starts, stops, expected)

    def _check_batch(self, start: int, stop: int, expected: tuple[np.ndarray, np.ndarray] | None) -> CheckedBatch:
        """Reads a batch whose (labels, ids) are `expected`, None where they are not known."""
        rows, lines = slice(start, stop), list[str]()
        checks = self._read("checks", rows, lines)
        if checks is None:
            checks = np.zeros(stop - start, np.uint32)
        elif not self.metadata["complete"] and (checks == layout.MISSING).any():
            # a batch that was not finished; what lies there is written over
            return start, np.zeros_like(checks), []
        values = [self._read(name, rows, lines) for name in self._taps]
        checksums = self._read(layout.CONTENT, rows, lines) if layout.CONTENT in self._arrays else None
        features = [array for array in values if array is not None]
        if lines:
            return start, checks, lines
        if (checks == layout.MISSING).any():
            lines.append(f"{_rows(start, checks == layout.MISSING)} are missing, though the store is complete")
        elif wrong := self._wrongly_skipped(start, checks, features):
            lines.append(wrong)
        elif expected is not None:
            labels, ids = expected
            expected_checks = layout.row_checks(start, labels, layout.decode_raw(ids), features)
            different = (expected_checks != checks) & (checks != layout.SKIPPED)
            if different.any():
                lines.append(f"{_rows(start, different)}: features, label or id are not those that were written")
        if checksums is not None and self.images is not None:
            changed = np.flatnonzero(checksums != self.images.file_checksums(range(start, stop))).tolist()
            if changed:
                self._changed.append(len(changed))
                lines.append(describe_changes([self.images.ids[start + row] for row in changed]))
        return start, checks, lines

    def _wrongly_skipped(self, start: int, checks: np.ndarray, features: list[np.ndarray]) -> str | None:
        skipped = checks == layout.SKIPPED
        if self.metadata["complete"]:
            first, last = np.searchsorted(self._skipped, [start, start + len(checks)])
            wanted = np.zeros(len(checks), bool)
            wanted[self._skipped[first:last] - start] = True
            if (skipped != wanted).any():
                return f"{_rows(start, skipped != wanted)}: whether they were skipped is not what the metadata say"
        if skipped.any() and not all(np.isnan(array[skipped].astype(np.float32)).all() for array in features):
            return f"{_rows(start, skipped)} are marked as skipped but have features"
        return None

    def _reason(self, error: TransferError | OSError) -> str:
        """The reason of an error that is damage; other errors of the operating system are the caller's."""
        if isinstance(error, OSError):
            if error.errno != errno.EIO:
                raise error
            return f"{error.filename}: {error.strerror}"
        return str(error).removesuffix(f"; {repair_hint(self.path)}")


def _rows(start: int, chosen: np.ndarray) -> str:
    """Names rows that a bool (n,) marks: "row 7", "rows 3 to 9", or "4 of the rows 3 to 9"."""
    rows = start + np.flatnonzero(chosen)
    first, last = int(rows[0]), int(rows[-1])
    if first == last:
        return f"row {first}"
    whole = f"rows {first} to {last}"
    return whole if last - first + 1 == len(rows) else f"{len(rows)} of the {whole}"


def remove_damage(
    path: str, metadata: Mapping[str, Any], damage: Damage, source: layout.Labelled | None = None
) -> list[str]:
    """Repairs what can be written at once, and marks `damage.batches_to_recompute` as missing.

    Labels and ids come from the source. Returns the files that do not belong to the store and lie outside of its
    arrays: they are left alone.

    Raises:
        TransferError: labels or ids are damaged and there is no source; another process is writing the store.
    """
    if source is None and any(damage.row_metadata.values()):
        raise TransferError(
            f"{path}: damaged labels or ids can only come from the source again; pass --workdir=DIR (whose "
            "config.json names it) or --config=FILE"
        )
    directory, specs = Directory(path), layout.arrays(metadata)

    with lock.hold(path, "feature store"):
        for key in damage.array_metadata:
            directory.remove(key)
            if key == GROUP_OF_TAPS:
                directory.write_json(key, TAPS_METADATA)
            else:
                layout.ChunkedArray(path, specs[key.removesuffix(f"/{layout.METADATA}")], create=True)
        for name, chunks in damage.row_metadata.items():
            for index in chunks:
                assert source is not None
                array, start = layout.ChunkedArray(path, specs[name]), index * specs[name].file_rows
                stop = min(start + specs[name].file_rows, metadata["num_images"])
                array.write(start, layout.source_values(source, metadata, name, start, stop))()
        foreign = [key for key in damage.surplus if not key.startswith(tuple(f"{name}/" for name in specs))]
        for key in set(damage.surplus) - set(foreign):
            directory.remove(key)
        if damage.batches_to_recompute:
            checks = layout.open_array(path, metadata, "checks")
            for start, stop in damage.batches_to_recompute:
                checks.write(start, np.full(stop - start, layout.MISSING, np.uint32))()
            layout.write_metadata(path, not_complete(metadata))
            for name in filter(lambda name: name.startswith("features/"), specs):
                for start, stop in damage.batches_to_recompute:
                    for index in specs[name].files_within(start, stop):
                        directory.remove(f"{name}/c/{specs[name].file_key(index)}")
    return foreign


def not_complete(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of the same store, not complete."""
    return {**metadata, "complete": False, "skipped": [], "skipped_rows": [], "checks_crc32": None}
