"""The units of a model of ours and of an ONNX graph, in one vocabulary: what `transfer.weights.structure` compares."""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from transfer.models.graph import Graph, Node, leading_to
from transfer.weights.folded import Norm, Ours, affine
from transfer.weights.readers._onnx_steps import Step, Steps, added_pads
from transfer.weights.structure import Unit

# Ours that change no value, or average: over how much is a question of the image's size.
PASSING = ("reshape", "mean", "avg_pool", "pad", "transpose", "squeeze", "expand_dims", "broadcast_in_dim")
ARITHMETIC = ("add", "sub", "mul", "div", "affine")
# What may normalise the images before the first layer, channel by channel.
BEFORE_THE_FIRST_LAYER = (*ARITHMETIC, "select", "slice", "concat")
AFTER_THE_LAST_LAYER = ("softmax", "sigmoid")
RENAMED = {"logistic": "sigmoid"}
# Strides, groups, padding and dilations of a convolution that does no more than its kernel.
PLAIN = ((1, 1), 1, ((0, 0), (0, 0)), (1, 1))


class Units:
    """Units in the order of their edges.

    Attributes:
      units: the first is the input.
      output: position of the output's.
      normalises: whether something is done to the images before the first layer.
    """

    def __init__(self) -> None:
        self.units: list[Unit] = []
        self.normalises = False
        self.output = 0

    def add(self, unit: Unit) -> int:
        """Appends a unit, concatenations of concatenations as one; its position."""
        inputs = unit.inputs
        if unit.op in BEFORE_THE_FIRST_LAYER and all(self.units[i].op == "input" for i in inputs):
            self.normalises = self.normalises or unit.op in ARITHMETIC
            return inputs[0]
        if unit.op == "concat":
            nested = [self.units[i].inputs if self.units[i].op == "concat" else (i,) for i in inputs]
            inputs = tuple(i for each in nested for i in each)
        self.units.append(Unit(unit.op, unit.name, inputs, unit.about, unit.parts))
        return len(self.units) - 1

    def with_norm(self, position: int, **parts: Any) -> int:
        """Joins a batch norm with the layer before it, which nothing else takes."""
        unit = self.units[position]
        self.units[position] = Unit(unit.op, unit.name, unit.inputs, unit.about, {**unit.parts, **parts})
        return position


def _takers(inputs: Callable[[int], Sequence[int]], output: int) -> dict[int, int]:
    """Position -> how many needed ones take it, for all that lead to `output`, in their order."""
    needed = sorted(leading_to([output], inputs))
    counts = Counter(source for position in needed for source in inputs(position))
    return {position: counts[position] for position in needed}


