"""Hostile pickles, written opcode by opcode."""

import pickle
import struct
from dataclasses import dataclass


@dataclass(frozen=True)
class Trick:
    """A pickle that is no data set and no state dict, whatever reads it.

    Attributes:
      program: the pickle; `{made}` in it is a file that must not come to be.
      says: what the error names, one of them; none where the pickle is harmless, only not what was asked for.
      reads: there is something harmless in it that may be read.
      slow: it takes a second or more until the limit on what a pickle may make is reached.
    """

    name: str
    program: bytes
    says: tuple[str, ...] = ()
    reads: bool = False
    slow: bool = False


# The canary's path as protocol 0 writes it, so that its length is nowhere else.
MADE = b"{made}"
CANARY = b"V" + MADE + b"\n"


def text(value: str) -> bytes:
    """SHORT_BINUNICODE."""
    raw = value.encode()
    return b"\x8c" + bytes([len(raw)]) + raw


def raw_bytes(content: bytes) -> bytes:
    """BINBYTES."""
    return b"B" + struct.pack("<I", len(content)) + content


def number(value: int) -> bytes:
    """LONG1, or LONG4 where it is long."""
    raw = pickle.encode_long(value)  # type: ignore[attr-defined]
    return b"\x8a" + bytes([len(raw)]) + raw if len(raw) < 256 else b"\x8b" + struct.pack("<i", len(raw)) + raw


def get(index: int) -> bytes:
    """BINGET."""
    return b"h" + bytes([index])


def global_(module: str, name: str) -> bytes:
    """GLOBAL."""
    return f"c{module}\n{name}\n".encode()


def stack_global(module: str, name: str) -> bytes:
    """STACK_GLOBAL."""
    return text(module) + text(name) + b"\x93"


def call(function: bytes, *arguments: bytes) -> bytes:
    """REDUCE."""
    return function + b"(" + b"".join(arguments) + b"tR"


def tuple_(*values: bytes) -> bytes:
    """TUPLE."""
    return b"(" + b"".join(values) + b"t"


def kept(value: bytes) -> bytes:
    """A value in the next entry of the memo, and no longer on the stack."""
    return value + b"\x940"


def laughs(levels: int) -> bytes:
    """A list of ten times a list of ten times a list …, of which few are there; an entry of the memo a level."""
    first = kept(b"](" + b"K\x01" * 10 + b"e")
    return first + b"".join(kept(b"](" + get(i) * 10 + b"e") for i in range(levels)) + get(levels)


MKDIR = call(global_("os", "mkdir"), CANARY)
NDARRAY = global_("numpy", "ndarray")
ARRAY = call(global_("numpy.core.multiarray", "_reconstruct"), NDARRAY, tuple_(b"I0\n"), b"S'b'\n")
DTYPE = global_("numpy", "dtype")
FLOATS = call(DTYPE, b"S'f4'\n", b"I0\n", b"I1\n")
ENCODE, ORDERED = global_("_codecs", "encode"), global_("collections", "OrderedDict")
TERA = number(1 << 40)


def array(shape: bytes, data: bytes, dtype: bytes = FLOATS) -> bytes:
    """An array by `_reconstruct` and BUILD."""
    return ARRAY + tuple_(b"I1\n", shape, dtype, b"I00\n", data) + b"b"
