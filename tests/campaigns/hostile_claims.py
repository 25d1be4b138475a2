"""Pickles that would use up a machine: lengths of what is not there, and little that makes much."""

import struct
from collections.abc import Iterator

from tests.campaigns.opcodes import (
    ARRAY,
    DTYPE,
    ENCODE,
    ORDERED,
    TERA,
    Trick,
    array,
    call,
    get,
    kept,
    laughs,
    number,
    raw_bytes,
    text,
    tuple_,
)

MEGABYTE = 1 << 20
# Python hashes so deep a tuple past the end of its stack, and dies.
DEEP = 200_000
# Hashes to zero, as do all its multiples.
MODULUS = (1 << 61) - 1


def lengths() -> Iterator[Trick]:
    """Opcodes that say how much follows."""
    sizes = {"a terabyte": 1 << 40, "all memory": (1 << 62) - 1, "more than can be": (1 << 64) - 1}
    for opcode, code in {"BINUNICODE8": b"\x8d", "BINBYTES8": b"\x8e", "BYTEARRAY8": b"\x96", "FRAME": b"\x95"}.items():
        for title, size in sizes.items():
            yield Trick(f"{opcode} of {title}", b"\x80\x05" + code + struct.pack("<Q", size) + b"abc.", (opcode,))
    for opcode, code in {"BINUNICODE": b"X", "BINBYTES": b"B", "BINSTRING": b"T", "LONG4": b"\x8b"}.items():
        yield Trick(f"{opcode} of two gigabytes", b"\x80\x03" + code + b"\xff\xff\xff\x7fabc.", (opcode,))
        yield Trick(f"{opcode} of a negative length", b"\x80\x03" + code + b"\xff\xff\xff\xffabc.", (opcode,))
    yield Trick("INT of many digits", b"I" + b"9" * MEGABYTE + b"\n.", ("INT",))
    yield Trick("LONG of many digits in another base", b"L0x" + b"f" * MEGABYTE + b"L\n.")
    nested = b"".join(b"\x95" + struct.pack("<Q", 9 * i) for i in range(1000, 0, -1))
    yield Trick("frames in frames", b"\x80\x04" + nested + b"N.", ("FRAME",))
    yield Trick(
        "a frame that ends in a number", b"\x80\x04\x95" + struct.pack("<Q", 2) + b"J\x01\x00\x00\x00.", ("BININT",)
    )
    yield Trick("an empty frame at the end", b"\x80\x04\x95" + bytes(8))


