"""Sources of images that are read as the bytes of a file: decoded, named where broken, and known by their checksums."""

import abc
import contextlib
import zlib
from collections.abc import Iterable, Sequence

import numpy as np

from transfer.data import decode
from transfer.data.source import BrokenImage, Source
from transfer.runtime.files.untrusted import printable

HEADER_BYTES = 64 * 1024  # mostly enough of a file to learn its size; the whole of it is tried next


class EncodedSource(Source):
    """Encoded images, whose bytes `read` gives."""

    def __init__(self, name: str, class_names: Iterable[str], labels: np.ndarray, ids: Sequence[str]) -> None:
        self.name, self.class_names, self.labels, self.ids = name, tuple(class_names), labels, ids
        self._checksums = np.full(len(ids), -1, np.int64)  # of what has been read

    @abc.abstractmethod
    def read(self, row: int, limit: int | None = None) -> bytes:
        """The bytes of one image, or about its first `limit`; from any thread; OSError or ValueError if it cannot."""

    def image(self, index: int) -> np.ndarray:
        return self.image_into(index)

    def image_into(
        self, index: int, out: np.ndarray | None = None, divisor: decode.Divisor | None = None
    ) -> np.ndarray:
        where = f"{self.name}: {printable(self.ids[index], 200)}"
        try:
            data = self.read(index)
        except (OSError, ValueError) as error:
            raise BrokenImage(f"{where}: cannot be read ({error})") from error
        self._checksums[index] = zlib.crc32(data)
        return decode.decode(data, where, out, divisor)

    def file_checksums(self, rows: Sequence[int]) -> np.ndarray:
        checksums = np.full(len(rows), -1, np.int64)
        for place, row in enumerate(rows):
            with contextlib.suppress(OSError, ValueError):
                checksums[place] = zlib.crc32(self.read(row))
        return checksums

    def file_checksums_read(self, rows: Sequence[int]) -> np.ndarray:
        return self._checksums[rows]

    def shared_shape(self, indices: Iterable[int]) -> tuple[int, int, int] | None:
        """The shape by the headers of the files, up to the first that differs; broken files do not count."""
        shared = None
        for index in indices:
            try:
                shape = decode.size(self.read(index, HEADER_BYTES)) or decode.size(self.read(index))
            except (OSError, ValueError):
                continue
            if shape is not None and shape != (shared or shape):
                return None
            shared = shared or shape
        return shared