class OurUnits(Units):
    """Of a model's graph, up to its output."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        takers = _takers(lambda i: graph.nodes[i].inputs, graph.output)
        place: dict[int, int] = {}
        for i in takers:
            node = graph.nodes[i]
            inputs = tuple(place[k] for k in node.inputs)
            if node.op in PASSING:
                place[i] = inputs[0]
            elif node.op == "batch_norm" and self._joins(node, takers):
                ours = self.units[inputs[0]].parts["ours"]
                place[i] = self.with_norm(inputs[0], ours=_with_norm(ours, node))
            else:
                about, parts = self._about(node)
                name = node.layer or f"{node.op} of {node.scope or 'the model'}"
                op = "max_pool" if _takes_every_other(node) else RENAMED.get(node.op, node.op)
                place[i] = self.add(Unit(op, name, inputs, about, parts))
        self.output = place[graph.output]

    def _joins(self, node: Node, takers: dict[int, int]) -> bool:
        source = node.inputs[0]
        return self.graph.nodes[source].op in ("conv", "dense") and takers[source] == 1

    def _about(self, node: Node) -> tuple[tuple[Hashable, ...], dict[str, Any]]:
        attributes = node.attributes
        source = self.graph.nodes[node.inputs[0]] if node.inputs else node
        ours = Ours(node.layer or None, bias=attributes.get("bias", False))
        if node.op == "conv":
            groups, window = attributes["groups"], attributes["kernel"]
            channels, features = source.shape[-1] // groups, node.shape[-1]
            padding = _padding(attributes["padding"], window, attributes["strides"])
            if source.op == "pad" and padding is not None:
                padding = added_pads(source.attributes["padding"], padding)
            return (window, channels, features, attributes["strides"], groups, padding, (1, 1)), dict(ours=ours)
        if node.op == "dense":
            flattened = self.graph.nodes[source.inputs[0]].shape if source.op == "reshape" else ()
            cells = math.prod(flattened[1:3]) if len(flattened) == 4 else 1
            return (source.shape[-1], node.shape[-1]), dict(ours=ours, cells=cells)
        if node.op == "batch_norm":
            return (node.shape[-1],), dict(ours=_with_norm(Ours(), node))
        if node.op == "max_pool":
            return (attributes["kernel"], attributes["strides"]), {}
        if _takes_every_other(node):
            return ((1, 1), attributes["strides"][1:3]), {}
        return (), {}


def _takes_every_other(node: Node) -> bool:
    """A slice with a step of the rows and columns: the max-pool over single pixels of others."""
    return node.op == "slice" and len(node.shape) == 4 and set(node.attributes["strides"]) != {1}


def _with_norm(ours: Ours, node: Node) -> Ours:
    attributes = node.attributes
    return Ours(ours.layer, ours.bias, node.layer, attributes["scale"], attributes["epsilon"])


def _padding(padding: Any, window: tuple[int, int], strides: tuple[int, int]) -> Any:
    """`SAME` at stride 1 is as much on both sides; at another it depends on the image (None)."""
    if not isinstance(padding, str):
        return padding
    if padding == "VALID":
        return ((0, 0), (0, 0))
    return tuple(((side - 1) // 2, side // 2) for side in window) if set(strides) == {1} else None


class TheirUnits(Units):
    """Of an ONNX graph, up to one of its outputs."""

    def __init__(self, steps: Steps, output: int) -> None:
        super().__init__()
        every = steps.steps
        while every[output].op in AFTER_THE_LAST_LAYER:
            output = every[output].inputs[0]
        takers = _takers(lambda i: every[i].inputs, output)
        place: dict[int, int] = {}
        for i in takers:
            step = every[i]
            inputs = tuple(place[k] for k in step.inputs)
            norm = Norm(step.weights, step.attributes["epsilon"]) if step.op == "batch_norm" else None
            joins = norm and every[step.inputs[0]].op in ("conv", "dense") and takers[step.inputs[0]] == 1
            if joins:
                place[i] = self.with_norm(inputs[0], norm=norm)
            else:
                place[i] = self.add(_their_unit(step, inputs, norm))
        self.output = place[output]


def _their_unit(step: Step, inputs: tuple[int, ...], norm: Norm | None) -> Unit:
    weights, attributes = dict(step.weights), step.attributes
    if step.op == "conv":
        features, channels, *window = weights["kernel"].shape
        weights["kernel"] = weights["kernel"].transpose(2, 3, 1, 0)
        more = (attributes["strides"], attributes["groups"], attributes["padding"], attributes["dilations"])
        return Unit("conv", step.node, inputs, (tuple(window), channels, features, *more), weights)
    if step.op == "dense":
        parts = {**weights, "channels_first": attributes["channels_first"]}
        return Unit("dense", step.node, inputs, weights["kernel"].shape, parts)
    if norm is not None:
        return Unit("batch_norm", step.node, inputs, (weights["scale"].size,), dict(norm=norm))
    if step.op == "affine":
        scale, bias = weights["scale"], weights["bias"]
        if (size := max(scale.size, bias.size)) > 1 and max(scale.ndim, bias.ndim) == 1:
            return Unit("batch_norm", step.node, inputs, (size,), dict(norm=affine(scale, bias)))
        return Unit("affine", step.node, inputs)
    if step.op == "max_pool":
        return Unit("max_pool", step.node, inputs, (attributes["kernel"], attributes["strides"]))
    return Unit(step.op, step.node, inputs)
