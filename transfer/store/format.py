"""What a feature store consists of: its metadata under their own checksum, and the arrays that follow from them.

    PATH/zarr.json          a Zarr v3 group; its attributes are the metadata, written last at creation and completion
    PATH/features/TAP       float32 or bfloat16 (N, ...), one array per tap, one file per batch, or shards of many
                            chunks (`transfer.store.sizes`)
    PATH/labels             int64 (N,), or as `target` of the metadata has it float32 (N, T), in chunks of rows
    PATH/ids                uint8 (N, W), UTF-8 padded by zeros, in chunks of rows
    PATH/checks             uint32 (N,), one chunk per file of features: 0 not computed yet, 1 an image that was
                            skipped, else the checksum of the row (`row_checks`)
    PATH/content            int64 (N,), where images are files: CRC-32 of each as it was read, -1 where it could not be;
                            chunks as those of `checks`, each written before (`transfer.store.images`)

Format 3 has shards, whose rows are the entry `shard_rows` of the metadata and those of their chunks `chunk_rows`;
format 2, which older versions read, is any other store.

Any Zarr v3 reader opens it; bfloat16 is an extension type that TensorStore has and zarr-python does not.

The attribute `sha256` is the SHA-256 of the other attributes as JSON text, in their order, ASCII without spaces. What
they say of shapes and types is what the arrays' own `zarr.json` must say.

A chunk's own checksum says that its bytes are those that were written. It says nothing where whole chunks have changed
places, or where labels or ids were written again in another order; the checksum of a row does.
"""

import hashlib
import json
import math
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import ml_dtypes
import numpy as np
import tensorstore as ts

from transfer.data.source import TARGETS
from transfer.errors import TransferError
from transfer.runtime.files.kvstore import Directory, translated_errors
from transfer.runtime.files.paths import kvstore_spec, wait_for

METADATA = "zarr.json"
GROUP = {"zarr_format": 3, "node_type": "group"}
KIND = "transfer.features"
FORMAT, FORMAT_OF_SHARDS = 2, 3
# In `checks`; any other value is a row's checksum.
MISSING, SKIPPED = 0, 1
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
# What is stored of a row beside its features, and comes from the source.
ROW_METADATA = ("labels", "ids")
# The key of the metadata that says what labels are, where they are no classes.
TARGET = "target"
# The array of the images' checksums, and the key of the metadata of a store that has it.
CONTENT = "content"
UNREAD = -1
# A tap's name is that of a folder.
LONGEST_TAP = 200
# Rows, sizes and the like, far from what overflows in the library that reads the arrays.
LARGEST_COUNT = 1 << 40
# Rows of a chunk of labels and of ids, and the rows that are looked at in one go elsewhere.
ROWS_AT_ONCE = 65536


class Labelled(Protocol):
    """The part of a source that a store keeps: labels int64 (N,) or float32 (N, T), and N ids."""

    labels: np.ndarray
    ids: Sequence[str]


