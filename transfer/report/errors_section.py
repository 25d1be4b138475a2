"""The errors that a run was surest of, with their images: where labels are wrong, or what the network cannot see."""

from typing import Any

import numpy as np

from transfer.evaluation.predictions import Predictions
from transfer.report import names
from transfer.report.run_data import RunData
from transfer.report.sections import Options, Section
from transfer.report.templates import rendered
from transfer.report.thumbnails import address

KEY = "errors"
MOST = 24
# Pixels on a side that an image is asked for, about twice what it is shown at.
SIDE = 192


def worst(predictions: Predictions, most: int = MOST) -> np.ndarray:
    """Rows, int64 (n,), that are wrong, the surest first: of values those farthest off, in spreads of their target."""
    rows = np.arange(len(predictions)) if predictions.kind == "values" else np.flatnonzero(~predictions.right)
    badness = _badness(predictions)[rows]
    rows = rows[np.argsort(-badness, kind="stable")][:most]
    return rows


def _badness(predictions: Predictions) -> np.ndarray:
    if predictions.kind == "classes":
        return predictions.probability[:, 0] if predictions.probable else np.zeros(len(predictions))
    if predictions.kind == "labels":
        # how far the surest wrong label lies on the wrong side
        side = np.where(predictions.labels > 0, -predictions.scores, predictions.scores)
        return side.max(axis=1)
    spread = predictions.labels.std(axis=0)
    return (np.abs(predictions.scores - predictions.labels) / np.where(spread > 0, spread, 1)).max(axis=1)


def section(run: RunData, options: Options) -> Section | None:
    """Up to 24 of them; None where no row is wrong."""
    if run.predictions is None:
        return None
    rows = worst(run.predictions)
    if not len(rows):
        return None
    ids = [str(i) for i in run.predictions.ids[rows]]
    images = run.images.get(ids, SIDE)
    titles = names.of_outputs(run.predictions)
    said = _SAID[run.predictions.kind]
    cards = [
        {"id": names.shown(i), "picture": address(image)} | said(run.predictions, row, titles)
        for i, image, row in zip(ids, images, rows.tolist(), strict=True)
    ]
    total = len(run.predictions) if run.predictions.kind == "values" else int((~run.predictions.right).sum())
    html = rendered(
        "errors.html",
        cards=cards,
        total=total,
        kind=run.predictions.kind,
        probable=run.predictions.probable,
        with_images=any(card["picture"] for card in cards),
    )
    return Section(KEY, "Largest errors" if run.predictions.kind == "values" else "Most confident errors", html, None)


def _of_classes(predictions: Predictions, row: int, titles: list[str]) -> dict[str, Any]:
    sure = float(predictions.probability[row, 0]) if predictions.probable else None
    of_right = float(np.exp(-predictions.nll[row])) if predictions.probable else None
    return {"said": titles[predictions.top[row, 0]], "right": titles[predictions.labels[row]], "sure": sure,
            "of_right": of_right}  # fmt: skip


def _of_labels(predictions: Predictions, row: int, titles: list[str]) -> dict[str, Any]:
    """The label that is wrong by most, whether it was missed or said without reason."""
    scores, truth = predictions.scores[row], predictions.labels[row]
    label = int(np.where(truth > 0, -scores, scores).argmax())
    sure = float(1 / (1 + np.exp(-np.clip(np.abs(scores[label]), 0, 87)))) if predictions.probable else None
    has, says = f"has {titles[label]}", f"no {titles[label]}"
    right, said = (has, says) if truth[label] > 0 else (says, has)
    return {"said": said, "right": right, "sure": sure, "of_right": None}


def _of_values(predictions: Predictions, row: int, titles: list[str]) -> dict[str, Any]:
    spread = predictions.labels.std(axis=0)
    off = np.abs(predictions.scores[row] - predictions.labels[row]) / np.where(spread > 0, spread, 1)
    target = int(off.argmax())
    prefix = f"value {titles[target]}: " if predictions.num_outputs > 1 else ""
    return {"said": f"{prefix}{predictions.scores[row, target]:.4g}", "right": f"{predictions.labels[row, target]:.4g}",
            "sure": None, "of_right": None}  # fmt: skip


_SAID = {"classes": _of_classes, "labels": _of_labels, "values": _of_values}
