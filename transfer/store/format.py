"""What a feature store consists of: its metadata under their own checksum, and the arrays that follow from them.

    PATH/zarr.json          a Zarr v3 group; its attributes are the metadata, written last at creation and completion
    PATH/features/TAP       float32 or bfloat16 (N, ...), one array for each tap, a chunk for each batch
    PATH/labels             int64 (N,), in chunks of rows
    PATH/ids                uint8 (N, W), UTF-8 padded by zeros, in chunks of rows
    PATH/checks             uint32 (N,), a chunk for each batch: 0 not there yet, 1 an image that was skipped, else
                            the checksum of the row (`transfer.store.row_checks`)
    PATH/content            int64 (N,), where images are files: CRC-32 of each as it was read, -1 where it could not be;
                            a chunk for each batch, written before that of `checks` (`transfer.store.images`)

Any Zarr v3 reader opens it; bfloat16 is an extension type that TensorStore has and zarr-python does not.

The attribute `sha256` is the SHA-256 of the other attributes as JSON text, in their order, ASCII without spaces. What
they say of shapes and types is what the arrays' own `zarr.json` must say. Format 1, which is still read, has `status`
uint8 (N,) in place of `checks` (0 not there, 1 a row, 2 skipped), one chunk of labels and of ids, and no `sha256`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from transfer.errors import TransferError
from transfer.runtime.files.kvstore import Directory, repair_hint
from transfer.store.arrays import ArraySpec, ChunkedArray

METADATA = "zarr.json"
GROUP = {"zarr_format": 3, "node_type": "group"}
KIND = "transfer.features"
FORMAT = 2
OLD_FORMAT = 1
# In `checks`; any other value is a row's checksum.
MISSING, SKIPPED = 0, 1
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
# The array of the images' checksums, and the key of the metadata of a store that has it.
CONTENT = "content"
UNREAD = -1
# A tap's name is that of a folder.
LONGEST_TAP = 200
# Rows, sizes and the like, far from what overflows in the library that reads the arrays.
LARGEST_COUNT = 1 << 40
# Rows of a chunk of labels and of ids, and the rows that are looked at in one go elsewhere.
ROWS_AT_ONCE = 65536


def read_metadata(path: str) -> dict[str, Any] | None:
    """The metadata of the store at `path`, None where there is none.

    Raises:
        TransferError: it is something else's, of an unknown format, or damaged.
    """
    text = Directory(path).read(METADATA)
    if text is None:
        return None
    try:
        group = json.loads(text)
    except ValueError:
        raise TransferError(f"{path}/{METADATA} is damaged (not JSON); {repair_hint(path)}") from None
    metadata = group.get("attributes") if isinstance(group, dict) else None
    if not isinstance(metadata, dict) or not ({"sha256"} & metadata.keys() or metadata.get("kind") == KIND):
        raise TransferError(f"{path} is not a feature store, though it has a {METADATA}; choose another directory")
    sealed = "sha256" in metadata or metadata.get("format") == FORMAT
    whole = group == {**GROUP, "attributes": metadata} and metadata.get("sha256") == seal(metadata)
    if sealed and not whole:
        raise TransferError(f"{path}/{METADATA} is damaged (its checksum does not match); {repair_hint(path)}")
    if metadata.get("format") not in (OLD_FORMAT, FORMAT):
        raise TransferError(
            f"the feature store {path} has format {metadata.get('format')}, this version reads {OLD_FORMAT} and "
            f"{FORMAT}; delete it and extract again"
        )
    return metadata


def is_complete(path: Any) -> bool:
    """Whether there is a store at `path` that lacks no image."""
    return bool((read_metadata(str(path)) or {}).get("complete"))


def check_metadata(path: str, metadata: Mapping[str, Any]) -> None:
    """Raises TransferError for metadata that lack what a store is opened by."""
    if not _describes(metadata):
        raise TransferError(f"{path}/{METADATA} is damaged (it describes no features); {repair_hint(path)}")


def _describes(metadata: Mapping[str, Any]) -> bool:
    """Whether the metadata have what both formats have, of the right types; those of format 1 are under no checksum."""
    taps, names = metadata.get("taps"), metadata.get("class_names")
    counts = ["num_images", "batch_size"] + ["row_chunk", "id_width"] * (metadata["format"] == FORMAT)
    skipped = metadata.get("skipped_rows", [])
    return (
        all(_is_count(metadata.get(name)) and metadata[name] >= (name != "num_images") for name in counts)
        and isinstance(taps, dict)
        and len(taps) > 0
        and all(isinstance(shape, list) and all(_is_count(side) for side in shape) for shape in taps.values())
        and not any(".." in tap or len(tap) > LONGEST_TAP for tap in taps)
        and isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and isinstance(metadata.get("complete"), bool)
        and (metadata["format"] == OLD_FORMAT or metadata.get("features_dtype") in list(DTYPES))
        and isinstance(skipped, list)
        and all(_is_count(row) and row < metadata["num_images"] for row in skipped)
    )


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < LARGEST_COUNT


def seal(metadata: Mapping[str, Any]) -> str:
    """The SHA-256 of the metadata, but for `sha256` itself."""
    content = {key: value for key, value in metadata.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def write_metadata(path: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the metadata of the store, whole or not at all; returns them as they are read back."""
    attributes = {**{key: value for key, value in metadata.items() if key != "sha256"}, "sha256": seal(metadata)}
    Directory(path).write_json(METADATA, {**GROUP, "attributes": attributes})
    return json.loads(json.dumps(attributes))


