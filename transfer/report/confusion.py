"""Which classes are taken for which: a matrix that holds only what happened, drawn by the page's script."""

from typing import NamedTuple

import numpy as np

from transfer.evaluation.predictions import Predictions
from transfer.report import names
from transfer.report.run_data import RunData
from transfer.report.sections import Options, Section
from transfer.report.templates import rendered

KEY = "confusion"
# Lines of the table beside the picture.
MOST_LINES = 100


class Confusion(NamedTuple):
    """How often each class was taken for each, of the M pairs that happened.

    Attributes:
        actual, predicted, count: int64 (M,), by actual and then by predicted; the right ones among them.
        rows: int64 (C,), how many rows each class has.
        said: int64 (C,), how many rows were said to be of it.
    """

    actual: np.ndarray
    predicted: np.ndarray
    count: np.ndarray  # type: ignore[assignment]
    rows: np.ndarray
    said: np.ndarray

    def mistakes(self) -> "Confusion":
        """Those that are wrong, the most frequent first; of equals those that are the larger share of their class."""
        wrong = np.flatnonzero(self.actual != self.predicted)
        share = self.count[wrong] / self.rows[self.actual[wrong]]
        order = wrong[np.lexsort((self.predicted[wrong], self.actual[wrong], -share, -self.count[wrong]))]
        return self._replace(actual=self.actual[order], predicted=self.predicted[order], count=self.count[order])


def confusion(predictions: Predictions) -> Confusion:
    """Of predictions of classes: C * C numbers are never held, so that many classes cost what their mistakes cost."""
    width = predictions.num_outputs
    said = predictions.top[:, 0].astype(np.int64)
    pairs, count = np.unique(predictions.labels.astype(np.int64) * width + said, return_counts=True)
    rows, of_said = (np.bincount(classes, minlength=width) for classes in (predictions.labels, said))
    return Confusion(pairs // width, pairs % width, count, rows, of_said)


def alike(found: Confusion) -> np.ndarray:
    """An order of the classes, int64 (C,), that puts those that are taken for each other beside each other.

    Chains of classes are joined at their ends, the pair that is confused most (in shares of both) first.
    """
    wrong = found.mistakes()
    low, high = np.minimum(wrong.actual, wrong.predicted), np.maximum(wrong.actual, wrong.predicted)
    width = len(found.rows)
    pairs, place = np.unique(low * width + high, return_inverse=True)
    weight = np.bincount(place, wrong.count / found.rows[wrong.actual], minlength=len(pairs))
    chain_of = [[number] for number in range(width)]
    for pair in pairs[np.argsort(-weight, kind="stable")].tolist():
        first, second = chain_of[pair // width], chain_of[pair % width]
        a, b = pair // width, pair % width
        if first is second or a not in (first[0], first[-1]) or b not in (second[0], second[-1]):
            continue
        left = first if first[-1] == a else first[::-1]
        right = second if second[0] == b else second[::-1]
        joined = left + right
        for end in joined:
            chain_of[end] = joined
    chains = {id(chain): chain for chain in chain_of}
    return np.asarray(
        [number for chain in sorted(chains.values(), key=lambda c: (-len(c), min(c))) for number in chain]
    )


def section(run: RunData, options: Options) -> Section | None:
    """The matrix, and a table of what is confused most; nothing of labels and values, whose bars say what there is."""
    if run.predictions is None or run.predictions.kind != "classes":
        return None
    found = confusion(run.predictions)
    titles = names.of_outputs(run.predictions)
    wrong = found.mistakes()
    lines = [
        {"actual": titles[a], "predicted": titles[p], "count": n, "share": n / found.rows[a]}
        for a, p, n in zip(*(x[:MOST_LINES].tolist() for x in wrong[:3]), strict=True)
    ]
    html = rendered(
        "confusion.html",
        lines=lines,
        kinds=len(wrong.count),
        mistakes=int(wrong.count.sum()),
        rows=len(run.predictions),
        classes=len(titles),
    )
    data = {
        "names": titles,
        "entries": np.stack(found[:3], axis=1).ravel().tolist(),
        "rows": found.rows.tolist(),
        "said": found.said.tolist(),
        "alike": alike(found).tolist(),
    }
    return Section(KEY, "What is taken for what", html, data)
