"""The verb `shots` of `python -m transfer`: a run's few-shot protocol as tables and as charts."""

import argparse

from transfer.cli.main import Action, output_file
from transfer.errors import TransferError
from transfer.experiment import results
from transfer.report import chart_files, few_shot_tables, shots_section
from transfer.runtime.files import atomic, paths

SUFFIXES = (*few_shot_tables.WRITERS, *chart_files.SUFFIXES)


def shots(parser: argparse.ArgumentParser) -> Action:
    """`shots RUN [--output FILE]`."""
    parser.add_argument("run", metavar="RUN", help="the workdir of a run with config.few_shot.heads, local or gs://")
    parser.add_argument(
        "--output",
        action="append",
        default=[],
        metavar="FILE",
        help=f"also write to a file: the tables as {', '.join(few_shot_tables.WRITERS)}, the charts as "
        f"{', '.join(chart_files.SUFFIXES)}; may be given several times",
    )

    def run(options: argparse.Namespace) -> None:
        outputs = [output_file(path, *SUFFIXES) for path in options.output]
        result = results.read(paths.open_path(options.run)).get("few_shot")
        if result is None or "heads" not in result:
            raise TransferError(
                f"{options.run} has no finished few-shot protocol; set config.few_shot, and training writes one"
            )
        print(few_shot_tables.text(result))
        for path in outputs:
            if path.suffix in chart_files.SUFFIXES:
                chart_files.write(path, shots_section.protocol_charts(result))
            else:
                atomic.write_text(path, few_shot_tables.WRITERS[path.suffix](result))

    return run
