"""`.safetensors`: eight bytes of length, a JSON header, the tensors."""

from pathlib import Path

import numpy as np

from transfer.errors import TransferError

FORMAT = ".safetensors"
MAX_HEADER_BYTES = 100_000_000


def recognises(path: Path, head: bytes) -> bool:
    """Whether a plausible header length is followed by a JSON object."""
    return len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER_BYTES


def read(path: Path) -> dict[str, np.ndarray]:
    """All tensors, bfloat16 as `ml_dtypes.bfloat16`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise TransferError(f"a damaged or truncated {FORMAT} file ({error})") from error


def metadata(path: Path) -> dict[str, str]:
    """The `__metadata__` of the header, empty if there is none or if the file is of another format."""
    with path.open("rb") as stream:
        if not recognises(path, stream.read(64)):
            return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise TransferError(f"{path}: a damaged or truncated {FORMAT} file ({error})") from error
