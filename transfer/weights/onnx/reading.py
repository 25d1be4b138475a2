"""An ONNX graph as units that mean something, in the order of its edges: exporters' plumbing read away.

The counterpart of `transfer.weights.onnx.our_units`. Names, and the order of nodes and initialisers, say nothing here.
"""

import dataclasses
import functools
import graphlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from transfer.errors import TransferError
from transfer.weights.onnx.constants import Evaluator
from transfer.weights.onnx.images import View
from transfer.weights.onnx.units import Unit, Units
from transfer.weights.onnx.windows import NO_PADS, Pads

# Each axis of a tensor: which sides of a feature map it runs over, the outermost first. `b` batch, `c` channels,
# `h` height, `w` width.
Axes = tuple[tuple[str, ...], ...]
CHANNELS_FIRST: Axes = (("b",), ("c",), ("h",), ("w",))
CHANNELS_LAST: Axes = (("b",), ("h",), ("w",), ("c",))
SPATIAL = ("h", "w")
DOMAINS = ("", "ai.onnx")
# Of a file that leaves its batch open: more than one, so that a reshape which mixes images is seen.
OPEN_BATCH = 2
IMAGE_CHANNELS = (1, 3)
# Of images, kernels and padding, in pixels; more is in no network.
LARGEST_SIDE = 1 << 14
AFTER_THE_LAST_LAYER, MOST_FUNCTIONS = ("softmax", "sigmoid"), 10

ImageShape = tuple[int, int, int]
# A value that does not depend on the images, computed when asked for, once.
Constant = Callable[[], np.ndarray]


class UnsupportedNode(TransferError):
    """A node does what no model of ours does; what it leads to has no meaning here, its weights still have names."""


