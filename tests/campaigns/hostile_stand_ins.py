"""Pickles for PyTorch's readers that misuse stand-ins, which stand for classes and objects that are not known."""

from collections.abc import Iterator

from tests.campaigns.hostile_tensors import ONE, REBUILD, storage, tensor
from tests.campaigns.opcodes import (
    ARRAY,
    CANARY,
    DTYPE,
    ENCODE,
    MKDIR,
    ORDERED,
    TERA,
    Trick,
    array,
    call,
    get,
    global_,
    kept,
    laughs,
    raw_bytes,
    text,
    tuple_,
)

NAME = global_("argparse", "Namespace")
THING = call(NAME)
OF_TYPE, TENSOR = global_("torch._tensor", "_rebuild_from_type_v2"), global_("torch", "Tensor")
HERE = ("argparse.Namespace",)
MANY, DEEP = 100_000, 200_000


def beside(value: bytes) -> bytes:
    """A state dict with one tensor, and a value beside it."""
    return b"}" + text("state_dict") + tensor() + b"s" + text("args") + value + b"s."


def inert() -> Iterator[Trick]:
    """What may be done with a class or an object, none of which does anything."""
    state = b"}" + text("__class__") + NAME + b"s" + text("name") + MKDIR + b"s" + text("says") + b"}s"
    doings = {
        "called": b"(" + CANARY + b"tR",
        "called again and again": b")R" * MANY,
        "made by NEWOBJ": b")\x81",
        "made by NEWOBJ_EX": b")}\x92",
        "made of code": MKDIR + b"\x85R",
        "given a state": state + b"b",
        "given slots": b"N" + state + b"\x86b",
        "given itself as its state": b"\x94h\x00b",
        "given a state of code": MKDIR + b"b",
        "given a number as its state": TERA + b"b",
        "given laughs as its state": laughs(40) + b"b",
        "given an item": MKDIR + b"a",
        "given items": b"(K\x01" + MKDIR + b"e",
        "given an entry": CANARY + MKDIR + b"s",
        "given entries": b"(K\x01" + MKDIR + b"u",
        "given members": b"(K\x01" + MKDIR + b"\x90",
        "given a deep key": b"()" + b"\x85" * DEEP + b"Nu",
        "called with laughs": b"(" + laughs(40) + b"tR",
    }
    for doing, opcodes in doings.items():
        yield Trick(f"a stand-in {doing}", b"\x80\x04" + THING + opcodes + b".", ("holds no state dict",))
        yield Trick(f"a stand-in {doing}, beside a tensor", b"\x80\x04" + beside(NAME + opcodes), reads=True)
    yield Trick("a stand-in as a class of OBJ", b"(" + NAME + CANARY + b"o.", HERE)
    kind = call(global_("builtins", "type"), text("X"), tuple_(NAME), b"}" + text("__reduce__") + MKDIR + b"s")
    yield Trick("a class made of a stand-in", call(kind, CANARY) + b".", ("builtins.type",))
    yield Trick("a stand-in's attribute", call(global_("builtins", "getattr"), THING, text("__init__")) + b".")
    for name, attempt in {"REDUCE": b"N R", "NEWOBJ": b"\x81", "NEWOBJ_EX": b"\x92", "OBJ": b"(o"}.items():
        yield Trick(f"{name} of too little", THING + attempt.replace(b" ", b"") + b".")


def as_dicts() -> Iterator[Trick]:
    """Stand-ins that are filled as dicts are, whose entries are looked at."""
    inside = call(REBUILD, storage(), b"K\x00", ONE, ONE, b"\x89N")
    yield Trick("a network in a stand-in", THING + text("a.b") + inside + b"s.", reads=True)
    yield Trick("code in a stand-in", beside(THING + text("a") + MKDIR + b"s"), reads=True)
    yield Trick("a tensor of another class", beside(call(OF_TYPE, MKDIR, THING, b")", b"}")), reads=True)
    yield Trick("a tensor made by code", beside(call(OF_TYPE, MKDIR, TENSOR, tuple_(CANARY), b"}")), reads=True)
    yield Trick("a tensor made by another constructor", beside(call(OF_TYPE, ENCODE, TENSOR, b")", b"}")), ("storage",))
    yield Trick(
        "laughs in a stand-in", b"\x80\x04" + beside(THING + text("a") + laughs(40) + b"s"), ("share their parts",)
    )
    yield Trick(
        "itself in a stand-in", b"\x80\x04" + beside(THING + b"\x94" + text("a") + get(0) + b"s"), ("holds itself",)
    )
    deep = (THING + text("a")) * 1000 + b"N" + b"s" * 1000
    yield Trick("stand-ins in stand-ins", beside(deep), ("nested",))


