"""Whether a feature store is what was written: every chunk, every row beside its label and id, every file.

Each chunk is read, and each row's checksum computed anew, a few batches at a time. Where the source is at hand, labels
and ids are compared with its own, row by row.
"""

import errno
import json
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from transfer.data.source import Source
from transfer.errors import TransferError
from transfer.runtime.files.kvstore import Directory, repair_hint
from transfer.runtime.files.lock import NAME as LOCK
from transfer.runtime.progress import Progress
from transfer.store.arrays import ChunkedArray
from transfer.store.format import CONTENT, GROUP, METADATA, MISSING, SKIPPED, arrays, decode_raw, encode_ids, open_array
from transfer.store.images import SEEN, said
from transfer.store.row_checks import row_checks

READERS = 4
# What is read ahead, at most: bytes of features, and batches.
BYTES_AHEAD = 32 << 20
BATCHES_AHEAD = 16
MOST_LINES = 100
BESIDE = ("labels", "ids")
GROUP_OF_TAPS = "features/" + METADATA


class Labelled(Protocol):
    """What is asked of a source: labels int64 (N,) and N ids."""

    labels: np.ndarray
    ids: Sequence[str]


@dataclass
class Damage:
    """What is wrong with a store.

    Attributes:
        lines: one for each thing that is wrong, for people; the first hundred.
        more: how many there are beyond.
        redo: runs of whole batches (start, stop) whose features or checksums are damaged, in order.
        beside: "labels" or "ids" -> indices of their chunks that are damaged.
        metadata: keys of the arrays' own metadata that are damaged.
        surplus: keys of files that do not belong to the store.
        missing: rows that are not there yet, of a store that is not complete.
        changed: rows whose images have other bytes now.
    """

    lines: list[str] = field(default_factory=list)
    more: int = 0
    redo: list[tuple[int, int]] = field(default_factory=list)
    beside: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in BESIDE})
    metadata: list[str] = field(default_factory=list)
    surplus: list[str] = field(default_factory=list)
    missing: int = 0
    changed: int = 0

    def __bool__(self) -> bool:
        return bool(self.lines)

    def say(self, *lines: str) -> None:
        """Takes down what is wrong."""
        room = max(MOST_LINES - len(self.lines), 0)
        self.lines += lines[:room]
        self.more += len(lines[room:])

    @property
    def rows_to_redo(self) -> int:
        """How many rows lie in `redo`."""
        return sum(stop - start for start, stop in self.redo)

    def add_batch(self, start: int, stop: int) -> None:
        """Counts a batch to those that are redone; they come in order."""
        if self.redo and self.redo[-1][1] == start:
            start = self.redo.pop()[0]
        self.redo.append((start, stop))


def verify(
    path: str, metadata: Mapping[str, Any], source: Labelled | None = None, images: Source | None = None
) -> Damage:
    """Reads the whole store at `path`, of the present format, and says what is wrong with it.

    Args:
        metadata: the store's, or as they should be.
        source: where the labels and ids come from, where that is at hand: N of each.
        images: where the images come from, whose files are read again and compared with what was read.

    Raises:
        OSError: files may not be read. A disk that cannot read a file any more is damage.
    """
    return _Verification(path, metadata, source, images).run()


