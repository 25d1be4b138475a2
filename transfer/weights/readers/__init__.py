"""Weight files of any format as a dict of NumPy arrays, without PyTorch, TensorFlow or Keras, and without running code.

Each module of `MODULES` has its formats in `FORMATS`: a new format is a row there, or a module with one. Modules with a
leading underscore hold what several share.
"""

import importlib
import os
import zipfile
import zlib
from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path
from typing import NamedTuple

from transfer.errors import TransferError
from transfer.runtime.files import archives
from transfer.runtime.files.untrusted import DAMAGE_ERRORS, error_summary, prefix_errors
from transfer.weights.readers._described import Described, claims_in
from transfer.weights.readers._others import check_names, named

__all__ = ["Described", "Format", "formats", "read", "claims_in"]

MODULES = ("keras_file", "onnx_file", "safetensors_file", "torch_file", "index_file")
HEAD_BYTES = 64
ZIP_MAGIC = b"PK\x03\x04"

_UNREADABLE = (*DAMAGE_ERRORS, OSError, RuntimeError, zipfile.BadZipFile, zlib.error)


class Format(NamedTuple):
    """A file format: its name in messages, how a file of it is told, and what reads all its tensors.

    It is told by the first `HEAD_BYTES` and, of a zip, the names in it, never by its extension. `read` also takes the
    `key` and `ema` of `transfer.weights.state_dicts.choose` where a file may hold `several` sets of tensors.
    """

    name: str
    recognises: Callable[[bytes, Collection[str]], bool]
    read: Callable[..., Described]
    several: bool = False


@cache
def formats() -> tuple[Format, ...]:
    """All formats, in the order of `MODULES`, which are only imported where a file is read."""
    return tuple(kind for name in MODULES for kind in importlib.import_module(f"{__name__}.{name}").FORMATS)


def read(path: str | os.PathLike[str], key: str | None = None, ema: bool = False) -> Described:
    """Reads every tensor of a weight file.

    Names are the file's own: PyTorch's dotted names, `layer/variable` for Keras (`block1_conv1/kernel`), dotted
    paths for native files. Half precision and bfloat16 stay what they are. Shapes and layouts are the file's.
    `key` and `ema` choose among the state dicts of a PyTorch file (`transfer.weights.state_dicts`).

    Raises:
      TransferError: no such file, an unknown format, a damaged or truncated file, a pickle with anything but
        tensors in it. The message starts with the path.
    """
    path = Path(path)
    if not path.is_file():
        what = "a folder; name the weight file in it" if path.is_dir() else "no such weight file"
        raise TransferError(f"{path}: {what}")
    members: list[str] = []
    with prefix_errors(path):
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            if head.startswith(ZIP_MAGIC):
                with archives.open_zip(file) as archive:
                    members = list(archive.members)
        kind = next((kind for kind in formats() if kind.recognises(head, members)), None)
        if kind is None:
            known = ", ".join(kind.name for kind in formats())
            other = named(path, members)
            raise TransferError(f"not a weight file{f': {other}' if other else f' of a supported format ({known})'}")
        if (key is not None or ema) and not kind.several:
            raise TransferError(f"a file ({kind.name}) that holds one set of tensors: key= and ema= have no use")
        try:
            tensors = kind.read(path, key, ema) if kind.several else kind.read(path)
        except _UNREADABLE as error:
            raise TransferError(f"a damaged or truncated {kind.name} file ({error_summary(error)})") from error
        if not tensors:
            raise TransferError(f"a file ({kind.name}) without a single tensor")
        check_names(tensors)
        return tensors
