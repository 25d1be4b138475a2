"""An ONNX graph as steps that mean something, in the order of its edges: exporters' plumbing read away.

The counterpart of `transfer.models.graph`. Names, and the order of nodes and initialisers, say nothing here.
"""

import dataclasses
import graphlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from transfer.errors import TransferError
from transfer.weights.onnx.layout import CHANNELS_FIRST, CHANNELS_LAST, SPATIAL, Axes, Sizes, shape, wide
from transfer.weights.onnx.sizes import Budget
from transfer.weights.onnx.tensors import Constant, computed
from transfer.weights.onnx.windows import Pads

# Attributes that are read here: those of whole numbers, of numbers, those that are lists, and how long.
LISTS = ("strides", "dilations", "kernel_shape", "pads", "perm", "axes", "starts", "ends", "shape")
SWITCHES = ("ceil_mode", "count_include_pad", "keepdims", "training_mode", "allowzero", "to", "start", "end")
WHOLE = (*LISTS, *SWITCHES, "group", "axis", "transA", "transB")
REAL = ("epsilon", "alpha", "beta", "min", "max", "value")
LENGTHS = {"strides": 2, "dilations": 2, "kernel_shape": 2}
# Of a file that leaves its batch open: more than one, so that a reshape which mixes images is seen.
OPEN_BATCH = 2
IMAGE_CHANNELS = (1, 3)
# Of images, kernels and padding, in pixels; more is in no network.
LARGEST_SIDE = 1 << 14
NO_ZEROS: tuple[Pads, Pads] = ((0, 0), (0, 0))


class NotRead(TransferError):
    """A node does what no model of ours does; what it leads to has no meaning here, its weights still have names."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of the graph.

    Attributes:
      op: `input`, `image` (the input, each channel times a number plus a number), `conv`, `dense`, `batch_norm`,
        `affine` (by channel), `add`, `mul`, `concat`, `max_pool`, `average`, an activation, or the name of an operator.
      node: what messages call it.
      inputs: positions of earlier steps.
      weights: conv: `kernel` (out, in / groups, height, width), dense: `kernel` (in, out), both perhaps `bias`;
        batch_norm: `scale`, `bias`, `mean`, `var`; affine: `scale`, `bias` (C,) or (); image: `channels` (which of the
        input's each is), `scale`, `bias` (C,).
      attributes: conv and pools: `rows` and `columns` (what the window takes, of `transfer.weights.onnx.windows`) and
        `windows`, where there are some, for messages; conv: `groups`; batch_norm: `epsilon`; dense: `channels_first`
        where its inputs are a feature map flattened so.
      sizes: of its output, by side.
    """

    op: str
    node: str
    inputs: tuple[int, ...] = ()
    weights: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sizes: Sizes = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Data:
    """What a tensor of the graph is: the output of a step, and what was done to it since.

    Attributes:
      step: its position.
      axes: which side of the step's output each axis runs over.
      zeros: how many `value`s were put beside height and width, by a node of its own (`padded_by`).
      turned_by: the nodes that gave it other axes.
    """

    step: int
    axes: Axes
    zeros: tuple[Pads, Pads] = NO_ZEROS
    value: float = 0.0
    padded_by: str = ""
    turned_by: str = ""


@dataclasses.dataclass(frozen=True)
class Unread:
    """What depends on a node that is not read, and why."""

    problem: NotRead


Value = Data | Constant | Unread
Reader = Callable[["Steps", Any, Mapping[str, Any]], Data | Constant]


