"""The verb `arithmetic` of `python -m transfer`: the tables of `docs/architectures.md`."""

import argparse
import importlib
from collections.abc import Callable

from transfer.errors import UsageError

Action = Callable[[argparse.Namespace], None]

# section: (what it shows, whether it is about networks that are named). Its module is imported when it is printed.
SECTIONS = {
    "stacking": ("three 3x3 layers against one 7x7", False),
    "bottleneck": ("a bottleneck unit against a plain pair", False),
    "stages": ("parameters and multiply-adds of networks by stage", True),
    "taps": ("size, stride and receptive field of every tap", True),
    "gradients": ("the gradient at the first layer over depth, measured (a minute)", False),
}
# What a section about networks shows where none is named.
NETWORKS = ("vgg16", "resnet50")


def arithmetic(parser: argparse.ArgumentParser) -> Action:
    """`arithmetic SECTION [NAME ...] [--markdown]`."""
    parser.add_argument("section", choices=SECTIONS, metavar="SECTION", help="one of those below")
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks, where the section is about networks")
    parser.add_argument("--markdown", action="store_true", help="the table as the documentation shows it")
    parser.epilog = "sections:\n" + "\n".join(f"  {name:12} {text}" for name, (text, _) in SECTIONS.items())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    return _print


def _print(options: argparse.Namespace) -> None:
    about_networks = SECTIONS[options.section][1]
    if options.names and not about_networks:
        raise UsageError(f"arithmetic {options.section} takes no names of networks, got {' '.join(options.names)}")
    section = importlib.import_module(f"transfer.cli.arithmetic_tables.{options.section}").section
    shown = section(options.names or NETWORKS) if about_networks else section()
    print(shown.markdown() if options.markdown else shown.text())
