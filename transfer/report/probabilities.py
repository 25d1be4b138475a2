"""What the scores of a run are worth: probabilities at every threshold, and against how often they are right.

Of two classes the ROC curve, precision and recall; of all the calibration; of values predicted against true ones.
"""

from typing import Any, NamedTuple

import numpy as np

from transfer.evaluation import calibration
from transfer.evaluation.intervals import wilson
from transfer.evaluation.predictions import Predictions
from transfer.report import svg
from transfer.report.feature_map import sample
from transfer.report.run_data import RunData
from transfer.report.templates import Section, is_number, output_names, rendered

Curve = tuple[np.ndarray, np.ndarray]
# Points of a curve at most.
POINTS = 400
NAMES = ("in use (the likelier class)", "highest balanced accuracy", "highest F1")
# Points of the picture of values; more of them would be one blot.
MOST_POINTS = 1500
# Targets that are drawn.
MOST_CHARTS = 6
# What a confidence is of.
UNITS = {"classes": "images", "labels": "answers"}


class Threshold(NamedTuple):
    """The rates where the probability of the positive class has to reach `probability`."""

    name: str
    probability: float
    recall: float
    false_positives: float
    precision: float


class Curves(NamedTuple):
    """The two curves as (x, y), their areas, and the thresholds that are marked on them."""

    positive: str
    roc: Curve
    precision_recall: Curve
    auc: float
    average_precision: float
    share: float
    thresholds: list[Threshold]


def thresholds(run: RunData) -> Section | None:
    """The curves; None unless there are two classes, rows of both, and probabilities."""
    curves = curves_of(run.predictions)
    if curves is None:
        return None
    title, guessing = f"ROC curve, area {curves.auc:.4f}", ((0.0, 0.0), (1.0, 1.0))
    marks = [(threshold.false_positives, threshold.recall) for threshold in curves.thresholds]
    roc = _curve_chart(title, "false positive rate", "recall", curves.roc, guessing, marks)
    title = f"Precision and recall, average precision {curves.average_precision:.4f}"
    guessing = ((0.0, curves.share), (1.0, curves.share))
    marks = [(threshold.recall, threshold.precision) for threshold in curves.thresholds]
    charts = roc, _curve_chart(title, "recall", "precision", curves.precision_recall, guessing, marks)
    html = rendered("threshold.html", charts=charts, curves=curves)
    return Section("threshold", "Thresholds", html, charts=lambda: charts)


def curves_of(predictions: Predictions | None) -> Curves | None:
    """The curves of two classes, of which the second is the positive one, as scikit-learn has it."""
    if predictions is None or predictions.kind != "classes" or predictions.num_outputs != 2 or not predictions.probable:
        return None
    truth = predictions.labels == 1
    if truth.all() or not truth.any():
        return None
    from sklearn import metrics

    # log-odds, for probabilities close to 1 are all the same number
    likely = np.log(np.maximum(predictions.probability.astype(np.float64), np.finfo(np.float32).tiny))
    odds = np.where(predictions.top[:, 0] == 1, 1, -1) * (likely[:, 0] - likely[:, 1])
    false, true, at = metrics.roc_curve(truth, odds, drop_intermediate=False)
    precision, recall, _ = metrics.precision_recall_curve(truth, odds)
    positives, negatives = truth.sum(), (~truth).sum()
    said = true * positives + false * negatives
    precisions = np.divide(true * positives, said, out=np.ones_like(true), where=said > 0)
    f1 = 2 * true * positives / (said + positives)
    # in use are log-odds above 0: of equals the first class is predicted
    places = np.flatnonzero(at > 0)[-1], (true - false).argmax(), f1.argmax()
    probability = 1 / (1 + np.exp(-np.clip(at, -700, 700)))
    thresholds = [
        Threshold(name, float(probability[i]), float(true[i]), float(false[i]), float(precisions[i]))
        for name, i in zip(NAMES, places, strict=True)
    ]
    thresholds[0] = thresholds[0]._replace(probability=0.5)
    return Curves(
        output_names(predictions)[1],
        (false, true),
        (recall, precision),
        float(metrics.roc_auc_score(truth, odds)),
        float(metrics.average_precision_score(truth, odds)),
        float(truth.mean()),
        thresholds,
    )


def _curve_chart(
    title: str, xlabel: str, ylabel: str, curve: Curve, chance: tuple[svg.Point, svg.Point], marks: list[svg.Point]
) -> svg.Chart:
    """A curve, the line that guessing gives, and a mark for each threshold."""
    frame = svg.Frame((0, 1), (0, 1.02), 420, 380, left=56)
    rows = np.unique(np.linspace(0, len(curve[0]) - 1, POINTS).astype(int))
    shares = svg.named_ticks((0, 1), percent=True)
    parts = [svg.axes(frame, xlabel, ylabel, xticks=shares, yticks=shares)]
    parts.append(svg.reference(frame, *chance))
    parts.append(svg.line(frame, zip(curve[0][rows].tolist(), curve[1][rows].tolist(), strict=True)))
    legend = []
    for series, (x, y), name in zip((2, 3, 4), marks, NAMES, strict=True):
        # the threshold in use on top
        parts.insert(3, svg.dot(frame, x, y, series, f"{name}: {xlabel} {x:.1%}, {ylabel} {y:.1%}"))
        legend.append((svg.swatch(series, lined=False), name))
    return svg.Chart(title, frame, title, svg.joined(parts), legend)


