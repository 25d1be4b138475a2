"""What each tap of a network gives: its size, its stride and how many pixels of the image one value has seen."""

import math
from collections.abc import Sequence

from transfer.cli.arithmetic_tables.section import Section, count
from transfer.models.graph.receptive import Fields, fields
from transfer.weights.named_graph import network


def section(names: Sequence[str]) -> Section:
    """Every end point of the networks, in the order of the calls."""
    rows = []
    for name in names:
        graph, _ = network(name)
        seen = fields(graph)
        for tap, position in graph.endpoints.items():
            shape = graph.nodes[position].shape[1:]
            values = count(math.prod(shape))
            rows.append((f"{name} {tap}", "×".join(map(str, shape)), values, *_geometry(seen[position])))
    return Section(
        "The taps of each network",
        "An early tap knows a patch and where it is, a late one knows the whole image and where little is: take `:avg` "
        "of a late tap where only the class counts, `:flatten` of an early one where the place does. A field larger "
        "than the image ends in the padding on both sides.",
        ("tap", "size", "values", "stride", "receptive field"),
        tuple(rows),
    )


def _geometry(field: Fields) -> tuple[str, str]:
    if field is None:
        return "-", "all"
    strides, sizes = ([getattr(side, name) for side in field] for name in ("stride", "size"))
    return "×".join(map(str, dict.fromkeys(strides))), "×".join(map(str, sizes))
