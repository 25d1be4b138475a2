"""An ONNX graph as steps that mean something, in the order of its edges: exporters' plumbing read away.

The counterpart of `transfer.models.graph`. Names, and the order of nodes and initialisers, say nothing here.
"""

import dataclasses
import graphlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from transfer.errors import TransferError
from transfer.weights.readers._onnx_sizes import Budget
from transfer.weights.readers._onnx_tensors import Constant, computed, initialiser

Pads = tuple[tuple[int, int], tuple[int, int]]
NO_PADS: Pads = ((0, 0), (0, 0))
IMAGE_CHANNELS = (1, 3)
# Attributes that are read here: those of whole numbers, of numbers, those that are lists, and how long.
LISTS = ("strides", "dilations", "kernel_shape", "pads", "perm", "axes")
WHOLE = (*LISTS, "group", "axis", "transA", "transB")
REAL = ("epsilon", "alpha", "beta", "min", "max")
LENGTHS = {"strides": 2, "dilations": 2, "kernel_shape": 2}


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of the graph.

    Attributes:
      op: `input`, `conv`, `dense`, `batch_norm`, `affine` (by channel), `add`, `mul`, `concat`, `max_pool`, `select`,
        an activation, or the name of an operator.
      node: what messages call it.
      inputs: positions of earlier steps.
      weights: conv: `kernel` (out, in / groups, height, width), dense: `kernel` (in, out), both perhaps `bias`;
        batch_norm: `scale`, `bias`, `mean`, `var`; affine: `scale`, `bias` (C,) or ().
      attributes: `strides`, `groups`, `padding` (None: depends on the image), `kernel`, `epsilon`; dense:
        `channels_first` where its inputs are a feature map flattened so.
    """

    op: str
    node: str
    inputs: tuple[int, ...] = ()
    weights: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Data:
    """What a tensor of the graph is: the output of a step, and what was done to it since.

    Attributes:
      step: its position.
      channels_last: after a transpose.
      pads: of zeros, by a node of its own.
      flattened: None: not flattened; else whether channels came first.
    """

    step: int
    channels_last: bool = False
    pads: Pads = NO_PADS
    flattened: bool | None = None


class Sizes:
    """What is computed from the sizes of the images only; reshapes take it, and no weight depends on it."""


Value = Data | Constant | Sizes
Reader = Callable[["Steps", Any, Mapping[str, Any]], Value]


class Steps:
    """The steps that lead to the outputs of a graph.

    Attributes:
      steps: each after its inputs; those of op `input` are the graph's.
      outputs: positions of the graph's outputs.
      image_shape: (H, W, C) of the input where the file says it.
      named: name of a tensor that a layer takes -> its value as PyTorch would store it, dense kernels (out, in).
    """

    def __init__(self, model: Any, folder: Path, readers: Mapping[str, Reader]) -> None:
        self.readers, self.budget = readers, Budget(model.ByteSize())
        self.opsets = {each.domain: each.version for each in model.opset_import}
        self.steps: list[Step] = []
        self.values: dict[str, Value] = {}
        self.named: dict[str, np.ndarray] = {}
        graph = model.graph
        for tensor in graph.initializer:
            self.values[tensor.name] = initialiser(tensor, folder)
        inputs = [each for each in graph.input if each.name not in self.values]
        for each in inputs:
            channels_last = _is_channels_last(_sides(each))
            self.values[each.name] = dataclasses.replace(
                self.add(Step("input", each.name)), channels_last=channels_last
            )
        self.image_shape = _image_shape(_sides(inputs[0])) if inputs else None
        for node in _in_order(graph, set(self.values)):
            self._read(node)
        found = [self.value(each.name) for each in graph.output]
        self.outputs = [value.step for value in found if isinstance(value, Data)]
        if not self.outputs:
            raise TransferError("an ONNX graph whose output does not depend on its input")

    def _read(self, node: Any) -> None:
        inputs = {name: self.value(name) for name in node.input if name}
        constants = {name: value for name, value in inputs.items() if isinstance(value, Constant)}
        if len(constants) == len(inputs):
            for output in node.output:
                self.values[output] = computed(node, constants, output, self.opsets, self.budget)
            return
        if node.op_type in ("Shape", "Size") or not any(isinstance(value, Data) for value in inputs.values()):
            self.values |= dict.fromkeys(node.output, Sizes())
            return
        read = self.readers.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if read is None:
            domain = f" of {node.domain!r}" if node.domain else ""
            raise TransferError(f"ONNX operator {node.op_type!r}{domain} (node {node.name!r}) is not known here")
        # what else a node puts out (masks, indices, statistics) nothing of ours takes
        self.values[node.output[0]] = read(self, node, attributes_of(node))

    # What the readers of single operators use.

    def value(self, name: str) -> Value:
        """What the tensor `name` is."""
        if name not in self.values:
            raise TransferError(f"the ONNX graph uses {name!r}, an output that is not known here")
        return self.values[name]

    def data(self, node: Any, index: int = 0) -> Data:
        """The input at `index`, which must depend on the images."""
        value = self.value(node.input[index])
        if not isinstance(value, Data):
            raise TransferError(f"{title(node)}: its input {node.input[index]!r} does not depend on the images")
        return value

    def constant(self, node: Any, index: int) -> np.ndarray | None:
        """The input at `index`, None where it is left out."""
        if index >= len(node.input) or not node.input[index]:
            return None
        value = self.value(node.input[index])
        if not isinstance(value, Constant):
            raise TransferError(f"{title(node)}: its input {node.input[index]!r} is computed from the images")
        return value.array()

    def weight(self, node: Any, index: int) -> np.ndarray:
        """The input at `index`, which must be there."""
        array = self.constant(node, index)
        if array is None:
            raise TransferError(f"{title(node)} has no input {index}")
        return array

    def add(self, step: Step) -> Data:
        """Appends a step; what its output is."""
        self.steps.append(step)
        return Data(len(self.steps) - 1)


def added_pads(first: Pads, second: Pads) -> Pads:
    """The padding of two in a row."""
    rows, columns = ((a[0] + b[0], a[1] + b[1]) for a, b in zip(first, second, strict=True))
    return rows, columns


def title(node: Any) -> str:
    """What messages call a node."""
    return f"{node.op_type} {node.name or node.output[0]!r}"


def attributes_of(node: Any) -> dict[str, Any]:
    """The attributes of a node as Python values; TransferError where one that is used here is not of its type."""
    from onnx import helper

    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    for name, value in attributes.items():
        numbers = value if isinstance(value, list) else [value]
        length = LENGTHS.get(name, len(numbers))
        whole = name not in WHOLE or all(isinstance(number, int) for number in numbers)
        real = name not in REAL or all(isinstance(number, (int, float)) for number in numbers)
        if not (whole and real) or isinstance(value, list) != (name in LISTS) and name in {*WHOLE, *REAL}:
            raise TransferError(f"{title(node)}: its attribute {name} is of another type than it should be")
        if len(numbers) != length:
            raise TransferError(f"{title(node)}: its attribute {name} has {len(numbers)} numbers, not {length}")
    return attributes


def _sides(value: Any) -> list[int]:
    """(B, C, H, W) or (B, H, W, C) of a graph's input, 0 where it is left open."""
    return [each.dim_value for each in value.type.tensor_type.shape.dim]