def believed(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Confidences float (M,) and whether each was right: one a row of classes, one a row and label of labels."""
    if predictions.kind == "classes":
        return predictions.probability[:, 0], predictions.right
    chance = 1 / (1 + np.exp(-np.clip(predictions.scores.astype(np.float64), -87, 87)))
    return np.maximum(chance, 1 - chance).ravel(), ((chance > 0.5) == (predictions.labels > 0)).ravel()


def bins(confidence: np.ndarray, right: np.ndarray) -> list[dict[str, Any]]:
    """The 15 bins: "from", "to", "rows", "low", "high", and of those with rows "confidence" and "accuracy"."""
    of_bins = calibration.reliability(confidence, right)
    hits = np.bincount(calibration.bins_of(confidence), np.asarray(right, np.float64), minlength=calibration.BINS)
    low, high = wilson(hits, of_bins.rows)
    edges = np.linspace(0, 1, calibration.BINS + 1)
    lines: list[dict[str, Any]] = []
    for i in range(calibration.BINS):
        line = {"from": edges[i], "to": edges[i + 1], "rows": int(of_bins.rows[i]), "low": low[i], "high": high[i]}
        if line["rows"]:
            line |= {"confidence": of_bins.confidence[i], "accuracy": of_bins.accuracy[i]}
        lines.append(line)
    return lines


def reliability(run: RunData) -> Section | None:
    """The diagram; of values what was said against what is right."""
    predictions = run.predictions
    if predictions is None or not (predictions.probable or predictions.kind == "values"):
        return None
    if predictions.kind == "values":
        charts, total = _scatters(predictions, run.options.seed), len(predictions)
        values = {"rows": min(MOST_POINTS, total), "total": total, "targets": predictions.num_outputs}
        html = rendered("values.html", charts=charts, **values)
        return Section("reliability", "Predicted against true values", html, charts=lambda: charts)
    confidence, right = believed(predictions)
    lines = bins(confidence, right)
    sure, accuracy = float(confidence.mean(dtype=np.float64)), float(right.mean())
    chart = _diagram(lines, predictions.kind)
    html = rendered(
        "reliability.html",
        bins=lines,
        chart=chart,
        ece=calibration.expected_calibration_error(confidence, right),
        confidence=sure,
        accuracy=accuracy,
        gap=sure - accuracy,
        temperature=_temperature(run.result),
        kind=predictions.kind,
        rows=len(confidence),
    )
    return Section("reliability", "Calibration", html, charts=lambda: [chart])


def _temperature(result: dict[str, Any]) -> dict[str, Any] | None:
    """The temperature that held-out training rows gave, and the ECE and log-loss that it would have; None for none."""
    of_result = result.get("temperature")
    if not isinstance(of_result, dict) or not is_number(of_result.get("value")):
        return None
    measures = {name: part.get("value") for name, part in of_result.items() if isinstance(part, dict)}
    return {"value": of_result["value"], "log_loss": measures.get("log_loss"), "ece": measures.get("ece")}


def _diagram(lines: list[dict[str, Any]], kind: str) -> svg.Chart:
    """Bars of the accuracy in each bin, the line that they should end on, and the number of images, below."""
    frame = svg.Frame((0, 1), (0, 1), 420, 380, left=58, bottom=96)
    counts = svg.Frame((0, 1), (0, max(line["rows"] for line in lines)), 420, 380, left=58, top=308, bottom=40)
    shares = svg.named_ticks((0, 1), percent=True)
    known = [line for line in lines if line["rows"]]
    parts = [svg.axes(frame, "", "accuracy", xticks=[], yticks=shares)]
    for line in known:
        middle, half = (line["from"] + line["to"]) / 2, 0.43 / len(lines)
        ends = middle - half, middle + half
        title = f"{line['rows']} {UNITS[kind]}: confidence {line['confidence']:.1%}, accuracy {line['accuracy']:.1%}"
        parts.append(svg.bar(frame, ends, (0, line["accuracy"]), title))
        parts.append(svg.whisker(frame, middle, line["low"], line["high"]))
        parts.append(svg.bar(counts, ends, (0, line["rows"]), title))
    parts.append(svg.reference(frame, (0, 0), (1, 1)))
    parts.append(svg.axes(counts, "confidence", xticks=shares, yticks=[]))
    parts.append(svg.text(frame.left - 7, 330, UNITS[kind], "tick y"))
    label = "; ".join(f"confidence {line['confidence']:.0%}, accuracy {line['accuracy']:.0%}" for line in known)
    return svg.Chart("Accuracy by confidence", frame, f"Reliability: {label}", svg.joined(parts), classes="bars")


def _scatters(predictions: Predictions, seed: int) -> list[svg.Chart]:
    """The predicted against the true values of a sample of the rows, a chart a target."""
    rows = sample(len(predictions), MOST_POINTS, seed)
    made = []
    for i, title in enumerate(output_names(predictions)[:MOST_CHARTS]):
        truth, said = predictions.labels[rows, i].tolist(), predictions.scores[rows, i].tolist()
        ends = svg.around([*truth, *said])
        frame = svg.Frame(ends, ends, 420, 380, left=60)
        parts = [
            svg.axes(frame, "true value", "predicted value"),
            svg.reference(frame, (ends[0], ends[0]), (ends[1], ends[1])),
        ]
        parts += [svg.dot(frame, x, y) for x, y in zip(truth, said, strict=True)]
        label = f"Predicted against true values of {len(rows)} images"
        made.append(svg.Chart(f"Value {title}" if predictions.num_outputs > 1 else "", frame, label, svg.joined(parts)))
    return made
