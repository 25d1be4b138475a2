"""Whether probabilities can be believed: how often rows are right, by how sure the run was of them."""

from typing import Any

import numpy as np
from markupsafe import Markup

from transfer.evaluation import calibration
from transfer.evaluation.intervals import wilson
from transfer.evaluation.predictions import Predictions
from transfer.report import names, svg
from transfer.report.feature_map import sample
from transfer.report.run_data import RunData
from transfer.report.sections import Options, Section
from transfer.report.templates import rendered

KEY = "reliability"
# Points of the picture of values; more of them would be one blot.
MOST_POINTS = 1500
# Targets that are drawn.
MOST_CHARTS = 6


def believed(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Confidences float (M,) and whether each was right: one a row of classes, one a row and label of labels."""
    if predictions.kind == "classes":
        return predictions.probability[:, 0], predictions.right
    chance = 1 / (1 + np.exp(-np.clip(predictions.scores.astype(np.float64), -87, 87)))
    return np.maximum(chance, 1 - chance).ravel(), ((chance > 0.5) == (predictions.labels > 0)).ravel()


def bins(confidence: np.ndarray, right: np.ndarray) -> list[dict[str, Any]]:
    """The 15 bins: "from", "to", "rows", and of those with rows "confidence", "accuracy", "low", "high"."""
    found = calibration.reliability(confidence, right)
    hits = np.bincount(calibration.bins_of(confidence), np.asarray(right, np.float64), minlength=calibration.BINS)
    low, high = wilson(hits, found.rows)
    edges = np.linspace(0, 1, calibration.BINS + 1)
    lines: list[dict[str, Any]] = []
    for i in range(calibration.BINS):
        line = {"from": edges[i], "to": edges[i + 1], "rows": int(found.rows[i])}
        if line["rows"]:
            line |= {"confidence": found.confidence[i], "accuracy": found.accuracy[i], "low": low[i], "high": high[i]}
        lines.append(line)
    return lines


def section(run: RunData, options: Options) -> Section | None:
    """The diagram; of values what was said against what is right."""
    if run.predictions is None:
        return None
    if run.predictions.kind == "values":
        return _values(run.predictions, options)
    if not run.predictions.probable:
        return None
    confidence, right = believed(run.predictions)
    lines = bins(confidence, right)
    sure, accuracy = float(confidence.mean(dtype=np.float64)), float(right.mean())
    html = rendered(
        "reliability.html",
        bins=lines,
        diagram=_diagram(lines),
        ece=calibration.expected_calibration_error(confidence, right),
        confidence=sure,
        accuracy=accuracy,
        gap=sure - accuracy,
        kind=run.predictions.kind,
        rows=len(confidence),
    )
    return Section(KEY, "Can its probabilities be believed?", html, None)


def _diagram(lines: list[dict[str, Any]]) -> Markup:
    """Bars of what was right in each bin, the line that they should end on, and how many rows there are, below."""
    frame = svg.Frame((0, 1), (0, 1), 420, 380, bottom=96)
    counts = svg.Frame((0, 1), (0, max(line["rows"] for line in lines)), 420, 380, top=308, bottom=40)
    percents = [(x / 5, f"{20 * x}%") for x in range(6)]
    parts = [svg.axes(frame, "", "right", xticks=[], yticks=percents)]
    width = 0.86 / len(lines)
    for line in lines:
        if line["rows"]:
            parts += _bin(frame, counts, line, width)
    diagonal = Markup('<line class="mark honest" x1="{}" y1="{}" x2="{}" y2="{}"/>')
    parts.append(diagonal.format(frame.at_x(0), frame.at_y(0), frame.at_x(1), frame.at_y(1)))
    parts.append(svg.axes(counts, "how sure the run was", "", xticks=percents, yticks=[]))
    parts.append(svg.text(frame.left - 7, 330, "rows", "tick y"))
    seen = [f"{100 * line['confidence']:.0f} % sure: {100 * line['accuracy']:.0f} %" for line in lines if line["rows"]]
    return svg.chart(
        frame, f"Reliability: share that is right by confidence. {'; '.join(seen)}", *parts, classes="reliable"
    )


def _bin(frame: svg.Frame, counts: svg.Frame, line: dict[str, Any], width: float) -> list[Markup]:
    middle = (line["from"] + line["to"]) / 2
    title = f"{line['rows']} rows, {100 * line['confidence']:.1f} % sure, {100 * line['accuracy']:.1f} % right"
    return [
        svg.bar(frame, middle, width, line["accuracy"], 1, title),
        svg.whisker(frame, middle, line["low"], line["high"]),
        svg.bar(counts, middle, width, line["rows"], 1, title),
    ]


def _values(predictions: Predictions, options: Options) -> Section:
    """One small picture a target, of a sample of the rows."""
    rows = sample(len(predictions), MOST_POINTS, options.seed)
    charts = [
        {"name": f"Value {title}", "svg": _scatter(predictions.labels[rows, i], predictions.scores[rows, i])}
        for i, title in enumerate(names.of_outputs(predictions)[:MOST_CHARTS])
    ]
    html = rendered(
        "values.html", charts=charts, rows=len(rows), total=len(predictions), targets=predictions.num_outputs
    )
    return Section(KEY, "What was said against what is right", html, None)


def _scatter(truth: np.ndarray, said: np.ndarray) -> Markup:
    ends = svg.around([*truth.tolist(), *said.tolist()])
    frame = svg.Frame(ends, ends, 420, 380)
    dot = Markup('<circle class="dot s1" cx="{}" cy="{}" r="2.6"/>')
    dots = [dot.format(frame.at_x(x), frame.at_y(y)) for x, y in zip(truth.tolist(), said.tolist(), strict=True)]
    diagonal = Markup('<line class="mark" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
        frame.at_x(ends[0]), frame.at_y(ends[0]), frame.at_x(ends[1]), frame.at_y(ends[1])
    )
    label = f"What was said of {len(truth)} rows against what is right"
    return svg.chart(frame, label, svg.axes(frame, "is", "said"), diagonal, *dots)
