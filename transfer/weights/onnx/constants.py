"""Constants of an ONNX graph: initialisers, inside the file or beside it, and what is computed from them alone.

Few kinds of nodes make large arrays out of small ones. So only the operators that exporters leave among the constants
are computed at all, each after its result has been found to be small enough; and functions of a model are only inlined
where they do not multiply.
"""

import graphlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from transfer.errors import TransferError
from transfer.runtime.files.untrusted import DAMAGE_ERRORS, decompression_limit, error_summary, printable

ELEMENT_BYTES = 8
MOST_COMPUTED = 10_000
MOST_NODES = 200_000

# Operators that make no more elements than they take, and those that work on arrays element by element.
NO_MORE = (
    *("Constant", "Identity", "Cast", "CastLike", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice"),
    *("Concat", "Split", "Shape", "Size", "Neg", "Sqrt", "Reciprocal", "Exp", "Abs", "Floor", "Ceil", "Not"),
    *("ReduceSum", "ReduceMean", "ReduceProd", "ReduceMax"),
)
ELEMENTWISE = (
    *("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Equal", "Less", "Greater", "Where", "And", "Or"),
    "DequantizeLinear",
)


def _sides(array: np.ndarray) -> tuple[int, ...]:
    return tuple(int(side) for side in array.reshape(-1))


# Operator -> how many elements it makes at most, of the arrays that it takes.
SIZES: Mapping[str, Callable[..., int]] = {
    **dict.fromkeys(NO_MORE, lambda *arrays: sum(array.size for array in arrays)),
    **dict.fromkeys(ELEMENTWISE, lambda *arrays: math.prod(np.broadcast_shapes(*(array.shape for array in arrays)))),
    "Gather": lambda array, positions: positions.size * max(1, array.size),
    "Expand": lambda array, shape: math.prod(np.broadcast_shapes(array.shape, _sides(shape))),
    "ConstantOfShape": lambda shape: math.prod(_sides(shape)),
    "Tile": lambda array, repeats: array.size * math.prod(_sides(repeats)),
    "Range": lambda start, stop, step: max(0, math.ceil((stop.item() - start.item()) / step.item())),
}


def initialiser(tensor: Any, folder: Path) -> np.ndarray:
    """The array of a `TensorProto`; `folder` is where the model file lies."""
    from onnx import TensorProto, numpy_helper

    name = printable(tensor.name)
    if min(tensor.dims, default=0) < 0 or tensor.data_type == TensorProto.STRING:
        raise TransferError(f"the initialiser {name!r} is no array of numbers")
    if tensor.data_location == TensorProto.EXTERNAL:
        return _external(tensor, name, folder)
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except (*DAMAGE_ERRORS, OSError) as error:
        raise TransferError(f"the data of initialiser {name!r} are damaged ({error_summary(error)})") from error


def _external(tensor: Any, name: str, folder: Path) -> np.ndarray:
    """Raw data from a file in the model's own folder (or below it)."""
    from onnx import helper

    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    place = printable(location)
    path = folder / location
    if not location or "\0" in location or not path.resolve().is_relative_to(folder.resolve()):
        raise TransferError(f"initialiser {name!r} is said to be at {place!r}, outside the model's folder")
    if not path.is_file():
        raise TransferError(f"the weights of {name!r} are in {place}, which is not beside the file")
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    wanted = math.prod(tensor.dims) * dtype.itemsize
    offset, length = int(entries.get("offset", 0)), int(entries.get("length", wanted))
    size = path.stat().st_size
    if length != wanted or not 0 <= offset <= size - length:
        raise TransferError(
            f"{place} has {size} bytes, which do not hold initialiser {name!r} "
            f"({wanted} bytes from {offset}): damaged or truncated"
        )
    with path.open("rb") as stream:
        stream.seek(offset)
        return np.frombuffer(stream.read(length), dtype.newbyteorder("<")).reshape(tensor.dims)


class Evaluator:
    """Computes nodes of constants by ONNX's own reference implementation, as much as a file of `size` bytes may ask."""

    def __init__(self, size: int, opsets: Mapping[str, int]) -> None:
        self._size, self._opsets = size, dict(opsets)
        self._bytes_left, self._computed = decompression_limit(size), 0

    def __call__(self, node: Any, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Output -> array; TransferError where that would take too much, or cannot be done."""
        from onnx import helper
        from onnx.reference import ReferenceEvaluator

        title = f"{printable(node.op_type)} {printable(node.name)!r}"
        size = SIZES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if size is None:
            raise TransferError(f"refused: {title} of constants alone, an operator that is not computed here")
        if any(attribute.HasField("sparse_tensor") or attribute.t.data_location for attribute in node.attribute):
            raise TransferError(f"refused: {title} has numbers that are not in it")
        self._computed += 1
        try:
            self._bytes_left -= size(*(inputs[name] for name in node.input if name)) * ELEMENT_BYTES
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise TransferError(f"cannot compute the constant of {title}: its inputs do not fit together") from error
        if self._bytes_left < 0 or self._computed > MOST_COMPUTED:
            raise TransferError(f"refused: {title} makes more of {self._size} bytes than any network has")
        try:
            with np.errstate(all="ignore"):
                # a graph of one node: of a node alone the evaluator does not take the version of its operators
                values_of = helper.make_empty_tensor_value_info
                graph = helper.make_graph(
                    [node], "constants", [*map(values_of, inputs)], [*map(values_of, node.output)]
                )
                values = ReferenceEvaluator(graph, opsets=self._opsets).run(None, dict(inputs))  # type: ignore[arg-type]
            arrays = {name: np.asarray(value) for name, value in zip(node.output, values, strict=True)}
        except Exception as error:  # whatever numpy raises
            raise TransferError(f"cannot compute the constant of {title} ({error_summary(error)})") from error
        if any(array.dtype.hasobject or array.dtype.kind in "SU" for array in arrays.values()):
            raise TransferError(f"{title} makes no numbers")
        return arrays


def check_functions(model: Any) -> None:
    """Raises TransferError where inlining the functions of a model would never end, or make too many nodes."""
    bodies = {(function.domain, function.name): function.node for function in model.functions}
    calls = {key: [(node.domain, node.op_type) for node in _with_subgraphs(body)] for key, body in bodies.items()}
    order = graphlib.TopologicalSorter({key: bodies.keys() & called for key, called in calls.items()})
    counts: dict[tuple[str, str], int] = {}
    try:
        for key in order.static_order():
            counts[key] = min(sum(counts.get(function, 1) for function in calls[key]), MOST_NODES + 1)
    except graphlib.CycleError as error:
        (_, name), *_ = error.args[1]
        raise TransferError(f"refused: the function {printable(name)!r} of the ONNX model calls itself") from error
    total = sum(counts.get((node.domain, node.op_type), 1) for node in _with_subgraphs(model.graph.node))
    if total > MOST_NODES:
        raise TransferError(f"refused: an ONNX graph of {total} nodes once its functions are written out")


def _with_subgraphs(nodes: Any) -> Iterator[Any]:
    """The nodes, and those of the graphs that are attributes, of `If` and `Loop`."""
    waiting = [nodes]
    while waiting:
        for node in waiting.pop():
            yield node
            waiting += [attribute.g.node for attribute in node.attribute if attribute.HasField("g")]
            waiting += [graph.node for attribute in node.attribute for graph in attribute.graphs]
