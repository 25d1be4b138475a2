"""Constants of an ONNX graph: initialisers, inside the file or beside it, and what is computed from them alone."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from transfer.errors import TransferError
from transfer.runtime.files.untrusted import DAMAGE_ERRORS, error_summary, printable
from transfer.weights.onnx.sizes import Budget


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
        name = printable(tensor.name)
        if min(tensor.dims, default=0) < 0 or tensor.data_type == TensorProto.STRING:
            raise TransferError(f"the initialiser {name!r} is no array of numbers")
        try:
            return np.asarray(numpy_helper.to_array(tensor))
        except (*DAMAGE_ERRORS, OSError) as error:
            raise TransferError(f"the data of initialiser {name!r} are damaged ({error_summary(error)})") from error

    return Constant(inside)


def _external(tensor: Any, folder: Path) -> np.ndarray:
    """Raw data from a file in the model's own folder (or below it)."""
    from onnx import helper

    entries = {entry.key: entry.value for entry in tensor.external_data}
    location, name = entries.get("location", ""), printable(tensor.name)
    path = folder / location
    if not location or "\0" in location or not path.resolve().is_relative_to(folder.resolve()):
        raise TransferError(
            f"initialiser {name!r} is said to be at {printable(location)!r}, outside the model's folder"
        )
    if not path.is_file():
        raise TransferError(f"the weights of {name!r} are in {printable(location)}, which is not beside the file")
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    shape = tuple(tensor.dims)
    if min(shape, default=0) < 0 or dtype.hasobject:
        raise TransferError(f"the initialiser {name!r} is no array of numbers")
    wanted = math.prod(shape) * dtype.itemsize
    offset, length = int(entries.get("offset", 0)), int(entries.get("length", wanted))
    size = path.stat().st_size
    if length != wanted or not 0 <= offset <= size - length:
        raise TransferError(
            f"{printable(location)} has {size} bytes, which do not hold initialiser {name!r} "
            f"({wanted} bytes from {offset}): damaged or truncated"
        )
    with path.open("rb") as stream:
        stream.seek(offset)
        return np.frombuffer(stream.read(length), dtype.newbyteorder("<")).reshape(shape)


def computed(
    node: Any, inputs: Mapping[str, Constant], output: str, opsets: Mapping[str, int], budget: Budget
) -> Constant:
    """An output of a node whose inputs are all constants, by ONNX's own reference implementation."""

    def compute() -> np.ndarray:
        from onnx.reference import ReferenceEvaluator

        arrays = {name: constant.array() for name, constant in inputs.items()}
        budget.take(node, [arrays[name] for name in node.input if name])
        try:
            with np.errstate(all="ignore"):
                values: Any = ReferenceEvaluator(node, opsets=dict(opsets)).run(None, arrays)  # type: ignore[arg-type]
            value = np.asarray(values[list(node.output).index(output)])
        except Exception as error:  # whatever numpy raises
            what = f"{printable(node.op_type)} {printable(node.name)!r}"
            raise TransferError(f"cannot compute the constant of {what} ({error_summary(error)})") from error
        if value.dtype.hasobject or value.dtype.kind in "SU":
            raise TransferError(f"{printable(node.op_type)} {printable(node.name)!r} makes no numbers")
        return value

    return Constant(compute)
