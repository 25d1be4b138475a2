"""`hf:NAME`: a data set of Hugging Face's `datasets`: of a Hub, of its cache, or a folder of `save_to_disk`."""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transfer.data import arrow_columns
from transfer.data.encoded import EncodedSource
from transfer.data.ids import numbered
from transfer.data.layout import no_split
from transfer.data.shards import labelled, named_labels
from transfer.data.source import Source, digest
from transfer.errors import TransferError, UsageError
from transfer.runtime.distribution import install_hint
from transfer.runtime.files import paths
from transfer.runtime.files.untrusted import error_summary, prefix_errors


class HfSource(EncodedSource):
    """Rows of a data set that the library keeps as Arrow files and maps into memory; the label -1 is none."""

    def __init__(self, name: str, rows: Any, columns: arrow_columns.Columns, split: str | None) -> None:
        import pyarrow.compute

        table = (rows if rows._indices is None else rows.flatten_indices()).data
        self._stamp, self._images = int(rows._fingerprint[:15], 16), table.column(columns.image)
        self._sizes = pyarrow.compute.binary_length(arrow_columns.images(columns, table)).fill_null(-1)
        classes, labels = named_labels(name, [arrow_columns.labels(columns, table)], columns.class_names)
        super().__init__(name, classes, labels, numbered(len(rows), split))

    def read(self, row: int, limit: int | None = None) -> bytes:
        image = self._images[row].as_py() or {}
        data, path = image.get("bytes"), image.get("path")
        if data is None and path:  # a file on this disk, which the library has not copied
            with open(path, "rb") as file:
                return file.read(-1 if limit is None else limit)
        if data is None:
            raise ValueError("there is neither data nor a path")
        return data if limit is None else data[:limit]

    def file_stamps(self, rows: Sequence[int]) -> np.ndarray:
        return np.full(len(rows), self._stamp, np.int64)

    @functools.cached_property
    def fingerprint(self) -> str:
        return digest(self, (sizes.to_numpy().astype("<i8").tobytes() for sizes in self._sizes.chunks))


def open_split(name: str, split: str | None, columns: Mapping[str, str] | None = None) -> Source:
    """Opens a split (the library's own grammar, such as "train" or "train[:10%]") of a data set of labelled images.

    The name is `OWNER/NAME`, `OWNER/NAME/CONFIG`, or a folder that `save_to_disk` has written. What is not in the
    library's cache is downloaded, by its own token and endpoint, unless HF_HUB_OFFLINE is set.

    Args:
        columns: the columns of images (`path`) and of labels (`label`), where what they are cannot be told.
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
    return labelled(HfSource(spec, rows, found, split))


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
