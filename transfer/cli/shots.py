"""The verb `shots` of `python -m transfer`: a run's few-shot protocol as tables and as a picture."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transfer.cli.main import output_file
from transfer.errors import TransferError, UsageError
from transfer.experiment import results
from transfer.report import chart_files, few_shot_tables, shots_section
from transfer.runtime.files import atomic, paths

Action = Callable[[argparse.Namespace], None]
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
        outputs = [_output(path) for path in options.output]
        result = _result(options.run)
        print(few_shot_tables.text(result))
        for path in outputs:
            if path.suffix in chart_files.SUFFIXES:
                chart_files.write(path, shots_section.protocol_charts(result))
            else:
                atomic.write_text(path, few_shot_tables.WRITERS[path.suffix](result))

    return run


def _output(path: str) -> Path:
    suffix = Path(path).suffix
    if suffix not in SUFFIXES:
        raise UsageError(f"--output={path} must end in one of {', '.join(SUFFIXES)}")
    return output_file(path, suffix)


def _result(workdir: str) -> dict[str, Any]:
    found = results.read(paths.open_path(workdir)).get("few_shot")
    if found is None or "heads" not in found:
        raise TransferError(
            f"{workdir} has no finished few-shot protocol; training writes one where config.few_shot names heads"
        )
    return found
