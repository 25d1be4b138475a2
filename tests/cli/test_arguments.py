"""Every argument of every verb, as kept in `tests/golden/arguments.json`: its names, default, choices and number.

After a change that is meant, `PYTHONPATH=. python tests/cli/test_arguments.py` writes the file again; read its diff.
"""

import argparse
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags

from transfer.cli.scripts import FLAGS
from transfer.cli.verbs import EXPERIMENTS, VERBS, parser_of

GOLDEN = Path(__file__).parents[1] / "golden" / "arguments.json"


def described(action: argparse.Action) -> str:
    """An argument in a line, what is usual of it left out."""
    facts: dict[str, Any] = {"default": action.default, "nargs": action.nargs, "const": action.const}
    facts |= {"metavar": action.metavar, "type": getattr(action.type, "__name__", None)}
    facts["choices"] = list(action.choices) if action.choices else None
    facts["required"] = True if action.option_strings and action.required else None
    names = ", ".join(action.option_strings) or action.dest
    return " ".join([names, *(f"{key}={value!r}" for key, value in facts.items() if value is not None)])


def arguments(parser: argparse.ArgumentParser, verb: str) -> Iterator[tuple[str, list[str]]]:
    """The arguments of a verb and of what is below it."""
    actions = [action for action in parser._actions if action.dest != "help"]
    yield verb, [described(action) for action in actions]
    for action in actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from arguments(inner, f"{verb} {name}")


def everything() -> str:
    """The arguments of all verbs, then the flags of experiments, as JSON."""
    known = {name: lines for verb in VERBS for name, lines in arguments(parser_of(verb)[0], verb)}
    for verb, (module, _) in EXPERIMENTS.items():
        importlib.import_module(module)
        known[verb] = [f"--{name} default={flags.FLAGS[name].default!r}" for name in FLAGS[verb]]
    return json.dumps(known, indent=1, ensure_ascii=False) + "\n"


def test_the_arguments_are_what_they_were():
    assert everything() == GOLDEN.read_text("utf-8")


if __name__ == "__main__":
    GOLDEN.write_text(everything(), "utf-8")
