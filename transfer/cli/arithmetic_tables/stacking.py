"""Why VGG has only 3x3 convolutions: three in a row against one 7x7 that sees as much."""

import math
from functools import partial

import jax
from flax import nnx

from transfer.cli.arithmetic_tables.section import Section, count, millions
from transfer.models.graph.receptive import receptive_field
from transfer.models.graph.trace import Graph
from transfer.models.layers import conv
from transfer.weights.named_graph import part

CHANNELS = (64, 128, 256, 512)
# The map that the layers work on, pixels a side; parameters do not depend on it, multiply-adds do.
SIDE = 56
# name: the windows of its layers. Inception v3 goes on from VGG's argument to 1x7 and 7x1.
STACKS: dict[str, tuple[tuple[int, int], ...]] = {
    "one 7×7": ((7, 7),),
    "three 3×3": ((3, 3), (3, 3), (3, 3)),
    "1×7, 7×1": ((1, 7), (7, 1)),
}


class Stack(nnx.Module):
    """Convolutions from C to C channels, each followed by a ReLU."""

    def __init__(self, channels: int, windows: tuple[tuple[int, int], ...], rngs: nnx.Rngs) -> None:
        self.layers = nnx.List([conv(channels, channels, window, rngs=rngs) for window in windows])

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return x


def section() -> Section:
    """Parameters, multiply-adds and receptive field of each stack."""
    graphs = {
        (channels, name): part(partial(Stack, channels, windows), SIDE, channels)
        for channels in CHANNELS
        for name, windows in STACKS.items()
    }
    share = graphs[CHANNELS[-1], "three 3×3"].parameters / graphs[CHANNELS[-1], "one 7×7"].parameters
    return Section(
        f"Stacks of convolutions from C to C channels on a map of {SIDE}×{SIDE}",
        f"Three 3×3 layers see the same 7×7 pixels as one 7×7 layer with {share:.0%} of its parameters and "
        "multiply-adds, three biases a channel instead of one included, and with three ReLUs instead of one.",
        (
            "channels",
            "layers",
            "receptive field",
            "weights",
            "formula",
            "biases",
            "parameters",
            "M multiply-adds",
            "ReLUs",
        ),
        tuple(_row(channels, name, graph) for (channels, name), graph in graphs.items()),
    )


def _row(channels: int, name: str, graph: Graph) -> tuple[str, ...]:
    biases = sum(node.shape[-1] for node in graph.layers().values() if node.attributes["bias"])
    factor = sum(map(math.prod, STACKS[name]))
    formula = f"{factor}·{channels}² = {factor * channels**2:,}"
    relus = sum(node.op == "relu" for node in graph.nodes)
    return (
        str(channels),
        name,
        receptive_field(graph),
        count(graph.parameters - biases),
        formula,
        count(biases),
        count(graph.parameters),
        millions(graph.macs),
        str(relus),
    )
