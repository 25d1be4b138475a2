"""The verb `compare` of `python -m transfer`: runs beside each other, with how far chance alone may part them."""

import argparse
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from transfer.cli.main import output_file
from transfer.errors import UsageError
from transfer.evaluation import comparison_table
from transfer.evaluation.comparison_table import WIDTH, WRITERS, tabulate
from transfer.evaluation.differences import SHOWN
from transfer.evaluation.intervals import RESAMPLES
from transfer.evaluation.measures import MEASURES
from transfer.runtime.files import atomic

Action = Callable[[argparse.Namespace], None]


def compare(parser: argparse.ArgumentParser) -> Action:
    """`compare RUN RUN … [--output FILE]`."""
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a workdir, local or gs://; the others are compared with the first"
    )
    parser.add_argument(
        "--output",
        action="append",
        default=[],
        metavar="FILE",
        help=f"also write the table to a file: {', '.join(WRITERS)}; may be given several times",
    )
    parser.add_argument(
        "--measure",
        action="append",
        default=[],
        metavar="NAME",
        help=f"the columns, the first being what differences are of: {', '.join(_every_measure())}; several with "
        f"commas between; default: {', '.join(SHOWN['classes'])}, or what suits labels and values",
    )
    parser.add_argument("--resamples", type=int, default=RESAMPLES, metavar="N", help=f"bootstrap; default {RESAMPLES}")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the resamples; default 0")

    def run(options: argparse.Namespace) -> None:
        outputs = [_output(path) for path in options.output]
        wanted = _known(name for given in options.measure for name in given.split(","))
        if options.resamples < 1 or options.seed < 0:
            raise UsageError("--resamples must be at least 1, --seed at least 0")
        table = tabulate(options.runs, wanted, resamples=options.resamples, seed=options.seed)
        width = max(shutil.get_terminal_size((WIDTH, 24)).columns, WIDTH)
        print(comparison_table.text(table, width), end="")
        for path in outputs:
            atomic.write_text(path, WRITERS[path.suffix](table))

    return run


def _every_measure() -> list[str]:
    return list(dict.fromkeys(name for found in MEASURES.values() for name in found))


def _known(names: Iterable[str]) -> list[str]:
    found = list(names)
    for name in found:
        if name not in _every_measure():
            raise UsageError(f"--measure={name} is not one of {', '.join(_every_measure())}")
    return found


def _output(path: str) -> Path:
    suffix = Path(path).suffix
    if suffix not in WRITERS:
        raise UsageError(f"--output={path} must end in one of {', '.join(WRITERS)}")
    return output_file(path, suffix)
