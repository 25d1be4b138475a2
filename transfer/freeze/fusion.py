"""What becomes one step of a frozen network, and how many images go through a stretch of steps at a time.

With a convolution go its batch norm, residual, ReLU and 2x2 max-pool. Two 1x1 convolutions that are added become one:
kernels stacked, inputs side by side. On a TPU a residual unit whose shortcut is projected then never writes the
projection, nor reads it again: ResNet-50 in bfloat16 at 224 px moves 50 MB an image instead of 58
(`benchmarks/tpu_v5e.json`, counted by the compiler).

Early layers of a network have large activations and small kernels: a core does best with an image or two at a time.
Late ones have it the other way round: every kernel that is read should meet the whole batch.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from transfer.freeze.convolutions import Geometry, Pointwise
from transfer.models.graph.trace import DILATIONS, Graph, Node

Arrays = dict[str, jax.Array]
# Values of the nodes so far -> the input of a convolution.
Source = Callable[[Mapping[int, jax.Array]], jax.Array]
HALVING = dict(kernel=(2, 2), strides=(2, 2), padding=((0, 0), (0, 0)))


@dataclass(frozen=True)
class Fused:
    """A convolution and the nodes computed with it, as positions in the graph.

    Attributes:
      conv: the convolution.
      norm: the batch norm after it, or None.
      residual: what is added, or None.
      relu, pool: whether they follow.
      nodes: all of them but the residual, in order.
    """

    conv: int
    norm: int | None
    residual: int | None
    relu: bool
    pool: bool
    nodes: tuple[int, ...]

    @property
    def last(self) -> int:
        """The node whose value the whole has."""
        return self.nodes[-1]


def fused(graph: Graph, wanted: Sequence[int]) -> dict[int, Fused]:
    """Position of the last node -> the nodes that become one step there; nothing is fused past those `wanted`."""
    units: dict[int, Fused] = {}
    calls, consumers = Counter(node.layer for node in graph.nodes), graph.consumers()
    for position, node in enumerate(graph.nodes):
        # a layer that is called twice has two shapes, and perhaps two batch norms
        if node.op == "conv" and calls[node.layer] == 1:
            given = node.attributes
            if isinstance(given["padding"], str) or len(given["kernel"]) != 2 or any(map(given.get, DILATIONS)):
                continue  # no `Geometry` describes it
            unit = _unit_of(graph, position, set(wanted), consumers)
            units[unit.last] = unit
    return units


def _unit_of(graph: Graph, conv: int, wanted: set[int], consumers: list[list[int]]) -> Fused:
    """A convolution with every node after it that can be computed in the same step."""
    nodes, norm, residual, relu, pool = [conv], None, None, False, False

    def following(op: str) -> Node | None:
        if nodes[-1] in wanted or len(consumers[nodes[-1]]) != 1:
            return None
        node = graph.nodes[consumers[nodes[-1]][0]]
        return node if node.op == op else None

    def take() -> int:
        nodes.append(consumers[nodes[-1]][0])
        return nodes[-1]

    if following("batch_norm"):
        norm = take()
    add = following("add")
    # the last of two summands takes the other in; adding a value to itself is no residual
    if add and len(set(add.inputs)) == 2:
        other = next(i for i in add.inputs if i != nodes[-1])
        if other < conv and graph.nodes[other].shape == add.shape:
            residual = other
            take()
    if following("relu"):
        relu = bool(take())
    halving = following("max_pool")
    if residual is None and halving and dict(halving.attributes) == HALVING:
        pool = bool(take())
    return Fused(conv, norm, residual, relu, pool, tuple(nodes))


def joinable(graph: Graph, units: Mapping[int, Fused], geometries: Mapping[int, Geometry]) -> dict[int, int]:
    """Position of a unit -> that of the unit which computes only its residual; both are 1x1 convolutions."""
    consumers, wanted = graph.consumers(), set(graph.endpoints.values())
    pointwise = [last for last, unit in units.items() if Pointwise().fits(geometries[last]) and not unit.pool]
    joined = {}
    for last in pointwise:
        other = -1 if units[last].residual is None else units[last].residual
        if other in pointwise and other not in wanted and len(consumers[other]) == 1:
            plain = units[other].residual is None and not units[other].relu
            if plain and geometries[last].strides == (1, 1):
                joined[last] = other
    return joined


def side_by_side(graph: Graph, unit: Fused, other: Fused, strides: tuple[int, int]) -> Source:
    """The joined convolution's input: the channels of `unit`, then the pixels of `other` that its strides keep."""
    (first,), (second,) = graph.nodes[unit.conv].inputs, graph.nodes[other.conv].inputs
    down, across = strides
    return lambda values: jnp.concatenate([values[first], values[second][:, ::down, ::across]], axis=-1)


def stacked(own: Arrays, other: Arrays, layer: str, other_layer: str) -> Arrays:
    """HWIO kernels stacked along the input channels and biases added, under the name of `layer`."""
    kernels = [own[f"{layer}.kernel"], other[f"{other_layer}.kernel"]]
    named = ((own, f"{layer}.bias"), (other, f"{other_layer}.bias"))
    biases = [arrays[name] for arrays, name in named if name in arrays]
    result = {f"{layer}.kernel": jnp.concatenate(kernels, axis=2)}
    return result | ({f"{layer}.bias": sum(biases[1:], biases[0])} if biases else {})


@dataclass(frozen=True)
class Segment:
    """Nodes `start` to `stop`, the last left out, for `chunk` images at a time; node `start - 1` is all they take."""

    start: int
    stop: int
    chunk: int


def segments(graph: Graph, steps: Collection[int], batch: int, limit: int | None, itemsize: int = 4) -> list[Segment]:
    """The whole graph in order, for `batch` images of numbers of `itemsize` bytes.

    Args:
      steps: positions whose values exist: cuts are made right after one of them.
      limit: bytes that a node of a chunk and its inputs may take; None: one segment, the batch at once.
    """
    total = len(graph.nodes)
    if limit is None:
        return [Segment(1, total, batch)]
    edges = sorted({1, total, *(position + 1 for position in _cuts(graph, steps))})
    parts: list[Segment] = []
    # from the end: a stretch never takes more images than the one after it, or there would be cuts for a node or two
    for start, stop in reversed(list(itertools.pairwise(edges))):
        size = itemsize * max(_numbers(graph, position) for position in range(start, stop))
        chunk = next(n for n in range(batch, 0, -1) if batch % n == 0 and (n == 1 or n * size <= limit))
        after = parts[-1] if parts else Segment(stop, stop, batch)
        chunk = next(n for n in range(min(chunk, after.chunk), 0, -1) if after.chunk % n == 0)
        if parts and after.chunk == chunk:
            stop = parts.pop().stop
        parts.append(Segment(start, stop, chunk))
    return parts[::-1]


def _cuts(graph: Graph, steps: Collection[int]) -> list[int]:
    """Positions after which nothing but their value is needed; what end points show is kept anyway."""
    last_use = list(range(len(graph.nodes)))
    for position, node in enumerate(graph.nodes):
        for source in node.inputs:
            last_use[source] = position
    cuts, latest = [], last_use[0]
    for position in range(1, len(graph.nodes)):
        if position in steps and latest <= position:
            cuts.append(position)
        latest = max(latest, last_use[position])
    return cuts


def _numbers(graph: Graph, position: int) -> int:
    """How many numbers a node's value and its inputs have, for one image."""
    node = graph.nodes[position]
    return sum(math.prod(shape[1:]) for shape in (node.shape, *(graph.nodes[i].shape for i in node.inputs)))
