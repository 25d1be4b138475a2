"""What stands in the boxes: the words for a node, in the order of reading."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from transfer.models.graph.trace import Node

WORDS = {
    "batch_norm": "BN",
    "relu": "ReLU",
    "relu6": "ReLU6",
    "max_pool": "max",
    "avg_pool": "average",
    "broadcast_in_dim": "reshape",
    "squeeze": "reshape",
}
COLOURS = {
    "conv": "#ddf4ff",
    "dense": "#ffe3cc",
    "max_pool": "#dafbe1",
    "avg_pool": "#dafbe1",
    "mean": "#dafbe1",
    "slice": "#dafbe1",
}
OTHER_COLOUR = "#eaeef2"


def sides(values: Sequence[int]) -> str:
    """(3, 3) -> "3×3"."""
    return "×".join(map(str, values))


def suffix(nodes: Sequence[Node]) -> str:
    """What follows a layer in its box: "BN · ReLU"."""
    return " · ".join(WORDS.get(node.op, node.op) for node in nodes)


def usual_suffix(convolutions: Sequence[Sequence[Node]]) -> str | None:
    """What follows every convolution, None where it is not the same everywhere."""
    found = Counter(suffix(nodes[1:]) for nodes in convolutions)
    return next(iter(found)) if len(found) == 1 else None


def lines(nodes: Sequence[Node], source: Sequence[int], left_out: str | None) -> tuple[str, ...]:
    """The lines of a box.

    Args:
      nodes: what it stands for, first the one that names it.
      source: shape of its input.
      left_out: what follows every convolution, said once for all of them.
    """
    first, after = nodes[0], suffix(nodes[1:])
    if first.op == "batch_norm":
        return (suffix(nodes),)
    title = TITLES.get(first.op, _plain)(first, source)
    groups = first.attributes.get("groups", 1)
    more = [] if groups == 1 else ["depthwise" if groups == source[-1] else f"{groups} groups"]
    if after and not (first.op == "conv" and after == left_out):
        more.append(after)
    return (title, *more)


def _conv(node: Node, source: Sequence[int]) -> str:
    return f"{_window(node.attributes)}, {node.shape[-1]}"


def _window(attributes: Mapping[str, Any]) -> str:
    strides = set(attributes["strides"])
    step = "" if strides == {1} else f" /{attributes['strides'][0]}"
    return sides(attributes["kernel"]) + step


def _pool(node: Node, source: Sequence[int]) -> str:
    if node.attributes.get("adaptive"):
        return f"{WORDS[node.op]} to {sides(node.attributes['cells'])}"
    return f"{WORDS[node.op]} {_window(node.attributes)}"


def _dense(node: Node, source: Sequence[int]) -> str:
    return f"dense, {node.shape[-1]}"


def _mean(node: Node, source: Sequence[int]) -> str:
    return f"mean over {sides(source[1:3])}"


def _slice(node: Node, source: Sequence[int]) -> str:
    return f"1×1 /{source[1] // node.shape[1]}, no weights"


def _reshape(node: Node, source: Sequence[int]) -> str:
    return "flatten" if len(node.shape) == 2 else "reshape"


def _plain(node: Node, source: Sequence[int]) -> str:
    return WORDS.get(node.op, node.op)


TITLES = {
    "conv": _conv,
    "dense": _dense,
    "max_pool": _pool,
    "avg_pool": _pool,
    "mean": _mean,
    "slice": _slice,
    "reshape": _reshape,
}
