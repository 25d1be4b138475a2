"""What is where in a WebDataset tar: its samples and their labels, listed once and kept for the next run.

Listing a tar reads its headers and what is small, and of the images not a byte.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from etils import epath

from transfer.data import formats
from transfer.data.shards import Shard
from transfer.errors import TransferError
from transfer.runtime import cache
from transfer.runtime.files import archives, atomic, tars
from transfer.runtime.files.untrusted import prefix_errors

FORMAT = 1
# Of a label that is read; JSON beside an image may have its whole story.
MOST_TEXT, TOO_LONG = 1 << 20, b"\xff"
BUFFER = 8 << 20  # on a bucket
# Which member of a sample has its label, the first that has one.
LABELS = ("cls", "json", "txt")


class TarIndex(NamedTuple):
    """The samples of a tar that have one image and a label, in order."""

    keys: np.ndarray  # uint8, the base names one after another
    ends: np.ndarray  # int64 (N,), where each of them ends
    offsets: np.ndarray  # int64 (N,), of the images in the file
    sizes: np.ndarray  # int64 (N,)
    codes: np.ndarray  # int32 (N,), labels as places in `classes`
    classes: list[str]
    left_out: dict[str, tuple[int, str]]  # why -> how many samples, and the first one
    whole: bool  # whether it has the end that a tar has

    def key(self, row: int) -> str:
        """The base name of a sample."""
        start = int(self.ends[row - 1]) if row else 0
        return self.keys[start : int(self.ends[row])].tobytes().decode("utf-8", "surrogateescape")


def index_of(shard: Shard) -> TarIndex:
    """The index of a shard, from the cache, or made and kept there; TransferError for a damaged tar."""
    name = hashlib.sha256(shard.path.encode("utf-8", "surrogateescape")).hexdigest()
    kept, about = epath.Path(cache.cache_dir() / "shards" / name), [FORMAT, shard.stamp]
    if (index := _read(kept, about)) is not None:
        return index
    with prefix_errors(shard.path), shard.system.open(shard.path, "rb", block_size=BUFFER) as file:
        index = listed(file, shard.size)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with atomic.writing(kept, shared=True) as stream:
            text = json.dumps([about, *index[5:]]).encode()
            arrays: dict[str, Any] = dict(zip(index._fields, index[:5], strict=False))
            np.savez(stream, text=np.frombuffer(text, np.uint8), **arrays)
    except OSError as error:
        logging.log_first_n(logging.WARNING, "%s: indexes of shards are not kept (%s)", 1, kept.parent, error.strerror)
    return index


def _read(kept: Any, about: list[int]) -> TarIndex | None:
    """The index that was kept, None where there is none, or of another file."""
    try:
        with open(kept, "rb") as file, archives.open_zip(file) as archive:
            found, *rest = json.loads(archive.array("text").tobytes())
            arrays: list[Any] = [archive.array(field) for field in TarIndex._fields[:5]]
            return TarIndex(*arrays, *rest) if found == about else None
    except (OSError, TransferError, ValueError):
        return None


@dataclasses.dataclass(slots=True)
class _Sample:
    images: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    labels: dict[str, bytes] = dataclasses.field(default_factory=dict)  # as they are written


def listed(file: Any, size: int) -> TarIndex:
    """The samples of a tar: members with one base name, wherever they lie."""
    samples: dict[bytes, _Sample] = {}
    for name, offset, length in tars.members(file, size):
        folder, slash, last = name.removeprefix(b"./").rpartition(b"/")
        base, _, ending = last.partition(b".")
        suffix = ending.decode("latin1").lower()
        if not base or (suffix not in LABELS and f".{suffix}" not in formats.OF_IMAGES):  # hidden, or of no use
            continue
        sample = samples.setdefault(folder + slash + base, _Sample())
        if suffix in LABELS:
            sample.labels[suffix] = file.read(length) if length <= MOST_TEXT else TOO_LONG
        else:
            sample.images.append((offset, length))
    keys, rows = list[bytes](), list[tuple[int, int, int]]()
    classes, left_out = dict[str, int](), dict[str, tuple[int, str]]()
    for key, sample in samples.items():
        label, why = _label(sample.labels)
        if len(sample.images) != 1:
            why = "with several images" if sample.images else "without an image"
        if why:
            count, first = left_out.get(why, (0, key.decode("utf-8", "surrogateescape")))
            left_out[why] = count + 1, first
        else:
            keys.append(key)
            rows.append((*sample.images[0], classes.setdefault(label, len(classes))))
    offsets, sizes, codes = np.array(rows, np.int64).reshape(-1, 3).T.copy()
    packed, ends = np.frombuffer(b"".join(keys), np.uint8), np.cumsum([len(key) for key in keys], dtype=np.int64)
    return TarIndex(
        packed, ends, offsets, sizes, codes.astype(np.int32), list(classes), left_out, tars.has_end(file, size)
    )


def _label(written: Mapping[str, bytes]) -> tuple[str, str]:
    """(label as text, why there is none) of a sample, by the contents of its members that may have it."""
    why = "without a label"
    for suffix in filter(written.__contains__, LABELS):
        try:
            value = json.loads(written[suffix]) if suffix == "json" else written[suffix].decode()
        except (ValueError, RecursionError):
            value = None
        value = value.get("label", "") if isinstance(value, dict) else value
        text = str(value).strip()
        if isinstance(value, bool) or not isinstance(value, int | str) or "\n" in text:
            why = f"whose .{suffix} is no label"
        elif text:
            return text, ""
    return "", why
