"""The verbs `report` and `shots` of `python -m transfer`: runs as a page, a few-shot protocol as tables and charts."""

import argparse
from typing import Any

from etils import epath

from transfer.cli.main import Action, output_file
from transfer.errors import TransferError, UsageError
from transfer.experiment import results
from transfer.report import chart_files, few_shot_tables, page, shots_section
from transfer.report.run_data import MAPS, Options, load
from transfer.runtime.files import atomic, paths

PLOT_FORMATS = ("svg", "png", "pdf")
SHOTS_SUFFIXES = (*few_shot_tables.WRITERS, *chart_files.SUFFIXES)
# At the beginning of every page that was written here.
GENERATOR = b'<meta name="generator" content="transfer">'


def report(parser: argparse.ArgumentParser) -> Action:
    """`report RUN [RUN …] [--output FILE] [--map …] [--plots DIR]`."""
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a workdir, local or gs://; several are also compared with the first"
    )
    parser.add_argument(
        "--output", metavar="FILE", help="the page, .html; default: RUN/report.html, of several runs ./report.html"
    )
    parser.add_argument(
        "--map",
        choices=MAPS,
        default=MAPS[0],
        help="how features are drawn in two dimensions: pca takes a moment, tsne up to minutes; default %(default)s",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed of the map; default 0")
    parser.add_argument(
        "--plots", metavar="DIR", help="also write each run's charts as files into this folder, for papers"
    )
    parser.add_argument(
        "--plot_format",
        default="png",
        metavar="NAMES",
        help=f"formats of --plots, separated by commas: {', '.join(PLOT_FORMATS)}; default png",
    )

    def run(options: argparse.Namespace) -> None:
        if options.seed < 0:
            raise UsageError(f"--seed={options.seed} must be at least 0")
        formats = tuple(dict.fromkeys(name.strip().lstrip(".") for name in options.plot_format.split(",")))
        for name in formats:
            if name not in PLOT_FORMATS:
                raise UsageError(f"--plot_format={name} is not one of {', '.join(PLOT_FORMATS)}")
        output = epath.Path(options.runs[0] if len(options.runs) == 1 else ".") / "report.html"
        mine: dict[str, Any] = {"earlier": lambda content: GENERATOR in content, "what": "a report"}
        if options.output is not None:
            output = output_file(options.output, ".html", **mine)
        else:
            atomic.check_output(output, **mine)
        runs = load(options.runs, Options(options.map, options.seed))
        sections = [page.sections(run) for run in runs]
        # first, so that no page is written where a chart may not be
        if options.plots:
            for place, (loaded, made) in enumerate(zip(runs, sections, strict=True)):
                folder = epath.Path(options.plots) / (f"{place}-{loaded.slug}" if len(runs) > 1 else "")
                chart_files.draw(made, folder, formats)
        text = page.page(runs, sections)
        atomic.write_text(output, text)
        print(f"Report: {output} ({len(text.encode()) / 1e6:.1f} MB); open it in a browser")

    return run


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
        files = [output_file(path, *SHOTS_SUFFIXES) for path in options.output]
        result = results.read(paths.open_path(options.run)).get("few_shot")
        if result is None or "heads" not in result:
            raise TransferError(
                f"{options.run} has no finished few-shot protocol; set config.few_shot, and training writes one"
            )
        print(few_shot_tables.text(result))
        for path in files:
            if path.suffix in chart_files.SUFFIXES:
                chart_files.write(path, shots_section.protocol_charts(result))
            else:
                atomic.write_text(path, few_shot_tables.WRITERS[path.suffix](result))

    return run
