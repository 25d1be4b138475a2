"""`cifar10:PATH`, `cifar100:PATH`: the original python batches, unpacked or as the `.tar.gz`."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from transfer.data.source import ArraySource, Source, checked_labels, pickled_entry
from transfer.errors import TransferError, UsageError
from transfer.runtime.files import archives
from transfer.runtime.files.pickles import load_arrays
from transfer.runtime.files.untrusted import prefix_errors


class Layout(NamedTuple):
    """How one of the two data sets is stored (https://www.cs.toronto.edu/~kriz/cifar.html)."""

    splits: Mapping[str, tuple[str, ...]]  # split -> files, in order
    labels: str
    meta: str  # file of class names
    class_names: str


CIFAR10 = Layout(
    {"train": tuple(f"data_batch_{n}" for n in range(1, 6)), "test": ("test_batch",)},
    "labels",
    "batches.meta",
    "label_names",
)
CIFAR100 = Layout({"train": ("train",), "test": ("test",)}, "fine_labels", "meta", "fine_label_names")


def open_cifar10(path: str, split: str | None) -> Source:
    """CIFAR-10, split "train" (50,000 images) or "test" (10,000), 32x32. Raises as `_open` says."""
    return _open(f"cifar10:{path}", path, split, CIFAR10)


def open_cifar100(path: str, split: str | None) -> Source:
    """CIFAR-100 with its 100 fine labels, split "train" or "test". Raises as `_open` says."""
    return _open(f"cifar100:{path}", path, split, CIFAR100)


def _open(name: str, path: str, split: str | None, layout: Layout) -> Source:
    """Opens a split; UsageError for one other than train and test, TransferError for missing and damaged files."""
    if split is None or split not in layout.splits:
        problem = f"no split {split!r}" if split else "needs a split"
        raise UsageError(f"{name}: {problem}; there is {', '.join(layout.splits)}")
    wanted = (*layout.splits[split], layout.meta)
    with prefix_errors(name):
        files = _from_folder(path, wanted) if os.path.isdir(path) else _from_tar(path, wanted)
        if missing := [file for file in wanted if file not in files]:
            raise TransferError(f"lacks {', '.join(missing)} of the python version of the data set")
        pixels, labels = [], []
        for file in layout.splits[split]:
            data = _entry(files, file, "data")
            if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
                raise TransferError(f"{file}: data is not a uint8 array of shape (N, 3072)")
            pixels.append(data)
            labels.append(checked_labels(_entry(files, file, layout.labels), len(data), file))
        names = _entry(files, layout.meta, layout.class_names)
        if not isinstance(names, list) or not all(isinstance(text, (bytes, str)) for text in names):
            raise TransferError(f"{layout.meta}: the names of the classes are no list of text")
    images = np.concatenate(pixels).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    class_names = [text.decode("utf-8", "replace") if isinstance(text, bytes) else text for text in names]
    return ArraySource(name, np.ascontiguousarray(images), np.concatenate(labels), class_names, prefix=f"{split}/")


def _from_folder(path: str, wanted: tuple[str, ...]) -> dict[str, Any]:
    inside = [os.path.join(path, folder) for folder in sorted(os.listdir(path)) if folder.startswith("cifar-")]
    path = next((folder for folder in [path, *inside] if os.path.isfile(os.path.join(folder, wanted[0]))), path)
    files = {}
    for file in wanted:
        whole = os.path.join(path, file)
        if os.path.isfile(whole):
            with open(whole, "rb") as stream:
                files[file] = load_arrays(stream, file)
    return files


def _from_tar(path: str, wanted: tuple[str, ...]) -> dict[str, Any]:
    """Reads the files in one pass over the archive, since a compressed one cannot be read out of order."""
    files = {}
    with archives.open_tar(path) as members:
        for path_inside, stream in members:
            file = os.path.basename(path_inside)
            if file in wanted:
                files[file] = load_arrays(stream, file)
            if len(files) == len(wanted):
                break
    return files


def _entry(files: Mapping[str, Any], file: str, key: str) -> Any:
    if not isinstance(files[file], dict):
        raise TransferError(f"{file}: holds a {type(files[file]).__name__}; expected a dict")
    entry = pickled_entry(files[file], key)
    if entry is None:
        raise TransferError(f"{file}: has no {key!r}")
    return entry
