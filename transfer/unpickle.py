"""Reads pickles that hold nothing but plain values and NumPy arrays, and runs no code from the file.

A pickle is a program: it names functions and calls them. Here a name is looked up in a short table of our own
constructors, never imported, and any other name is refused. The constructors make stand-ins (`Pending`) that
check their arguments; real arrays are made from the stand-ins once the pickle has been read to its end.
"""

import math
import pickle
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NoReturn

import numpy as np

from transfer.errors import TransferError

# Booleans, integers, floats, complex numbers, bytes and text of fixed width. No objects, records, dates.
_PLAIN_DTYPE = re.compile(r"[<>=|]?(?:b1|[iu][1248]|f(?:2|4|8|16)|c(?:8|16|32)|[SU][1-9]\d{0,5}|\?)")

# What reading a damaged or hostile file raises; everything else is a bug of ours.
DAMAGE = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    BufferError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)


class Pending:
    """A value that is known only when the whole pickle has been read."""

    __slots__ = ()

    def value(self) -> object:
        """Returns the finished value."""
        raise NotImplementedError


class Constructor:
    """A callable that a pickle may name; unlike a function or a class it has no state for BUILD to set."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., object]) -> None:
        object.__setattr__(self, "_make", make)

    def __call__(self, *arguments: object) -> object:
        return self._make(*arguments)  # type: ignore[attr-defined]

    def __setstate__(self, state: object) -> NoReturn:
        raise pickle.UnpicklingError("state set on a constructor")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise pickle.UnpicklingError("attribute set on a constructor")


class Ordered(dict):
    """A `collections.OrderedDict`; the attributes that PyTorch hangs on it (`_metadata`) are ignored."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        pass


class _Dtype(Pending):
    __slots__ = ("code", "order")

    def __init__(self, code: object, align: object = False, copy: object = True) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else code
        self.order = "="
        if not isinstance(self.code, str) or not _PLAIN_DTYPE.fullmatch(self.code):
            is_object = str(self.code).lstrip("<>=|").startswith("O")
            kind = "an object array" if is_object else f"an array of dtype {self.code!r}"
            raise TransferError(f"it holds {kind}; only arrays of numbers and text are read")

    def __setstate__(self, state: tuple) -> None:
        order, subarray, names, fields = state[1:5]
        if subarray is not None or names is not None or fields is not None:
            raise TransferError("it holds an array of records; only arrays of numbers and text are read")
        self.order = order.decode("latin1") if isinstance(order, bytes) else order

    def value(self) -> np.dtype:
        dtype: np.dtype = np.dtype(str(self.code))
        if self.order == ">":
            return dtype.newbyteorder(">")
        return dtype.newbyteorder("<") if self.order == "<" else dtype


class _Array(Pending):
    __slots__ = ("shape", "dtype", "fortran", "data", "_value")

    def __init__(self, *ignored: object) -> None:  # numpy passes the class, a placeholder shape and dtype
        self.data: object = None
        self._value: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        self.shape, self.dtype, self.fortran, self.data = state[-4:]

    @classmethod
    def from_buffer(cls, data: object, dtype: object, shape: object, order: object) -> "_Array":
        array = cls()
        array.__setstate__((shape, dtype, order == "F", data))
        return array

    def value(self) -> np.ndarray:
        if self._value is None:
            if self.data is None:
                raise pickle.UnpicklingError("an array without data")
            if isinstance(self.data, list):
                raise TransferError("it holds an object array; only arrays of numbers and text are read")
            self._value = _make_array(self.data, self.dtype, self.shape, self.fortran)
        return self._value


class _Scalar(_Array):
    __slots__ = ()

    def __init__(self, dtype: object, data: object = b"") -> None:
        super().__init__()
        self.__setstate__(((), dtype, False, data))

    def value(self) -> object:  # type: ignore[override]
        return super().value()[()]


def _make_array(data: object, dtype: object, shape: object, fortran: object) -> np.ndarray:
    if not isinstance(dtype, _Dtype):
        raise pickle.UnpicklingError("an array without a dtype")
    if not (isinstance(shape, tuple) and all(isinstance(n, int) and n >= 0 for n in shape)):
        raise pickle.UnpicklingError("an array with an invalid shape")
    # Python 2 wrote the bytes as a string, read here as latin1, which maps the 256 bytes one to one
    raw = data.encode("latin1") if isinstance(data, str) else data
    if not isinstance(raw, (bytes, bytearray)):
        raise pickle.UnpicklingError("an array whose data are not bytes")
    real = dtype.value()
    if math.prod(shape) * real.itemsize != len(raw):
        raise pickle.UnpicklingError("an array whose data do not have the size of its shape")
    flat = np.frombuffer(raw, real) if real.itemsize and raw else np.empty(math.prod(shape), real)
    # a copy: writable, aligned, in native byte order
    return np.array(flat.reshape(shape, order="F" if fortran else "C"), dtype=real.newbyteorder("="))