@dataclasses.dataclass(frozen=True)
class Data:
    """A tensor of the graph: the output of a unit, whose sides have `sizes`, and what was done to it since.

    Attributes:
      axes: which side of the output each axis runs over.
      zeros: how many `value`s were put beside height and width, by a node of its own (`padded_by`).
      turned_by: the nodes that gave it other axes.
    """

    unit: int
    sizes: Mapping[str, int]
    axes: Axes = CHANNELS_FIRST
    zeros: tuple[Pads, Pads] = NO_PADS
    value: float = 0.0
    padded_by: str = ""
    turned_by: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape, with what was put beside it."""
        beside = dict(zip(SPATIAL, map(sum, self.zeros), strict=True))
        return tuple(math.prod(self.sizes[side] + beside.get(side, 0) for side in axis) for axis in self.axes)

    def wide(self, axis: int) -> tuple[str, ...]:
        """The sides of an axis that have more than one position: the others can stand anywhere."""
        return tuple(side for side in self.axes[axis] if self.sizes[side] > 1)


class OnnxNode:
    """A node of a graph, its `title` in messages, and its attributes, each of the type that its operator wants."""

    def __init__(
        self,
        graph: "GraphUnits",
        op: str,
        title: str,
        inputs: Sequence[Any],
        attributes: Mapping[str, Any],
        outputs: int = 1,
    ) -> None:
        self.graph, self.op, self.title, self.outputs = graph, op, title, outputs
        self.inputs, self.attributes = list(inputs), attributes

    @classmethod
    def read(cls, graph: "GraphUnits", proto: Any) -> "OnnxNode":
        """The node of a file's `onnx.NodeProto`."""
        from onnx import defs, helper

        try:
            schema = defs.get_schema(proto.op_type, graph.version, "")
        except defs.SchemaError:  # newer than the version that the file names
            schema = defs.get_schema(proto.op_type)
        title = title_of(proto)
        for attribute in proto.attribute:
            expected = schema.attributes.get(attribute.name)
            if expected is not None and attribute.type != expected.type.value:  # type: ignore[attr-defined]
                raise TransferError(f"{title}: its attribute {attribute.name} is of another type than it should be")
        attributes = {each.name: helper.get_attribute_value(each) for each in proto.attribute}
        return cls(graph, proto.op_type, title, proto.input, attributes, sum(map(bool, proto.output)))

    def problem(self, text: str) -> UnsupportedNode:
        """The error of this node, to be raised."""
        return UnsupportedNode(f"{self.title} {text}")

    def data(self, index: int = 0, *, padded: bool = False) -> Data:
        """The input at `index`, which must depend on the images; `padded`: perhaps with values beside it."""
        value = self.graph.value(self.inputs[index])
        if not isinstance(value, Data):
            raise UnsupportedNode(f"{self.title}: its input {self.inputs[index]!r} does not depend on the images")
        if value.zeros != NO_PADS and not padded:
            raise UnsupportedNode(f"{value.padded_by} pads what {self.title} takes: no model here does that")
        return value

    def feature_map(self, *, padded: bool = True) -> Data:
        """The first input, which must be (B, C, H, W), perhaps `padded`."""
        data = self.data(padded=padded)
        sides = [data.wide(axis) for axis in range(len(data.axes))]
        if len(sides) != 4 or any(set(given) - set(due) for given, due in zip(sides, CHANNELS_FIRST, strict=True)):
            turned = " x ".join("".join(axis) or "1" for axis in sides)
            by = f" by {data.turned_by}" if data.turned_by else ""
            raise self.problem(f"takes a map that is turned or joined{by} ({turned}, not b x c x h x w)")
        return data

    def constant(self, index: int) -> np.ndarray | None:
        """The input at `index`, None where it is left out."""
        if index >= len(self.inputs) or not self.inputs[index]:
            return None
        value = self.graph.value(self.inputs[index])
        if not callable(value):
            raise UnsupportedNode(f"{self.title}: its input {self.inputs[index]!r} is computed from the images")
        return value()

    def weight(self, index: int) -> np.ndarray:
        """The input at `index`, which must be there."""
        array = self.constant(index)
        if array is None:
            raise self.problem(f"has no input {index}")
        return array

    def integers(self, index: int, attribute: str = "") -> list[int] | None:
        """The integers at `index`, which older versions of the operators have as an attribute."""
        array = np.asarray(self.attributes[attribute]) if attribute in self.attributes else self.constant(index)
        return None if array is None else [int(number) for number in array.reshape(-1)]

    def title_with(self, data: Data) -> str:
        """The title, with what padded the `data` that the node takes."""
        return self.title if data.zeros == NO_PADS else f"{data.padded_by} with {self.title}"

    def turning(self, data: Data, axes: Axes) -> Data:
        """The `data` with other axes, of which this node is the reason."""
        return dataclasses.replace(data, axes=axes, turned_by=", ".join(filter(None, (data.turned_by, self.title))))

    def reshaped(self, data: Data, wanted: Sequence[int]) -> Data:
        """The `data` reshaped to `wanted`, which may not mix positions of several sides."""
        if tuple(wanted) == data.shape:
            return self.turning(data, data.axes)
        sides = [side for axis in range(len(data.axes)) for side in data.wide(axis)]
        axes: list[tuple[str, ...]] = []
        for size in wanted:
            axis: list[str] = []
            while sides and math.prod(data.sizes[side] for side in axis) < size:
                axis.append(sides.pop(0))
            axes.append(tuple(axis))
        if sides or [math.prod(data.sizes[side] for side in axis) for axis in axes] != list(wanted):
            raise self.problem(f"mixes the axes of a map: {data.shape} to {tuple(wanted)}")
        return self.turning(data, tuple(axes))

    def step(self, op: str) -> Data:
        """The output of a step without weights that takes the first input."""
        data = self.data()
        return dataclasses.replace(data, unit=self.graph.add(Unit(op, self.title, (data.unit,))))

    def named_weights(self) -> dict[str, np.ndarray]:
        """The tensors of a layer by their names, as PyTorch stores them."""
        is_dense = self.op in ("Gemm", "MatMul")
        if not is_dense and self.op not in ("Conv", "BatchNormalization"):
            return {}
        if (self.attributes.get("alpha", 1.0), self.attributes.get("beta", 1.0)) != (1.0, 1.0):
            return {}
        arrays = {name: value() for name in self.inputs[1:] if name and callable(value := self.graph.value(name))}
        if is_dense and not self.attributes.get("transB", 0) and self.inputs[1] in arrays:
            arrays[self.inputs[1]] = arrays[self.inputs[1]].T
        return arrays


