"""Our own weight files: `.safetensors` with dotted paths, and in the metadata which model they are of."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from transfer.weights.readers import safetensors_file

FIELDS_KEY = "fields"


def write(path: str | os.PathLike[str], arrays: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Writes `arrays` (dotted path -> array, `registry.flat_state`) atomically; nothing is left after a failure.

    Args:
      path: the file to make or replace, in a folder that exists.
      arrays: NumPy or JAX arrays.
      metadata: strings for the header.

    Raises:
      OSError: naming `path`, where the disk is full or the folder is not writable.
    """
    from safetensors.numpy import save

    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        plain = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
        # not save_file, whose errors are none of Python's own
        part.write_bytes(save(plain, metadata=dict(metadata or {})))
        part.chmod(0o644)
        os.replace(part, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        part.unlink(missing_ok=True)


def describe(arch: str, fields: Mapping[str, Any], **more: str) -> dict[str, str]:
    """The metadata of a file for `arch` built with `fields`."""
    return {"format": "transfer", "arch": arch, FIELDS_KEY: json.dumps(dict(fields)), **more}


def fields(path: str | os.PathLike[str], arch: str) -> dict[str, Any]:
    """The architecture's fields that a native file was written with; empty for any other file or architecture."""
    found = safetensors_file.metadata(Path(path))
    if found.get("arch") != arch:
        return {}
    values = json.loads(found.get(FIELDS_KEY, "{}"))
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
