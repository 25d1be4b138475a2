"""PyTorch's `.pth`: tensors as a pickle describes them, and the storages that they are of.

What a checkpoint holds beside tensors and plain values, such as an `argparse.Namespace`, becomes a stand-in that does
nothing; `transfer.weights.state_dicts` finds the state dict.

Since 1.6 a zip with the pickle `NAME/data.pkl` and one member a storage, `NAME/data/KEY`. Before
(`_use_new_zipfile_serialization=False`) pickles one after another: a magic number, a protocol version and the writer's
system, each a pickle of its own; the state dict; the list of storage keys; and for each key in turn its number of
elements (int64) and its bytes.
"""

import io
import math
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from transfer.errors import TransferError
from transfer.runtime.files import archives
from transfer.runtime.files.pickles import ARRAY_CONSTRUCTORS, MAX_AXES, Dtype
from transfer.runtime.files.unpickler import (
    Constructor,
    Ordered,
    Pending,
    RestrictedUnpickler,
    StandIn,
    resolve_pending,
)
from transfer.runtime.files.untrusted import DECOMPRESSION_FLOOR, LimitedReader, printable
from transfer.weights.readers import HEAD_BYTES, Format
from transfer.weights.readers._described import Described, claims_in
from transfer.weights.state_dicts import choose

PICKLE = "data.pkl"
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
# PROTO 2, LONG1 of ten bytes, the magic number, STOP; from protocol 4 on FRAME and its size before LONG1
MAGIC = b"\x80\x02\x8a\x0a" + MAGIC_NUMBER.to_bytes(10, "little") + b"."
MAGICS = re.compile(rb"\x80[\2-\5](?:\x95.{8})?" + re.escape(MAGIC[2:]), re.DOTALL)
COUNT = struct.Struct("<q")

