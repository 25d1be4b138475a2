"""The verb `draw` of `python -m transfer`."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from transfer.errors import UsageError

Action = Callable[[argparse.Namespace], None]


def draw(parser: argparse.ArgumentParser) -> Action:
    """`draw NAME --output FILE.svg [--image_size PIXELS]`."""
    parser.add_argument("name", help="a name of the catalogue, or an architecture")
    parser.add_argument("--output", required=True, help="the .svg file to write")
    parser.add_argument("--image_size", type=int, help="pixels a side, instead of the network's usual")
    return _draw


def _draw(options: argparse.Namespace) -> None:
    output = Path(options.output)
    if output.suffix != ".svg":
        raise UsageError(f"--output={output} must end in .svg")
    if not output.absolute().parent.is_dir():
        raise UsageError(f"--output={output}: there is no folder {output.absolute().parent}")
    if options.image_size is not None and options.image_size < 1:
        raise UsageError(f"--image_size={options.image_size} must be at least one pixel")
    from transfer.arithmetic.named import network
    from transfer.drawing.diagram import draw as svg

    graph, image = network(options.name, options.image_size)
    part = output.with_name(f".{output.name}.part")
    try:
        part.write_text(svg(options.name, graph, image), "utf-8")
        os.replace(part, output)
    finally:
        part.unlink(missing_ok=True)
    print(f"{output}: {options.name} at {image[0]}×{image[1]}, {graph.parameters:,} parameters")
