"""Zip archives that hold weights: PyTorch's and Keras'."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transfer.runtime.files import archives
from transfer.runtime.files.archives import Archive

ZIP_MAGIC = b"PK\x03\x04"


def members(path: Path, head: bytes) -> list[str]:
    """The names in the zip at `path`; empty if it is none. TransferError if it starts as one and is damaged."""
    if not head.startswith(ZIP_MAGIC):
        return []
    with opened(path) as archive:
        return list(archive.members)


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """The zip at `path`; TransferError, without the path, for whatever is wrong with it."""
    with path.open("rb") as file, archives.open_zip(file) as archive:
        yield archive
