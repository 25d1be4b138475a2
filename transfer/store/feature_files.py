"""Features and labels as one file: the published pickle `{'features', 'labels'}`, `.npz`, HDF5 and `.safetensors`.

The published files hold `features` float32 (N, 1, 1, C) and `labels` (N,) or (N, 1); some lie inside a zip and are
named `PATH/vgg-100.zip/vgg_cifar10_100_bottleneck_features_train.p`. No code from a file is ever run. What is written
here carries a checksum, which is verified when it is read again.
"""

import hashlib
import io
import json
import os
import pickle
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, BinaryIO

import numpy as np
from etils import epath
from safetensors import SafetensorError
from safetensors.numpy import load

from transfer.errors import TransferError, UsageError
from transfer.runtime.files import archives, atomic, digest, paths
from transfer.runtime.files.archives import Archive
from transfer.runtime.files.pickles import load_arrays
from transfer.runtime.files.sandbox import HDF5_MAGIC, SandboxedFile
from transfer.runtime.files.untrusted import MAX_CLASSES, prefix_errors, printable, remaining_size
from transfer.runtime.progress import waiting

NAMES = ("features", "labels")
KINDS = "a feature file is .p, .npz, .npy, .h5 or .safetensors"
# In the name of a file of features alone, and what the labels beside it have in its place.
LABELS_BESIDE = (("features", "labels"), ("X_", "y_"), ("x_", "y_"), ("X.", "y."), ("x.", "y."))
# Readable by Python 3.4 and newer.
PICKLE_PROTOCOL = 4


def read(path: Any, target: str = "classes") -> tuple[np.ndarray, np.ndarray]:
    """Reads features and labels from `path`; the format is told by the content, not by the name.

    Args:
        path: a pickle (protocol 0 to 5, Python 2 or 3), an `.npz`, an HDF5 or a `.safetensors` file, or an `.npy` of
            features beside one of labels, `train_labels.npy` for `train_features.npy`; local or `gs://` (HDF5: local);
            or `ZIP/MEMBER`, such a file inside a zip.
        target: what labels are: "classes", whole numbers or text; "labels", 0 or 1, a column a label; "values",
            numbers.

    Returns:
        features float32 (N, ...) in the shape of the file; labels int64 (N,) or text (N,), float32 (N, L), or
        float32 (N, T).

    Raises:
        TransferError: naming the file: damaged, not such a file, anything but plain arrays in it, no or unlike
            many features and labels, NaN or infinity, labels that are not what `target` says.
        OSError: there is no such file.
    """
    name = str(path)
    with waiting(f"reading {name}"), _open(name) as stream:
        start = stream.read(16)
        stream.seek(0)
        if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            content: Any = _read_npz(stream, name)
        elif start.startswith(archives.ARRAY_START):
            content = _read_npy(stream, name)
        elif start.startswith(HDF5_MAGIC):
            content = _read_hdf5(name)
        elif len(start) > 8 and start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] < 1 << 32:
            content = _read_safetensors(stream, name)
        else:  # a pickle, or damaged
            if start.isascii() and re.match(rb"[\w\s.+-]+[,;\t]", start):
                raise TransferError(f"{name} is text, such as a CSV; {KINDS}")
            with prefix_errors(name):
                digest.check_pickle(stream)
            content = load_arrays(stream, name)
    if isinstance(content, Mapping):  # as Python 3 writes what it has read of Python 2
        content = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in content.items()}
    if not isinstance(content, Mapping) or not all(key in content for key in NAMES):
        held = f"a {type(content).__name__}"
        if isinstance(content, Mapping):
            held = ", ".join(sorted(map(repr, content))[:5]) or "nothing"
        raise TransferError(f"{name} does not hold 'features' and 'labels'; it holds {held}")
    return _checked(content["features"], content["labels"], name, target)


def write(path: Any, features: Any, labels: Any, target: str = "classes") -> None:
    """Writes features and labels to `path`, whole or not at all; the format is told by the extension.

    Args:
        path: ends in `.p`, `.pkl` or `.pickle`, in `.npz`, or in `.safetensors`; local or `gs://`.
        features: (N, C), written as float32 (N, 1, 1, C) like the published files; any other shape stays as it is.
        labels: (N,), written as int64; (N, T) of several labels and of values, as float32.
        target: what labels are, as in `read`.

    Raises:
        UsageError: another extension.
        TransferError: unlike many features and labels, none at all, NaN or infinity.
        OSError: the file cannot be written (disk full).
    """
    file = paths.open_path(path)
    writer = writer_for(file)
    features, labels = _checked(features, labels, str(path), "numbers" if target == "classes" else target)
    if features.ndim == 2:
        features = features[:, None, None, :]
    file.parent.mkdir(parents=True, exist_ok=True)
    with waiting(f"writing {path}"), atomic.writing(file, shared=True) as stream:
        writer(stream, {"features": features, "labels": labels})


