"""A model of ours as units, to be paired with those of an ONNX graph."""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transfer.models import registry
from transfer.models.graph.trace import Graph, Node, leading_to, trace
from transfer.weights import channels
from transfer.weights.onnx import windows
from transfer.weights.onnx.images import View, next_view
from transfer.weights.onnx.units import Unit, Units, batch_norm, convolution, dense
from transfer.weights.onnx.windows import NO_PADS, Pads, Window, described

# Change no value; in what order a dense layer takes a map is part of its unit.
PASSING = ("reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim")
POOLS = {"max_pool": "max_pool", "slice": "max_pool", "avg_pool": "average", "mean": "average"}
RENAMED = {"logistic": "sigmoid"}

# What is taken along rows and along columns, and in words.
Taken = tuple[Sequence[Any], str]


@dataclasses.dataclass(frozen=True)
class Ours:
    """The parts of a layer of a model: dotted paths of its parts, None or False for what it lacks."""

    layer: str | None = None
    bias: bool = False
    norm: str | None = None
    norm_scale: bool = False
    epsilon: float = 0.0


class OurUnits(Units):
    """The units of a model's graph, traced with its values, up to its output.

    Parts: `ours`, which arrays a layer has; dense: `cells`, of the feature map that it takes; input and images, what
    the model makes of them before its first layer: `view`.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        needed = sorted(leading_to([graph.output], lambda i: graph.nodes[i].inputs))
        self.takers = Counter(source for i in needed for source in graph.nodes[i].inputs)
        self.place: dict[int, int] = {}
        for i in needed:
            self.place[i] = self._unit(graph.nodes[i])
        self.output = self.place[graph.output]

    @classmethod
    def of(cls, arch: str, fields: Mapping[str, Any], classes: int, image_shape: Sequence[int]) -> "OurUnits":
        """The units of an architecture for images of (H, W, C); UsageError where it does not take such."""
        fields = {**channels.fields(arch, fields, image_shape[-1]), "num_classes": classes}
        model = registry.build(arch, seed=None, **fields)
        return cls(trace(model, (1, *image_shape), with_values=True))

    def _unit(self, node: Node) -> int:
        """The position of the unit that a node is, or is a part of."""
        inputs = tuple(self.place[k] for k in node.inputs)
        source = self.graph.nodes[node.inputs[0]] if node.inputs else node
        name = node.layer or f"{node.op} of {node.scope or 'the model'}"
        ours = Ours(node.layer or None, bias=node.attributes.get("bias", False))
        if node.op in PASSING:
            return inputs[0]
        if node.op == "input":
            channels = node.shape[-1]
            return self.add(Unit("input", "the images", about=(channels,), parts=dict(view=View.of(channels))))
        if node.op == "conv":
            return self.add(self._convolution(node, name, ours))
        if node.op == "dense":
            flattened = self.graph.nodes[source.inputs[0]].shape if source.op == "reshape" else ()
            cells = math.prod(flattened[1:3]) if len(flattened) == 4 else 1
            return self.add(dense(name, inputs, (source.shape[-1], node.shape[-1]), ours=ours, cells=cells))
        if node.op == "batch_norm":
            return self._batch_norm(node, name, inputs, source)
        if node.op in POOLS and len(source.shape) == 4:
            pool = (_shares if POOLS[node.op] == "average" else _taps)(node, source)
            if pool is not None:
                return self.add_pool(POOLS[node.op], name, inputs[0], pool[0], source.shape[1:3], pool[1])
        before = self.units[inputs[0]].parts.get("view") if len(inputs) == 1 else None
        view = next_view(before, node, _constant(node, 0))
        if view is not None:
            return self.add(Unit("images", name, (0,), parts=dict(view=view), text=str(view)))
        # others write the constants and axes of a step otherwise
        is_last = node.op == "concat" and node.attributes["axis"] == len(node.shape) - 1
        is_plain = not node.attributes and len(node.chain) < 2 and not any(each.constants for each in node.chain)
        about = () if is_last or is_plain else (node.op, str(node.attributes))
        return self.add(Unit(RENAMED.get(node.op, node.op), name, inputs, about))

    def _batch_norm(self, node: Node, name: str, inputs: tuple[int, ...], source: Node) -> int:
        """A batch norm, joined with the layer before it, which nothing else takes."""
        norm = dict(norm=node.layer, norm_scale=node.attributes["scale"], epsilon=node.attributes["epsilon"])
        if source.op not in ("conv", "dense") or self.takers[node.inputs[0]] > 1:
            return self.add(batch_norm(name, inputs, node.shape[-1], ours=Ours(**norm)))
        layer = self.units[inputs[0]]
        self.units[inputs[0]] = layer.having(ours=dataclasses.replace(layer.parts["ours"], **norm))
        return inputs[0]

    def _convolution(self, node: Node, name: str, ours: Ours) -> Unit:
        """A convolution, with the padding right before it if that is of zeros."""
        position, zeros = node.inputs[0], NO_PADS
        source = self.graph.nodes[position]
        if source.op == "pad" and _constant(source, 0) == 0 and min(map(min, source.attributes["padding"])) >= 0:
            position, zeros = source.inputs[0], source.attributes["padding"]
            source = self.graph.nodes[position]
        groups, pair = node.attributes["groups"], _windows(node, source, zeros=zeros)
        sizes = (source.shape[-1] // groups, node.shape[-1], groups)
        unit = convolution(name, (self.place[position],), pair, sizes, ours=ours)
        is_known = "input_dilation" not in node.attributes and _fits(node, pair)
        return unit if is_known else dataclasses.replace(unit, about=(name,))


def _taps(node: Node, source: Node) -> Taken | None:
    """The elements that each maximum is of, None for another step; a slice of rows and columns has single pixels."""
    if node.op == "slice":
        if len(node.shape) != 4 or not node.chain or node.shape[-1] != source.shape[-1]:
            return None
        params = node.chain[0].equation.params
        limits = zip(params["start_indices"], params["limit_indices"], params["strides"] or (1,) * 4, strict=True)
        taken = [windows.picked(range(*side)) for side in list(limits)[1:3]]
        return taken, "to {}x{} pixels".format(*map(len, taken))
    pair = _windows(node, source, values=bool(node.attributes.get("explicit")))
    if _constant(node, 0) not in (None, 0) or not _fits(node, pair):
        return None
    return [window.maxima() for window in pair], described(pair)


def _shares(node: Node, source: Node) -> Taken | None:
    """The elements that an average is of; None where it is another sum."""
    size, attributes = source.shape[1:3], node.attributes
    if attributes.get("adaptive"):
        rows, columns = cells = attributes["cells"]
        taken = [windows.adaptive(side, count) for side, count in zip(size, cells, strict=True)]
        return taken, f"to {rows}x{columns} pixels"
    # what the sum is divided by, or one over what it is multiplied by
    divisor = _constant(node, -1)
    if divisor is not None and node.chain[-1].equation.primitive.name == "mul":
        divisor = 1 / divisor
    if divisor is None:
        return None
    if node.op == "mean":
        is_whole = tuple(attributes["axes"]) == (1, 2) and np.allclose(divisor, math.prod(size), 1e-5)
        return ([windows.adaptive(side, 1) for side in size], "of the whole map") if is_whole else None
    pair = _windows(node, source)
    for counts in (True, False) if _fits(node, pair) else ():
        shares = [window.averages(counts) for window in pair]
        # what sums under a window are divided by, along rows and columns
        rows, columns = ([1 / float(row[0][1]) if row else 1.0 for row in side] for side in shares)
        if np.allclose(divisor, np.outer(rows, columns)[None, :, :, None], 1e-5):
            return shares, described(pair, "counted padding" if counts else "padding")
    return None


def _constant(node: Node, equation: int) -> np.ndarray | None:
    """The one constant of an equation of a node."""
    constants = list(node.chain[equation].constants.values()) if node.chain else []
    return np.asarray(constants[0]) if len(constants) == 1 and constants[0] is not None else None


def _windows(
    node: Node, source: Node, *, zeros: Sequence[Pads] = NO_PADS, values: bool = False
) -> tuple[Window, Window]:
    """The window of a convolution or pool with `zeros` beside its map; `values`: its own padding counts as such."""
    attributes, pair = node.attributes, []
    for i, size in enumerate(source.shape[1:3]):
        kernel, stride, padding = attributes["kernel"][i], attributes["strides"][i], attributes["padding"]
        dilation = attributes.get("kernel_dilation", (1, 1))[i]
        if padding == "SAME":
            pads = windows.same_pads(size + sum(zeros[i]), kernel, stride, dilation)
        else:
            pads = (0, 0) if isinstance(padding, str) else padding[i]
        beside, pads = (pads, (0, 0)) if values else (zeros[i], pads)
        pair.append(Window(size, kernel, stride, dilation, beside, pads))
    return pair[0], pair[1]


def _fits(node: Node, pair: tuple[Window, Window]) -> bool:
    """Whether the windows give the sizes that the model has: what else it does is not known here."""
    return tuple(node.shape[1:3]) == tuple(window.outputs for window in pair)