def as_values() -> Iterator[Trick]:
    """Stand-ins where something else belongs."""
    yield Trick("a stand-in as a key", beside(b"}" + THING + b"Ns"), reads=True)
    yield Trick("a stand-in in a key", beside(b"}" + tuple_(THING, NAME) + b"Ns"), reads=True)
    yield Trick("a stand-in as a member", b"\x80\x04" + beside(b"\x8f(" + THING + NAME + b"\x90"), reads=True)
    yield Trick("a stand-in in a frozenset", b"\x80\x04" + beside(b"(" + THING + b"\x91"), reads=True)
    keys = kept(NAME) + b"}(" + (get(0) + b")\x81N") * 2000 + b"u."
    yield Trick("stand-ins as keys without end", b"\x80\x02" + keys, ("keys",))
    yield Trick("a stand-in as a persistent id", THING + b"Q.", ("BINPERSID",))
    yield Trick("a stand-in as a storage class", tensor(of=storage(NAME)) + b".", ("BINPERSID",))
    yield Trick("a stand-in as an object of a storage class", tensor(of=storage(THING)) + b".", ("BINPERSID",))
    yield Trick("a stand-in as a count", tensor(of=storage(numel=THING)) + b".", ("BINPERSID",))
    owner = tuple_(text("module"), NAME, text("x.py"), text("import os")) + b"Q"
    yield Trick("a class with its source", call(owner, CANARY) + b".", HERE)
    yield Trick(
        "a function with its source", tuple_(text("module"), ENCODE, text("x.py"), CANARY) + b"Q.", ("BINPERSID",)
    )
    yield Trick("a stand-in as a storage", tensor(of=THING) + b".", ("storage",))
    yield Trick("a stand-in as a shape", tensor(THING) + b".", ("shape",))
    yield Trick("a stand-in in a shape", tensor(tuple_(THING), ONE) + b".", ("size",))
    yield Trick("a stand-in as an offset", tensor(offset=THING) + b".", ("offset",))
    version_3 = call(global_("torch._utils", "_rebuild_tensor_v3"), storage(), b"K\x00", ONE, ONE, b"\x89N", NAME)
    yield Trick("a stand-in as a type", b"}" + text("a.b") + version_3 + b"s" + text("c.d") + tensor()[4:-1] + b"s.")
    parameter = call(global_("torch._utils", "_rebuild_parameter"), THING, b"\x88N")
    yield Trick("a parameter of a stand-in", b"}" + text("a.b") + parameter + b"s.", ("state dict",))
    inside = call(REBUILD, storage(), b"K\x00", ONE, ONE, b"\x89N")
    mixed = b"}" + text("a.b") + inside + b"s" + text("a.c") + THING + b"s."
    yield Trick("a stand-in among tensors", mixed, ("a.c is a argparse.Namespace",))
    packed = b"}" + text("a.b") + inside + b"s" + text("a.c") + tuple_(b"N", THING) + b"s."
    yield Trick("a stand-in in a tuple among tensors", packed, ("a.c is a argparse.Namespace",))
    yield Trick("a size of a stand-in", call(global_("torch", "Size"), THING) + b".", ("torch.Size",))
    yield Trick("a device of a stand-in", call(global_("torch", "device"), THING) + b".", ("torch.device",))
    yield Trick("an OrderedDict of a stand-in", call(ORDERED, THING) + b".", ("REDUCE",))
    yield Trick("an OrderedDict of pairs of stand-ins", beside(call(ORDERED, b"](" + THING + b"N\x86e")), reads=True)
    yield Trick("text of a stand-in", call(ENCODE, THING) + b".", ("encoding",))
    yield Trick("a default that is code", beside(call(global_("collections", "defaultdict"), MKDIR)), reads=True)