def writer_for(path: Any) -> Callable[[IO[bytes], Mapping[str, np.ndarray]], None]:
    """The function that writes files named like `path`; UsageError for an unknown extension."""
    suffix = epath.Path(path).suffix.lower()
    if suffix not in _WRITERS:
        raise UsageError(f"{path}: features are written as {', '.join(_WRITERS)}, not as {suffix or 'no extension'!r}")
    return _WRITERS[suffix]


def is_written(ends: bytes) -> bool:
    """Whether the bytes at the ends of a file are those of one that `write` makes: with its digest, or an `.npz`."""
    return digest.KEY.encode() in ends or (ends.startswith(b"PK") and b"features.npy" in ends)


def content_hash(*arrays: np.ndarray) -> str:
    """A hash of types, shapes and values, which tells the rows of a feature file from others."""
    sha256 = hashlib.sha256()
    for array in arrays:
        sha256.update(f"{array.dtype} {array.shape}".encode())
        sha256.update(np.ascontiguousarray(array).data)
    return sha256.hexdigest()


def _checked(features: Any, labels: Any, name: str, target: str) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 and labels as `read` returns them; `target` may be "numbers": classes that are no text."""
    features = _numbers(_array(features), "features", name)
    as_classes = target in ("classes", "numbers")
    labels = _class_labels(_array(labels), name, target) if as_classes else _columns(_array(labels), name, target)
    if features.ndim < 2 or labels.ndim == 0 or (as_classes and labels.ndim != 1):
        raise TransferError(
            f"{name}: features have shape {features.shape}, labels {labels.shape}; they should be (N, ..., C) and (N,)"
        )
    if len(features) != len(labels):
        raise TransferError(f"{name} has {len(features)} rows of features but {len(labels)} labels")
    if not features.size:
        raise TransferError(f"{name} has no features (shape {features.shape})")
    return _finite(features, "features", name), labels


def _class_labels(array: np.ndarray, name: str, target: str) -> np.ndarray:
    """The labels as whole numbers, int64, or text; (N,) where they have one column."""
    if target == "classes" and array.dtype.kind == "O" and array.size and all(isinstance(x, str) for x in array.flat):
        array = array.astype(str)
    if target == "classes" and array.dtype.kind == "S":
        array = np.char.decode(array, "latin1")
    if target == "classes" and array.dtype.kind == "U":
        labels = array
        if len(np.unique(labels)) > MAX_CLASSES:
            raise TransferError(f"{name} has more than {MAX_CLASSES} different labels")
    else:
        numbers = _numbers(array, "labels", name)
        with np.errstate(invalid="ignore", over="ignore"):  # what overflows or is NaN is not whole
            labels = numbers.astype(np.int64)
        if not (labels == numbers).all():
            raise TransferError(f"{name}: labels are {numbers.dtype} and not all whole numbers")
        if labels.size and labels.max() >= MAX_CLASSES:
            raise TransferError(f"{name}: a label is {labels.max()}; there may be {MAX_CLASSES} classes")
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def _columns(array: np.ndarray, name: str, target: str) -> np.ndarray:
    """Finite numbers, float32 (N, T); for `target` "labels" they are 0 and 1, in several columns."""
    labels = _numbers(array, "labels", name)
    labels = labels[:, None] if labels.ndim == 1 else labels
    if labels.ndim != 2 or not labels.size:
        raise TransferError(f"{name}: labels have shape {labels.shape}; they should be (N, T)")
    labels = _finite(labels, "labels", name)
    if target == "labels" and (labels.shape[1] < 2 or not np.isin(labels, (0, 1)).all()):
        raise TransferError(f"{name}: labels should be 0 or 1, in two columns or more (config.head.target=labels)")
    return labels


def _array(values: Any) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError:  # lists of unlike lengths
        return np.empty(0, object)


def _numbers(array: np.ndarray, key: str, name: str) -> np.ndarray:
    if array.dtype.kind not in "fiub":
        kind = "objects" if array.dtype.kind == "O" else f"values of type {array.dtype}"
        raise TransferError(f"{name}: {key} hold {kind}, not numbers")
    return array


def _finite(array: np.ndarray, key: str, name: str) -> np.ndarray:
    """The array as float32; TransferError for NaN and for what float32 cannot hold."""
    with np.errstate(invalid="ignore", over="ignore"):
        array = array.astype(np.float32, copy=False)
    bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
    if len(bad):
        raise TransferError(f"{name}: {key} hold NaN or infinity in {len(bad)} rows, the first is row {bad[0]}")
    return array


@contextmanager
def _open(name: str) -> Iterator[BinaryIO]:
    path = paths.open_path(name)
    if path.is_dir():
        what = "a store of features, which --config.features names" if (path / "zarr.json").exists() else "a folder"
        raise TransferError(f"{name} is {what}; {KINDS}")
    container = next((p for p in path.parents if p.suffix.lower() == ".zip" and p.is_file()), None)
    if container is None:
        with path.open("rb") as stream:
            yield stream  # type: ignore[misc]
        return
    member = path.relative_to(container).as_posix()
    with container.open("rb") as stream, prefix_errors(container), archives.open_zip(stream) as archive:  # type: ignore[arg-type]
        if member not in archive:
            raise TransferError(f"it has no member {member}; {_members(archive)}")
        content = archive.read(member)
    yield io.BytesIO(content)


def _members(archive: Archive) -> str:
    files = [printable(entry) for entry in archive.members if not entry.endswith("/")]
    return f"it has {', '.join(files[:8])}{' …' if len(files) > 8 else ''}" if files else "it is empty"


def _read_npz(stream: BinaryIO, name: str) -> Mapping[str, Any]:
    with prefix_errors(name), archives.open_zip(stream) as archive:
        if not all(entry.endswith(archives.ARRAY_SUFFIX) for entry in archive.members):
            raise TransferError(f"it is a zip; name one of its files as {name}/MEMBER: {_members(archive)}")
        names = archive.array_names()
        return {key: archive.array(key) for key in names if key in NAMES} or dict.fromkeys(names)


def _read_npy(stream: BinaryIO, name: str) -> Mapping[str, Any]:
    """An array of features, and of the labels in the file beside it."""
    path = paths.open_path(name)
    with prefix_errors(name):
        features = archives.plain_array(stream, remaining_size(stream))
        names = [path.name.replace(*words) for words in LABELS_BESIDE if words[0] in path.name]
        beside = next((path.parent / other for other in names if (path.parent / other).exists()), None)
        if beside is None:
            example = (
                f"there is no {names[0]} beside it" if names else "call them NAME_features.npy and NAME_labels.npy"
            )
            raise TransferError(f"holds one array, and labels are another: {example}")
    with beside.open("rb") as other, prefix_errors(beside):
        return {"features": features, "labels": archives.plain_array(other, remaining_size(other))}


def _read_hdf5(name: str) -> Mapping[str, Any]:
    path = paths.expand(name)
    with prefix_errors(name):
        if not os.path.isfile(path):
            raise TransferError("HDF5 is read from a file on this machine, not inside a zip or elsewhere")
        arrays = SandboxedFile(path).arrays
        return {key: arrays[key][:] for key in arrays if key in NAMES} or dict.fromkeys(arrays)


def _read_safetensors(stream: BinaryIO, name: str) -> Mapping[str, Any]:
    content = stream.read()
    try:
        arrays = load(content)
        header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise TransferError(f"{name} cannot be read, it may be damaged or truncated ({error})") from error
    with prefix_errors(name):
        digest.check_tensors(arrays, header.get("__metadata__", {}))
    return arrays


# The one written in Python: the one in C takes the name of a function from the function.
_Pickler: Any = pickle._Pickler  # type: ignore[attr-defined]


class _Portable(_Pickler):
    """A pickler whose files NumPy 1 reads too: NumPy 2 names its parts `numpy._core`, and finds them in both places."""

    def save_global(self, value: Any, name: str | None = None) -> None:
        """Writes the module and the name of a function of NumPy's core as they have always been."""
        module, dot, rest = getattr(value, "__module__", "").partition("numpy._core.")
        if module or not dot:
            super().save_global(value, name)
            return
        self.save(f"numpy.core.{rest}")
        self.save(name or value.__qualname__)
        self.write(pickle.STACK_GLOBAL)
        self.memoize(value)


def _write_pickle(stream: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    sealed = digest.DigestWriter(stream)
    _Portable(sealed, PICKLE_PROTOCOL).dump(dict(arrays))
    sealed.seal()


def _write_safetensors(stream: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    plain = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    for piece in digest.safetensors(plain, {}):
        stream.write(piece)


_WRITERS: dict[str, Callable[[IO[bytes], Mapping[str, np.ndarray]], None]] = {
    ".p": _write_pickle,
    ".pkl": _write_pickle,
    ".pickle": _write_pickle,
    ".npz": lambda stream, arrays: np.savez(stream, **arrays),  # type: ignore[arg-type]
    ".safetensors": _write_safetensors,
}
