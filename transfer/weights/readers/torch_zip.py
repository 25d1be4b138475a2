"""PyTorch's `.pth` since 1.6: a zip with the pickle `NAME/data.pkl` and one member a storage, `NAME/data/KEY`."""

import io
from pathlib import Path

import numpy as np

from transfer.errors import TransferError
from transfer.runtime.files.unpickler import RestrictedUnpickler, resolve_pending
from transfer.runtime.files.untrusted import printable
from transfer.weights.readers._archive import members, opened
from transfer.weights.readers._described import Described
from transfer.weights.readers._torch import TORCH_CONSTRUCTORS, Storage, resolve, state_dict

FORMAT = "PyTorch .pth"
PICKLE = "data.pkl"


def recognises(path: Path, head: bytes) -> bool:
    """Whether the zip has a pickle where `torch.save` puts it."""
    return any(name.endswith(f"/{PICKLE}") for name in members(path, head))


def read(path: Path) -> Described:
    """The state dict; checksums of the zip are verified as it is read."""
    with opened(path) as archive:
        root = next(n for n in archive.members if n.endswith(f"/{PICKLE}")).removesuffix(PICKLE)
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
        loader = RestrictedUnpickler(pickled, TORCH_CONSTRUCTORS, lambda pid: resolve(pid, storage_of))
        return state_dict(resolve_pending(loader.load()))
