"""How much of the image each node of a model sees, by arithmetic from its graph."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

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
    known: list[Fields] = []
    for node in graph.nodes:
        if node.op == "input":
            known.append((Field(1, 0, 0), Field(1, 0, 0)))
            continue
        inputs = [known[i] for i in node.inputs]
        if node.op in GLOBAL or node.attributes.get("adaptive") or None in inputs:
            known.append(None)
            continue
        source = graph.nodes[node.inputs[0]].shape[1:3]
        sides = [_side(node, source, axis, [each[axis] for each in inputs if each]) for axis in (0, 1)]
        known.append((sides[0], sides[1]))
    return known


def receptive_field(graph: Graph) -> str:
    """The receptive field of a graph's output, as "height×width" in pixels of its input."""
    field = fields(graph)[graph.output]
    return "all" if field is None else "×".join(str(side.size) for side in field)


def _side(node: Node, source: Sequence[int], axis: int, inputs: Sequence[Field]) -> Field:
    """A node's field along one axis: the union of its inputs', widened by its window."""
    union = Field(inputs[0].stride, min(f.first for f in inputs), max(f.last for f in inputs))
    window, stride, low = _geometry(node, source, axis)
    return Field(
        union.stride * stride,
        union.first - union.stride * low,
        union.last + union.stride * (window - 1 - low),
    )


def _geometry(node: Node, source: Sequence[int], axis: int) -> tuple[int, int, int]:
    """Window, stride and padding before the first pixel along an axis; (1, 1, 0) for what works pixel by pixel."""
    attributes: Mapping[str, Any] = node.attributes
    if "kernel" not in attributes:
        return 1, -(-source[axis] // node.shape[1 + axis]), 0  # a slice takes every second pixel
    window, stride, padding = attributes["kernel"][axis], attributes["strides"][axis], attributes["padding"]
    if padding == "SAME":
        total = max(0, (node.shape[1 + axis] - 1) * stride + window - source[axis])
        return window, stride, total // 2
    return window, stride, 0 if padding == "VALID" else padding[axis][0]