def memo() -> Iterator[Trick]:
    """Games with the memo: entries far away or not there, values that hold themselves or share their parts."""
    far = b"".join(b"r" + struct.pack("<I", 0xFFFFFFFF - i) for i in range(1000))
    yield Trick("LONG_BINPUT far away", b"}" + far + b".")
    yield Trick("PUT and GET far away", b"}p99999999999999999999999999\ng99999999999999999999999999\n.")
    yield Trick("an entry that is not there", b"j\xff\xff\xff\xff.", ("LONG_BINGET",))
    yield Trick("a list that holds itself", b"]\x94" + get(0) + b"a.", ("holds itself",))
    yield Trick("a list that holds itself twice", b"]\x94" + get(0) + b"a" + get(0) + b"a.", ("holds itself",))
    yield Trick("a dict that holds itself", b"}\x94" + text("features") + get(0) + b"s.", ("holds itself",))
    yield Trick("a tuple that holds itself", b"]\x94(" + get(0) * 2 + b"t\x94a" + get(1) + b".", ("holds itself",))
    yield Trick(
        "an array that holds itself",
        ARRAY + b"\x94" + tuple_(tuple_(b"K\x01"), DTYPE, b"N", get(0)) + b"b.",
        ("array",),
    )
    yield Trick("laughs", laughs(40) + b".", ("expand",))
    yield Trick("laughs of DUP", b"K\x01" + b"2\x86" * 60 + b".", ("expand",))
    dataset = b"}(" + text("features") + laughs(30) + text("labels") + b"](K\x01eu."
    yield Trick("laughs as features", dataset, ("expand",))
    yield Trick(
        "laughs as labels", dataset.replace(b"features", b"labels__").replace(b"labels\x8c", b"x"), ("expand", "opcode")
    )
    yield Trick("laughs as a dtype", kept(laughs(40)) + call(DTYPE, get(41)) + b".", ("dtype",))
    floats = array(tuple_(b"I250000\n"), raw_bytes(bytes(MEGABYTE - 48576)))
    yield Trick("an array many times in a list", b"](" + floats + b"2" * 10_000 + b"e.", ("expand",))
    copy = array(tuple_(number(MEGABYTE // 4)), get(0))
    yield Trick(
        "a megabyte in many arrays", kept(raw_bytes(bytes(MEGABYTE))) + b"](" + copy * 2000 + b"e.", ("copy the same",)
    )
    ascii_ = b"X" + struct.pack("<I", MEGABYTE) + b"x" * MEGABYTE
    encoded = call(ENCODE, get(0), b"S'latin1'\n")
    yield Trick("a megabyte encoded many times", kept(ascii_) + b"](" + encoded * 3000 + b"e.", ("REDUCE",), slow=True)
    many, copied = kept(b"](" + b"](K\x01K\x01e" * 10_000 + b"e"), call(ORDERED, get(0))
    yield Trick("a list copied to many dicts", many + b"](" + copied * 2000 + b"e.", ("REDUCE",), slow=True)


def depth() -> Iterator[Trick]:
    """Deeper than Python's stack, or than C's where Python hashes or frees it."""
    yield Trick("deep lists", b"]" * 100_000 + b"a" * 99_999 + b".", ("deep",))
    yield Trick("deep tuples", b")" + b"\x85" * DEEP + b".", ("deep",))
    yield Trick("deep tuples, dropped", b")" + b"\x85" * DEEP + b"0N.")
    yield Trick("deep dicts", b"}" + b"K\x01}" * 100_000 + b"s" * 100_000 + b".", ("deep",))
    yield Trick("deep ordered dicts", ordered(20_000) + b".", ("deep",))
    yield Trick("deep arrays", (ARRAY + b"(NNN") * 20_000 + b"N" + b"tb" * 20_000 + b".", ("array",))
    deep = b")" + b"\x85" * DEEP
    yield Trick("a deep tuple as a key", b"}" + deep + b"Ns.", ("SETITEM",))
    yield Trick("a deep tuple as a key of many", b"}(" + deep + b"Nu.", ("SETITEMS",))
    yield Trick("a deep tuple as a key of DICT", b"(" + deep + b"Nd.", ("DICT",))
    yield Trick("a deep tuple in a set", b"\x80\x04\x8f(" + deep + b"\x90.", ("ADDITEMS",))
    yield Trick("a deep tuple in a frozenset", b"\x80\x04(" + deep + b"\x91.", ("FROZENSET",))
    yield Trick("a deep tuple as a key of an OrderedDict", call(ORDERED, b"](](" + deep + b"Nee") + b".", ("REDUCE",))
    yield Trick("a deep tuple as a persistent id", deep + b"Q.", ("BINPERSID",))
    yield Trick("a deep tuple as an encoding", call(ENCODE, text("a"), deep) + b".", ("REDUCE",))


def ordered(levels: int) -> bytes:
    """OrderedDicts in one another."""
    return (call(ORDERED) + b"K\x01") * levels + b"N" + b"s" * levels


def collisions() -> Iterator[Trick]:
    """Keys that Python hashes to the same number, which makes a dict of them quadratic."""
    keys = [number(i * MODULUS) for i in range(50_000)]
    yield Trick("keys that collide", b"}(" + b"N".join(keys) + b"Nu.", ("SETITEMS",))
    yield Trick("keys that collide, one by one", b"}" + b"Ns".join(keys) + b"Ns.", ("SETITEM",))
    yield Trick("keys of DICT that collide", b"(" + b"N".join(keys) + b"Nd.", ("DICT",))
    yield Trick("a set that collides", b"\x80\x04\x8f(" + b"".join(keys) + b"\x90.", ("ADDITEMS",))
    yield Trick("a frozenset that collides", b"\x80\x04(" + b"".join(keys) + b"\x91.", ("FROZENSET",))
    pairs = b"".join(b"](" + key + b"Ne" for key in keys)
    yield Trick("an OrderedDict that collides", call(ORDERED, b"](" + pairs + b"e") + b".", ("REDUCE",))
    yield Trick("keys of tuples", b"}(" + b"".join(key + key + b"\x86N" for key in keys[:5000]) + b"u.", ("SETITEMS",))
    yield Trick("a number of a megabyte as a key", b"}" + number(1 << 8 * MEGABYTE) + b"Ns.", ("SETITEM",))
    yield Trick("a long tuple as a key", b"}(" + b"K\x01" * MEGABYTE + b"tNs.", ("SETITEM",))


def floods() -> Iterator[Trick]:
    """Opcodes of one byte that make objects of hundreds."""
    yield Trick("sets without end", b"\x80\x04" + b"\x8f" * 3_000_000 + b".", ("EMPTY_SET",), slow=True)
    yield Trick("dicts without end", b"}" * 5_000_000 + b".", ("EMPTY_DICT",), slow=True)
    yield Trick("marks without end", b"(" * 6_000_000, ("MARK",), slow=True)
    yield Trick("memo without end", b"N" + b"\x94" * 10_000_000 + b".", ("MEMOIZE",), slow=True)
    yield Trick("pops without end", b"0" * 1000 + b".", ("POP",))
    yield Trick("nothing but STOP", b".", ("STOP",))
    yield Trick("nothing", b"")
    yield Trick("opcodes that are none", b"\xff" * 1000, ("0xff",))


def arrays() -> Iterator[Trick]:
    """Arrays whose shapes or types do not fit their bytes."""
    four, said = raw_bytes(b"abcd"), ("array",)
    yield Trick("an array of a terabyte", array(tuple_(TERA), four) + b".", said)
    yield Trick("an array of more than fits a number", array(tuple_(TERA, TERA), four) + b".", said)
    yield Trick("an array of many axes", array(tuple_(number(MODULUS) * 100_000), four) + b".", said)
    yield Trick("an array of negative sizes", array(tuple_(b"I-1\n", b"I-1\n"), four) + b".", said)
    yield Trick("an empty array of a terabyte", array(tuple_(TERA, b"K\x00"), raw_bytes(b"")) + b".")
    wide = call(DTYPE, b"S'U999999'\n", b"I0\n", b"I1\n")
    yield Trick("text of megabytes a row", array(tuple_(TERA), four, wide) + b".", said)
    yield Trick("text of nothing a row", array(tuple_(TERA), four, call(DTYPE, b"S'S0'\n")) + b".", ("dtype",))


def tricks() -> list[Trick]:
    """All of them."""
    return [*lengths(), *memo(), *depth(), *collisions(), *floods(), *arrays()]
