"""What is where in a WebDataset tar: its samples and their labels, listed once and kept for the next run.

Listing a tar reads its headers and what is small, and of the images not a byte.
"""

import hashlib
import json
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from etils import epath

from transfer.data import decode
from transfer.data.shards import WHOLE_NUMBER, Shard
from transfer.errors import TransferError
from transfer.runtime import cache
from transfer.runtime.files import archives, atomic, tars
from transfer.runtime.files.untrusted import prefix_errors

FORMAT = 1
# Of a label that is read; JSON beside an image may have its whole story.
MOST_TEXT = 1 << 20
BUFFER = 8 << 20  # on a bucket
# Which member of a sample has its label, the first that is there.
LABELS = (b"cls", b"json", b"txt")


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
    kept = cache.cache_dir() / "shards" / f"{hashlib.sha256(shard.path.encode('utf-8', 'surrogateescape')).hexdigest()}"
    about = {"format": FORMAT, "stamp": shard.stamp}
    if (index := _read(kept, about)) is not None:
        return index
    with prefix_errors(shard.path), shard.system.open(shard.path, "rb", block_size=BUFFER) as file:
        index = _samples(file, shard.size)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with atomic.writing(epath.Path(kept), shared=True) as stream:
            _write(stream, index, about)
    except OSError as error:
        logging.log_first_n(logging.WARNING, "%s: indexes of shards are not kept (%s)", 1, kept.parent, error.strerror)
    return index


def _write(stream: Any, index: TarIndex, about: dict[str, Any]) -> None:
    arrays = index._asdict()
    text = json.dumps([about, *(arrays.pop(field) for field in TarIndex._fields[5:])])
    np.savez(stream, text=np.frombuffer(text.encode(), np.uint8), **arrays)


def _read(kept: Any, about: dict[str, Any]) -> TarIndex | None:
    """The index that was kept, None where there is none, or of another file."""
    try:
        with open(kept, "rb") as file, archives.open_zip(file) as archive:
            found, *rest = json.loads(archive.array("text").tobytes())
            if found == about:
                arrays: list[Any] = list(map(archive.array, TarIndex._fields[:5]))
                return TarIndex(*arrays, *rest)
    except (OSError, TransferError, ValueError):
        pass
    return None


class _Sample:
    __slots__ = ("images", "label", "no_label", "place", "rank")

    def __init__(self) -> None:
        self.images, self.place = 0, (0, 0)
        self.label, self.rank, self.no_label = "", len(LABELS), "without a label"

    def why_left_out(self) -> str:
        """Why it is no labelled image; empty for one that is."""
        if self.images != 1:
            return "with several images" if self.images else "without an image"
        return "" if self.label else self.no_label


def _samples(file: Any, size: int) -> TarIndex:
    """The samples of a tar: members with one base name, wherever they lie."""
    samples: dict[bytes, _Sample] = {}
    for name, offset, length in tars.members(file, size):
        folder, slash, last = name.removeprefix(b"./").rpartition(b"/")
        base, _, suffix = last.partition(b".")
        if not base:  # hidden
            continue
        suffix = suffix.lower()
        is_image = ("." + suffix.decode("latin1")).endswith(decode.EXTENSIONS) and b"." not in suffix
        if not is_image and suffix not in LABELS:
            continue
        sample = samples.setdefault(folder + slash + base, _Sample())
        if is_image:
            sample.images, sample.place = sample.images + 1, (offset, length)
        elif (rank := LABELS.index(suffix)) < sample.rank:
            try:
                label = _label(suffix, file.read(length) if length <= MOST_TEXT else b"\xff")
            except (ValueError, RecursionError):
                sample.no_label = f"whose .{suffix.decode()} is no label"
                continue
            if label:
                sample.label, sample.rank = label, rank
    return _indexed(samples, tars.has_end(file, size))


def _label(suffix: bytes, data: bytes) -> str | None:
    """The label in a member, as text; None where there is none in it, ValueError where it is no number and no name."""
    value = json.loads(data) if suffix == b"json" else data.decode().strip()
    if isinstance(value, dict):
        value = value.get("label")
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int | str) or "\n" in str(value):
        raise ValueError
    text = str(value)
    return None if text.startswith("-") and WHOLE_NUMBER.fullmatch(text) else text  # -1 is none everywhere


def _indexed(samples: dict[bytes, _Sample], whole: bool) -> TarIndex:
    classes: dict[str, int] = {}
    left_out: dict[str, tuple[int, str]] = {}
    keys, rows = list[bytes](), list[tuple[int, int, int]]()
    for key, sample in samples.items():
        if why := sample.why_left_out():
            count, first = left_out.get(why, (0, key.decode("utf-8", "surrogateescape")))
            left_out[why] = count + 1, first
            continue
        keys.append(key)
        rows.append((*sample.place, classes.setdefault(sample.label, len(classes))))
    ends = np.cumsum([len(key) for key in keys], dtype=np.int64)
    offsets, sizes, codes = np.array(rows, np.int64).reshape(-1, 3).T.copy()
    packed = np.frombuffer(b"".join(keys), np.uint8)
    return TarIndex(packed, ends, offsets, sizes, codes.astype(np.int32), list(classes), left_out, whole)
