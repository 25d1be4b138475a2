"""Two classes at every threshold: the ROC curve, precision and recall, and what the thresholds in use give."""

from typing import NamedTuple

import numpy as np

from transfer.evaluation.predictions import Predictions
from transfer.report import svg
from transfer.report.run_data import RunData
from transfer.report.templates import Section, output_names, rendered

Curve = tuple[np.ndarray, np.ndarray]
# Points of a curve at most.
POINTS = 400
NAMES = ("in use (the likelier class)", "highest balanced accuracy", "highest F1")


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


def section(run: RunData) -> Section | None:
    """The curves; None unless there are two classes, rows of both, and probabilities."""
    curves = curves_of(run.predictions)
    if curves is None:
        return None
    title, guessing = f"ROC curve, area {curves.auc:.4f}", ((0.0, 0.0), (1.0, 1.0))
    marks = [(threshold.false_positives, threshold.recall) for threshold in curves.thresholds]
    roc = _chart(title, "false positive rate", "recall", curves.roc, guessing, marks)
    title = f"Precision and recall, average precision {curves.average_precision:.4f}"
    guessing = ((0.0, curves.share), (1.0, curves.share))
    marks = [(threshold.recall, threshold.precision) for threshold in curves.thresholds]
    charts = roc, _chart(title, "recall", "precision", curves.precision_recall, guessing, marks)
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


def _chart(
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
