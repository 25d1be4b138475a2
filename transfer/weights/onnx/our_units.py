"""The units of a model of ours, in the vocabulary that `transfer.weights.onnx.structure` compares."""

import dataclasses
import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from transfer.models.graph.trace import Graph, Node
from transfer.weights.onnx import windows
from transfer.weights.onnx.folded import Ours
from transfer.weights.onnx.structure import Unit
from transfer.weights.onnx.units import Pool, Units, View, batch_norm, convolution, dense_text, described, takers_of
from transfer.weights.onnx.windows import Pads, Shares, Taps, Window

# Change no value; in what order a dense layer takes a map is part of its unit.
PASSING = ("reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim")
POOLS = {"max_pool": "max_pool", "slice": "max_pool", "avg_pool": "average", "mean": "average"}
RENAMED = {"logistic": "sigmoid"}
NO_PADS: tuple[Pads, Pads] = ((0, 0), (0, 0))


class OurUnits(Units):
    """Of a model's graph, traced with its values, up to its output.

    Attributes:
      views: what the model makes of the images before its first layer.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.views: list[View] = []
        self.takers = takers_of(lambda i: graph.nodes[i].inputs, graph.output)
        # positions of nodes -> what of the images they are, before the first layer
        self.images = {0: View.of(graph.nodes[0].shape[-1])}
        self.place: dict[int, int] = {}
        for i in self.takers:
            self.place[i] = self._unit(i, graph.nodes[i])
        self.output = self.place[graph.output]

    def _unit(self, i: int, node: Node) -> int:
        """The position of the unit that a node is, or is a part of."""
        inputs = tuple(self.place[k] for k in node.inputs)
        if node.op in PASSING:
            return inputs[0]
        if node.op == "batch_norm" and self._joins(node):
            return self.with_norm(inputs[0], ours=_with_norm(self.units[inputs[0]].parts["ours"], node))
        name = node.layer or f"{node.op} of {node.scope or 'the model'}"
        if node.op in POOLS and (pool := self._pool(node, self.graph.nodes[node.inputs[0]])) is not None:
            return self.add_pool(POOLS[node.op], name, inputs[0], pool)
        view = _next_view(self.images.get(node.inputs[0]), node) if len(node.inputs) == 1 else None
        if view is not None:
            self.images[i] = view
            self.views.append(view)
            return self.add(Unit("images", name, (0,), (len(self.views) - 1,), text=str(view)))
        return self.add(self._other(node, name, inputs))

    def _joins(self, node: Node) -> bool:
        source = node.inputs[0]
        return self.graph.nodes[source].op in ("conv", "dense") and self.takers[source] == 1

    def _other(self, node: Node, name: str, inputs: tuple[int, ...]) -> Unit:
        source = self.graph.nodes[node.inputs[0]] if node.inputs else node
        ours = Ours(node.layer or None, bias=node.attributes.get("bias", False))
        if node.op == "input":
            return Unit("input", "the images", (), (node.shape[-1],))
        if node.op == "conv":
            return self._convolution(node, name, inputs, source, ours)
        if node.op == "dense":
            flattened = self.graph.nodes[source.inputs[0]].shape if source.op == "reshape" else ()
            cells = math.prod(flattened[1:3]) if len(flattened) == 4 else 1
            about = (source.shape[-1], node.shape[-1])
            return Unit("dense", name, inputs, about, dict(ours=ours, cells=cells), dense_text(*about))
        if node.op == "batch_norm":
            return batch_norm(name, inputs, node.shape[-1], ours=_with_norm(Ours(), node))
        return Unit(RENAMED.get(node.op, node.op), name, inputs, _particulars(node))

    def _convolution(self, node: Node, name: str, inputs: tuple[int, ...], source: Node, ours: Ours) -> Unit:
        """With the padding right before it, if it is of zeros."""
        zeros = NO_PADS
        if source.op == "pad" and _constant(source, 0) == 0 and min(map(min, source.attributes["padding"])) >= 0:
            zeros = source.attributes["padding"]
            inputs, source = (self.place[source.inputs[0]],), self.graph.nodes[source.inputs[0]]
        groups, features = node.attributes["groups"], node.shape[-1]
        channels, pair = source.shape[-1] // groups, _windows(node, source, zeros=zeros)
        about: tuple[Hashable, ...] = (channels, features, groups, *(each.convolved() for each in pair))
        if "input_dilation" in node.attributes or not _fits(node, pair):
            about = (name,)
        return Unit("conv", name, inputs, about, dict(ours=ours), convolution(pair, channels, features, groups))

    def _pool(self, node: Node, source: Node) -> Pool | None:
        """What each maximum or average is of; None where it is something else."""
        if len(source.shape) != 4:
            return None
        taken = (_shares if POOLS[node.op] == "average" else _taps)(node, source)
        return taken and Pool(taken[:2], (source.shape[1], source.shape[2]), taken[2])


def _taps(node: Node, source: Node) -> tuple[Taps, Taps, str] | None:
    """What each maximum is of, and in words; a slice of rows and columns is one of single pixels."""
    if node.op == "slice":
        taps = _sliced(node, source)
        return (*taps, "to {}x{} pixels".format(*map(len, taps))) if taps else None
    pair = _windows(node, source, values=bool(node.attributes.get("explicit")))
    if _constant(node, 0) not in (None, 0) or not _fits(node, pair):
        return None
    return pair[0].greatest(), pair[1].greatest(), described(pair)


def _shares(node: Node, source: Node) -> tuple[Shares, Shares, str] | None:
    """What an average is of, and in words; None where it is another sum."""
    (height, width), attributes = source.shape[1:3], node.attributes
    if attributes.get("adaptive"):
        rows, columns = attributes["cells"]
        return windows.adaptive(height, rows), windows.adaptive(width, columns), f"to {rows}x{columns} pixels"
    divisor = _divisor(node)
    if node.op == "mean":
        whole = tuple(attributes["axes"]) == (1, 2) and _is(divisor, height * width)
        return (windows.mean(height), windows.mean(width), "of the whole map") if whole else None
    pair = _windows(node, source)
    for counts in (True, False):
        down, across = (each.averaged(counts) for each in pair)
        if _fits(node, pair) and _is(divisor, _divisors(down, across)):
            return down, across, described(pair, "counted padding" if counts else "padding")
    return None


def _next_view(before: View | None, node: Node) -> View | None:
    """What of the images a node is that adds or multiplies numbers; None for any other."""
    number = _constant(node, 0)
    if before is None or number is None or np.size(number) not in (1, len(before.channels)):
        return None
    if np.size(number) != max(1, *np.shape(number)[-1:]):
        return None
    number = np.broadcast_to(np.asarray(number, np.float64).reshape(-1), before.scale.shape)
    first = 0 in node.chain[0].constants  # the number stands before the images
    if node.op == "mul":
        return before.times(number)
    if node.op == "div" and not first:
        return before.times(1 / number)
    if node.op == "add":
        return before.plus(number)
    if node.op == "sub":
        return before.times(-np.ones(())).plus(number) if first else before.plus(-number)
    return None


def _constant(node: Node, equation: int) -> np.ndarray | None:
    """The one constant of an equation of a node."""
    if not node.chain:
        return None
    constants = list(node.chain[equation].constants.values())
    return np.asarray(constants[0]) if len(constants) == 1 and constants[0] is not None else None


def _divisor(node: Node) -> np.ndarray | None:
    """What a sum is divided by, or one over what it is multiplied by."""
    number = _constant(node, -1)
    is_factor = number is not None and node.chain[-1].equation.primitive.name == "mul"
    return 1 / number if number is not None and is_factor else number


def _is(constant: np.ndarray | None, expected: Any) -> bool:
    """Whether it has these numbers."""
    return constant is not None and bool(np.allclose(constant, expected, 1e-5))


def _divisors(rows: Shares, columns: Shares) -> np.ndarray:
    """What sums under a window are divided by, (1, H, W, 1)."""
    down, across = (np.array([1 / float(each[0][1]) if each else 1 for each in side]) for side in (rows, columns))
    return np.outer(down, across)[None, :, :, None]


def _particulars(node: Node) -> tuple[Hashable, ...]:
    """What must agree of a step that is no layer; constants that it holds, and axes, no graph of others has so."""
    if node.op == "concat" and node.attributes["axis"] == len(node.shape) - 1:
        return ()
    holds = len(node.chain) > 1 or any(each.constants for each in node.chain)
    return (node.op, str(node.attributes)) if holds or node.attributes else ()


def _windows(
    node: Node, source: Node, *, zeros: Sequence[Pads] = NO_PADS, values: bool = False
) -> tuple[Window, Window]:
    """Of a convolution or pool with `zeros` beside its map; `values`: its own padding counts as such."""
    attributes, found = node.attributes, []
    for i, size in enumerate(source.shape[1:3]):
        padding, beside = attributes["padding"], zeros[i]
        window = Window(size, attributes["kernel"][i], attributes["strides"][i], zeros=beside)
        window = dataclasses.replace(window, dilation=attributes.get("kernel_dilation", (1, 1))[i])
        if padding == "SAME":
            padding = {i: windows.same_pads(size + sum(beside), window.kernel, window.stride, window.dilation)}
        pads = (0, 0) if isinstance(padding, str) else padding[i]
        found.append(dataclasses.replace(window, zeros=pads) if values else dataclasses.replace(window, pads=pads))
    return found[0], found[1]


def _fits(node: Node, pair: tuple[Window, Window]) -> bool:
    """Whether the windows give the sizes that the model has: what else it does is not known here."""
    return tuple(node.shape[1:3]) == tuple(each.outputs for each in pair)


def _sliced(node: Node, source: Node) -> tuple[Taps, Taps] | None:
    """Rows and columns that a slice takes of a map: the max-pool over single pixels of others."""
    if node.op != "slice" or len(node.shape) != 4 or not node.chain or node.shape[-1] != source.shape[-1]:
        return None
    params = node.chain[0].equation.params
    strides = params["strides"] or (1,) * 4
    rows, columns = (
        windows.picked(range(params["start_indices"][axis], params["limit_indices"][axis], strides[axis]))
        for axis in (1, 2)
    )
    return rows, columns


def _with_norm(ours: Ours, node: Node) -> Ours:
    attributes = node.attributes
    return Ours(ours.layer, ours.bias, node.layer, attributes["scale"], attributes["epsilon"])
