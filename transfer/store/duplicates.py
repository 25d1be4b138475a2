"""Validation rows that are training rows too: the measures on them say nothing of new images.

Rows are told by the checksums that a store keeps of its images' files, else by their features; where checksums agree,
which they also do by chance, features do as well.
"""

import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from transfer.data.layout import listed

# Key of `result.json`.
KEY = "duplicates"
MOST_NAMED = 5
# Rows that are read at a time, and bytes of features beyond which rows without checksums are not looked at.
BLOCK, MOST_BYTES = 1024, 8 << 30


class Rows(NamedTuple):
    """The rows of a side."""

    features: Any  # (N, ...) numbers, or what reads slices and rows as NumPy does
    ids: Any  # N texts
    content: Any = None  # int64 (N,), the checksum of each row's file, where rows are of files


def facts(train: Rows, validation: Rows, what: str = "features") -> dict[str, Any] | None:
    """The facts in `result.json` on validation rows that equal a training row; None for none.

    `what` is what the rows hold, in words. {"images", "of", "by": "file" or `what`, "first": [[id, id of the training
    row], …]}.
    """
    by_file = train.content is not None and validation.content is not None
    if not by_file and sum(len(side.features) * _row_bytes(side.features) for side in (train, validation)) > MOST_BYTES:
        return None
    of_train, of_validation = (_checksums(side, by_file) for side in (train, validation))
    order = np.argsort(of_train, kind="stable")
    place = np.searchsorted(of_train[order], of_validation).clip(max=len(order) - 1)
    rows = np.flatnonzero(of_train[order[place]] == of_validation)
    pairs = np.stack([rows, order[place[rows]]], axis=1)
    same = _with_equal_features(pairs[np.argsort(pairs[:, 1], kind="stable")], train, validation)
    if not len(same):
        return None
    first = [[str(validation.ids[int(row)]), str(train.ids[int(twin)])] for row, twin in same[:MOST_NAMED]]
    by = "file" if by_file else what
    return {"images": len(same), "of": len(validation.ids), "by": by, "first": first}


def line(facts: Mapping[str, Any]) -> str:
    """The facts for people, in a line."""
    names = [row if row == twin else f"{row} (= {twin})" for row, twin in facts["first"]]
    more = ", …" if facts["images"] > len(names) else ""
    are = "is a training image" if facts["images"] == 1 else "are training images"
    return (
        f"{facts['images']} of {facts['of']} validation images {are} too, by the same {facts['by']}: "
        f"{listed(names, MOST_NAMED, 200)}{more}; the measures on them say nothing of new images"
    )


def _row_bytes(features: Any) -> int:
    return int(np.prod(features.shape[1:])) * features.dtype.itemsize


def _checksums(side: Rows, by_file: bool) -> np.ndarray:
    """Int64 (N,), one a row."""
    if by_file:
        return np.asarray(side.content[:])
    blocks = (np.ascontiguousarray(side.features[at : at + BLOCK]) for at in range(0, len(side.features), BLOCK))
    return np.array([zlib.crc32(row.tobytes()) for block in blocks for row in block], np.int64)


def _with_equal_features(pairs: np.ndarray, train: Rows, validation: Rows) -> np.ndarray:
    """Those of pairs (P, 2) of rows, by training row, that have the same features but for rounding; by validation row.

    Equal bytes are equal images, whose features may be computed in batches of other sizes.
    """
    kept = []
    for start in range(0, len(pairs), BLOCK):
        block = pairs[start : start + BLOCK]
        sides = (side.features[rows] for side, rows in zip((validation, train), block.T, strict=True))
        ours, theirs = (np.asarray(rows, np.float32).reshape(len(block), -1) for rows in sides)
        kept.append(block[np.abs(ours - theirs).max(axis=1) <= 1e-2 * np.abs(theirs).max(axis=1)])
    same = np.concatenate(kept) if kept else pairs
    return same[np.argsort(same[:, 0])]
