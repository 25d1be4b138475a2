"""A SHA-256 inside the files that we write, so that a flipped bit is an error and never a number.

`.safetensors`: the entry `transfer_sha256` of the metadata, over the other metadata and the tensors. Pickles: a second,
small pickle after the first, the text `transfer_sha256 HEX` of every byte before it; whoever reads the first pickle
never gets to it. (`.npz` is a zip, whose members have a CRC-32 of their own.) Other programs' files have neither and
are read as they are, unless `FILE.sha256` lies beside them, as `sha256sum FILE > FILE.sha256` writes it.
"""

import hashlib
import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors.numpy import save

from transfer.errors import TransferError

KEY = "transfer_sha256"
BLOCK = 1 << 22
# A `.safetensors` file begins with the length of its header in so many bytes; tensors begin at a multiple of them.
LENGTH_BYTES = ALIGNMENT = 8
# As the pickle before it: Python 3.4 and newer read it.
PROTOCOL = 4
_HEX = hashlib.sha256().digest_size * 2


def tensors_digest(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """SHA-256 as hex of names, dtypes, shapes and bytes of `tensors`, and of `metadata` without its digest."""
    entries = sorted((key, value) for key, value in metadata.items() if key != KEY)
    digest = hashlib.sha256(json.dumps(entries).encode())
    for name in sorted(tensors):
        array = np.asarray(tensors[name])
        digest.update(json.dumps([name, array.dtype.name, array.shape]).encode())
        digest.update(np.ascontiguousarray(array.reshape(-1)).view(np.uint8).data)
    return digest.hexdigest()


def safetensors(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> tuple[bytes, memoryview]:
    """A `.safetensors` file of `tensors` (C-contiguous) with its digest, in two pieces; the same bytes each time.

    The library's own order of the metadata differs from call to call.
    """
    signed = {**metadata, KEY: tensors_digest(tensors, metadata)}
    content = save(dict(tensors), metadata=signed)
    length = int.from_bytes(content[:LENGTH_BYTES], "little")
    header = json.loads(content[LENGTH_BYTES : LENGTH_BYTES + length])
    header["__metadata__"] = dict(sorted(signed.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text, memoryview(content)[LENGTH_BYTES + length :]


def check_tensors(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Raises TransferError unless the tensors and metadata have the digest in `metadata`, if there is one."""
    expected = metadata.get(KEY)
    if expected is not None and tensors_digest(tensors, metadata) != expected:
        raise TransferError("damaged: its contents do not have the SHA-256 that they were written with")


def check_sidecar(path: Path, sha256: str) -> None:
    """Raises TransferError where `PATH.sha256` is there and says another SHA-256 than the file's own."""
    sidecar = path.with_name(path.name + ".sha256")
    if not sidecar.is_file():
        return
    words = sidecar.read_bytes()[:BLOCK].decode("utf-8", "replace").split()
    if not words or words[0].lower() != sha256:
        raise TransferError(f"{path}: damaged, or another file: its SHA-256 is {sha256}, not the one in {sidecar}")


class DigestWriter:
    """A stream that passes one pickle on to `stream`; `seal()` appends the digest of all of it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._digest = stream, hashlib.sha256()

    def write(self, data: Any) -> int:
        """Writes all of `data`, bytes or a buffer."""
        self._digest.update(data)
        return self._stream.write(data)

    def seal(self) -> None:
        """Writes the second pickle, which holds the digest."""
        self._stream.write(_seal(self._digest.hexdigest()))


def _seal(digest: str) -> bytes:
    return pickle.dumps(f"{KEY} {digest}", protocol=PROTOCOL)


_BEFORE, _, _AFTER = _seal("?" * _HEX).partition(b"?" * _HEX)
_LENGTH = len(_seal("?" * _HEX))


def check_pickle(stream: IO[bytes]) -> None:
    """Raises TransferError unless a seekable file that ends in our seal has that SHA-256; goes back to its start."""
    stream.seek(0, io.SEEK_END)
    size = stream.tell()
    stream.seek(max(size - _LENGTH, 0))
    seal = stream.read(_LENGTH)
    stream.seek(0)
    if size < _LENGTH or not (seal.startswith(_BEFORE) and seal.endswith(_AFTER)):
        return
    digest, left = hashlib.sha256(), size - _LENGTH
    while left and (block := stream.read(min(left, BLOCK))):
        digest.update(block)
        left -= len(block)
    stream.seek(0)
    if _seal(digest.hexdigest()) != seal:
        raise TransferError("damaged: its contents do not have the SHA-256 that they were written with")