# torch.dtype name -> NumPy dtype (little-endian, which is what both formats store).
DTYPES: Mapping[str, np.dtype] = {
    **{
        name: np.dtype(name).newbyteorder("<")
        for name in (
            *("float16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64"),
            *("uint16", "uint32", "uint64", "bool", "complex64", "complex128"),
        )
    },
    **{name: np.dtype(getattr(ml_dtypes, name)) for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")},
}
# Typed storage classes, as `torch.FloatStorage` and its kin are named in files.
STORAGES = {
    "Half": "float16",
    "Float": "float32",
    "Double": "float64",
    "BFloat16": "bfloat16",
    "Byte": "uint8",
    "Char": "int8",
    "Short": "int16",
    "Int": "int32",
    "Long": "int64",
    "Bool": "bool",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
    # of quantised tensors, which are named as what they are later
    **{"QInt8": "int8", "QUInt8": "uint8", "QInt32": "int32"},
}
# A tensor whose numbers are still to be negated or conjugated, as those of `x.conj().imag` are.
LAZY = "torch._utils._rebuild_tensor of a lazy view"
OWN_CLASSES = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
# What a TorchScript archive has beside the pickle.
SCRIPTED = "/constants.pkl"
# An expanded tensor has strides of zero; it may have so many elements whatever the size of its storage.
MOST_REPEATED = DECOMPRESSION_FLOOR // 8


class _Sealed:
    """A class whose objects a pickle may build but not alter: no BUILD opcode gets past the checks that were made."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        raise TransferError(f"state set on a {type(self).__name__.strip('_').lower()}")


class Storage(_Sealed):
    """A flat run of elements in the file, filled in when its bytes are known."""

    __slots__ = ("dtype", "numel", "elements")

    def __init__(self, dtype: np.dtype, numel: int) -> None:
        self.dtype, self.numel = dtype, numel
        self.elements: np.ndarray | None = None

    def fill(self, raw: bytes, big_endian: bool = False) -> None:
        """Sets the elements from the `numel * itemsize` bytes of the file."""
        if len(raw) != self.numel * self.dtype.itemsize:
            raise TransferError(f"a storage of {self.numel} elements has {len(raw)} bytes; the file is truncated")
        elements = np.frombuffer(raw, self.dtype)
        self.elements = elements.byteswap() if big_endian else elements


class View(_Sealed):
    """A storage from some element on: what a persistent id stands for."""

    __slots__ = ("storage", "start")

    def __init__(self, storage: Storage, start: int = 0) -> None:
        self.storage, self.start = storage, start


class _Tensor(_Sealed, Pending):
    __slots__ = ("view", "offset", "shape", "strides", "dtype")

    def __init__(self, view: Any, offset: Any, shape: Any, strides: Any, *rest: object) -> None:
        if not isinstance(view, View) or not all(isinstance(counts, (list, tuple)) for counts in (shape, strides)):
            raise TransferError("a tensor that is not built from a storage, a shape and strides")
        if len(shape) != len(strides) or len(shape) > MAX_AXES:
            raise TransferError(f"a tensor of {len(shape)} sizes and {len(strides)} strides")
        # copies: a pickle may change a list after it was looked at
        self.shape, self.strides = tuple(shape), tuple(strides)
        if not all(isinstance(n, int) and n >= 0 for n in (offset, *self.shape, *self.strides)):
            raise TransferError("a tensor with a negative or fractional offset, size or stride")
        self.view, self.offset = view, offset
        self.dtype: np.dtype | None = None

    @classmethod
    def of_bits(cls, view: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Pending:
        """Of `_rebuild_tensor_v2`, where `rest` is requires_grad, backward_hooks[, what is to be done to the bits]."""
        return StandIn(LAZY) if len(rest) > 2 and rest[2] else cls(view, offset, shape, strides)

    @classmethod
    def with_dtype(cls, view: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Pending:
        """Of `_rebuild_tensor_v3`, where `rest` is requires_grad, backward_hooks, dtype[, metadata]."""
        if len(rest) > 2 and isinstance(rest[2], StandIn):
            return rest[2]  # of a type that is not known
        if len(rest) < 3 or not isinstance(rest[2], _Dtype):
            raise TransferError("a tensor without a torch.dtype")
        if len(rest) > 3 and rest[3]:
            return StandIn(LAZY)
        tensor = cls(view, offset, shape, strides)
        tensor.dtype = rest[2].dtype
        return tensor

    def value(self) -> np.ndarray:
        """The tensor as a read-only array over the bytes of its storage, with whatever strides it was saved with."""
        elements = self.view.storage.elements
        if elements is None:
            raise TransferError("a tensor whose storage is not in the file")
        if self.dtype is not None:
            elements = elements.view(self.dtype)
        if 0 in self.shape:
            return np.empty(self.shape, elements.dtype)
        first = self.view.start + self.offset
        last = first + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if last >= elements.size:
            raise TransferError("a tensor that reaches beyond its storage")
        if math.prod(self.shape) > max(elements.size, MOST_REPEATED):
            raise TransferError(
                f"a tensor of shape {self.shape}, which repeats the {elements.size} numbers of its storage"
            )
        steps = [step * elements.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(elements[first:], self.shape, steps, writeable=False)


def _of_type(rebuild: object, kind: object, arguments: object, state: object) -> object:
    """A tensor with attributes, which are left out; of a class that is not PyTorch's own, that class."""
    if isinstance(kind, StandIn) and kind.name not in OWN_CLASSES:
        return kind
    if isinstance(rebuild, StandIn):
        return rebuild
    if rebuild not in REBUILDS.values() or not isinstance(arguments, tuple):
        raise TransferError("a tensor that is not built from a storage, a shape and strides")
    return rebuild(*arguments)  # type: ignore[operator]


class _Dtype(_Sealed):
    __slots__ = ("dtype",)

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype


class StorageType(Constructor):
    """A storage class; files name it inside persistent ids and never call it."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype

    def __call__(self, *arguments: object) -> object:
        """Refuses: a file refers to storages, and never makes one."""
        raise TransferError("a storage that is made, not referred to")


def _plain_tuple(values: object = ()) -> tuple:
    if not isinstance(values, (list, tuple)):
        raise TransferError(f"a torch.Size made from {printable(values)}")
    return tuple(values)


def _device(*names: object) -> str:
    if not all(isinstance(name, (str, int)) for name in names):
        raise TransferError("a torch.device that is neither a name nor a number")
    return ":".join(map(str, names))


def _numpy_dtype(*arguments: object) -> Pending:
    """A dtype of NumPy; arrays of objects or dates, which may lie beside the tensors, become stand-ins by theirs."""
    try:
        return Dtype(*arguments)  # type: ignore[arg-type]
    except TransferError:
        return StandIn("numpy.ndarray of objects")


REBUILDS: Mapping[tuple[str, str], Constructor] = {
    ("torch._utils", "_rebuild_tensor"): Constructor(_Tensor),
    ("torch._utils", "_rebuild_tensor_v2"): Constructor(_Tensor.of_bits),
    ("torch._utils", "_rebuild_tensor_v3"): Constructor(_Tensor.with_dtype),
}
TORCH_CONSTRUCTORS: Mapping[tuple[str, str], Any] = {
    **ARRAY_CONSTRUCTORS,
    ("numpy", "dtype"): Constructor(_numpy_dtype),
    ("collections", "defaultdict"): Constructor(lambda *default: Ordered()),
    **REBUILDS,
    ("torch._tensor", "_rebuild_from_type_v2"): Constructor(_of_type),
    ("torch._utils", "_rebuild_parameter"): Constructor(lambda value, *rest: value),
    ("torch._utils", "_rebuild_parameter_with_state"): Constructor(lambda value, *rest: value),
    ("torch", "Size"): Constructor(_plain_tuple),
    ("torch", "device"): Constructor(_device),
    **{("torch", f"{name}Storage"): StorageType(DTYPES[dtype]) for name, dtype in STORAGES.items()},
    ("torch.storage", "UntypedStorage"): StorageType(DTYPES["uint8"]),
    ("torch", "UntypedStorage"): StorageType(DTYPES["uint8"]),
    **{("torch", name): _Dtype(dtype) for name, dtype in DTYPES.items()},
}


def resolve(pid: Any, storage_of: Callable[[str, np.dtype, int], Storage]) -> View | StandIn:
    """A persistent id `("storage", class, key, device, elements[, view])` as a view of `storage_of(key, …)`.

    `("module", class, …)`, which the older format has for each class of a whole module, is the class, a stand-in.
    """
    if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module" and isinstance(pid[1], StandIn):
        return pid[1]
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], StorageType):
        what = printable(pid[0] if isinstance(pid, tuple) and pid else pid)
        raise TransferError(f"refused: it refers to {what}, which is no storage of the file")
    kind, key, numel = pid[1], pid[2], pid[4]
    start = pid[5][1] if len(pid) > 5 and isinstance(pid[5], (list, tuple)) else 0
    if not all(isinstance(n, int) and n >= 0 for n in (numel, start)) or not isinstance(key, str):
        raise TransferError("a storage without a name, or with a size or start that is no count")
    storage = storage_of(key, kind.dtype, numel)
    if (storage.dtype, storage.numel) != (kind.dtype, numel):
        raise TransferError(f"storage {printable(key)!r} is described in two ways")
    return View(storage, start)


def read_zip(path: Path, key: str | None = None, ema: bool = False) -> Described:
    """The state dict; checksums of the zip are verified as it is read."""
    with path.open("rb") as file, archives.open_zip(file) as archive:
        if any(name.endswith(SCRIPTED) for name in archive.members):
            raise TransferError("a TorchScript archive; save torch.jit.load(FILE).state_dict() by torch.save")
        root = next(name for name in archive.members if name.endswith(f"/{PICKLE}")).removesuffix(PICKLE)
        big_endian = f"{root}byteorder" in archive and archive.read(f"{root}byteorder") == b"big"
        storages: dict[str, Storage] = {}

        def storage_of(key: str, dtype: np.dtype, numel: int) -> Storage:
            if key not in storages:
                storages[key] = storage = Storage(dtype, numel)
                size = archive.size(f"{root}data/{key}")
                if size != numel * dtype.itemsize:
                    raise TransferError(f"storage {printable(key)} has {size} bytes for {numel} elements")
                storage.fill(archive.read(f"{root}data/{key}"), big_endian)
            return storages[key]

        pickled = io.BytesIO(archive.read(f"{root}{PICKLE}"))
        loader = RestrictedUnpickler(pickled, TORCH_CONSTRUCTORS, lambda pid: resolve(pid, storage_of), stand_ins=True)
        return state_dict(resolve_pending(loader.load()), key, ema)


def read_stream(path: Path, key: str | None = None, ema: bool = False) -> Described:
    """The state dict of the older format; a file that ends early raises."""
    storages: dict[str, Storage] = {}

    def storage_of(key: str, dtype: np.dtype, numel: int) -> Storage:
        return storages.setdefault(key, Storage(dtype, numel))

    with path.open("rb") as file:
        magic = MAGICS.match(file.read(HEAD_BYTES))
        assert magic
        file.seek(magic.end())
        stream = LimitedReader(file)
        version, system = (resolve_pending(RestrictedUnpickler(stream, {}).load()) for _ in range(2))
        if version != PROTOCOL_VERSION:
            known = f"is not known, only {PROTOCOL_VERSION}"
            raise TransferError(f"protocol {printable(version)} of the older format {known}")
        if not isinstance(system, dict):
            raise TransferError("a damaged file: it does not say on which machine it was written")
        if not system.get("little_endian", True):
            raise TransferError("written on a big-endian machine, which is not supported")
        loader = RestrictedUnpickler(stream, TORCH_CONSTRUCTORS, lambda pid: resolve(pid, storage_of), stand_ins=True)
        pickled = loader.load()
        for name in resolve_pending(RestrictedUnpickler(stream, {}).load()):
            if not isinstance(name, str) or name not in storages:
                raise TransferError(f"it lists {printable(name)} as a storage, which no tensor has")
            storage, (numel,) = storages[name], COUNT.unpack(stream.read(COUNT.size))
            if numel != storage.numel:
                raise TransferError(f"a storage of {storage.numel} elements is said to have {numel}")
            storage.fill(stream.read(numel * storage.dtype.itemsize))
    return state_dict(resolve_pending(pickled), key, ema)


def state_dict(tree: object, key: str | None = None, ema: bool = False) -> Described:
    """The tensors of the state dict in a checkpoint, or of the one that is chosen."""
    tensors, assumed = choose(tree, key, ema)
    return Described(tensors, claims_in(tree), assumed=assumed)


FORMATS = (
    Format("PyTorch .pth", lambda head, members: any(name.endswith(f"/{PICKLE}") for name in members), read_zip, True),
    Format("PyTorch .pth (older format)", lambda head, members: bool(MAGICS.match(head)), read_stream, True),
)
