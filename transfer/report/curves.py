"""The learning curves: training and validation loss and accuracy, epoch by epoch."""

import math
from typing import Any

from transfer.report import svg
from transfer.report.run_data import RunData
from transfer.report.templates import Section, is_number, rendered

# What is drawn: title, whether its values are shares, and the lines with the metric of each.
CURVES = (
    ("Loss", False, (("training", "loss"), ("validation", "validation_loss"))),
    ("Accuracy", True, (("training", "accuracy"), ("validation", "validation_accuracy"))),
)
METRICS = tuple(key for _, _, lines in CURVES for _, key in lines)
# Points of a line at most; of more epochs every so many-th is drawn, and the last.
POINTS = 400


def section(run: RunData) -> Section | None:
    """The curves of a run that has epochs."""
    rows, best = _thinned(run.history, POINTS), run.result.get("best_epoch")
    curves = [curve for of_metric in CURVES if (curve := _curve(rows, *of_metric, best)) is not None]
    if not curves:
        return None
    charts, shown = [chart for chart, _ in curves], _thinned(run.history, 100)
    html = rendered(
        "curves.html",
        charts=charts,
        epochs=len(run.history),
        best=best,
        table=[[row["epoch"], *map(row.get, METRICS)] for row in shown],
        whole=len(shown) == len(run.history),
    )
    return Section("curves", "Learning curves", html, {"charts": [data for _, data in curves]}, lambda: charts)


def _thinned(history: list[dict[str, Any]], points: int) -> list[dict[str, Any]]:
    rows = [row for row in history if is_number(row.get("epoch"))]
    step = max(1, math.ceil((len(rows) - 1) / (points - 1)))
    return [*rows[:-1:step], *rows[-1:]]


def _curve(
    rows: list[dict[str, Any]], title: str, share: bool, lines: tuple[tuple[str, str], ...], best: Any
) -> tuple[svg.Chart, dict[str, Any]] | None:
    """The chart of a metric, and what the page's script needs to show the values under the pointer."""
    known = {name: [float(row[key]) if is_number(row.get(key)) else math.nan for row in rows] for name, key in lines}
    known = {name: values for name, values in known.items() if any(map(math.isfinite, values))}
    if not known:
        return None

    def written(value: float) -> str:
        return "unknown" if not math.isfinite(value) else f"{100 * value:.2f}%" if share else f"{value:.4g}"

    epochs = [row["epoch"] for row in rows]
    frame = svg.Frame(
        x=(min(epochs), max(epochs)),
        y=svg.around([v for values in known.values() for v in values], (0, 1) if share else (0, math.inf)),
    )
    # epochs on the axis are whole numbers
    whole = sorted({round(value) for value in svg.ticks(*frame.x)})
    xticks = [(value, str(value)) for value in whole if frame.x[0] <= value <= frame.x[1]]
    parts = [svg.axes(frame, "epoch", percent=share, xticks=xticks)]
    if share and is_number(best):
        parts.append(svg.reference(frame, (best, frame.y[0]), (best, frame.y[1])))
    data: list[dict[str, Any]] = []
    for series, (name, values) in enumerate(known.items(), start=1):
        parts.append(svg.line(frame, zip(epochs, values, strict=True), series))
        heights = [frame.at_y(v) if math.isfinite(v) else None for v in values]
        data.append({"name": name, "y": heights, "text": [written(v) for v in values]})
    label = "; ".join(f"{line['name']} from {line['text'][0]} to {line['text'][-1]}" for line in data)
    legend = [(svg.swatch(series), name) for series, name in enumerate(known, start=1)]
    chart = svg.Chart(title, frame, f"{title} by epoch: {label}", svg.joined(parts), legend)
    ends = {"top": frame.top, "base": frame.height - frame.bottom}
    return chart, {"title": title, "x": [frame.at_x(e) for e in epochs], "epochs": epochs, "lines": data, **ends}
