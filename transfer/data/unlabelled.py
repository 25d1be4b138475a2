"""Images that nobody has labelled: files, and folders of them at any depth, as one source."""

import os
from collections.abc import Iterable, Sequence

from transfer.data import decode
from transfer.data.folder import Entry, Folder, FolderSource
from transfer.errors import TransferError, UsageError
from transfer.runtime.files.untrusted import printable

NAME = "images"


class UnlabelledSource(FolderSource):
    """Files in the order in which they were named, those of a folder sorted; ids are paths; all labels are 0."""

    def __init__(self, paths: Sequence[str]) -> None:
        super().__init__(NAME, Folder(""), (), [(path, 0, Entry((path,), b"", False, path)) for path in paths])

    def shared_shape(self, indices: Iterable[int]) -> None:
        """Returns None: images are resized as they are read, so that one program serves images of all sizes."""
        return None


def open_images(paths: Iterable[str | os.PathLike[str]]) -> UnlabelledSource:
    """The images `paths`: a file is taken whatever its name is, of a folder the JPEG, PNG and PPM files below it.

    A file that is named twice counts once.

    Raises:
        UsageError: there is no such file or folder.
        TransferError: a folder without images; no paths.
    """
    files = list(dict.fromkeys(file for path in paths for file in _files(os.fspath(path))))
    if not files:
        raise TransferError("there are no images to predict; name files or folders")
    return UnlabelledSource(files)


def _files(path: str) -> list[str]:
    if not os.path.exists(path):
        raise UsageError(f"there is no file or folder {printable(path, 200)}")
    if not os.path.isdir(path):
        return [path]
    images = sorted(entry.parts for entry in Folder(path).entries() if not entry.is_folder)
    if not images:
        raise TransferError(f"{printable(path, 200)}: no images below it ({', '.join(decode.EXTENSIONS)})")
    return [os.path.join(path, *parts) for parts in images]
