"""Our own weight files: `.safetensors` with dotted paths, and in the metadata which model they are of."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from transfer.errors import TransferError
from transfer.models import registry
from transfer.preprocess.recipe import Preprocessing
from transfer.runtime.files import atomic, digest
from transfer.runtime.files.untrusted import error_summary
from transfer.weights.readers import safetensors_file

FORMAT = "transfer"
FIELDS_KEY = "fields"
PREPROCESSING_KEY = "preprocessing"
CLASSES_KEY = "class_names"


def write(path: str | os.PathLike[str], arrays: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Writes `arrays` (dotted path -> array, `registry.flat_state`) atomically; nothing is left after a failure.

    `digest` adds a SHA-256 of everything to the `metadata`, which is checked on reading.

    Raises:
      OSError: naming `path`, where the disk is full or the folder is not writable.
    """
    plain = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    # not save_file of safetensors, whose errors are none of Python's own
    with atomic.writing(path, shared=True) as stream:
        for piece in digest.safetensors(plain, metadata or {}):
            stream.write(piece)


def describe(
    arch: str, fields: Mapping[str, Any], preprocessing: Preprocessing | None = None, **more: str
) -> dict[str, str]:
    """The metadata of a file for `arch` built with `fields`, whose input is made by `preprocessing` (if known)."""
    recipe = {} if preprocessing is None else {PREPROCESSING_KEY: json.dumps(asdict(preprocessing))}
    return {"format": FORMAT, "arch": arch, FIELDS_KEY: json.dumps(dict(fields)), **recipe, **more}


def architecture(path: str | os.PathLike[str]) -> str:
    """The architecture that a native file is of; empty for any other file, and for none."""
    return safetensors_file.metadata(Path(path)).get("arch", "") if os.path.isfile(path) else ""


def fields(path: str | os.PathLike[str], arch: str) -> dict[str, Any]:
    """The architecture's fields that a native file was written with; empty for any other file or architecture.

    Raises TransferError where `arch` cannot be built with what the metadata hold.
    """
    metadata = safetensors_file.metadata(Path(path))
    if metadata.get("arch") != arch or FIELDS_KEY not in metadata:
        return {}
    try:
        values = json.loads(metadata[FIELDS_KEY])
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        registry.build(arch, seed=None, **values)
    except Exception as error:  # whatever an architecture raises for values that make no sense
        text = f"its metadata hold fields that {arch} cannot be built with ({error_summary(error)})"
        raise TransferError(f"{path}: {text}") from error
    return values


def preprocessing(path: str | os.PathLike[str]) -> Preprocessing | None:
    """The preprocessing that a native file was written with; None for one without, and for any other file.

    Raises TransferError where the file's metadata hold one that this version cannot read.
    """
    text = safetensors_file.metadata(Path(path)).get(PREPROCESSING_KEY)
    if text is None:
        return None
    try:
        return Preprocessing(**json.loads(text))
    except (TypeError, ValueError, TransferError) as error:
        raise TransferError(f"{path}: its metadata hold a preprocessing that cannot be read ({error})") from error
