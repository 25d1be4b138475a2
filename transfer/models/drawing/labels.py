"""What stands in the boxes: the words for a node, in the order of reading."""

from collections.abc import Callable, Sequence

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
COLOURS = {"conv": "#ddf4ff", "dense": "#ffe3cc", **dict.fromkeys(("max_pool", "avg_pool", "mean", "slice"), "#dafbe1")}
OTHER_COLOUR = "#eaeef2"


def sides(values: Sequence[int]) -> str:
    """(3, 3) -> "3×3"."""
    return "×".join(map(str, values))


def suffix(nodes: Sequence[Node]) -> str:
    """The text after a layer in its box: "BN · ReLU"."""
    return " · ".join(WORDS.get(node.op, node.op) for node in nodes)


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
    title = TITLES[first.op](first, source) if first.op in TITLES else suffix([first])
    groups = first.attributes.get("groups", 1)
    more = [] if groups == 1 else ["depthwise" if groups == source[-1] else f"{groups} groups"]
    if after and not (first.op == "conv" and after == left_out):
        more.append(after)
    return (title, *more)


def _window(node: Node) -> str:
    """A window and its step: "3×3 /2"."""
    strides = node.attributes["strides"]
    return sides(node.attributes["kernel"]) + ("" if set(strides) == {1} else f" /{strides[0]}")


def _pool(node: Node, source: Sequence[int]) -> str:
    cells = f"to {sides(node.attributes['cells'])}" if node.attributes.get("adaptive") else _window(node)
    return f"{WORDS[node.op]} {cells}"


# Operation -> the first line of its box, of the node and the shape of its input; others have their word.
TITLES: dict[str, Callable[[Node, Sequence[int]], str]] = {
    "conv": lambda node, source: f"{_window(node)}, {node.shape[-1]}",
    "dense": lambda node, source: f"dense, {node.shape[-1]}",
    "max_pool": _pool,
    "avg_pool": _pool,
    "mean": lambda node, source: f"mean over {sides(source[1:3])}",
    "slice": lambda node, source: f"1×1 /{source[1] // node.shape[1]}, no weights",
    "reshape": lambda node, source: "flatten" if len(node.shape) == 2 else "reshape",
}
