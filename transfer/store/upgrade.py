"""A feature store of format 1 becomes one of the present format, in place: its rows get checksums."""

import zlib
from typing import Any

import numpy as np

from transfer.runtime.files.kvstore import Directory
from transfer.store.arrays import ChunkedArray
from transfer.store.format import (
    FORMAT,
    MISSING,
    SKIPPED,
    arrays,
    decode_raw,
    open_array,
    scan_checks,
    write_metadata,
)
from transfer.store.row_checks import row_checks


def upgrade(path: str, old: dict[str, Any]) -> dict[str, Any]:
    """Adds `checks` to the store of format 1 at `path`, by reading every chunk of it, and returns its new metadata.

    Features, labels and ids stay as they are. It is of format 1 until its metadata are replaced, at the end, so that
    it may be interrupted at any moment. Whoever calls it holds the store's lock.

    Raises:
        TransferError: a chunk is missing or damaged.
    """
    rows = old["num_images"]
    labels, ids = open_array(path, old, "labels"), open_array(path, old, "ids")
    new: dict[str, Any] = {
        **old,
        "format": FORMAT,
        "features_dtype": "float32",
        "skipped_rows": [],
        "checks_crc32": None,
        # labels and ids are one chunk there
        "row_chunk": max(rows, 1),
        "id_width": ids.shape[1],
    }
    checks_array = ChunkedArray.create(path, arrays(new)["checks"])
    taps = [open_array(path, new, f"features/{tap}") for tap in new["taps"]]
    all_labels, all_ids = labels.read(slice(0, rows)), ids.read(slice(0, rows))
    crc = 0
    for start, status in scan_checks(path, old):
        checks = np.zeros(len(status), np.uint32)
        for first, stop in _batches_there(start, status, new["batch_size"]):
            here = slice(first, stop)
            values = [tap.read(here) for tap in taps]
            found = row_checks(first, all_labels[here], decode_raw(all_ids[here]), values)
            checks[first - start : stop - start] = found
        checks[status == SKIPPED] = SKIPPED
        new["skipped_rows"] += (start + np.flatnonzero(status == SKIPPED)).tolist()
        checks_array.wait(checks_array.write(start, checks))
        crc = zlib.crc32(checks.astype("<u4").tobytes(), crc)
    if new["complete"]:
        new["checks_crc32"] = crc
    else:
        new["skipped_rows"] = []
    new = write_metadata(path, new)
    Directory(path).delete("status/")
    return new


def _batches_there(start: int, status: np.ndarray, batch_size: int) -> list[tuple[int, int]]:
    """(start, stop) of the batches of which no row is missing."""
    batches = ((first, min(first + batch_size, len(status))) for first in range(0, len(status), batch_size))
    return [(start + first, start + stop) for first, stop in batches if (status[first:stop] != MISSING).all()]
