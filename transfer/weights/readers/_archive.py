"""Zip archives that hold weights: PyTorch's and Keras'."""

import zipfile
from pathlib import Path

from transfer.errors import TransferError

ZIP_MAGIC = b"PK\x03\x04"


def members(path: Path, head: bytes) -> list[str]:
    """The names in the zip at `path`; empty if it is none. TransferError if it starts as one and is damaged."""
    if not head.startswith(ZIP_MAGIC):
        return []
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise TransferError(f"a damaged or truncated zip archive ({error})") from error