class Steps:
    """The steps that lead to the outputs of a graph.

    Args:
      model: an `onnx.ModelProto`.
      initialisers: its constants.
      readers: operator -> what it is as a step.
      image_shape: (H, W, C) of the images.

    Attributes:
      steps: each after its inputs; those of op `input` are the graph's.
      outputs: positions of the graph's outputs that are read.
      problem: why the others are not, None if there are none.
      image_shape: as given.
      named: name of a tensor that a layer takes -> its value as PyTorch would store it, dense kernels (out, in).
      taps: how much the windows so far take.
      is_consistent: whether dense layers are given as many values as they take; not at another size of the images.
    """

    def __init__(
        self,
        model: Any,
        initialisers: Mapping[str, Constant],
        readers: Mapping[str, Reader],
        image_shape: tuple[int, int, int],
    ) -> None:
        self.readers, self.budget, self.image_shape = readers, Budget(model.ByteSize()), image_shape
        self.opsets = {each.domain: each.version for each in model.opset_import}
        self.steps: list[Step] = []
        self.taps, self.is_consistent = 0, True
        self.values: dict[str, Value] = dict(initialisers)
        self.named: dict[str, np.ndarray] = {}
        graph = model.graph
        for each in inputs_of(graph):
            self.values[each.name] = self._input(each)
        for node in _in_order(graph, set(self.values)):
            self._read(node)
        found = [self.value(each.name) for each in graph.output]
        self.outputs = [value.step for value in found if isinstance(value, Data)]
        self.problem = next((value.problem for value in found if isinstance(value, Unread)), None)
        if not self.outputs and not self.problem:
            raise TransferError("an ONNX graph whose output does not depend on its input")

    def _input(self, value: Any) -> Value:
        sides = sides_of(value)
        if len(sides) not in (0, 4):
            return Unread(NotRead(f"the graph's input {value.name!r} has {len(sides)} axes, images have 4"))
        height, width, channels = self.image_shape
        if max(self.image_shape) > LARGEST_SIDE:
            return Unread(NotRead(f"the graph takes images of {height}x{width} pixels and {channels} channels"))
        sizes = dict(b=(sides[0] if sides else 0) or OPEN_BATCH, c=channels, h=height, w=width)
        data = self.add(Step("input", value.name, sizes=sizes))
        return dataclasses.replace(data, axes=CHANNELS_LAST) if is_channels_last(sides) else data

    def _read(self, node: Any) -> None:
        inputs = {name: self.value(name) for name in node.input if name}
        constants = {name: value for name, value in inputs.items() if isinstance(value, Constant)}
        if len(constants) == len(inputs):
            for output in node.output:
                self.values[output] = computed(node, constants, output, self.opsets, self.budget)
            return
        known = node.domain in ("", "ai.onnx")
        if known:
            self.named |= named_weights(node, constants)
        unread = next((value for value in inputs.values() if isinstance(value, Unread)), None)
        try:
            if unread is not None:
                raise unread.problem
            read = self.readers.get(node.op_type) if known else None
            if read is None:
                domain = f" of {node.domain!r}" if node.domain else ""
                raise NotRead(f"ONNX operator {node.op_type!r}{domain} (node {node.name!r}) is not known here")
            self.values[node.output[0]] = read(self, node, attributes_of(node))
        except NotRead as problem:
            self.values[node.output[0]] = Unread(problem)
        # what else a node puts out (masks, indices, statistics) nothing of ours takes
        for output in node.output[1:]:
            more = f"the ONNX graph uses {output!r}, an output of {title(node)} that is not known here"
            self.values[output] = Unread(NotRead(more))

    # What the readers of single operators use.

    def value(self, name: str) -> Value:
        """What the tensor `name` is."""
        if name not in self.values:
            raise TransferError(f"the ONNX graph uses {name!r}, an output that is not known here")
        return self.values[name]

    def data(self, node: Any, index: int = 0, *, padded: bool = False) -> Data:
        """The input at `index`, which must depend on the images; `padded`: perhaps with values beside it."""
        value = self.value(node.input[index])
        if not isinstance(value, Data):
            raise NotRead(f"{title(node)}: its input {node.input[index]!r} does not depend on the images")
        if value.zeros != NO_ZEROS and not padded:
            raise NotRead(f"{value.padded_by} pads what {title(node)} takes: no model here does that")
        return value

    def feature_map(self, node: Any, *, padded: bool = True) -> tuple[Data, Sizes]:
        """The first input, which must be (B, C, H, W), perhaps `padded`; and its sizes before that."""
        data = self.data(node, padded=padded)
        sizes = self.sizes(data)
        sides = [wide(axis, sizes) for axis in data.axes]
        if len(sides) != 4 or any(set(given) - set(due) for given, due in zip(sides, CHANNELS_FIRST, strict=True)):
            turned = " x ".join("".join(axis) or "1" for axis in sides)
            by = f" by {data.turned_by}" if data.turned_by else ""
            raise NotRead(f"{title(node)} takes a map that is turned or joined{by} ({turned}, not b x c x h x w)")
        return data, sizes

    def sizes(self, data: Data) -> Sizes:
        """Of the step that it is the output of."""
        return self.steps[data.step].sizes

    def shape(self, data: Data) -> tuple[int, ...]:
        """Of the tensor, with what was put beside it."""
        added = dict(zip(SPATIAL, map(sum, data.zeros), strict=True))
        sizes = self.sizes(data)
        return shape(data.axes, {side: size + added.get(side, 0) for side, size in sizes.items()})

    def constant(self, node: Any, index: int) -> np.ndarray | None:
        """The input at `index`, None where it is left out."""
        if index >= len(node.input) or not node.input[index]:
            return None
        value = self.value(node.input[index])
        if not isinstance(value, Constant):
            raise NotRead(f"{title(node)}: its input {node.input[index]!r} is computed from the images")
        return value.array()

    def weight(self, node: Any, index: int) -> np.ndarray:
        """The input at `index`, which must be there."""
        array = self.constant(node, index)
        if array is None:
            raise NotRead(f"{title(node)} has no input {index}")
        return array

    def whole(self, node: Any, index: int, given: Any = None) -> list[int] | None:
        """Whole numbers, which older versions of the operators have as an attribute (`given`)."""
        array = self.constant(node, index) if given is None else np.asarray(given)
        return None if array is None else [int(each) for each in array.reshape(-1)]

    def add(self, step: Step) -> Data:
        """Appends a step; what its output is, as (B, C, H, W)."""
        self.steps.append(step)
        return Data(len(self.steps) - 1, CHANNELS_FIRST)

    def put(self, data: Data, op: str, node: Any, sizes: Mapping[str, int] | None = None, **attributes: Any) -> Data:
        """`data` after a step that has no weights and turns no axes, with other `sizes` where given."""
        step = Step(op, entitled(node, data), (data.step,), {}, attributes, {**self.sizes(data), **(sizes or {})})
        return Data(self.add(step).step, data.axes, turned_by=data.turned_by)


