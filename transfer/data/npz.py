"""`npz:PATH`: images and labels in a NumPy archive, whole or by splits."""

import zipfile
import zlib

import numpy as np

from transfer.data.source import ArraySource, Source
from transfer.errors import TransferError, UsageError

# names of (images, labels) of a split, tried in this order
SPLIT_NAMES = (
    ("{}_images", "{}_labels"),
    ("images_{}", "labels_{}"),
    ("x_{}", "y_{}"),
    ("X_{}", "y_{}"),
)


def open_split(path: str, split: str | None) -> Source:
    """Reads `images` (N, h, w[, 1 or 3]) uint8, `labels` (N,) or (N, 1), and `class_names` where there are some.

    With a split the names are `train_images`, `train_labels`, or as in Keras' files `x_train`, `y_train`.
    Raises UsageError for a split that is not there, TransferError for a damaged file and for arrays of objects.
    """
    name = f"npz:{path}"
    try:
        archive = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise TransferError(f"{name}: not a readable npz file ({error})") from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise TransferError(f"{name}: holds one array; expected an npz file with images and labels")
    with archive:
        images, labels = _names(name, archive.files, split)
        class_names = _read(name, archive, "class_names") if "class_names" in archive.files else None
        return ArraySource(
            name,
            _read(name, archive, images),
            _read(name, archive, labels),
            None if class_names is None else [str(c) for c in class_names],
            prefix=f"{split}/" if split else "",
        )


def _names(name: str, there: list[str], split: str | None) -> tuple[str, str]:
    candidates = [("images", "labels")] if split is None else [tuple(t.format(split) for t in p) for p in SPLIT_NAMES]
    for images, labels in candidates:
        if images in there and labels in there:
            return images, labels
    wanted = " and ".join(candidates[0])
    message = f"{name}: needs arrays {wanted}; it holds {', '.join(sorted(there)) or 'nothing'}"
    if split is not None or not any(t.endswith(("_images", "_labels")) or t.startswith(("x_", "y_")) for t in there):
        raise UsageError(message) if split is not None else TransferError(message)
    raise UsageError(f"{message}; name a split")


def _read(name: str, archive: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    try:
        return archive[key]
    except (ValueError, EOFError, OSError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise TransferError(f"{name}: array {key!r} cannot be read ({error})") from error
