"""The verbs `arithmetic` and `draw` of `python -m transfer`: what networks cost, what their taps see, how they look."""

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any

from transfer.cli.main import Action, output_file
from transfer.errors import UsageError
from transfer.runtime import tables
from transfer.runtime.files.atomic import write_text

# Shown where no network is named.
NETWORKS = ("vgg16", "resnet50")
# Sections that are pages now, each with the script that prints its figures.
LESSONS = ("stacking", "bottleneck", "gradients")
NOTHING = "-"


# Its title, what can be read from it in a sentence or two, and the table.
Section = tuple[str, str, Sequence[Sequence[str]]]


def arithmetic(parser: argparse.ArgumentParser) -> Action:
    """Adds the arguments of `arithmetic SECTION [NAME ...] [--markdown]`."""
    parser.add_argument("section", type=_section, choices=SECTIONS, metavar="SECTION", help="one of those below")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"networks (default: {' '.join(NETWORKS)})")
    parser.add_argument("--markdown", action="store_true", help="print the table as the documentation shows it")
    parser.epilog = "sections:\n" + "\n".join(f"  {name:12} {text}" for name, (text, _) in SECTIONS.items())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    return _print


def _section(name: str) -> str:
    if name in LESSONS:
        raise argparse.ArgumentTypeError(f"{name} is a lesson: docs/lessons/{name}.md; python docs/lessons/{name}.py")
    return name


def _print(options: argparse.Namespace) -> None:
    title, reading, rows = SECTIONS[options.section][1](options.names or NETWORKS)
    if options.markdown:  # the page has headings of its own
        print(tables.markdown(rows, left=1), "", reading, sep="\n")
    else:
        print(title, tables.text(rows, left=1), reading, sep="\n")


def _stages(names: Sequence[str]) -> Section:
    """Parameters and multiply-adds of every stage of the networks, side by side."""
    from transfer.weights.named_graph import network

    graphs = {name: network(name)[0] for name in names}
    stages = dict.fromkeys(stage for graph in graphs.values() for stage in graph.stages)
    rows = [["stage", *(heading for name in names for heading in (f"{name} parameters", "M multiply-adds"))]]
    for stage in (*(stage for stage in stages if stage != "logits"), "logits"):
        costs = [graph.stages.get(stage) for graph in graphs.values()]
        rows.append([stage, *(cell for cost in costs for cell in _costs(cost))])
    rows.append(["all", *(cell for graph in graphs.values() for cell in _costs(graph))])

    reading = []
    for name, graph in graphs.items():
        largest = max(graph.stages, key=lambda stage: graph.stages[stage].parameters)
        busiest = max(graph.stages, key=lambda stage: graph.stages[stage].macs)
        parameters = graph.stages[largest].parameters / graph.parameters
        macs = graph.stages[busiest].macs / graph.macs
        reading.append(
            f"{name}: {largest} holds {parameters:.0%} of the parameters, {busiest} does {macs:.0%} of the work"
        )
    sizes = ", ".join(f"{name} at {'×'.join(map(str, network(name)[1][:2]))}" for name in names)
    return (
        "Parameters and multiply-adds by stage",
        f"{'; '.join(reading)}. Image sizes: {sizes}; a thousand M multiply-adds are what is published as 1 GFLOP.",
        rows,
    )


def _costs(cost: Any) -> tuple[str, str]:
    """The cells for a stage or a whole graph, with a dash each where the network has no such stage."""
    return (NOTHING, NOTHING) if cost is None else (f"{cost.parameters:,}", f"{cost.macs / 1e6:,.3f}")


def _taps(names: Sequence[str]) -> Section:
    """Every tap of the networks, in the order of the calls: its size, its stride and its receptive field."""
    from transfer.models.graph.trace import fields
    from transfer.weights.named_graph import network

    rows = [["tap", "size", "values", "stride", "receptive field"]]
    for name in names:
        graph, _ = network(name)
        receptive = fields(graph)
        for tap, position in graph.endpoints.items():
            shape, field = graph.nodes[position].shape[1:], receptive[position]
            stride, size = NOTHING, "all"
            if field is not None:
                stride = "×".join(dict.fromkeys(str(side.stride) for side in field))
                size = "×".join(str(side.size) for side in field)
            rows.append([f"{name} {tap}", "×".join(map(str, shape)), f"{math.prod(shape):,}", stride, size])
    return (
        "The taps of each network",
        "An early tap knows a patch and where it is, a late one knows the whole image and where little is: take `:avg` "
        "of a late tap where only the class counts, `:flatten` of an early one where the place does. A field larger "
        "than the image ends in the padding on both sides.",
        rows,
    )


# section -> (what it shows, the function that counts it for networks)
SECTIONS: dict[str, tuple[str, Callable[[Sequence[str]], Section]]] = {
    "stages": ("parameters and multiply-adds of networks by stage", _stages),
    "taps": ("size, stride and receptive field of every tap", _taps),
}


def draw(parser: argparse.ArgumentParser) -> Action:
    """Adds the arguments of `draw NAME --output FILE.svg [--image_size PIXELS]`."""
    parser.add_argument("name", help="a name of the catalogue, or an architecture")
    parser.add_argument("--output", required=True, help="the .svg file to write")
    parser.add_argument("--image_size", type=int, help="pixels a side, instead of the network's usual")
    return _draw


def _draw(options: argparse.Namespace) -> None:
    output = output_file(options.output, ".svg")
    if options.image_size is not None and options.image_size < 1:
        raise UsageError(f"--image_size={options.image_size} must be at least one pixel")
    from transfer.models.drawing.diagram import draw as svg
    from transfer.weights.named_graph import network

    graph, image = network(options.name, options.image_size)
    write_text(output, svg(options.name, graph, image))
    print(f"{output}: {options.name} at {image[0]}×{image[1]}, {graph.parameters:,} parameters")
