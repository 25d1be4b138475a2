"""The process that reads MATLAB's files of version 5 and older; those of 7.3 are HDF5."""

from typing import Any

import numpy as np
from scipy import io

from transfer.errors import TransferError
from transfer.runtime.files.hdf5_process import serve
from transfer.runtime.files.sandbox import NUMBERS
from transfer.runtime.files.untrusted import printable

# Classes of numbers in MATLAB, by SciPy's names -> NumPy's.
CLASSES = {kind: kind for kind in ("double", "single")}
CLASSES |= {kind: kind for bits in (8, 16, 32, 64) for kind in (f"int{bits}", f"uint{bits}")}
CLASSES["logical"] = "uint8"


class Matlab:
    """The arrays of numbers in a MATLAB file, whose axes are turned as in those that are HDF5."""

    def __init__(self, source: Any, size: int) -> None:
        self.source = source
        variables = io.whosmat(source)
        self.arrays = {name: (CLASSES[kind], shape[::-1]) for name, shape, kind in variables if kind in CLASSES}

    def holds(self) -> dict[str, Any]:
        """The dtypes and shapes of all arrays."""
        return {"arrays": self.arrays}

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Some rows of an array, which is read as a whole, whatever type takes the least room in the file."""
        array = io.loadmat(self.source, variable_names=[name])[name]
        if array.dtype.kind not in NUMBERS:
            raise TransferError(f"{printable(name)} holds {array.dtype}, not numbers")
        return array.T[start:stop].astype(self.arrays[name][0], copy=False)


def main() -> None:
    """Answers about a MATLAB file."""
    serve(Matlab)
