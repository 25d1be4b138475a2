"""A fitted head as one `.safetensors` file: its arrays, and in the metadata which head it is. No pickle.

The entry `head` of the metadata is JSON: `name` (of the registry) and `class`, `parameters`, and `fitted`, what `fit`
has set. Each value is one of `{"value": JSON}`, `{"tensor": NAME}`, `{"scalar": NAME}` (a NumPy number),
`{"text": [...], "dtype", "shape"}` (an array of strings), `{"list": [...]}`, `{"tuple": [...]}`, `{"dict": [[key,
value], ...]}` and `{"scaler": {...}}`. Bytes that have changed since are an error: the metadata hold a SHA-256
(`transfer.runtime.files.digest`).
"""

import json
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from safetensors import SafetensorError
from safetensors.numpy import load as tensors_of

from transfer import heads
from transfer.errors import TransferError, UsageError
from transfer.heads.scaling import Scaler
from transfer.runtime.files import atomic, digest
from transfer.runtime.files.untrusted import decompression_limit, error_summary, prefix_errors, printable

KEY = "head"
ENDING = ".safetensors"
_PLAIN = (bool, int, float, str, type(None))


def save(head: Any, path: str | os.PathLike) -> None:
    """Writes a fitted head to `path`, which ends in `.safetensors`, local or `gs://`; whole or not at all.

    Raises UsageError where it is not fitted, is no file of `transfer.heads`, or holds what is no number and no text.
    """
    if not str(path).endswith(ENDING):
        raise UsageError(f"{path}: a head is written to a file that ends in {ENDING}")
    package, _, module = type(head).__module__.rpartition(".")
    name = module.removesuffix("_probe")
    if package != heads.__name__ or name == module or name not in heads.HEADS:
        raise UsageError(
            f"{type(head).__name__} is not of a file NAME_probe.py in transfer/heads, so nobody could load it again"
        )
    fitted = {key: value for key, value in vars(head).items() if _is_fitted(key)}
    if not fitted:
        raise UsageError(f"this {type(head).__name__} is not fitted yet; there is nothing to save")
    write(path, name, type(head).__name__, head.get_params(deep=False), fitted)


def write(
    path: str | os.PathLike, name: str, of_class: str, parameters: Mapping[str, Any], fitted: Mapping[str, Any]
) -> None:
    """Writes what `save` would of such a head without making one: training does without importing scikit-learn."""
    tensors: dict[str, np.ndarray] = {}
    encoded = {"parameters": _encoded(parameters, "parameters", tensors), "fitted": _encoded(fitted, "", tensors)}
    described = {"name": name, "class": of_class, **encoded}
    with atomic.writing(path) as stream:
        for piece in digest.safetensors(tensors, {"format": "transfer", KEY: json.dumps(described)}):
            stream.write(piece)


def load(path: str | os.PathLike) -> Any:
    """The head that `save` wrote, with the same predictions, bit for bit.

    Raises TransferError where there is no such file, it is damaged, of another kind, or of a head that is not here.
    """
    with prefix_errors(path):
        tensors, metadata = _read(path)
        if KEY not in metadata:
            raise TransferError("this is no file of a head, which `save` of a head writes")
        try:
            return _restored(json.loads(metadata[KEY]), tensors)
        except TransferError:
            raise
        except Exception as error:  # whatever a file that has been made up can lead to
            raise TransferError(f"it describes a head that cannot be made ({error_summary(error)})") from error


def _is_fitted(attribute: str) -> bool:
    return attribute.endswith("_") and not attribute.startswith("_")


def _read(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        content = epath.Path(path).read_bytes()
        tensors = tensors_of(content)
        length = int.from_bytes(content[: digest.LENGTH_BYTES], "little")
        header = json.loads(content[digest.LENGTH_BYTES : digest.LENGTH_BYTES + length])
        metadata = header.get("__metadata__") or {}
    except OSError as error:
        raise TransferError(f"cannot be read ({error.strerror or error})") from error
    except (SafetensorError, ValueError, KeyError, AttributeError) as error:
        raise TransferError(f"a damaged or truncated {ENDING} file ({error_summary(error)})") from error
    digest.check_tensors(tensors, metadata)
    return tensors, metadata


def _restored(described: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Any:
    name, class_name = described["name"], described["class"]
    if name not in heads.HEADS or class_name not in (heads.camel(name) + end for end in ("Probe", "Regressor")):
        raise TransferError(f"it is of a head that is not here: {printable(name)}, {printable(class_name)}")
    head = getattr(heads.module_of(name), class_name)(**_decoded(described["parameters"], tensors))
    for key, value in _decoded(described["fitted"], tensors).items():
        if not _is_fitted(key) or hasattr(type(head), key):
            raise TransferError(f"{printable(key)} is nothing that a fit sets")
        setattr(head, key, value)
    return head


def _encoded(value: Any, key: str, tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """How a value is written; arrays of numbers go to `tensors`, named by `key`."""

    def inside(name: Any, part: Any) -> dict[str, Any]:
        return _encoded(part, f"{key}.{name}" if key else str(name), tensors)

    if isinstance(value, _PLAIN):
        return {"value": value}
    if isinstance(value, Scaler):
        return {"scaler": inside("scaler", {field: getattr(value, field) for field in ("name", "mean", "factors")})}
    if isinstance(value, Mapping):
        return {"dict": [[inside("key", name), inside(name, part)] for name, part in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [inside(number, part) for number, part in enumerate(value)]}
    if not isinstance(value, np.ndarray | np.generic | jax.Array):
        kind = type(value).__name__
        raise UsageError(f"{key} holds a {kind}, which is no number, no text and no array; it is not saved")
    array = np.asarray(value)
    if array.dtype.kind in "UO" and all(isinstance(text, str) for text in array.ravel().tolist()):
        return {"text": array.ravel().tolist(), "dtype": array.dtype.str, "shape": list(array.shape)}
    if array.dtype.kind not in "biuf":
        raise UsageError(f"{key} is an array of {array.dtype}, not of numbers or text; it is not saved")
    tensors[key] = np.ascontiguousarray(array).reshape(array.shape)
    return {"scalar" if isinstance(value, np.generic) else "tensor": key}


def _decoded(written: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Any:
    """The value that `_encoded` described."""

    def each(parts: list[Any]) -> list[Any]:
        return [_decoded(part, tensors) for part in parts]

    decoders: dict[str, Callable[[Any], Any]] = {
        "value": lambda content: content if isinstance(content, _PLAIN) else None,
        "tensor": lambda content: tensors[content],
        "scalar": lambda content: tensors[content][()],
        "text": lambda content: _text(content, written["dtype"], written["shape"]),
        "list": each,
        "tuple": lambda content: tuple(each(content)),
        "dict": lambda content: {_decoded(key, tensors): _decoded(part, tensors) for key, part in content},
        "scaler": lambda content: Scaler(**_decoded(content, tensors)),
    }
    return decoders[next(iter(written))](next(iter(written.values())))


def _text(content: list[str], dtype: str, shape: list[int]) -> np.ndarray:
    if np.dtype(dtype).kind not in "UO" or math.prod(shape) != len(content):
        raise TransferError("an array of text is not as it says")
    if 4 * len(content) * max(map(len, content), default=0) > decompression_limit(sum(map(len, content))):
        raise TransferError("an array of text would take more memory than its words are worth")
    return np.array(content, object).reshape(shape).astype(object if np.dtype(dtype).kind == "O" else "U")
