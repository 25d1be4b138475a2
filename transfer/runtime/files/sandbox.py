"""Arrays in files of anybody that libraries in C read, HDF5 and MATLAB, by a process of their own.

Files can be made that hang or crash such a library; a few in a thousand damaged ones do. Here that ends a process which
has limits on memory and time (`hdf5_process`), and whose answers are believed no more than the file.
"""

import json
import math
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

import ml_dtypes
import numpy as np

from transfer.errors import TransferError
from transfer.runtime.files.untrusted import decompression_limit, printable

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
ROOT = Path(__file__).parents[3]
HDF5, MATLAB = (f"transfer.runtime.files.{name}_process" for name in ("hdf5", "matlab"))
CHILD = "import sys; sys.path.insert(0, {!r}); import {} as process; process.main()"
# Of a core, for each answer.
CPU_SECONDS, BYTES_A_SECOND = 10, 50_000_000
LONGEST_ANSWER = 1 << 26
NUMBERS, BFLOAT16 = "biuf", "bfloat16"


def start(command: list[str]) -> Any:
    """A process that is not of this one's group, whose Ctrl-C lets a batch come to its end."""
    alone = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # each thread takes of the addresses that there may be
    return subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, start_new_session=True, env=alone)


class SandboxedFile:
    """A file, open as long as it is used; whatever is wrong with it is a TransferError that does not name it.

    Attributes:
      path: where it lies; empty where its content was given.
      holds: what the process says of the file, an object of JSON.
    """

    def __init__(self, file: str | bytes, process: str = HDF5, kind: str = "HDF5") -> None:
        """Opens a path, or what is in the file, by the module `process`; `kind` is what messages call it."""
        content, self.path = (file, "") if isinstance(file, bytes) else (b"", os.path.abspath(file))
        self.kind, self.size = kind, os.path.getsize(self.path) if self.path else len(content)
        limits = [str(self.size), str(CPU_SECONDS + self.size // BYTES_A_SECOND)]
        self._process = start([sys.executable, "-c", CHILD.format(str(ROOT), process), kind, *limits, self.path])
        self._lock = threading.Lock()
        weakref.finalize(self, _end, self._process)
        with suppress(OSError):  # it has ended, as asking will say
            self._process.stdin.write(content)
        self.holds = self._ask(None)[0]

    @property
    def arrays(self) -> "dict[str, SandboxedArray]":
        """The arrays of numbers in it by their names, `train/images`; nothing of them has been read."""
        arrays = self.holds.get("arrays", {})
        return {name: SandboxedArray(self, name, dtype, shape) for name, (dtype, shape) in arrays.items()}

    def rows(self, name: str, start: int, stop: int) -> bytes:
        """The bytes of some rows of an array; from any thread."""
        return self._ask([name, start, stop])[1]

    def _ask(self, request: Any) -> tuple[dict[str, Any], bytes]:
        try:
            with self._lock:
                self._process.stdin.write(json.dumps(request).encode() + b"\n")
                self._process.stdin.flush()
                answer = dict(json.loads(self._process.stdout.readline(LONGEST_ANSWER)))
                length = min(int(answer.get("length", 0)), decompression_limit(self.size))
                content = self._process.stdout.read(length)
        except (OSError, TypeError, ValueError) as error:
            crashed = "the library that reads such files crashed or went on for ever over it"
            raise TransferError(f"a damaged {self.kind} file: {crashed}") from error
        if "error" in answer:
            raise TransferError(str(answer["error"]))
        return answer, content


class SandboxedArray:
    """An array of numbers in a file: `array[3]` and `array[2:5]` read these rows, `array[:]` all."""

    def __init__(self, file: SandboxedFile, name: str, dtype: str, shape: Iterable[int]) -> None:
        self.file, self.name, self.shape = file, name, tuple(map(int, shape))
        self.dtype = np.dtype(ml_dtypes.bfloat16 if dtype == BFLOAT16 else str(dtype))
        if (self.dtype.kind not in NUMBERS and dtype != BFLOAT16) or not all(side >= 0 for side in self.shape):
            raise TransferError(f"{printable(name)} is of an unknown type")
        self.ndim, self.size = len(self.shape), math.prod(self.shape)
        self.nbytes = self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 1

    def __getitem__(self, rows: int | slice) -> np.ndarray:
        start, stop, _ = (rows if isinstance(rows, slice) else slice(rows, rows + 1)).indices(len(self))
        shape = (stop - start, *self.shape[1:]) if self.shape else ()
        if self.nbytes > decompression_limit(self.file.size):
            raise TransferError(f"refused: {printable(self.name)} claims more bytes than there can be")
        content = self.file.rows(self.name, start, stop)
        if len(content) != math.prod(shape) * self.dtype.itemsize:
            raise TransferError(f"a damaged {self.file.kind} file ({printable(self.name)} ends early)")
        array = np.frombuffer(content, self.dtype).reshape(shape)
        return array if isinstance(rows, slice) else array[0]


def _end(process: Any) -> None:
    process.kill()
    process.communicate()
