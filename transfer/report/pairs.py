"""The classes that are taken for each other most, with the images that were."""

from typing import Any

import numpy as np

from transfer.evaluation.predictions import Predictions
from transfer.report import names
from transfer.report.confusion import confusion
from transfer.report.run_data import RunData
from transfer.report.sections import Options, Section
from transfer.report.templates import rendered
from transfer.report.thumbnails import address

KEY = "pairs"
MOST_PAIRS = 8
# Images of each pair, besides one of each class that was told right.
MOST_IMAGES = 6
# Pixels on a side that an image is asked for, about twice what it is shown at.
SIDE = 128


def confused(predictions: Predictions, most: int = MOST_PAIRS) -> list[tuple[int, int, np.ndarray]]:
    """(class, taken for, its rows: the surest first) of the most frequent mistakes, the most frequent first."""
    wrong = confusion(predictions).mistakes()
    said = predictions.top[:, 0]
    return [
        (actual, predicted, surest(predictions, (predictions.labels == actual) & (said == predicted)))
        for actual, predicted in zip(wrong.actual[:most].tolist(), wrong.predicted[:most].tolist(), strict=True)
    ]


def surest(predictions: Predictions, among: np.ndarray) -> np.ndarray:
    """Rows, int64 (n,), of those that a bool (N,) marks, by the probability of what was said of them."""
    rows = np.flatnonzero(among)
    if not predictions.probable:
        return rows
    return rows[np.argsort(-predictions.probability[rows, 0], kind="stable")]


def section(run: RunData, options: Options) -> Section | None:
    """The most frequent pairs; nothing where no row is wrong, or rows are not of classes."""
    if run.predictions is None or run.predictions.kind != "classes" or run.predictions.right.all():
        return None
    shown = confused(run.predictions)
    titles = names.of_outputs(run.predictions)
    typical = _typical(run.predictions, [number for actual, predicted, _ in shown for number in (actual, predicted)])
    wanted = [*typical.values(), *(row for *_, rows in shown for row in rows[:MOST_IMAGES].tolist())]
    images = _pictures(run, wanted)
    sizes = np.bincount(run.predictions.labels, minlength=len(titles))
    lines = [
        {
            "actual": titles[actual],
            "predicted": titles[predicted],
            "count": len(rows),
            "of": int(sizes[actual]),
            "back": int(((run.predictions.labels == predicted) & (run.predictions.top[:, 0] == actual)).sum()),
            "images": [images[row] for row in rows[:MOST_IMAGES].tolist()],
            "typical": [images.get(typical.get(number, -1)) for number in (actual, predicted)],
        }
        for actual, predicted, rows in shown
    ]
    html = rendered("pairs.html", pairs=lines, with_images=any(image["picture"] for image in images.values()))
    return Section(KEY, "Most confused pairs", html, None)


def _typical(predictions: Predictions, classes: list[int]) -> dict[int, int]:
    """The surest right row of each class that has one."""
    found = {}
    for number in sorted(set(classes)):
        rows = surest(predictions, predictions.right & (predictions.labels == number))
        if len(rows):
            found[number] = int(rows[0])
    return found


def _pictures(run: RunData, rows: list[int]) -> dict[int, dict[str, Any]]:
    assert run.predictions is not None
    ids = [str(run.predictions.ids[row]) for row in rows]
    sure = run.predictions.probability[rows, 0].tolist() if run.predictions.probable else [None] * len(rows)
    found = zip(rows, ids, run.images.get(ids, SIDE), sure, strict=True)
    return {row: {"id": names.shown(i), "picture": address(image), "sure": s} for row, i, image, s in found}
