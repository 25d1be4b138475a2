"""Images and what was said of them: some drawn by chance, the pairs of classes that are confused most, the worst."""

from typing import Any

import numpy as np

from transfer.evaluation.predictions import Predictions
from transfer.report import svg
from transfer.report.confusion import confusion
from transfer.report.images import address
from transfer.report.run_data import RunData
from transfer.report.templates import Section, output_names, rendered, valid_text

MOST_PAIRS, MOST_ERRORS = 8, 24
# Images of each pair, besides a correct one of each class.
MOST_IMAGES = 6
# Images drawn by chance: of those that are right, and of those that are wrong.
SOME_RIGHT, SOME_WRONG = 8, 4
# Pixels on a side that an image is asked for, about twice what it is shown at.
SIDE_OF_PAIR, SIDE_OF_ERROR = 128, 192


def _pictures(run: RunData, rows: list[int], side: int) -> list[dict[str, Any]]:
    """The id and the picture of validation rows; a picture is None where it is gone."""
    images = zip(run.ids(rows), run.thumbnails(rows, side), strict=True)
    return [{"id": valid_text(id_), "picture": address(image)} for id_, image in images]


def some(run: RunData) -> Section | None:
    """Images drawn by chance, right and wrong; None where no image can be shown."""
    predictions = run.predictions
    if predictions is None:
        return None
    right = np.zeros(len(predictions), bool) if predictions.kind == "values" else predictions.right
    random = np.random.default_rng(run.options.seed)
    shown, num_right = [], 0
    for rows, most in ((np.flatnonzero(right), SOME_RIGHT), (np.flatnonzero(~right), SOME_WRONG)):
        drawn = np.sort(random.choice(rows, min(most, len(rows)), replace=False))
        shown += _cards(run, drawn, SIDE_OF_PAIR)
        num_right += int(right[drawn].sum())
    if not any(card["picture"] for card in shown):
        return None
    counts = {"right": num_right, "all_right": int(right.sum()), "total": len(predictions)}
    html = rendered("some.html", cards=shown, kind=predictions.kind, **counts)
    return Section("some", "Some of the images", html)


def confused(predictions: Predictions, most: int = MOST_PAIRS) -> list[tuple[int, int, np.ndarray]]:
    """(actual, predicted, rows int64 (n,), most confident first) of the most frequent errors, most frequent first."""
    wrong = confusion(predictions).mistakes()
    top = predictions.top[:, 0]
    return [
        (actual, predicted, _most_confident(predictions, (predictions.labels == actual) & (top == predicted)))
        for actual, predicted in zip(wrong.actual[:most].tolist(), wrong.predicted[:most].tolist(), strict=True)
    ]


def _most_confident(predictions: Predictions, among: np.ndarray) -> np.ndarray:
    """Rows, int64 (n,), of those that a bool (N,) marks, by the probability of the predicted class."""
    rows = np.flatnonzero(among)
    return rows[np.argsort(-predictions.probability[rows, 0], kind="stable")] if predictions.probable else rows


def pairs(run: RunData) -> Section | None:
    """The most frequent pairs; None where nothing is misclassified, or predictions are not of classes."""
    predictions = run.predictions
    if predictions is None or predictions.kind != "classes" or predictions.right.all():
        return None
    most_frequent, titles = confused(predictions), output_names(predictions)
    examples = {}
    for number in {number for actual, predicted, _ in most_frequent for number in (actual, predicted)}:
        correct = _most_confident(predictions, predictions.right & (predictions.labels == number))
        if len(correct):
            examples[number] = int(correct[0])
    rows = [*examples.values(), *(row for *_, wrong in most_frequent for row in wrong[:MOST_IMAGES].tolist())]
    sure = predictions.probability[rows, 0].tolist() if predictions.probable else [None] * len(rows)
    pictures = zip(rows, _pictures(run, rows, SIDE_OF_PAIR), sure, strict=True)
    images = {row: picture | {"sure": share} for row, picture, share in pictures}
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
        for actual, predicted, wrong in most_frequent
    ]
    html = rendered("pairs.html", pairs=lines, with_images=any(image["picture"] for image in images.values()))
    return Section("pairs", "Most confused pairs", html)


def worst(predictions: Predictions, most: int = MOST_ERRORS) -> np.ndarray:
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


def largest(run: RunData) -> Section | None:
    """Up to 24 errors, wrong labels or what the network cannot see; None where no row is wrong."""
    predictions = run.predictions
    if predictions is None or not len(rows := worst(predictions)):
        return None
    kind, cards = predictions.kind, _cards(run, rows, SIDE_OF_ERROR)
    total = len(predictions) if kind == "values" else int((~predictions.right).sum())
    with_images = any(card["picture"] for card in cards)
    html = rendered(
        "errors.html", cards=cards, total=total, kind=kind, probable=predictions.probable, with_images=with_images
    )
    return Section("errors", "Largest errors" if kind == "values" else "Most confident errors", html)


def _cards(run: RunData, rows: np.ndarray, side: int) -> list[dict[str, Any]]:
    """The picture of each row and what was said of it; of labels and values of the one that is farthest off."""
    assert run.predictions is not None
    predictions, titles = run.predictions, output_names(run.predictions)
    of_classes = predictions.kind == "classes"
    outputs = [0] * len(rows) if of_classes else _errors(predictions)[rows].argmax(axis=1).tolist()
    pictures = zip(_pictures(run, rows.tolist(), side), rows.tolist(), outputs, strict=True)
    return [
        picture | {"short": svg.short(picture["id"], 24)} | _card(predictions, row, output, titles)
        for picture, row, output in pictures
    ]


def _card(predictions: Predictions, row: int, output: int, titles: list[str]) -> dict[str, Any]:
    """The predicted and the correct class of a row with their probabilities; of labels and values one output's."""
    sure = of_right = None
    if predictions.kind == "classes":
        said, right = titles[predictions.top[row, 0]], titles[predictions.labels[row]]
        if predictions.probable:
            sure, of_right = float(predictions.probability[row, 0]), float(np.exp(-predictions.nll[row]))
        return {"said": said, "right": right, "sure": sure, "of_right": of_right}
    score, truth = predictions.scores[row, output], predictions.labels[row, output]
    if predictions.kind == "labels":
        said, right = (f"{'has' if positive else 'no'} {titles[output]}" for positive in (score > 0, truth > 0))
        if predictions.probable:
            sure = float(1 / (1 + np.exp(-np.clip(np.abs(score), 0, 87))))
    else:
        prefix = f"value {titles[output]}: " if predictions.num_outputs > 1 else ""
        said, right = f"{prefix}{score:.4g}", f"{truth:.4g}"
    return {"said": said, "right": right, "sure": sure, "of_right": of_right}
