"""Arrays in HDF5 files of anybody, of which rows are read when they are asked for, by a process of their own.

An answer of that process (`hdf5_process`) is believed no more than the file.
"""

import json
import math
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterable
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

import numpy as np

from transfer.errors import TransferError
from transfer.runtime.files.untrusted import decompression_limit, printable

MAGIC = b"\x89HDF\r\n\x1a\n"
ROOT = Path(__file__).parents[3]
CHILD = "import sys; sys.path.insert(0, {!r}); from transfer.runtime.files import hdf5_process; hdf5_process.main()"
LONGEST_ANSWER = 1 << 26


class Hdf5File:
    """An HDF5 file, open as long as it is used; whatever is wrong with it is a TransferError that does not name it.

    Attributes:
      arrays: the arrays of numbers in it by their names, `train/images`; nothing of them has been read.
    """

    def __init__(self, path: str) -> None:
        self.size = os.path.getsize(path)
        command = [sys.executable, "-c", CHILD.format(str(ROOT)), str(self.size), os.path.abspath(path)]
        # not of this process' group, whose Ctrl-C lets a batch come to its end
        self._process = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, start_new_session=True)
        self._lock = threading.Lock()
        weakref.finalize(self, _end, self._process)
        arrays = self._ask(None)[0].get("arrays", {})
        self.arrays = {
            name: Hdf5Array(self, name, np.dtype(str(kind)), shape) for name, (kind, shape) in arrays.items()
        }

    def rows(self, name: str, start: int, stop: int) -> bytes:
        """The bytes of some rows of an array; from any thread."""
        return self._ask([name, start, stop])[1]

    def _ask(self, request: Any) -> tuple[dict[str, Any], bytes]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin and stdout
        try:
            with self._lock:
                stdin.write(json.dumps(request).encode() + b"\n")
                stdin.flush()
                answer = dict(json.loads(stdout.readline(LONGEST_ANSWER)))
                content = stdout.read(min(int(answer.get("length", 0)), decompression_limit(self.size)))
        except (OSError, TypeError, ValueError) as error:
            crashed = "HDF5's own library crashed or went on for ever over it"
            raise TransferError(f"a damaged HDF5 file: {crashed}") from error
        if "error" in answer:
            raise TransferError(str(answer["error"]))
        return answer, content


class Hdf5Array:
    """An array in an HDF5 file: `array[3]` and `array[2:5]` read these rows, `array[:]` all."""

    def __init__(self, file: Hdf5File, name: str, dtype: np.dtype, shape: Iterable[int]) -> None:
        self.file, self.name, self.dtype, self.shape = file, name, dtype, tuple(map(int, shape))
        self.ndim, self.size = len(self.shape), math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice) -> np.ndarray:
        start, stop, _ = (rows if isinstance(rows, slice) else slice(rows, rows + 1)).indices(len(self))
        shape = (stop - start, *self.shape[1:])
        if self.dtype.hasobject or self.size * self.dtype.itemsize > decompression_limit(self.file.size):
            raise TransferError(f"refused: {printable(self.name)} claims more bytes than there can be")
        content = self.file.rows(self.name, start, stop)
        if len(content) != math.prod(shape) * self.dtype.itemsize:
            raise TransferError(f"a damaged HDF5 file ({printable(self.name)} ends early)")
        array = np.frombuffer(content, self.dtype).reshape(shape)
        return array if isinstance(rows, slice) else array[0]


def _end(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate()
