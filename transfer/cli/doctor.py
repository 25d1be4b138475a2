"""`python -m transfer doctor`: the state of this machine for the package, and what is wrong, in plain words."""

import argparse
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from transfer.cli import doctor_checks
from transfer.cli.doctor_findings import Examined, Problem
from transfer.cli.main import Action
from transfer.errors import TransferError
from transfer.runtime import tables


def doctor(parser: argparse.ArgumentParser) -> Action:
    """Adds the arguments of `doctor [--json] [--no_network]`; exit code 1 only where the package is unusable."""
    parser.add_argument("--json", action="store_true", help="print one JSON object: facts by title, and the problems")
    parser.add_argument("--no_network", action="store_true", help="do not try to reach the sources of weights")

    def run(options: argparse.Namespace) -> None:
        results = examine(network=not options.no_network)
        print(_json(results) if options.json else _text(results))
        fatal = [problem.text for problem in problems(results) if problem.fatal]
        if fatal:
            raise TransferError(f"transfer cannot be used here: {fatal[0]}")

    return run


def examine(network: bool = True) -> dict[str, Examined]:
    """Title -> result of every check. Takes seconds: JAX is started in a process of its own, in case it hangs."""
    checks = {
        title: check for title, check in doctor_checks.CHECKS.items() if network or title != doctor_checks.NETWORK
    }
    with ThreadPoolExecutor(len(checks)) as pool:
        futures = {title: pool.submit(_guarded, check) for title, check in checks.items()}
        return {title: future.result() for title, future in futures.items()}


def _guarded(check: Callable[[], Examined]) -> Examined:
    """The result of a check; one that fails says so, and the others go on."""
    try:
        return check()
    except Exception as error:
        return Examined({}, [Problem(f"could not be looked at ({type(error).__name__}: {error})")])


def problems(results: dict[str, Examined]) -> list[Problem]:
    """The problems of all checks, first those that make the package unusable."""
    return sorted((problem for result in results.values() for problem in result.problems), key=lambda p: not p.fatal)


def _json(results: dict[str, Examined]) -> str:
    """The facts by title and the problems, as JSON."""
    wrong = [{"text": problem.text, "fatal": problem.fatal} for problem in problems(results)]
    return json.dumps({**{title: result.facts for title, result in results.items()}, "problems": wrong}, indent=2)


def _text(results: dict[str, Examined]) -> str:
    """The facts by title and the problems, for people."""
    blocks = []
    for title, result in results.items():
        rows = [[f"  {name}", _value(value)] for name, value in result.facts.items()]
        blocks.append("\n".join([title, *([tables.text(rows)] if rows else [])]))
    lines = [f"  {'!!' if problem.fatal else ' !'} {problem.text}" for problem in problems(results)]
    return "\n\n".join([*blocks, "\n".join(["what is wrong", *(lines or ["  nothing"])])])


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) or "none" if isinstance(value, (list, tuple)) else str(value)
