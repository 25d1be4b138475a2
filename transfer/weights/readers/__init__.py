"""Weight files of any format as a dict of NumPy arrays, without PyTorch, TensorFlow or Keras, and without running code.

Each file of this package is one format: `FORMAT` (its name), `recognises(path, head)` (by the first bytes and the
contents, never by the extension) and `read(path)`. A new format is a new file here; files with a leading
underscore hold what several share.
"""

import importlib
import os
import pkgutil
import zipfile
import zlib
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np

from transfer.errors import TransferError
from transfer.runtime.files.untrusted import DAMAGE_ERRORS
from transfer.weights.readers._described import Described, Layer, claims_in

__all__ = ["Described", "Layer", "formats", "read", "claims_in"]

HEAD_BYTES = 64

_UNREADABLE = (*DAMAGE_ERRORS, OSError, RuntimeError, zipfile.BadZipFile, zlib.error)


@cache
def formats() -> tuple[ModuleType, ...]:
    """The reader modules, in alphabetical order."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    return tuple(importlib.import_module(f"{__name__}.{name}") for name in names)


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads every tensor of a weight file.

    Names are the file's own: PyTorch's dotted names, `layer/variable` for Keras (`block1_conv1/kernel`), dotted
    paths for native files. Half precision and bfloat16 stay what they are. Shapes and layouts are the file's.

    Raises:
      TransferError: no such file, an unknown format, a damaged or truncated file, a pickle with anything but
        tensors in it. The message starts with the path.
    """
    path = Path(path)
    if not path.is_file():
        raise TransferError(f"{path}: no such weight file")
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    try:
        for reader in formats():
            if reader.recognises(path, head):
                return _tensors(reader, path)
    except TransferError as error:
        raise TransferError(f"{path}: {error}") from error
    known = ", ".join(reader.FORMAT for reader in formats())
    raise TransferError(f"{path}: not a weight file of a supported format ({known})")


def _tensors(reader: ModuleType, path: Path) -> dict[str, np.ndarray]:
    try:
        tensors = reader.read(path)
    except _UNREADABLE as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise TransferError(f"a damaged or truncated {reader.FORMAT} file ({reason})") from error
    if not tensors:
        raise TransferError(f"a {reader.FORMAT} file without a single tensor")
    return tensors
