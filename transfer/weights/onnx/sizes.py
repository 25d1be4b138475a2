"""How much an ONNX graph may compute from its constants: few kinds of nodes make large arrays out of small ones.

Only the operators that exporters leave among the constants are computed at all, each after its result has been found
to be small enough; and functions of a model are only inlined where they do not multiply.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from transfer.errors import TransferError
from transfer.runtime.files.untrusted import decompression_limit, printable

Arrays = Sequence[np.ndarray]
ELEMENT_BYTES = 8
MOST_COMPUTED = 10_000
MOST_NODES = 200_000


def _inputs(node: Any, arrays: Arrays) -> int:
    return sum(array.size for array in arrays)


def _broadcast(node: Any, arrays: Arrays) -> int:
    return math.prod(np.broadcast_shapes(*(array.shape for array in arrays)))


def _expand(node: Any, arrays: Arrays) -> int:
    return math.prod(np.broadcast_shapes(arrays[0].shape, _whole(arrays[1])))


def _shaped(node: Any, arrays: Arrays) -> int:
    return math.prod(_whole(arrays[0]))


def _tile(node: Any, arrays: Arrays) -> int:
    return arrays[0].size * math.prod(_whole(arrays[1]))


def _range(node: Any, arrays: Arrays) -> int:
    start, stop, step = (float(array.reshape(())) for array in arrays)
    return max(0, math.ceil((stop - start) / step))


def _gather(node: Any, arrays: Arrays) -> int:
    return arrays[1].size * max(1, arrays[0].size)


def _whole(array: np.ndarray) -> tuple[int, ...]:
    return tuple(int(each) for each in array.reshape(-1))


# Operators that make no more elements than they take, and those that work on two arrays element by element.
SAME = (
    *("Constant", "Identity", "Cast", "CastLike", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice"),
    *("Concat", "Split", "Shape", "Size", "Neg", "Sqrt", "Reciprocal", "Exp", "Abs", "Floor", "Ceil", "Not"),
    *("ReduceSum", "ReduceMean", "ReduceProd", "ReduceMax"),
)
BY_ELEMENT = (
    *("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Equal", "Less", "Greater", "Where", "And", "Or"),
    "DequantizeLinear",
)
Size = Callable[[Any, Arrays], int]
# Operator -> how many elements it makes at most.
SIZES: Mapping[str, Size] = {
    **dict.fromkeys(SAME, _inputs),
    **dict.fromkeys(BY_ELEMENT, _broadcast),
    "Gather": _gather,
    "Expand": _expand,
    "ConstantOfShape": _shaped,
    "Tile": _tile,
    "Range": _range,
}


class Budget:
    """What the constants of one file, of `size` bytes, may take together."""

    def __init__(self, size: int) -> None:
        self._left, self._size, self._computed = decompression_limit(size), size, 0

    def take(self, node: Any, arrays: Arrays) -> None:
        """Raises TransferError unless the result of `node` may still be computed."""
        title = f"{printable(node.op_type)} {printable(node.name)!r}"
        size = SIZES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if size is None:
            raise TransferError(f"refused: {title} of constants alone, an operator that is not computed here")
        if any(each.HasField("sparse_tensor") or each.t.data_location for each in node.attribute):
            raise TransferError(f"refused: {title} has numbers that are not in it")
        self._computed += 1
        try:
            self._left -= size(node, arrays) * ELEMENT_BYTES
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise TransferError(f"cannot compute the constant of {title}: its inputs do not fit together") from error
        if self._left < 0 or self._computed > MOST_COMPUTED:
            raise TransferError(f"refused: {title} makes more of {self._size} bytes than any network has")


def check_functions(model: Any) -> None:
    """Raises TransferError where inlining the functions of a model would never end, or make too many nodes."""
    bodies = {(function.domain, function.name): function.node for function in model.functions}
    counts: dict[tuple[str, str], int] = {}
    stack: list[tuple[str, str]] = list(bodies)
    opened: set[tuple[str, str]] = set()
    while stack:
        key = stack[-1]
        called = [(node.domain, node.op_type) for node in _nodes(bodies[key])]
        missing = [each for each in called if each in bodies and each not in counts]
        if key in counts or not missing:
            counts[key] = min(sum(counts.get(each, 1) for each in called), MOST_NODES + 1)
            opened.discard(stack.pop())
            continue
        if opened.intersection(missing) or key in missing:
            raise TransferError(f"refused: the function {printable(key[1])!r} of the ONNX model calls itself")
        opened.add(key)
        stack += missing
    total = sum(counts.get((node.domain, node.op_type), 1) for node in _nodes(model.graph.node))
    if total > MOST_NODES:
        raise TransferError(f"refused: an ONNX graph of {total} nodes once its functions are written out")


def _nodes(nodes: Any) -> Iterator[Any]:
    """With those of the graphs that are attributes, of `If` and `Loop`."""
    waiting = [nodes]
    while waiting:
        for node in waiting.pop():
            yield node
            waiting += [each.g.node for each in node.attribute if each.HasField("g")]
            waiting += [graph.node for each in node.attribute for graph in each.graphs]
