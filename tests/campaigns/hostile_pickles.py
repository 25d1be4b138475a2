"""Pickles that would run code: by a name, by an opcode, or by a value in a place where code is looked for."""

import pickle
from collections.abc import Iterator

import numpy as np

from tests.campaigns.hostile_names import names
from tests.campaigns.opcodes import (
    ARRAY,
    CANARY,
    DTYPE,
    ENCODE,
    FLOATS,
    MKDIR,
    NDARRAY,
    TERA,
    Trick,
    array,
    call,
    global_,
    stack_global,
    text,
    tuple_,
)


def by_name() -> Iterator[Trick]:
    """Each name, asked for by each opcode that may, and called with the path of the canary."""
    for module, name in names():
        said = (f"{module}.{name}",)
        yield Trick(f"GLOBAL {said[0]}", call(global_(module, name), CANARY) + b".", said)
        yield Trick(f"STACK_GLOBAL {said[0]}", b"\x80\x04" + call(stack_global(module, name), CANARY) + b".", said)
        yield Trick(f"INST {said[0]}", b"(" + CANARY + f"i{module}\n{name}\n.".encode(), said)


OBJECTS = call(DTYPE, b"S'O8'\n", b"I0\n", b"I1\n")


def nested() -> Iterator[Trick]:
    """A call wherever a value may stand."""
    said = ("os.mkdir",)
    yield Trick("a call inside a list", b"](" + MKDIR + b"e.", said)
    yield Trick("a call as the state of an array", ARRAY + MKDIR + b"b.", said)
    yield Trick("a call as the data of an array", array(tuple_(b"I1\n"), MKDIR) + b".", said)
    yield Trick("a call inside a call", call(ENCODE, MKDIR, b"S'latin1'\n") + b".", said)
    yield Trick("a call before the data set", MKDIR + b"0}.", said)
    yield Trick("a call in the memo only", MKDIR + b"\x940}.", said)
    yield Trick("a call as a key", b"}" + MKDIR + b"Ns.", said)
    yield Trick("a call as a persistent id", MKDIR + b"Q.", said)
    yield Trick("a call as a dtype", call(DTYPE, MKDIR) + b".", said)
    yield Trick("a call as a class", b"(" + MKDIR + b"o.", said)
    yield Trick("a call as a name", b"\x80\x04" + text("os") + MKDIR + b"\x93.", said)
    objects = array(tuple_(b"I1\n"), b"(" + MKDIR + b"l", OBJECTS)
    yield Trick("a call inside an object array", objects + b".", ("numpy.dtype 'O'",))
    yield Trick("an object array", pickle.dumps(np.array([{}, 1], object), 2), ("numpy.dtype 'O'",))
    yield Trick("objects in an array", array(tuple_(b"I1\n"), b"(" + ARRAY + b"l") + b".", ("object array",))


def odd_names() -> Iterator[Trick]:
    """Names that are more, or less, than a name."""
    lines = b"\x80\x04" + stack_global("os\n\x1b[31m", "sys\rtem") + b"."
    yield Trick("a name with line ends and colours", lines, (r"os\n\x1b[31m.sys\rtem",))
    long = b"X" + (1 << 20).to_bytes(4, "little") + b"x" * (1 << 20)
    yield Trick("a name of a megabyte", b"\x80\x04" + text("os") + long + b"\x93.", ("os.xxx",))
    yield Trick("a name that is no text", b"\x80\x04K\x01K\x02\x93.", ("STACK_GLOBAL",))
    yield Trick("a dtype made of code", call(DTYPE, b"V__import__('os')\n") + b".", ("dtype",))
    subarray = tuple_(b"I3\nS'<'\n", tuple_(FLOATS, b"I9999999\n"), b"NNI-1\nI-1\nI0\n")
    yield Trick("a dtype with a sub-array", FLOATS + subarray + b"b.", ("records",))
    fields = tuple_(b"I3\nS'<'\nN", tuple_(b"S'a'\n"), b"}I-1\nI-1\nI0\n")
    yield Trick("a dtype with fields", FLOATS + fields + b"b.", ("records",))
    yield Trick(
        "bytes made from a number", call(global_("builtins", "bytes"), TERA) + b".", ("REDUCE", "builtins.bytes")
    )
    yield Trick("an unknown encoding", call(ENCODE, text("abc"), text("zlib")) + b".", ("REDUCE",))
    yield Trick("a constructor as the data set", NDARRAY + b".", ("constructor",))
    yield Trick("INST of a constructor", b"(inumpy\nndarray\n.", ("INST",))


VALUES = {
    "a constructor": NDARRAY,
    "a dtype": FLOATS,
    "an array": ARRAY,
    "an ordered dict": call(global_("collections", "OrderedDict")),
    "a list": b"]",
    "a dict": b"}",
    "a set": b"\x8f",
    "a byte array": b"\x96" + bytes(8),
    "a number": b"K\x01",
    "text": text("x"),
    "None": b"N",
}
# What is an ordinary thing to do, so that the pickle is a value.
ORDINARY = {
    "APPEND to a list",
    "APPENDS to a list",
    "SETITEM in a dict",
    "SETITEM in an ordered dict",
    "ADDITEMS to a set",
    "BUILD of an ordered dict",
    "BUILD twice of an ordered dict",
}


def altered() -> Iterator[Trick]:
    """Each kind of value, made again, called, and given state and items."""
    state = b"}" + text("__class__") + DTYPE + b"s"
    attempts = {
        "BUILD of": state + b"b",
        "BUILD twice of": b"(}}" + text("_make") + b"Nstb",
        "REDUCE of": b"(K\x01tR",
        "NEWOBJ of": b")\x81",
        "NEWOBJ_EX of": b")}\x92",
        "OBJ of": b"K\x01o",
        "APPEND to": b"K\x01a",
        "APPENDS to": b"(K\x01K\x02e",
        "SETITEM in": b"K\x00K\x01s",
        "ADDITEMS to": b"(K\x01\x90",
    }
    for kind, value in VALUES.items():
        for attempt, opcodes in attempts.items():
            name = f"{attempt} {kind}"
            says = () if name in ORDINARY else (attempt.split()[0], "array", "dtype", "constructor")
            yield Trick(name, b"\x80\x05(" + value + opcodes + b".", says)


def registries() -> Iterator[Trick]:
    """What lies outside of the pickle: the registry of extensions, buffers, persistent ids."""
    for opcode, code in (("EXT1", b"\x82\x07"), ("EXT2", b"\x83\x07\x01"), ("EXT4", b"\x84\x07\x01\x00\x00")):
        yield Trick(f"{opcode}, registered", b"\x80\x02" + call(code, CANARY) + b".", (opcode,))
    yield Trick("EXT4, negative", b"\x80\x02\x84\xff\xff\xff\xff.", ("EXT4",))
    yield Trick("NEXT_BUFFER", b"\x80\x05\x97.", ("NEXT_BUFFER",))
    yield Trick("READONLY_BUFFER", b"\x80\x05N\x98.", ("READONLY_BUFFER",))
    yield Trick("PERSID", b"P../../etc/passwd\n.", ("PERSID",))
    yield Trick("BINPERSID of a list", b"](K\x01eQ.", ("BINPERSID",))
    yield Trick("BINPERSID of a module", tuple_(text("module"), text("os")) + b"Q.", ("BINPERSID",))


def tricks() -> list[Trick]:
    """All of them but the names."""
    return [*nested(), *odd_names(), *altered(), *registries()]
