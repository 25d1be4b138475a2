"""The checksum of a row: it binds the features to their place, their id and their label.

A chunk's own checksum says that its bytes are those that were written. It says nothing where whole chunks have changed
places, or where labels or ids were written again in another order; the checksum of a row does.
"""

import struct
import zlib
from collections.abc import Sequence

import numpy as np

from transfer.store.format import SKIPPED

# Two bits that keep a checksum apart from the values with a meaning, 0 and 1.
_APART = 2


def row_checks(start: int, labels: np.ndarray, ids: Sequence[bytes], taps: Sequence[np.ndarray]) -> np.ndarray:
    """The checksums of consecutive rows.

    A checksum is the CRC-32 (zlib's) of, one after another: the row's index and label as little-endian int64, the
    length of its id as uint32, its id, and its features' bytes, little-endian, tap by tap in the store's order. The
    values 0 and 1 are written as 2 and 3.

    Args:
        start: index of the first row.
        labels: int64 (n,).
        ids: n ids as bytes, without padding.
        taps: (n, ...) of each tap, of the store's type.

    Returns:
        uint32 (n,), none of them 0 or 1.
    """
    views = [(_bytes(values), values.nbytes // max(len(values), 1)) for values in taps]
    checks = np.empty(len(labels), np.uint32)
    for i, (label, id_) in enumerate(zip(labels.tolist(), ids, strict=True)):
        check = zlib.crc32(struct.pack("<qqI", start + i, label, len(id_)) + id_)
        for view, width in views:
            check = zlib.crc32(view[i * width : (i + 1) * width], check)
        checks[i] = check if check > SKIPPED else check + _APART
    return checks


def _bytes(values: np.ndarray) -> memoryview:
    """All bytes of an array in a row, little-endian."""
    ordered = values if values.dtype.byteorder != ">" else values.astype(values.dtype.newbyteorder("<"))
    return np.ascontiguousarray(ordered).reshape(-1).view(np.uint8).data
