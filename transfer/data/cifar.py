"""`cifar10:PATH`, `cifar100:PATH`: the original python batches, unpacked or as the `.tar.gz`."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from transfer.data.source import ArraySource, Source, checked_labels
from transfer.errors import TransferError, UsageError
from transfer.runtime.files import tars
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
    """Raises UsageError for a split other than train and test, TransferError for missing and damaged files."""
    if split is None or split not in layout.splits:
        problem = f"no split {split!r}" if split else "needs a split"
        raise UsageError(f"{name}: {problem}; there is {', '.join(layout.splits)}")
    wanted = (*layout.splits[split], layout.meta)
    files = _from_folder(name, path, wanted) if os.path.isdir(path) else _from_tar(name, path, wanted)
    missing = [file for file in wanted if file not in files]
    if missing:
        raise TransferError(f"{name}: lacks {', '.join(missing)} of the python version of the data set")
    batches = [files[file] for file in layout.splits[split]]
    pixels, labels = [], []
    for batch, file in zip(batches, wanted, strict=False):
        data = _field(name, batch, "data", file)
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
            raise TransferError(f"{name}: {file}: data is not a uint8 array of shape (N, 3072)")
        pixels.append(data)
        labels.append(checked_labels(_field(name, batch, layout.labels, file), len(data), f"{name}: {file}"))
    images = np.concatenate(pixels).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    class_names = _class_names(name, _field(name, files[layout.meta], layout.class_names, layout.meta), layout.meta)
    return ArraySource(name, np.ascontiguousarray(images), np.concatenate(labels), class_names, prefix=f"{split}/")


def _from_folder(name: str, path: str, wanted: tuple[str, ...]) -> dict[str, Any]:
    inside = [os.path.join(path, d) for d in sorted(os.listdir(path)) if d.startswith("cifar-")]
    for folder in [path, *inside]:
        if os.path.isfile(os.path.join(folder, wanted[0])):
            path = folder
            break
    files = {}
    for file in wanted:
        whole = os.path.join(path, file)
        if os.path.isfile(whole):
            with prefix_errors(name), open(whole, "rb") as stream:
                files[file] = _load(file, stream)
    return files


def _from_tar(name: str, path: str, wanted: tuple[str, ...]) -> dict[str, Any]:
    """One pass over the archive, since a compressed one cannot be read out of order."""
    files = {}
    with prefix_errors(name), tars.open_tar(path) as members:
        for path_inside, stream in members:
            file = os.path.basename(path_inside)
            if file in wanted:
                files[file] = _load(file, stream)
            if len(files) == len(wanted):
                break
    return files


def _load(file: str, stream: Any) -> Any:
    content = load_arrays(stream, file)
    if not isinstance(content, dict):
        raise TransferError(f"{file}: holds a {type(content).__name__}; expected a dict")
    return content


def _field(name: str, content: Mapping[Any, Any], key: str, file: str) -> Any:
    """The keys are `bytes` where Python 3 has written the file anew."""
    for spelling in (key, key.encode()):
        if spelling in content:
            return content[spelling]
    raise TransferError(f"{name}: {file}: has no {key!r}")


def _class_names(name: str, values: Any, file: str) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, (bytes, str)) for value in values):
        raise TransferError(f"{name}: {file}: the names of the classes are no list of text")
    return [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in values]
