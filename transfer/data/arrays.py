"""Data sets that come as arrays: `digits`, `cifar10:PATH`, `cifar100:PATH`, `npz:PATH` and `pickle:PATH`."""

import functools
import io
import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from transfer.data.layout import no_split
from transfer.data.source import ArraySource, Source, checked_labels
from transfer.errors import TransferError, UsageError
from transfer.runtime.files import archives
from transfer.runtime.files.pickles import load_arrays
from transfer.runtime.files.untrusted import prefix_errors, printable

PICKLES = (".p", ".pkl", ".pickle")
NPY_START = b"\x93NUMPY"  # how the file of a single array begins
# names of (images, labels) of a split in an npz file, tried in this order
SPLIT_NAMES = (("{}_images", "{}_labels"), ("images_{}", "labels_{}"), ("x_{}", "y_{}"), ("X_{}", "y_{}"))


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


def open_npz(path: str, split: str | None) -> Source:
    """A NumPy archive of `images` (N, h, w[, 1 or 3]) uint8, `labels` (N,) or (N, 1), and perhaps `class_names`.

    With a split the names are `train_images`, `train_labels`, or as in Keras' files `x_train`, `y_train`.
    Raises UsageError for a split that is not there, TransferError for a damaged file and for arrays of objects.
    """
    name = f"npz:{path}"
    with open(path, "rb") as stream, prefix_errors(name):
        if stream.read(len(NPY_START)) == NPY_START:
            raise TransferError("holds one array; expected an npz file with images and labels")
        with archives.open_zip(stream) as archive:
            images, labels = _array_names(archive.array_names(), split)
            present = [key for key in (images, labels, "class_names") if key + archives.ARRAY_SUFFIX in archive]
            arrays = {key: archive.array(key) for key in present}
    class_names = [str(text) for text in arrays["class_names"].reshape(-1)] if "class_names" in arrays else None
    return ArraySource(name, arrays[images], arrays[labels], class_names, split)


def _array_names(names: Collection[str], split: str | None) -> tuple[str, str]:
    """The names of the arrays of images and of labels."""
    forms = SPLIT_NAMES if split else [("images", "labels")]
    candidates = [(images.format(split), labels.format(split)) for images, labels in forms]
    for images, labels in candidates:
        if images in names and labels in names:
            return images, labels
    message = f"needs arrays {' and '.join(candidates[0])}; it holds "
    message += ", ".join(map(printable, sorted(names)[:8])) or "nothing"
    if split:
        raise UsageError(message)
    if any(key.endswith(("_images", "_labels")) or key.startswith(("x_", "y_")) for key in names):
        raise UsageError(f"{message}; name a split")
    raise TransferError(message)


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


CIFAR10_FILES = {"train": tuple(f"data_batch_{n}" for n in range(1, 6)), "test": ("test_batch",)}
CIFAR10 = CifarLayout(CIFAR10_FILES, "labels", "batches.meta", "label_names")
CIFAR100 = CifarLayout({"train": ("train",), "test": ("test",)}, "fine_labels", "meta", "fine_label_names")


def _open_cifar(kind: str, layout: CifarLayout, path: str, split: str | None) -> Source:
    """A split of the original python batches, unpacked or as the `.tar.gz`.

    Raises UsageError for one other than train and test, TransferError for missing and damaged files.
    """
    name = f"{kind}:{path}"
    if split is None or split not in layout.splits:
        raise no_split(name, split, list(layout.splits))
    wanted = (*layout.splits[split], layout.meta)
    with prefix_errors(name):
        files = _unpacked(path, wanted) if os.path.isdir(path) else _packed(path, wanted)
        if missing := [file for file in wanted if file not in files]:
            raise TransferError(f"lacks {', '.join(missing)} of the python version of the data set")
        pixels, labels = [], []
        for file in layout.splits[split]:
            data = _cifar_entry(files, file, "data")
            if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
                raise TransferError(f"{file}: data is not a uint8 array of shape (N, 3072)")
            pixels.append(data)
            labels.append(checked_labels(_cifar_entry(files, file, layout.labels), len(data), file))
        names = _cifar_entry(files, layout.meta, layout.class_names)
        if not isinstance(names, list) or not all(isinstance(text, (bytes, str)) for text in names):
            raise TransferError(f"{layout.meta}: the names of the classes are no list of text")
    images = np.concatenate(pixels).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    class_names = [text.decode("utf-8", "replace") if isinstance(text, bytes) else text for text in names]
    return ArraySource(name, np.ascontiguousarray(images), np.concatenate(labels), class_names, split)


# CIFAR-10, split "train" (50,000 images) or "test" (10,000), 32x32; CIFAR-100 with its 100 fine labels.
open_cifar10 = functools.partial(_open_cifar, "cifar10", CIFAR10)
open_cifar100 = functools.partial(_open_cifar, "cifar100", CIFAR100)


def _unpacked(path: str, wanted: tuple[str, ...]) -> dict[str, Any]:
    """The files in a folder, or in the one that the archive unpacks to inside it."""
    inside = [os.path.join(path, folder) for folder in sorted(os.listdir(path)) if folder.startswith("cifar-")]
    path = next((folder for folder in [path, *inside] if os.path.isfile(os.path.join(folder, wanted[0]))), path)
    files = {}
    for file in wanted:
        whole = os.path.join(path, file)
        if os.path.isfile(whole):
            with open(whole, "rb") as stream:
                files[file] = load_arrays(stream, file)
    return files


def _packed(path: str, wanted: tuple[str, ...]) -> dict[str, Any]:
    """The files by one pass over the archive, since a compressed one cannot be read out of order."""
    files = {}
    with archives.open_tar(path) as members:
        for path_inside, stream in members:
            file = os.path.basename(path_inside)
            if file in wanted:
                files[file] = load_arrays(stream, file)
            if len(files) == len(wanted):
                break
    return files


def _cifar_entry(files: Mapping[str, Any], file: str, key: str) -> Any:
    if not isinstance(files[file], dict):
        raise TransferError(f"{file}: holds a {type(files[file]).__name__}; expected a dict")
    entry = _entry(files[file], key)
    if entry is None:
        raise TransferError(f"{file}: has no {key!r}")
    return entry
