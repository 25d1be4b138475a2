"""A model as a small graph in the order of its calls: its layers, what lies between them, and what each costs.

Nothing is computed and nothing is asked of the families: a copy of the model is traced to a jaxpr in which each call
of a module is one named equation, and the few equations between the layers are read back as what they mean (a
reshape and a maximum are a max-pool). Drawings, counts by stage and the matching with ONNX graphs start here.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from transfer.models.graph.equations import At, Reading, Step, name_calls


@dataclasses.dataclass(frozen=True)
class Node(Step):
    """A step of a model together with its layer's settings.

    Attributes:
      op: `input`, `conv`, `dense`, `batch_norm`, another layer's class in snake case, `relu` and other functions of
        `jax.nn` by name, `add`, `concat`, `max_pool`, `avg_pool`, `mean` (over height and width), `reshape`, `pad`,
        or the name of a JAX primitive (`mul`, `sub`, …; constants are no inputs).
      layer: dotted path of the module whose parameters it uses (`"stage2.unit3.conv2"`), else empty.
      scope: dotted path of the innermost module that calls it (`"stage2.unit3"`), empty for the model itself.
      inputs: positions of the nodes it takes, in the order of its operands.
      shape: of its output, batch first, channels last.
      attributes: conv: `kernel`, `strides`, `padding` ((low, high) of each side, or Flax's word), `groups`, `bias`,
        and `kernel_dilation` or `input_dilation` where there is one;
        dense: `bias`; batch_norm: `epsilon`, `scale`, `bias`; pools: `kernel`, `strides`, `padding`, and `explicit`
        where padding takes part as a value, or `adaptive` and `cells` for PyTorch's; concat: `axis`; mean: `axes`;
        slice: `strides`, by axis.
      parameters: how many the layer has (running statistics are none).
      macs: multiply-adds of a layer with a kernel, for one image.
    """

    parameters: int = 0
    macs: int = 0

    @property
    def stage(self) -> str:
        """The first part of the path: `"stage2"`, `"block1"`, `"logits"`; empty between the stages."""
        return (self.layer or self.scope).partition(".")[0]


@dataclasses.dataclass(frozen=True)
class Total:
    """Parameters and multiply-adds (for one image) of a part of a model."""

    parameters: int
    macs: int


@dataclasses.dataclass(frozen=True)
class Graph:
    """A model's nodes, each after its inputs; node 0 is the images.

    Attributes:
      nodes: only those that some end point needs.
      output: position of the model's output.
      endpoints: tap -> position of its node, in the model's order.
      parameters_by_stage: first part of a parameter's path -> count, in the model's order.
    """

    nodes: tuple[Node, ...]
    output: int
    endpoints: Mapping[str, int]
    parameters_by_stage: Mapping[str, int]

    @property
    def parameters(self) -> int:
        """Trainable parameters of the whole model."""
        return sum(self.parameters_by_stage.values())

    @property
    def macs(self) -> int:
        """Multiply-adds of convolutions and dense layers for one image: what torchvision publishes as GFLOPs (1e9)."""
        return sum(node.macs for node in self.nodes)

    @cached_property
    def stages(self) -> dict[str, Total]:
        """Totals by the first part of the layers' paths, in the order of the calls."""
        names = dict.fromkeys(node.stage for node in self.nodes if node.layer) | dict.fromkeys(self.parameters_by_stage)
        macs = dict.fromkeys(names, 0)
        for node in self.nodes:
            if node.macs:
                macs[node.stage] += node.macs
        return {name: Total(self.parameters_by_stage.get(name, 0), macs[name]) for name in names}

    def consumers(self) -> list[list[int]]:
        """The positions of the nodes that take each node, a list a node."""
        consumers: list[list[int]] = [[] for _ in self.nodes]
        for position, node in enumerate(self.nodes):
            for source in node.inputs:
                consumers[source].append(position)
        return consumers


def trace(
    model: nnx.Module,
    image_shape: Sequence[int] = (1, 224, 224, 3),
    *,
    dtype: Any = jnp.float32,
    with_values: bool = False,
    taps_wanted: Collection[str] | None = None,
) -> Graph:
    """The graph of a model in inference mode; the model itself is left as it is.

    Args:
      model: returns `(output, endpoints)`; real, or shapes only (`registry.build(arch, seed=None)`).
      image_shape: (B, H, W, C) of the images.
      dtype: of the images and the parameters.
      with_values: each node holds what computes it (`chain`); of a model of shapes only, all but its parameters.
      taps_wanted: end points to keep, and with them the nodes that they need; None keeps all, and the output.

    Raises:
      UsageError: the model's own, for images that it does not take.
    """
    graphdef, state = nnx.split(model)
    layers: dict[str, nnx.Module] = {}
    taps: list[str] = []

    def run(state: Any, images: jax.Array) -> list[jax.Array]:
        copy = nnx.merge(graphdef, state)
        copy.eval()
        layers.update(name_calls(copy))
        output, endpoints = copy(images)
        taps[:] = endpoints
        return [output, *endpoints.values()]

    def typed(leaf: Any) -> jax.ShapeDtypeStruct:
        is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
        return jax.ShapeDtypeStruct(leaf.shape, dtype if is_float else leaf.dtype)

    jaxpr = jax.make_jaxpr(run)(jax.tree.map(typed, state), jax.ShapeDtypeStruct(tuple(image_shape), dtype))

    def value(leaf: Any) -> Any:
        known = with_values and not isinstance(leaf, jax.ShapeDtypeStruct)
        return leaf.astype(typed(leaf).dtype) if known else None

    reading = Reading(tuple(image_shape), layers, with_values)
    outputs = reading.read(jaxpr.jaxpr, jaxpr.consts, [*map(value, jax.tree.leaves(state)), At(0)])
    output, *endpoints = [place.position if isinstance(place, At) else 0 for place in outputs]
    positions = {tap: at for tap, at in zip(taps, endpoints, strict=True) if taps_wanted is None or tap in taps_wanted}
    if taps_wanted is not None:
        output = max(positions.values(), default=0)
    # what was read as a part of another step is left out
    needed = {0, *leading_to([output, *positions.values()], lambda i: reading.steps[i].inputs)}
    kept = {old: new for new, old in enumerate(sorted(needed))}
    return Graph(
        tuple(_node(reading.steps[old], kept, layers, image_shape[0]) for old in kept),
        kept[output],
        {tap: kept[position] for tap, position in positions.items()},
        _parameters_by_stage(state),
    )


def leading_to(outputs: Iterable[int], inputs: Callable[[int], Iterable[int]]) -> set[int]:
    """The positions from which `inputs` leads to one of `outputs`, those included; of any kind of graph."""
    visited: set[int] = set()
    stack = list(outputs)
    while stack:
        position = stack.pop()
        if position not in visited:
            visited.add(position)
            stack += inputs(position)
    return visited


def _node(step: Step, kept: Mapping[int, int], layers: Mapping[str, nnx.Module], batch: int) -> Node:
    inputs = tuple(kept[i] for i in step.inputs)
    node = Node(step.op, inputs, step.shape, step.layer, step.scope, step.attributes, step.chain)
    if not step.layer:
        return node
    layer = layers[step.layer]
    op, attributes = _settings(layer)
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(layer, nnx.Param)))
    kernel = getattr(layer, "kernel", None)
    # HWIO or (in, out): each output position costs one multiply-add for each element of the kernel
    macs = 0 if kernel is None else math.prod(step.shape[:-1]) // batch * math.prod(kernel.shape)
    return dataclasses.replace(node, op=op, attributes=attributes, parameters=parameters, macs=macs)


