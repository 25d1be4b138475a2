"""The verb `compare` of `python -m transfer`: runs compared, with intervals and tests of their differences."""

import argparse
import shutil

from transfer.cli.main import Action, output_file
from transfer.errors import UsageError
from transfer.evaluation import comparison_table
from transfer.evaluation.comparison_table import SHOWN, WIDTH, WRITERS, tabulate
from transfer.evaluation.intervals import RESAMPLES
from transfer.evaluation.measures import MEASURES
from transfer.runtime.files import atomic


def compare(parser: argparse.ArgumentParser) -> Action:
    """`compare RUN RUN … [--output FILE]`."""
    names = list(dict.fromkeys(name for of_kind in MEASURES.values() for name in of_kind))
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
        help=f"columns, separated by commas; differences are of the first: {', '.join(names)}; "
        f"default: {', '.join(SHOWN['classes'])}, or what suits labels and values",
    )
    parser.add_argument(
        "--resamples", type=int, default=RESAMPLES, metavar="N", help=f"of the bootstrap; default {RESAMPLES}"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed of the resamples; default 0")

    def run(options: argparse.Namespace) -> None:
        outputs = [output_file(path, *WRITERS) for path in options.output]
        measures = [name for given in options.measure for name in given.split(",")]
        for name in measures:
            if name not in names:
                raise UsageError(f"--measure={name} is not one of {', '.join(names)}")
        if options.resamples < 1 or options.seed < 0:
            raise UsageError("--resamples must be at least 1, --seed at least 0")
        table = tabulate(options.runs, measures, resamples=options.resamples, seed=options.seed)
        width = max(shutil.get_terminal_size((WIDTH, 24)).columns, WIDTH)
        print(comparison_table.text(table, width), end="")
        for path in outputs:
            atomic.write_text(path, WRITERS[path.suffix](table))

    return run
