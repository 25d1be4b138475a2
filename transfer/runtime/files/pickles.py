"""Reads pickles that hold nothing but plain values and NumPy arrays, and runs no code from the file.

A pickle is a program: it names functions and calls them (`transfer.runtime.files.unpickler` runs it). Here is the short
table of what it may name; any other name is refused. The constructors make stand-ins (`Pending`) that check their
arguments; real arrays are made from the stand-ins once the pickle has been read to its end.
"""

import math
import pickle
import re
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from transfer.errors import TransferError
from transfer.runtime.files.unpickler import (
    ORDERED_DICT,
    Constructor,
    Pending,
    RestrictedUnpickler,
    StandIn,
    resolve_pending,
)
from transfer.runtime.files.untrusted import DAMAGE_ERRORS, LimitedReader, error_summary, printable

# Booleans, integers, floats, complex numbers, bytes and text of fixed width. No objects, records, dates.
_PLAIN_DTYPE = re.compile(r"[<>=|]?(?:b1|[iu][1248]|f(?:2|4|8|16)|c(?:8|16|32)|[SU][1-9]\d{0,5}|\?)")

# Where files of NumPy say that its functions are; the second name is that of 1.16.0.
MULTIARRAY = ("multiarray", "_multiarray_umath")

# NumPy's own limit is 64, and lower in older versions.
MAX_AXES = 32


class Dtype(Pending):
    """A `numpy.dtype` of numbers or text."""

    __slots__ = ("code", "order")

    def __init__(self, code: object, align: object = False, copy: object = True) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else code
        self.order: Any = "="
        if not isinstance(self.code, str) or not _PLAIN_DTYPE.fullmatch(self.code):
            is_object = isinstance(self.code, str) and self.code.lstrip("<>=|").startswith("O")
            dtype = f"dtype {printable(self.code)!r}" if isinstance(self.code, str) else "an unknown dtype"
            kind = "an object array (numpy.dtype 'O')" if is_object else f"an array of {dtype}"
            raise TransferError(f"it holds {kind}; only arrays of numbers and text are read")

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple):
            raise pickle.UnpicklingError("a dtype whose state is no tuple")
        order, subarray, names, fields = state[1:5]
        if subarray is not None or names is not None or fields is not None:
            raise TransferError("it holds an array of records; only arrays of numbers and text are read")
        self.order = order.decode("latin1") if isinstance(order, bytes) else order

    def value(self) -> np.dtype:
        dtype: np.dtype = np.dtype(str(self.code))
        return dtype.newbyteorder(self.order) if self.order in (">", "<") else dtype


class _Array(Pending):
    """A `numpy.ndarray`, made by `_reconstruct` or from a buffer, or a scalar of NumPy."""

    __slots__ = ("shape", "dtype", "fortran", "data", "_scalar", "_value")

    def __init__(self, *ignored: object) -> None:  # numpy passes the class, a placeholder shape and dtype
        self.data: object = None
        self._scalar = False
        self._value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple):
            raise pickle.UnpicklingError("an array whose state is no tuple")
        self.shape, self.dtype, self.fortran, self.data = state[-4:]

    @classmethod
    def from_buffer(cls, data: object, dtype: object, shape: object, order: object) -> "_Array":
        array = cls()
        array.__setstate__((shape, dtype, order == "F", data))
        return array

    @classmethod
    def scalar(cls, dtype: object, data: object = b"") -> "_Array":
        array = cls.from_buffer(data, dtype, (), "C")
        array._scalar = True
        return array

    def raw(self) -> object:
        return self.data if isinstance(self.data, (str, bytes, bytearray)) else None

    def value(self) -> object:
        if self.data is not None and isinstance(self.dtype, StandIn):
            return self.dtype
        if self._value is None:
            self._value = self._make()
        return self._value[()] if self._scalar else self._value

    def _make(self) -> np.ndarray:
        if self.data is None:
            raise pickle.UnpicklingError("an array without data")
        if isinstance(self.data, list):
            raise TransferError("it holds an object array (numpy.dtype 'O'); only numbers and text are read")
        if not isinstance(self.dtype, Dtype):
            raise pickle.UnpicklingError("an array without a dtype")
        axes = self.shape if isinstance(self.shape, tuple) and len(self.shape) <= MAX_AXES else (None,)
        if not all(isinstance(length, int) and length >= 0 for length in axes):
            raise pickle.UnpicklingError("an array with an invalid shape")
        # Python 2 wrote the bytes as a string, read here as latin1, which maps the 256 bytes one to one
        raw = self.data.encode("latin1") if isinstance(self.data, str) else self.data
        if not isinstance(raw, (bytes, bytearray)):
            raise pickle.UnpicklingError("an array whose data are not bytes")
        dtype = self.dtype.value()
        if math.prod(axes) * dtype.itemsize != len(raw):
            raise pickle.UnpicklingError("an array whose data do not have the size of its shape")
        flat = np.frombuffer(raw, dtype) if dtype.itemsize and raw else np.empty(math.prod(axes), dtype)
        # a copy: writable, aligned, in native byte order
        return np.array(flat.reshape(axes, order="F" if self.fortran else "C"), dtype=dtype.newbyteorder("="))


def _encode(text: object, encoding: object = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("a string in an unknown encoding")
    return text.encode("latin1")


def _empty_bytes(*arguments: object) -> bytes:
    if arguments:
        raise pickle.UnpicklingError("bytes made from something else")
    return b""


# (module, name) as written in files -> what stands for it. Python 2 and 3, NumPy 1 and 2.
ARRAY_CONSTRUCTORS: Mapping[tuple[str, str], Constructor] = {
    ("numpy", "ndarray"): Constructor(_Array),
    ("numpy", "dtype"): Constructor(Dtype),
    **{
        (f"numpy.{core}.{module}", name): Constructor(make)
        for core in ("core", "_core")
        for modules, name, make in (
            (MULTIARRAY, "_reconstruct", _Array),
            (MULTIARRAY, "scalar", _Array.scalar),
            (("numeric",), "_frombuffer", _Array.from_buffer),
        )
        for module in modules
    },
    ("_codecs", "encode"): Constructor(_encode),
    ("__builtin__", "bytes"): Constructor(_empty_bytes),
    ("builtins", "bytes"): Constructor(_empty_bytes),
    ("collections", "OrderedDict"): ORDERED_DICT,
}


def load_arrays(stream: BinaryIO | LimitedReader, name: str = "pickle") -> Any:
    """Reads one pickle of plain values and NumPy arrays from the start of a binary stream, seekable or limited.

    Protocols 0 to 5, Python 2 and 3, NumPy 1 and 2. Python 2 strings are read as latin1. Returns what was
    pickled: dicts, lists, tuples, strings, bytes, numbers, None and arrays (native byte order, writable).

    Raises:
      TransferError: naming `name`: the file is damaged, or holds anything else (an object array, a class, a
        function), which is refused by its name and never imported or called.
    """
    try:
        return resolve_pending(RestrictedUnpickler(stream, ARRAY_CONSTRUCTORS).load())
    except TransferError as error:
        raise TransferError(f"{name}: {error}") from None
    except DAMAGE_ERRORS as error:
        text = str(error) if isinstance(error, pickle.UnpicklingError) else error_summary(error)
        raise TransferError(f"{name}: not a pickle, or a damaged or truncated one ({text})") from error