def arrays(metadata: Mapping[str, Any]) -> dict[str, ArraySpec]:
    """The arrays of a store of the present format, by name."""
    rows, batch, chunk = metadata["num_images"], metadata["batch_size"], metadata["row_chunk"]
    dtype = metadata["features_dtype"]
    specs = [
        ArraySpec(f"features/{tap}", (rows, *shape), dtype, batch, "NaN") for tap, shape in metadata["taps"].items()
    ]
    specs += [
        ArraySpec("labels", (rows,), "int64", chunk),
        ArraySpec("ids", (rows, metadata["id_width"]), "uint8", chunk),
        ArraySpec("checks", (rows,), "uint32", batch, MISSING),
    ]
    if metadata.get(CONTENT):
        specs.append(ArraySpec(CONTENT, (rows,), "int64", batch, UNREAD))
    return {spec.name: spec for spec in specs}


def open_array(path: str, metadata: Mapping[str, Any], name: str, assume: bool = False) -> ChunkedArray:
    """An array of the store, of either format; TransferError where it is not as the metadata have it.

    With `assume` its own metadata are not looked at.
    """
    spec = name if metadata["format"] == OLD_FORMAT else arrays(metadata)[name]
    return ChunkedArray.open(path, spec, optional_chunks=name in ("checks", "status"), assume=assume)


def scan_checks(path: str, metadata: Mapping[str, Any]) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (first row, checks of whole batches from there on) over all rows; of format 1 what they would say."""
    old = metadata["format"] == OLD_FORMAT
    array = open_array(path, metadata, "status" if old else "checks")
    for start, stop in blocks(metadata["num_images"], metadata["batch_size"]):
        values = array.read(slice(start, stop))
        yield start, np.array([MISSING, 2, SKIPPED], np.uint32)[values] if old else values


def blocks(rows: int, batch_size: int) -> Iterator[tuple[int, int]]:
    """Yields (start, stop) of runs of whole batches, of about ROWS_AT_ONCE rows each."""
    step = max(ROWS_AT_ONCE // batch_size, 1) * batch_size
    return ((start, min(start + step, rows)) for start in range(0, rows, step))


def raw_ids(ids: Sequence[str]) -> list[bytes]:
    """UTF-8; file names that are not UTF-8 keep their bytes."""
    return [text.encode("utf-8", "surrogateescape") for text in ids]


def encode_ids(ids: Sequence[str], width: int | None = None) -> np.ndarray:
    """Strings -> uint8 (N, W), `raw_ids` padded by zeros; W is `width`, or that of the longest."""
    raw = np.array(raw_ids(ids), dtype=np.bytes_)
    width = width or max(raw.dtype.itemsize, 1)
    return np.frombuffer(raw.astype(f"S{width}").tobytes(), np.uint8).reshape(len(ids), width)


def decode_raw(ids: np.ndarray) -> list[bytes]:
    """uint8 (N, W) -> the bytes of each id without its padding."""
    return np.ascontiguousarray(ids).view(f"S{ids.shape[1]}").reshape(len(ids)).tolist()


def decode_ids(ids: np.ndarray) -> list[str]:
    """The inverse of `encode_ids`."""
    return [raw.decode("utf-8", "surrogateescape") for raw in decode_raw(ids)]
