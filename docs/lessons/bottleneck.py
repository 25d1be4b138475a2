"""Why deep ResNets have bottlenecks: the units of `transfer.models.resnet` side by side.

python docs/lessons/bottleneck.py
"""

from transfer.models.graph.trace import Graph, Node, receptive_field
from transfer.models.resnet import BasicUnit, Bottleneck, Variant
from transfer.runtime import tables
from transfer.weights.named_graph import part

# Pixels a side of the map that the units work on, which keep its shape.
SIDE = 56
# name: the kind of unit, channels in and out, channels inside it, the 3x3 of its bottleneck.
UNITS: dict[str, tuple[type[BasicUnit | Bottleneck], int, int, Variant]] = {
    "pair at 64 (ResNet-18, 34)": (BasicUnit, 64, 64, Variant()),
    "pair at 256": (BasicUnit, 256, 256, Variant()),
    "bottleneck (ResNet-50)": (Bottleneck, 256, 64, Variant()),
    "wide bottleneck (Wide ResNet-50-2)": (Bottleneck, 256, 64, Variant(width_per_group=128)),
    "grouped bottleneck (ResNeXt-50 32x4d)": (Bottleneck, 256, 64, Variant(groups=32, width_per_group=4)),
}
HEADINGS = ("unit", "channels", "convolutions", "receptive field", "weights", "with batch norm", "M multiply-adds")


def unit(name: str) -> Graph:
    """The graph of one of `UNITS`, from which everything below is counted."""
    kind, inputs, channels, variant = UNITS[name]
    return part(lambda rngs: kind(inputs, channels, 1, variant, rngs), SIDE, inputs)


def layer(convolution: Node) -> str:
    """A convolution in a few characters: `3×3→128 in 32 groups`."""
    groups = convolution.attributes["groups"]
    window = "×".join(map(str, convolution.attributes["kernel"]))
    return f"{window}→{convolution.shape[-1]}" + (f" in {groups} groups" if groups > 1 else "")


def row(name: str) -> tuple[str, ...]:
    """The cells of one unit, below `HEADINGS`."""
    graph = unit(name)
    convolutions = [node for node in graph.nodes if node.op == "conv"]
    return (
        name,
        str(graph.nodes[0].shape[-1]),
        ", ".join(map(layer, convolutions)),
        receptive_field(graph),
        f"{sum(node.parameters for node in convolutions):,}",
        f"{graph.parameters:,}",
        f"{graph.macs / 1e6:,.3f}",
    )


def main() -> None:
    """Prints the table of docs/lessons/bottleneck.md, and what can be read from it."""
    pair, wide_pair, bottleneck = (unit(name).parameters for name in list(UNITS)[:3])
    print(tables.markdown([HEADINGS, *map(row, UNITS)], left=1))
    print(
        f"\nA bottleneck carries 256 channels for the price of a plain pair at 64 ({bottleneck / pair:.2f} times its "
        f"parameters), where a plain pair at 256 costs {wide_pair / bottleneck:.1f} times as much: the 1×1 layers lead "
        "into 64 channels and out again, so that the expensive 3×3 works on few. In return it has one 3×3 less: it "
        "sees 3×3 pixels, not 5×5."
    )


if __name__ == "__main__":
    main()
