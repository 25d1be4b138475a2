"""The verb `draw` of `python -m transfer`."""

import argparse

from transfer.cli.main import Action, output_file
from transfer.errors import UsageError
from transfer.runtime.files.atomic import write_text


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
