"""How much of the image each node of a model sees, by arithmetic from its graph."""

import dataclasses
from collections.abc import Sequence

from transfer.models.graph.trace import Graph, Node

# Nodes whose output at one place depends on the whole image.
GLOBAL = ("mean", "reshape", "dense")


@dataclasses.dataclass(frozen=True)
class Field:
    """Which rows (or columns) of the image output number i depends on: `stride * i + first` to `stride * i + last`."""

    stride: int
    first: int
    last: int

    @property
    def size(self) -> int:
        """The number of pixels."""
        return self.last - self.first + 1


# Rows and columns; None: the whole image.
Fields = tuple[Field, Field] | None


def fields(graph: Graph) -> list[Fields]:
    """The receptive field of every node of a graph, in pixels of its input."""
    known: list[Fields] = [(Field(1, 0, 0), Field(1, 0, 0))]
    for node in graph.nodes[1:]:
        inputs = [known[i] for i in node.inputs]
        if node.op in GLOBAL or node.attributes.get("adaptive") or None in inputs:
            known.append(None)
        else:
            source = graph.nodes[node.inputs[0]].shape[1:3]
            rows, columns = (_side(node, source, axis, [each[axis] for each in inputs if each]) for axis in (0, 1))
            known.append((rows, columns))
    return known


def receptive_field(graph: Graph) -> str:
    """The receptive field of a graph's output, as "height×width" in pixels of its input."""
    field = fields(graph)[graph.output]
    return "all" if field is None else "×".join(str(side.size) for side in field)


def _side(node: Node, source: Sequence[int], axis: int, inputs: Sequence[Field]) -> Field:
    """A node's field along one axis: the union of its inputs', widened by its window."""
    size, low = node.shape[1 + axis], 0
    window, stride = 1, -(-source[axis] // size)  # what works pixel by pixel; a slice takes every second one
    if "kernel" in node.attributes:
        window, stride = node.attributes["kernel"][axis], node.attributes["strides"][axis]
        padding = node.attributes["padding"]
        if padding == "SAME":
            low = max(0, (size - 1) * stride + window - source[axis]) // 2
        elif padding != "VALID":
            low = padding[axis][0]
    step, first, last = inputs[0].stride, min(f.first for f in inputs), max(f.last for f in inputs)
    return Field(step * stride, first - step * low, last + step * (window - 1 - low))
