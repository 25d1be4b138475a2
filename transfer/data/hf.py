"""`hf:NAME`: a data set of Hugging Face's `datasets`: of a Hub, of its cache, or a folder of `save_to_disk`."""

import os
from collections.abc import Mapping
from typing import Any

from transfer.data import arrow_columns
from transfer.data.layout import no_split
from transfer.data.shard_rows import Columns, ShardSource
from transfer.data.shards import Shard
from transfer.errors import TransferError, UsageError
from transfer.runtime.distribution import install_hint
from transfer.runtime.files import paths
from transfer.runtime.files.untrusted import error_summary, prefix_errors


class HfSource(ShardSource):
    """Rows of a data set that the library keeps as Arrow files and maps into memory: all of them are one shard."""

    def __init__(self, name: str, rows: Any, columns: Columns, split: str | None) -> None:
        from pyarrow import compute

        table = (rows if rows._indices is None else rows.flatten_indices()).data.table
        self._images = table.column(columns.image)
        sizes = compute.binary_length(compute.struct_field(self._images, "bytes")).fill_null(-1)
        shard = Shard(split or "", name, table.nbytes, int(rows._fingerprint[:15], 16), None)
        super().__init__(name, [shard], [arrow_columns.table(columns, table, sizes)], columns)

    def read(self, row: int, limit: int | None = None) -> bytes:
        image = self._images[self.place(row)[1]].as_py() or {}
        data, path = image.get("bytes"), image.get("path")
        if data is None and path:  # a file on this disk, which the library has not copied
            with open(path, "rb") as file:
                return file.read(-1 if limit is None else limit)
        if data is None:
            raise ValueError("there is neither data nor a path")
        return data[:limit]


def open_split(name: str, split: str | None, columns: Mapping[str, str] | None = None) -> HfSource:
    """Opens a split (the library's own grammar, such as "train" or "train[:10%]") of a data set of labelled images.

    The name is `OWNER/NAME`, `OWNER/NAME/CONFIG`, or a folder that `save_to_disk` has written. What is not in the
    library's cache is downloaded, by its own token and endpoint, unless HF_HUB_OFFLINE is set.

    Args:
        columns: those of images (`path`) and of a class (`label`), several (`labels`) or numbers (`value`).
    """
    spec = f"hf:{name}"
    if not name:
        raise UsageError("write hf:NAME, for example hf:uoft-cs/cifar10")
    try:
        import datasets
    except ImportError as error:
        raise TransferError(f"{spec}: needs the library datasets: {install_hint('hf')}") from error
    try:
        rows = _rows(name, split)
    except TransferError:
        raise
    except Exception as error:  # no network, no such name, a licence to accept by hand: the library has many
        kind = UsageError if isinstance(error, ValueError) else TransferError
        raise kind(f"{spec}: cannot be opened ({error_summary(error)})") from error
    with prefix_errors(spec):
        found = arrow_columns.find(rows.features.arrow_schema, columns)
    # images stay encoded, so that our own decoder names the ones that are broken
    rows = rows.cast_column(found.image, datasets.Image(decode=False))
    return HfSource(spec, rows, found, split)


def _rows(name: str, split: str | None) -> Any:
    import datasets

    folder, parts = paths.expand(name), name.split("/")
    if not os.path.isdir(folder):
        arguments = ("/".join(parts[:2]), "/".join(parts[2:]) or None)
        if split is None:
            raise no_split(f"hf:{name}", split, datasets.get_dataset_split_names(*arguments))
        return datasets.load_dataset(*arguments, split=split)
    saved = datasets.load_from_disk(folder)
    if not isinstance(saved, datasets.DatasetDict):
        saved = {None: saved} | ({str(saved.split): saved} if saved.split else {})
    if split not in saved:
        raise no_split(f"hf:{name}", split, [each for each in saved if each])
    return saved[split]