def _is_channels_last(sides: list[int]) -> bool:
    return len(sides) == 4 and sides[3] in IMAGE_CHANNELS and sides[1] not in IMAGE_CHANNELS


def _image_shape(sides: list[int]) -> tuple[int, int, int] | None:
    """(H, W, C); None where one of them is left open."""
    if len(sides) != 4 or min(sides[1:]) < 1:
        return None
    _, a, b, c = sides
    return (a, b, c) if _is_channels_last(sides) else (b, c, a)


def _in_order(graph: Any, known: set[str]) -> list[Any]:
    """The nodes that the outputs need, each after those that it takes from."""
    makers = {output: node for node in graph.node for output in node.output if output}
    order: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter()
    stack, seen = [each.name for each in graph.output], set()
    while stack:
        name = stack.pop()
        if name in known or name in seen:
            continue
        seen.add(name)
        if name not in makers:
            raise TransferError(f"nothing in the ONNX graph makes {name!r}: an initialiser or a node is missing")
        node = makers[name]
        sources = [each for each in node.input if each]
        order.add(name, *(each for each in sources if each not in known))
        stack += sources
    try:
        nodes = [makers[name] for name in order.static_order()]
    except graphlib.CycleError as error:
        raise TransferError(f"a cycle in the ONNX graph at {error.args[1][0]!r}") from error
    return list({id(node): node for node in nodes}.values())  # a node may make several