def as_arrays() -> Iterator[Trick]:
    """Stand-ins that pretend to be arrays or parts of one."""
    four = raw_bytes(b"abcd")
    yield Trick("a dtype of a stand-in", beside(array(tuple_(b"K\x01"), four, call(DTYPE, THING))), reads=True)
    yield Trick("a stand-in as a dtype", beside(array(tuple_(b"K\x01"), four, THING)), reads=True)
    yield Trick("a stand-in as a shape of an array", beside(array(THING, four)), ("shape",))
    yield Trick("a stand-in as data", beside(array(tuple_(b"K\x01"), THING)), ("bytes",))
    yield Trick("an array of a stand-in", beside(ARRAY + THING + b"b"), ("BUILD",))
    objects = call(DTYPE, b"S'O8'\n")
    yield Trick("an array of objects", beside(array(tuple_(TERA), b"(" + MKDIR + b"l", objects)), reads=True)
    scalar = call(global_("numpy.core.multiarray", "scalar"), objects, MKDIR)
    yield Trick("a scalar of an object", beside(scalar), reads=True)
    pretending = call(global_("numpy", "memmap"), text("a.pth")) + b"}" + text("shape") + tuple_(TERA) + b"sb"
    yield Trick("a stand-in that is an array", b"}" + text("a.b") + pretending + b"s.", ("numpy.memmap",))


def floods() -> Iterator[Trick]:
    """Stand-ins out of little, deep and many."""
    calls = b"(".join([NAME] * DEEP) + b")" + b"R" * (DEEP - 1)
    yield Trick("stand-ins of stand-ins", b"\x80\x02" + calls.replace(b"R", b"tR") + b".")
    yield Trick("states in states", THING + kept(NAME) + (get(0) + b")\x81") * DEEP + b"b" * DEEP + b".", HERE)
    deep = b"]" * DEEP + b"a" * (DEEP - 1)
    yield Trick("a deep list in a stand-in", call(NAME, deep) + b".", HERE)
    yield Trick("a deep list as a state", THING + deep + b"b.", HERE)
    items = b"".join(text(f"{number}") + b"K\x01" for number in range(1000))
    states = kept(b"}(" + items + b"u") + kept(NAME) + b"](" + (get(1) + b")\x81" + get(0) + b"b") * 30_000 + b"e."
    yield Trick("a state for many", b"\x80\x02" + states, ("BUILD",), slow=True)
    made = b"\x80\x02" + kept(NAME) + b"](" + (get(0) + b")\x81") * 5_000_000 + b"e."
    yield Trick("objects without end", made, ("NEWOBJ", "BINGET", "EMPTY_TUPLE"), slow=True)
    yield Trick("names without end", b"](" + global_("a", "b") * 5_000_000 + b"e.", ("GLOBAL",), slow=True)
    long = b"X" + (1 << 20).to_bytes(4, "little") + b"x" * (1 << 20)
    yield Trick("a claim of a megabyte", beside(THING + b"}" + text("arch") + long + b"sb"), reads=True)


def trees() -> Iterator[Trick]:
    """Trees in which state dicts are looked for."""
    shared = kept(b"}" + text("a") + tensor()[4:-1] + b"s")
    for level in range(25):
        shared += kept(b"}(" + text("a") + get(level) + text("b") + get(level) + b"u")
    yield Trick("dicts that share dicts", shared + get(25) + b".", ("expand",), reads=True)
    long = b"X" + (1 << 20).to_bytes(4, "little") + b"x" * (1 << 20)
    flat = b"](" + (b"}" + text("a") + tensor()[4:-1] + b"s") * 1000 + b"e"
    yield Trick("many under a long key", b"}" + long + flat + b"s.", reads=True)
    inner = b"}" + b"".join(text(f"{number}") + get(0) + b"s" for number in range(70_000))
    nested = kept(tensor()[4:-1]) + b"}" + text("n") + inner + b"s."
    yield Trick("more tensors than a nested state dict may have", nested, reads=True)
    yield Trick("dicts in dicts", (b"}" + text("a")) * 90 + tensor() + b"s" * 90 + b".", reads=True)
    yield Trick(
        "a number of megabytes as a key", b"}" + b"\x8b\xff\xff\x0f\x00" + b"\x7f" * 0x0FFFFF + tensor() + b"s."
    )


def tricks() -> list[Trick]:
    """All of them."""
    return [*inert(), *as_dicts(), *as_values(), *as_arrays(), *floods(), *trees()]
