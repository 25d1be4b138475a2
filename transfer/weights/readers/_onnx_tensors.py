"""Constants of an ONNX graph: initialisers, inside the file or beside it, and what is computed from them alone."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from transfer.errors import TransferError


class Constant:
    """A value that does not depend on the images; computed when asked for, once."""

    def __init__(self, compute: Callable[[], np.ndarray]) -> None:
        self._compute: Callable[[], np.ndarray] | None = compute
        self._value: np.ndarray | None = None

    def array(self) -> np.ndarray:
        """The value, in the file's dtype."""
        if self._compute is not None:
            self._value, self._compute = self._compute(), None
        assert self._value is not None
        return self._value


def initialiser(tensor: Any, folder: Path) -> Constant:
    """The constant of a `TensorProto`; `folder` is where the model file lies."""
    from onnx import TensorProto, numpy_helper

    if tensor.data_location == TensorProto.EXTERNAL:
        return Constant(lambda: _external(tensor, folder))

    def inside() -> np.ndarray:
        try:
            return np.asarray(numpy_helper.to_array(tensor))
        except (ValueError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise TransferError(f"the data of initialiser {tensor.name!r} are damaged ({reason})") from error

    return Constant(inside)


def _external(tensor: Any, folder: Path) -> np.ndarray:
    """Raw data from a file in the model's own folder (or below it)."""
    from onnx import helper

    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    path = folder / location
    if not location or not path.resolve().is_relative_to(folder.resolve()):
        raise TransferError(f"initialiser {tensor.name!r} is said to be at {location!r}, outside the model's folder")
    if not path.is_file():
        raise TransferError(f"the weights of {tensor.name!r} are in {location}, which is not beside the file")
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    shape = tuple(tensor.dims)
    wanted = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    offset, length = int(entries.get("offset", 0)), int(entries.get("length", wanted))
    size = path.stat().st_size
    if length != wanted or not 0 <= offset <= size - length:
        raise TransferError(
            f"{location} has {size} bytes, which do not hold initialiser {tensor.name!r} "
            f"({wanted} bytes from {offset}): damaged or truncated"
        )
    with path.open("rb") as stream:
        stream.seek(offset)
        return np.frombuffer(stream.read(length), dtype.newbyteorder("<")).reshape(shape)


def computed(node: Any, inputs: Mapping[str, Constant], output: str, opsets: Mapping[str, int]) -> Constant:
    """An output of a node whose inputs are all constants, by ONNX's own reference implementation."""

    def compute() -> np.ndarray:
        from onnx.reference import ReferenceEvaluator

        arrays = {name: constant.array() for name, constant in inputs.items()}
        try:
            values: Any = ReferenceEvaluator(node, opsets=dict(opsets)).run(None, arrays)  # type: ignore[arg-type]
        except TransferError:
            raise
        except Exception as error:  # whatever numpy raises
            reason = " ".join(str(error).split())
            raise TransferError(f"cannot compute the constant of {node.op_type} {node.name!r} ({reason})") from error
        return np.asarray(values[list(node.output).index(output)])

    return Constant(compute)