def named_weights(node: Any, constants: Mapping[str, Constant]) -> dict[str, np.ndarray]:
    """The tensors of a layer by their names, as PyTorch stores them."""
    names = [name for name in node.input[1:] if name in constants]
    if node.op_type in ("Conv", "BatchNormalization"):
        return {name: constants[name].array() for name in names}
    if node.op_type not in ("Gemm", "MatMul"):
        return {}
    attributes = attributes_of(node)
    if (attributes.get("alpha", 1.0), attributes.get("beta", 1.0)) != (1.0, 1.0):
        return {}
    turned = not attributes.get("transB", 0)
    return {
        name: constants[name].array().T if turned and name == node.input[1] else constants[name].array()
        for name in names
    }


def title(node: Any) -> str:
    """What messages call a node."""
    return f"{node.op_type} {node.name or node.output[0]!r}"


def entitled(node: Any, data: Data) -> str:
    """The same, with what padded the `data` that it takes."""
    return title(node) if data.zeros == NO_ZEROS else f"{data.padded_by} with {title(node)}"


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


def inputs_of(graph: Any) -> list[Any]:
    """The inputs that are no initialisers."""
    constants = {tensor.name for tensor in graph.initializer}
    return [each for each in graph.input if each.name not in constants]


def sides_of(value: Any) -> list[int]:
    """(B, C, H, W) or (B, H, W, C) of a graph's input, 0 where it is left open."""
    return [each.dim_value for each in value.type.tensor_type.shape.dim]


def is_channels_last(sides: list[int]) -> bool:
    """Whether an input of these sides is (B, H, W, C)."""
    return len(sides) == 4 and sides[3] in IMAGE_CHANNELS and sides[1] not in IMAGE_CHANNELS


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
