"""The learning curves: loss and accuracy of both sides, epoch by epoch."""

import math
from typing import Any

from markupsafe import Markup

from transfer.report import svg
from transfer.report.run_data import RunData
from transfer.report.sections import Options, Section
from transfer.report.templates import is_number, rendered

# What is drawn: title, unit of the readings, and the lines with the metric of each.
CHARTS = (
    ("Loss", False, (("training", "loss"), ("validation", "validation_loss"))),
    ("Accuracy", True, (("training", "accuracy"), ("validation", "validation_accuracy"))),
)
# Points of a line at most; of more epochs every so many-th is drawn, and the last.
POINTS = 400


def section(run: RunData, options: Options) -> Section | None:
    """The curves of a run that has epochs."""
    rows = _thinned(run.history)
    if not rows:
        return None
    best = run.result.get("best_epoch")
    charts = [made for one in CHARTS if (made := _chart(rows, *one, best)) is not None]
    if not charts:
        return None
    table = [[row["epoch"], *(row.get(name) for name in NAMES)] for row in _thinned(run.history, 100)]
    html = rendered(
        "curves.html",
        charts=charts,
        epochs=len(run.history),
        best=best,
        table=table,
        whole=len(table) == len(run.history),
    )
    return Section("curves", "Learning curves", html, {"charts": [one["data"] for one in charts]})


NAMES = tuple(name for _, _, lines in CHARTS for _, name in lines)


def _thinned(history: list[dict[str, Any]], points: int = POINTS) -> list[dict[str, Any]]:
    rows = [row for row in history if is_number(row.get("epoch"))]
    step = math.ceil(len(rows) / points) if rows else 1
    return rows if step == 1 else [*rows[:-1:step], rows[-1]]


def _chart(
    rows: list[dict[str, Any]], title: str, share: bool, lines: tuple[tuple[str, str], ...], best: Any
) -> dict[str, Any] | None:
    known = {name: [float(row[key]) if is_number(row.get(key)) else math.nan for row in rows] for name, key in lines}
    known = {name: values for name, values in known.items() if any(map(math.isfinite, values))}
    if not known:
        return None
    epochs = [row["epoch"] for row in rows]
    frame = svg.Frame(
        x=(min(epochs), max(epochs)),
        y=svg.around([v for values in known.values() for v in values], (0, 1) if share else (0, math.inf)),
    )
    parts = [svg.axes(frame, "epoch", percent=share, xticks=_whole(frame))]
    if share and is_number(best) and len(epochs) > 1:
        x = frame.at_x(best)
        parts.append(
            Markup('<line class="mark" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                x, x, frame.top, frame.height - frame.bottom
            )
        )
    for series, values in enumerate(known.values(), start=1):
        parts.append(svg.line(frame, zip(epochs, values, strict=True), series))
    return {
        "title": title,
        "legend": svg.legend(list(known)),
        "svg": svg.chart(frame, _words(title, known, share), *parts, classes="curve"),
        "data": _data(frame, title, epochs, known, share),
    }


def _whole(frame: svg.Frame) -> list[tuple[float, str]]:
    """Epochs on the axis are whole numbers."""
    values = sorted({round(value) for value in svg.ticks(*frame.x)})
    return [(value, str(value)) for value in values if frame.x[0] <= value <= frame.x[1]]


def _words(title: str, known: dict[str, list[float]], share: bool) -> str:
    ends = [f"{name} from {_text(values[0], share)} to {_text(values[-1], share)}" for name, values in known.items()]
    return f"{title} by epoch: {'; '.join(ends)}"


def _text(value: float, share: bool) -> str:
    if not math.isfinite(value):
        return "unknown"
    return f"{100 * value:.2f}%" if share else f"{value:.4g}"


def _data(
    frame: svg.Frame, title: str, epochs: list[float], known: dict[str, list[float]], share: bool
) -> dict[str, Any]:
    """What the script needs to say the values under the pointer."""
    return {
        "title": title,
        "x": [frame.at_x(epoch) for epoch in epochs],
        "epochs": epochs,
        "lines": [
            {
                "name": name,
                "y": [frame.at_y(v) if math.isfinite(v) else None for v in values],
                "text": [_text(v, share) for v in values],
            }
            for name, values in known.items()
        ],
        "top": frame.top,
        "base": frame.height - frame.bottom,
    }
