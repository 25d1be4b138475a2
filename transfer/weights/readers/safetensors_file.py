"""`.safetensors`: eight bytes of length, a JSON header, the tensors."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from transfer.errors import TransferError
from transfer.runtime.files import digest
from transfer.weights.readers import HEAD_BYTES, Format
from transfer.weights.readers._described import Described, claims_in

FORMAT = ".safetensors"
LENGTH_BYTES = 8
# How a JSON object starts: its first key, white space, or its end.
JSON_STARTS = (b'{"', b"{ ", b"{\n", b"{}")


def recognises(head: bytes, members: Collection[str] = ()) -> bool:
    """Whether eight bytes are followed by a JSON object; whether they are its length is for `read` to say."""
    return head[LENGTH_BYTES : LENGTH_BYTES + 2] in JSON_STARTS


def read(path: Path) -> Described:
    """All tensors, bfloat16 as `ml_dtypes.bfloat16`; a file of ours must have the digest that is in its metadata."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(LENGTH_BYTES), "little")
    if length > path.stat().st_size - LENGTH_BYTES:
        raise TransferError(
            f"a damaged or truncated {FORMAT} file (a header of {length} bytes in a file of {path.stat().st_size})"
        )
    try:
        with safe_open(path, "numpy") as file:
            tensors = {name: _tensor(file, name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
            digest.check_tensors(tensors, metadata)
            return Described(tensors, claims_in(metadata))
    except SafetensorError as error:
        raise TransferError(f"a damaged or truncated {FORMAT} file ({error})") from error


def _tensor(file: Any, name: str) -> np.ndarray:
    try:
        return file.get_tensor(name)
    except AttributeError as error:  # safetensors looks 8-bit and smaller floats up in numpy
        kind = file.get_slice(name).get_dtype()
        raise TransferError(f"{name} is of type {kind}, which is not supported; save it as F16, BF16 or F32") from error


def metadata(path: Path) -> dict[str, str]:
    """The `__metadata__` of the header, empty if there is none or if the file is of another format."""
    with path.open("rb") as stream:
        if not recognises(stream.read(HEAD_BYTES)):
            return {}
    try:
        with safe_open(path, "numpy") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise TransferError(f"{path}: a damaged or truncated {FORMAT} file ({error})") from error


FORMATS = (Format(FORMAT, recognises, read),)
