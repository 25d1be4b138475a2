"""The few-shot protocol as a picture: accuracy over images a class, and accuracy over depth, a panel for each head."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transfer.errors import TransferError
from transfer.report import few_shot_tables
from transfer.report.style import INK, STYLE
from transfer.runtime.distribution import install_hint

SUFFIXES = (".png", ".svg")
Row = few_shot_tables.Row


def draw(result: dict[str, Any], path: Path) -> None:
    """Writes the picture of a result of `transfer.experiment.few_shot.protocol.few_shot`, PNG or SVG by its suffix.

    Above: a line for each tap over images a class. Below, where there are several taps: a line for each number of
    images over the taps, in their order. Bars are the standard deviation over seeds, where they draw different rows.

    Raises TransferError where Matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise TransferError(f"a plot needs Matplotlib: {install_hint('plots')}") from error
    from matplotlib.figure import Figure

    rows = result["rows"]
    heads, taps = (few_shot_tables.distinct(rows, name) for name in ("head", "tap"))
    down = 2 if len(taps) > 1 else 1
    with matplotlib.rc_context(STYLE):
        # a figure by itself: no window, no global state
        figure = Figure(figsize=(3 + 2.6 * len(heads), 3.4 * down), layout="constrained")
        panels = figure.subplots(down, len(heads), squeeze=False, sharey=True)
        for column, head in enumerate(heads):
            of_head = [row for row in rows if row["head"] == head]
            _panel(panels[0, column], of_head, "tap", "per_class", "images a class", head)
            if down > 1:
                _panel(panels[1, column], of_head, "per_class", "tap", "tap", head)
        for row, lines in zip(panels, ("tap", "images a class"), strict=False):
            row[0].set_ylabel("validation accuracy")
            legend = row[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, labelcolor=INK)
            legend.set_title(lines)
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(path, dpi=150, metadata=metadata)


def _panel(axes: Any, rows: Sequence[Row], line: str, across: str, label: str, title: str) -> None:
    """A line for each value of `line`, over the values of `across`; both equally far apart, in their order."""
    from matplotlib import colormaps

    names, places = few_shot_tables.distinct(rows, line), few_shot_tables.distinct(rows, across)
    shades = colormaps["viridis"]
    for number, name in enumerate(names):
        own = [row for row in rows if row[line] == name]
        axes.errorbar(
            [places.index(row[across]) for row in own],
            [row["mean"] for row in own],
            yerr=[row["spread"] or 0 for row in own],
            color=shades(0.9 * number / max(len(names) - 1, 1)),
            marker="o",
            markersize=3.5,
            linewidth=1.5,
            elinewidth=0.8,
            label=_name(name, line, own),
        )
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set_xlabel(label)
    ticks = [_name(place, across, [row for row in rows if row[across] == place]) for place in places]
    slanted = max(map(len, ticks)) > 4
    axes.set_xticks(range(len(places)), ticks, rotation=60 if slanted else 0)


def _name(value: Any, column: str, rows: Sequence[Row]) -> str:
    """What a value of a column is called, of which there are `rows`."""
    return few_shot_tables.heading(rows[0]) if column == "per_class" else str(value)