Operator = Callable[[OnnxNode], Data | Constant]


class GraphUnits(Units):
    """The units that lead to the outputs of a graph.

    Parts: conv: `kernel` (height, width, in / groups, out), dense: `kernel` (in, out) and `channels_first` where its
    inputs are a feature map flattened so, both perhaps `bias` and `norm`; batch_norm: `norm`; input and images: `view`,
    and the name of the node that it is made `since`.

    Attributes:
      outputs: positions of the graph's outputs that are read, before the functions behind the last layer.
      ends: the same as they are.
      problem: why the others are not, None if there are none.
      taps: how much the windows so far take.
      is_consistent: whether dense layers are given as many values as they take; not at another size of the images.
    """

    def __init__(self, image_shape: ImageShape, version: int) -> None:
        """No units yet, of images (H, W, C), by a version of the operators."""
        super().__init__()
        self.image_shape, self.version = image_shape, version
        self.taps, self.is_consistent = 0, True
        self.outputs: list[int] = []
        self.ends: list[int] = []
        self.problem: UnsupportedNode | None = None

    def value(self, name: Any) -> Any:
        """The input of a node as `Data`, a constant or an error."""
        return name

    def end(self, values: Sequence[Any]) -> None:
        """Takes the values as the outputs of the graph."""
        self.problem = next((value for value in values if isinstance(value, UnsupportedNode)), None)
        self.ends = [value.unit for value in values if isinstance(value, Data)]
        for end in self.ends:
            chain, unit = [end], self.units[end]
            while len(unit.inputs) == 1 and not (unit.about or unit.parts) and len(chain) <= MOST_FUNCTIONS:
                chain += unit.inputs
                unit = self.units[chain[-1]]
            if unit.op == "dense":
                chain = chain[-1:]
            # behind another layer a function may be the network's own, but for those that none ends in
            self.outputs.append(next((i for i in chain if self.units[i].op not in AFTER_THE_LAST_LAYER), end))

    def functions(self, number: int) -> list[Unit]:
        """What stands between the last layer and an end of the graph, in order."""
        position, units = self.ends[number], list[Unit]()
        while position != self.outputs[number]:
            units.insert(0, self.units[position])
            (position,) = self.units[position].inputs
        return units

    def images(self, name: str, axes: Axes, batch: int = OPEN_BATCH) -> Data:
        """The images that the graph is given."""
        height, width, channels = self.image_shape
        unit = Unit("input", name, about=(channels,), parts=dict(view=View.of(channels)))
        return Data(self.add(unit), dict(b=batch, c=channels, h=height, w=width), axes)

    def view(self, data: Data) -> View | None:
        """The view of the images that a tensor is; None behind the first layer."""
        return self.units[data.unit].parts.get("view")

    def viewed(self, node: OnnxNode, data: Data, view: View) -> Data:
        """The view of the images that a node makes of `data`."""
        before = self.units[data.unit]
        source = data.unit if before.op == "input" else before.inputs[0]
        parts = dict(view=view, since=before.parts.get("since", node.title))
        position = self.add(Unit("images", node.title, (source,), parts=parts))
        return dataclasses.replace(data, unit=position, sizes={**data.sizes, "c": len(view.channels)})


