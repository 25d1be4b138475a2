"""A damaged feature store is made whole: what is wrong is removed or written again, and only that.

What the source says (labels, ids) and what follows from the metadata is written anew. Of damaged rows the checksums
are removed first, then the store is no longer complete, then their features go: wherever that is interrupted, the
damage is found again, and rows without a checksum are computed by whatever completes the store.
"""

from collections.abc import Mapping
from typing import Any

from transfer.errors import TransferError
from transfer.runtime.files import lock
from transfer.runtime.files.kvstore import Directory
from transfer.store.arrays import ChunkedArray
from transfer.store.format import GROUP, METADATA, Labelled, arrays, source_values, write_metadata
from transfer.store.verify import GROUP_OF_TAPS, Damage


def remove_damage(path: str, metadata: Mapping[str, Any], damage: Damage, source: Labelled | None = None) -> list[str]:
    """Repairs what can be written at once, and marks `damage.batches_to_recompute` as missing.

    Args:
        metadata: the store's.
        damage: of the store as it is now.
        source: where the labels and ids come from.

    Returns:
        Files that do not belong to the store and lie outside of its arrays: they are left alone.

    Raises:
        TransferError: labels or ids are damaged and there is no source; another process is writing the store.
    """
    if source is None and any(damage.row_metadata.values()):
        raise TransferError(
            f"{path}: damaged labels or ids can only come from the source again; pass --workdir=DIR (whose "
            "config.json names it) or --config=FILE"
        )
    directory, specs = Directory(path), arrays(metadata)
    with lock.hold(path, "feature store"):
        for key in damage.array_metadata:
            directory.remove(key)
            if key == GROUP_OF_TAPS:
                directory.write_json(key, {**GROUP, "attributes": {}})
            else:
                ChunkedArray.create(path, specs[key.removesuffix(f"/{METADATA}")])
        for name, chunks in damage.row_metadata.items():
            for index in chunks:
                assert source is not None
                array, start = ChunkedArray.open(path, specs[name]), index * specs[name].chunk_rows
                stop = min(start + specs[name].chunk_rows, metadata["num_images"])
                array.wait(array.write(start, source_values(source, metadata, name, start, stop)))
        foreign = [key for key in damage.surplus if not key.startswith(tuple(f"{name}/" for name in specs))]
        for key in set(damage.surplus) - set(foreign):
            directory.remove(key)
        if damage.batches_to_recompute:
            _mark_missing(path, metadata, damage.batches_to_recompute)
    return foreign


def _mark_missing(path: str, metadata: Mapping[str, Any], runs: list[tuple[int, int]]) -> None:
    directory, batch = Directory(path), metadata["batch_size"]
    batches = [start // batch for first, stop in runs for start in range(first, stop, batch)]

    def remove_chunks(prefix: str) -> None:
        for name, spec in arrays(metadata).items():
            if name.startswith(prefix):
                for index in batches:
                    directory.remove(f"{name}/c/{spec.chunk_key(index)}")

    remove_chunks("checks")
    write_metadata(path, not_complete(metadata))
    remove_chunks("features/")


def not_complete(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of the same store, not complete."""
    return {**metadata, "complete": False, "skipped": [], "skipped_rows": [], "checks_crc32": None}