@dataclass(frozen=True)
class ArraySpec:
    """An array of a store: its name, shape and type, the rows of its files and the value of a missing element.

    A file is one chunk, or a shard of chunks of `chunk_rows` rows.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    file_rows: int
    fill_value: object = 0
    chunk_rows: int | None = None

    @property
    def metadata(self) -> dict[str, Any]:
        """The part of the array's `zarr.json` that is particular to this array."""
        row = [max(n, 1) for n in self.shape[1:]]
        codecs: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
        if self.chunk_rows is not None:
            chunks = {"chunk_shape": [self.chunk_rows, *row], "codecs": codecs, "index_codecs": codecs}
            codecs = [{"name": "sharding_indexed", "configuration": chunks}]
        return {
            "shape": list(self.shape),
            "data_type": self.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [self.file_rows, *row]}},
            "chunk_key_encoding": {"name": "default"},
            "fill_value": self.fill_value,
            "codecs": codecs,
            "dimension_names": ["row", *(f"axis{i}" for i in range(1, len(self.shape)))],
        }

    @property
    def num_files(self) -> int:
        """The number of files of the whole array."""
        return -(-self.shape[0] // self.file_rows)

    def file_key(self, index: int) -> str:
        """The file `index` as a key below the array's `c/`."""
        return "/".join([str(index)] + ["0"] * (len(self.shape) - 1))

    def files_within(self, start: int, stop: int) -> range:
        """The files whose rows are all among [start, stop)."""
        return range(-(-start // self.file_rows), self.num_files if stop >= self.shape[0] else stop // self.file_rows)


class ChunkedArray:
    """A Zarr v3 array through TensorStore: each file is some whole rows, written atomically and flushed.

    Args:
        path: of the store.
        spec: describes the array; TransferError where it is missing, or another one.
        create: write the array's own metadata where it has none, beside chunks that may be there already.
        optional_chunks: a chunk that is not there has the fill value; else it is an error to read it.
        assume: do not read the array's own metadata.
    """

    def __init__(
        self, path: str, spec: ArraySpec, *, create: bool = False, optional_chunks: bool = False, assume: bool = False
    ) -> None:
        self.path, self.spec = path, spec
        settings = {
            "driver": "zarr3",
            "kvstore": kvstore_spec(path, f"{spec.name}/"),
            # rows that happen to equal the fill value are rows all the same
            "store_data_equal_to_fill_value": True,
            "fill_missing_data_reads": optional_chunks,
            "metadata": spec.metadata,
        }
        mode: dict[str, Any] = {"create": True} if create else {"open": True, "assume_metadata": assume}
        with self._errors_named():
            self._array = wait_for(ts.open(settings, **mode), path)
        self.shape, self.dtype = spec.shape, np.dtype(self._array.dtype.numpy_dtype)

    def _errors_named(self) -> AbstractContextManager[None]:
        return translated_errors(f"{self.path}/{self.spec.name}", self.path)

    def read(self, rows: slice | np.ndarray) -> np.ndarray:
        """Rows by a slice with a start and a stop, or by an array of indices; TransferError for a damaged chunk."""
        with self._errors_named():
            return np.asarray(wait_for(self._array[rows].read(), self.path, math.inf))

    def write(self, start: int, values: np.ndarray, lasting: bool = False) -> Callable[[], None]:
        """Starts to write rows from row `start`, best whole files; what it returns waits until they are on the disk.

        `lasting` values do not change until then, and need not be copied. Either raises OSError where the disk is full.
        """
        stop = start + len(values)
        with self._errors_named():
            writing = self._array[start:stop].write(values, can_reference_source_data_indefinitely=lasting)

        def wait() -> None:
            try:
                with self._errors_named():
                    wait_for(writing, self.path, math.inf)
            except TransferError as error:
                if error.__cause__ is None or stop < self.shape[0]:
                    raise
                # into an incomplete last file TensorStore would write what it read there first, which is damaged
                with self._errors_named():
                    for index in self.spec.files_within(start, stop):
                        wait_for(self._array.kvstore.write(f"c/{self.spec.file_key(index)}", None), self.path)
                    wait_for(self._array[start:stop].write(values), self.path, math.inf)

        return wait


def read_metadata(path: str) -> dict[str, Any] | None:
    """The metadata of the store at `path`, None where there is none.

    Raises:
        TransferError: it is something else's, of another format, or damaged.
    """
    text = Directory(path).read(METADATA)
    if text is None:
        return None
    try:
        group = json.loads(text)
    except ValueError:
        raise _lost(path, "damaged (not JSON)") from None
    metadata = group.get("attributes") if isinstance(group, dict) else None
    if not isinstance(metadata, dict) or not ("sha256" in metadata or metadata.get("kind") == KIND):
        raise TransferError(f"{path} is not a feature store, though it has a {METADATA}; choose another directory")
    known = metadata.get("format") in (FORMAT, FORMAT_OF_SHARDS)
    sealed = "sha256" in metadata or known
    if sealed and (group != {**GROUP, "attributes": metadata} or metadata.get("sha256") != seal(metadata)):
        raise _lost(path, "damaged (its checksum does not match)")
    if not known:
        raise TransferError(
            f"the feature store {path} has format {metadata.get('format')}, and this version reads the formats "
            f"{FORMAT} and {FORMAT_OF_SHARDS} only; delete {path} and extract again"
        )
    if not _is_complete_description(metadata):
        raise _lost(path, "damaged (it describes no features)")
    return metadata


def existing_metadata(path: str) -> dict[str, Any]:
    """The metadata of the store at `path`; TransferError where there is none, or where it cannot be opened."""
    if (metadata := read_metadata(path)) is not None:
        return metadata
    if Directory(path).read(f"checks/{METADATA}") is not None:
        raise _lost(path, "missing")
    raise TransferError(f"no feature store at {path}; python -m transfer extract makes one")


def _lost(path: str, what: str) -> TransferError:
    return TransferError(f"{path}/{METADATA} is {what}; delete {path} and extract again")


def is_complete(path: Any) -> bool:
    """True if there is a store at `path` that lacks no image."""
    return bool((read_metadata(str(path)) or {}).get("complete"))


def _is_complete_description(metadata: Mapping[str, Any]) -> bool:
    """Whether metadata, whose checksum is right, have every field that opening needs, of the right type."""
    taps, names, skipped = metadata.get("taps"), metadata.get("class_names"), metadata.get("skipped_rows")
    return (
        all(_is_count(metadata.get(name)) for name in ("num_images", "batch_size", "row_chunk", "id_width"))
        and all(metadata[name] >= 1 for name in ("batch_size", "row_chunk", "id_width"))
        and _has_sizes(metadata)
        and isinstance(taps, dict)
        and len(taps) > 0
        and all(isinstance(shape, list) and all(map(_is_count, shape)) for shape in taps.values())
        and not any(".." in tap or len(tap) > LONGEST_TAP for tap in taps)
        and isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and isinstance(metadata.get("complete"), bool)
        and metadata.get("features_dtype") in list(DTYPES)
        and target_of(metadata) in TARGETS
        and isinstance(skipped, list)
        and all(_is_count(row) and row < metadata["num_images"] for row in skipped)
    )


def _has_sizes(metadata: Mapping[str, Any]) -> bool:
    """Whether metadata say how large shards are, where the format has some, and nowhere else."""
    sizes = [metadata[name] for name in ("shard_rows", "chunk_rows") if name in metadata]
    if metadata["format"] != FORMAT_OF_SHARDS or len(sizes) != 2:
        return metadata["format"] == FORMAT and not sizes
    counts = all(_is_count(size) and size >= 1 for size in sizes)
    return counts and sizes[0] % math.lcm(sizes[1], metadata["batch_size"]) == 0


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < LARGEST_COUNT


def seal(metadata: Mapping[str, Any]) -> str:
    """The SHA-256 of the metadata without their entry `sha256`, hexadecimal."""
    content = {key: value for key, value in metadata.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def write_metadata(path: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the metadata of the store, whole or not at all; returns them as they are read back."""
    attributes = {**{key: value for key, value in metadata.items() if key != "sha256"}, "sha256": seal(metadata)}
    Directory(path).write_json(METADATA, {**GROUP, "attributes": attributes})
    return json.loads(json.dumps(attributes))


def arrays(metadata: Mapping[str, Any]) -> dict[str, ArraySpec]:
    """The arrays of a store, by name."""
    rows, of_file, chunk = metadata["num_images"], file_rows(metadata), metadata["row_chunk"]
    dtype, in_shard = metadata["features_dtype"], metadata.get("chunk_rows")
    specs = [
        ArraySpec(f"features/{tap}", (rows, *shape), dtype, of_file, "NaN", in_shard)
        for tap, shape in metadata["taps"].items()
    ]
    of_classes = target_of(metadata) == "classes"
    specs += [
        ArraySpec("labels", (rows,), "int64", chunk)
        if of_classes
        else ArraySpec("labels", (rows, len(metadata["class_names"])), "float32", chunk),
        ArraySpec("ids", (rows, metadata["id_width"]), "uint8", chunk),
        ArraySpec("checks", (rows,), "uint32", of_file, MISSING),
    ]
    if metadata.get(CONTENT):
        specs.append(ArraySpec(CONTENT, (rows,), "int64", of_file, UNREAD))
    return {spec.name: spec for spec in specs}


def file_rows(metadata: Mapping[str, Any]) -> int:
    """Rows of a file of features, and of one of their checksums: a shard or a batch."""
    return metadata.get("shard_rows", metadata["batch_size"])


def chunk_rows(metadata: Mapping[str, Any]) -> int:
    """Rows of features that are read as a whole."""
    return metadata.get("chunk_rows", metadata["batch_size"])


def target_of(metadata: Mapping[str, Any]) -> str:
    """What labels are: "classes", "labels" or "values"; a store of classes does not say."""
    return metadata.get(TARGET, "classes")


def open_array(path: str, metadata: Mapping[str, Any], name: str, assume: bool = False) -> ChunkedArray:
    """An array of the store; TransferError where it is not as the metadata describe it.

    With `assume` the array's own metadata are not read.
    """
    return ChunkedArray(path, arrays(metadata)[name], optional_chunks=name == "checks", assume=assume)


def scan_checks(path: str, metadata: Mapping[str, Any]) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (first row, `checks` of whole files from there on, uint32) over all rows."""
    array = open_array(path, metadata, "checks")
    return ((start, array.read(slice(start, stop))) for start, stop in blocks(metadata))


def blocks(metadata: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    """Yields (start, stop) of the rows of some whole files, of about ROWS_AT_ONCE rows each."""
    rows, of_file = metadata["num_images"], file_rows(metadata)
    step = max(ROWS_AT_ONCE // of_file, 1) * of_file
    return ((start, min(start + step, rows)) for start in range(0, rows, step))


def append_run(runs: list[tuple[int, int]], start: int, stop: int) -> None:
    """Adds rows [start, stop) to ascending runs of rows, to the last of them where they follow it."""
    if runs and runs[-1][1] == start:
        start = runs.pop()[0]
    runs.append((start, stop))


def source_values(source: Labelled, metadata: Mapping[str, Any], name: str, start: int, stop: int) -> np.ndarray:
    """Labels (int64 or float32) or ids (uint8, padded) of some rows of the source, as they are stored."""
    if name == "labels":
        return np.asarray(source.labels[start:stop], arrays(metadata)[name].dtype)
    return encode_ids(source.ids[start:stop], metadata["id_width"])


def raw_ids(ids: Sequence[str]) -> list[bytes]:
    """Ids as UTF-8; file names that are not UTF-8 keep their bytes."""
    return [text.encode("utf-8", "surrogateescape") for text in ids]


def encode_ids(ids: Sequence[str], width: int | None = None) -> np.ndarray:
    """Ids as uint8 (N, W), `raw_ids` padded by zeros; W is `width`, or that of the longest."""
    raw = np.array(raw_ids(ids), dtype=np.bytes_)
    width = width or max(raw.dtype.itemsize, 1)
    return np.frombuffer(raw.astype(f"S{width}").tobytes(), np.uint8).reshape(len(ids), width)


def decode_raw(ids: np.ndarray) -> list[bytes]:
    """The bytes of each id, uint8 (N, W), without its padding."""
    return np.ascontiguousarray(ids).view(f"S{ids.shape[1]}").reshape(len(ids)).tolist()


def decode_ids(ids: np.ndarray) -> list[str]:
    """The ids that `encode_ids` encoded."""
    return [raw.decode("utf-8", "surrogateescape") for raw in decode_raw(ids)]


def row_checks(start: int, labels: np.ndarray, ids: Sequence[bytes], taps: Sequence[np.ndarray]) -> np.ndarray:
    """The checksums of consecutive rows: they bind features to their place, their id and their label.

    A checksum is the CRC-32 (zlib's) of, one after another: the row's index as little-endian int64, the bytes of its
    label or labels, little-endian, the length of its id as uint32, its id, and its features' bytes, little-endian, tap
    by tap in the store's order. The values 0 and 1 are written as 2 and 3.

    Takes labels (n,) or (n, T) as they are stored, n ids without padding and (n, ...) of each tap, of the store's
    type, from row `start` on; returns uint32 (n,).
    """
    buffers = []
    for values in taps:
        contiguous = np.ascontiguousarray(values)
        buffers.append((contiguous.reshape(-1).view(np.uint8).data, values.nbytes // max(len(values), 1)))
    checks = np.empty(len(labels), np.uint32)
    of_rows = np.ascontiguousarray(labels).view(f"V{labels.nbytes // max(len(labels), 1)}").reshape(len(labels))
    for i, (label, id_) in enumerate(zip(of_rows.tolist(), ids, strict=True)):
        check = zlib.crc32(struct.pack("<q", start + i) + label + struct.pack("<I", len(id_)) + id_)
        for buffer, width in buffers:
            check = zlib.crc32(buffer[i * width : (i + 1) * width], check)
        checks[i] = check if check > SKIPPED else check + 2
    return checks
