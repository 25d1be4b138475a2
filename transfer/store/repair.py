"""A damaged feature store is made whole: what is wrong is removed or written again, and only that.

What the source says (labels, ids) and what follows from the metadata is written anew. Of damaged rows the checksums
are removed first, then the store is no longer complete, then their features go: wherever that is interrupted, the
damage is found again, and rows without a checksum are computed by whatever completes the store.
"""

import json
from collections.abc import Mapping
from typing import Any

from transfer.errors import TransferError
from transfer.runtime.files import lock
from transfer.runtime.files.kvstore import Directory
from transfer.store.arrays import ArraySpec, ChunkedArray
from transfer.store.format import CONTENT, GROUP, METADATA, arrays, write_metadata
from transfer.store.verify import GROUP_OF_TAPS, Damage, Labelled, beside_of
from transfer.store.writer import id_width


def remove_damage(
    path: str, metadata: Mapping[str, Any], damage: Damage, source: Labelled | None = None, rebuilt: bool = False
) -> list[str]:
    """Repairs what can be written at once, and marks the rows of `damage.redo` as not there.

    Args:
        metadata: the store's, or as they should be.
        damage: of the store as it is now.
        source: where the labels and ids come from.
        rebuilt: whether the store's own metadata are damaged, too.

    Returns:
        Files that do not belong to the store and lie outside of its arrays: they are left alone.

    Raises:
        TransferError: labels or ids are damaged and there is no source; another process is writing the store.
    """
    if source is None and any(damage.beside.values()):
        raise TransferError(
            f"{path}: damaged labels or ids can only come from the source again; pass --workdir=DIR (whose "
            "config.json names it) or --config=FILE"
        )
    directory, specs = Directory(path), arrays(metadata)
    with lock.hold(path, "feature store"):
        for key in damage.metadata:
            _write_metadata(directory, specs, key)
        for name, chunks in damage.beside.items():
            for index in chunks:
                _write_beside(path, metadata, specs[name], index, source)
        foreign = [key for key in damage.surplus if not key.startswith(tuple(f"{name}/" for name in specs))]
        for key in set(damage.surplus) - set(foreign):
            directory.remove(key)
        if damage.redo or rebuilt:
            _mark(path, metadata, damage, directory, specs)
    return foreign


def _write_metadata(directory: Directory, specs: Mapping[str, ArraySpec], key: str) -> None:
    if key == GROUP_OF_TAPS:
        directory.write_json(key, {**GROUP, "attributes": {}})
    else:
        directory.write(key, specs[key.removesuffix(f"/{METADATA}")].zarr_json)


def _write_beside(path: str, metadata: Mapping[str, Any], spec: ArraySpec, index: int, source: Labelled | None) -> None:
    assert source is not None
    start = index * spec.chunk_rows
    array = ChunkedArray.open(path, spec)
    values = beside_of(source, metadata, spec.name, start, min(start + spec.chunk_rows, spec.shape[0]))
    array.wait(array.write(start, values))


def _mark(
    path: str, metadata: Mapping[str, Any], damage: Damage, directory: Directory, specs: Mapping[str, ArraySpec]
) -> None:
    batch = metadata["batch_size"]
    batches = [start // batch for first, stop in damage.redo for start in range(first, stop, batch)]
    for index in batches:
        directory.remove(f"checks/c/{specs['checks'].chunk_key(index)}")
    write_metadata(path, begun_again(metadata))
    for name, spec in specs.items():
        if name.startswith("features/"):
            for index in batches:
                directory.remove(f"{name}/c/{spec.chunk_key(index)}")


def begun_again(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of the same store, not complete."""
    return {**metadata, "complete": False, "skipped": [], "skipped_rows": [], "checks_crc32": None}


def is_damaged_store(path: str) -> bool:
    """Whether what lies at `path` was a feature store, though its metadata do not say so any more."""
    directory = Directory(path)
    return all(directory.read(f"{name}/{METADATA}") is not None for name in ("checks", "labels", "ids"))


def rebuilt_metadata(path: str, wanted: Mapping[str, Any], source: Labelled) -> dict[str, Any]:
    """The metadata of the store at `path`, whose own are damaged: as they were when it was begun.

    What may be other by now (the batch size) or follows from no setting (the rows of a chunk of labels) is as its
    arrays have it.

    Args:
        wanted: `transfer.store.writer.new_metadata` by the settings that the store was made with.
    """
    directory = Directory(path)
    found = {"batch_size": _chunk_rows(directory, "checks"), "row_chunk": _chunk_rows(directory, "labels")}
    kept = {key: value for key, value in wanted.items() if key != CONTENT or directory.list(f"{CONTENT}/")}
    return {**kept, **{key: rows for key, rows in found.items() if rows}, "id_width": id_width(source.ids)}


def _chunk_rows(directory: Directory, name: str) -> int | None:
    """Rows of a chunk by the array's own metadata; None where they are damaged, too."""
    try:
        found = json.loads(directory.read(f"{name}/{METADATA}") or b"")
        rows = found["chunk_grid"]["configuration"]["chunk_shape"][0]
    except (ValueError, TypeError, KeyError, IndexError):
        return None
    return rows if isinstance(rows, int) and rows > 0 else None
