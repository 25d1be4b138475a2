"""The most confident errors with their images: wrong labels, or what the network cannot see."""

from typing import Any

import numpy as np

from transfer.evaluation.predictions import Predictions
from transfer.report import names, svg
from transfer.report.run_data import RunData
from transfer.report.sections import Options, Section
from transfer.report.templates import rendered
from transfer.report.thumbnails import address

KEY = "errors"
MOST = 24
# Pixels on a side that an image is asked for, about twice what it is shown at.
SIDE = 192


def worst(predictions: Predictions, most: int = MOST) -> np.ndarray:
    """Wrong rows, int64 (n,), most confident first; of values those farthest off, in deviations of their target."""
    rows = np.arange(len(predictions)) if predictions.kind == "values" else np.flatnonzero(~predictions.right)
    if predictions.kind == "classes":
        badness = predictions.probability[:, 0] if predictions.probable else np.zeros(len(predictions))
    else:
        badness = _errors(predictions).max(axis=1)
    return rows[np.argsort(-badness[rows], kind="stable")][:most]


def _errors(predictions: Predictions) -> np.ndarray:
    """How wrong each label or value of each row is, (N, L) or (N, T): of labels the logit on the wrong side."""
    if predictions.kind == "labels":
        return np.where(predictions.labels > 0, -predictions.scores, predictions.scores)
    spread = predictions.labels.std(axis=0)
    return np.abs(predictions.scores - predictions.labels) / np.where(spread > 0, spread, 1)


def section(run: RunData, options: Options) -> Section | None:
    """Up to 24 of them; None where no row is wrong."""
    predictions = run.predictions
    if predictions is None:
        return None
    rows = worst(predictions)
    if not len(rows):
        return None
    ids, titles = [str(i) for i in predictions.ids[rows]], names.of_outputs(predictions)
    outputs = [0] * len(rows) if predictions.kind == "classes" else _errors(predictions)[rows].argmax(axis=1).tolist()
    cards = [
        {"id": names.shown(id_), "short": svg.short(names.shown(id_), 24), "picture": address(image)}
        | _card(predictions, row, output, titles)
        for id_, image, row, output in zip(ids, run.images.get(ids, SIDE), rows.tolist(), outputs, strict=True)
    ]
    values = predictions.kind == "values"
    total = len(predictions) if values else int((~predictions.right).sum())
    html = rendered("errors.html", cards=cards, total=total, kind=predictions.kind, probable=predictions.probable,
                    with_images=any(card["picture"] for card in cards))  # fmt: skip
    return Section(KEY, "Largest errors" if values else "Most confident errors", html)


def _card(predictions: Predictions, row: int, output: int, titles: list[str]) -> dict[str, Any]:
    """The predicted and the correct class of a row with their probabilities; of labels and values one output's."""
    sure = of_right = None
    if predictions.kind == "classes":
        said, right = titles[predictions.top[row, 0]], titles[predictions.labels[row]]
        if predictions.probable:
            sure, of_right = float(predictions.probability[row, 0]), float(np.exp(-predictions.nll[row]))
        return {"said": said, "right": right, "sure": sure, "of_right": of_right}
    scores, truth = predictions.scores[row], predictions.labels[row]
    if predictions.kind == "labels":
        said, right = f"no {titles[output]}", f"has {titles[output]}"
        if not truth[output] > 0:
            said, right = f"has {titles[output]}", f"no {titles[output]}"
        if predictions.probable:
            sure = float(1 / (1 + np.exp(-np.clip(np.abs(scores[output]), 0, 87))))
    else:
        prefix = f"value {titles[output]}: " if predictions.num_outputs > 1 else ""
        said, right = f"{prefix}{scores[output]:.4g}", f"{truth[output]:.4g}"
    return {"said": said, "right": right, "sure": sure, "of_right": of_right}
