"""The classes that are confused most, with the images that were."""

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
# Images of each pair, besides a correct one of each class.
MOST_IMAGES = 6
# Pixels on a side that an image is asked for, about twice what it is shown at.
SIDE = 128


def confused(predictions: Predictions, most: int = MOST_PAIRS) -> list[tuple[int, int, np.ndarray]]:
    """(actual, predicted, rows int64 (n,), most confident first) of the most frequent errors, most frequent first."""
    wrong = confusion(predictions).mistakes()
    top = predictions.top[:, 0]
    return [
        (actual, predicted, most_confident(predictions, (predictions.labels == actual) & (top == predicted)))
        for actual, predicted in zip(wrong.actual[:most].tolist(), wrong.predicted[:most].tolist(), strict=True)
    ]


def most_confident(predictions: Predictions, among: np.ndarray) -> np.ndarray:
    """Rows, int64 (n,), of those that a bool (N,) marks, by the probability of the predicted class."""
    rows = np.flatnonzero(among)
    if not predictions.probable:
        return rows
    return rows[np.argsort(-predictions.probability[rows, 0], kind="stable")]


def section(run: RunData, options: Options) -> Section | None:
    """The most frequent pairs; None where nothing is misclassified, or predictions are not of classes."""
    predictions = run.predictions
    if predictions is None or predictions.kind != "classes" or predictions.right.all():
        return None
    pairs, titles = confused(predictions), names.of_outputs(predictions)
    examples = {}
    for number in {number for actual, predicted, _ in pairs for number in (actual, predicted)}:
        correct = most_confident(predictions, predictions.right & (predictions.labels == number))
        if len(correct):
            examples[number] = int(correct[0])
    rows = [*examples.values(), *(row for *_, wrong in pairs for row in wrong[:MOST_IMAGES].tolist())]
    ids = [str(predictions.ids[row]) for row in rows]
    sure = predictions.probability[rows, 0].tolist() if predictions.probable else [None] * len(rows)
    images = {
        row: {"id": names.shown(id_), "picture": address(image), "sure": share}
        for row, id_, image, share in zip(rows, ids, run.images.get(ids, SIDE), sure, strict=True)
    }
    sizes = np.bincount(predictions.labels, minlength=len(titles))
    lines = [
        {
            "actual": titles[actual],
            "predicted": titles[predicted],
            "count": len(wrong),
            "of": int(sizes[actual]),
            "back": int(((predictions.labels == predicted) & (predictions.top[:, 0] == actual)).sum()),
            "images": [images[row] for row in wrong[:MOST_IMAGES].tolist()],
            "correct": [images.get(examples.get(number, -1)) for number in (actual, predicted)],
        }
        for actual, predicted, wrong in pairs
    ]
    html = rendered("pairs.html", pairs=lines, with_images=any(image["picture"] for image in images.values()))
    return Section(KEY, "Most confused pairs", html)
