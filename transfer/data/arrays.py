"""Data sets that come as arrays: `digits`, `cifar10:PATH`, `cifar100:PATH`, `cifar100coarse:PATH`, `pickle:PATH`."""

import functools
import io
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from transfer.data.layout import no_split
from transfer.data.source import ArraySource, Source, checked_labels
from transfer.errors import TransferError, UsageError
from transfer.runtime.files import archives
from transfer.runtime.files.pickles import load_arrays
from transfer.runtime.files.untrusted import prefix_errors, printable

PICKLES = (".p", ".pkl", ".pickle")


def open_digits(path: str, split: str | None) -> Source:
    """scikit-learn's 1,797 real 8x8 images of handwritten digits, their 17 grey levels spread over 0..255.

    Raises UsageError where a path or a split is given.
    """
    if path or split:
        raise UsageError(f"digits has no {'path' if path else 'splits'}; {path or split!r} is one too many")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    return ArraySource("digits", images, bunch.target, [str(n) for n in bunch.target_names])


def open_pickle(path: str, split: str | None) -> Source:
    """The traffic-sign pickle, `{'features': uint8 NHWC, 'labels'}`: a file, or `SPLIT.p` of a folder or a zip.

    Arrays beside features and labels are left alone. Raises UsageError for a split that is not there, TransferError for
    anything but arrays in the pickle and for features and labels of different lengths.
    """
    name = f"pickle:{path}"
    if os.path.isdir(path):
        file = _pickle_of_split(name, os.listdir(path), split)
        with open(os.path.join(path, file), "rb") as stream:
            content = load_arrays(stream, f"{name}: {file}")
    else:
        with open(path, "rb") as stream:
            is_zip = stream.read(2) == b"PK"  # which is no opcode of a pickle with arrays
            if split and not is_zip:
                raise UsageError(f"{name}: one pickle has no splits; give the folder that holds {split}.p")
            stream.seek(0)
            if is_zip:
                with prefix_errors(name), archives.open_zip(stream) as archive:
                    members = {os.path.basename(m): m for m in archive.members if not m.startswith("__MACOSX")}
                    file = _pickle_of_split("a zip", members, split)
                    pickled = archive.read(members[file])
                content = load_arrays(io.BytesIO(pickled), f"{name}: {printable(file)}")
            else:
                content = load_arrays(stream, name)
    features, labels = (_entry(content, key) for key in ("features", "labels"))
    if features is None or labels is None:
        raise TransferError(f"{name}: expected a dict with 'features' and 'labels'")
    return ArraySource(name, features, labels, split=split)


def _pickle_of_split(name: str, files: Iterable[str], split: str | None) -> str:
    splits = {os.path.splitext(file)[0]: file for file in sorted(files) if file.lower().endswith(PICKLES)}
    if split not in splits:
        raise no_split(name, split, list(splits))
    return splits[split]


def _entry(content: object, key: str) -> Any:
    """The entry of an unpickled dict, whose keys are `bytes` where Python 2 wrote it; None where it has none."""
    return content.get(key, content.get(key.encode())) if isinstance(content, Mapping) else None


class CifarLayout(NamedTuple):
    """How one of the two data sets is stored (https://www.cs.toronto.edu/~kriz/cifar.html)."""

    splits: Mapping[str, tuple[str, ...]]  # split -> files, in order
    labels: str
    meta: str  # file of class names
    class_names: str
    columns: tuple[str, ...]  # of the binary version: the labels before each image
    text: str  # and its file of class names

    def stored(self, split: str) -> dict[str, str]:
        """The names that files of a split may have -> those of the python version."""
        names = (*self.splits[split], self.meta)
        return {**{name: name for name in names}, **{f"{name}.bin": name for name in names}, self.text: self.meta}


CIFAR10_FILES = {"train": tuple(f"data_batch_{n}" for n in range(1, 6)), "test": ("test_batch",)}
CIFAR10 = CifarLayout(CIFAR10_FILES, "labels", "batches.meta", "label_names", ("labels",), "batches.meta.txt")
CIFAR100, CIFAR100_COARSE = (
    CifarLayout(
        {"train": ("train",), "test": ("test",)},
        f"{kind}_labels",
        "meta",
        f"{kind}_label_names",
        ("coarse_labels", "fine_labels"),
        f"{kind}_label_names.txt",
    )
    for kind in ("fine", "coarse")
)
PIXELS = 3 * 32 * 32