def _encode(text: object, encoding: object = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("a string in an unknown encoding")
    return text.encode("latin1")


def _empty_bytes(*arguments: object) -> bytes:
    if arguments:
        raise pickle.UnpicklingError("bytes made from something else")
    return b""


_NDARRAY = Constructor(_Array)

# (module, name) as written in files -> what stands for it. Python 2 and 3, NumPy 1 and 2.
ARRAY_CONSTRUCTORS: Mapping[tuple[str, str], Constructor] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): Constructor(_Dtype),
    **{
        (f"numpy.{core}.{module}", name): Constructor(make)
        for core in ("core", "_core")
        for module, name, make in (
            ("multiarray", "_reconstruct", _Array),
            ("multiarray", "scalar", _Scalar),
            ("numeric", "_frombuffer", _Array.from_buffer),
        )
    },
    ("_codecs", "encode"): Constructor(_encode),
    ("__builtin__", "bytes"): Constructor(_empty_bytes),
    ("builtins", "bytes"): Constructor(_empty_bytes),
    ("collections", "OrderedDict"): Constructor(Ordered),
}


# The one written in Python: its memo is a dict, where the one in C allocates whatever index a file names.
_Unpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]


class RestrictedUnpickler(_Unpickler):
    """An unpickler that knows only `constructors`; `persistent` resolves PyTorch's persistent ids.

    `load()` may return stand-ins: pass its result to `finish`.
    """

    def __init__(
        self,
        stream: BinaryIO,
        constructors: Mapping[tuple[str, str], Any] = ARRAY_CONSTRUCTORS,
        persistent: Callable[[Any], object] | None = None,
        encoding: str = "latin1",
    ) -> None:
        super().__init__(stream, encoding=encoding)
        self._constructors = constructors
        self._persistent = persistent

    def find_class(self, module: str, name: str) -> Any:
        """Returns our constructor for `module.name`; TransferError for any name that is not in the table."""
        try:
            return self._constructors[module, name]
        except KeyError:
            raise TransferError(
                f"refused: it asks for {module}.{name}; only plain values and arrays are read, no code is run"
            ) from None

    def persistent_load(self, pid: Any) -> object:
        """Returns the value behind a persistent id; pickles of arrays have none."""
        if self._persistent is None:
            raise pickle.UnpicklingError("it refers to data outside the pickle")
        return self._persistent(pid)


def finish(value: object) -> Any:
    """Replaces the stand-ins in nested dicts, lists, tuples and sets by real values; shared values stay shared."""
    return _finish(value, {})


def _finish(value: object, done: dict[int, Any]) -> Any:
    if id(value) in done:
        return done[id(value)]
    result: Any
    if isinstance(value, Pending):
        result = value.value()
    elif isinstance(value, dict):
        done[id(value)] = result = {}
        for key, item in dict.items(value):
            result[_finish(key, done)] = _finish(item, done)
    elif isinstance(value, list):
        done[id(value)] = result = []
        result.extend(_finish(item, done) for item in value)
    elif isinstance(value, (tuple, set, frozenset)):
        result = type(value)(_finish(item, done) for item in value)
    elif isinstance(value, Constructor):
        raise pickle.UnpicklingError("a constructor that was never called")
    else:
        result = value
    done[id(value)] = result
    return result


def guarded_load(read: Callable[[], Any], name: str) -> Any:
    """Calls `read`; what a damaged or hostile file makes it raise becomes one TransferError with its name."""
    try:
        return read()
    except TransferError as error:
        raise TransferError(f"{name}: {error}") from None
    except DAMAGE as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise TransferError(f"{name}: not a pickle, or a damaged or truncated one ({reason})") from error


def load_arrays(stream: BinaryIO, name: str = "pickle") -> Any:
    """Reads one pickle of plain values and NumPy arrays from a binary `stream` opened at its start.

    Protocols 0 to 5, Python 2 and 3, NumPy 1 and 2. Python 2 strings are read as latin1. Returns what was
    pickled: dicts, lists, tuples, strings, bytes, numbers, None and arrays (native byte order, writable).

    Raises:
      TransferError: naming `name`: the file is damaged, or holds anything else (an object array, a class, a
        function), which is refused by its name and never imported or called.
    """
    return guarded_load(lambda: finish(RestrictedUnpickler(stream).load()), name)