def _parameters_by_stage(state: Any) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for path, variable in nnx.to_flat_state(nnx.filter_state(state, nnx.Param)):
        counts[str(path[0])] += math.prod(variable.shape)
    return dict(counts)


DILATIONS = ("kernel_dilation", "input_dilation")


def _settings(layer: Any) -> tuple[str, dict[str, Any]]:
    """A layer's operation and attributes."""
    match type(layer).__name__:
        case "Conv":
            return "conv", _conv_attributes(layer)
        case "Linear":
            return "dense", dict(bias=layer.bias is not None)
        case "BatchNorm":
            given = dict(scale=layer.scale is not None, bias=layer.bias is not None)
            return "batch_norm", dict(epsilon=layer.epsilon, **given)
        case name:
            return re.sub("(?<!^)([A-Z])", r"_\1", name).lower(), {}


def _conv_attributes(layer: nnx.Conv) -> dict[str, Any]:
    def pair(value: Any) -> tuple[int, int]:
        return (value, value) if isinstance(value, int) else tuple(value)

    padding = layer.padding
    dilations = {name: pair(value) for name in DILATIONS if pair(value := getattr(layer, name) or 1) != (1, 1)}
    return dilations | dict(
        kernel=tuple(layer.kernel_size),
        strides=pair(1 if layer.strides is None else layer.strides),
        padding=padding if isinstance(padding, str) else tuple(pair(side) for side in pair(padding)),
        groups=layer.feature_group_count,
        bias=layer.bias is not None,
    )


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
