"""What features depend on: a hash of the model's structure, and one of its parameters."""

import hashlib
from collections.abc import Iterator

import numpy as np
from flax import nnx

from transfer.models.registry import flat_state

# Attributes of Flax's own layers that change what they compute; the rest comes and goes with Flax's versions.
_LAYER_SETTINGS = ("strides", "padding", "kernel_dilation", "feature_group_count", "epsilon")
# Where the parameters came from does not change what they compute.
_ORIGIN = ("record", "weights_sha256", "preprocessing", "renewed")
_SCALAR = (bool, int, float, str, type(None))
HASH_LENGTH = 16


def parameters_hash(model: nnx.Module) -> str:
    """SHA-256 over the names, shapes, types and bytes of all parameters and batch statistics, hexadecimal."""
    digest = hashlib.sha256()
    for name, value in sorted(flat_state(model).items()):
        array = np.ascontiguousarray(value)
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.view(np.uint8).data if array.size else b"")
    return digest.hexdigest()


def structure_hash(model: nnx.Module) -> str:
    """A short hash of what no parameter shows: strides, padding, epsilons and the other fields of the layers."""
    lines = sorted(_structure(model))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:HASH_LENGTH]


def _structure(model: nnx.Module) -> Iterator[str]:
    for path, module in nnx.iter_modules(model):
        kind = type(module)
        own = kind.__module__.partition(".")[0] != "flax"
        name = ".".join(map(str, path))
        yield f"{name} {kind.__name__}"
        for key, value in vars(module).items():
            if key.startswith("_") or key in _ORIGIN or not (own or key in _LAYER_SETTINGS):
                continue
            if _plain(value):
                yield f"{name}.{key}={value!r}"


def _plain(value: object) -> bool:
    return isinstance(value, _SCALAR) or (isinstance(value, (tuple, list)) and all(map(_plain, value)))