def _open_cifar(kind: str, layout: CifarLayout, path: str, split: str | None) -> Source:
    """A split of the original batches, of the python or the binary version, unpacked or as the `.tar.gz`.

    Raises UsageError for one other than train and test, TransferError for missing and damaged files.
    """
    name = f"{kind}:{path}"
    if split is None or split not in layout.splits:
        raise no_split(name, split, list(layout.splits))
    with prefix_errors(name):
        files = (_unpacked if os.path.isdir(path) else _packed)(path, layout, split)
        if missing := [file for file in (*layout.splits[split], layout.meta) if file not in files]:
            raise TransferError(f"lacks {', '.join(missing)} of the data set, in its python or binary version")
        pixels, labels = [], []
        for file in layout.splits[split]:
            data = _cifar_entry(files, file, "data")
            if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != PIXELS:
                raise TransferError(f"{file}: data is not a uint8 array of shape (N, {PIXELS})")
            pixels.append(data)
            labels.append(checked_labels(_cifar_entry(files, file, layout.labels), len(data), file))
        names = _cifar_entry(files, layout.meta, layout.class_names)
        if not isinstance(names, list) or not all(isinstance(text, (bytes, str)) for text in names):
            raise TransferError(f"{layout.meta}: the names of the classes are no list of text")
    images = np.concatenate(pixels).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    class_names = [text.decode("utf-8", "replace") if isinstance(text, bytes) else text for text in names]
    return ArraySource(name, np.ascontiguousarray(images), np.concatenate(labels), class_names, split)


# CIFAR-10, split "train" (50,000 images) or "test" (10,000), 32x32; CIFAR-100 with its 100 fine or 20 coarse labels.
open_cifar10 = functools.partial(_open_cifar, "cifar10", CIFAR10)
open_cifar100 = functools.partial(_open_cifar, "cifar100", CIFAR100)
open_cifar100_coarse = functools.partial(_open_cifar, "cifar100coarse", CIFAR100_COARSE)


def _unpacked(path: str, layout: CifarLayout, split: str) -> dict[str, Any]:
    """The files in a folder, or in the one that the archive unpacks to inside it; Keras has one around that."""
    folders = [path]
    for above in (path, *_cifar_folders(path)):
        folders += _cifar_folders(above)
    stored, files = layout.stored(split), dict[str, Any]()
    for folder in folders:
        for file, name in stored.items():
            if name not in files and os.path.isfile(whole := os.path.join(folder, file)):
                with open(whole, "rb") as stream:
                    files[name] = _content(stream, file, layout)
        if layout.splits[split][0] in files:
            break
    return files


def _cifar_folders(path: str) -> list[str]:
    """The folders in another that are called as those of the data sets."""
    names = [name for name in sorted(os.listdir(path)) if name.startswith("cifar-")]
    return list(filter(os.path.isdir, (os.path.join(path, name) for name in names)))


def _packed(path: str, layout: CifarLayout, split: str) -> dict[str, Any]:
    """The files by one pass over the archive, since a compressed one cannot be read out of order."""
    stored, files = layout.stored(split), dict[str, Any]()
    with archives.open_tar(path) as members:
        for path_inside, stream in members:
            file = os.path.basename(path_inside)
            if file in stored:
                files[stored[file]] = _content(stream, file, layout)
            if len(files) == len(set(stored.values())):
                break
    return files


def _content(stream: Any, file: str, layout: CifarLayout) -> Any:
    """What a file holds, as the python version has it."""
    if file == layout.text:
        return {layout.class_names: stream.read().decode("utf-8", "replace").split()}
    if not file.endswith(".bin"):
        return load_arrays(stream, file)
    content, width = np.frombuffer(stream.read(), np.uint8), len(layout.columns) + PIXELS
    if not len(content) or len(content) % width:
        raise TransferError(f"{file}: {len(content)} bytes are not images of {width}")
    rows = content.reshape(-1, width)
    return {"data": rows[:, len(layout.columns) :], **dict(zip(layout.columns, rows.T, strict=False))}


def _cifar_entry(files: Mapping[str, Any], file: str, key: str) -> Any:
    if not isinstance(files[file], dict):
        raise TransferError(f"{file}: holds a {type(files[file]).__name__}; expected a dict")
    entry = _entry(files[file], key)
    if entry is None:
        raise TransferError(f"{file}: has no {key!r}")
    return entry
