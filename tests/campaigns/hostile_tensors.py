"""Pickles for PyTorch's readers: storages that are not there, tensors whose strides point anywhere."""

from collections.abc import Iterator

from tests.campaigns.opcodes import MKDIR, TERA, Trick, call, get, global_, kept, laughs, number, text, tuple_

FLOAT_STORAGE = global_("torch", "FloatStorage")
REBUILD = global_("torch._utils", "_rebuild_tensor_v2")
ONE = b"K\x01\x85"


def storage(kind: bytes = FLOAT_STORAGE, key: str = "0", numel: bytes = b"K\x04") -> bytes:
    """The storage `0` of four floats, which is in the file, or what is said to be one."""
    return tuple_(text("storage"), kind, text(key), text("cpu"), numel) + b"Q"


def tensor(
    shape: bytes = ONE, strides: bytes = ONE, offset: bytes = b"K\x00", hooks: bytes = b"N", of: bytes = b""
) -> bytes:
    """A state dict with one tensor."""
    return b"}" + text("a") + call(REBUILD, of or storage(), offset, shape, strides, b"\x89", hooks) + b"s"


def tricks() -> Iterator[Trick]:
    """All of them."""
    two, minus_one = b"K\x02\x85", b"J\xff\xff\xff\xff"
    yield Trick("a tensor past its storage", tensor(b"K\x64\x85") + b".", ("beyond its storage",))
    yield Trick("a negative stride", tensor(two, minus_one + b"\x85") + b".", ("negative",))
    yield Trick("a negative offset", tensor(two, ONE, minus_one) + b".", ("negative",))
    yield Trick("an offset that wraps", tensor(two, ONE, number(1 << 64)) + b".", ("beyond its storage",))
    # the shape and the strides are lists, which grow once the tensor has been looked at
    lists = kept(b"](K\x02e") + kept(b"](K\x01e")
    grow = get(0) + b"K\x05a0" + get(1) + b"J\x00\xf0\xff\xffa0"
    yield Trick("a stride that turns negative later", lists + tensor(get(0), get(1)) + grow + b".", reads=True)
    yield Trick("a terabyte out of one number", tensor(TERA + b"\x85", b"K\x00\x85") + b".", ("repeats",))
    axes = tuple_(b"K\x01" * 100_000)
    yield Trick("a million axes", tensor(axes, axes) + b".", ("sizes",))
    yield Trick("shape and strides of other lengths", tensor(tuple_(b"K\x01K\x01"), ONE) + b".", ("sizes",))
    yield Trick("a shape that is a dict", tensor(b"}", b"}") + b".", ("shape",))
    yield Trick("state set on a tensor", b"}" + tensor()[1:-1] + b"}bs.", ("state set",))
    yield Trick("state set on a storage", storage() + b"}b.", ("state set",))
    yield Trick("state set on a storage class", FLOAT_STORAGE + b"}b.", ("BUILD",))
    yield Trick("a storage of a terabyte", tensor(of=storage(numel=TERA)) + b".", ("storage", "BINPERSID"))
    yield Trick("a storage of a negative size", tensor(of=storage(numel=minus_one)) + b".", ("BINPERSID",))
    yield Trick("a storage of another type", tensor(of=storage(global_("torch", "float32"))) + b".", ("BINPERSID",))
    both = tensor()[:-1] + b"s" + text("b") + storage(global_("torch", "IntStorage")) + b"s"
    yield Trick("a storage of two types", both + b".", ("BINPERSID",))
    for key in ("../../../../etc/passwd", "/etc/passwd", "../data.pkl", "..\\data.pkl", "0/", "\x00"):
        yield Trick(f"the storage {key!r}", tensor(of=storage(key=key)) + b".", ("storage", "BINPERSID"))
    yield Trick("a storage that is called", call(FLOAT_STORAGE, b"K\x04") + b".", ("storage",))
    yield Trick(
        "a device of laughs", kept(laughs(40)) + call(global_("torch", "device"), get(41)) + b".", ("torch.device",)
    )
    yield Trick("a size of a number", call(global_("torch", "Size"), TERA) + b".", ("torch.Size",))
    parameter = global_("torch._utils", "_rebuild_parameter")
    yield Trick("a parameter of code", call(parameter, MKDIR, b"\x88N") + b".", ("os.mkdir",))
    yield Trick("a hook on a tensor", tensor(hooks=MKDIR) + b".", reads=True)
    yield Trick(
        "a tensor of no type", call(global_("torch._utils", "_rebuild_tensor_v3"), storage()) + b".", ("REDUCE",)
    )
