"""PyTorch's `.pth` before 1.6 (`_use_new_zipfile_serialization=False`): pickles one after another, then storages.

A magic number, a protocol version and the writer's system, each a pickle of its own; the state dict; the list of
storage keys; and for each key in turn its number of elements (int64) and its bytes.
"""

import struct
from pathlib import Path

import numpy as np

from transfer.errors import TransferError
from transfer.runtime.files.unpickler import RestrictedUnpickler, resolve_pending
from transfer.runtime.files.untrusted import LimitedReader, printable
from transfer.weights.readers._described import Described
from transfer.weights.readers._torch import TORCH_CONSTRUCTORS, Storage, resolve, state_dict

FORMAT = "PyTorch .pth (older format)"
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
# PROTO 2, LONG1 of ten bytes, the magic number, STOP
MAGIC = b"\x80\x02\x8a\x0a" + MAGIC_NUMBER.to_bytes(10, "little") + b"."
COUNT = struct.Struct("<q")


def recognises(path: Path, head: bytes) -> bool:
    """Whether the file starts with the pickled magic number."""
    return head.startswith(MAGIC)


def read(path: Path) -> Described:
    """The state dict; a file that ends early raises."""
    storages: dict[str, Storage] = {}

    def storage_of(key: str, dtype: np.dtype, numel: int) -> Storage:
        return storages.setdefault(key, Storage(dtype, numel))

    with path.open("rb") as file:
        file.seek(len(MAGIC))
        stream = LimitedReader(file)
        version, system = (resolve_pending(RestrictedUnpickler(stream, {}).load()) for _ in range(2))
        if version != PROTOCOL_VERSION:
            raise TransferError(
                f"protocol {printable(version)} of the older format is not known, only {PROTOCOL_VERSION}"
            )
        if not isinstance(system, dict):
            raise TransferError("a damaged file: it does not say on which machine it was written")
        if not system.get("little_endian", True):
            raise TransferError("written on a big-endian machine, which is not supported")
        pickled = RestrictedUnpickler(stream, TORCH_CONSTRUCTORS, lambda pid: resolve(pid, storage_of)).load()
        for key in resolve_pending(RestrictedUnpickler(stream, {}).load()):
            if not isinstance(key, str) or key not in storages:
                raise TransferError(f"it lists {printable(key)} as a storage, which no tensor has")
            _fill(storages[key], stream)
    return state_dict(resolve_pending(pickled))


def _fill(storage: Storage, stream: LimitedReader) -> None:
    (numel,) = COUNT.unpack(stream.read(COUNT.size))
    if numel != storage.numel:
        raise TransferError(f"a storage of {storage.numel} elements is said to have {numel}")
    storage.fill(stream.read(numel * storage.dtype.itemsize))
