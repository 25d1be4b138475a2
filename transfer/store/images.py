"""Whether the images are still those that stored features were computed from, by the checksums of their files.

The fingerprint of a source knows names and sizes. What was written over in place shows in the CRC-32 that a store keeps
of each file as it was read. So that a run with nothing to do does not read every image again, `PATH/.seen` has a number
for each row that follows from size and dates of its file (`Source.file_stamps`), as they were before it was read or was
last found to be the same. It is a hint, not a part of the store: where it differs or is lost, files are read again.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from absl import logging

from transfer.data.layout import listed
from transfer.data.source import Source
from transfer.errors import TransferError
from transfer.runtime.files.kvstore import Directory
from transfer.runtime.progress import NOTICEABLE_SECONDS, Progress
from transfer.store.format import CONTENT, MISSING, decode_ids, open_array, read_metadata, scan_checks

SEEN = ".seen"
READ_AT_ONCE = 64
MOST_NAMED = 5


def reader(source: Source) -> Callable[[range], np.ndarray] | None:
    """A function that gives the checksums of files as they were read; None where images are no files."""
    read = getattr(source, "file_checksums_read", None)  # a source need not be a `Source`
    return read if read is not None and len(source) and read(range(1)) is not None else None


def changed(path: str, metadata: Mapping[str, Any], source: Source, pairs: np.ndarray | None = None) -> list[str]:
    """Ids of the images that have other bytes now than when the store at `path` read them.

    Reads the files that may have been written to since. Where none of a whole store's has changed, they are not read
    again the next time.

    Args:
        pairs: int64 (R, 2), rows of the store and rows of the source; None where the two have the same rows, by their
            fingerprint.
    """
    if reader(source) is None:
        return []
    rows = np.arange(len(source)) if pairs is None else pairs[:, 0]
    source_rows = rows if pairs is None else pairs[:, 1]
    stamps = source.file_stamps(source_rows.tolist())
    if stamps is None and pairs is None:
        return []
    if CONTENT not in metadata:
        logging.log_first_n(
            logging.INFO, "%s was begun by an earlier version: it cannot tell images that change in place", 1, path
        )
        return []
    doubtful = np.ones(len(rows), bool)
    if not metadata["complete"]:  # those that have been computed
        doubtful = np.concatenate([checks != MISSING for _, checks in scan_checks(path, metadata)])[rows]
    data, count = Directory(path).read(SEEN) or b"", metadata["num_images"]
    seen = (np.frombuffer(data, "<i8") if len(data) == 8 * count else np.full(count, -1))[rows]
    if stamps is not None:
        doubtful &= stamps != seen
    different = _different(path, metadata, rows[doubtful], source, source_rows[doubtful])
    if stamps is not None and pairs is None and not different and not np.array_equal(stamps, seen):
        with contextlib.suppress(OSError, TransferError):  # a finished store may be only read, and it is but a hint
            Directory(path).write(SEEN, stamps.astype("<i8").tobytes())
    return different


def _different(
    path: str, metadata: Mapping[str, Any], rows: np.ndarray, source: Source, source_rows: np.ndarray
) -> list[str]:
    """Ids of those images, by their rows in the store and in the source, whose files have another checksum now."""
    from transfer.data.loader import default_workers  # with JAX

    if not len(rows):
        return []
    stored = open_array(path, metadata, CONTENT).read(rows)
    parts = [source_rows[at : at + READ_AT_ONCE].tolist() for at in range(0, len(rows), READ_AT_ONCE)]
    now, progress = [], Progress("compare images", len(rows), "images", delay=NOTICEABLE_SECONDS)
    with ThreadPoolExecutor(default_workers()) as pool, progress:
        for checksums in pool.map(source.file_checksums, parts):
            now.append(checksums)
            progress.update(len(checksums))
    return [source.ids[row] for row in source_rows[stored != np.concatenate(now)]]


def changes(stores: Mapping[str, Source]) -> str:
    """Which images have changed, come or gone since the stores were begun, for people; empty for none.

    Args:
        stores: path -> the source of today, of the splits of one data set: what left one may have come to another.
    """
    begun = {path: metadata for path in stores if (metadata := read_metadata(path)) is not None}
    if all(metadata["fingerprint"].get("images") == stores[path].fingerprint for path, metadata in begun.items()):
        return describe_changes(sorted(id_ for path in begun for id_ in changed(path, begun[path], stores[path])))
    # the listings differ: compare all rows of the stores with all of the sources, whichever split they are in
    then: dict[str, tuple[str, int]] = {}
    for path, metadata in begun.items():
        ids = decode_ids(open_array(path, metadata, "ids").read(slice(0, metadata["num_images"])))
        then |= {id_: (path, row) for row, id_ in enumerate(ids)}
    now = {id_: (path, row) for path, source in stores.items() for row, id_ in enumerate(source.ids)}
    if not (shared := then.keys() & now.keys()):  # another data set
        return ""
    pairs: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for id_ in shared:
        (store, row), (split, source_row) = then[id_], now[id_]
        pairs.setdefault((store, split), []).append((row, source_row))
    different = []
    for (store, split), rows in pairs.items():
        different += changed(store, begun[store], stores[split], np.array(sorted(rows)))
    # what is in no store yet may be of a split that has not been begun
    more = sorted(now.keys() - then.keys()) if begun.keys() == stores.keys() else []
    return describe_changes(sorted(different), more, sorted(then.keys() - now.keys()))


def describe_changes(changed: Sequence[str], more: Sequence[str] = (), fewer: Sequence[str] = ()) -> str:
    """Names ids: "1 image changed: cat/a.jpg; 2 more: cat/b.jpg, cat/c.jpg; 1 fewer: dog/d.jpg"; empty for none."""
    noun = "image" if len(changed) == 1 else "images"
    parts = ((f"{noun} changed", changed), ("more", more), ("fewer", fewer))
    return "; ".join(f"{len(ids)} {what}: {listed(ids, MOST_NAMED, 200)}" for what, ids in parts if ids)
