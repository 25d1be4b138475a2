"""Why VGG has only 3x3 convolutions: three in a row against one 7x7 that sees as much.

python docs/lessons/stacking.py
"""

import math
from functools import partial

import jax
from flax import nnx

from transfer.models.graph.trace import Graph, receptive_field
from transfer.models.layers import conv
from transfer.runtime import tables
from transfer.weights.named_graph import part

CHANNELS = (64, 128, 256, 512)
# Pixels a side of the map that the layers work on; parameters do not depend on it, multiply-adds do.
SIDE = 56
# name: the windows of its layers. Inception v3 takes VGG's argument further, to 1x7 and 7x1.
STACKS: dict[str, tuple[tuple[int, int], ...]] = {
    "one 7×7": ((7, 7),),
    "three 3×3": ((3, 3), (3, 3), (3, 3)),
    "1×7, 7×1": ((1, 7), (7, 1)),
}
HEADINGS = (
    *("channels", "layers", "receptive field", "weights", "formula", "biases", "parameters"),
    *("M multiply-adds", "ReLUs"),
)


class Stack(nnx.Module):
    """Convolutions from C to C channels, each followed by a ReLU."""

    def __init__(self, channels: int, windows: tuple[tuple[int, int], ...], rngs: nnx.Rngs) -> None:
        self.layers = nnx.List([conv(channels, channels, window, rngs=rngs) for window in windows])

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return x


def stack(channels: int, name: str) -> Graph:
    """The graph of one of `STACKS`, from which everything below is counted."""
    return part(partial(Stack, channels, STACKS[name]), SIDE, channels)


def row(channels: int, name: str) -> tuple[str, ...]:
    """The cells of one stack, below `HEADINGS`."""
    graph = stack(channels, name)
    biases = sum(node.shape[-1] for node in graph.nodes if node.attributes.get("bias"))
    factor = sum(map(math.prod, STACKS[name]))
    return (
        str(channels),
        name,
        receptive_field(graph),
        f"{graph.parameters - biases:,}",
        f"{factor}·{channels}² = {factor * channels**2:,}",
        f"{biases:,}",
        f"{graph.parameters:,}",
        f"{graph.macs / 1e6:,.3f}",
        str(sum(node.op == "relu" for node in graph.nodes)),
    )


def main() -> None:
    """Prints the table of docs/lessons/stacking.md, and what can be read from it."""
    rows = [row(channels, name) for channels in CHANNELS for name in STACKS]
    share = stack(CHANNELS[-1], "three 3×3").parameters / stack(CHANNELS[-1], "one 7×7").parameters
    print(tables.markdown([HEADINGS, *rows], left=1))
    print(
        f"\nThree 3×3 layers see the same 7×7 pixels as one 7×7 layer with {share:.0%} of its parameters and "
        "multiply-adds, three biases a channel instead of one included, and with three ReLUs instead of one."
    )


if __name__ == "__main__":
    main()
