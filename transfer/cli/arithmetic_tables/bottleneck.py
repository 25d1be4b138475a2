"""Why deep ResNets have bottlenecks: the units of `transfer.models.resnet` side by side."""

from transfer.cli.arithmetic_tables.section import Section, count, millions
from transfer.models.graph.receptive import receptive_field
from transfer.models.graph.trace import Graph, Node
from transfer.models.resnet import BasicUnit, Bottleneck, Variant
from transfer.weights.named_graph import part

SIDE = 56
# name: the kind of unit, channels in and out, channels inside it, the 3x3 of its bottleneck.
UNITS: dict[str, tuple[type[BasicUnit | Bottleneck], int, int, Variant]] = {
    "pair at 64 (ResNet-18, 34)": (BasicUnit, 64, 64, Variant()),
    "pair at 256": (BasicUnit, 256, 256, Variant()),
    "bottleneck (ResNet-50)": (Bottleneck, 256, 64, Variant()),
    "wide bottleneck (Wide ResNet-50-2)": (Bottleneck, 256, 64, Variant(width_per_group=128)),
    "grouped bottleneck (ResNeXt-50 32x4d)": (Bottleneck, 256, 64, Variant(groups=32, width_per_group=4)),
}


def section() -> Section:
    """Parameters and multiply-adds of each unit of the first stage, without its shortcut's (which has none)."""
    graphs = {name: _graph(*settings) for name, settings in UNITS.items()}
    pair, wide_pair, bottleneck = (graphs[name].parameters for name in list(UNITS)[:3])
    rows = tuple(
        (
            name,
            count(graph.nodes[0].shape[-1]),
            ", ".join(_layer(node) for node in _convolutions(graph)),
            receptive_field(graph),
            count(sum(node.parameters for node in _convolutions(graph))),
            count(graph.parameters),
            millions(graph.macs),
        )
        for name, graph in graphs.items()
    )
    return Section(
        f"Residual units that keep their shape, on a map of {SIDE}×{SIDE}",
        f"A bottleneck carries 256 channels for the price of a plain pair at 64 ({bottleneck / pair:.2f} times its "
        f"parameters), where a plain pair at 256 costs {wide_pair / bottleneck:.1f} times as much: the 1×1 layers lead "
        "into 64 channels and out again, so that the expensive 3×3 works on few. In return it has one 3×3 less: it "
        "sees 3×3 pixels, not 5×5.",
        ("unit", "channels", "convolutions", "receptive field", "weights", "with batch norm", "M multiply-adds"),
        rows,
    )


def _graph(unit: type[BasicUnit | Bottleneck], inputs: int, channels: int, variant: Variant) -> Graph:
    return part(lambda rngs: unit(inputs, channels, 1, variant, rngs), SIDE, inputs)


def _convolutions(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.op == "conv"]


def _layer(node: Node) -> str:
    """Such as `3×3, 128 in 32 groups`."""
    groups = node.attributes["groups"]
    window = "×".join(map(str, node.attributes["kernel"]))
    return f"{window}→{node.shape[-1]}" + (f" in {groups} groups" if groups > 1 else "")