class OnnxUnits(GraphUnits):
    """The units of an ONNX graph.

    Attributes:
      named: name of a tensor that a layer takes -> its value as PyTorch would store it, dense kernels (out, in).
    """

    def __init__(
        self, model: Any, constants: Mapping[str, Constant], operators: Mapping[str, Operator], image_shape: ImageShape
    ) -> None:
        """The units of an `onnx.ModelProto` for images of (H, W, C); `constants` are its initialisers."""
        opsets = {each.domain: each.version for each in model.opset_import}
        super().__init__(image_shape, opsets.get("", opsets.get("ai.onnx", 0)))
        self.operators = operators
        self.evaluate = Evaluator(model.ByteSize(), dict.fromkeys(DOMAINS, self.version))
        self.values: dict[str, Data | Constant | UnsupportedNode] = dict(constants)
        self.named: dict[str, np.ndarray] = {}
        graph = model.graph
        for each in inputs_of(graph):
            self.values[each.name] = self._input(each)
        for proto in _in_order(graph, set(self.values)):
            self._read(proto)
        self.end([self.value(each.name) for each in graph.output])
        if not self.outputs and not self.problem:
            raise TransferError("an ONNX graph whose output does not depend on its input")

    def value(self, name: str) -> Data | Constant | UnsupportedNode:
        """The tensor called `name`."""
        if name not in self.values:
            raise TransferError(f"the ONNX graph uses {name!r}, which none of its nodes makes")
        return self.values[name]

    def _input(self, value: Any) -> Data | UnsupportedNode:
        try:
            batch, _, axes = images_of(value)
        except UnsupportedNode as error:
            return error
        if max(self.image_shape) > LARGEST_SIDE:
            text = "the graph takes images of {}x{} pixels and {} channels"
            return UnsupportedNode(text.format(*self.image_shape))
        return self.images(value.name, axes, batch or OPEN_BATCH)

    def _read(self, proto: Any) -> None:
        inputs = [self.value(name) for name in proto.input if name]
        if all(map(callable, inputs)):

            def computed(output: str) -> np.ndarray:
                given = zip(filter(None, proto.input), inputs, strict=True)
                return self.evaluate(proto, {name: value() for name, value in given if callable(value)})[output]

            self.values |= {output: functools.cache(functools.partial(computed, output)) for output in proto.output}
            return
        operator = self.operators.get(proto.op_type) if proto.domain in DOMAINS else None
        problem = next((value for value in inputs if isinstance(value, UnsupportedNode)), None)
        # what else a node puts out (masks, indices, statistics) nothing of ours takes
        for output in proto.output[1:]:
            text = f"the ONNX graph uses {output!r}, an output of {title_of(proto)} that is not supported"
            self.values[output] = UnsupportedNode(text)
        try:
            if operator is None:
                domain = f" of {proto.domain!r}" if proto.domain else ""
                text = f"ONNX operator {proto.op_type!r}{domain} (node {proto.name!r}) is not supported"
                raise problem or UnsupportedNode(text)
            node = OnnxNode.read(self, proto)
            self.named |= node.named_weights()
            if problem is not None:
                raise problem
            self.values[proto.output[0]] = operator(node)
        except UnsupportedNode as error:
            self.values[proto.output[0]] = error


def title_of(proto: Any) -> str:
    """The name of a node in messages."""
    return f"{proto.op_type} {proto.name or proto.output[0]!r}"


def inputs_of(graph: Any) -> list[Any]:
    """The inputs that are no initialisers."""
    constants = {tensor.name for tensor in graph.initializer}
    return [each for each in graph.input if each.name not in constants]


def images_of(value: Any) -> tuple[int, ImageShape, Axes]:
    """The batch, the (H, W, C) and the axes of a graph's input, 0 where the file leaves a size open."""
    sides = [each.dim_value for each in value.type.tensor_type.shape.dim] or [0] * 4
    if len(sides) != 4:
        raise UnsupportedNode(f"the graph's input {value.name!r} has {len(sides)} axes, images have 4")
    batch, first, second, last = sides
    if last in IMAGE_CHANNELS and first not in IMAGE_CHANNELS:
        return batch, (first, second, last), CHANNELS_LAST
    return batch, (second, last, first), CHANNELS_FIRST


def _in_order(graph: Any, known: set[str]) -> list[Any]:
    """The nodes that the outputs need, each after those that it takes from."""
    makers = {output: node for node in graph.node for output in node.output if output}
    order: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter()
    stack, seen = [each.name for each in graph.output], set(known)
    while stack:
        name = stack.pop()
        if name in seen:
            continue
        seen.add(name)
        if name not in makers:
            raise TransferError(f"nothing in the ONNX graph makes {name!r}: an initialiser or a node is missing")
        sources = [source for source in makers[name].input if source]
        order.add(name, *(source for source in sources if source not in known))
        stack += sources
    try:
        nodes = [makers[name] for name in order.static_order()]
    except graphlib.CycleError as error:
        raise TransferError(f"a cycle in the ONNX graph at {error.args[1][0]!r}") from error
    return list({id(node): node for node in nodes}.values())  # a node may make several
