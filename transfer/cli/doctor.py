"""`python -m transfer doctor`: what this machine has for the package, and what is wrong, in plain words."""

import argparse
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from transfer.cli import doctor_checks
from transfer.cli.doctor_findings import Examined, Problem
from transfer.errors import TransferError
from transfer.runtime import tables

Action = Callable[[argparse.Namespace], None]


def doctor(parser: argparse.ArgumentParser) -> Action:
    """`doctor [--json] [--no_network]`: exit code 1 only where something makes the package unusable."""
    parser.add_argument("--json", action="store_true", help="print one JSON object: facts by title, and the problems")
    parser.add_argument("--no_network", action="store_true", help="do not try to reach the sources of weights")

    def run(options: argparse.Namespace) -> None:
        found = examine(network=not options.no_network)
        print(_json(found) if options.json else _text(found))
        fatal = [problem.text for problem in problems(found) if problem.fatal]
        if fatal:
            raise TransferError(f"transfer cannot be used here: {fatal[0]}")

    return run


def examine(network: bool = True) -> dict[str, Examined]:
    """Runs every check; by title. Takes a few seconds: JAX is started in a process of its own, in case it hangs."""
    checks = {
        title: check for title, check in doctor_checks.CHECKS.items() if network or title != doctor_checks.NETWORK
    }
    with ThreadPoolExecutor(len(checks)) as pool:
        begun = {title: pool.submit(_guarded, check) for title, check in checks.items()}
        return {title: one.result() for title, one in begun.items()}


def _guarded(check: Callable[[], Examined]) -> Examined:
    """What a check finds; one that fails says so, and the others go on."""
    try:
        return check()
    except Exception as error:
        return Examined({}, [Problem(f"could not be looked at ({type(error).__name__}: {error})")])


def problems(found: dict[str, Examined]) -> list[Problem]:
    """Of all checks, those that make the package unusable first."""
    return sorted((one for each in found.values() for one in each.problems), key=lambda one: not one.fatal)


def _json(found: dict[str, Examined]) -> str:
    wrong = [{"text": one.text, "fatal": one.fatal} for one in problems(found)]
    return json.dumps({**{title: each.facts for title, each in found.items()}, "problems": wrong}, indent=2)


def _text(found: dict[str, Examined]) -> str:
    blocks = []
    for title, each in found.items():
        rows = [[f"  {name}", _value(value)] for name, value in each.facts.items()]
        blocks.append("\n".join([title, *([tables.text(rows)] if rows else [])]))
    wrong = problems(found)
    lines = [f"  {'!!' if one.fatal else ' !'} {one.text}" for one in wrong]
    return "\n\n".join([*blocks, "\n".join(["what is wrong", *(lines or ["  nothing"])])])


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) or "none" if isinstance(value, (list, tuple)) else str(value)