class _Verification:
    def __init__(
        self, path: str, metadata: Mapping[str, Any], source: Labelled | None, images: "Source | None"
    ) -> None:
        self.path, self.metadata, self.source, self.images = path, metadata, source, images
        self.damage = Damage()
        self._directory = Directory(path)
        self._specs = arrays(metadata)
        # as they should be: an array's own damaged metadata do not hide its chunks
        self._arrays = {name: open_array(path, metadata, name, assume=True) for name in self._specs}
        self._taps = [name for name in self._specs if name.startswith("features/")]
        self._content = [name for name in self._specs if name == CONTENT]
        self._blocks: dict[str, tuple[int, np.ndarray | None]] = {name: (-1, None) for name in BESIDE}
        self._skipped = np.asarray(metadata["skipped_rows"], np.int64)
        self._changed: list[int] = []

    def run(self) -> Damage:
        self._check_metadata()
        self._check_files()
        crc, rows = 0, self.metadata["num_images"]
        with Progress(f"verify {self.path}", rows, "rows") as progress:
            for start, checks, lines in self._batches():
                if lines:
                    self.damage.say(*lines)
                    self.damage.add_batch(start, start + len(checks))
                self.damage.missing += int((checks == MISSING).sum())
                crc = zlib.crc32(checks.astype("<u4").tobytes(), crc)
                progress.update(len(checks))
        self.damage.changed = sum(self._changed)
        if self.metadata["complete"] and not self.damage.redo and crc != self.metadata["checks_crc32"]:
            self.damage.redo = [(0, rows)]
            self.damage.say("rows of another store are among these: their checksums are not those of the end")
        return self.damage

    def _check_metadata(self) -> None:
        group = {**GROUP, "attributes": {}}
        for key, spec in [(f"{name}/{METADATA}", spec) for name, spec in self._specs.items()] + [(GROUP_OF_TAPS, None)]:
            try:
                if spec is None and _json(self._directory.read(key)) != group:
                    raise TransferError(f"{self.path}/{key} is damaged or missing")
                if spec is not None:
                    ChunkedArray.open(self.path, spec)
            except (TransferError, OSError) as error:
                self.damage.say(self._reason(error))
                self.damage.metadata.append(key)

    def _check_files(self) -> None:
        prefixes = [f"{name}/" for name in self._specs]
        for key in self._directory.list_outside(prefixes):
            if key not in (METADATA, GROUP_OF_TAPS, LOCK, SEEN):
                self.damage.surplus.append(key)
        for name, spec in self._specs.items():
            for key in self._directory.list(f"{name}/"):
                index = key.split("/")[1] if key.startswith("c/") else ""
                known = index.isdecimal() and int(index) < spec.num_chunks and key == f"c/{spec.chunk_key(int(index))}"
                if not known and key != METADATA:
                    self.damage.surplus.append(f"{name}/{key}")
        self.damage.surplus.sort()
        self.damage.say(*(f"{self.path}/{key} does not belong to the store" for key in self.damage.surplus))

    def _batches(self) -> Iterator[tuple[int, np.ndarray, list[str]]]:
        """Yields (first row, checks, what is wrong) of each batch in order, which are read ahead by threads."""
        batch, rows = self.metadata["batch_size"], self.metadata["num_images"]
        dtypes = [self._arrays[tap] for tap in self._taps]
        bytes_of_batch = sum(int(np.prod(array.shape[1:])) * array.dtype.itemsize for array in dtypes) * batch
        ahead = int(np.clip(BYTES_AHEAD // max(bytes_of_batch, 1), 2, BATCHES_AHEAD))
        running: deque[Future[tuple[int, np.ndarray, list[str]]]] = deque()
        with ThreadPoolExecutor(READERS, thread_name_prefix="verify") as pool:
            for start in range(0, rows, batch):
                stop = min(start + batch, rows)
                labels, ids = self._rows("labels", start, stop), self._rows("ids", start, stop)
                running.append(pool.submit(self._check_batch, start, stop, labels, ids))
                if len(running) > ahead:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()

    def _rows(self, name: str, start: int, stop: int) -> np.ndarray | None:
        """Labels or ids of some rows as they should be; None where that is not known."""
        chunk, parts = self.metadata["row_chunk"], []
        for index in range(start // chunk, -(-stop // chunk)):
            block = self._block(name, index)
            if block is None:
                return None
            parts.append(block[max(start - index * chunk, 0) : stop - index * chunk])
        return np.concatenate(parts)

    def _block(self, name: str, index: int) -> np.ndarray | None:
        """A chunk of labels or ids: the source's, else what is stored; None if that is damaged."""
        if self._blocks[name][0] != index:
            self._blocks[name] = (index, self._checked_block(name, index))
        return self._blocks[name][1]

    def _checked_block(self, name: str, index: int) -> np.ndarray | None:
        start = index * self.metadata["row_chunk"]
        stop = min(start + self.metadata["row_chunk"], self.metadata["num_images"])
        wanted = beside_of(self.source, self.metadata, name, start, stop) if self.source else None
        try:
            found = self._arrays[name].read(slice(start, stop))
        except (TransferError, OSError) as error:
            self.damage.say(self._reason(error))
            self.damage.beside[name].append(index)
            return wanted
        if wanted is None:
            return found
        different = (found != wanted).reshape(len(found), -1).any(axis=1)
        if different.any():
            self.damage.say(f"{name} of {_rows(start, different)} are not the source's")
            self.damage.beside[name].append(index)
        return wanted

    def _check_batch(
        self, start: int, stop: int, labels: np.ndarray | None, ids: np.ndarray | None
    ) -> tuple[int, np.ndarray, list[str]]:
        rows, lines, values = slice(start, stop), [], []
        checks = np.zeros(stop - start, np.uint32)
        try:
            checks = self._arrays["checks"].read(rows)
        except (TransferError, OSError) as error:
            lines.append(self._reason(error))
        if not lines and not self.metadata["complete"] and (checks == MISSING).any():
            # a batch that was not finished; what lies there is written over
            return start, np.zeros_like(checks), lines
        for name in (*self._taps, *self._content):
            try:
                values.append(self._arrays[name].read(rows))
            except (TransferError, OSError) as error:
                lines.append(self._reason(error))
        if lines:
            return start, checks, lines
        content = values.pop() if self._content else None
        if (checks == MISSING).any():
            lines.append(f"{_rows(start, checks == MISSING)} are missing, though the store is complete")
        elif wrong := self._wrongly_skipped(start, checks, values):
            lines.append(wrong)
        elif labels is not None and ids is not None:
            different = (row_checks(start, labels, decode_raw(ids), values) != checks) & (checks != SKIPPED)
            if different.any():
                lines.append(f"{_rows(start, different)}: features, label or id are not those that were written")
        if content is not None and self.images is not None:
            other = np.flatnonzero(content != self.images.file_checksums(range(start, stop))).tolist()
            if other:
                self._changed.append(len(other))
                lines.append(said([self.images.ids[start + row] for row in other]))
        return start, checks, lines

    def _wrongly_skipped(self, start: int, checks: np.ndarray, values: list[np.ndarray]) -> str | None:
        skipped = checks == SKIPPED
        if self.metadata["complete"]:
            first, last = np.searchsorted(self._skipped, [start, start + len(checks)])
            wanted = np.zeros(len(checks), bool)
            wanted[self._skipped[first:last] - start] = True
            if (skipped != wanted).any():
                return f"{_rows(start, skipped != wanted)} were skipped or were not, other than the metadata say"
        if skipped.any() and not all(np.isnan(array[skipped].astype(np.float32)).all() for array in values):
            return f"{_rows(start, skipped)} are marked as skipped but have features"
        return None

    def _reason(self, error: TransferError | OSError) -> str:
        """What is wrong, of damage; other errors of the operating system are the caller's."""
        if isinstance(error, OSError):
            if error.errno != errno.EIO:
                raise error
            return f"{error.filename}: {error.strerror}"
        return str(error).removesuffix(f"; {repair_hint(self.path)}")


def beside_of(source: Labelled, metadata: Mapping[str, Any], name: str, start: int, stop: int) -> np.ndarray:
    """Labels (int64) or ids (uint8, padded) of rows of the source, as they are stored."""
    if name == "labels":
        return np.asarray(source.labels[start:stop], np.int64)
    return encode_ids(source.ids[start:stop], metadata["id_width"])


def _json(text: bytes | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return None


def _rows(start: int, chosen: np.ndarray) -> str:
    """ "row 7", "rows 3 to 9", or "4 of the rows 3 to 9"."""
    rows = start + np.flatnonzero(chosen)
    first, last = int(rows[0]), int(rows[-1])
    if first == last:
        return f"row {first}"
    whole = f"rows {first} to {last}"
    return whole if last - first + 1 == len(rows) else f"{len(rows)} of the {whole}"
