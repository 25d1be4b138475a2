"""Finds in a model's graph what belongs to one convolution: batch norm, residual, ReLU, 2x2 max-pool."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from transfer.models.graph.trace import DILATIONS, Graph, Node

HALVING = dict(kernel=(2, 2), strides=(2, 2), padding=((0, 0), (0, 0)))


@dataclass(frozen=True)
class Fused:
    """A convolution and what follows it, as positions in the graph.

    Attributes:
      conv: the convolution.
      norm: the batch norm after it, or None.
      residual: what is added, or None.
      relu, pool: whether they follow.
      last: the node whose value the whole has.
    """

    conv: int
    norm: int | None
    residual: int | None
    relu: bool
    pool: bool
    last: int


def fused(graph: Graph, wanted: Sequence[int]) -> dict[int, Fused]:
    """Position of the last node -> what is computed there at once.

    Args:
      graph: of the model.
      wanted: positions whose values somebody wants to see: nothing is fused past them.
    """
    found: dict[int, Fused] = {}
    calls = Counter(node.layer for node in graph.nodes)
    for position, node in enumerate(graph.nodes):
        # a layer that is called twice has two shapes, and perhaps two batch norms
        if node.op == "conv" and calls[node.layer] == 1 and _is_ordinary(node):
            one = _from(graph, position, set(wanted), graph.consumers())
            found[one.last] = one
    return found


def _is_ordinary(node: Node) -> bool:
    """What `Geometry` can say: explicit padding, no dilation, images of two dimensions."""
    given = node.attributes
    dilated = any(name in given for name in DILATIONS)
    return not dilated and not isinstance(given["padding"], str) and len(given["kernel"]) == 2


def _from(graph: Graph, conv: int, wanted: set[int], consumers: list[list[int]]) -> Fused:
    last, norm, residual, relu, pool = conv, None, None, False, False

    def following(op: str) -> Node | None:
        if last in wanted or len(consumers[last]) != 1:
            return None
        node = graph.nodes[consumers[last][0]]
        return node if node.op == op else None

    if following("batch_norm"):
        last = norm = consumers[last][0]
    add = following("add")
    # the last of two summands takes the other in; adding a value to itself is no residual
    if add and len(set(add.inputs)) == 2:
        other = next(i for i in add.inputs if i != last)
        if other < conv and graph.nodes[other].shape == add.shape:
            last, residual = consumers[last][0], other
    if following("relu"):
        last, relu = consumers[last][0], True
    halving = following("max_pool")
    if residual is None and halving and dict(halving.attributes) == HALVING:
        last, pool = consumers[last][0], True
    return Fused(conv, norm, residual, relu, pool, last)
