"""Whether the images are still those that stored features were computed from, by the checksums of their files.

The fingerprint of a source knows names and sizes. What was written over in place shows in the CRC-32 that a store keeps
of each file as it was read. So that a run with nothing to do does not read every image again, `PATH/.seen` has a number
for each row that follows from size and dates of its file (`Source.file_stamps`), as they were before it was read or was
last found to be the same. It is a hint, not a part of the store: where it differs or is lost, files are read again.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from absl import logging

from transfer.data.source import Source
from transfer.errors import TransferError
from transfer.runtime.files.kvstore import Directory
from transfer.runtime.files.untrusted import printable
from transfer.runtime.progress import Progress
from transfer.store.format import CONTENT, MISSING, decode_ids, open_array, read_metadata, scan_checks

SEEN = ".seen"
READ_AT_ONCE = 64
MOST_NAMED = 5


def reader(source: Source) -> Callable[[range], np.ndarray] | None:
    """What gives a writer the checksums of files as they were read; None where images are no files."""
    read = getattr(source, "file_checksums_read", None)  # a source need not be a `Source`
    return read if read is not None and len(source) and read(range(1)) is not None else None


def changed(path: str, metadata: Mapping[str, Any], source: Source) -> np.ndarray:
    """Rows of the store whose images have other bytes now, int64; of the same source, by its fingerprint.

    Reads the files that may have been written to since. Where nothing has changed, it will not do so again.
    """
    stamps = source.file_stamps(range(len(source))) if reader(source) is not None else None
    if stamps is None:
        return np.empty(0, np.int64)
    if CONTENT not in metadata:
        logging.log_first_n(
            logging.INFO, "%s was begun by an earlier version: it cannot tell images that change in place", 1, path
        )
        return np.empty(0, np.int64)
    seen = _seen(path, len(source))
    found = _different(path, metadata, there(path, metadata) & (stamps != seen), source, np.arange(len(source)))
    if not len(found) and not np.array_equal(stamps, seen):
        _remember(path, stamps)
    return found


def there(path: str, metadata: Mapping[str, Any]) -> np.ndarray:
    """Which rows have been computed, bool (N,)."""
    if metadata["complete"]:
        return np.ones(metadata["num_images"], bool)
    return np.concatenate([checks != MISSING for _, checks in scan_checks(path, metadata)])


def _seen(path: str, rows: int) -> np.ndarray:
    data = Directory(path).read(SEEN) or b""
    return np.frombuffer(data, "<i8") if len(data) == 8 * rows else np.full(rows, -1)


def _remember(path: str, stamps: np.ndarray) -> None:
    with contextlib.suppress(OSError, TransferError):  # a finished store may be only read, and it is but a hint
        Directory(path).write(SEEN, stamps.astype("<i8").tobytes())


def _different(
    path: str, metadata: Mapping[str, Any], doubtful: np.ndarray, source: Source, of_source: np.ndarray
) -> np.ndarray:
    """Those of the rows `doubtful` (bool) whose files have another checksum now; `of_source` are the source's rows."""
    from transfer.data.loader import default_workers  # with JAX

    rows = np.flatnonzero(doubtful)
    if not len(rows):
        return rows
    stored = open_array(path, metadata, CONTENT).read(rows)
    parts = [of_source[rows[at : at + READ_AT_ONCE]].tolist() for at in range(0, len(rows), READ_AT_ONCE)]
    now = []
    with ThreadPoolExecutor(default_workers()) as pool, Progress("compare images", len(rows), "images") as progress:
        for found in pool.map(source.file_checksums, parts):
            now.append(found)
            progress.update(len(found))
    return rows[stored != np.concatenate(now)]


def changes(stores: Mapping[str, Source]) -> str:
    """Which images have changed, come or gone since the stores were begun, for people; empty for none.

    Args:
        stores: path -> the source of today, of the splits of one data set: what left one may have come to another.
    """
    begun = {path: metadata for path in stores if (metadata := read_metadata(path)) is not None}
    if not all(metadata["fingerprint"].get("images") == stores[path].fingerprint for path, metadata in begun.items()):
        return _by_names(begun, stores)
    rows = {path: changed(path, metadata, stores[path]) for path, metadata in begun.items()}
    return said(sorted(stores[path].ids[row] for path in begun for row in rows[path].tolist()))


def said(changed: Sequence[str], more: Sequence[str] = (), fewer: Sequence[str] = ()) -> str:
    """ "1 image changed: cat/a.jpg; 2 more: cat/b.jpg, cat/c.jpg; 1 fewer: dog/d.jpg"; empty for none."""
    many = "image" if len(changed) == 1 else "images"
    parts = ((f"{many} changed", changed), ("more", more), ("fewer", fewer))
    return "; ".join(f"{len(ids)} {what}: {_named(ids)}" for what, ids in parts if len(ids))


def _named(ids: Sequence[str]) -> str:
    return ", ".join(printable(id_, 200) for id_ in ids[:MOST_NAMED]) + (", …" if len(ids) > MOST_NAMED else "")


def _by_names(begun: Mapping[str, dict[str, Any]], sources: Mapping[str, Source]) -> str:
    """What differs between all rows of the stores and all of the sources, whichever split they are in."""
    then = {id_: (path, row) for path in begun for row, id_ in enumerate(_ids(path, begun[path]))}
    now = {id_: (path, row) for path, source in sources.items() for row, id_ in enumerate(source.ids)}
    shared = then.keys() & now.keys()
    if not shared:  # another data set
        return ""
    places: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for id_ in shared:
        (path, row), (of_now, row_now) = then[id_], now[id_]
        places.setdefault((path, of_now), []).append((row, row_now))
    changed = [_changed_of(path, begun[path], sources[of_now], rows) for (path, of_now), rows in places.items()]
    # what is in no store yet may be of a split that has not been begun
    more = sorted(now.keys() - then.keys()) if begun.keys() == sources.keys() else []
    return said(sorted(itertools.chain(*changed)), more, sorted(then.keys() - now.keys()))


def _ids(path: str, metadata: Mapping[str, Any]) -> list[str]:
    return decode_ids(open_array(path, metadata, "ids").read(slice(0, metadata["num_images"])))


def _changed_of(path: str, metadata: Mapping[str, Any], source: Source, rows: Iterable[tuple[int, int]]) -> list[str]:
    """Ids of those (row of the store, row of the source) whose images have changed."""
    if CONTENT not in metadata or reader(source) is None:
        return []
    pairs = np.array(sorted(rows))
    doubtful, of_source = np.zeros(metadata["num_images"], bool), np.zeros(metadata["num_images"], np.int64)
    doubtful[pairs[:, 0]], of_source[pairs[:, 0]] = True, pairs[:, 1]
    doubtful &= there(path, metadata)
    stamps = source.file_stamps(pairs[:, 1].tolist())
    if stamps is not None:
        doubtful[pairs[:, 0]] &= stamps != _seen(path, metadata["num_images"])[pairs[:, 0]]
    return [source.ids[row] for row in of_source[_different(path, metadata, doubtful, source, of_source)]]
